"""What torch's graph is told: the value of one function with the gradient of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

GUARD = 1e-10
"""What x is moved by before f(x) is divided by it."""


class Scaled(torch.autograd.Function):
    """x itself, and a share of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None]:
        return (g * ctx.share if ctx.share else None), None


def scaled(x: Tensor, share: float) -> Tensor:
    """x itself, bit for bit; what comes back to it is `share` of its gradient."""
    if share == 1 or not x.requires_grad:
        return x
    made: Tensor = Scaled.apply(x, share)  # type: ignore[no-untyped-call]
    return made


def held(x: Tensor) -> Tensor:
    """x itself, as a constant; it still asks for a gradient, as kernels choose by that."""
    return scaled(x, 0.0)


def shared(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, depends: Callable[[Tensor], bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """q, k, v and an additive bias of softmax(q kᵀ + bias) v, each with its share of the gradient: a product gives half to each
    of two operands that depend on the inputs, and all to one that does so alone. So q and k mostly have ¼, v and the bias ½."""
    looks = depends(q) or depends(k) or (bias is not None and depends(bias))
    at_weights = 0.5 if depends(v) else 1.0
    at_scores = at_weights * (0.5 if depends(q) and depends(k) else 1.0)
    biased = None if bias is None else scaled(bias, at_weights)
    return scaled(q, at_scores), scaled(k, at_scores), scaled(v, 0.5 if looks else 1.0), biased


class Instead(torch.autograd.Function):
    """A value made of x, and a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, value: Any, at: Any, by_value: bool, x: Tensor) -> Tensor:
        made: Tensor = value(x.detach())
        ctx.at, ctx.dtype = at, x.dtype
        ctx.save_for_backward(made if by_value else x)
        return made

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, None, None, Tensor]:
        return None, None, None, ctx.at(g, *ctx.saved_tensors).to(ctx.dtype)


def instead(
    value: Callable[[Tensor], Tensor], at: Callable[[Tensor, Tensor], Tensor], x: Tensor, *, by_value: bool = False
) -> Tensor:
    """value(x), whose gradient at x is at(g, x), g the gradient at the value; `by_value`: at(g, value(x)).

    What is not asked for may be written into, as the model's own backward pass allows.
    """
    made: Tensor = Instead.apply(value, at, by_value, x)  # type: ignore[no-untyped-call]
    return made


def in_stead_of(value: Tensor, x: Tensor) -> Tensor:
    """A value, in the stead of an x that equals it but for rounding: its gradient goes to x."""
    return instead(lambda _: value.detach(), lambda g, _: g, x)


class ThroughZero(torch.autograd.Function):
    """f(x) as the straight line through 0 and its value."""

    @staticmethod
    def forward(ctx: Any, made: tuple[Tensor], x: Tensor) -> Tensor:
        (f,) = made
        wide = torch.promote_types(torch.promote_types(f.dtype, x.dtype), torch.float32)
        ctx.save_for_backward((f.to(wide) / (x.to(wide) + GUARD)).to(f.dtype))
        ctx.dtype = x.dtype
        return f

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
        (slope,) = ctx.saved_tensors
        return None, (g * slope).to(ctx.dtype)


def proportional(f: Tensor, x: Tensor) -> Tensor:
    """f, an element-wise function's value at x, whose gradient at x is that of the straight line through 0 and it: g · f/x."""
    made: Tensor = ThroughZero.apply((f.detach(),), x)  # type: ignore[no-untyped-call]
    return made


def softmax_gradient(A: Tensor, G: Tensor) -> Tensor:
    """A ⊙ (G − Σ_k A_k G_k): from the gradient at a softmax's result to that at its argument, along the last axis."""
    back = A * G
    return back.addcmul_(A, back.sum(-1, keepdim=True), value=-1)


def warmer(A: Tensor) -> Tensor:
    """softmax(S/2) of A = softmax(S), along the last axis: √A brought to sum 1; a row of zeros stays one."""
    root = A.sqrt()
    return root / root.sum(-1, keepdim=True).clamp(min=torch.finfo(root.dtype).tiny)


# -- norms: the divisor is a constant ---------------------------------------------------------------------------------


def _weighed(g: Tensor, weight: Tensor | None) -> Tensor:
    return g if weight is None else g * weight


def layer_norm_gradient(g: Tensor, x: Tensor, dims: int, weight: Tensor | None, eps: float) -> Tensor:
    """At x, of (x − mean) / std · w over the last `dims` axes, std held constant."""
    over = tuple(range(-dims, 0))
    g, x = _weighed(g.float() if g.dtype.itemsize < 4 else g, weight), x.to(torch.promote_types(x.dtype, torch.float32))
    g = g * (x.var(over, unbiased=False, keepdim=True) + eps).rsqrt()
    return g - g.mean(over, keepdim=True)


def rms_norm_gradient(g: Tensor, x: Tensor, dims: int, weight: Tensor | None, eps: float) -> Tensor:
    """At x, of x / rms · w over the last `dims` axes, rms held constant."""
    over = tuple(range(-dims, 0))
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return _weighed(g, weight) * (x.square().mean(over, keepdim=True) + eps).rsqrt()


def group_norm_gradient(g: Tensor, x: Tensor, groups: int, weight: Tensor | None, eps: float) -> Tensor:
    """At x, (sample, channel, ...), of (x − mean) / std · w over groups of channels, std held constant."""
    by_channel = None if weight is None else weight.reshape(1, -1, *[1] * (x.ndim - 2))
    split = (len(x), groups, -1)
    back = layer_norm_gradient(_weighed(g, by_channel).reshape(split), x.reshape(split), 1, None, eps)
    return back.reshape(x.shape)


def length_gradient(g: Tensor, x: Tensor, p: float, dim: Any, eps: float) -> Tensor:
    """At x, of x / max(‖x‖_p, eps), the length held constant."""
    length: Tensor = torch.linalg.vector_norm(x, p, dim, keepdim=True)
    return g / length.clamp(min=eps)


# -- linear maps: the γ rule ------------------------------------------------------------------------------------------


def favouring(
    run: Callable[[Tensor, Tensor, Tensor | None], Tensor], x: Tensor, w: Tensor, b: Tensor | None, gamma: float
) -> Tensor:
    """run(x, w, b), a linear map; the gradient favours what adds to each output (LRP's γ rule, for inputs of either sign).

    With w⁺ = max(w, 0) and w⁻ = min(w, 0), an output above 0 is shared out in proportion to
    x⁺(w + γw⁺) + x⁻(w + γw⁻) + b + γb⁺, one below 0 with the signs changed; γ = 0 is the plain gradient.
    """

    def at(g: Tensor, x: Tensor) -> Tensor:
        z = run(x, w, b)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            parts = _favoured(run, leaf, w, b, gamma)
            up, down = (g * (z / _away_from_zero(part.detach())) for part in parts)
            y = torch.where(z > 0, parts[0] * up, parts[1] * down).sum()
            found: Tensor = torch.autograd.grad(y, leaf)[0]
        return found

    return instead(lambda x: run(x, w, b), at, x)


def _favoured(run: Any, x: Tensor, w: Tensor, b: Tensor | None, gamma: float) -> tuple[Tensor, Tensor]:
    """z with what adds to it favoured, and z with what takes from it favoured."""
    above, below = x.clamp(min=0), x.clamp(max=0)
    more, less = w + gamma * w.clamp(min=0), w + gamma * w.clamp(max=0)
    up, down = (None, None) if b is None else (b + gamma * b.clamp(min=0), b + gamma * b.clamp(max=0))
    return run(above, more, up) + run(below, less, None), run(above, less, down) + run(below, more, None)


def _away_from_zero(z: Tensor) -> Tensor:
    return z + torch.where(z < 0, -GUARD, GUARD)


__all__ = [
    "favouring",
    "group_norm_gradient",
    "held",
    "in_stead_of",
    "instead",
    "layer_norm_gradient",
    "length_gradient",
    "proportional",
    "rms_norm_gradient",
    "scaled",
    "shared",
    "softmax_gradient",
    "warmer",
]
