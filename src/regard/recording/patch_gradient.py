"""The gradient of a patch embedding, as a product of matrices.

A convolution whose windows stand side by side (kernel = stride, no padding) multiplies each patch by one matrix, so that its
gradient at the picture is ∂y/∂out Wᵀ, patch by patch. Kernels for convolutions take many times as long for it on a CPU. The
forward pass is the model's own, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

GIVEN = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def by_patches(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a convolution gives, with the gradient of a patch embedding; None where it is none, or where nothing is gained."""
    if not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return None
    given = dict(zip(GIVEN, args, strict=False)) | dict(kwargs)
    x, weight, bias = given.get("input"), given.get("weight"), given.get("bias")
    if not (isinstance(x, Tensor) and isinstance(weight, Tensor) and x.requires_grad and x.device.type == "cpu"):
        return None
    kernel = tuple(weight.shape[2:])
    plain = not any(_each(given.get("padding", 0), kernel)) and set(_each(given.get("dilation", 1), kernel)) == {1}
    side_by_side = _each(given.get("stride", 1), kernel) == kernel and min(kernel) > 1
    if not (
        plain and side_by_side and given.get("groups", 1) == 1 and x.ndim == weight.ndim and x.dtype == weight.dtype
    ):
        return None
    made: Tensor = PatchEmbedding.apply(func, x, weight, bias, kernel)  # type: ignore[no-untyped-call]
    return made


def _each(value: Any, kernel: Sequence[int]) -> tuple[Any, ...]:
    """A setting of a convolution, for each axis."""
    if value == "valid":
        return (0,) * len(kernel)
    values: tuple[Any, ...] = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values * len(kernel) if len(values) == 1 else values


class PatchEmbedding(torch.autograd.Function):
    """A convolution of patches side by side, and its gradients."""

    @staticmethod
    def forward(ctx: Any, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None, kernel: tuple[int, ...]) -> Any:  # noqa: D102
        ctx.save_for_backward(x if ctx.needs_input_grad[2] else None, weight)
        ctx.shape = x.shape
        return func(x, weight, bias, kernel)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # noqa: D102
        x, weight = ctx.saved_tensors
        at_x = at_weight = at_bias = None
        by_patch = g.flatten(2).transpose(1, 2)
        if ctx.needs_input_grad[1]:
            at_x = joined(by_patch @ weight.flatten(1), ctx.shape, g.shape[2:], weight.shape[2:])
        if ctx.needs_input_grad[2]:
            patches = cut(x, g.shape[2:], weight.shape[2:])
            at_weight = torch.einsum("bno,bni->oi", by_patch, patches).view(weight.shape)
        if ctx.needs_input_grad[3]:
            at_bias = by_patch.sum((0, 1))
        return None, at_x, at_weight, at_bias, None


def cut(x: Tensor, windows: Sequence[int], kernel: Sequence[int]) -> Tensor:
    """A picture (batch, channel, ...) -> its patches (batch, patch, channel · ...), without the rest at the ends."""
    for axis, (n, k) in enumerate(zip(windows, kernel, strict=True), 2):
        x = x.narrow(axis, 0, n * k)
    split = x.reshape(*x.shape[:2], *(side for pair in zip(windows, kernel, strict=True) for side in pair))
    d = len(kernel)
    order = (0, *range(2, 2 + 2 * d, 2), 1, *range(3, 3 + 2 * d, 2))
    return split.permute(order).flatten(1 + d).flatten(1, d)


def joined(patches: Tensor, shape: Sequence[int], windows: Sequence[int], kernel: Sequence[int]) -> Tensor:
    """The other way round, with zeros at the rest."""
    d = len(kernel)
    split = patches.view(len(patches), *windows, shape[1], *kernel)
    order = (0, 1 + d, *(axis for pair in zip(range(1, 1 + d), range(2 + d, 2 + 2 * d), strict=True) for axis in pair))
    whole = split.permute(order).reshape(*shape[:2], *(n * k for n, k in zip(windows, kernel, strict=True)))
    rest = [side for size, own in zip(reversed(shape), reversed(whole.shape), strict=True) for side in (0, size - own)]
    return F.pad(whole, rest[: 2 * d]) if any(rest) else whole
