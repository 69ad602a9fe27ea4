"""Attention-ECLIP and Grad-ECLIP written out: eager attention with A, q, k, v and O at hand, gradients by autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Seen:
    """One attention: q, k, v (batch, head, token, width), its A and its O; W_O and its bias."""

    q: Tensor
    k: Tensor
    v: Tensor
    A: Tensor
    O: Tensor
    out: nn.Linear


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, out: Any, single: bool) -> Seen:
    """softmax(qkᵀ/√width) v; single: all heads as one over the full width."""
    if single:
        q, k, v = (t.transpose(1, 2).flatten(2)[:, None] for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    A = torch.softmax(scores if mask is None else scores + mask, -1)
    return Seen(q, k, v, A, A @ v, out)


@contextmanager
def written_out(model: nn.Module, module: Any, single: Sequence[nn.Module] = ()) -> Iterator[list[Seen]]:
    """The model's attention of Transformers' `module` (set to eager), and any `nn.MultiheadAttention`, in these lines."""
    seen: list[Seen] = []

    def eager(own: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **_: Any) -> tuple[Tensor, Tensor]:
        seen.append(attend(q, k, v, mask, getattr(own, "out_proj", None) or own.o_proj, own in single))
        O = seen[-1].O.transpose(1, 2)
        return O.contiguous(), seen[-1].A

    def pooling(own: nn.MultiheadAttention) -> Callable[..., Any]:
        def forward(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> tuple[Tensor, None]:
            W, b = own.in_proj_weight.chunk(3), own.in_proj_bias.chunk(3)
            given = (x @ w.T + c for x, w, c in zip((query, key, value), W, b, strict=True))
            q, k, v = (t.unflatten(-1, (own.num_heads, -1)).transpose(1, 2) for t in given)
            seen.append(attend(q, k, v, None, own.out_proj, own in single))
            return own.out_proj(seen[-1].O.transpose(1, 2).flatten(2)), None

        return forward

    before, heads = module.eager_attention_forward, [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    model.set_attn_implementation("eager")
    module.eager_attention_forward = eager
    for head in heads:
        head.forward = pooling(head)  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        module.eager_attention_forward = before
        for head in heads:
            del head.forward
        model.set_attn_implementation("sdpa")


def by_attention(y: Tensor, s: Seen, row: Tensor, i: int) -> Tensor:
    """Σ_h ∂y/∂A_h at one row, (key,)."""
    (G,) = torch.autograd.grad(y, [s.A], retain_graph=True)
    return G[i, :, row[i]].sum(0)


def by_channels(y: Tensor, s: Seen, row: Tensor, i: int) -> Tensor:
    """Σ_ch g_ch v_ch, (key,)."""
    (g,) = torch.autograd.grad(y, [s.O], retain_graph=True)
    return torch.stack([(g[i, :, row[i]] * s.v[i, :, j]).sum() for j in range(s.v.shape[2])])


def weights(s: Seen, row: Tensor, i: int, keep: Tensor, how: SimpleNamespace) -> Tensor:
    """λ of each key."""
    if how.loosening == "none":
        return torch.ones(s.k.shape[2], dtype=s.k.dtype)
    if how.loosening == "softmax":
        c = s.A[i, :, row[i]].mean(0)
    else:
        q, k = s.q[i, :, row[i]].flatten(), s.k[i].transpose(0, 1).flatten(1)
        if how.qk == "projected":
            q, k = s.out(q), s.out(k)
        c = torch.stack([torch.dot(q, one) / (q.norm() * one.norm()) for one in k])
    counted = c if how.qk_range == "all" else c[keep[i]]
    span = counted.max() - counted.min()
    return (c - counted.min()) / span if span > 0 else torch.zeros_like(c)


def literal(
    y: Tensor, layers: Sequence[Seen], row: Tensor, keep: Tensor, product: Callable[..., Tensor], how: SimpleNamespace
) -> Tensor:
    """The map of one tower, (batch, token): `keep` says which tokens have a score. y: (batch,), one a sample."""
    out = torch.zeros(keep.shape, dtype=y.dtype)
    for i in range(len(keep)):
        for s in layers:
            if how.loosening == "attention":
                (G,) = torch.autograd.grad(y[i], [s.A], retain_graph=True)
                out[i] += (s.A * G)[i, :, row[i]].sum(0).detach()
            else:
                out[i] += (weights(s, row, i, keep, how) * product(y[i], s, row, i)).detach()
    return out.clamp(min=0) * keep
