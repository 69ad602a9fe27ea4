"""Semantic interpretation of a detector: does the map of each object that it found lie on that object?

All objects of a batch share one forward pass: slot j of every picture is one target (a query and a class a sample), and a
list of targets takes one gradient each. What was not found has no map, and no row: `found` tells how many were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from regard.errors import Misuse
from regard.evaluation.examples import Example
from regard.evaluation.protocols.box_matching import Boxes, overlaps
from regard.evaluation.protocols.protocol import GivenMaps, Protocol, Row
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Reading
from regard.target import Target


@dataclass(frozen=True)
class Objects:
    """The objects of some pictures, `slots` of them each at most, and which query of the detector found them.

    labels: their classes, -1 in an empty slot. masks: their pixels. queries: -1 where no query found it.
    """

    labels: Int[Tensor, "picture slot"]
    masks: Bool[Tensor, "picture slot height width"]
    queries: Int[Tensor, "picture slot"]

    def targets(self) -> list[Target]:
        """One a slot. Where a picture has no found object there, its first query stands in; it gives no row."""
        return [
            Target.detection(query.clamp(min=0), label.clamp(min=0))
            for query, label in zip(self.queries.T, self.labels.T, strict=True)
        ]

    def rows(self, explanations: Sequence[Explanation], setting: Protocol, title: str = "") -> list[Row]:
        """A protocol for every found object's map (explanations: one a slot, as `targets` gives them)."""
        if len(explanations) != self.labels.shape[1]:
            raise Misuse(f"{self.labels.shape[1]} slots need as many explanations, not {len(explanations)}")
        rows: list[Row] = []
        for i, j in (self.queries >= 0).nonzero().tolist():
            maps = GivenMaps(model=nn.Identity(), explanation=explanations[j][i], title=title)
            rows += maps.rows(setting, self.example(i, j))
        return rows

    def example(self, picture: int, slot: int) -> Example:
        """One object."""
        label, mask = int(self.labels[picture, slot]), self.masks[picture, slot]
        return Example(f"{picture}-{slot}", Reading({}), label, mask)


def found_by(found: Sequence[Boxes], true: Sequence[Boxes], threshold: float = 0.5) -> list[list[int]]:
    """For each true box of each picture the prediction that found it, -1 for none.

    Of the predictions of its class that overlap it by `threshold` or more, the surest; none finds two boxes.
    """
    out = []
    for f, t in zip(found, true, strict=True):
        assert f.scores is not None
        iou = overlaps(t.boxes, f.boxes)
        can = (iou >= threshold) & (t.labels[:, None] == f.labels)
        sure = torch.where(can, f.scores, -torch.inf)
        out.append(_each_its_own(sure))
    return out


def _each_its_own(sure: Float[Tensor, "true found"]) -> list[int]:
    """The surest pairs first, each row and each column once."""
    sure, taken = sure.clone(), [-1] * len(sure)
    while sure.numel() and bool(sure.max() > -torch.inf):
        row, column = divmod(int(sure.argmax()), sure.shape[1])
        taken[row] = column
        sure[row], sure[:, column] = -torch.inf, -torch.inf
    return taken


__all__ = ["Objects", "found_by"]
