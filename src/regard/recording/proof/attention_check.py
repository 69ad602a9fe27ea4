"""Attentions against their calls: each call is part of one attention, once, and rows of A over an attention sum as they must.

formulas.md section 0: joined along the width, calls share one mean over heads, so that a row of the attention's E sums to 1, or
to what attention sinks leave of it; along rows, each row is one call's; added, rows sum to the number of summands. What a row
sums to is taken from the pull that the walk takes; what it must sum to, from the calls' own rows of A and their heads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from regard.recording.calls import AttentionCall
from regard.recording.calls.attention import Attention
from regard.recording.calls.call import Pull
from regard.recording.proof.cut_run import Cut
from regard.recording.proof.findings import APART, WHOLE, Contradiction
from regard.recording.recording import Recording

WITHIN = 1e-5
"""How far two row sums that are equal may be apart: both are made of one A, in float32 at least."""


class _Mean:
    """The edge rule of a mean over heads."""

    name, gradient, over_heads = "mean", False, "mean"

    def each(self, A: Tensor, _AG: Tensor | None) -> Tensor:
        return A


def together(recording: Recording, cut: Cut, sums: Mapping[int, Tensor]) -> Iterator[Contradiction]:
    """What contradicts an attention that is said to be made of these calls. sums: call -> row sums of its A, (group, row), the
    mean over heads."""
    wrong = [*_listed(recording), *_twice(recording.calls, cut)]
    yield from wrong
    if wrong:
        return
    for attention in recording.attentions:
        if all(i in sums for i in attention.calls):
            yield from _rows(recording, attention, sums)
    yield from _one(recording)


def _listed(recording: Recording) -> Iterator[Contradiction]:
    """Calls that are part of no attention, or of several, or of other heads than one set's."""
    numbers = Counter(i for a in recording.attentions for i in a.calls)
    heads = Counter(i for a in recording.attentions for h in a.heads for i in h)
    for call in recording.calls:
        own = [a.index for a in recording.attentions if call.index in a.calls]
        if numbers[call.index] != 1 or heads[call.index] != 1 or own != [call.attention]:
            n = max(numbers[call.index], heads[call.index], len(own))
            found = f"counts {n} times" if n > 1 else "is not among its calls"
            yield Contradiction(
                call.index, call.module, "the call", f"one of attention {call.attention}", found, 1.0, WHOLE
            )


def _twice(calls: Sequence[AttentionCall], cut: Cut) -> Iterator[Contradiction]:
    """Calls whose output is another call's: one call, kept twice."""
    known: dict[tuple[object, ...], int] = {}
    for call in calls:
        out = cut.whole.get(call.index, call).output
        if out.numel():
            first = known.setdefault((out.data_ptr(), out.shape, out.stride(), out.dtype), call.index)
            if first != call.index:
                found = f"is the output of call {first}"
                yield Contradiction(call.index, call.module, "the output", "its own", found, 1.0, WHOLE)


def _rows(recording: Recording, attention: Attention, sums: Mapping[int, Tensor]) -> Iterator[Contradiction]:
    """Row sums of the attention's E, as the walk pulls them, against what its calls' heads make of them."""
    ours, wanted = recording.zeros(), recording.zeros()
    for heads in attention.heads:
        own, count = recording.zeros(), recording.zeros()
        for added in (s for s in attention.sums if s[0] in heads):
            most, each = recording.zeros(), recording.zeros()
            for call in (recording.calls[i] for i in added):
                ours += recording.scatter(_pulled(call), call.queries)
                each += recording.scatter(sums[call.index], call.queries)
                rows = (recording.scatter(torch.ones(call.queries.shape), call.queries) > 0).to(most)
                most = torch.maximum(most, rows * call.layout.heads)
            own, count = own + each * most, count + most
        wanted += own / count.clamp(min=1)
    ours[:, 0] = wanted[:, 0] = 0  # nobody's rows
    apart = (ours - wanted).abs()
    if not bool(apart.max() <= WITHIN * wanted.max().clamp(min=1)):
        sample, row = divmod(int(apart.argmax()), apart.shape[1])
        first = recording.calls[attention.calls[0]]
        yield Contradiction(
            first.index,
            first.module,
            f"a row of A over attention {attention.index} (calls {', '.join(map(str, attention.calls))})",
            f"summing to {float(wanted[sample, row]):.3g}",
            f"sums to {float(ours[sample, row]):.3g}",
            float(apart[sample, row] / wanted[sample, row].clamp(min=1)),
            APART,
        )


def _pulled(call: AttentionCall) -> Tensor:
    """Σ_j E_ij of a call's rows, (group, row), with the call's share of the attention's heads: what a rollout divides by."""
    ones = torch.ones(call.queries.shape)
    return 1 / call.pull_all([Pull(ones, _Mean(), normalised=True)])[0].keep.cpu() - 1


def _one(recording: Recording) -> Iterator[Contradiction]:
    """Two attentions that write the same rows of one state, and of which no later rows hold one without the other: they are
    one."""
    for a, b in _parallel([c for c in recording.calls if not c.lost]):
        if a.attention != b.attention and _read_together(recording, a, b):
            side = f"attention {a.attention} and attention {b.attention}"
            yield Contradiction(
                b.index, b.module, side, "two", "are read as one (the same rows of one state)", 1.0, WHOLE
            )


def _parallel(calls: Sequence[AttentionCall]) -> Iterator[tuple[AttentionCall, AttentionCall]]:
    """Pairs of calls that read one state at the same rows, neither of which rests on the other."""
    states: dict[int, list[AttentionCall]] = {}
    for call in calls:
        states.setdefault(call.rows_seen, []).append(call)
    for some in states.values():
        for n, b in enumerate(some):
            for a in some[:n]:
                rests = (b.seen | b.rows_seen) >> a.event & 1
                if not rests and bool(torch.isin(a.queries, b.queries[b.queries > 0]).any()):
                    yield a, b


def _read_together(recording: Recording, a: AttentionCall, b: AttentionCall) -> bool:
    """Whether all rows that calls read hold both outputs or neither, and some rows hold both."""
    states = [seen for c in recording.calls for seen in (c.seen, c.rows_seen, c.keys_seen)]
    both = [(seen >> a.event & 1, seen >> b.event & 1) for seen in states]
    joined = (1, 1) in both or bool(recording.final_seen.get(b.event, 0) >> a.event & 1)
    return joined and all(x == y for x, y in both)
