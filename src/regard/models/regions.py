"""A picture as regions: boxes that somebody found in it, and a vector for each, as LXMERT and its kin read pictures.

Who computes the vectors is no part of such a model. A folder with `regions.safetensors` brings what does (the zoo's);
otherwise they are given beside the boxes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from regard.errors import InputError, ModelError
from regard.explanation.boxes import Box

FEATURES, BOXES = "visual_feats", "visual_pos"
Encoder = Callable[[UInt8[Tensor, "scenes height width 3"], Float[Tensor, "scenes regions 4"]], Tensor]
SAY = "give regions=boxes, one (left, top, right, bottom) each, as fractions of the picture"


def takes_regions(model: nn.Module) -> bool:
    """Whether a model's forward takes region features with their boxes."""
    return {FEATURES, BOXES} <= set(inspect.signature(model.forward).parameters)


def split(raw: Any, name: str) -> tuple[Any, str]:
    """The picture and the question of one raw input. Raises InputError where one of them is missing."""
    both = f"{name} reads a picture and a question: give (picture, question)"
    if not isinstance(raw, tuple) or len(raw) != 2:
        missing = "no picture was" if isinstance(raw, str) else "no question was"
        raise InputError(f"{missing} given; {both}, and regions=")
    picture, question = raw
    if picture is None or not isinstance(question, str) or not question.strip():
        raise InputError(f"{'no picture' if picture is None else 'no question'} was given; {both}, and regions=")
    return picture, question


@torch.no_grad()
def read_regions(
    regions: Any, encoder: Encoder | None, pixels: UInt8[Tensor, "height width 3"], name: str
) -> tuple[dict[str, Tensor], tuple[Box, ...]]:
    """Keyword tensors (with a batch axis of one), and the boxes in the picture's pixels.

    `regions`: boxes (regions, 4), or a pair (boxes, vectors (regions, features)) where no encoder is at hand.
    Raises InputError for what is neither, ModelError where vectors are needed and not given.
    """
    if regions is None:
        raise InputError(f"{name} sees regions of a picture, not its pixels; {SAY}")
    given = isinstance(regions, tuple) and len(regions) == 2 and not isinstance(regions[0], int | float)
    boxes = _boxes(regions[0] if given else regions)
    if not given and encoder is None:
        raise ModelError(
            f"this {name} has no encoder that turns regions into vectors; give regions=(boxes, vectors), with the "
            "vectors of the detector that it was trained with"
        )
    features = _tensor(regions[1], "vectors") if given else encoder(pixels[None], boxes[None])[0]  # type: ignore[misc]
    if features.ndim != 2 or len(features) != len(boxes):
        raise InputError(f"{len(boxes)} boxes need vectors ({len(boxes)}, features), not {tuple(features.shape)}")
    height, width = pixels.shape[:2]
    scaled = (boxes * torch.tensor([width, height, width, height])).tolist()
    return {FEATURES: features[None], BOXES: boxes[None]}, tuple(Box(*b) for b in scaled)


def check_width(features: Float[Tensor, "1 regions features"], model: nn.Module) -> None:
    """Raise InputError for vectors that the model's config says are of another length."""
    wanted = getattr(getattr(model, "config", None), "visual_feat_dim", None)
    if wanted is not None and features.shape[2] != wanted:
        raise InputError(
            f"{type(model).__name__} takes vectors of {wanted} features for its regions, not of {features.shape[2]}"
        )


def _boxes(given: Any) -> Float[Tensor, "regions 4"]:
    """Boxes as a tensor, checked."""
    boxes = _tensor(given, "regions")
    shape = " x ".join(map(str, boxes.shape))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes):
        raise InputError(f"regions of shape {shape or 'a single number'} are not boxes; {SAY}")
    if not bool(torch.isfinite(boxes).all()) or float(boxes.min()) < 0 or float(boxes.max()) > 1:
        raise InputError(f"regions reach from {float(boxes.min()):g} to {float(boxes.max()):g}, beyond 0 to 1; {SAY}")
    if not bool((boxes[:, 2:] > boxes[:, :2]).all()):
        at = int((boxes[:, 2:] <= boxes[:, :2]).any(1).nonzero()[0])
        raise InputError(f"region {at + 1} of {len(boxes)} is empty (right <= left, or bottom <= top); {SAY}")
    return boxes


def _tensor(given: Any, what: str) -> Tensor:
    try:
        return torch.as_tensor(given).detach().cpu().float()
    except (TypeError, ValueError, RuntimeError) as e:
        raise InputError(f"{what} must be numbers, in a list or a tensor: {e}") from e
