"""The walk over the graph of states: formulas.md section 3, with every path's sources told apart where that is asked for.

Relevance lives on (sample, row), rows numbered over all streams. Of every call c the walk needs one row of weights, w_c, and
makes one row of relevance, w_c E_c, on the rows of c's keys. Calls are taken from last to first, so that w_c is complete
when it is reached: no n×n product is formed, and one call's map is alive at a time.

A *source* is what one side of a call holds: streams that stand side by side in one sequence (words and patches of a joint
sequence; a class token and its patches) are one source, and so is what their tokens are merged to. All query rows of a
call are then of one source, and so are its keys. Paths that change their source never to come back ("one") are kept from
those that re-enter a source that they have left by the set of sources visited (arXiv 2605.27458; formulas.md section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.recording.calls import AttentionCall, Pull, Rows, Rule
from regard.recording.calls.attention import rows_of_heads
from regard.recording.relevance.call_graph import CallGraph, in_turn
from regard.recording.relevance.rows import Relevance, Relevances
from regard.recording.tokens.tags import STRIDE, Merge

HOPS = ("all", "one", "crossed")
RETURNED = -1
"""The state of a path that has re-entered a source: from then on it may go anywhere."""


@dataclass(frozen=True)
class Step:
    """How a method weighs one call on its way back: the edge rule, and whether rows of E + I are brought to sum 1.

    hops: "all" paths; "one", those that never re-enter a source that they have left; or "crossed", all, those that do in
    `Walked.returned`. heads, keys: weights of heads and of keys (see `Pull`).
    """

    rule: Rule
    normalised: bool = False
    hops: str = "all"
    heads: Float[Tensor, "group head"] | None = None
    keys: Float[Tensor, "group key"] | None = None

    def pull(self, r: Tensor) -> Pull:
        """What is asked of the call for relevance r at its rows."""
        return Pull(r, self.rule, self.normalised, self.heads, self.keys)


class Walked(NamedTuple):
    """What a walk brought to every row: over paths of length >= 1, and r itself (what the rows of the read-out kept).

    `returned`: of the first, over paths that re-entered a source that they had left (told apart by hops="crossed" alone).
    """

    moved: Relevances
    itself: Relevances
    returned: Relevances


class Part(NamedTuple):
    """Relevance that arrived together, at rows of a state that had absorbed the events `seen`.

    `visited`: the sources on its paths, a bit each (0: they are not told apart, or it is where it began). itself: r's own.
    """

    seen: int
    r: Relevances
    visited: int = 0
    itself: bool = False


@dataclass
class Walker:
    """Relevance on its way back, one row or several: by which steps, and where it stands. At first it is the read-out's."""

    step: Callable[[AttentionCall], Step | None]
    parts: list[Part]

    def __post_init__(self) -> None:
        self.parts = [p._replace(itself=True) for p in self.parts]

    def arriving(self, call: AttentionCall, own: int = 0) -> dict[int, Relevances]:
        """w_c of a call, by the sources visited: those of the paths, and the source that the call's rows are of."""
        by_visited: dict[int, list[Tensor]] = {}
        for part in self.parts:
            if part.seen >> call.event & 1:
                by_visited.setdefault(part.visited | own, []).append(part.r)
        return {visited: torch.stack(parts).sum(0) for visited, parts in by_visited.items()}

    def walked(self, zeros: Relevance) -> Walked:
        """What has come together."""
        moved, itself = ([p for p in self.parts if p.itself is own] for own in (False, True))
        returned = [p for p in moved if p.visited == RETURNED]
        return Walked(*(sum((p.r for p in parts), zeros) for parts in (moved, itself, returned)))


class Asked(NamedTuple):
    """Relevance r that arrives at a call, w at the call's own rows, one row or several: whose and how; the source of the
    call's rows, the sources visited so far, and those visited after it."""

    walker: Walker
    step: Step
    here: int
    visited: int
    after: int
    r: Relevances
    w: Tensor

    @property
    def key(self) -> tuple[int, int]:
        """Whose it is: the same for all calls of an attention."""
        return id(self.walker), self.visited


def walk(graph: CallGraph, calls: Sequence[AttentionCall], walkers: Sequence[Walker]) -> list[Walked]:
    """w_c = [c ∈ seen(read-out)] r + Σ_{c′: c ∈ seen(values of c′)} w_c′ E_c′, for several walkers at once.

    The calls of one attention are taken together, since its rows are brought to sum 1 as a whole. Each call's A and G are
    rebuilt once and serve all walkers. A call that a walker has no step for is passed by.
    """
    for event in in_turn(calls, graph.merges):
        if isinstance(event, Merge):
            for walker in walkers:
                walker.parts = [part for p in walker.parts for part in unmerged(event, p)]
        else:
            _through(graph, event, walkers)
    return [w.walked(graph.zeros()) for w in walkers]


def _through(graph: CallGraph, calls: Sequence[AttentionCall], walkers: Sequence[Walker]) -> None:
    """All that arrives at an attention goes on to the rows of its values; its own rows keep the rest."""
    asked = {call.index: _asked(graph, call, walkers) for call in calls}
    if len(calls) > 1:
        asked = _by_maximum(graph, calls, asked)
    keeps = _whole_rows(graph, calls, asked)
    for call in (c for c in calls if asked[c.index]):
        mine = asked[call.index]
        pulled = call.pull_all([_pull(graph, call, a, keeps.get(a.key)) for a in mine])
        for a, (moved, keep) in zip(mine, pulled, strict=True):
            if a.step.normalised and a.key not in keeps:
                keeps[a.key] = factor(graph, call, keep)
            a.walker.parts.append(Part(call.seen, graph.scatter(moved, call.keys), a.after))
    events = sum(1 << c.event for c in calls)
    for a in {a.key: a for mine in asked.values() for a in mine if a.key in keeps}.values():
        _shrink(events, a, keeps[a.key])


def _by_maximum(
    graph: CallGraph, calls: Sequence[AttentionCall], asked: Mapping[int, Sequence[Asked]]
) -> dict[int, list[Asked]]:
    """Relevance that goes by the maximum over heads of several calls has gone, as one; what is left to be asked of each."""
    largest = {a.key: a for mine in asked.values() for a in mine if a.step.rule.over_heads == "max"}
    seen = 0
    for call in calls:
        seen |= call.seen
    for a in largest.values():
        E = rows_of_heads(calls, a.r, partial(_largest, a.step.rule), "amax")
        moved = sum(((w[..., None] * rows.sum(2)).sum(0) for w, rows in E), graph.zeros())
        a.walker.parts.append(Part(seen, moved, a.after))
    return {i: [a for a in mine if a.key not in largest] for i, mine in asked.items()}


def _largest(rule: Rule, _call: AttentionCall, rows: Rows) -> Tensor:
    """max_h of a rule's matrices, (group, row, key)."""
    return rule.each(rows.A, None if rows.G is None else rows.A * rows.G).amax(1)


def _pull(graph: CallGraph, call: AttentionCall, asked: Asked, keep: Relevance | None) -> Pull:
    """What is asked of a call; where what its rows keep is known already, their relevance is that much less."""
    pull = asked.step.pull(asked.w)
    if keep is None:
        return pull
    return pull._replace(r=asked.w * graph.gather(keep, call.queries).to(asked.w), normalised=False)


def _asked(graph: CallGraph, call: AttentionCall, walkers: Sequence[Walker]) -> list[Asked]:
    """What arrives at one call, by walker and by the sources visited."""
    asked: list[Asked] = []
    for walker in walkers:
        step = walker.step(call)
        if step is None:
            continue
        here, there = (0, 0) if step.hops == "all" else (1 << s for s in graph.ends(call))
        for visited, r in walker.arriving(call, here).items():
            after, w = _after(visited, here, there, step.hops), graph.gather(r, call.queries)
            if after is not None and bool(w.any()):
                asked.append(Asked(walker, step, here, visited, after, r, w))
    return asked


def _after(visited: int, here: int, there: int, hops: str) -> int | None:
    """The sources of paths that have come through a call; None: they are not followed."""
    if here == there:
        return visited
    if not visited & there:
        return visited | there
    return RETURNED if hops == "crossed" else None


def _whole_rows(
    graph: CallGraph, calls: Sequence[AttentionCall], asked: Mapping[int, Sequence[Asked]]
) -> dict[tuple[int, int], Relevance]:
    """What rows keep, 1/(1 + Σ_j E_ij), where E_i is put together of several calls, or of several places of one (a class
    token in every frame): its rows are brought to sum 1 as a whole. Empty where one call says it all."""
    if not any(a.step.normalised for mine in asked.values() for a in mine):
        return {}
    if len(calls) == 1 and not _repeats(calls[0].queries):
        return {}
    sums: dict[tuple[int, int], Relevance] = {}
    for call in calls:
        mine = [a for a in asked[call.index] if a.step.normalised]
        for a, pulled in zip(mine, call.pull_all([a.step.pull(a.w) for a in mine]) if mine else (), strict=True):
            more = graph.scatter(1 / pulled.keep.cpu() - 1, call.queries)
            sums[a.key] = sums[a.key] + more if a.key in sums else more
    return {key: 1 / (1 + total) for key, total in sums.items()}


def _repeats(ids: Int[Tensor, "group row"]) -> bool:
    """Whether some row stands at several places."""
    ids = ids[ids % STRIDE > 0]
    return len(ids) > len(ids.unique())


def factor(graph: CallGraph, call: AttentionCall, keep: Tensor) -> Relevance:
    """What each row keeps, 1/(1 + Σ_j E_ij) for a call's own rows, 1 for all others."""
    samples, rows = call.queries // STRIDE - 1, call.queries % STRIDE
    out = torch.ones(graph.batch, graph.rows, dtype=graph.precision)
    out[samples.clamp(min=0), rows] = keep.to(out)
    out[:, 0] = 1
    return out


def _shrink(events: int, asked: Asked, keeps: Relevance) -> None:
    """An attention's own rows keep a share of the relevance that came through it."""
    parts = asked.walker.parts
    for i, part in enumerate(parts):
        if part.seen & events and part.visited | asked.here == asked.visited:
            parts[i] = part._replace(r=part.r * keeps)


def unmerged(merge: Merge, part: Part) -> list[Part]:
    """Relevance of merged rows goes back to the rows they were made of: r_in = r_out P, P = 1/m, or the shares
    known. Where these stood at an earlier state than the rows beside the merged ones, it is a part of its own."""
    if not part.seen >> merge.event & 1:
        return [part]
    shares = (part.r[..., merge.rows, None] * merge.shares.to(part.r)).flatten(-2)
    back = torch.zeros_like(part.r).index_add(-1, merge.sources.flatten(), shares)
    rest = part.r.index_fill(-1, merge.rows, 0.0)
    if not merge.without:
        return [part._replace(r=rest + back)]
    return [part._replace(r=rest), part._replace(seen=part.seen & ~merge.without, r=back)]


__all__ = ["HOPS", "Part", "Step", "Walked", "Walker", "unmerged", "walk"]
