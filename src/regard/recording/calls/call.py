"""One attention call: softmax(QKᵀ)V as the model ran it, with rows of A and of G = ∂y/∂A rebuilt on demand.

Nothing of size n×n is kept. A fused call keeps q, k, v, the mask and the scale; A's rows are rebuilt from them (rebuild.py).
A call that the model itself ran with an explicit A keeps that A. In both, G_h = dO_h V_hᵀ, exactly (METHODS.md section 0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from regard.recording.calls.rebuild import MEMORY_BUDGET, Tile, row_blocks, tiles, visible
from regard.recording.tokens.tracker import STRIDE, constant

T = TypeVar("T")


@runtime_checkable
class Rule(Protocol):
    """An edge rule (METHODS.md section 2): one call's rows of A and G to rows of one matrix E.

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


class Weights(NamedTuple):
    """A tensor that A is a view of (or A itself), with A's size, stride and offset in it."""

    root: Tensor
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor, A: Tensor | None) -> Weights | None:
        """From a tensor of the graph, and A, a view of it; None where no gradient can be read there."""
        root = tensor if tensor._base is None else tensor._base
        if A is None or not root.requires_grad or A.untyped_storage().data_ptr() != root.untyped_storage().data_ptr():
            return None
        return cls(root, tuple(A.shape), A.stride(), int(A.storage_offset() - root.storage_offset()))

    def part(self, gradient: Tensor | None) -> Tensor:
        """What of a gradient at the root is A's, in A's shape."""
        laid = torch.zeros_like(self.root) if gradient is None else torch.empty_like(self.root).copy_(gradient)
        return laid.detach().as_strided(self.size, self.stride, laid.storage_offset() + self.offset)


class Rows(NamedTuple):
    """Some query rows of a call: which ones (`at`), A there, and G there (None without a target)."""

    at: Int[Tensor, " row"]
    A: Float[Tensor, "group head row key"]
    G: Float[Tensor, "group head row key"] | None


@dataclass(frozen=True)
class Layout:
    """From a call's own axes (lead..., token, width) to (group, head, token, width).

    A lead axis along which the ids do not change is a head axis; the others are groups (samples, windows). Groups whose
    ids repeat (batch × heads flattened into one axis, sample by sample or head by head) are heads too; where they do not
    stand side by side, `places` says where each (group, head) does.
    """

    lead: tuple[int, ...]
    order: tuple[int, ...]
    groups: int
    heads: int
    places: Int[Tensor, " pair"] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, queries: Tensor, keys: Tensor) -> Layout:
        """From ids (lead..., query) and (lead..., key)."""
        lead = queries.shape[:-1]
        head = [d for d in range(len(lead)) if constant(queries, d) and constant(keys, d)]
        order = [d for d in range(len(lead)) if d not in head] + head
        heads = int(torch.tensor([lead[d] for d in head]).prod()) if head else 1
        groups = int(torch.tensor(lead).prod()) // heads if lead else 1
        flat = [t.permute(*order, -1).reshape(groups, heads, -1)[:, 0] for t in (queries, keys)]
        ids = torch.cat(flat, 1)
        repeats, places = _run_length(ids), None
        if repeats == 1 and (alike := _scattered(ids)) is not None:
            repeats = alike.shape[1]
            places = (alike[..., None] * heads + torch.arange(heads)).flatten()
        return cls(tuple(lead), tuple(order), groups // repeats, heads * repeats, places)

    def __call__(self, t: Tensor) -> Tensor:
        """(lead..., token, width) -> (group, head, token, width); lead axes of length 1 are broadcast."""
        t = t.expand(*self.lead, *t.shape[-2:])
        n = len(self.lead)
        t = t.permute(*self.order, n, n + 1)
        if self.places is not None:
            t = t.reshape(-1, *t.shape[-2:])[self.places.to(t.device)]
        return t.reshape(self.groups, self.heads, *t.shape[-2:])

    def of_groups(self, ids: Tensor) -> Int[Tensor, "group token"]:
        """Ids (lead..., token), one row for each group."""
        return self(ids[..., None])[:, 0, :, 0].contiguous()

    def pairs(self, t: Tensor, part: slice) -> Tensor:
        """(lead..., token, width) -> (some of group · head, token, width); a copy of that part only, and only where needed.

        A lead axis of `t` may be shorter than the call's: keys and values of grouped heads serve the queries of their group.
        """
        shape = (1,) * (len(self.lead) - t.ndim + 2) + tuple(t.shape[:-2])
        t = t.reshape(*shape, *t.shape[-2:])
        if all(n == 1 for n in shape):
            return t.reshape(1, *t.shape[-2:]).expand(part.stop - part.start, -1, -1)
        if shape == self.lead and len(shape) == 1 and self.places is None:
            return t[part]
        if self.places is None and shape == self.lead == (self.groups, self.heads) and self.order == (0, 1):
            first, last = part.start // self.heads, -(-part.stop // self.heads)
            return t[first:last, part.start - first * self.heads :][:, : part.stop - part.start].flatten(0, 1)
        numbers = torch.arange(part.start, part.stop, device=t.device)
        numbers = numbers if self.places is None else self.places.to(t.device)[part]
        at = torch.unravel_index(numbers, [self.lead[d] for d in self.order])
        index = {d: at[i] * shape[d] // self.lead[d] for i, d in enumerate(self.order)}
        return t[tuple(index[d] for d in range(len(self.lead)))]

    def back(self, t: Tensor) -> Tensor:
        """(group, head, token, width) -> (lead..., token, width)."""
        n = len(self.lead)
        if self.places is not None:
            t = t.reshape(-1, *t.shape[-2:])[self.places.argsort().to(t.device)]
        t = t.reshape(*[self.lead[d] for d in self.order], *t.shape[-2:])
        inverse = sorted(range(n), key=lambda d: self.order[d])
        return t.permute(*inverse, n, n + 1)


def by_rows(f: Callable[[AttentionCall], T]) -> Callable[[AttentionCall], T]:
    """A function of a call's queries and keys alone, which is asked once for all calls that share them."""
    known: dict[tuple[int, int], T] = {}

    def asked(call: AttentionCall) -> T:
        key = id(call.queries), id(call.keys)
        if key not in known:
            known[key] = f(call)
        return known[key]

    return asked


def _run_length(ids: Tensor) -> int:
    """How often each row of ids is repeated in place, where every row is repeated equally often; else 1."""
    if len(ids) < 2:
        return 1
    changes = (ids[1:] != ids[:-1]).any(1).nonzero()[:, 0] + 1
    run = int(changes[0]) if len(changes) else len(ids)
    regular = len(ids) % run == 0 and torch.equal(changes, torch.arange(run, len(ids), run))
    return run if regular else 1


def _scattered(ids: Tensor) -> Int[Tensor, "group repeat"] | None:
    """Where the rows of ids that are alike stand, group by group, where each stands equally often and more than once."""
    if len(ids) < 2 or int((ids == ids[0]).all(1).sum()) < 2:
        return None
    _, which, counts = torch.unique(ids, dim=0, return_inverse=True, return_counts=True)
    if not bool((counts == counts[0]).all()):
        return None
    first = torch.full_like(counts, len(ids)).scatter_reduce(0, which, torch.arange(len(ids)), "amin")
    return first[which].argsort(stable=True).view(len(counts), -1)


@dataclass(frozen=True)
class AttentionCall:
    """One attention call of a run.

    Attributes:
        index: place in execution order. event: its bit in `seen` (token maps are events too).
        module: dotted path of the module that made it. kernel: "sdpa" (fused) or "softmax" (A made by the model).
        queries, keys: ids (group, token) of the rows and columns (see tokens.py). samples: (group,) the sample of each.
        seen: events that the values had absorbed; rows_seen, keys_seen: those that the queries, and the keys, had.
        output: O, in the model's own axes; `axes` permutes it to (lead..., row, width). layout: see `Layout`.
        detached: the model cut it out of the graph (`no_grad`, `detach`), so that no gradient comes through.
        looks: the stream of the keys, where these are other tokens than the values (whose rows `keys` are, as G is about them).
        biased: of weights that the model made, other inputs that were added to the scores.
        single: each query row is a group of its own, since its values are too (v_ij); the output has no axis of rows then.
        attention: the number of the attention (attention.py) that the call is a part of; share: the part of the attention's
            heads that are its own, one number or one a query row (group, row).
        weights: where G of all products with A is read, if A multiplies several values. G: that gradient, when bound.
        beside: the other calls of the attention, when bound and where it has several.
        dO: ∂y/∂O in the output's own axes, when bound to a target. lost: why the trail of its tokens is lost, or "".
        budget: the most bytes that its rebuilt rows may take at a time.
    """

    index: int
    event: int
    module: str
    kernel: str
    layout: Layout
    queries: Int[Tensor, "group row"]
    keys: Int[Tensor, "group key"]
    seen: int
    output: Tensor = field(repr=False)
    v: Tensor = field(repr=False)
    q: Tensor | None = field(default=None, repr=False)
    k: Tensor | None = field(default=None, repr=False)
    mask: Tensor | None = field(default=None, repr=False)
    causal: bool = False
    scale: float = 1.0
    A: Tensor | None = field(default=None, repr=False)
    axes: tuple[int, ...] | None = field(default=None, repr=False)
    dO: Tensor | None = field(default=None, repr=False)
    lost: str = ""
    block: str = ""
    rows_seen: int = 0
    keys_seen: int = 0
    detached: bool = False
    budget: int = MEMORY_BUDGET
    looks: str = ""
    single: bool = False
    biased: frozenset[str] = frozenset()
    attention: int = 0
    share: float | Float[Tensor, "group row"] = 1.0
    weights: Weights | None = field(default=None, repr=False)
    G: Tensor | None = field(default=None, repr=False)
    beside: tuple[AttentionCall, ...] = field(default=(), repr=False)

    def bind(self, dO: Tensor | None, at_weights: Tensor | None = None) -> AttentionCall:
        """The same call with the gradient of a target at its output (None: the target does not depend on it).

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

    @property
    def precision(self) -> torch.dtype:
        """What A, G and relevance are counted in: float32, whatever the model's dtype; float64 for a model in float64."""
        return torch.float64 if self.output.dtype == torch.float64 else torch.float32

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(groups, heads, query rows, keys)."""
        return self.layout.groups, self.layout.heads, self.queries.shape[1], self.keys.shape[1]

    def repeated(self, t: Tensor) -> Tensor:
        """Keys or values (lead..., token, width) to (group, head, token, width), grouped heads repeated."""
        if len(self.layout.lead) and t.ndim > 2 and t.shape[-3] not in (1, self.layout.lead[-1]):
            t = t.repeat_interleave(self.layout.lead[-1] // t.shape[-3], -3)
        return self.layout(t)

    def by_rows(self, output: Tensor) -> Tensor:
        """An output, or its gradient, from the model's own axes to (lead..., row, width)."""
        output = output if self.axes is None else output.permute(self.axes)
        return output.unsqueeze(-2) if self.single else output

    def canonical(self, output: Tensor) -> Tensor:
        """An output, or its gradient, from the model's own axes to (group, head, row, width)."""
        return self.layout(self.by_rows(output))

    def in_place(self, O: Tensor) -> Tensor:
        """(group, head, row, width) back to the axes in which the model expects the output."""
        out = self.layout.back(O)
        out = out.squeeze(-2) if self.single else out
        if self.axes is None:
            return out
        return out.permute([self.axes.index(d) for d in range(out.ndim)])

    def dead_keys(self) -> Bool[Tensor, "group key"]:
        """Keys that the mask hides from every query row."""
        groups, _, _, m = self.shape
        if self.A is not None:
            return (self.layout(self.A.detach().amax(-2, keepdim=True)).amax((1, 2)) == 0).cpu()
        if self.mask is None:
            return torch.zeros(groups, m, dtype=torch.bool)
        open_ = visible(self.mask)
        if open_.ndim > 1 and open_.shape[-2] > 1:
            open_ = open_.any(-2, keepdim=True)
        open_ = open_.expand(*open_.shape[:-2], 1, m) if open_.ndim > 1 else open_.expand(1, m)
        return ~self.layout(open_).any(1)[:, 0].cpu()

    def visible(self) -> Bool[Tensor, "group row key"]:
        """Which keys each row may look at, by the mask of any head."""
        groups, _, n, m = self.shape
        if self.A is not None:
            return (self.layout(self.A.detach()) > 0).any(1)
        if self.mask is None:
            return torch.ones(groups, n, m, dtype=torch.bool)
        mask = visible(self.mask)
        mask = mask if mask.ndim > 1 else mask[None]
        return self.layout(mask.expand(*mask.shape[:-2], n, m)).any(1)

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
