"""Attention transfer when it is asked for, in a run of its own: from rows of a recording to the tokens of its streams."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from regard.api.measuring import MIXED_ROWS, watched_again
from regard.api.shared_run import Watched
from regard.attribution.attention.transfer import Moved, transfer
from regard.explanation.receipt import Receipt
from regard.explanation.transfer import Flow, LateTransfer, LayerTransfer, Tokens
from regard.recording import Gradients, Recording, Stream
from regard.recording.tokens.tags import STRIDE
from regard.target import Target, Value


def late_transfer(w: Watched, target: Target, value: Value, receipt: Receipt) -> LateTransfer:
    """How an explanation finds its transfer. The passes are counted on the receipt."""
    if value.shared or len(value.y) < w.recording.batch:
        return LateTransfer(refused=MIXED_ROWS.format("how attention is transferred"))
    again, device = watched_again(w, target), value.y.device

    def compute(flows: int) -> list[LayerTransfer]:
        with again() as (recording, gradients):
            layers = list(_layers(recording, gradients(None), flows, device))
        receipt.passes += 2
        return layers

    return LateTransfer(compute)


def _layers(recording: Recording, gradients: Gradients, flows: int, device: torch.device) -> Iterator[LayerTransfer]:
    hidden = recording.hidden()
    for moved in transfer(recording, gradients, flows):
        calls = recording.calls_of(moved.attention)
        t = recording.settled(moved.t).masked_fill(hidden, 0.0).float().to(device)
        looks, looked_at = (_streams(recording, ids) for ids in ([c.queries for c in calls], [c.keys for c in calls]))
        yield LayerTransfer(
            index=moved.attention,
            name=calls[0].module,
            queries=tuple(s.name for s in looks),
            streams={s.name: t[:, s.rows] for s in looked_at},
            flows=_flows(recording, moved),
            missed=moved.strongest.missed.float().to(device),
            row_sum=moved.row_sum.float().to(device),
            row_size=moved.row_size.float().to(device),
        )


def _streams(recording: Recording, ids: list[Tensor]) -> list[Stream]:
    """The streams that some rows are of, or are made of."""
    there = sum((recording.scatter(torch.ones(i.shape), i) for i in ids), recording.zeros())
    there = recording.settled(there)
    return [s for s in recording.streams if s.shown and bool(there[:, s.rows].any())]


def _flows(recording: Recording, moved: Moved) -> list[list[Flow]]:
    """Flows between rows as flows between tokens."""
    found, known = moved.strongest, dict[tuple[int, int], Tokens | None]()

    def tokens(sample: int, row: int) -> Tokens | None:
        if (sample, row) not in known:
            known[sample, row] = _tokens(recording, sample, row)
        return known[sample, row]

    out: list[list[Flow]] = []
    for sample, (losers, gainers, amounts) in enumerate(zip(*(t.tolist() for t in found[:3]), strict=True)):
        ends = [(tokens(sample, j), tokens(sample, k), f) for j, k, f in zip(losers, gainers, amounts, strict=True)]
        out.append([Flow(j, k, f) for j, k, f in ends if j and k and j != k and f > 0])
    return out


def _tokens(recording: Recording, sample: int, row: int) -> Tokens | None:
    """The tokens that a row is, or is made of; of several streams the one that most of it is of."""
    one = recording.scatter(torch.ones(1, 1), torch.tensor([[(sample + 1) * STRIDE + row]]))
    made = recording.settled(one)[sample]
    streams = [s for s in recording.streams if s.shown and bool(made[s.rows].any())]
    if not streams:
        return None
    most = max(streams, key=lambda s: float(made[s.rows].sum()))
    return Tokens(most.name, tuple(made[most.rows].nonzero()[:, 0].tolist()))
