"""The gradient of x · σ(c · x), a quick stand-in for GELU that CLIP has, in one step and for those rows alone that have one.

It is written as three operations over the widest state of a block, whose gradients pass over it six times: whole matrices of
zeros, where a target reads one token. The forward pass is the model's own, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from regard.recording.row_gradient import known_rows, saved_elsewhere


@dataclass(frozen=True)
class Begun:
    """c · x: the number, the tensor, and how often that had been written into."""

    by: float
    of: TensorWeakRef
    version: int


_scaled, _gates = WeakTensorKeyDictionary(), WeakTensorKeyDictionary()  # tensor -> Begun, while the tensor lives


def by_factor(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """x · σ(c · x) with its gradient from here, and c · x, which may be the beginning of one; None for other products."""
    if kwargs or len(args) != 2 or not torch.is_grad_enabled():
        return None
    a, b = args
    if type(a) is Tensor and type(b) is float:
        return _begun(func, a, b)
    for x, gate in ((a, b), (b, a)):
        found = _gates.get(gate) if isinstance(gate, Tensor) else None
        if found is not None and found.of() is x and x._version == found.version and gate._version == 0:
            made: Tensor = Gated.apply(partial(func, a, b), x, gate, found.by)  # type: ignore[no-untyped-call]
            return made
    return None


def by_gate(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """σ(c · x), remembered; None for other operands."""
    known = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and torch.is_grad_enabled()
    found = _scaled.get(args[0]) if known else None
    if found is None or args[0]._version:
        return None
    gate: Tensor = func(*args)
    _gates[gate] = found
    return gate


def _begun(func: Callable[..., Any], x: Tensor, by: float) -> Tensor | None:
    """c · x, remembered; None where its gradient is left to torch: off the CPU, in mixed precision, under a checkpoint."""
    if not (x.requires_grad and x.ndim > 1 and x.device.type == "cpu") or torch.is_autocast_enabled("cpu"):
        return None
    if saved_elsewhere():
        return None
    out: Tensor = func(x, by)
    _scaled[out] = Begun(by, TensorWeakRef(x), x._version)
    return out


class Gated(torch.autograd.Function):
    """x · s with s = σ(c · x), and its gradient s · (1 + c · x · (1 − s))."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[], Tensor], x: Tensor, gate: Tensor, by: float) -> Any:  # noqa: D102
        ctx.save_for_backward(x, gate.detach())
        ctx.by = by
        return run()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # noqa: D102
        x, gate = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of this one may be asked for
            return None, g * _slope(x, torch.sigmoid(ctx.by * x), ctx.by), None, None
        rows = known_rows(g.reshape(-1, g.shape[-1]))
        if rows is None:
            return None, g * _slope(x, gate, ctx.by), None, None
        flat = [t.reshape(-1, t.shape[-1])[rows] for t in (g, x, gate)]
        at_x = torch.zeros_like(x, memory_format=torch.contiguous_format)
        at_x.view(-1, x.shape[-1])[rows] = flat[0] * _slope(flat[1], flat[2], ctx.by)
        return None, at_x, None, None


def _slope(x: Tensor, gate: Tensor, by: float) -> Tensor:
    return gate * (1 + by * x * (1 - gate))
