"""Where a picture may be changed, and what the model rests on before and after: both from corrected attention."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard.api.explain import explain
from regard.editing.asked import Classes
from regard.errors import InputError, Misuse, NoAttention, TrailLost, Unmoved
from regard.explanation.explanation import Explanation
from regard.explanation.places import PLAINLY
from regard.target import Target

INTERNAL = "internal"
METHOD = "corrected_attention"
Mask = Bool[Tensor, "batch row column"]
Cells = Float[Tensor, "batch rows columns"]


def mask_of(within: Any, shape: tuple[int, int, int]) -> Mask:
    """A mask given as an array or tensor, (row, column) or one per sample. Raises InputError for another shape, or none."""
    batch, rows, columns = shape
    found = torch.as_tensor(np.ascontiguousarray(within)) if hasattr(within, "__array_interface__") else within
    if not isinstance(found, Tensor):
        said = repr(within) if isinstance(within, str) else type(within).__name__
        raise Misuse(f"within= is a mask of the picture's pixels, or {INTERNAL!r}; not {said}")
    found = (found != 0).cpu()
    found = found[None] if found.ndim == 2 else found
    if found.ndim != 3 or found.shape[1:] != (rows, columns) or len(found) not in (1, batch):
        raise InputError(
            f"within= has shape {tuple(found.shape)}; give a mask ({rows}, {columns}), the size of the model's input, or one "
            f"for each of the {batch} pictures"
        )
    found = found.expand(batch, -1, -1).clone()
    if not bool(found.flatten(1).any(1).all()):
        raise InputError("within= is empty: no pixel of a picture may change")
    return found


def internal(model: nn.Module, inputs: Any, stream: str, to: Classes, was: Classes, size: tuple[int, int]) -> Mask:
    """The pixels of the tokens that speak for the new class: those above the mean of the map of y_to − y_was.

    Our reading of internal guidance: the map is `corrected_attention` with its positive sign, a token counts where its share is
    greater than the mean.
    """
    exp = cast(Explanation, explain(model, inputs, Target.contrast(to, was), METHOD))
    cells = cells_of(exp, stream)
    if cells is None:
        raise Misuse(
            f"within={INTERNAL!r} needs a picture whose tokens are a grid over the whole of it; give a mask of pixels instead"
        )
    marked = cells > cells.flatten(1).mean(1)[:, None, None]
    if not bool(marked.flatten(1).any(1).all()):
        raise Misuse(
            f"within={INTERNAL!r}: no token of a picture speaks for the new class; give a mask of pixels instead"
        )
    return F.interpolate(marked[:, None].float(), size=size, mode="nearest")[:, 0] > 0


def cells_of(exp: Explanation, stream: str) -> Cells | None:
    """The scores of a picture as a grid over the whole of it; None where they are none."""
    grid = exp.grid.get(stream)
    if not isinstance(grid, tuple) or len(grid) != 2 or exp.raster(stream) != PLAINLY:
        return None
    return exp.scores[stream].detach().cpu().reshape(-1, *grid)


def before_and_after(
    model: nn.Module, before: Any, after: Any, stream: str, was: Classes, to: Classes
) -> Float[Tensor, "batch 4 rows columns"] | None:
    """Corrected attention of the old and the new class, before and after; None where no attention can be followed."""
    targets = [Target.logit(was), Target.logit(to)]
    try:
        found = [e for inputs in (before, after) for e in cast(Any, explain(model, inputs, targets, METHOD))]
    except (NoAttention, TrailLost, Unmoved):
        return None
    cells = [cells_of(exp, stream) for exp in found]
    return None if any(c is None for c in cells) else torch.stack(cast(list[Tensor], cells), 1)
