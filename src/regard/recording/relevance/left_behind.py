"""Rows that the target reads as an earlier attention left them, since no later one took them along.

The read-out is looked for in the final attentions. A model whose last layers change the class token alone (class attention, or
a last layer that is computed for one query) may read the patches as well, as the layers before have left them. Their gradient
there is of two parts, by the later attentions that look at them and by the head itself; the second alone makes them rows
of the read-out, and is what a run gives in which every attention's output is cut from what went before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from regard.recording.calls import AttentionCall
from regard.recording.edits import Edit, Leaves
from regard.recording.gradient import Gradients, gradient
from regard.recording.graph import node_of, upstream
from regard.recording.relevance.call_graph import CallGraph
from regard.recording.relevance.rows import Relevance


def left_behind(
    graph: CallGraph,
    gradients: Gradients,
    y: Tensor,
    found: Mapping[int, Relevance],
    again: Callable[[Sequence[Edit]], tuple[Sequence[AttentionCall], Tensor]],
) -> dict[int, Relevance]:
    """Weights of rows that the target reads at attentions that are not final: number -> (batch, row), sum 1 per sample.

    `found`: the read-out at the final ones. `again` runs the model with edits, and gives its calls and y, in the graph. Costs
    nothing where there can be none, which the graph of y tells.
    """
    rows = {a: mine for a, mine in graph.left_over.items() if a not in found}
    rows = {a: mine for a, mine in rows.items() if _alive(graph, gradients, a, mine)}
    if not rows:
        return {}
    direct = _reached(y, graph.calls)
    rows = {a: mine for a, mine in rows.items() if direct & {*graph.attentions[a].calls}}
    return _weights(graph, rows, again) if rows else {}


def _alive(graph: CallGraph, gradients: Gradients, attention: int, rows: Tensor) -> bool:
    """Whether y has a gradient at any of some rows."""
    for call in graph.calls_of(attention, gradients):
        assert call.dO is not None
        size = call.canonical(call.dO).abs().amax((1, 3)).cpu()
        if bool((graph.gather(rows.to(size), call.queries) * size).any()):
            return True
    return False


def _reached(y: Tensor, calls: Sequence[AttentionCall]) -> set[int]:
    """Calls whose output y holds without going through that of another one."""
    stops: dict[Any, int] = {node_of(c.output): c.index for c in calls if c.output.requires_grad}
    stops |= {node_of(c.weights.root): -1 for c in calls if c.weights is not None}
    return {stops[node] for node in upstream([node_of(y)], lambda node: node not in stops) if node in stops}


def _weights(
    graph: CallGraph,
    rows: Mapping[int, Tensor],
    again: Callable[[Sequence[Edit]], tuple[Sequence[AttentionCall], Tensor]],
) -> dict[int, Relevance]:
    """Norms of the gradient that reaches rows by no other attention, as weights."""
    with torch.enable_grad():
        calls, y = again([Leaves()])
        grads = gradient(y, [c.output for c in calls])
    out = {}
    for attention, mine in rows.items():
        squares = graph.zeros()
        for i in graph.attentions[attention].calls:
            dO = grads[i]
            if dO is not None:
                call = graph.calls[i]
                size = call.canonical(dO).to(call.precision).pow(2).sum((1, 3)).cpu()
                squares += graph.scatter(size, call.queries)
        norms = squares.sqrt() * mine
        norms[:, 0] = 0
        if bool(norms.any()):
            out[attention] = norms / norms.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return out


__all__ = ["left_behind"]
