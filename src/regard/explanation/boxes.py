"""Boxes in a picture: what a detector found, and how scores of regions lie on the picture's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from regard.explanation.percents import percent


class Box(NamedTuple):
    """A box in a picture, in its pixels; it may reach beyond the picture."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Pixels, 0 for a box without extent."""
        return float(max(self.right - self.left, 0.0) * max(self.bottom - self.top, 0.0))


@dataclass(frozen=True)
class Found:
    """An object that a detector found: the query that found it, its class and name, its probability, its box."""

    query: int
    index: int
    label: str
    probability: float
    box: Box

    @property
    def percent(self) -> str:
        """The probability in per cent."""
        return percent(self.probability)


def corners(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """(centre x, centre y, width, height), as detectors say it, to (left, top, right, bottom)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def probabilities(logits: Float[Tensor, "*n scores"], classes: int) -> Float[Tensor, "*n class"]:
    """Probability of every class: by softmax where the last score stands for "no object", else each by itself."""
    return logits.softmax(-1)[..., :-1] if logits.shape[-1] == classes + 1 else logits.sigmoid()


def painted(scores: Float[Tensor, " regions"], boxes: Sequence[Box], height: int, width: int) -> Float[Tensor, "h w"]:
    """Scores of regions on the pixels of their picture: a pixel has the score of the smallest box that holds its centre.

    Where no box is: 0.
    """
    out = torch.zeros(height, width)
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    for i in sorted(range(len(boxes)), key=lambda i: -boxes[i].area):
        left, top, right, bottom = boxes[i]
        out[(x >= left) & (x < right) & (y >= top) & (y < bottom)] = scores[i]
    return out
