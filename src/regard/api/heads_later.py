"""Each head's own map when it is asked for, in a run of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from regard.api.measuring import MIXED_ROWS, watched_again
from regard.api.shared_run import Watched
from regard.attribution.attention.chosen_heads import ChosenHeads, placed
from regard.attribution.attention.path_rules import Corrected, Preset, relevance
from regard.attribution.method import Method
from regard.explanation.head_maps import HeadLayer, LateHeads
from regard.explanation.receipt import Receipt
from regard.recording import Gradients, Recording
from regard.target import Target, Value


def late_heads(
    w: Watched,
    target: Target,
    value: Value,
    row: Method,
    options: Mapping[str, Any],
    readout: Mapping[int, Tensor],
    receipt: Receipt,
) -> LateHeads:
    """How an explanation finds its heads' maps. The passes are counted on the receipt."""
    if not row.preset or "heads" not in row.options:
        return LateHeads(refused=f"method {row.name!r} has no map of a head; use 'gae' or 'raw_attention'")
    if value.shared or len(value.y) < w.recording.batch:
        return LateHeads(refused=MIXED_ROWS.format("each head's map"))
    own = {k: v for k, v in options.items() if k not in ("heads", "form", "start_layer")}
    method, again, y = row.function(**own), watched_again(w, target), value.y.detach()
    assert isinstance(method, Preset)

    def compute() -> list[HeadLayer]:
        with again() as (recording, gradients):
            along = gradients if method.gradient else lambda _rule: Gradients(recording.calls, {}, y)
            layers = list(_layers(recording, along, dict(readout), method, y.device))
        receipt.passes += 1 + method.gradient
        return layers

    return LateHeads(compute)


def _layers(
    recording: Recording, gradients: Corrected, readout: dict[int, Tensor], method: Preset, device: torch.device
) -> Iterator[HeadLayer]:
    """A walk for each head of a layer; the layer's A and G are built once."""
    hidden = recording.hidden()
    for attention in recording.attentions:
        calls = recording.calls_of(attention.index)
        count = max(placed(recording, c)[1] for c in calls)
        alone = [ChosenHeads(layers=((attention.index, (head,)),)) for head in range(count)]
        found = relevance(recording, gradients, readout, [replace(method, heads=heads) for heads in alone])
        maps = torch.stack([recording.settled(r).masked_fill(hidden, 0.0) for r in found], 1).float().to(device)
        shown = {s.name: maps[..., s.rows] for s in recording.streams if s.shown}
        yield HeadLayer(attention.index, calls[0].module, shown)


__all__ = ["late_heads"]
