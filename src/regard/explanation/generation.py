"""What each token that a model wrote rests on: one map a token, over the prompt and what was written before it.

The model writes with its own `generate`; then one pass over the prompt and all that was written ("teacher-forced") has, at
every position, the scores that the next token was chosen by. Each token written is a target of that one pass
(`Target.next_token`), so that a model that looks only back gives it zero at its own and all later tokens.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.api.explain import explain, rng_kept
from regard.attribution.table import method as method_row
from regard.errors import InputError, Misuse, nearest
from regard.explanation.explanation import Explanation
from regard.explanation.files import as_json, packed, raws_of, unpacked, write_atomically
from regard.explanation.places import grid_of, raster_of
from regard.explanation.raw_inputs import Reading, Text, Word, words_of
from regard.explanation.receipt import Measured, Receipt
from regard.explanation.spans import Groups
from regard.explanation.token_rows import Between
from regard.models.alignment import names_of
from regard.recording.refusals import refuse
from regard.target import Target, Value

if TYPE_CHECKING:
    from regard.models.generate import Written

FORMAT = "regard-generation-1"
AGAINST = "against"
"""The stream of the tokens of an answer that another one is told from."""
TARGETS = ("logit", "log_probability", "contrast")


@dataclass
class Generation(Sequence[Explanation]):
    """The tokens that a model wrote, and for each an `Explanation`: `generation[i]` is that of the i-th.

    Attributes:
        explanations: one a token written, in order; each with its receipt.
        ids: the tokens' ids. start: where the first of them stands in the text stream that was written to.
        stream: that stream: "input_ids", or "decoder_input_ids" beside an encoder.
        method, target: how, and what of each token was explained.
        whole: of an answer that was given (`Reader.explain_writing`), one Explanation of all of it: what its log-probability
            rests on, or what tells it from another answer.
    """

    explanations: list[Explanation]
    ids: list[int]
    stream: str
    start: int
    method: str
    target: str
    whole: Explanation | None = None

    def __len__(self) -> int:
        return len(self.explanations)

    def __getitem__(self, i: Any) -> Any:
        return self.explanations[i]

    def __iter__(self) -> Iterator[Explanation]:
        return iter(self.explanations)

    def __repr__(self) -> str:
        return f"Generation({len(self)} tokens, method={self.method!r}, target={self.target!r}: {self.text!r})"

    @property
    def texts(self) -> dict[str, Text]:
        """The text streams: those that were only read first, the one written to last."""
        inputs = self.explanations[0].inputs
        found = {s: raw[0] for s, raw in inputs.items() if raw and isinstance(raw[0], Text)}
        return {s: t for s, t in found.items() if s != self.stream} | {self.stream: found[self.stream]}

    @property
    def tokens(self) -> list[str]:
        """All tokens, as the tokenizer calls them: the prompt's, then the `len(self)` that were written."""
        return [token for text in self.texts.values() for token in text.tokens]

    @property
    def text(self) -> str:
        """What the model wrote."""
        text = self.texts[self.stream]
        return text.text[self._from(text) :]

    @property
    def prompt(self) -> str:
        """What it wrote on from: the prompt as the model read it, a chat's template included."""
        first = next(iter(self.texts.values()))
        return first.text if len(self.texts) > 1 else first.text[: self._from(first)]

    def _from(self, text: Text) -> int:
        """Where the written characters begin."""
        return begins(text, self.start)

    @property
    def scores(self) -> Float[Tensor, "new tokens"]:
        """One row a token written, one column a token of `tokens`: float32, raw, zero where a token does not look."""
        return torch.cat([self.of(s) for s in self.texts], 1)

    def of(self, stream: str) -> Float[Tensor, "new tokens"]:
        """The scores on one stream, such as "pixel_values": one row a token written."""
        if stream not in self.explanations[0].scores:
            raise nearest(stream, self.explanations[0].scores, "stream")
        return torch.cat([e.scores[stream] for e in self.explanations])

    @property
    def words(self) -> list[list[Word]]:
        """For each token written, the whole words of all texts with the sum of their tokens' scores."""
        return [[w for s, t in self.texts.items() for w in words_of(t, e.scores[s][0].tolist())] for e in self]

    def grouped(self, by: Any, stream: str | None = None) -> list[Groups]:
        """For each token written, sums of scores over parts of a text: see `Explanation.grouped`.

        stream: which text; default: the first that was read (with one text alone, the prompt and what was written after it).
        """
        name = stream or next(iter(self.texts))
        return [e.grouped(by, name)[0] for e in self]

    def to_dict(self) -> dict[str, Any]:
        """All but the pixels of pictures as plain Python values, receipts measured; what is undefined is None."""
        from regard.explanation import export

        return export.generation_as_dict(self)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str | Path:
        """`to_dict` as JSON: a string, or a file, written atomically, whose path is returned."""
        from regard.explanation import export

        return export.as_json_file(self.to_dict(), path)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame, one row a token for every token written: see `Explanation.to_dataframe`."""
        from regard.explanation import export

        return export.frame(export.generation_rows(self))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one safetensors file (scores, pictures; everything else as JSON in its header), atomically."""
        from safetensors.torch import save

        first = self.explanations[0]
        tensors = {f"scores/{s}": self.of(s).detach().cpu().float().contiguous() for s in first.scores}
        header = {
            "streams": list(first.scores),
            "grid": first.grid,
            "rasters": {k: dataclasses.asdict(r) for k, r in first.rasters.items()},
            "inputs": packed(first.inputs, tensors),
            "labels": first.labels,
            "signed": first.signed,
            "options": as_json(first.options),
            "targets": [e.target for e in self],
            "receipts": [e.receipt.as_dict() for e in self],
            **{name: getattr(self, name) for name in ("ids", "stream", "start", "method", "target")},
        }
        if self.whole is not None:
            header["whole"] = _packed(self.whole, tensors)
        return write_atomically(path, save(tensors, {"format": FORMAT, "json": json.dumps(header)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Generation:
        """Read what `save` wrote. Raises InputError for a file that is missing or is not one of ours."""
        header, tensors = unpacked(path, FORMAT, "generation")
        try:
            shared = {
                "method": header["method"],
                "grid": {k: grid_of(v) for k, v in header["grid"].items()},
                "rasters": {k: raster_of(r) for k, r in header.get("rasters", {}).items()},
                "inputs": header["inputs"],
                "labels": header["labels"],
                "signed": header["signed"],
                "options": header["options"],
            }
            scores = {s: tensors[f"scores/{s}"] for s in header["streams"]}
            made = [
                Explanation(
                    target=target,
                    scores={s: t[i : i + 1].clone() for s, t in scores.items()},
                    receipt=Receipt.from_dict(receipt),
                    **shared,
                )
                for i, (target, receipt) in enumerate(zip(header["targets"], header["receipts"], strict=True))
            ]
            own = {name: header[name] for name in ("ids", "stream", "start", "method", "target")}
            whole = header.get("whole")
            return cls(made, **own, whole=None if whole is None else _unpacked(whole, tensors, shared))
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as e:
            reason = (str(e).splitlines() or [""])[0]
            raise InputError(f"{path} is damaged: a field is missing or wrong ({type(e).__name__}: {reason})") from e

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw the map with matplotlib (needs `regard[viz]`); return the Figure, and write it as PNG if `path`."""
        from regard.report.generation.png import plot

        return plot(self, path)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page (needs `regard[viz]`): point at a token to see what it rests on."""
        from regard.report.generation.html import write_page

        return write_page([self], path)

    def _repr_html_(self) -> str:
        from regard.report.generation.html import fragment

        return fragment(self)


@dataclass(frozen=True)
class How:
    """How to explain what was written: the method with its options, what of each token, and what `regard.explain` takes.

    given: it was not the model that wrote it.
    """

    method: str
    target: str
    options: dict[str, Any]
    given: bool = False

    @classmethod
    def taken(cls, method: str, target: str, options: dict[str, Any], given: bool = False) -> How:
        """Take out of `options` what is for the explanation; the rest is for `generate`."""
        if target not in TARGETS:
            raise nearest(str(target), TARGETS, "target of a generation")
        if not isinstance(method, str):
            raise Misuse("a generation is explained by one method at a time; give its name")
        names = (*method_row(method).options, "baseline", "site", "measure", "streams", "memory_budget")
        return cls(method, target, {k: options.pop(k) for k in names if k in options}, given)


def explain_generation(
    model: nn.Module,
    tokenizer: Any,
    reading: Reading,
    notes: Sequence[str] = (),
    max_new_tokens: int | None = None,
    method: str = "gae",
    target: str = "logit",
    *,
    seed: int = 0,
    **options: Any,
) -> Generation:
    """Let a model write on from a prompt that a reader read, and explain every token; see `Reader.explain_generation`."""
    from regard.models.generate import write

    how = How.taken(method, target, options)
    refuse(model, False)
    with rng_kept(model):
        written = write(model, tokenizer, reading, max_new_tokens, options, seed)
    targets = _targets(target, written)
    found = _explained(model, tokenizer, written, targets, how, notes, seed)
    return Generation(found, written.ids, written.stream, written.start, method, target)


def explain_writing(
    model: nn.Module,
    tokenizer: Any,
    reading: Reading,
    notes: Sequence[str],
    answer: Any,
    against: Any = None,
    method: str = "gae",
    target: str = "logit",
    *,
    seed: int = 0,
    **options: Any,
) -> Generation:
    """Explain an answer that is there already, token by token and as a whole; see `Reader.explain_writing`."""
    from regard.models.generate import already

    how = How.taken(method, target, options, given=True)
    refuse(model, False)
    with rng_kept(model):
        written = already(model, tokenizer, reading, answer, options, seed)
        other = None if against is None else already(model, tokenizer, reading, against, options, seed)
    if other is None:
        targets = _targets(target, written)
        *found, whole = _explained(model, tokenizer, written, [*targets, _sum(written)], how, notes, seed)
        return Generation(found, written.ids, written.stream, written.start, method, target, whole)
    if other.ids == written.ids:
        raise Misuse("the answer and the one that it is told from are the same; give another one")
    kind = "contrast" if len(other.ids) == len(written.ids) else "log_probability"
    targets = _targets(kind, written) if kind != "contrast" else _rivals(written, other)
    *found, whole = _explained(model, tokenizer, written, [*targets, _sum(written)], how, notes, seed)
    if kind == "contrast":
        found = _filled(found, written, other)
    if kind == "contrast" and other.ids[:-1] == written.ids[:-1]:  # one pass reads both
        whole = _renamed(found[-1], f"{_sum(written).label} less {_sum(other).label}")
    else:
        (second,) = _explained(model, tokenizer, other, [_sum(other)], how, notes, seed)
        whole = less(whole, second, written.stream, written.start)
    return Generation(found, written.ids, written.stream, written.start, method, kind, whole)


def _explained(
    model: nn.Module,
    tokenizer: Any,
    written: Written,
    targets: list[Target],
    how: How,
    notes: Sequence[str],
    seed: int,
) -> list[Explanation]:
    """Several targets of one pass over a prompt and what was written after it."""
    inputs: dict[str, Any] = dict(written.reading.inputs)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = len(written.ids) + 1  # the prompt's own scores are not asked for
    found = explain(model, inputs, targets, how.method, _reading=written.reading, seed=seed, **how.options)
    assert isinstance(found, list)
    for explanation in found:
        explanation.receipt.notes += [*notes, *_unlike(explanation.receipt, tokenizer, how.given)]
    return found


def _target(kind: str, text: Text, start: int, i: int, ids: Sequence[int]) -> Target:
    """The i-th token written, read where the token before it stands; positions from the end hold in every model."""
    id, position = ids[i], i - len(ids) - 1
    made = {
        "logit": lambda: Target.next_token(id, position),
        "log_probability": lambda: Target.log_probability(id, position),
        "contrast": lambda: Target.contrast(id, None, position),
    }[kind]()
    rival = ", less the best other one" if kind == "contrast" else ""
    what = "logit" if kind == "contrast" else kind.replace("_", "-")
    name = _name(text, start + i)
    label = f"{what} of {name} (token {id}, number {i + 1} written){rival}"
    return dataclasses.replace(made, label=label, headed=None)  # scores of tokens are those of an ordinary head


def _name(text: Text, at: int) -> str:
    """A token as it stands in the text, in quotation marks."""
    a, b = text.offsets[at]
    return repr(text.text[a:b] if b > a else text.tokens[at])


def _targets(kind: str, written: Written) -> list[Target]:
    return [_target(kind, written.text, written.start, i, written.ids) for i in range(len(written.ids))]


def _rivals(written: Written, other: Written) -> list[Target]:
    """Each token of an answer against that in its place in another one, where they differ, after the answer's own tokens.

    The difference of their log-probabilities is that of their logits.
    """
    count = len(written.ids)
    return [
        dataclasses.replace(Target.contrast(a, b, i - count - 1), label=_against(written, other, i), headed=None)
        for i, (a, b) in enumerate(zip(written.ids, other.ids, strict=True))
        if a != b
    ]


def _against(written: Written, other: Written, i: int) -> str:
    mine, theirs = (_name(w.text, w.start + i) for w in (written, other))
    return f"log-probability of {mine} less that of {theirs} (number {i + 1})"


def _filled(found: Sequence[Explanation], written: Written, other: Written) -> list[Explanation]:
    """One explanation a token: where both answers have the same one nothing tells them apart, and all is zero."""
    left = iter(found)
    return [
        next(left) if a != b else _nothing(found[0], _against(written, other, i))
        for i, (a, b) in enumerate(zip(written.ids, other.ids, strict=True))
    ]


def _nothing(like: Explanation, label: str) -> Explanation:
    """An explanation of 0, which rests on nothing."""
    none, receipt = torch.zeros_like(like.receipt.target_value), like.receipt
    receipt = dataclasses.replace(
        receipt,
        target=label,
        target_value=none,
        attribution_sum=torch.zeros_like(receipt.attribution_sum),
        explained=None,
        predicted=None,
        notes=["both answers have this token here, so that nothing tells them apart"],
        _measured=None,
        _measure=lambda: _unmoved(like.receipt),
    )
    return dataclasses.replace(
        like,
        target=label,
        scores={s: torch.zeros_like(x) for s, x in like.scores.items()},
        receipt=receipt,
        _looks=Between(refused="nothing is explained here, so that nothing looks at anything"),
    )


def _unmoved(receipt: Receipt) -> Measured:
    """What is measured of a target that is 0 whatever is read, in the run of another one."""
    found = receipt.measure()
    none = None if found.attribution_target is None else torch.zeros_like(found.attribution_target)
    return Measured(found.faithful, none, none)


def _renamed(explanation: Explanation, target: str) -> Explanation:
    """The same under another name of its target."""
    receipt = dataclasses.replace(explanation.receipt, target=target)
    return dataclasses.replace(explanation, target=target, receipt=receipt)


def _sum(written: Written) -> Target:
    """The log-probability of all that was written: the sum over its tokens."""
    ids = written.ids
    parts = [Target.log_probability(id, i - len(ids) - 1) for i, id in enumerate(ids)]

    def read(out: Any, inputs: Mapping[str, Any]) -> Value:
        return Value(torch.stack([part.value(out, inputs).y for part in parts]).sum(0))

    count = f"{len(ids)} token{'s' * (len(ids) != 1)}"
    answer = answer_of(written.text, written.start)
    said = answer.text.strip() or " ".join(answer.tokens)
    return Target(f"log-probability of {said!r} ({count})", read)


# -- an answer as a whole ---------------------------------------------------------------------------------------------


def begins(text: Text, start: int) -> int:
    """The character where what was written begins, after the tokens that were there before."""
    ends = [b for a, b in text.offsets[:start] if b > a]
    written = [a for a, b in text.offsets[start:] if b > a]
    if not written:
        return len(text.text)
    between = text.text[max(ends, default=0) : min(written)]
    return min(written) - (len(between) - len(between.rstrip()))


def answer_of(text: Text, start: int) -> Text:
    """What was written, as a text of its own."""
    cut = begins(text, start)
    words = [(a - cut, b - cut) for a, b in text.words if a >= cut]
    offsets = [(a - cut, b - cut) if b > a else (0, 0) for a, b in text.offsets[start:]]
    return Text(text.text[cut:], text.tokens[start:], offsets, words, text.special[start:], AGAINST)


def less(one: Explanation, other: Explanation, stream: str, start: int) -> Explanation:
    """What tells one answer from another: the map of the one less that of the other.

    y is the difference of their log-probabilities, each read after its own tokens. The tokens before `start` are those of
    both; the other's own are a stream by themselves, "against".
    """
    scores = {s: x - other.scores[s] for s, x in one.scores.items() if s != stream}
    mine, theirs = one.scores[stream], other.scores[stream]
    scores[stream] = torch.cat([mine[:, :start] - theirs[:, :start], mine[:, start:]], 1)
    text = other.inputs[stream][0]
    assert isinstance(text, Text)
    label = f"{one.target} less {other.target}"
    a, b = one.receipt, other.receipt
    receipt = dataclasses.replace(
        a,
        target=label,
        target_value=a.target_value - b.target_value,
        attribution_sum=a.attribution_sum - b.attribution_sum,
        passes=a.passes + b.passes,
        seconds=a.seconds + b.seconds,
        notes=[*dict.fromkeys([*a.notes, *b.notes]), "the map is that of the one answer less that of the other"],
        _measured=None,
        _measure=lambda: _both(a, b),
    )
    return dataclasses.replace(
        one,
        target=label,
        scores={s: scores[s] for s in one.scores} | {AGAINST: -theirs[:, start:]},
        receipt=receipt,
        inputs={**one.inputs, AGAINST: [answer_of(text, start)]},
        signed=True,
        _looks=Between(refused="two answers were read in passes of their own; ask one of them who looks at whom"),
    )


def _both(a: Receipt, b: Receipt) -> Measured:
    """What is measured of a difference: that of the one less that of the other."""
    before = a.passes + b.passes
    first, second = a.measure(), b.measure()

    def lacking(x: Tensor | None, y: Tensor | None) -> Tensor | None:
        return None if x is None or y is None else x - y

    return Measured(
        None if first.faithful is None or second.faithful is None else max(first.faithful, second.faithful),
        lacking(first.baseline_value, second.baseline_value),
        lacking(first.attribution_target, second.attribution_target),
        a.passes + b.passes - before,
    )


def _packed(whole: Explanation, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """An answer's own explanation as JSON values; its scores go among the tensors, its pictures are there already."""
    tensors |= {f"whole/{s}": x.detach().cpu().float().contiguous() for s, x in whole.scores.items()}
    inputs = packed(whole.inputs, tensors)
    own = {"target": whole.target, "signed": whole.signed, "streams": list(whole.scores)}
    return own | {"inputs": inputs, "receipt": whole.receipt.as_dict()}


def _unpacked(header: dict[str, Any], tensors: dict[str, Tensor], shared: dict[str, Any]) -> Explanation:
    return Explanation(
        **shared
        | {
            "target": header["target"],
            "signed": header["signed"],
            "scores": {s: tensors[f"whole/{s}"] for s in header["streams"]},
            "receipt": Receipt.from_dict(header["receipt"]),
            "inputs": {s: raws_of(s, entries, tensors) for s, entries in header["inputs"].items()},
        }
    )


def _unlike(receipt: Receipt, tokenizer: Any, given: bool) -> list[str]:
    """A note where the token that was written is not the one that this pass finds the most likely."""
    if receipt.explained is None or receipt.predicted is None or torch.equal(receipt.explained, receipt.predicted):
        return []
    best = int(receipt.predicted[0])
    (name,) = names_of(tokenizer, [best])
    said = f"the most likely token here is {name!r} ({best}), not the one "
    if given:
        return [f"{said}that the answer has"]
    return [f"{said}that was written: that was drawn or forced, or the two are as good as equal"]
