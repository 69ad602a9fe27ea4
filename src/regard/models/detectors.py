"""What a detector found in a picture, from one output: classes and boxes of its queries, above a threshold."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.errors import InputError, TargetError
from regard.explanation.boxes import Box, Found, corners, probabilities
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Picture
from regard.target import field

THRESHOLD = 0.5


def can_detect(model: nn.Module) -> bool:
    """Whether a model's name says that it finds objects."""
    return type(model).__name__.endswith("ForObjectDetection")


def found_in(
    output: Any, picture: Picture, labels: Sequence[str], threshold: float, of: Collection[int] | None = None
) -> list[Found]:
    """The objects of one picture, the likeliest first; `of`: those of some classes only.

    Each query counts once, with its likeliest class. Raises InputError where nothing is found above the threshold.
    """
    boxes = field(output, "pred_boxes")[0].detach().float().cpu()
    best, classes = probabilities(field(output, "logits")[0].detach().float().cpu(), len(labels)).max(-1)
    wanted = [q for q in best.argsort(descending=True).tolist() if of is None or int(classes[q]) in of]
    kept = [q for q in wanted if float(best[q]) >= threshold]
    if not kept:
        name = "object" if of is None else " or ".join(repr(labels[c]) for c in sorted(of))
        if not wanted:
            raise InputError(f"no {name} is found in {picture.name}: the model takes nothing in it for one")
        top = f"the likeliest has {float(best[wanted[0]]):.4g}"
        raise InputError(f"no {name} is found in {picture.name} above {threshold:g} ({top}); give a lower threshold")
    return [Found(q, int(classes[q]), labels[int(classes[q])], float(best[q]), _box(boxes[q], picture)) for q in kept]


def _box(box: Float[Tensor, " 4"], picture: Picture) -> Box:
    """(centre x, centre y, width, height) as fractions of what the model saw -> pixels of the picture."""
    left, top, right, bottom = picture.box
    start, size = torch.tensor([left, top] * 2), torch.tensor([right - left, bottom - top] * 2)
    return Box(*(start + corners(box) * size).tolist())


def check_threshold(threshold: Any) -> float:
    """A probability. Raises InputError for what is none."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise InputError(f"the threshold must be a probability, from 0 to 1, not {threshold!r}")
    return float(threshold)


def classes_of(wanted: set[int], count: int) -> set[int]:
    """Class numbers. Raises TargetError for one that there is not."""
    for c in wanted:
        if not 0 <= c < count:
            raise TargetError(f"there is no class {c}; the model has {count}, numbered from 0")
    return wanted


def explains_objects(target: Any) -> bool:
    """Whether a target stands for found objects: all of them (None), or those of a class (a name or a number)."""
    return target is None or isinstance(target, str) or (isinstance(target, int) and not isinstance(target, bool))


def likeliest(explanations: Sequence[Explanation]) -> list[Explanation]:
    """Those of the first object, the likeliest."""
    return [e for e in explanations if e.found == explanations[0].found]
