"""Protocol 2, perturbation: take away what a map calls relevant, and see what the model makes of the rest.

Positive: the most relevant units first, the answer should fall fast. Negative: the least relevant first, it should stay
(Samek et al. 2017; Chefer et al. 2021). Deletion and insertion (Petsiuk et al. 2018), comprehensiveness and sufficiency
(DeYoung et al. 2020) are the same with other settings: what is kept when the top share f stays is what negative order
leaves at 1 − f.

Units are counted among real tokens only: padding, CLS and SEP compete with no word and are never taken. Equal scores are put
in an order drawn from the seed and the example's name, the same for every method. round(x) of a step is ⌊step · units⌋.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.attribution.removal.units import (
    Filled,
    Patches,
    Removal,
    Words,
    content_tokens,
    filling_of,
    groups_of,
)
from regard.errors import Misuse, nearest
from regard.evaluation.examples import Example, checked, stream_of
from regard.evaluation.protocols.protocol import EXPLAINED, MEMORY, ExampleMaps, Protocol, Row
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Text
from regard.extras import brought_by
from regard.recording import record
from regard.recording.ambient import our_own
from regard.recording.random_state import rng_kept
from regard.recording.refusals import refuse

TENTHS = tuple(i / 10 for i in range(1, 10))
PICTURE_FILLS = ("black", "mean", "blur", "zero")
FILLS = {
    "pixel": PICTURE_FILLS,
    "token": ("drop", *PICTURE_FILLS, "mask", "pad"),
    "word": ("drop", "mask", "pad"),
}


CURVES = ("probability", "kept", "accuracy")


@dataclass(frozen=True)
class Perturbation(Protocol):
    """What units are taken away, in which order, and what stands in their place.

    Attributes:
        unit: "pixel" (the map, bilinearly upsampled), "token" (a patch or a word piece) or "word".
        fill: "black", "mean" (of each channel of the picture), "blur" or "zero" for pixels and patches; "drop", the token
            leaves the sequence; "mask" or "pad": the id `token` (or the config's pad id) stands in its place.
        order: "positive" or "negative". explained: "predicted" or "true" class.
        steps: shares of the units that are taken away, rising. auc: end points of the trapezoid sum (never normalised).
        variant: "zero-at-one": a forced 0 at 1 ends the curve, as in one public code base.
        stream: whose units (None: the picture, else the text). sigma: of the blur, in pixels.
    """

    kind: ClassVar[str] = "perturbation"
    question: ClassVar[str] = "Does the answer fall with what the map calls relevant, and stay without the rest?"
    headlines: ClassVar[tuple[str, ...]] = ("auc_probability",)
    axis: ClassVar[str] = "share taken away"
    behind: ClassVar[Mapping[str, str]] = {"kept": "accuracy"}
    areas: ClassVar[Mapping[str, str]] = {name: f"auc_{name}" for name in CURVES}

    meanings: ClassVar[Mapping[str, str]] = {
        "auc_probability": "area under the curve of the class's probability as more and more is taken away",
        "auc_accuracy": "area under the curve of accuracy as more and more is taken away",
        "aopc": "how far the class's probability falls, mean over the steps",
        "auc_kept": "area under the curve of how often the answer stays as more and more is taken away",
    }

    unit: str = "pixel"
    fill: str = "black"
    order: str = "positive"
    explained: str = "predicted"
    steps: tuple[float, ...] = TENTHS
    auc: tuple[float, float] = (0.0, 0.9)
    variant: str = ""
    stream: str | None = None
    token: int | None = None
    sigma: float = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "auc", tuple(self.auc))
        known: list[tuple[str, Sequence[str], str]] = [
            (self.unit, list(FILLS), "unit"),
            (self.order, ("positive", "negative"), "order"),
            (self.explained, EXPLAINED, "class to explain"),
            (self.variant, ("", "zero-at-one"), "variant of perturbation"),
        ]
        for value, of, what in known:
            if value not in of:
                raise nearest(value, of, what)
        if self.fill not in FILLS[self.unit]:
            raise nearest(self.fill, FILLS[self.unit], f"fill of unit {self.unit!r}")
        if self.fill == "mask" and self.token is None:
            raise Misuse('fill="mask" needs the id of the mask token, too, such as token=103 for most BERTs')
        if (
            not self.steps
            or list(self.steps) != sorted(set(self.steps))
            or not 0 < self.steps[0] <= self.steps[-1] <= 1
        ):
            raise Misuse(f"steps must rise from above 0 to at most 1; they are {self.steps}")
        ends = (0.0, *self.steps, *([1.0] if self.variant else []))
        if not all(any(math.isclose(e, x) for x in ends) for e in self.auc) or self.auc[0] >= self.auc[1]:
            raise Misuse(f"the end points of the AUC, {self.auc}, must be two of the steps {ends}")

    @property
    def name(self) -> str:
        """The full name."""
        fill = f"{self.fill}({self.token})" if self.token is not None else self.fill
        fill = f"blur({self.sigma:g})" if self.fill == "blur" else fill
        a, b = self.auc
        parts = [
            f"{self.unit}-{fill}",
            self.order,
            self.explained,
            f"steps={_spelled(self.steps)}",
            f"auc=[{a:g},{b:g}]",
        ]
        more = [v for v in (self.variant, f"stream={self.stream}" if self.stream else "") if v]
        return "/".join([self.kind, *parts, *more])

    def run(self, maps: ExampleMaps, example: Example) -> list[Row]:
        """Curves of one example and their areas."""
        explanation, explained = maps.of(example, self.explained)
        return perturbation(
            maps.model,
            explanation,
            example,
            self,
            explained=explained,
            seed=maps.seed,
            memory_budget=maps.memory_budget,
            kept=maps.kept,
        )

    def direction(self, metric: str) -> int:
        """Where the most relevant go first, a curve should fall; where the least relevant do, it should stay."""
        stays = 1 if self.order == "negative" else -1
        return {"aopc": -stays}.get(metric, stays if metric in self.areas.values() else 0)


def deletion(fill: str = "black", explained: str = "predicted", count: int = 20) -> Perturbation:
    """Deletion: pixels away from the most relevant on, to nothing; a low AUC is good."""
    steps = tuple(i / count for i in range(1, count + 1))
    return Perturbation("pixel", fill, "positive", explained, steps, (0.0, 1.0))


def insertion(fill: str = "blur", explained: str = "predicted", count: int = 20) -> Perturbation:
    """Insertion: from nothing, the most relevant pixels first: negative order read backwards; a high AUC is good."""
    steps = tuple(i / count for i in range(1, count + 1))
    return Perturbation("pixel", fill, "negative", explained, steps, (0.0, 1.0))


SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)


def comprehensiveness(
    unit: str = "word", fill: str = "drop", explained: str = "predicted", shares: tuple[float, ...] = SHARES
) -> Perturbation:
    """ERASER: p(all) − p(without the top share), the mean over shares, is the row's `aopc`; high is good."""
    return Perturbation(unit, fill, "positive", explained, shares, (0.0, shares[-1]))


def sufficiency(
    unit: str = "word", fill: str = "drop", explained: str = "predicted", shares: tuple[float, ...] = SHARES
) -> Perturbation:
    """ERASER: p(all) − p(the top share alone), the mean over shares, is the row's `aopc`; low is good."""
    steps = tuple(round(1 - s, 9) for s in reversed(shares))
    return Perturbation(unit, fill, "negative", explained, steps, (0.0, steps[-1]))


def perturbation(
    model: nn.Module,
    explanation: Explanation,
    example: Example,
    setting: Perturbation,
    *,
    explained: int | None = None,
    seed: int = 0,
    memory_budget: int = MEMORY,
    kept: dict[Any, Any] | None = None,
) -> list[Row]:
    """One example: its curves of the answer and of the explained class's probability, and their AUCs.

    Args:
        explanation: of this one sample. explained: the class that it is for (None: the label, or the model's answer, as
            `setting.explained` says). seed: of the order of equal scores. memory_budget: bytes for the copies of a batch.
            kept: what maps of the same examples share.
    """
    refuse(model, False)
    stream, kept = stream_of(explanation, setting.stream), {} if kept is None else kept
    key = (example.name, stream, setting.unit, setting.fill, setting.token, setting.sigma)
    if key not in kept:
        with rng_kept(model), our_own():
            kept[key] = remover(model, example, setting, stream)
    removal = kept[key]
    scores = unit_scores(explanation, example, setting, removal)
    if len(scores) != removal.units:
        raise Misuse(f"the map of example {example.name} has {len(scores)} scores for {removal.units} {setting.unit}s")
    order = order_of(scores, setting.order, tie_seed(seed, example.name))
    counts = [0, *(counted(s, len(order)) for s in setting.steps)]
    probabilities = probabilities_of(model, removal, order, counts, memory_budget)
    return rows_of(probabilities, example.name, example.label, setting, explained)


def rows_of(
    probabilities: Float[Tensor, "step classes"],
    name: str,
    label: int | None,
    setting: Perturbation,
    explained: int | None = None,
) -> list[Row]:
    """The rows of one example; the first step is the unchanged one."""
    answers = probabilities.argmax(-1)
    predicted = int(answers[0])
    wanted = explained if explained is not None else predicted if setting.explained == "predicted" else label
    if wanted is None:
        raise Misuse(f"example {name} has no label, so its true class cannot be explained")
    curves = {"probability": probabilities[:, wanted], "kept": (answers == wanted).double()}
    if label is not None:
        curves["accuracy"] = (answers == label).double()
    p = curves["probability"]
    values = {setting.areas[curve]: auc(setting, y) for curve, y in curves.items()}
    values |= {"aopc": float((p[0] - p[1:]).mean()), "start_probability": float(p[0])}
    points = {curve: zip((0.0, *setting.steps), y.tolist(), strict=True) for curve, y in curves.items()}
    return setting.rows(name, values, points, label=label, predicted=predicted, explained=wanted)


# -- taking units away -------------------------------------------------------------------------------------------------


def remover(model: nn.Module, example: Example, setting: Perturbation, stream: str) -> Removal:
    """What takes this setting's units away. Raises Misuse where the unit or the fill does not fit the stream."""
    reading = example.reading
    if stream not in reading.inputs:
        raise Misuse(f"stream {stream!r} is no input of the model, so nothing can be taken away from it")
    x = reading.inputs[stream]
    if not x.is_floating_point():
        if setting.unit == "pixel" or setting.fill in PICTURE_FILLS:
            raise Misuse(
                f"{stream!r} holds ids of a text, which have no pixels; use unit='token' or 'word' with fill='drop'"
            )
        return _words(model, example, setting, stream)
    if setting.unit == "word" or setting.fill in ("mask", "pad"):
        raise Misuse(f"{stream!r} holds no words; use unit='pixel' or 'token', with fill='drop' or a picture's fill")
    if setting.unit == "pixel":
        pixels = torch.arange(x.shape[-2] * x.shape[-1]).view(x.shape[-2:])
        return Filled(model, reading.inputs, stream, filling_of(reading, x, setting.fill, setting.sigma), pixels)
    recording = record(model, reading.inputs)
    if setting.fill == "drop":
        return Patches.of(model, reading.inputs, stream, recording)
    grid, cells = recording.stream(stream).grid, recording.stream(stream).cells
    if grid is None or cells is None or x.ndim != 4:
        raise Misuse(f"the tokens of {stream!r} are no grid of patches; use fill='drop'")
    filling = filling_of(reading, x, setting.fill, setting.sigma)
    return Filled(model, reading.inputs, stream, filling, cells.of.view(x.shape[1:]))


def _words(model: nn.Module, example: Example, setting: Perturbation, stream: str) -> Words:
    text = example.raw(stream)
    if setting.unit == "token":
        groups = [[int(i)] for i in content_tokens(model, example.reading, stream)]
    elif isinstance(text, Text):
        groups = groups_of(text)
    else:
        raise Misuse(
            'unit="word" needs to know the words: read the text with regard.load(...).read, or use unit="token"'
        )
    config: Any = getattr(model, "config", None)
    pad = getattr(config, "pad_token_id", None) or 0
    fill = None if setting.fill == "drop" else pad if setting.fill == "pad" else setting.token
    return Words(model, example.reading.inputs, stream, groups, fill, pad)


# -- curves ------------------------------------------------------------------------------------------------------------


def auc(setting: Perturbation, curve: Float[Tensor, " step"]) -> float:
    """The trapezoid sum between the setting's end points, over x in shares of the units; `curve` begins at share 0."""
    x = torch.tensor([0.0, *setting.steps], dtype=torch.float64)
    y = curve.double()
    if setting.variant:
        x, y = torch.cat([x, x.new_ones(1)]), torch.cat([y, y.new_zeros(1)])
    inside = (x >= setting.auc[0] - 1e-9) & (x <= setting.auc[1] + 1e-9)
    return float(brought_by("eval", "sklearn.metrics").auc(x[inside].numpy(), y[inside].numpy()))


def unit_scores(
    explanation: Explanation, example: Example, setting: Perturbation, removal: Removal
) -> Float[Tensor, " unit"]:
    """One score a unit: pixels of the model's input, patches, or word pieces; of a word the sum over its pieces."""
    name = removal.stream
    scores = checked(explanation.scores[name][0], "map")
    if isinstance(removal, Words):
        return torch.stack([scores[tokens].sum() for tokens in removal.groups])
    if setting.unit == "pixel":
        height, width = example.reading.inputs[name].shape[-2:]
        return checked(explanation.image_map((height, width), name)[0], "map").flatten()
    return scores


def order_of(scores: Float[Tensor, " unit"], order: str, seed: int) -> Int[Tensor, " unit"]:
    """Units in the order in which they are taken; equal scores in an order drawn from the seed."""
    shuffled = torch.randperm(len(scores), generator=torch.Generator().manual_seed(seed))
    return shuffled[scores[shuffled].argsort(descending=order == "positive", stable=True)]


def tie_seed(seed: int, name: str) -> int:
    """One for each example, whatever stands beside it."""
    return seed ^ zlib.crc32(name.encode())


def counted(step: float, units: int) -> int:
    """⌊step · units⌋, with 0.29 · 100 = 29."""
    return math.floor(step * units + 1e-9)


def probabilities_of(
    model: nn.Module, removal: Removal, order: Int[Tensor, " unit"], counts: Sequence[int], budget: int = MEMORY
) -> Float[Tensor, "step classes"]:
    """The model's probabilities with the first `counts` units of the order away: in batches that fit the budget."""
    with torch.no_grad(), rng_kept(model), our_own():
        size = max(1, min(len(counts), budget // max(1, removal.bytes_of_one)))
        parts = [removal.logits(order, counts[i : i + size]) for i in range(0, len(counts), size)]
    logits = torch.cat(parts).double().cpu()
    if not bool(torch.isfinite(logits).all()):
        raise Misuse("the model's output on a perturbed example holds NaN or infinity")
    return logits.softmax(-1)


def _spelled(steps: tuple[float, ...]) -> str:
    """0.1..0.9 for tenths, 0.05..1:20 for other even steps, all of them otherwise."""
    gaps = [b - a for a, b in pairwise(steps)]
    if len(steps) < 3 or any(not math.isclose(g, gaps[0], abs_tol=1e-9) for g in gaps):
        return ",".join(f"{s:g}" for s in steps)
    tenths = math.isclose(gaps[0], 0.1)
    return f"{steps[0]:g}..{steps[-1]:g}" + ("" if tenths else f":{len(steps)}")


__all__ = [
    "TENTHS",
    "Perturbation",
    "auc",
    "comprehensiveness",
    "counted",
    "deletion",
    "insertion",
    "order_of",
    "perturbation",
    "probabilities_of",
    "remover",
    "rows_of",
    "sufficiency",
    "unit_scores",
]
