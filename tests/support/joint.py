"""The literal twin of a whole map: joint block roll-out with full matrices (formulas.md sections 2 and 3).

R (batch, row, row) says what each row of a state, all streams of a sample side by side, has come to rest on: I at first.
A call adds E K to the state that takes in its output: E is the eager twin's map in its place among all rows, K the state
that its keys and values had (with K = R that is (I + E) R, block after block). Tokens that merge are an explicit matrix.
Nothing is asked of what our recording says a call has seen: that is read off autograd, in a run in which the output of
every call is a leaf. From the recording come only whose rows the queries and keys of a call are, and which rows merge;
`regard.verify` holds these by gradients, and test_twins.py by plans that are written down (families.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from regard.recording import AttentionCall, Gradients, Recording, record
from regard.recording.edits import Edit
from regard.recording.tokens.tags import STRIDE, Merge

END = 1 << 62


class Together(NamedTuple):
    """Calls that are one attention, in the table's words: heads side by side, whose E is the mean over all of them, and
    outputs that are added, whose E is the sum (formulas.md section 0)."""

    heads: tuple[tuple[int, ...], ...] = ()
    added: tuple[tuple[int, ...], ...] = ()

    def mates(self, call: int) -> tuple[int, ...]:
        """The calls of a call's attention."""
        return next((t for t in self.heads + self.added if call in t), (call,))

    def share(self, call: int) -> float:
        """What a call's own mean over heads counts for in E."""
        return 1 / next((len(t) for t in self.heads if call in t), 1)


ALONE = Together()


class Cut(Edit):
    """Every call's output becomes a leaf: what a gradient reaches, it reaches through no other call."""

    def call(self, call: AttentionCall) -> Tensor:
        return call.output.detach().requires_grad_()


@dataclass
class Order:
    """Which outputs stand in a state as they are: by call those of its keys and values, and those that the target reads.

    `final`: calls that the target reads and that no other call it rests on looks at, by its keys or by its queries; of calls
    side by side on the same rows the last, since they end in one state.
    """

    keys: list[set[int]]
    read: set[int]
    final: set[int]


def order(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    target: Callable[[Any], Tensor],
    seed: int,
    together: Together = ALONE,
) -> Order:
    """The order of calls, by autograd."""
    torch.manual_seed(seed)
    cut = record(model, dict(inputs), edits=[Cut()], strict=False)
    generator = torch.Generator().manual_seed(3)

    def reached(probes: Sequence[Tensor | None], before: int) -> set[int]:
        outputs = [c.output for c in cut.calls[:before]]
        probes = [p for p in probes if p is not None and p.requires_grad]
        if not outputs or not probes:
            return set()
        weights = [torch.randn(p.shape, generator=generator).to(p) for p in probes]
        grads = torch.autograd.grad(probes, outputs, weights, retain_graph=True, allow_unused=True)
        return {i for i, g in enumerate(grads) if g is not None and bool(g.any())}

    keys = [reached([c.k, c.v], c.index) for c in cut.calls]
    looks = [reached([c.q, c.A], c.index) | k for c, k in zip(cut.calls, keys, strict=True)]
    read = reached([target(cut.output)], len(cut.calls))
    alive = set(read)  # a call that the target does not rest on ends nothing by looking
    for call in reversed(cut.calls):
        alive |= looks[call.index] if call.index in alive else set()
    return Order(keys, read, ends(cut.calls, read - set().union(*(looks[i] for i in alive)), together))


def ends(calls: Sequence[AttentionCall], final: set[int], together: Together) -> set[int]:
    """Final calls whose rows are not those of a later one; of calls that are one attention, all."""
    out: set[int] = set()
    rows: set[int] = set()
    for i in sorted(final, reverse=True):
        own = set(calls[i].queries.flatten().tolist())
        if not own <= rows:
            out.add(i)
            rows |= own
    return out.union(*(final & {*together.mates(i)} for i in out))


@dataclass
class Joint:
    """Matrices over the rows of a recording that are in use, side by side.

    `brought`: by call, E K; `sums`: by call, the row sums of E. `merging`: by event, the rows of P that are not those of I.
    """

    recording: Recording
    rows: Tensor
    together: Together = ALONE
    merging: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    brought: dict[int, Tensor] = field(default_factory=dict)
    sums: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, recording: Recording, together: Together) -> Joint:
        ids = [t.flatten() % STRIDE for c in recording.calls for t in (c.queries, c.keys)]
        ids += [t.flatten() for m in recording.merges for t in (m.rows, m.sources)]
        ids += [torch.arange(s.first, s.first + s.count) for s in recording.streams]
        joint = cls(recording, torch.cat([torch.zeros(1, dtype=torch.int64), *ids]).unique(), together)
        for merge in recording.merges:
            new, sources = (torch.searchsorted(joint.rows, t.contiguous()) for t in (merge.rows, merge.sources))
            P = torch.zeros(len(new), len(joint.rows), dtype=torch.float64)
            for i, (made_of, share) in enumerate(zip(sources, merge.shares, strict=True)):
                merged = made_of[share != 0]  # a one-hot matrix has a place for each token, and 0 at most of them
                for j in merged:
                    P[i, j] += 1 / len(merged)
            joint.merging[merge.event] = new, P
        return joint

    def place(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(sample, column) of ids."""
        return ids // STRIDE - 1, torch.searchsorted(self.rows, ids % STRIDE)

    def embedded(self, call: AttentionCall, E: Tensor) -> Tensor:
        """(group, query, key) of one call -> (batch, row, row). Nobody's rows (padding of windows) are left out of it."""
        (samples, queries), (_, keys) = (self.place(ids) for ids in (call.queries, call.keys))
        out = torch.zeros(self.recording.batch, len(self.rows), len(self.rows), dtype=torch.float64)
        for g in range(len(E)):
            own = torch.where(samples[g] < 0, samples[g].max(), samples[g])  # rows of several samples: each in its own
            out.index_put_((own[:, None], queries[g][:, None], keys[g]), E[g].double(), accumulate=True)
        out[:, 0] = 0
        return out

    def add(self, call: AttentionCall, E: Tensor, seen: set[int], *, normalise: bool) -> None:
        """One call: E K, K the state of its keys."""
        matrix, K = self.embedded(call, E), self.state(seen, call.event, normalise=normalise)
        matrix *= self.together.share(call.index)
        at = self.place(call.queries)[1].unique()  # all other rows of E are zero
        self.sums[call.index] = matrix.sum(-1, keepdim=True)
        self.brought[call.index] = torch.zeros_like(K).index_copy_(1, at, matrix[:, at] @ K)

    def state(self, seen: set[int], before: int, *, normalise: bool) -> Tensor:
        """R of a state that took in some calls' outputs, in order, up to an event; rows brought to sum 1 on demand."""
        R = torch.eye(len(self.rows), dtype=torch.float64).repeat(self.recording.batch, 1, 1)
        R[:, 0] = 0
        for event in sorted([*self.recording.calls, *self.recording.merges], key=lambda e: e.event):
            if event.event >= before:
                break
            if isinstance(event, Merge):
                new, P = self.merging[event.event]
                R[:, new] = P @ R
            elif event.index in seen:
                R += self.brought[event.index]
                if normalise and event.index == max(mates := self.together.mates(event.index)):
                    R /= 1 + sum(self.sums[i] for i in mates)
        return R

    def readout(self, gradients: Gradients, final: set[int]) -> Tensor:
        """r (batch, 1, row): in each final call, rows by the norm of their gradient; calls that are one attention are one."""
        total = torch.zeros(self.recording.batch, 1, len(self.rows), dtype=torch.float64)
        for mates in {self.together.mates(i) for i in sorted(final)}:
            r = torch.zeros_like(total[:, 0])
            for call in (gradients.calls[i] for i in mates):
                squares = call.canonical(call.dO).double().pow(2).sum((1, 3))
                r.index_put_(self.place(call.queries), squares, accumulate=True)
            r = r.sqrt()
            total[:, 0] += r / r.sum(1, keepdim=True).clamp(min=1e-300)
        return total

    def by_stream(self, total: Tensor) -> dict[str, Tensor]:
        """(batch, 1, row) -> stream -> (batch, token). A token of a coarser grid goes in equal shares to the finest one's."""
        shown = [s for s in self.recording.streams if s.shown]
        finest = {s.name: s for s in sorted(shown, key=lambda s: s.count)}
        out: dict[str, Tensor] = {}
        for s in shown:
            first = int(torch.searchsorted(self.rows, s.first))
            scores = total[:, 0, first : first + s.count]
            if s is not finest[s.name]:
                scores = shared_out(scores, s.grid, finest[s.name].grid)
            out[s.name] = out.get(s.name, 0) + scores
        return out


def shared_out(scores: Tensor, grid: tuple[int, ...] | None, finer: tuple[int, ...] | None) -> Tensor:
    """(batch, token) of a grid -> of a finer one that divides its cells."""
    assert grid is not None
    assert finer is not None
    scores = scores.unflatten(1, grid)
    for axis, (n, m) in enumerate(zip(grid, finer, strict=True), start=1):
        assert m % n == 0
        scores = scores.repeat_interleave(m // n, axis) / (m // n)
    return scores.flatten(1)


def gae(
    recording: Recording,
    gradients: Gradients,
    found: Order,
    A: Sequence[Tensor],
    G: Sequence[Tensor],
    together: Together = ALONE,
) -> Any:
    """Row r of the joint product of I + E_h (A⊙G)₊, less r itself, by stream. A, G: (group, head, query, key) by call."""
    joint = Joint.of(recording, together)
    for call, a, g in zip(recording.calls, A, G, strict=True):
        joint.add(call, (a * g).clamp(min=0).mean(1), found.keys[call.index], normalise=False)
    r = joint.readout(gradients, found.final)
    R, itself = (joint.state(seen, END, normalise=False) for seen in (found.read, set()))
    return joint.by_stream(r @ (R - itself))


def rollout(
    recording: Recording, gradients: Gradients, found: Order, A: Sequence[Tensor], together: Together = ALONE
) -> Any:
    """Row r of the joint product of I + E_h A with rows brought to sum 1, by stream."""
    joint = Joint.of(recording, together)
    for call, a in zip(recording.calls, A, strict=True):
        joint.add(call, a.mean(1), found.keys[call.index], normalise=True)
    return joint.by_stream(joint.readout(gradients, found.final) @ joint.state(found.read, END, normalise=True))
