"""Average precision of found objects, as in Pascal VOC and COCO (Everingham et al. 2010; Lin et al. 2014).

Boxes are (left, top, right, bottom) in any one unit. Predictions of a class, the surest first over all pictures, each
take the box of that class in their picture that they overlap the most of those that nobody has taken yet, if the IoU
reaches the threshold; the others are false. AP is the area under precision over recall, precision made monotone (every
point, not 11 or 101 of them); mAP is its mean over the classes that occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from regard.errors import Misuse
from regard.explanation.boxes import corners, probabilities


@dataclass(frozen=True)
class Boxes:
    """The boxes of one picture: ``boxes`` (n, 4), ``labels`` int64 (n,), and of predictions the ``scores`` (n,)."""

    boxes: Float[Tensor, "n 4"]
    labels: Int64[Tensor, " n"]
    scores: Float[Tensor, " n"] | None = None

    def of(self, label: int) -> Boxes:
        """Return the boxes of one class."""
        rows = self.labels == label
        return Boxes(self.boxes[rows], self.labels[rows], None if self.scores is None else self.scores[rows])


def predictions(logits: Float[Tensor, "n query scores"], boxes: Float[Tensor, "n query 4"]) -> list[Boxes]:
    """Return every query's box and likeliest class in each picture, as a DETR gives them: the last score is "no object"."""
    scores, labels = probabilities(logits, logits.shape[-1] - 1).max(-1)
    return [Boxes(*row) for row in zip(corners(boxes), labels, scores, strict=True)]


def areas(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Return the area of each box, 0 where it is turned inside out."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def overlaps(first: Float[Tensor, "*b n 4"], second: Float[Tensor, "*b m 4"]) -> Float[Tensor, "*b n m"]:
    """Return the intersection over union of each pair of boxes."""
    a, b = first[..., :, None, :], second[..., None, :, :]
    shared = areas(torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1))
    return shared / (areas(a) + areas(b) - shared).clamp(min=1e-12)


def hits(found: Boxes, true: Boxes, threshold: float) -> Bool[Tensor, " n"]:
    """Return which predictions of one picture and class are right, in the order of ``found``."""
    iou, right = overlaps(found.boxes, true.boxes), torch.zeros(len(found.boxes), dtype=torch.bool)
    assert found.scores is not None
    for i in found.scores.argsort(descending=True, stable=True).tolist():
        if iou.shape[1] and iou[i].max() >= threshold:
            right[i] = True
            iou[:, iou[i].argmax()] = -1.0  # taken
    return right


def area_under(right: Bool[Tensor, " n"], true: int) -> float:
    """Return the area under precision over recall of predictions in order, the surest first, of ``true`` boxes."""
    got = right.double().cumsum(0)
    precision = got / torch.arange(1, len(right) + 1)
    best_from_here = precision.flip(0).cummax(0).values.flip(0)
    return float((best_from_here * right).sum() / true)


def average_precision(found: Sequence[Boxes], true: Sequence[Boxes], threshold: float = 0.5) -> dict[int, float]:
    """Return the AP of each class that occurs in ``true``; ``found`` and ``true`` hold the pictures in the same order."""
    result = {}
    for label in torch.cat([t.labels for t in true]).unique().tolist():
        pairs = [(f.of(label), t.of(label)) for f, t in zip(found, true, strict=True)]
        right = torch.cat([hits(f, t, threshold) for f, t in pairs])
        scores = torch.cat([f.scores for f, _ in pairs if f.scores is not None])
        order = scores.argsort(descending=True, stable=True)
        result[label] = area_under(right[order], sum(len(t.boxes) for _, t in pairs))
    return result


def mean_average_precision(found: Sequence[Boxes], true: Sequence[Boxes], threshold: float = 0.5) -> float:
    """Return the mean of ``average_precision`` over the classes that occur. Raises Misuse where there is no true box."""
    each = average_precision(found, true, threshold)
    if not each:
        raise Misuse("no true boxes are given, and of nothing there is no average precision")
    return sum(each.values()) / len(each)
