"""Protocol 3, segmentation: does the map lie on the object? Pure functions of one map and one mask; one row an example.

The map is compared on the original picture, resize and crop undone, and only where the model looked (`seen`): a map of a
centre crop never meets a mask of the whole picture. Metrics that need no threshold (AP, pointing) stand beside those
that do (mean of the map, Otsu, a sweep): single thresholds are noisy, so all are reported.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regard.errors import Misuse, nearest
from regard.evaluation.rows import Example, Row, checked, stream_of
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Picture

Values = Float[Tensor, " pixel"]
Mask = Bool[Tensor, " pixel"]
SWEEP = tuple(round(0.05 * i, 2) for i in range(1, 20))
OTSU_BINS = 256
VARIANTS = ("", "f1-over-rows", "ap-over-channels")


@dataclass(frozen=True)
class Segmentation:
    """The protocol's choices.

    Attributes:
        explained: "true" or "predicted" class. stream: of the picture (None: the first). sweep: thresholds, as fractions
            of the way from the map's smallest to its largest value.
        variant: "f1-over-rows" or "ap-over-channels": as one public code base computes F1 and AP, for comparison only.
    """

    explained: str = "true"
    stream: str | None = None
    sweep: tuple[float, ...] = SWEEP
    variant: str = ""

    def __post_init__(self) -> None:
        if self.explained not in ("true", "predicted"):
            raise nearest(self.explained, ("true", "predicted"), "class to explain")
        if self.variant not in VARIANTS:
            raise nearest(self.variant, VARIANTS[1:], "variant of segmentation")

    @property
    def name(self) -> str:
        """The full name."""
        sweep = f"sweep={self.sweep[0]:g}..{self.sweep[-1]:g}:{len(self.sweep)}"
        more = [self.variant] if self.variant else []
        return "/".join(["segmentation", "original", self.explained, "bilinear", "threshold=mean", sweep, *more])


def segmentation(explanation: Explanation, example: Example, setting: Segmentation, method: str = "") -> Row:
    """One row: every metric of one example's map. Raises Misuse where there is no mask, or it is of another size."""
    if example.mask is None:
        raise Misuse(f"example {example.name} has no mask; segmentation needs one")
    scores, seen = on_picture(explanation, example.mask.shape, setting.stream)
    counts = seen if example.ignore is None else seen & ~example.ignore
    flat, truth = scores[counts], example.mask[counts]
    if not len(flat):
        raise Misuse(f"example {example.name} has no pixel that counts: the model saw none, or all are to be ignored")
    if not bool(truth.any()):
        raise Misuse(f"the mask of example {example.name} is empty where it counts; there is no object to be found")
    values = metrics(flat, truth, setting.sweep)
    if setting.variant == "f1-over-rows":
        values["f1"] = f1_over_rows(scores, example.mask)
    if setting.variant == "ap-over-channels":
        values["ap"] = ap_over_channels(flat, truth)
    swept = iou_sweep(flat, truth, setting.sweep)
    return Row(setting.name, method, example.name, values, {"iou_sweep": tuple(swept.tolist())})


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


def metrics(scores: Values, truth: Mask, sweep: tuple[float, ...] = SWEEP) -> dict[str, float]:
    """All metrics of one map; names with "_" are counts that are summed over the data set."""
    found = above_mean(scores)
    counts = overlap(found, truth)
    swept = iou_sweep(scores, truth, sweep)
    ground = _ratio(counts["_ground_intersection"], counts["_ground_union"])
    iou_at_mean = iou(found, truth)
    return {
        "pixel_accuracy": float((found == truth).double().mean()),
        "iou": iou_at_mean,
        "mean_iou": (iou_at_mean + ground) / 2,
        "ap": average_precision(scores, truth),
        "f1": f1(found, truth),
        "iou_otsu": iou(scores > otsu(scores), truth),
        "iou_best": float(swept.max()),
        "iou_sweep_mean": float(swept.mean()),
        "pointing": pointing(scores, truth),
        **counts,
    }


def above_mean(scores: Tensor) -> Tensor:
    """Where a map is above its mean, taken in float64: nowhere for a flat one, whose float32 mean may fall on either side."""
    return scores.double() > scores.double().mean()


def overlap(found: Mask, truth: Mask) -> dict[str, float]:
    """Intersections and unions of the object and of the ground."""
    return {
        "_intersection": float((found & truth).sum()),
        "_union": float((found | truth).sum()),
        "_ground_intersection": float((~found & ~truth).sum()),
        "_ground_union": float((~found | ~truth).sum()),
    }


def iou(found: Mask, truth: Mask) -> float:
    """|found ∩ truth| / |found ∪ truth|; 0 where both are empty."""
    return _ratio(float((found & truth).sum()), float((found | truth).sum()))


def f1(found: Mask, truth: Mask) -> float:
    """2 TP / (|found| + |truth|) of the whole picture; 0 where both are empty."""
    return _ratio(2 * float((found & truth).sum()), float(found.sum() + truth.sum()))


def average_precision(scores: Values, truth: Mask) -> float:
    """Σ (R_n − R_{n−1}) P_n over falling thresholds; equal scores share one. NaN where the mask is empty."""
    recall, precision = recall_and_precision(scores, truth)
    return float((recall.diff(prepend=recall.new_zeros(1)) * precision).sum())


def recall_and_precision(scores: Values, truth: Mask) -> tuple[Values, Values]:
    """Recall and precision at every distinct score, from the largest down, in float64."""
    order = scores.argsort(descending=True, stable=True)
    ranked, hits = scores[order], truth[order].double().cumsum(0)
    last = torch.cat([ranked[1:] != ranked[:-1], torch.ones(1, dtype=torch.bool)])
    places = torch.arange(1, len(ranked) + 1, dtype=torch.float64)
    return (hits / hits[-1])[last], (hits / places)[last]


def iou_sweep(scores: Values, truth: Mask, sweep: tuple[float, ...] = SWEEP) -> Float[Tensor, " threshold"]:
    """IoU at thresholds between the map's smallest and largest value."""
    low, high = scores.min(), scores.max()
    return torch.tensor([iou(scores > low + t * (high - low), truth) for t in sweep], dtype=torch.float64)


def otsu(scores: Values) -> float:
    """Otsu's threshold (1979): the cut between 256 bins that leaves the largest variance between the two sides."""
    low, high = float(scores.min()), float(scores.max())
    if low == high:
        return low
    histogram = torch.histc(scores.double(), OTSU_BINS, low, high)
    edges = torch.linspace(low, high, OTSU_BINS + 1, dtype=torch.float64)
    weight = histogram.cumsum(0)
    moment = (histogram * (edges[1:] + edges[:-1]) / 2).cumsum(0)
    below, above = weight[:-1], weight[-1] - weight[:-1]
    gap = moment[:-1] / below.clamp(min=1) - (moment[-1] - moment[:-1]) / above.clamp(min=1)
    return float(edges[1:-1][(below * above * gap**2).argmax()])


def pointing(scores: Values, truth: Mask) -> float:
    """Whether the largest score lies on the object; of several largest, the share that does (a flat map has the area)."""
    return float(truth[scores == scores.max()].double().mean())


def f1_over_rows(scores: Float[Tensor, "height width"], mask: Bool[Tensor, "height width"]) -> float:
    """Variant: the mean of one F1 for each *row* of the picture, as one public "mF1" has it. No row of the object: 0."""
    found = above_mean(scores)
    return sum(f1(a, b) for a, b in zip(found, mask, strict=True)) / len(mask)


def ap_over_channels(scores: Values, truth: Mask) -> float:
    """Variant: AP of object and ground pooled, the map min-max scaled, as one public "mAP" has it."""
    scaled = (scores - scores.min()) / (scores.max() - scores.min()).clamp(min=1e-12)
    return average_precision(torch.cat([1 - scaled, scaled]), torch.cat([~truth, truth]))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


__all__ = [
    "SWEEP",
    "Segmentation",
    "ap_over_channels",
    "average_precision",
    "f1",
    "f1_over_rows",
    "iou",
    "iou_sweep",
    "metrics",
    "on_picture",
    "otsu",
    "overlap",
    "pointing",
    "segmentation",
]
