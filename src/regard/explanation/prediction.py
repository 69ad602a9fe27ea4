"""What a model predicts: the classes that it finds likeliest, with their probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

from jaxtyping import Float, Int
from torch import Tensor

from regard.explanation.loading import Damaged, finite, of_file
from regard.explanation.percents import percent

TOP = 5
"""How many classes are kept."""


class Likely(NamedTuple):
    """A class: its label, its probability (None where the scores have none), its score (a logit), and its number."""

    label: str
    probability: float | None
    score: float
    number: int

    @property
    def percent(self) -> str:
        """The probability in words: "87 %"; "" where there is none."""
        return "" if self.probability is None else percent(self.probability)


@dataclass(frozen=True)
class Prediction(Sequence[tuple[Likely, ...]]):
    """The likeliest classes of each sample, at most five, the likeliest first: `prediction[0]` is those of the first sample.

    Attributes:
        classes: their numbers. scores: their logits. probabilities: by `activation`, None where the scores are of no classes.
        activation: "softmax" over all classes, or the "sigmoid" of each.
        total: of how many classes they are the likeliest. several: whether more than one may be true at once.
        labels: what they are called.
    """

    classes: Int[Tensor, "batch top"]
    scores: Float[Tensor, "batch top"]
    probabilities: Float[Tensor, "batch top"] | None
    activation: str
    total: int
    several: bool = False
    labels: tuple[tuple[str, ...], ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.classes)

    @overload
    def __getitem__(self, i: int) -> tuple[Likely, ...]: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[tuple[Likely, ...]]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return [self[n] for n in range(len(self))[i]]
        classes, scores = self.classes[i].tolist(), self.scores[i].tolist()
        shares = [None] * len(classes) if self.probabilities is None else self.probabilities[i].tolist()
        labels = self.labels[i] if self.labels else [f"class {c}" for c in classes]
        return tuple(Likely(*found) for found in zip(labels, shares, scores, classes, strict=True))

    def __iter__(self) -> Iterator[tuple[Likely, ...]]:
        return (self[i] for i in range(len(self)))

    def of_sample(self, i: int) -> Prediction:
        """That of one sample alone."""
        cut = {name: getattr(self, name)[i : i + 1] for name in ("classes", "scores", "labels")}
        shares = None if self.probabilities is None else self.probabilities[i : i + 1]
        return dataclasses.replace(self, probabilities=shares, **cut)

    def __str__(self) -> str:
        return "\n".join(", ".join(f"{c.label} {c.percent}".strip() for c in sample) for sample in self)

    def packed(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """For a file: plain values, and the tensors put into `tensors`; labels are the explanation's."""
        for name in ("classes", "scores", "probabilities"):
            if (value := getattr(self, name)) is not None:
                tensors[f"prediction/{name}"] = value.contiguous()
        return {"activation": self.activation, "total": self.total, "several": self.several}

    @classmethod
    def unpacked(cls, header: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> Prediction | None:
        """The inverse of `packed`; None of None."""
        if header is None:
            return None
        found = {n: tensors.get(f"prediction/{n}") for n in ("classes", "scores", "probabilities")}
        made = of_file(cls, header, **found)
        for scores in (made.scores, made.probabilities):
            if scores is not None and finite("the prediction", scores).shape != made.classes.shape:
                raise Damaged("the classes that are predicted, and their scores, are not as many")
        return made


__all__ = ["TOP", "Likely", "Prediction"]
