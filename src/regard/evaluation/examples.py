"""What maps are judged on: an `Example`, made of what a reader read, and what is known of the answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from regard.errors import Misuse
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Raw, Reading, Text


@dataclass(frozen=True)
class KnownSource:
    """Tokens of a stream that an answer is known to rest on (`source`), and those that compete for the top (`competing`)."""

    stream: str
    source: Bool[Tensor, " token"]
    competing: Bool[Tensor, " token"]


@dataclass(frozen=True)
class Example:
    """One thing to judge maps on.

    Attributes:
        reading: the model's keyword tensors with a batch axis of one, and the raw picture or text where it is known.
        label: the true class. mask: the answer's pixels, at the size of the original picture. ignore: pixels that do not
            count (crowds, borders). other: the class of a second object that is present too. group: what it shares with
            other examples (a picture that is asked about twice): these are drawn together in every interval; "": nothing.
        error: why the example could not be read; it then becomes a row that says so. known: the tokens that the answer is
            known to rest on.
    """

    name: str
    reading: Reading
    label: int | None = None
    mask: Bool[Tensor, "height width"] | None = None
    ignore: Bool[Tensor, "height width"] | None = None
    other: int | None = None
    error: str = ""
    group: str = ""
    known: KnownSource | None = None

    def raw(self, stream: str) -> Raw | None:
        """The raw picture or text of a stream, where a reader made it."""
        given = self.reading.raw.get(stream)
        return given[0] if given else None


def examples_of(
    reading: Reading,
    *,
    labels: Sequence[int] | Tensor | None = None,
    masks: Bool[Tensor, "batch height width"] | None = None,
    others: Sequence[int] | Tensor | None = None,
    names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
) -> list[Example]:
    """One example a sample of a reading. Padding that a text got from longer ones in its batch is taken off again."""
    batch = max(len(v) for v in reading.inputs.values())
    return [
        Example(
            names[i] if names is not None else str(i),
            _alone(reading, i),
            None if labels is None else int(labels[i]),
            None if masks is None else masks[i],
            other=None if others is None or int(others[i]) < 0 else int(others[i]),
            group="" if groups is None else groups[i],
        )
        for i in range(batch)
    ]


def _alone(reading: Reading, i: int) -> Reading:
    """One sample of a reading, without the padding that its batch gave it."""
    mask = reading.inputs.get("attention_mask")
    real = None if mask is None else mask[i].bool().cpu()
    cut = real is not None and real.ndim == 1 and not bool(real.all())

    def one(t: Tensor) -> Tensor:
        t = t[i : i + 1]
        return t[:, real.to(t.device)] if cut and real is not None and t.ndim == 2 and t.shape[1] == len(real) else t

    raw = {name: [_cut(of[i], real) if cut and real is not None else of[i]] for name, of in reading.raw.items()}
    return dataclasses.replace(
        reading,
        inputs={k: one(v) for k, v in reading.inputs.items()},
        raw=dict(raw),
        special={k: one(v) for k, v in reading.special.items()},
    )


def _cut(raw: Raw, real: Tensor) -> Raw:
    """A text without its padded tokens."""
    if not isinstance(raw, Text) or len(raw.tokens) != len(real):
        return raw
    keep = real.tolist()

    def kept(items: list[Any]) -> list[Any]:
        return [v for v, k in zip(items, keep, strict=True) if k]

    return dataclasses.replace(raw, tokens=kept(raw.tokens), offsets=kept(raw.offsets), special=kept(raw.special))


def sample_of(explanation: Explanation, i: int) -> Explanation:
    """One sample of an explanation, its receipt with it."""
    return explanation[i]


def stream_of(explanation: Explanation, stream: str | None = None, inputs: Iterable[str] = ()) -> str:
    """The stream that is judged: the one asked for, else the picture, else the first of the inputs (by their names, where they
    are given: tokens of the model's own, such as a class token, may come before)."""
    if stream is not None:
        if stream not in explanation.scores:
            raise Misuse(f"there is no stream {stream!r} in the explanation; it has {', '.join(explanation.scores)}")
        return stream
    own = (name for name in explanation.scores if name in set(inputs))
    return next(iter(explanation.grid), next(own, next(iter(explanation.scores))))


def checked(scores: Tensor, what: str) -> Tensor:
    """The scores as float32 on the CPU. Raises Misuse where they hold NaN or infinity: no metric may hide that."""
    if not bool(torch.isfinite(scores).all()):
        raise Misuse(f"the {what} holds NaN or infinity; no metric can be taken of it")
    return scores.detach().float().cpu()


__all__ = ["Example", "KnownSource", "checked", "examples_of", "sample_of", "stream_of"]
