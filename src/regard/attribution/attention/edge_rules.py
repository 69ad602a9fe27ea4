"""Edge rules: one attention call -> one (query × key) matrix E. formulas.md section 2, a row of it each.

A rule maps A, and A⊙G, head by head; heads are then joined by mean or max (the clamp comes before the mean), or by weights;
keys may have weights, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from regard.attribution.attention.head_and_key_weights import Heads, Keys, head_importance, value_norms
from regard.recording import AttentionCall, Recording, Step


@dataclass(frozen=True)
class Edge:
    """E = over_heads_h f(A_h) or f(A_h⊙G_h). `in_place`: the same f, written over its argument.

    `heads`: weights θ of the heads, in the place of 1/H; `keys`: weights κ of the keys, E diag(κ).
    """

    name: str
    f: Callable[[Tensor], Tensor]
    gradient: bool = True
    over_heads: str = "mean"
    in_place: Callable[[Tensor], Tensor] | None = None
    heads: Callable[[Recording, AttentionCall], Heads] | None = None
    keys: Callable[[Recording, AttentionCall], Keys] | None = None

    def each(self, A: Tensor, AG: Tensor | None) -> Tensor:
        """(group, head, row, key) -> (group, head, row, key)."""
        if not self.gradient:
            return self.f(A)
        assert AG is not None
        return self.f(AG)

    @property
    def over(self) -> Callable[[Tensor], Tensor] | None:
        """f written over A⊙G; None for a rule of A alone, or where f has no such form."""
        return self.in_place if self.gradient else None

    def step(self, recording: Recording, call: AttentionCall, normalised: bool, hops: str = "all") -> Step:
        """The rule for one call, with the weights that it has there."""
        heads, keys = (None if f is None else f(recording, call) for f in (self.heads, self.keys))
        return Step(self, normalised, hops, heads, keys)


EDGES: dict[str, Edge] = {
    e.name: e
    for e in (
        Edge("mean", lambda A: A, gradient=False),
        Edge("max", lambda A: A, gradient=False, over_heads="max"),
        Edge("positive", lambda AG: AG.clamp(min=0), in_place=lambda AG: AG.clamp_(min=0)),
        Edge("negative", lambda AG: (-AG).clamp(min=0), in_place=lambda AG: AG.neg_().clamp_(min=0)),
        Edge("absolute", lambda AG: AG.abs(), in_place=lambda AG: AG.abs_()),
        Edge("signed", lambda AG: AG),
        Edge("head_weighted", lambda A: A, gradient=False, heads=head_importance),
        Edge("value_weighted", lambda A: A, gradient=False, keys=value_norms),
    )
}
"""`absolute` = `positive` + `negative`; `signed` = `positive` − `negative`."""
