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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard._explain import explain, rng_kept
from regard.attribution.table import method as method_row
from regard.errors import InputError, Misuse, nearest
from regard.explanation import (
    Explanation,
    Reading,
    Receipt,
    Text,
    Word,
    as_json,
    grid_of,
    packed,
    raster_of,
    unpacked,
    words_of,
    write_atomically,
)
from regard.recording.entry import refuse
from regard.spans import Groups
from regard.target import Target

FORMAT = "regard-generation-1"
TARGETS = ("logit", "log_probability", "contrast")


@dataclass
class Generation(Sequence[Explanation]):
    """The tokens that a model wrote, and for each an `Explanation`: `generation[i]` is that of the i-th.

    Attributes:
        explanations: one a token written, in order; each with its receipt.
        ids: the tokens' ids. start: where the first of them stands in the text stream that was written to.
        stream: that stream: "input_ids", or "decoder_input_ids" beside an encoder.
        method, target: how, and what of each token was explained.
    """

    explanations: list[Explanation]
    ids: list[int]
    stream: str
    start: int
    method: str
    target: str

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
        ends = [b for a, b in text.offsets[: self.start] if b > a]
        written = [a for a, b in text.offsets[self.start :] if b > a]
        if not written:
            return len(text.text)
        between = text.text[max(ends, default=0) : min(written)]
        return min(written) - (len(between) - len(between.rstrip()))

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
        from regard import export

        return export.generation_as_dict(self)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str | Path:
        """`to_dict` as JSON: a string, or a file, written atomically, whose path is returned."""
        from regard import export

        return export.as_json_file(self.to_dict(), path)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame, one row a token for every token written: see `Explanation.to_dataframe`."""
        from regard import export

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
            return cls(made, *(header[name] for name in ("ids", "stream", "start", "method", "target")))
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as e:
            reason = (str(e).splitlines() or [""])[0]
            raise InputError(f"{path} is damaged: a field is missing or wrong ({type(e).__name__}: {reason})") from e

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw the map with matplotlib (needs `regard[viz]`); return the Figure, and write it as PNG if `path`."""
        from regard.report.matrix import plot

        return plot(self, path)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page (needs `regard[viz]`): point at a token to see what it rests on."""
        from regard.report.writing import write_page

        return write_page([self], path)

    def _repr_html_(self) -> str:
        from regard.report.writing import fragment

        return fragment(self)


def explain_generation(
    model: nn.Module,
    tokenizer: Any,
    reading: Reading,
    notes: Sequence[str] = (),
    max_new_tokens: int = 20,
    method: str = "gae",
    target: str = "logit",
    *,
    seed: int = 0,
    measure: str = "lazy",
    streams: Any = None,
    memory_budget: Any = None,
    **options: Any,
) -> Generation:
    """Let a model write on from a prompt that a reader read, and explain every token; see `Reader.explain_generation`."""
    from regard.models.writing import write

    if target not in TARGETS:
        raise nearest(str(target), TARGETS, "target of a generation")
    if not isinstance(method, str):
        raise Misuse("a generation is explained by one method at a time; give its name")
    own = {k: options.pop(k) for k in method_row(method).options if k in options}
    refuse(model, False)
    with rng_kept(model):
        written = write(model, tokenizer, reading, max_new_tokens, options, seed)
    text = written.reading.raw[written.stream][0]
    assert isinstance(text, Text)
    targets = [_target(target, text, written.start, i, written.ids) for i in range(len(written.ids))]
    inputs: dict[str, Any] = dict(written.reading.inputs)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = len(targets) + 1  # the prompt's own scores are not asked for
    shared: dict[str, Any] = {"seed": seed, "measure": measure, "streams": streams, "memory_budget": memory_budget}
    found = explain(model, inputs, targets, method, _reading=written.reading, **shared, **own)
    assert isinstance(found, list)
    for explanation in found:
        explanation.receipt.notes += [*notes, *_unlike(explanation.receipt, tokenizer)]
    return Generation(found, written.ids, written.stream, written.start, method, target)


def _target(kind: str, text: Text, start: int, i: int, ids: Sequence[int]) -> Target:
    """The i-th token written, read where the token before it stands; positions from the end hold in every model."""
    id, position = ids[i], i - len(ids) - 1
    made = {
        "logit": lambda: Target.next_token(id, position),
        "log_probability": lambda: Target.log_probability(id, position),
        "contrast": lambda: Target.contrast(id, None, position),
    }[kind]()
    a, b = text.offsets[start + i]
    name = text.text[a:b] if b > a else text.tokens[start + i]
    rival = ", less the best other one" if kind == "contrast" else ""
    what = "logit" if kind == "contrast" else kind.replace("_", "-")
    return dataclasses.replace(made, label=f"{what} of {name!r} (token {id}, number {i + 1} written){rival}")


def _unlike(receipt: Receipt, tokenizer: Any) -> list[str]:
    """A note where the token that was written is not the one that this pass finds the most likely."""
    if receipt.explained is None or receipt.predicted is None or torch.equal(receipt.explained, receipt.predicted):
        return []
    best = int(receipt.predicted[0])
    return [
        f"the most likely token here is {tokenizer.convert_ids_to_tokens(best)!r} ({best}), not the one that was written: "
        "that was drawn or forced, or the two are as good as equal"
    ]
