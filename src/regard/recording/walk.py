"""The walk over the graph of states: METHODS.md section 3, with every path's sources told apart where that is asked for.

Relevance lives on (sample, row), rows numbered over all streams. Of every call c the walk needs one row of weights, w_c, and
makes one row of relevance, w_c E_c, on the rows of c's keys. Calls are taken from last to first, so that w_c is complete
when it is reached: no n×n product is formed, and one call's map is alive at a time.

A *source* is what one side of a call holds: streams that stand side by side in one sequence (words and patches of a joint
sequence; a class token and its patches) are one source, and so is what their tokens are merged to. All query rows of a
call are then of one source, and so are its keys. Paths that change their source never to come back ("one") are kept from
those that re-enter a source that they have left by the set of sources visited (arXiv 2605.27458; METHODS.md section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.recording.calls import AttentionCall, Pull, Pulled, Rule
from regard.recording.tokens import STRIDE, Merge

if TYPE_CHECKING:
    from regard.recording.recording import Recording

Relevance = Float[Tensor, "batch row"]
Relevances = Float[Tensor, "*read batch row"]
"""One row of relevance for each sample, or several: a matrix."""

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

    `visited`: the sources on its paths, a bit each (0: they are not told apart, or it is where it began).
    """

    seen: int
    r: Relevances
    visited: int = 0


@dataclass
class Walker:
    """Relevance on its way back, one row or several: by which steps, and where it stands. Its first parts are the read-out."""

    step: Callable[[AttentionCall], Step | None]
    parts: list[Part]
    first: int = field(init=False)

    def __post_init__(self) -> None:
        self.first = len(self.parts)

    def arriving(self, call: AttentionCall, own: int = 0) -> dict[int, Relevances]:
        """w_c of a call, by the sources visited: those of the paths, and the source that the call's rows are of."""
        by_visited: dict[int, list[Tensor]] = {}
        for part in self.parts:
            if part.seen >> call.event & 1:
                by_visited.setdefault(part.visited | own, []).append(part.r)
        return {visited: torch.stack(parts).sum(0) for visited, parts in by_visited.items()}

    def walked(self, zeros: Relevance) -> Walked:
        """What has come together."""
        moved, itself = self.parts[self.first :], self.parts[: self.first]
        returned = [p for p in moved if p.visited == RETURNED]
        return Walked(*(sum((p.r for p in parts), zeros) for parts in (moved, itself, returned)))


class Asked(NamedTuple):
    """Weights w that go through a call, a row or several: whose and how; the source of the call's rows, the sources visited
    so far, and those visited after it."""

    walker: Walker
    step: Step
    here: int
    visited: int
    after: int
    w: Tensor


def walk(recording: Recording, calls: Sequence[AttentionCall], walkers: Sequence[Walker]) -> list[Walked]:
    """w_c = [c ∈ seen(read-out)] r + Σ_{c′: c ∈ seen(keys of c′)} w_c′ E_c′, for several walkers at once.

    Each call's A and G are rebuilt once and serve all of them. A call that a walker has no step for is passed by.
    """
    events: list[AttentionCall | Merge] = sorted([*calls, *recording.merges], key=lambda e: e.event, reverse=True)
    for event in events:
        if isinstance(event, Merge):
            for walker in walkers:
                walker.parts = [unmerged(event, p) for p in walker.parts]
        else:
            _through(recording, event, walkers)
    return [w.walked(recording.zeros()) for w in walkers]


def sources(recording: Recording) -> Int[Tensor, " row"]:
    """The number of each row's source; 0 for rows of no stream in use."""
    of = torch.zeros(recording.rows, dtype=torch.int64)
    for number, stream in enumerate(recording.streams, start=1):
        of[stream.rows] = number
    sides = [ids % STRIDE for c in recording.calls for ids in (c.queries, c.keys)]
    for rows in [*sides, *[torch.cat([m.rows, m.sources.flatten()]) for m in recording.merges]]:
        joined = of[rows.unique()].unique()
        joined = joined[joined > 0]
        if len(joined) > 1:
            of[torch.isin(of, joined)] = joined[0]
    return of


def source_of(ids: Int[Tensor, "group token"], of: Int[Tensor, " row"]) -> int:
    """The source of one side of a call; 0 where it is nobody's."""
    return int(of[ids % STRIDE].max()) if ids.numel() else 0


def _through(recording: Recording, call: AttentionCall, walkers: Sequence[Walker]) -> None:
    """All that arrives at a call goes on to its keys."""
    asked: list[Asked] = []
    for walker in walkers:
        step = walker.step(call)
        if step is None:
            continue
        here, there = (0, 0) if step.hops == "all" else (1 << s for s in recording.ends(call))
        for visited, w in walker.arriving(call, here).items():
            after, w = _after(visited, here, there, step.hops), recording.gather(w, call.queries)
            if after is not None and bool(w.any()):
                asked.append(Asked(walker, step, here, visited, after, w))
    if not asked:
        return
    pulls = [a.step.pull(a.w) for a in asked]
    for a, (moved, keep) in zip(asked, _by_whole_rows(recording, call, pulls), strict=True):
        if a.step.normalised:
            _shrink(call, a, factor(recording, call, keep))
        a.walker.parts.append(Part(call.seen, recording.scatter(moved, call.keys), a.after))


def _after(visited: int, here: int, there: int, hops: str) -> int | None:
    """The sources of paths that have come through a call; None: they are not followed."""
    if here == there:
        return visited
    if not visited & there:
        return visited | there
    return RETURNED if hops == "crossed" else None


def _by_whole_rows(recording: Recording, call: AttentionCall, pulls: Sequence[Pull]) -> list[Pulled]:
    """r E; where rows stand at several places of the call (a class token in every frame), E is their sum before it is
    brought to sum 1."""
    ids = call.queries[call.queries % STRIDE > 0]
    if not any(p.normalised for p in pulls) or len(ids) == len(ids.unique()):
        return call.pull_all(pulls)
    kept: dict[int, Tensor] = {}
    normalised = [i for i, p in enumerate(pulls) if p.normalised]
    for i, pulled in zip(normalised, call.pull_all([pulls[i] for i in normalised]), strict=True):
        sums = recording.scatter(1 / pulled.keep.cpu() - 1, call.queries)
        kept[i] = 1 / (1 + recording.gather(sums, call.queries))
    whole = [p if i not in kept else p._replace(r=p.r * kept[i], normalised=False) for i, p in enumerate(pulls)]
    return [p if i not in kept else Pulled(p.moved, kept[i]) for i, p in enumerate(call.pull_all(whole))]


def factor(recording: Recording, call: AttentionCall, keep: Tensor) -> Relevance:
    """What each row keeps, 1/(1 + Σ_j E_ij) for a call's own rows, 1 for all others."""
    samples, rows = call.queries // STRIDE - 1, call.queries % STRIDE
    out = torch.ones(recording.batch, recording.rows, dtype=recording.precision)
    out[samples.clamp(min=0), rows] = keep.to(out)
    out[:, 0] = 1
    return out


def _shrink(call: AttentionCall, asked: Asked, keeps: Relevance) -> None:
    """A call's own rows keep a share of the relevance that came through it."""
    parts = asked.walker.parts
    for i, part in enumerate(parts):
        if part.seen >> call.event & 1 and part.visited | asked.here == asked.visited:
            parts[i] = part._replace(r=part.r * keeps)


def unmerged(merge: Merge, part: Part) -> Part:
    """Relevance of merged rows goes back to the rows they were made of: r_in = r_out P, P = 1/m."""
    if not part.seen >> merge.event & 1:
        return part
    m = merge.sources.shape[1]
    shares = (part.r[..., merge.rows, None] / m).expand(*part.r.shape[:-1], -1, m).flatten(-2)
    r = part.r.index_add(-1, merge.sources.flatten(), shares)
    r[..., merge.rows] = 0
    return part._replace(r=r)


__all__ = [
    "HOPS",
    "Part",
    "Relevance",
    "Relevances",
    "Step",
    "Walked",
    "Walker",
    "source_of",
    "sources",
    "unmerged",
    "walk",
]
