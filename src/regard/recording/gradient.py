"""Where the model's own forward cuts the graph: a gradient that does not come through is said, and is no map of zeros."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regard.errors import ModelError

CUT = (
    "no gradient comes from the target to the inputs: the model's own forward cuts it off (torch.no_grad(), "
    "torch.inference_mode() or detach(), as around a frozen backbone), or the target does not depend on them; take the cut "
    "away for the run"
)


def gradient(
    y: Tensor, at: Sequence[Tensor], *, keep: bool = False, weight: Tensor | None = None
) -> Sequence[Tensor | None]:
    """∂(Σ w y)/∂t of each tensor, None where y does not depend on it. keep: another gradient of the same run follows.

    Raises ModelError where the model's own backward pass fails.
    """
    try:
        weight = torch.ones_like(y) if weight is None else weight
        return torch.autograd.grad(y, at, weight, retain_graph=keep, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        why = (str(error).splitlines() or [""])[0].partition(". ")[0]
        raise ModelError(f"the model's own backward pass fails: {why}") from error


def gradients_at(leaves: Sequence[Tensor], y: Tensor) -> Sequence[Tensor | None]:
    """∂y/∂leaf of each. Raises ModelError where y is cut off from all of them."""
    grads: Sequence[Tensor | None] = [None for _ in leaves]
    if y.requires_grad:
        grads = gradient(y, leaves)
    if all(g is None for g in grads):
        raise ModelError(CUT)
    return grads
