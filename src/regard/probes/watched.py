"""What every probe begins with: one watched run, the explained number in it, and how the run is repeated with changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.attribution.rerun import Rerun
from regard.errors import Misuse, NonFinite
from regard.recording import AttentionCall, Recording, record
from regard.recording.ambient import as_the_user, our_own
from regard.recording.edits import Edit, uniform
from regard.recording.random_state import rng_kept
from regard.recording.refusals import refuse
from regard.target import Target


@dataclass
class Probed:
    """One run, and y of it.

    Attributes:
        again: how the run is repeated; its target is for the classes of the first run. y: in the graph.
        label: what y is. predicted: the class that each sample is taken for; None where the target is of no class.
        passes: forward and gradient passes so far.
    """

    recording: Recording
    again: Rerun
    wanted: Target
    y: Float[Tensor, " batch"]
    label: str
    predicted: Int[Tensor, " batch"] | None
    passes: int = 1

    def changed(self, *edits: Edit) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"] | None]:
        """y of the same classes, and the classes predicted, in a run with edits. Raises NonFinite where y is no number."""
        with torch.no_grad():
            output = self.again.run(edits).output
            with as_the_user():
                y = self.again.y(output).detach().double().cpu()
                predicted = self.wanted.value(output, self.recording.inputs).predicted
        self.passes += 1
        return finite(y), None if predicted is None else predicted.cpu()


@contextmanager
def probed(
    model: nn.Module,
    inputs: Any,
    target: Any = None,
    *,
    streams: Mapping[str, Any] | None = None,
    training: bool = False,
    batch_axis: Any = 0,
    memory_budget: int | str | None = None,
    states: bool = False,
) -> Iterator[Probed]:
    """One watched run; the model, its random state and its surroundings are as they were when it is over.

    Raises Misuse where y of a sample rests on other samples of the batch.
    """
    refuse(model, training)
    with rng_kept(model) as rng, our_own():
        recording = record(
            model, inputs, streams=streams, training=training, batch_axis=batch_axis, memory_budget=memory_budget,
            states=states, checked=True,
        )  # fmt: skip
        with torch.enable_grad(), as_the_user():
            wanted = Target.make(target).on(model, recording.output)
            value = wanted.value(recording.output, recording.inputs)
        if value.shared or len(value.y) != recording.batch:
            raise Misuse(
                "samples read one another here, so that a probe would be of no sample: give one pair at a time"
            )
        finite(value.y.detach())
        again = Rerun(
            recording.model, recording.given, wanted, recording.batch, value.explained, value.rival, streams, rng[0]
        )
        predicted = None if value.predicted is None else value.predicted.cpu()
        yield Probed(recording, again, wanted, value.y, wanted.label, predicted)


def recorded_call(recording: Recording, call: AttentionCall) -> AttentionCall:
    """The call of a run that a call of a repeated run is. Raises Misuse where their shapes differ."""
    recorded = recording.calls[call.index] if call.index < len(recording.calls) else None
    if recorded is None or recorded.shape != call.shape:
        raise Misuse(f"attention call {call.index} ({call.module}) is not of the shape that it had in the first run")
    return recorded


def even_attention(recording: Recording) -> Callable[[AttentionCall], Tensor]:
    """A of every call as if nothing were known of the content: uniform over the keys that a row may look at.

    Of sparse weights (sparsemax, entmax) the zeros tell of the content; there it is all keys that are no padding.
    """
    hidden = recording.hidden().to(recording.precision)

    def weights(call: AttentionCall) -> Tensor:
        if not call.sparse:
            return uniform(call)
        there = 1 - recording.gather(hidden, recorded_call(recording, call).keys)[:, None, None]
        return (there / there.sum(-1, keepdim=True).clamp(min=1)).expand(-1, -1, call.shape[2], -1)

    return weights


def finite(y: Tensor) -> Tensor:
    """y itself. Raises NonFinite where it is no number."""
    if not bool(torch.isfinite(y).all()):
        raise NonFinite(f"the target is not a finite number: {y.tolist()}")
    return y


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under their heads, as text."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def share(part: Tensor, whole: Tensor, size: Tensor) -> Tensor:
    """part / whole; NaN where the whole is nothing beside numbers of this size."""
    return torch.where(whole.abs() > 1e-6 * size.abs().clamp(min=1), part / whole, torch.nan)


__all__ = ["Probed", "even_attention", "finite", "probed", "recorded_call", "share", "table"]
