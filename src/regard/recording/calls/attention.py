"""An attention: the layer-level unit that the formulas mean (formulas.md section 0), made of one kernel call or of several.

It is all calls that read the same state and whose outputs are joined before another call reads one of them without the
others: side by side along the width (heads one by one, in stripes), along the rows (chunks of queries, windows, samples,
buffers filled by slices), or added (two cross-attentions side by side). Joined along the width, the calls share one mean over
heads, E = Σ_c (H_c/H) E_c; along rows, E is put together row by row; added, each call keeps its own mean, and E is their sum.

Outputs that have only been put side by side (stacked, joined along the width, written into one buffer) are heads, unless they
are summed later, each weighed by itself or not: then they are added. Where both happens (a gate that is made of all of them
weighs each), our reading is that they are added, and the receipt says so.

How outputs meet is noted by the rules of operations while the model runs (`Trail.joins`), and read here after the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from regard.recording.calls.call import AttentionCall, Rows
from regard.recording.tokens.parts import ADDED, FEATURES, UNTOLD
from regard.recording.tokens.tags import STRIDE, occurrence
from regard.recording.tokens.tracker import Trail

WIDTH, ROWS = "width", "rows"


@dataclass(frozen=True)
class Attention:
    """One attention of a run: its number, in order of execution, and the indices of its kernel calls.

    heads: calls whose heads stand side by side, so that they share one mean (each call is in one of these sets). sums: calls
    among these whose heads are added to one another's, which count once in that mean (each call is in one of these sets).
    notes: what a reader of a map should know of how the calls were joined.
    """

    index: int
    calls: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...] = ()
    sums: tuple[tuple[int, ...], ...] = ()
    notes: tuple[str, ...] = ()

    def mates(self, call: int) -> tuple[int, ...]:
        """The calls whose heads stand beside those of a call, itself among them."""
        return next(h for h in self.heads if call in h)


def attentions(calls: Sequence[AttentionCall], trail: Trail) -> tuple[list[AttentionCall], list[Attention]]:
    """The calls, each with the number of its attention and its share of the attention's heads; and the attentions."""
    found = _Together(calls, trail)
    groups = sorted(found.attention.groups(), key=min)
    number = {c: i for i, group in enumerate(groups) for c in group}
    heads, sums = ([tuple(sorted(h)) for h in sets.groups()] for sets in (found.heads, found.sums))
    shares = dict(_shares(calls, heads, sums))
    out = [replace(c, attention=number[c.index], share=shares.get(c.index, 1.0)) for c in calls]
    made = []
    for i, group in enumerate(groups):
        own_heads, own_sums = (tuple(s for s in sets if s[0] in group) for sets in (heads, sums))
        made.append(Attention(i, tuple(sorted(group)), own_heads, own_sums, found.notes(group)))
    return out, made


class _Sets:
    """Disjoint sets of calls, to be united."""

    def __init__(self, members: Iterable[int]) -> None:
        self.of = {m: {m} for m in members}

    def unite(self, a: int, b: int) -> None:
        """One set of two."""
        if self.of[a] is not self.of[b]:
            self.of[a] |= self.of[b]
            for member in self.of[b]:
                self.of[member] = self.of[a]

    def groups(self) -> list[set[int]]:
        """The sets."""
        return list({id(s): s for s in self.of.values()}.values())


class _Together:
    """Which calls make one attention, and which of them are heads of one another: read off the joins of a run."""

    def __init__(self, calls: Sequence[AttentionCall], trail: Trail) -> None:
        self.calls, self.trail = calls, trail
        self.by_event = {c.event: c for c in calls if not c.lost}
        self.attention, self.heads, self.sums = (_Sets(c.index for c in calls) for _ in range(3))
        self.met: dict[tuple[int, int], set[str]] = {}
        joins = []
        for (left, right, how), time in sorted(trail.joins.items(), key=lambda j: j[1]):
            pairs = [(a, b) for a, b in self._pairs(left, right) if a is not b and self._one(a, b, how, time)]
            joins.append((how, [(min(a.index, b.index), max(a.index, b.index)) for a, b in pairs]))
            for pair in joins[-1][1]:
                self.met.setdefault(pair, set()).add(how)
        for how, found in joins:
            beside = how == WIDTH and not any(ADDED in self.met[pair] for pair in found)  # else: added as a whole
            for i, j in found if how in (WIDTH, ROWS, ADDED) else ():
                self.attention.unite(i, j)
                if beside:
                    self.heads.unite(i, j)
        for (i, j), ways in self.met.items():
            if ADDED in ways and self.heads.of[i] is self.heads.of[j]:
                self.sums.unite(i, j)

    def notes(self, group: set[int]) -> tuple[str, ...]:
        """Sentences on an attention's calls that are both added and heads side by side, or of which it is not known."""
        ways = {pair: ways for pair, ways in self.met.items() if pair[0] in group}
        both = {i for pair, how in ways.items() if {FEATURES, ADDED} <= how for i in pair}
        untold = {i for pair, how in ways.items() if UNTOLD in how and not how & {FEATURES, ADDED} for i in pair}
        found = []
        if both:
            found.append(
                f"attention calls {_listed(both)} are added, and another layer reads them side by side: each keeps its own "
                "mean over heads, as if they were only added"
            )
        if untold:
            found.append(
                f"how the outputs of attention calls {_listed(untold)} are joined could not be followed: "
                "they are taken as heads, with one mean"
            )
        return tuple(found)

    def _pairs(self, left: int, right: int) -> Iterator[tuple[AttentionCall, AttentionCall]]:
        """Calls of two sets of events that read the same state of their queries, neither of which rests on the other."""
        for f in _bits(right):
            b = self.by_event.get(f)
            if b is None:
                continue
            for e in _bits(left & ~(b.seen | b.rows_seen)):
                a = self.by_event.get(e)
                if a is not None and a.rows_seen == b.rows_seen and not (a.seen | a.rows_seen) >> f & 1:
                    yield a, b

    def _one(self, a: AttentionCall, b: AttentionCall, how: str, time: int) -> bool:
        """Whether two calls are of one attention: no call before the join has read one of them and not the other."""
        for event, c in self.by_event.items():
            heard = c.seen | c.rows_seen
            if event < time and (heard >> a.event & 1) != (heard >> b.event & 1):
                return False
        overlap = bool(torch.isin(a.queries, b.queries[b.queries > 0]).any())
        return overlap if how != ROWS else not overlap and self._side_by_side(a, b)

    def _side_by_side(self, a: AttentionCall, b: AttentionCall) -> bool:
        """Whether the rows of two calls are of one state: of one stream, or of several that stood side by side before."""
        own, others = self._streams(a), self._streams(b)
        for names, time in sorted(self.trail.beside.items(), key=lambda n: n[1]):
            if time <= min(a.event, b.event) and own & names:
                own |= names
        return bool(own & others)

    def _streams(self, call: AttentionCall) -> set[str]:
        """Names of the streams that a call's rows and keys are of."""
        rows = torch.cat([call.queries, call.keys], 1) % STRIDE
        used = torch.zeros(self.trail.rows, dtype=torch.bool)
        used[rows.flatten()] = True
        return {s.name for s in self.trail.streams if bool(used[s.rows].any())}


def _listed(calls: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(calls)))


def _bits(events: int) -> Iterator[int]:
    """The numbers of the bits that are set."""
    while events:
        low = events & -events
        yield low.bit_length() - 1
        events ^= low


def _shares(
    calls: Sequence[AttentionCall], groups: Sequence[Sequence[int]], sums: Sequence[Sequence[int]]
) -> Iterator[tuple[int, float | Tensor]]:
    """H_c/H of calls whose heads stand side by side: a number, or one for each query row where H differs from row to row.

    Calls that are added to one another (`sums`) are counted once, as the one of most heads: H_c is the same for all of them.
    """
    for group in (g for g in groups if len(g) > 1):
        together = [c for c in calls if c.index in group]
        ids, which = torch.unique(torch.cat([c.queries.flatten() for c in together]), return_inverse=True)
        each = dict(zip(group, which.split([c.queries.numel() for c in together]), strict=True))
        heads = torch.zeros(len(ids))
        own = {c.index: torch.zeros(len(ids)) for c in together}
        for added in (s for s in sums if s[0] in own):
            most = torch.zeros(len(ids))
            for call in (c for c in together if c.index in added):
                rows = each[call.index].unique()
                most[rows] = most[rows].clamp(min=call.layout.heads)
            heads += most
            own.update(dict.fromkeys(added, most))
        for call in together:
            at = each[call.index]
            share = (own[call.index] / heads)[at].view(call.queries.shape)
            one = share.flatten()[0]
            yield call.index, float(one) if bool((share == one).all()) else share


# -- what no sum over calls can say -----------------------------------------------------------------------------------


def rows_of_heads(
    calls: Sequence[AttentionCall],
    r: Float[Tensor, "batch row"],
    each: Callable[[AttentionCall, Rows], Float[Tensor, "*kind group some key"]],
    reduce: str,
    kinds: tuple[int, ...] = (),
) -> Iterator[tuple[Float[Tensor, "slot batch"], Float[Tensor, "*kind slot batch time row"]]]:
    """Rows of a matrix that an attention's calls make together, at the rows where r is not zero: (r there, the rows).

    Columns of one token that stands among the keys several times are apart: the sum over `time` brings them together.

    `each` gives a call's own matrix at some of its rows, or several of them (kinds: how many). reduce: "sum", or "amax" of
    matrices that are not negative. A few rows at a time, so that they fit the memory budget.
    """
    count = max(1, int((r != 0).sum(1).max()))
    size, at = r.abs().topk(count, dim=1)
    weights = r.gather(1, at).T
    number = torch.full(r.shape, -1).scatter_(1, at, torch.where(size > 0, torch.arange(count), -1))
    nth = [occurrence(c.keys % STRIDE) for c in calls]
    times = 1 + max(int(n.masked_fill(c.keys % STRIDE == 0, 0).max()) for n, c in zip(nth, calls, strict=True))
    fit = max(1, calls[0].budget // max(1, 4 * math.prod(kinds) * times * r.numel() * r.element_size()))
    for some in torch.arange(count).split(fit):
        rows = torch.zeros(math.prod(kinds), len(some) * times * r.numel(), dtype=r.dtype)
        for call, n in zip(calls, nth, strict=True):
            columns = (n * r.shape[1] + call.keys % STRIDE, times * r.shape[1])
            _put_rows(rows, call, number - int(some[0]), len(some), columns, each, reduce)
        yield weights[some], rows.view(*kinds, len(some), r.shape[0], times, r.shape[1])


def _put_rows(
    out: Tensor,
    call: AttentionCall,
    number: Tensor,
    count: int,
    columns: tuple[Tensor, int],
    each: Callable[[AttentionCall, Rows], Tensor],
    reduce: str,
) -> None:
    """One call's matrices at the wanted rows, put into (kind, slot · batch · column). columns: of each key, and how many."""
    samples, rows = (call.queries // STRIDE - 1).clamp(min=0), call.queries % STRIDE
    slot = torch.where(rows > 0, number[samples, rows], -1)
    wanted = (slot >= 0) & (slot < count)
    keys, (at, width) = call.keys % STRIDE, columns
    for index in call.chunks(wanted.any(0).nonzero()[:, 0]):
        M = each(call, call.rows(index)).cpu()
        place = (slot[:, index, None] * number.shape[0] + samples[:, index, None]) * width + at[:, None]
        keep = wanted[:, index, None] & (keys > 0)[:, None]
        for into, m in zip(out, M.view(len(out), *place.shape), strict=True):
            into.scatter_reduce_(0, place[keep], m.to(out)[keep], reduce)
