"""Which rows a target reads, and what to say where no attention moves it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from regard.attribution.rerun import Rerun
from regard.errors import Unmoved
from regard.explanation.receipt import ReadTokens
from regard.recording import AttentionCall, Gradients, Recording, Stream
from regard.recording.edits import Edit
from regard.recording.gradient import gradient
from regard.recording.relevance.left_behind import left_behind
from regard.recording.relevance.readout import Readout, found_from_the_gradient, read_after_blocks, read_out, unmoved


def read_rows(
    recording: Recording, y: Tensor, gradients: Gradients, readout: Readout, again: Rerun
) -> tuple[dict[int, Tensor], str]:
    """Which rows the target reads: in its last attentions, and as earlier ones left them; or, where no attention is followed,
    after the last block."""
    if readout is None and not recording.whole:
        last = recording.frontier(-1) if recording.blocks else []
        return read_after_blocks(recording, last, recording.stages, y)
    try:
        found, how = read_out(recording, gradients, readout, recording.inputs, recording.output)
    except Unmoved as error:
        raise _as_at_the_inputs(error, recording, gradients, again) from None
    more = {} if readout is not None else left_behind(recording, gradients, y, found, partial(_cut_run, again))
    return ({**found, **more}, found_from_the_gradient(recording.streams, {**found, **more})) if more else (found, how)


def tokens_read(streams: Sequence[Stream], weights: Iterable[Tensor]) -> list[ReadTokens]:
    """The tokens of each stream that weights (batch, row) of a read-out stand on, each attention's by themselves.

    None where merged rows or other stages are read: these are no tokens of a map.
    """
    out = []
    for r in weights:
        for stream in streams:
            read = r[:, stream.rows] > 0
            if bool(read.any()):
                if not stream.shown:
                    return []
                out.append(ReadTokens(stream.name, read.sum(1).tolist(), read.int().argmax(1).tolist()))
    return out


def _as_at_the_inputs(error: Unmoved, recording: Recording, gradients: Gradients, again: Rerun) -> Unmoved:
    """What to say where no attention call moves y: it may be constant, which the gradients at the inputs tell."""
    if gradients.inputs or not recording.leaves:
        return error
    with torch.enable_grad():
        leaves = {k: x.detach().clone().requires_grad_() for k, x in recording.leaves.items()}
        y = again.y(again.output(leaves))
        found = gradient(y, [*leaves.values()]) if y.requires_grad else [None for _ in leaves]
    inputs = {k: torch.zeros_like(x) if g is None else g for (k, x), g in zip(leaves.items(), found, strict=True)}
    return Unmoved(unmoved(recording, Gradients(gradients.calls, inputs, gradients.value)))


def _cut_run(again: Rerun, edits: Sequence[Edit]) -> tuple[Sequence[AttentionCall], Tensor]:
    """The calls and y of a run with edits."""
    made = again.run(edits)
    return made.calls, again.y(made.output)
