"""The gradient of a linear layer, multiplied out for those rows alone that have one.

A target that reads one token (CLS of a picture, EOT of a text) has no gradient at all others after the last attention, where
whole matrices of zeros would be multiplied by every weight. The forward pass is the model's own, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

GIVEN = ("input", "weight", "bias")


def by_rows(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a linear layer gives, with its gradient from here; None where its weights depend on something, or off the CPU (which
    would have to wait for a GPU to say which rows count). Parameters are constants: nobody asks for their gradients."""
    if not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or saved_elsewhere():
        return None
    given = dict(zip(GIVEN, args, strict=False)) | dict(kwargs)
    x, weight, bias = (constant(given.get(name)) for name in GIVEN)
    if not (isinstance(x, Tensor) and isinstance(weight, Tensor) and (bias is None or type(bias) is Tensor)):
        return None
    if not type(x) is type(weight) is Tensor or weight.requires_grad or (bias is not None and bias.requires_grad):
        return None
    if not (x.requires_grad and x.device.type == "cpu" and x.ndim > 1 and weight.ndim == 2):
        return None
    # as the model runs it: what torch multiplies by depends on whether weights ask for a gradient
    made: Tensor = LinearByRows.apply(partial(func, *args, **kwargs), x, weight)  # type: ignore[no-untyped-call]
    return made


def saved_elsewhere() -> bool:
    """Whether something takes what operations save for the backward pass: a checkpoint runs its part once more, unwatched, and
    wants the same saved as before. True, too, where this torch cannot say."""
    autograd: Any = torch._C._autograd  # noqa: SLF001 (no public call says it)
    top = getattr(autograd, "_top_saved_tensors_default_hooks", None)
    return top is None or top(False) is not None


def constant(t: Any) -> Any:
    """A parameter without its gradient; anything else as it is, a subclass of a parameter too (a quantised one)."""
    return t.detach() if type(t) is nn.Parameter else t


class LinearByRows(torch.autograd.Function):
    """A linear layer of constant weights, and its gradient."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[], Tensor], _x: Tensor, weight: Tensor) -> Any:  # noqa: D102
        ctx.save_for_backward(weight)
        out = run()
        view = out._is_view()  # noqa: SLF001 (`_base` is not known of what is made in here)
        return out.data if view else out  # a view that is made in here could not be written into

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # noqa: D102
        (weight,) = ctx.saved_tensors
        flat = g.reshape(-1, g.shape[-1])
        rows = None if torch.is_grad_enabled() else known_rows(flat)  # a gradient of zero has a gradient
        if rows is None:
            return None, g @ weight, None
        at_x = flat.new_zeros(len(flat), weight.shape[1])
        at_x[rows] = flat[rows] @ weight
        return None, at_x.view(*g.shape[:-1], -1), None


def known_rows(g: Tensor) -> Int[Tensor, " some"] | None:
    """The rows that are not zero; None where that is not known: of many gradients at once (`is_grads_batched`)."""
    try:
        return rows_that_count(g)
    except RuntimeError:  # no value can be read of what torch.vmap batches
        return None


def rows_that_count(g: Float[Tensor, "row feature"]) -> Int[Tensor, " some"] | None:
    """The rows that are not zero; None where they are more than half. Most of those have a first feature that is not zero."""
    if 2 * int(g[:, :1].count_nonzero()) > len(g):
        return None
    rows = ((g.amax(1) != 0) | (g.amin(1) != 0)).nonzero()[:, 0]  # as any(1), in half its time
    return None if 2 * len(rows) > len(g) else rows
