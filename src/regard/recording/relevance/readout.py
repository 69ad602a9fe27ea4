"""Which final rows the target reads: as found from the gradient, or as the user says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from regard.errors import Misuse
from regard.recording.calls import AttentionCall
from regard.recording.gradient import gradient
from regard.recording.recording import Gradients, Recording
from regard.recording.refusals import Readout, check_readout
from regard.recording.states import per_row
from regard.recording.tokens.tracker import STRIDE, Stream
from regard.target import row_at


def read_out(recording: Recording, gradients: Gradients, readout: Readout) -> tuple[dict[int, Tensor], str]:
    """Read-out weights of each final attention, and a sentence for the receipt."""
    if readout is None:
        found = recording.readout(gradients)
        return found, found_from_the_gradient(recording.streams, found)
    how = "given weights" if isinstance(readout, Tensor) else readout
    return given(recording, gradients, readout), f"{how}, as asked"


def read_after_blocks(recording: Recording, y: Tensor) -> tuple[dict[int, Tensor], str]:
    """The rows of the states after the last block at which y has a gradient, where no attention is followed (`read_out`).

    Keyed by -1; nothing where no state is known.
    """
    last = recording.frontier(-1) if recording.blocks else []
    last = [s for s in last if s.value.requires_grad]
    if not last or not y.requires_grad:
        return {}, "not known: no block was seen that gives back the rows of tokens"
    grads = gradient(y, [s.value for s in last], keep=True)
    norms = [recording.zeros() if g is None else per_row(g.float().pow(2), s.ids, recording.scatter)
             for s, g in zip(last, grads, strict=True)]  # fmt: skip
    r = torch.stack(norms).sum(0).sqrt()
    weights = {-1: r / r.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)}
    return weights, found_from_the_gradient(recording.stages, weights)


def given(recording: Recording, gradients: Gradients, readout: str | int | Tensor) -> dict[int, Tensor]:
    """The rows that the user names, in each final attention that the target depends on; weights (batch, row)."""
    check_readout(readout)
    weights = {}
    for attention in _named(recording, gradients):
        rows = query_rows(recording.calls_of(attention))
        w = _weights(recording, rows, readout)
        if not bool((w >= 0).all()) or not bool((w.sum(1) > 0).all()):
            raise Misuse("readout weights must be non-negative, and positive somewhere in every sample")
        w = w / w.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        weights[attention] = recording.scatter(w, rows)
    return weights


def _named(recording: Recording, gradients: Gradients) -> Iterable[int]:
    """The final attentions that the target depends on; where all are cut out of the graph, those that no later one reads."""
    if recording.calls and all(c.detached for c in recording.calls):
        return recording.final_attentions()
    return recording.read_attentions(gradients)


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


def _weights(recording: Recording, rows: Tensor, readout: str | int | Tensor) -> Tensor:
    """Weights (group, row) over the query rows of a final attention."""
    groups, n = rows.shape
    if isinstance(readout, Tensor):
        if readout.shape not in ((groups, n), (n,)):
            raise Misuse(f"readout weights must be (batch, tokens) = {(groups, n)}, not {tuple(readout.shape)}")
        return readout.float().cpu().expand(groups, n)
    w = torch.zeros(groups, n, dtype=torch.float32)
    if readout == "mean":
        return recording.gather(_visible_tokens(recording), rows)
    if readout == "last":
        at = row_at(-1, torch.empty(groups, n, 1), recording.inputs, recording.output)
    else:
        at = torch.full((groups,), 0 if readout == "cls" else int(readout))
        if not -n <= int(at[0]) < n:
            raise Misuse(f"readout position {readout} is out of range: the target's stream has {n} tokens")
    w[torch.arange(groups), at] = 1
    return w


def _visible_tokens(recording: Recording) -> Tensor:
    """1 at every input token that is not padding."""
    out = recording.zeros()
    for stream in recording.streams:
        if stream.of_input:
            out[:, stream.rows] = 1
            out[: len(recording.padded[stream.name]), stream.rows] *= ~recording.padded[stream.name]
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
