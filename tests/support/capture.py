"""Every attention map of a run, by an eager attention that keeps each A in the graph.

`captured()` swaps torch's attention, so that G = ∂y/∂A is plain autograd and owes nothing to the identity G = dO Vᵀ that
the library rests on. Nothing here uses our code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SOFTMAX = torch.softmax


@dataclass
class Maps:
    """What a literal run left: per call S and A = softmax(S) (lead..., query, key) and, where the twin made O itself, O; random
    orders drawn."""

    A: list[Tensor] = field(default_factory=list)
    S: list[Tensor] = field(default_factory=list)
    O: dict[int, Tensor] = field(default_factory=dict)
    orders: list[Tensor] = field(default_factory=list)
    busy: bool = False

    def softmax(self, S: Tensor, softmax: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """A of scores S, both kept."""
        if S.requires_grad:
            S.retain_grad()
        self.S.append(S)
        return self.keep(softmax(S, *args, **kwargs))

    def keep(self, A: Tensor) -> Tensor:
        if not A.requires_grad:
            A.requires_grad_()
        A.retain_grad()
        self.A.append(A)
        return A


def eager(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """S, written out."""
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        n, m = scores.shape[-2:]
        for i in range(n):
            scores[..., i, i + 1 : m] = -torch.inf
    if mask is not None and mask.dtype == torch.bool:
        scores = torch.where(mask, scores, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    return scores


def looked(S: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A of scores; rows that see nothing are 0."""
    return torch.nan_to_num(SOFTMAX(S, *args, **kwargs), 0.0)


@contextmanager
def captured() -> Iterator[Maps]:
    """Run models with eager attention, every A kept with its gradient, in execution order."""
    maps = Maps()
    saved = F.scaled_dot_product_attention, F.softmax, torch.softmax, Tensor.softmax, torch.multinomial
    fast = torch.backends.mha.get_fastpath_enabled()

    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        assert dropout_p == 0.0
        if enable_gqa:
            each = query.shape[-3] // key.shape[-3]
            key = torch.stack([key[..., h // each, :, :] for h in range(query.shape[-3])], -3)
            value = torch.stack([value[..., h // each, :, :] for h in range(query.shape[-3])], -3)
        was, maps.busy = maps.busy, True
        A = maps.softmax(eager(query, key, attn_mask, is_causal, scale), looked, -1)
        maps.busy = was
        O = A @ value
        O.retain_grad()
        maps.O[len(maps.A) - 1] = O
        return O

    def watching(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def softmax(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if maps.busy or x.ndim < 3:
                return original(x, *args, **kwargs)
            maps.busy = True
            try:
                return maps.softmax(x, original, *args, **kwargs)
            finally:
                maps.busy = False

        return softmax

    def multinomial(*args: Any, **kwargs: Any) -> Tensor:
        maps.orders.append(saved[4](*args, **kwargs))
        return maps.orders[-1]

    try:
        torch.backends.mha.set_fastpath_enabled(False)
        F.scaled_dot_product_attention = attention
        F.softmax, torch.softmax, Tensor.softmax = (watching(f) for f in saved[1:4])
        torch.multinomial = multinomial
        yield maps
    finally:
        F.scaled_dot_product_attention, F.softmax, torch.softmax, Tensor.softmax, torch.multinomial = saved
        torch.backends.mha.set_fastpath_enabled(fast)
