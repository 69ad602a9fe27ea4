"""Attention transfer: by how much y would rise if attention were pressed towards each token, layer by layer.

With S the scores that the softmax takes,

    D_ij = ∂y/∂S_ij = A_ij (G_ij − Σ_k A_ik G_ik)        (arXiv 2605.11392; formulas.md sections 2 and 4),

whose rows sum to 0: attention that one key gains is taken from the others. Over the heads h and the query rows i of an
attention, t_j = Σ_{h,i} D_ij says what y gains where all of them look more at token j; where it is negative, y gains if they
look at j less.

Who gains what others lose (our reading): within a row, what key j loses goes to the keys that gain, in proportion to what
they gain, F_jk = Σ_{h,i} (D_ij)₋ (D_ik)₊ / Σ_k (D_ik)₊; of two opposite flows the difference is left, (F_jk − F_kj)₊. So what
flows to a token, less what flows from it, is t.

A is the left operand of the product with V. Where its rows do not sum to 1 (an attention sink, a softmax over one more
key, memory keys), the key that is missing has G = 0, and gains or loses what the rest of its row does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.attribution.context import Relevance
from regard.recording import AttentionCall, Gradients, Recording
from regard.recording.calls.rebuild import Tile, tiles
from regard.recording.relevance.readout import read_attentions
from regard.recording.tokens.tags import STRIDE

MOST = 512
"""Of so many tokens a layer the flows are looked at: of those that lose or gain most, where it has more."""


class Strongest(NamedTuple):
    """The strongest flows of one attention, sample by sample, the largest first (0 where there are no more): from which row,
    to which, how much. missed: no flow that was not looked at is larger (0 where all were)."""

    losers: Int[Tensor, "batch flow"]
    gainers: Int[Tensor, "batch flow"]
    amounts: Float[Tensor, "batch flow"]
    missed: Float[Tensor, " batch"]


class Moved(NamedTuple):
    """What is transferred in one attention: t, on the rows of its values before rows that were merged are told apart.

    row_sum: the largest |Σ_j D_ij| of a sample, 0 but for rounding where A is a softmax over its keys. row_size: the most that
    one row transfers, Σ_j |D_ij| / 2, beside which it is to be seen.
    """

    attention: int
    t: Relevance
    row_sum: Float[Tensor, " batch"]
    row_size: Float[Tensor, " batch"]
    strongest: Strongest


class Totals(NamedTuple):
    """What each row of a recording gains, and loses, over all heads and query rows; and see `Moved`."""

    gained: Relevance
    lost: Relevance
    row_sum: Float[Tensor, " batch"]
    row_size: Float[Tensor, " batch"]


def transfer(recording: Recording, gradients: Gradients, flows: int) -> Iterator[Moved]:
    """What is transferred in each attention of a run, in order, with so many of its strongest flows in each sample.

    Raises Unmoved where the target depends on no attention.
    """
    read_attentions(recording, gradients)
    for attention in recording.attentions:
        calls = recording.calls_of(attention.index, gradients)
        found = totals(recording, calls)
        strongest = strongest_flows(recording, calls, found, flows)
        yield Moved(attention.index, found.gained - found.lost, found.row_sum, found.row_size, strongest)


def changes(call: AttentionCall) -> Iterator[tuple[Tile, Float[Tensor, "group head row key"]]]:
    """D = ∂y/∂S of a call, tile by tile; to be done with, or changed, before the next. Rows where it is 0 are left out."""
    for tile, A, G in tiles(call, _read(call)):
        assert G is not None
        D = G.mul_(A)
        D.addcmul_(A, D.sum(-1, keepdim=True), value=-1)
        yield tile, tile.cut(D)


def _read(call: AttentionCall) -> Int[Tensor, " row"]:
    """The query rows whose output the target depends on, in any group or head."""
    if call.dO is None:
        raise ValueError("this call is not bound to a target; use recording.gradients(target).calls")
    rows = torch.arange(call.shape[2])
    return rows if call.G is not None else rows[(call.canonical(call.dO) != 0).any(3).flatten(0, 1).any(0).cpu()]


def totals(recording: Recording, calls: Sequence[AttentionCall]) -> Totals:
    """What every row gains and loses in an attention."""
    gained, lost = recording.zeros(), recording.zeros()
    row_sum, row_size = recording.zeros()[:, 0], recording.zeros()[:, 0]
    for call in calls:
        groups, _, _, m = call.shape
        plus, minus = (torch.zeros(groups, m, dtype=call.precision, device=call.output.device) for _ in range(2))
        most = torch.zeros(2, groups, dtype=call.precision, device=call.output.device)
        for tile, D in changes(call):
            sums = torch.stack([D.sum(-1).abs(), D.abs().sum(-1) / 2]).amax((-2, -1))
            most[:, tile.groups] = torch.maximum(most[:, tile.groups], sums)
            plus[tile.groups, tile.keys] += D.clamp(min=0).sum((1, 2))
            minus[tile.groups, tile.keys] -= D.clamp_(max=0).sum((1, 2))
        gained += recording.scatter(plus, call.keys)
        lost += recording.scatter(minus, call.keys)
        samples, most = call.samples.clamp(min=0), most.to(gained).cpu()
        row_sum.scatter_reduce_(0, samples, most[0], "amax")
        row_size.scatter_reduce_(0, samples, most[1], "amax")
    return Totals(gained, lost, row_sum, row_size)


def strongest_flows(recording: Recording, calls: Sequence[AttentionCall], found: Totals, flows: int) -> Strongest:
    """The flows between the tokens that lose or gain most.

    F_jk is at most what j loses and what k gains, so that no flow from or to another token is larger than what that token
    loses or gains itself.
    """
    size = torch.maximum(found.gained, found.lost)
    size[:, 0] = -1  # row 0 is no token
    room = math.isqrt(
        recording.budget // (4 * len(size) * size.element_size())
    )  # F, its transpose, their difference, an order
    count = max(1, min(MOST, room, int((size > 0).sum(1).max())))
    at = size.topk(count, dim=1).indices
    slot = torch.full(size.shape, -1).scatter_(1, at, torch.arange(count).expand_as(at))
    F = _between(recording, calls, slot, count)
    net = (F - F.transpose(1, 2)).clamp_(min=0).flatten(1)
    amounts, pairs = net.topk(min(flows, net.shape[1]), dim=1)
    missed = size.scatter(1, at, 0.0).amax(1)
    return Strongest(at.gather(1, pairs // count), at.gather(1, pairs % count), amounts, missed)


def _between(
    recording: Recording, calls: Sequence[AttentionCall], slot: Int[Tensor, "batch row"], count: int
) -> Float[Tensor, "batch loser gainer"]:
    """F between the rows that have a slot, over all calls of an attention."""
    F = torch.zeros(len(slot), count, count, dtype=recording.precision)
    for call in calls:
        samples = call.samples.clamp(min=0)
        slots = slot[samples[:, None], call.keys % STRIDE]
        for tile, D in changes(call):
            for group, each in zip(range(tile.groups.start, tile.groups.stop), D, strict=True):
                here = slots[group, tile.keys]
                known = here[here >= 0]
                among = _in_rows(each.flatten(0, 1), (here >= 0).to(D.device)).to(F).cpu()
                F[samples[group]].index_put_((known[:, None], known[None]), among, accumulate=True)
    return F


def _in_rows(D: Float[Tensor, "row key"], some: Tensor) -> Float[Tensor, "loser gainer"]:
    """Σ_i (D_ij)₋ (D_ik)₊ / Σ_k (D_ik)₊ between some of the keys; the gains are those of all keys, and of what is no key."""
    gains = D.clamp(min=0)
    total = gains.sum(1, keepdim=True) - D.sum(1, keepdim=True).clamp(max=0)
    shares = torch.where(total > 0, gains / total, 0.0)
    return (-D[:, some]).clamp_(min=0).T @ shares[:, some]


__all__ = ["Moved", "Strongest", "transfer"]
