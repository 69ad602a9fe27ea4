"""Which tokens are padding: those that a mask among the inputs, or the mask of every call that reads them, leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regard.recording.relevance.call_graph import CallGraph
from regard.recording.tokens.tags import STRIDE, Stream


def padding(graph: CallGraph, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tokens that a mask among the inputs, or the mask of every call that reads them, leaves out.

    A token that no call has among its keys (dropped before attention) is no padding: the model may read it by other ways.
    """
    alive, there = (torch.zeros(graph.batch, graph.rows, dtype=torch.float32) for _ in range(2))
    for call in graph.calls:
        if call.lost:
            continue
        at = (call.keys // STRIDE - 1).clamp(min=0), call.keys % STRIDE
        alive.index_put_(at, (~call.dead_keys()).float(), accumulate=True)
        there.index_put_(at, torch.ones_like(call.keys, dtype=torch.float32), accumulate=True)
    for merge in reversed(graph.merges):  # what a row is made of is seen where the row is
        for seen in (alive, there):
            seen.index_add_(
                1, merge.sources.flatten(), seen[:, merge.rows].repeat_interleave(merge.sources.shape[1], 1)
            )
    padded = {}
    for stream in graph.streams:
        if not stream.shown:
            continue
        mask = _mask_of(inputs, stream)
        out = (alive == 0)[:, stream.rows] & (stream.packed & _is_read(graph, stream) | (there > 0)[:, stream.rows])
        padded[stream.name] = out if mask is None else out | (mask == 0)
    return padded


def _is_read(graph: CallGraph, stream: Stream) -> bool:
    rows = torch.arange(stream.first, stream.first + stream.count)
    return any(bool(torch.isin(c.keys % STRIDE, rows).any()) for c in graph.calls)


def _mask_of(inputs: Mapping[str, Any], stream: Stream) -> Tensor | None:
    """The 0/1 mask given for a stream: `attention_mask` for `input_ids`, `decoder_attention_mask` for the decoder's, ..."""
    name = stream.name if stream.kind == "input" else ""
    prefix, found, _ = name.partition("input") if "input" in name else name.rpartition("_")
    mask, value = inputs.get(f"{prefix}{'' if found == 'input' else '_'}attention_mask"), inputs.get(name)
    if isinstance(mask, Tensor) and isinstance(value, Tensor) and value.ndim <= 3 and mask.shape == value.shape[:2]:
        return mask.cpu() if mask.shape[1] == stream.count else None
    return None
