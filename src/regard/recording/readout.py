"""Which final rows the target reads: as found from the gradient, or as the user says."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from regard.errors import Misuse
from regard.recording.entry import Readout, check_readout
from regard.recording.recording import Gradients, Recording
from regard.target import row_at


def read_out(recording: Recording, gradients: Gradients, readout: Readout) -> tuple[dict[int, Tensor], str]:
    """Read-out weights of each final call, and a sentence for the receipt."""
    if readout is None:
        found = recording.readout(gradients)
        return found, _found(recording, found)
    how = "given weights" if isinstance(readout, Tensor) else readout
    return given(recording, gradients, readout), f"{how}, as asked"


def given(recording: Recording, gradients: Gradients, readout: str | int | Tensor) -> dict[int, Tensor]:
    """The rows that the user names, in each final call that the target depends on; weights (batch, row)."""
    check_readout(readout)
    weights = {}
    for i in recording.read_calls(gradients):
        call = recording.calls[i]
        w = _weights(recording, i, readout)
        if not bool((w >= 0).all()) or not bool((w.sum(1) > 0).all()):
            raise Misuse("readout weights must be non-negative, and positive somewhere in every sample")
        w = w / w.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        weights[i] = recording.scatter(w, call.queries)
    return weights


def _weights(recording: Recording, index: int, readout: str | int | Tensor) -> Tensor:
    """Weights (group, row) over the query rows of a final call."""
    call = recording.calls[index]
    groups, _, n, _ = call.shape
    if isinstance(readout, Tensor):
        if readout.shape not in ((groups, n), (n,)):
            raise Misuse(f"readout weights must be (batch, tokens) = {(groups, n)}, not {tuple(readout.shape)}")
        return readout.float().cpu().expand(groups, n)
    w = torch.zeros(groups, n, dtype=torch.float32)
    if readout == "mean":
        return recording.gather(_visible_tokens(recording), call.queries)
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


def _found(recording: Recording, weights: Mapping[int, Tensor]) -> str:
    """Which rows were found to be read, in words."""
    parts = []
    for r in weights.values():
        for stream in recording.streams:
            read = (r[:, stream.rows] > 0).sum(1)
            if bool((read == 1).all()):
                at = r[:, stream.rows].argmax(1)
                where = f"[{int(at[0])}]" if bool((at == at[0]).all()) else "[one per sample]"
                parts.append(stream.name + (where if stream.count > 1 else ""))
            elif bool(read.any()):
                parts.append(f"{int(read.max())} tokens of {stream.name}, weighted by gradient norm")
    return f"{' and '.join(parts)}, found from the gradient"
