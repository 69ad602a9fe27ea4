"""The backward pass of attention, changed: G = ∂y/∂A is corrected where it passes, and the rest is rebuilt in tiles.

The forward pass is the model's own kernel, its output bit for bit. formulas.md section 4: with M ∈ {1[G>0], 1[G<0], sign G,
1} and a guide m over the keys, G′ = m⊙M⊙G goes into dS = A⊙(G′ − Σ_k A G′) and dV′ = (A⊙M⊙m)ᵀ dO.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import nearest
from regard.recording.backward.functions import shared, softmax_gradient, warmer
from regard.recording.calls import AttentionCall
from regard.recording.calls.rebuild import tiles
from regard.recording.edits import Edit, applies
from regard.recording.tokens.tags import STRIDE


class Sign(NamedTuple):
    """M of a sign, as what it makes of G, M⊙G, and of A, A⊙M."""

    of_gradient: Callable[[Tensor], Tensor]
    of_weights: Callable[[Tensor, Tensor], Tensor]


SIGNS = {
    "positive": Sign(lambda G: G.clamp(min=0), lambda A, G: torch.where(G > 0, A, 0.0)),
    "negative": Sign(lambda G: G.clamp(max=0), lambda A, G: torch.where(G < 0, A, 0.0)),
    "absolute": Sign(torch.abs, lambda A, G: A * G.sign()),
    "signed": Sign(lambda G: G, lambda A, _G: A),
}
"""M = 1[G>0], 1[G<0], sign G, 1."""


@runtime_checkable
class AttentionRule(Protocol):
    """How a gradient flows through one attention call, (pair, row, key) of A and of G at a time; m: the guide of the keys."""

    def at_scores(self, A: Tensor, G: Tensor, m: Tensor | None, /) -> Tensor:
        """∂y/∂S."""

    def at_weights(self, G: Tensor, m: Tensor | None, /) -> Tensor:
        """∂y/∂A, of a map that the model made itself."""

    def to_values(self, A: Tensor, G: Tensor, m: Tensor | None, /) -> Tensor:
        """W in dV = Wᵀ dO."""

    def keys(self, call: AttentionCall, /) -> Tensor | None:
        """m, (group, key) of a call; None: 1."""

    def changes(self, call: AttentionCall) -> bool:
        """Whether this call is one that it changes."""


@dataclass(frozen=True, eq=False)
class Correction:
    """Complete correction, and guidance: G′ = m⊙M⊙G.

    guide: m (batch, row) over all rows; None: 1. attentions: the numbers of those that are corrected (None: all).
    """

    sign: str = "signed"
    guide: Float[Tensor, "batch row"] | None = None
    attentions: frozenset[int] | None = None
    attention_of: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sign not in SIGNS:
            raise nearest(self.sign, SIGNS, "sign")

    def changes(self, call: AttentionCall) -> bool:
        """Whether its attention is among those that are corrected."""
        return self.attentions is None or self.attention_of.get(call.index, call.index) in self.attentions

    def keys(self, call: AttentionCall, /) -> Tensor | None:
        """m at the rows of the call's values."""
        return None if self.guide is None else guide_of(self.guide, call)

    def at_weights(self, G: Tensor, m: Tensor | None, /) -> Tensor:
        """G′ = m⊙M⊙G."""
        return _guided(SIGNS[self.sign].of_gradient(G), m)

    def at_scores(self, A: Tensor, G: Tensor, m: Tensor | None, /) -> Tensor:
        """A⊙(G′ − Σ_k A G′)."""
        return softmax_gradient(A, self.at_weights(G, m))

    def to_values(self, A: Tensor, G: Tensor, m: Tensor | None, /) -> Tensor:
        """A⊙M⊙m."""
        return _guided(SIGNS[self.sign].of_weights(A, G), m)


@dataclass(frozen=True)
class Warmer:
    """gim: the softmax's backward pass at temperature 2 without the factor 1/2. Operands are given their shares beforehand."""

    def changes(self, call: AttentionCall) -> bool:
        """All fused calls; what a model writes out is changed operation by operation."""
        return call.A is None

    def keys(self, _call: AttentionCall, /) -> Tensor | None:
        """No guide."""
        return None

    def at_weights(self, G: Tensor, _m: Tensor | None, /) -> Tensor:
        """G itself."""
        return G

    def at_scores(self, A: Tensor, G: Tensor, _m: Tensor | None, /) -> Tensor:
        """A_T⊙(G − Σ_k A_T G), A_T = softmax(S/2)."""
        return softmax_gradient(warmer(A), G)

    def to_values(self, A: Tensor, _G: Tensor, _m: Tensor | None, /) -> Tensor:
        """A itself."""
        return A


def guide_of(guide: Float[Tensor, "batch row"], call: AttentionCall) -> Float[Tensor, "group key"]:
    """A guide at the rows of a call's values; 1 at rows of no token."""
    samples, rows = call.keys // STRIDE - 1, call.keys % STRIDE
    m = torch.where(rows > 0, guide[samples.clamp(min=0), rows], 1.0)
    return m.to(call.output.device, call.precision)


def _guided(x: Tensor, m: Tensor | None) -> Tensor:
    return x if m is None else x * m


@dataclass
class Correctable(Edit):
    """The backward pass of every call goes by `rule`, which may be another at the next gradient (None: the plain one).

    depends: whether a tensor depends on the inputs.
    """

    rule: AttentionRule | None = None
    calls: tuple[int, ...] | None = None
    depends: Callable[[Tensor], bool] = lambda t: t.requires_grad

    def call(self, call: AttentionCall) -> Tensor | None:
        """O itself, with a backward pass of its own."""
        if not applies(self.calls, call.index) or not call.output.requires_grad:
            return None
        if call.lost and not isinstance(self.rule, Warmer):
            return None
        if not any(t is not None and self.depends(t) for t in (call.q, call.k, call.v, call.A)):
            return None
        O: Tensor
        if call.A is None:
            O = FusedAttention.apply(_bare(call), self, *self._operands(call))  # type: ignore[no-untyped-call]
        elif isinstance(self.rule, Warmer):
            return None
        else:
            O = WeighedValues.apply(_bare(call), self, call.A, call.v)  # type: ignore[no-untyped-call]
        return O

    def _operands(self, call: AttentionCall) -> tuple[Tensor | None, ...]:
        """q, k, v and the mask, each with what part of its gradient is its."""
        assert call.q is not None
        assert call.k is not None
        operands = call.q, call.k, call.v, call.mask
        return shared(*operands, self.depends) if isinstance(self.rule, Warmer) else operands

    def of(self, call: AttentionCall) -> AttentionRule:
        """The rule of a call at this moment."""
        return self.rule if self.rule is not None and self.rule.changes(call) else PLAIN


PLAIN = Correction("signed")


def _bare(call: AttentionCall) -> AttentionCall:
    """A call without the graph of its own output; one whose tokens are not known has places for them all the same."""
    if call.lost and call.q is not None and call.k is not None:
        n, m = call.q.shape[-2], call.k.shape[-2]
        nobody = torch.zeros(1, max(n, m), dtype=torch.int64)
        call = replace(call, queries=nobody[:, :n], keys=nobody[:, :m])
    return replace(call, output=call.output.detach())


class WeighedValues(torch.autograd.Function):
    """O = A V of a map that the model made itself."""

    @staticmethod
    def forward(ctx: Any, call: AttentionCall, way: Correctable, A: Tensor, v: Tensor) -> Tensor:
        ctx.call, ctx.way = call, way
        ctx.save_for_backward(A, v)
        return call.output.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        A, v = ctx.saved_tensors
        call, rule = ctx.call, ctx.way.of(ctx.call)
        m = _by_pairs(rule, call)
        m = None if m is None else m.unflatten(0, (call.layout.groups, -1))
        dO, V = (t.to(call.precision) for t in (call.canonical(g), call.repeated(v)))
        weights = call.layout(A).to(call.precision)
        G = dO @ V.transpose(-1, -2)
        at_A = call.layout.back(rule.at_weights(G, m))
        at_v = call.layout.back(rule.to_values(weights, G, m).transpose(-1, -2) @ dO)
        return None, None, _like(at_A, A), _like(at_v, v)


class FusedAttention(torch.autograd.Function):
    """O of a fused kernel."""

    @staticmethod
    def forward(
        ctx: Any, call: AttentionCall, way: Correctable, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        ctx.call, ctx.way = replace(call, q=None, k=None, mask=None), way
        ctx.save_for_backward(q, k, v, mask)
        return call.output.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        q, k, v, mask = ctx.saved_tensors
        call = replace(ctx.call, q=q, k=k, v=v, mask=mask, dO=g)
        biased = mask if ctx.needs_input_grad[5] else None
        back = _through(call, ctx.way.of(call), biased)
        found = [None if t is None else call.layout.back(t.unflatten(0, (call.layout.groups, -1))) for t in back]
        pairs = zip(found, (q, k, v, mask), strict=True)
        return None, None, *(None if t is None else _like(t, of) for t, of in pairs)


def _through(call: AttentionCall, rule: AttentionRule, bias: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients at q, k, v, each (pair, token, width), and at an additive mask where it has one: tile by tile."""
    groups, heads, n, keys = call.shape
    assert call.q is not None
    empty = torch.zeros((), device=call.output.device, dtype=call.precision)
    dq = empty.new_empty(groups * heads, n, call.q.shape[-1])
    dk, dv = (empty.new_zeros(groups * heads, keys, t.shape[-1]) for t in (call.q, call.v))
    db = None if bias is None else empty.new_zeros(groups * heads, n, keys)
    m = _by_pairs(rule, call)
    for tile, A, G in tiles(call, torch.arange(n)):
        assert G is not None
        part, span, at_keys = tile.part, tile.span, (tile.pairs, tile.keys)
        guide = None if m is None else m[tile.pairs, :, tile.keys]
        W, dS = rule.to_values(A, G, guide), rule.at_scores(A, G, guide)
        dv[at_keys].baddbmm_(W.transpose(1, 2), part.dO[:, span])
        dk[at_keys].baddbmm_(dS.transpose(1, 2), part.q[:, span])
        torch.bmm(dS, part.kT.transpose(1, 2)[:, tile.keys], out=dq[tile.pairs, span])
        if db is not None:
            db[tile.pairs, span, tile.keys] += dS
    return dq.mul_(call.scale), dk, dv, db


def _by_pairs(rule: AttentionRule, call: AttentionCall) -> Float[Tensor, "pair 1 key"] | None:
    """m of each (group, head) pair."""
    m = rule.keys(call)
    return None if m is None else m.repeat_interleave(call.layout.heads, 0)[:, None]


def _like(t: Tensor, of: Tensor) -> Tensor:
    """A gradient (lead..., token, width) in the shape of the operand that was repeated to it: grouped heads, broadcast axes."""
    if of.ndim > 2 and t.ndim > 2 and of.shape[-3] not in (1, t.shape[-3]):
        t = t.unflatten(-3, (of.shape[-3], -1)).sum(-3)
    return t.sum_to_size(of.shape).to(of.dtype)


__all__ = ["PLAIN", "SIGNS", "AttentionRule", "Correctable", "Correction", "Warmer", "guide_of"]
