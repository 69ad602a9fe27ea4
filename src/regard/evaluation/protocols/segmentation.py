"""Protocol 3, segmentation: does the map lie on the object? Pure functions of one map and one mask; one row an example.

The map is compared on the original picture, resize and crop undone, and only where the model looked (`seen`): a map of a
centre crop never meets a mask of the whole picture. Metrics that need no threshold (AP, pointing) stand beside those
that do (mean of the map, Otsu, a sweep): single thresholds are noisy, so all are reported.

Average precision, F1 and Jaccard's index (IoU) are scikit-learn's, Otsu's threshold is scikit-image's: `regard[eval]`. F1 and
IoU of nothing found where nothing is are 0; equal scores share one threshold of the average precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regard.errors import Misuse, nearest
from regard.evaluation.examples import Example, checked, stream_of
from regard.evaluation.protocols.protocol import EXPLAINED, ExampleMaps, Protocol, Row
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Picture
from regard.extras import brought_by

Values = Float[Tensor, " pixel"]
Mask = Bool[Tensor, " pixel"]
SWEEP = tuple(round(0.05 * i, 2) for i in range(1, 20))
OTSU_BINS = 256
VARIANTS = ("", "f1-over-rows", "ap-over-channels")


ACCUMULATED = "mean_iou_accumulated"
SHOWN = (
    "pixel_accuracy",
    "iou",
    "mean_iou",
    ACCUMULATED,
    "ap",
    "f1",
    "iou_otsu",
    "iou_best",
    "iou_sweep_mean",
    "pointing",
)


@dataclass(frozen=True)
class Segmentation(Protocol):
    """Whose map, and the thresholds that it is cut at.

    Attributes:
        explained: "true" or "predicted" class. stream: of the picture (None: the first). sweep: thresholds, as fractions
            of the way from the map's smallest to its largest value.
        variant: "f1-over-rows" or "ap-over-channels": as one public code base computes F1 and AP, for comparison only.
    """

    kind: ClassVar[str] = "segmentation"
    question: ClassVar[str] = "Does the map lie on the object?"
    better: ClassVar[Mapping[str, int]] = dict.fromkeys(SHOWN, 1)
    headlines: ClassVar[tuple[str, ...]] = ("iou",)
    axis: ClassVar[str] = "threshold, share of the map's range"
    sums: ClassVar[Mapping[str, tuple[tuple[str, str], ...]]] = {
        ACCUMULATED: (("intersection", "union"), ("ground_intersection", "ground_union"))
    }

    known_answer: ClassVar[bool] = True
    meanings: ClassVar[Mapping[str, str]] = {
        "iou": "overlap of the object with the part of the map above its mean: shared pixels over all pixels of both",
        "pixel_accuracy": "share of pixels on the right side of the map's mean",
        "mean_iou": "mean of the overlaps of object and background",
        ACCUMULATED: "the same with pixels summed over all pictures before they are divided",
        "ap": "average precision of the object's pixels in the order of the map",
        "f1": "F1 of the pixels above the map's mean as pixels of the object",
        "iou_otsu": "overlap at Otsu's threshold",
        "iou_best": "overlap at the best of all thresholds",
        "iou_sweep_mean": "mean overlap over all thresholds",
        "pointing": "how often the map's largest value lies on the object",
    }

    explained: str = "true"
    stream: str | None = None
    sweep: tuple[float, ...] = SWEEP
    variant: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sweep", tuple(self.sweep))
        if self.explained not in EXPLAINED:
            raise nearest(self.explained, EXPLAINED, "class to explain")
        if self.variant not in VARIANTS:
            raise nearest(self.variant, VARIANTS[1:], "variant of segmentation")

    @property
    def name(self) -> str:
        """The full name."""
        even = np.allclose(self.sweep, np.linspace(self.sweep[0], self.sweep[-1], len(self.sweep)))
        some = f"{self.sweep[0]:g}..{self.sweep[-1]:g}:{len(self.sweep)}"
        sweep = "sweep=" + (some if even else ",".join(f"{t:g}" for t in self.sweep))
        more = [*([self.variant] if self.variant else []), *([f"stream={self.stream}"] if self.stream else [])]
        return "/".join([self.kind, "original", self.explained, "bilinear", "threshold=mean", sweep, *more])

    def run(self, maps: ExampleMaps, example: Example) -> list[Row]:
        """Every metric of one example's map."""
        explanation, explained = maps.of(example, self.explained)
        return segmentation(explanation, example, self, explained)


def segmentation(
    explanation: Explanation, example: Example, setting: Segmentation, explained: int | None = None
) -> list[Row]:
    """Every metric of one example's map. Raises Misuse where there is no mask, or it is of another size."""
    if example.mask is None:
        raise Misuse(f"example {example.name} has no mask; segmentation needs one")
    scores, seen = on_picture(explanation, example.mask.shape, setting.stream)
    counts = seen if example.ignore is None else seen & ~example.ignore
    flat, truth = scores[counts], example.mask[counts]
    if not len(flat):
        raise Misuse(f"example {example.name} has no pixel that counts: the model saw none, or all are to be ignored")
    if not bool(truth.any()):
        raise Misuse(f"the mask of example {example.name} is empty where it counts; there is no object to be found")
    values, swept = metrics(flat, truth, setting.sweep)
    if setting.variant == "f1-over-rows":
        values["f1"] = f1_over_rows(scores, example.mask)
    if setting.variant == "ap-over-channels":
        values["ap"] = ap_over_channels(flat, truth)
    curve = {"iou_sweep": zip(setting.sweep, swept, strict=True)}
    return setting.rows(example.name, values, curve, label=example.label, explained=explained)


def on_picture(
    explanation: Explanation, size: tuple[int, ...], stream: str | None = None
) -> tuple[Float[Tensor, "height width"], Bool[Tensor, "height width"]]:
    """A map of one sample at the original picture's size, and the pixels that the model saw.

    Where no original is known, the model's input is taken for it. Raises Misuse where the mask is of another size.
    """
    name = stream_of(explanation, stream)
    raw = explanation.inputs.get(name)
    if not raw or not isinstance(raw[0], Picture):
        return checked(explanation.image_map((size[0], size[1]), name)[0], "map"), torch.ones(size, dtype=torch.bool)
    height, width = raw[0].pixels.shape[:2]
    if tuple(size) != (height, width):
        raise Misuse(f"the mask is {tuple(size)} and its picture {(height, width)}; give the mask of the whole picture")
    left, top, right, bottom = raw[0].box
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    seen = ((x >= left) & (x <= right))[None] & ((y >= top) & (y <= bottom))[:, None]
    return checked(explanation.on_original(name)[0], "map"), seen


def metrics(
    scores: Values, truth: Mask, sweep: tuple[float, ...] = SWEEP
) -> tuple[dict[str, float], tuple[float, ...]]:
    """All metrics of one map, counts to be summed over the data set among them, and its IoU over the sweep."""
    found, low, high = above_mean(scores), scores.min(), scores.max()
    above = [scores > low + t * (high - low) for t in sweep]
    at_mean, ground, at_otsu, *swept = jaccard(
        [found, ~found, scores > otsu(scores), *above], [truth, ~truth, *[truth] * (1 + len(sweep))]
    )
    values = {
        "pixel_accuracy": float((found == truth).double().mean()),
        "iou": at_mean,
        "mean_iou": (at_mean + ground) / 2,
        "ap": average_precision(scores, truth),
        "f1": f1(found, truth),
        "iou_otsu": at_otsu,
        "iou_best": max(swept),
        "iou_sweep_mean": sum(swept) / len(swept),
        "pointing": pointing(scores, truth),
    }
    return values | counts(found, truth), tuple(swept)


def above_mean(scores: Tensor) -> Tensor:
    """Where a map is above its mean, taken in float64: nowhere for a flat one, whose float32 mean may fall on either side."""
    return scores.double() > scores.double().mean()


def counts(found: Mask, truth: Mask) -> dict[str, float]:
    """Intersections and unions of the object and of the ground."""
    return {
        "intersection": float((found & truth).sum()),
        "union": float((found | truth).sum()),
        "ground_intersection": float((~found & ~truth).sum()),
        "ground_union": float((~found | ~truth).sum()),
    }


def jaccard(found: Sequence[Mask], truth: Sequence[Mask]) -> list[float]:
    """|found ∩ truth| / |found ∪ truth| of two pairs or more; 0 where both are empty."""
    score = brought_by("eval", "sklearn.metrics").jaccard_score
    a, b = (torch.stack(list(masks), 1).numpy() for masks in (truth, found))
    return [float(v) for v in score(a, b, average=None, zero_division=0)]


def f1(found: Mask, truth: Mask) -> float:
    """2 TP / (|found| + |truth|) of the whole picture; 0 where both are empty."""
    return float(brought_by("eval", "sklearn.metrics").f1_score(truth.numpy(), found.numpy(), zero_division=0))


def average_precision(scores: Values, truth: Mask) -> float:
    """Σ (R_n − R_{n−1}) P_n over falling thresholds; equal scores share one. NaN where the mask is empty."""
    if not bool(truth.any()):
        return math.nan
    return float(brought_by("eval", "sklearn.metrics").average_precision_score(truth.numpy(), scores.numpy()))


def otsu(scores: Values) -> float:
    """Otsu's threshold (1979): the cut between 256 bins that leaves the largest variance between the two sides.

    scikit-image names the bin below the cut by its middle, so that half of the bin would lie above; the cut is its upper end.
    """
    low, high = float(scores.min()), float(scores.max())
    if low == high:
        return low
    middle = brought_by("eval", "skimage.filters").threshold_otsu(scores.double().numpy(), nbins=OTSU_BINS)
    return float(middle) + (high - low) / OTSU_BINS / 2


def pointing(scores: Values, truth: Mask) -> float:
    """Whether the largest score lies on the object; of several largest, the share that does (a flat map has the area)."""
    return float(truth[scores == scores.max()].double().mean())


def f1_over_rows(scores: Float[Tensor, "height width"], mask: Bool[Tensor, "height width"]) -> float:
    """Variant: the mean of one F1 for each *row* of the picture, as one public "mF1" has it. No row of the object: 0."""
    score = brought_by("eval", "sklearn.metrics").f1_score
    return float(score(mask.T.numpy(), above_mean(scores).T.numpy(), average="macro", zero_division=0))


def ap_over_channels(scores: Values, truth: Mask) -> float:
    """Variant: AP of object and ground pooled, the map min-max scaled, as one public "mAP" has it."""
    scaled = (scores - scores.min()) / (scores.max() - scores.min()).clamp(min=1e-12)
    return average_precision(torch.cat([1 - scaled, scaled]), torch.cat([~truth, truth]))


__all__ = [
    "ACCUMULATED",
    "SWEEP",
    "Segmentation",
    "ap_over_channels",
    "average_precision",
    "counts",
    "f1",
    "f1_over_rows",
    "jaccard",
    "metrics",
    "on_picture",
    "otsu",
    "pointing",
    "segmentation",
]
