"""One attention call: softmax(QKᵀ)V as the model ran it, with rows of A and of G = ∂y/∂A rebuilt on demand.

Nothing of size n×n is kept. A fused call keeps q, k, v, the mask and the scale; A's rows are rebuilt from them (rebuild.py).
A call that the model itself ran with an explicit A keeps that A. In both, G_h = dO_h V_hᵀ, exactly (formulas.md section 0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.recording.calls.kernel import Kernel
from regard.recording.calls.rebuild import Tile, row_blocks, tiles
from regard.recording.graph import written_by_hand
from regard.recording.tokens.tags import STRIDE

T = TypeVar("T")


@runtime_checkable
class Rule(Protocol):
    """An edge rule (formulas.md section 2): one call's rows of A and G to rows of one matrix E.

    `gradient` says whether G is needed. `each(A, AG)` gives one matrix a head; `over_heads` is how heads are joined.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def gradient(self) -> bool: ...  # noqa: D102

    @property
    def over_heads(self) -> str: ...  # noqa: D102

    def each(self, A: Tensor, AG: Tensor | None) -> Tensor:
        """(group, head, row, key) of A, and of A⊙G -> (group, head, row, key)."""


class Pull(NamedTuple):
    """What is asked of a call: r @ E by a rule, one row r or several; normalised: with the rows of E + I brought to sum 1.

    E = Σ_h θ_h E_h diag(κ): `heads` are θ (None: 1/H each, the mean), `keys` are κ (None: 1).
    """

    r: Float[Tensor, "*read group row"]
    rule: Rule
    normalised: bool = False
    heads: Float[Tensor, "group head"] | None = None
    keys: Float[Tensor, "group key"] | None = None


class Pulled(NamedTuple):
    """The answer: r @ E, and the share of its relevance that each row keeps (1, or 1/(1 + Σ_j E_ij))."""

    moved: Float[Tensor, "*read group key"]
    keep: Float[Tensor, "group row"]


class Visit(NamedTuple):
    """One run through an element of a list of modules, counted from 0."""

    module: str
    visit: int


class Rows(NamedTuple):
    """Some query rows of a call: which ones (`at`), A there, and G there (None without a target)."""

    at: Int[Tensor, " row"]
    A: Float[Tensor, "group head row key"]
    G: Float[Tensor, "group head row key"] | None


def by_rows(f: Callable[[AttentionCall], T]) -> Callable[[AttentionCall], T]:
    """A function of a call's queries and keys alone, which is asked once for all calls that share them."""
    known: dict[tuple[int, int], T] = {}

    def asked(call: AttentionCall) -> T:
        key = id(call.queries), id(call.keys)
        if key not in known:
            known[key] = f(call)
        return known[key]

    return asked


@dataclass(frozen=True, kw_only=True)
class AttentionCall(Kernel):
    """One attention call of a run: a `Kernel`, and what it means.

    Attributes:
        index: place in execution order. event: its bit in `seen` (token maps are events too).
        module: dotted path of the module that made it. kernel: "sdpa" (fused) or "softmax" (A made by the model).
        seen: events that the values had absorbed; rows_seen, keys_seen: those that the queries, and the keys, had.
        lost: why the trail of its tokens is lost, or "". block: the block that it stands in, or None.
        detached: the model cut it out of the graph (`no_grad`, `detach`), so that no gradient comes through.
        looks: the stream of the keys, where these are other tokens than the values (whose rows `keys` are, as G is about them).
        biased: of weights that the model made, other inputs that were added to the scores.
        attention: the number of the attention (attention.py) that the call is a part of; share: the part of the attention's
            heads that are its own, one number or one a query row (group, row).
        beside: the other calls of the attention, when bound and where it has several.
    """

    index: int
    event: int
    module: str
    kernel: str
    seen: int
    lost: str = ""
    block: Visit | None = None
    rows_seen: int = 0
    keys_seen: int = 0
    detached: bool = False
    looks: str = ""
    biased: frozenset[str] = frozenset()
    attention: int = 0
    share: float | Float[Tensor, "group row"] = 1.0
    beside: tuple[AttentionCall, ...] = field(default=(), repr=False)

    @property
    def enclosed(self) -> bool:
        """Whether it ran inside a torch.autograd.Function of the model's own, whose gradient knows of no edit in it."""
        return written_by_hand(self.output.grad_fn)

    def bind(self, dO: Tensor | None, at_weights: Tensor | None = None) -> AttentionCall:
        """The same with the gradient of a target at its output (None: the target does not depend on it).

        at_weights: the gradient at `weights`, of a call that has them.
        """
        dO = torch.zeros_like(self.output) if dO is None else dO
        if self.weights is None:
            return replace(self, dO=dO)
        return replace(self, dO=dO, G=self.weights.part(at_weights))

    @property
    def samples(self) -> Int[Tensor, " group"]:
        """The sample that each group belongs to."""
        return (torch.cat([self.queries, self.keys], 1) // STRIDE).amax(1) - 1

    def rows(self, index: Int[Tensor, " row"], *, gradient: bool | None = None) -> Rows:
        """A at some query rows, and G there when bound to a target: their whole size, in `precision`."""
        groups, heads, n, m = self.shape
        call = self._for(self.dO is not None if gradient is None else gradient)
        A = torch.zeros(groups, heads, len(index), m, device=self.output.device, dtype=self.precision)
        G = torch.zeros_like(A) if call.dO is not None else None
        at = torch.full((n,), -1, dtype=torch.int64).index_copy_(0, index.cpu(), torch.arange(len(index)))
        for tile, some, gradients in tiles(call, index.cpu(), unseen=True):
            place = (slice(tile.pairs.start, tile.pairs.stop), at[tile.rows].to(A.device), tile.keys)
            A.flatten(0, 1)[place] = some
            if G is not None and gradients is not None:
                G.flatten(0, 1)[place] = gradients
        return Rows(index, A, G)

    def _for(self, gradient: bool) -> AttentionCall:
        """The call, with G to be built or not."""
        if gradient and self.dO is None:
            raise ValueError("this call is not bound to a target; use recording.gradients(target).calls")
        return self if gradient else replace(self, dO=None)

    def pull(self, r: Float[Tensor, "*read group row"], rule: Rule) -> Float[Tensor, "*read group key"]:
        """r @ E, with E rebuilt in tiles; rows where r is zero in every group are never built."""
        return self.pull_all([Pull(r, rule)])[0].moved

    def shared(self, E: Tensor, rows: Tensor | None = None) -> Tensor:
        """The call's part of its attention's E: E (group, row, ...), of some query rows or all, times the share of heads."""
        if isinstance(self.share, float):
            return E if self.share == 1 else E * self.share
        share = (self.share if rows is None else self.share[:, rows.cpu()]).to(E)
        return E * share.view(*share.shape, *[1] * (E.ndim - 2))

    def push(self, x: Float[Tensor, "group key"], rule: Rule) -> Float[Tensor, "group row"]:
        """E @ x, with E rebuilt in tiles: what each row has of something that the keys have."""
        groups, heads, n, _ = self.shape
        x = x.to(self.output.device, self.precision)
        out = torch.zeros(groups, n, device=x.device, dtype=x.dtype)
        for tile, A, G in tiles(self._for(rule.gradient), torch.arange(n), whole=rule.over_heads == "max"):
            each = rule.each(tile.cut(A), None if G is None else tile.cut(G.mul_(A)))
            E = each.amax(1) if rule.over_heads == "max" else each.sum(1) / heads
            out[tile.groups, tile.rows.to(x.device)] += (E @ x[tile.groups, tile.keys, None])[..., 0]
        return self.shared(out)

    def pull_all(self, pulls: Sequence[Pull]) -> list[Pulled]:
        """Several r @ E at once: A and G of each tile are built once and serve every rule."""
        groups, heads, n, m = self.shape
        device = self.output.device
        rs = [p.r.to(device, self.precision) for p in pulls]
        none, one = (f((), device=device, dtype=self.precision) for f in (torch.zeros, torch.ones))
        done = [Pulled(none.repeat(*r.shape[:-2], groups, m), one.repeat(groups, n)) for r in rs]
        needed = torch.stack([(r != 0).flatten(0, -2).any(0) for r in rs]).cpu()
        call = self._for(any(p.rule.gradient for p in pulls))
        whole, several = any(p.normalised or p.rule.over_heads == "max" for p in pulls), len(pulls) > 1
        for tile, A, G in tiles(call, needed.any(0).nonzero()[:, 0], whole=whole):
            each_A, each_AG, span = tile.cut(A), None if G is None else tile.cut(G.mul_(A)), tile.span
            serves = [i for i, needs in enumerate(needed[:, span].any(1).tolist()) if needs] if several else [0]
            for i in serves:
                r = rs[i][..., tile.groups, span]
                weights = _weights(pulls[i], tile, heads, r, self.share)
                share = _share_of_rows(pulls[i], tile, self.share)
                moved, keep = _through(r, pulls[i], each_A, each_AG, weights, share, last=i == serves[-1])
                done[i].moved[..., tile.groups, tile.keys] += moved
                if pulls[i].normalised:
                    done[i].keep[tile.groups, span] = keep
        return done

    def chunks(self, rows: Int[Tensor, " row"]) -> Iterator[Int[Tensor, " row"]]:
        """Row indices in blocks whose A, over all groups and heads, fits the budget."""
        yield from row_blocks(self, rows, self.layout.groups * self.layout.heads)


def _weights(pull: Pull, tile: Tile, heads: int, r: Tensor, share: float | Tensor) -> tuple[Tensor, Tensor | None]:
    """θ of a tile's heads, (group, head), and κ of its keys, (group, key), as r is counted.

    The mean over heads is the attention's: a call's own mean counts as much as its share of the attention's heads (where that
    differs from row to row: `_share_of_rows`).
    """
    if pull.heads is None or pull.rule.over_heads == "max":
        each = share / heads if isinstance(share, float) else 1 / heads
        theta = r.new_full((1, 1), 1.0 if pull.rule.over_heads == "max" else each)
    else:
        first = tile.pairs.start % heads
        theta = pull.heads.to(r)[tile.groups, first : first + tile.heads]
    return theta, None if pull.keys is None else pull.keys.to(r)[tile.groups, tile.keys]


def _share_of_rows(pull: Pull, tile: Tile, share: float | Tensor) -> Tensor | None:
    """A call's share of its attention's heads, (group, row) of a tile, where a mean over heads is asked for and heads differ in
    number from row to row."""
    if isinstance(share, float) or pull.heads is not None or pull.rule.over_heads == "max":
        return None
    return share[tile.groups, tile.rows]


def _through(
    r: Tensor,
    pull: Pull,
    A: Tensor,
    AG: Tensor | None,
    weights: tuple[Tensor, Tensor | None],
    share: Tensor | None,
    last: bool,
) -> tuple[Tensor, Tensor]:
    """r @ E for one tile, and what its rows keep; the sum over heads is taken by the product itself.

    last: nobody needs A⊙G after this, so that a rule that can may write over it (new memory for each tile costs much).
    """
    over = getattr(pull.rule, "over", None) if last and AG is not None else None
    each = pull.rule.each(A, AG) if over is None else over(AG)
    if pull.rule.over_heads == "max":
        each = each.amax(1, keepdim=True)
    theta, kappa = weights
    groups, some, n, m = each.shape
    keep = torch.ones_like(r[(0,) * (r.ndim - 2)])
    own = 1.0 if share is None else share.to(r)
    if pull.normalised:
        sums = each.sum(-1) if kappa is None else (each @ kappa[:, None, :, None])[..., 0]
        keep = 1 / (1 + own * (theta[..., None] * sums).sum(1))
    r = r * (own * keep)
    rows = r.reshape(-1, groups, 1, n) * theta[..., None]
    rows = rows.expand(-1, groups, some, n).reshape(-1, groups, some * n).transpose(0, 1)
    moved = (rows @ each.reshape(groups, some * n, m)).transpose(0, 1).reshape(*r.shape[:-1], m)
    return moved if kappa is None else moved * kappa, keep
