"""Which final rows the target reads: as found from the gradient, or as the user says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from regard.errors import Misuse, TrailLost, Unmoved, nearest
from regard.recording.calls import AttentionCall
from regard.recording.gradient import Gradients, cut_off, gradient
from regard.recording.relevance.call_graph import CallGraph
from regard.recording.relevance.rows import Relevance
from regard.recording.states import State, per_row
from regard.recording.tokens.tags import STRIDE, Stream
from regard.target import row_at

Readout = str | int | Tensor | None
NAMES = ("cls", "last", "mean")


def read_out(
    graph: CallGraph, gradients: Gradients, readout: Readout, inputs: Mapping[str, Any], output: Any
) -> tuple[dict[int, Tensor], str]:
    """Read-out weights of each final attention, found or as the user says, and a sentence for the receipt."""
    if readout is None:
        weights = found(graph, gradients)
        return weights, found_from_the_gradient(graph.streams, weights)
    how = "given weights" if isinstance(readout, Tensor) else readout
    return given(graph, gradients, readout, inputs, output), f"{how}, as asked"


def found(graph: CallGraph, gradients: Gradients) -> dict[int, Relevance]:
    """Which final rows the target reads, found from the gradient: final attention -> weights r (batch, row).

    Our reading: a row weighs as much as the norm of ∂y/∂O there in its final attention (of all its heads together); the
    weights of each final attention sum to 1 per sample (CLIP's similarity reads two, one in each tower).
    """
    weights = {}
    for a, norms in read_attentions(graph, gradients).items():
        if bool(norms[:, 0].any()):
            index = graph.attentions[a].calls[0]
            raise TrailLost(
                f"the target reads rows of attention call {index} ({graph.calls[index].module}) that come from no input "
                "or parameter that was followed; name the rows to read from with readout="
            )
        weights[a] = norms / norms.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return weights


def read_attentions(graph: CallGraph, gradients: Gradients) -> dict[int, Relevance]:
    """Final attentions that the target depends on, with the norms of their rows (`CallGraph.norms_read`). Raises Unmoved."""
    norms = graph.norms_read(gradients)
    if not norms:
        raise Unmoved(unmoved(graph, gradients))
    return norms


def unmoved(graph: CallGraph, gradients: Gradients) -> str:
    """Why no attention call has a gradient."""
    cut = any(c.detached for c in graph.calls)
    if not cut and graph.leaves and not any(bool(g.any()) for g in gradients.inputs.values()):
        return (
            f"the target is constant here: it is {float(gradients.value[0]):.4g}, with a gradient of zero at all inputs "
            "and attention calls. A softmax over one class is constant, and so is a probability that is 1 or 0 to the last "
            "digit (explain the logit); and layers that round, as quantised ones may, pass no gradient"
        )
    if cut:
        return cut_off([c for c in graph.calls if c.detached])
    return (
        "the target does not depend on any attention call: its gradient is zero at all of them (layers that round "
        "their inputs, as quantised ones may, pass none)"
    )


def read_after_blocks(
    graph: CallGraph, last: Sequence[State], stages: Sequence[Stream], y: Tensor
) -> tuple[dict[int, Tensor], str]:
    """The rows of the last states (after all blocks) at which y has a gradient, where no attention is followed.

    Keyed by -1; nothing where no state is known. stages: all streams of the run.
    """
    last = [s for s in last if s.value.requires_grad]
    if not last or not y.requires_grad:
        return {}, "not known: no block was seen that returns the rows of tokens"
    grads = gradient(y, [s.value for s in last], keep=True)
    norms = [graph.zeros() if g is None else per_row(g.float().pow(2), s.ids, graph.scatter)
             for s, g in zip(last, grads, strict=True)]  # fmt: skip
    r = torch.stack(norms).sum(0).sqrt()
    weights = {-1: r / r.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)}
    return weights, found_from_the_gradient(stages, weights)


def given(
    graph: CallGraph, gradients: Gradients, readout: str | int | Tensor, inputs: Mapping[str, Any], output: Any
) -> dict[int, Tensor]:
    """The rows that the user names, in each final attention that the target depends on; weights (batch, row).

    inputs, output: of the run, where "last" looks which tokens are padding.
    """
    check_readout(readout)
    weights = {}
    for attention in _named(graph, gradients):
        rows = query_rows(graph.calls_of(attention))
        w = _weights(graph, rows, readout, partial(_last, rows, inputs, output))
        if not bool((w >= 0).all()) or not bool((w.sum(1) > 0).all()):
            raise Misuse("readout weights must be non-negative, and positive somewhere in every sample")
        w = w / w.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        weights[attention] = graph.scatter(w, rows)
    return weights


def _named(graph: CallGraph, gradients: Gradients) -> Iterable[int]:
    """The final attentions that the target depends on; where all are cut out of the graph, those that no later one reads."""
    if graph.calls and all(c.detached for c in graph.calls):
        return graph.final_attentions()
    return read_attentions(graph, gradients)


def query_rows(calls: Sequence[AttentionCall]) -> Int[Tensor, "group row"]:
    """Ids of an attention's query rows, in order: those of its one call; of several, each sample's, as they stand in turn.

    Raises Misuse where samples have rows of different numbers.
    """
    if len(calls) == 1:
        return calls[0].queries
    ids = torch.cat([c.queries.flatten() for c in calls])
    found, first = torch.unique(ids[ids > 0], return_inverse=True)
    order = torch.full((len(found),), len(ids)).scatter_reduce(0, first, torch.arange(len(first)), "amin").argsort()
    found = found[order]
    samples = (found // STRIDE).unique()
    each = [found[found // STRIDE == s] for s in samples]
    if len({len(e) for e in each}) > 1:
        raise Misuse("rows can be named with readout= only where every sample has the same number of them")
    return torch.stack(each)


def _weights(graph: CallGraph, rows: Tensor, readout: str | int | Tensor, last: Callable[[], Tensor]) -> Tensor:
    """Weights (group, row) over the query rows of a final attention."""
    groups, n = rows.shape
    if isinstance(readout, Tensor):
        if readout.shape not in ((groups, n), (n,)):
            raise Misuse(f"readout weights must be (batch, tokens) = {(groups, n)}, not {tuple(readout.shape)}")
        return readout.float().cpu().expand(groups, n)
    w = torch.zeros(groups, n, dtype=torch.float32)
    if readout == "mean":
        return graph.gather(_visible_tokens(graph), rows)
    if readout == "last":
        at = last()
    else:
        at = torch.full((groups,), 0 if readout == "cls" else int(readout))
        if not -n <= int(at[0]) < n:
            raise Misuse(f"readout position {readout} is out of range: the target's stream has {n} tokens")
    w[torch.arange(groups), at] = 1
    return w


def _last(rows: Tensor, inputs: Mapping[str, Any], output: Any) -> Tensor:
    """The place of each sample's last token that is not padding."""
    return row_at(-1, torch.empty(*rows.shape, 1), inputs, output)


def _visible_tokens(graph: CallGraph) -> Tensor:
    """1 at every input token that is not padding."""
    out = graph.zeros()
    for stream in graph.streams:
        if stream.of_input:
            out[:, stream.rows] = 1
            out[: len(graph.padded[stream.name]), stream.rows] *= ~graph.padded[stream.name]
    return out


def _how_many(read: Tensor) -> str:
    """Tokens, by sample: "6 tokens", or "4 to 6 tokens" where a maximum takes more of one sample than of another."""
    least, most = int(read.min()), int(read.max())
    return f"{most} token{'s' * (most > 1)}" if least == most else f"{least} to {most} tokens"


def found_from_the_gradient(streams: Sequence[Stream], weights: Mapping[int, Tensor]) -> str:
    """Which rows were found to be read, in words."""
    parts = []
    for r in weights.values():
        for stream in streams:
            read = (r[:, stream.rows] > 0).sum(1)
            if bool((read == 1).all()):
                at = r[:, stream.rows].argmax(1)
                where = f"[{int(at[0])}]" if bool((at == at[0]).all()) else "[one per sample]"
                parts.append(stream.name + (where if stream.count > 1 else ""))
            elif bool(read.any()):
                parts.append(f"{_how_many(read)} of {stream.name}, weighted by gradient norm")
    return f"{' and '.join(parts)}, found from the gradient"


def check_readout(readout: Readout) -> None:
    """UnknownName for a word that names no rows."""
    if isinstance(readout, str) and readout not in NAMES:
        raise nearest(readout, NAMES, "readout")
