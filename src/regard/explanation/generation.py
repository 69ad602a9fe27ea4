"""What each token that a model wrote rests on: one map a token, over the prompt and what was written before it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import nearest
from regard.explanation import display
from regard.explanation.causal_test import LateTest, shown_tested
from regard.explanation.explanation import Explanation, check_together
from regard.explanation.export import as_json_file, defined, frame
from regard.explanation.files import as_json, file_of, packed, raws_of, unpacked
from regard.explanation.loading import Damaged, check, finite, loading, newer, of_file
from regard.explanation.places import grid_of, raster_of
from regard.explanation.raw_inputs import Text, Word, words_of
from regard.explanation.receipt import Receipt
from regard.explanation.spans import Groups
from regard.explanation.writing import write_atomically

FORMAT = "regard-generation-1"
AGAINST = "against"
"""The stream of the tokens of an answer that another one is told from."""


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
        return text.text[begins(text, self.start) :]

    @property
    def prompt(self) -> str:
        """What it wrote on from: the prompt as the model read it, a chat's template included."""
        first = next(iter(self.texts.values()))
        return first.text if len(self.texts) > 1 else first.text[: begins(first, self.start)]

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
        """All but the pixels of pictures as plain Python values, receipts measured; what is undefined is None.

        Texts once, scores as one row a token written for each stream, and those of an answer as a whole.
        """
        first = self.explanations[0].to_dict()
        inputs = {
            s: [{k: v for k, v in r.items() if k != "words"} for r in raws] for s, raws in first["inputs"].items()
        }
        made = {
            "method": self.method,
            "target": self.target,
            "text": self.text,
            "prompt": self.prompt,
            "ids": self.ids,
            "stream": self.stream,
            "start": self.start,
            "tokens": self.tokens,
            "scores": {s: self.of(s) for s in first["scores"]},
            "inputs": inputs,
            **{name: first[name] for name in ("grid", "labels", "signed", "options")},
            "targets": [e.target for e in self],
            "receipts": [e.receipt.as_dict() for e in self],
        }
        plain: dict[str, Any] = defined(as_json(made))
        return plain | {"whole": None if self.whole is None else _whole(self.whole, inputs)}

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str | Path:
        """`to_dict` as JSON: a string, or a file, written atomically, whose path is returned."""
        return as_json_file(self.to_dict(), path)

    def to_rows(self) -> list[dict[str, Any]]:
        """One row a token for every token written, with the number and the text of that: see `Explanation.to_rows`."""
        tokens = self.texts[self.stream].tokens[self.start :]
        return [
            {"written": i, "written_token": token, **row}
            for i, (token, exp) in enumerate(zip(tokens, self, strict=False))
            for row in exp.to_rows()
        ]

    def to_dataframe(self, backend: str | None = None) -> Any:
        """`to_rows` as a pandas or polars DataFrame; see `Explanation.to_dataframe`."""
        return frame(self.to_rows(), backend)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one safetensors file (scores, pictures; everything else as JSON in its header), atomically."""
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
            "causal": first.late_test.packed(tensors),
            "causal_targets": [e.late_test.made for e in self],
            **{name: getattr(self, name) for name in ("ids", "stream", "start", "method", "target")},
        }
        if self.whole is not None:
            header["whole"] = _packed(self.whole, tensors)
        return write_atomically(path, file_of(FORMAT, header, tensors))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Generation:
        """Read what `save` wrote. Raises InputError for a file that is missing or is not one of ours."""
        header, tensors, unread = unpacked(path, FORMAT, "generation")
        with loading(path) as unknown:
            made = _from_file(header, tensors)
            made[0].receipt.notes += newer([*unread, *unknown])
        return made

    def plot(self, path: str | os.PathLike[str] | None = None, *, cmap: Any = None, scale: str | float = "own") -> Any:
        """Draw the map with matplotlib (needs `regard[viz]`); return the Figure, and write it if `path`.

        path, cmap: as in `Explanation.plot`. scale: "own": each row up to its own largest score, as tokens differ in how much
        they rest on anything; "shared": all rows on one scale, which is drawn below; or the score that gets the full colour.
        """
        return display.plot_generation(self, path, cmap=cmap, scale=scale)

    def to_html(self, path: str | os.PathLike[str], test: bool | None = None) -> Path:
        """Write a self-contained page (needs `regard[viz]`): point at a token to see what it rests on. test: as in
        `Explanation.to_html`."""
        shown_tested(self, test)
        return display.write_generation(self, path)

    def _repr_html_(self) -> str:
        return display.generation_fragment(self)


def _from_file(header: dict[str, Any], tensors: dict[str, Tensor]) -> Generation:
    check("grid", header["grid"], dict[str, Any])
    check("rasters", header.get("rasters"), dict[str, dict[str, Any]] | None)
    check("causal_targets", header.get("causal_targets"), list[list[Any] | None] | None)
    check("causal", header.get("causal"), dict[str, Any] | None)
    check("streams", header["streams"], list[str])
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
    late = LateTest.unpacked(header.get("causal"), tensors)
    tested = [late.of_target(t) for t in header.get("causal_targets", [None] * len(header["targets"]))]
    for s, t in scores.items():
        if len(finite(f"the scores of {s!r}", t)) != len(header["targets"]) or t.ndim != 2:
            raise Damaged(f"the scores of {s!r} are {tuple(t.shape)}, of {len(header['targets'])} targets")
    made = [
        of_file(
            Explanation,
            {},
            target=target,
            scores={s: t[i : i + 1].clone() for s, t in scores.items()},
            receipt=Receipt.from_dict(receipt),
            late_test=test,
            **shared,
        )
        for i, (target, receipt, test) in enumerate(zip(header["targets"], header["receipts"], tested, strict=True))
    ]
    own = {name: header[name] for name in ("ids", "stream", "start", "method", "target")}
    whole = header.get("whole")
    found = of_file(
        Generation, own, explanations=made, whole=None if whole is None else _unpacked(whole, tensors, shared)
    )
    for exp in [*found, *([] if found.whole is None else [found.whole])]:
        check_together(exp)
    texts = found.explanations[0].inputs[found.stream] if found.explanations else []
    if not (texts and isinstance(texts[0], Text) and len(found.ids) == len(found) and found.start >= 0):
        raise Damaged("the text that was written is not there, or of other tokens")
    return found


def begins(text: Text, start: int) -> int:
    """The character where what was written begins, after the tokens that were there before."""
    ends = [b for a, b in text.offsets[:start] if b > a]
    written = [a for a, b in text.offsets[start:] if b > a]
    if not written:
        return len(text.text)
    between = text.text[max(ends, default=0) : min(written)]
    return min(written) - (len(between) - len(between.rstrip()))


def _whole(whole: Explanation, inputs: dict[str, Any]) -> dict[str, Any]:
    """What all of an answer rests on; of its inputs those that none of its tokens has: the answer it is told from."""
    made = whole.to_dict()
    own = {s: raws for s, raws in made["inputs"].items() if s not in inputs}
    return {name: made[name] for name in ("target", "scores", "signed", "receipt")} | {"inputs": own}


def _packed(whole: Explanation, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """An answer's own explanation as JSON values; its scores go among the tensors, its pictures are there already."""
    tensors |= {f"whole/{s}": x.detach().cpu().float().contiguous() for s, x in whole.scores.items()}
    inputs = packed(whole.inputs, tensors)
    own = {"target": whole.target, "signed": whole.signed, "streams": list(whole.scores)}
    own["lacking"] = whole.late_test.refused or whole.late_test.lacking
    return own | {"inputs": inputs, "receipt": whole.receipt.as_dict()}


def _unpacked(header: dict[str, Any], tensors: dict[str, Tensor], shared: dict[str, Any]) -> Explanation:
    return of_file(
        Explanation,
        {},
        **shared
        | {
            "target": header["target"],
            "signed": header["signed"],
            "scores": {s: finite(f"the scores of {s!r}", tensors[f"whole/{s}"]) for s in header["streams"]},
            "receipt": Receipt.from_dict(header["receipt"]),
            "late_test": LateTest(lacking=str(header.get("lacking", LateTest.lacking))),
            "inputs": {s: raws_of(s, entries, tensors) for s, entries in header["inputs"].items()},
        },
    )
