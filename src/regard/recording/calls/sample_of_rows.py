"""Which sample each row of a call belongs to, found after the run: from later calls, and from what rows were merged to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from regard.recording.calls import AttentionCall
from regard.recording.tokens.tags import STRIDE, Lost, Merge, Why
from regard.recording.tokens.tracker import Trail

MEET = Lost("rows of several samples meet in it", Why.SAMPLES)


def samples_meet(calls: Sequence[AttentionCall]) -> bool:
    """Whether rows of two samples stand in one group of a call."""
    for call in calls:
        own = torch.cat([call.queries, call.keys], 1) // STRIDE
        if bool(((own > 0) & (own != own.amax(1, keepdim=True))).any()) if own.numel() else False:
            return True
    return False


def settled(calls: Sequence[AttentionCall], trail: Trail) -> list[AttentionCall]:
    """The calls with a sample for every row, found backwards: from later calls, and from what rows were merged to."""
    packed = _packed_rows(trail)
    owner = torch.zeros(trail.rows, dtype=torch.int64)
    done: dict[int, AttentionCall] = {}
    known: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    events: list[AttentionCall | Merge] = sorted([*calls, *trail.merges], key=lambda e: e.event, reverse=True)
    for event in events:
        if isinstance(event, Merge):
            found = owner[event.rows].repeat_interleave(event.sources.shape[1])
            owner[event.sources.flatten()[found > 0]] = found[found > 0]
        else:
            done[event.index] = _with_samples(event, owner, packed, known)
    out = [done[c.index] for c in calls]
    return [_apart(c, out, packed, trail.merges) for c in out] if bool(packed.any()) else out


def _apart(
    call: AttentionCall, calls: Sequence[AttentionCall], packed: Tensor, merges: Sequence[Merge]
) -> AttentionCall:
    """A call whose keys have not absorbed calls of other pictures, though these stood beside them in one tensor."""
    rests = torch.zeros(len(packed), dtype=torch.bool)
    rests[call.keys % STRIDE] = True
    for merge in reversed(merges):
        rests[merge.sources[rests[merge.rows]]] = True
    seen = call.seen
    for other in calls:
        rows = other.queries % STRIDE
        if bool(packed[rows].all()) and not bool(rests[rows].any()):
            seen &= ~(1 << other.event)
    return replace(call, seen=seen)


def _packed_rows(trail: Trail) -> Tensor:
    """bool (row,): tokens of packed inputs, and what they were merged to. Each is one sample's only."""
    packed = torch.zeros(trail.rows, dtype=torch.bool)
    for stream in trail.streams:
        packed[stream.rows] |= stream.packed
    for merge in trail.merges:
        packed[merge.rows] |= packed[merge.sources].any(1)
    return packed


def _with_samples(
    call: AttentionCall, owner: Tensor, packed: Tensor, known: dict[tuple[int, int], tuple[Tensor, Tensor]]
) -> AttentionCall:
    """One call with its rows in their samples; what is learned of packed rows goes to `owner`.

    known: what rows became that are of no packed input; other calls may have the same.
    """
    if call.lost:
        return call
    if (same := known.get((id(call.queries), id(call.keys)))) is not None:
        return replace(call, queries=same[0], keys=same[1])
    ids = torch.cat([call.queries, call.keys], 1)
    rows, own = ids % STRIDE, ids // STRIDE
    mine = packed[rows]
    own = torch.where(mine, torch.maximum(own, owner[rows]), own)
    sample = own.amax(1, keepdim=True)
    n = call.queries.shape[1]
    several = ((own > 0) & (own != sample)).any(1, keepdim=True)
    if bool(several.any()) and _mixes(call, own[:, :n], own[:, n:]):
        return replace(call, lost=MEET)
    own = torch.where((own == 0) & ~several, sample, own)
    if bool((mine & (own == 0)).any()):
        return replace(call, lost="it is not known which samples its rows belong to; explain one sample at a time")
    owner[rows[mine]] = own[mine]
    ids = torch.where((ids > 0) & (ids < STRIDE), ids + own * STRIDE, ids)
    queries, keys = ids[:, :n].contiguous(), ids[:, n:].contiguous()
    if not bool(several.any()) and not bool(mine.any()):
        known[id(call.queries), id(call.keys)] = queries, keys
    return replace(call, queries=queries, keys=keys)


def _mixes(call: AttentionCall, rows: Tensor, keys: Tensor) -> bool:
    """Whether rows of one sample may look at keys of another: (group, row) and (group, key) of samples, 0 for none."""
    across = (rows[:, :, None] != keys[:, None, :]) & (rows[:, :, None] > 0) & (keys[:, None, :] > 0)
    return bool((call.visible().cpu() & across).any())
