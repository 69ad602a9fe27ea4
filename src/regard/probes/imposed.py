"""The model under another attention: A replaced by a prior, and what changes.

Le et al., "Guiding Visual Question Answering with Attention Priors" (WACV 2023): what a model should look at, known from
elsewhere, is put in the place of its own attention.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.errors import Misuse
from regard.explanation import display
from regard.probes.priors import Prior, priors_of, shared_out
from regard.probes.watched import even_attention, probed, recorded_call, table
from regard.recording import AttentionCall, Recording
from regard.recording.edits import Edit, Imposed, Probabilities, open_keys
from regard.recording.tokens.tags import STRIDE

Given = str | Mapping[Any, Any] | Callable[[Tensor, AttentionCall], Tensor]
PRINTED = 20
"""How many samples a printed table has; the fields have all."""
SAY = 'attention is "uniform", a prior {stream: weights}, or a function (A, call) -> A'


@dataclass(frozen=True)
class AttentionRerun:
    """The explained number under the model's own attention and under another one; one a sample.

    Attributes:
        target: what the number is; of the classes of the unchanged run. prior: what was put in the place of the attention.
        calls: the attention calls that were changed, by number.
        before, after: the number. predicted_before, predicted_after: the classes; None where the target is of none.
        passes: forward passes. names, classes: what to call samples and classes, where somebody said so.
    """

    target: str
    prior: str
    calls: tuple[int, ...]
    before: Float[Tensor, " batch"]
    after: Float[Tensor, " batch"]
    predicted_before: Int[Tensor, " batch"] | None
    predicted_after: Int[Tensor, " batch"] | None
    passes: int = 0
    names: tuple[str, ...] = field(default=(), repr=False)
    classes: tuple[str, ...] = field(default=(), repr=False)

    @property
    def change(self) -> Float[Tensor, " batch"]:
        """After less before."""
        return self.after - self.before

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page (needs `regard[viz]`)."""
        return display.write_probe(self, path)

    def __str__(self) -> str:
        said = f"{self.target}, with {self.prior} in {len(self.calls)} attention calls"
        return f"{said}\n{changes(self)}"

    __repr__ = __str__


def changes(found: Any) -> str:
    """What a result says of each sample, before and after, as a table."""
    numbers = torch.stack([found.before, found.after, found.after - found.before], 1)[:PRINTED].tolist()
    head = ("sample", "before", "after", "change", "prediction")
    rows = [(str(i), *(f"{v:.4g}" for v in row), prediction(found, i)) for i, row in enumerate(numbers)]
    more = len(found.before) - len(rows)
    return table(head, rows) + (f"\n... and {more} more" if more else "")


def prediction(found: Any, i: int) -> str:
    """What became of the class predicted for a sample: "red stays", "red becomes blue"; "" where there is none."""
    if found.predicted_before is None or found.predicted_after is None:
        return ""
    old, new = (
        found.classes[k] if k < len(found.classes) else f"class {k}"
        for k in (int(found.predicted_before[i]), int(found.predicted_after[i]))
    )
    return f"{old} stays" if old == new else f"{old} becomes {new}"


def rerun(
    model: nn.Module,
    inputs: Any,
    target: Any = None,
    *,
    attention: Given,
    calls: int | Sequence[int] | None = None,
    **options: Any,
) -> AttentionRerun:
    """Run the model once more with its attention replaced, and say how the target changes.

    Args:
        model, inputs, target: as in `regard.explain`; classes are those of the unchanged run.
        attention: what stands in the place of A, in all heads alike.
            "uniform": all keys that each row may look at, evenly.
            {stream: weights}, (tokens,) or (batch, tokens): a prior on tokens. What each row has on the stream's tokens is
            shared out as the weights say; what it has elsewhere stays. {(one, other): weights}, (tokens of one, tokens of
            other), or with samples first: the same, for each token of the stream `one` its own; a row of zeros stays.
            A function (A, call) -> A, both (group, head, row, key).
        calls: the attention calls to change, by number (`regard.inspect`); None: all that have such rows and keys.
        options: streams, training, batch_axis, memory_budget, as in `regard.explain`.

    Raises UnknownName for a stream that there is not, Misuse for a prior that does not fit, and where samples read one another.
    """
    if not (
        attention == "uniform" if isinstance(attention, str) else isinstance(attention, Mapping) or callable(attention)
    ):
        raise Misuse(f"{SAY}; not {str(attention)[:60]!r}")
    with probed(model, inputs, target, **options) as run:
        which = _numbers(run.recording, calls)
        edit, label, changed = _edit(run.recording, attention, which)
        after, predicted = run.changed(edit)
        return AttentionRerun(
            target=run.label,
            prior=label,
            calls=changed,
            before=run.y.detach().double().cpu(),
            after=after,
            predicted_before=run.predicted,
            predicted_after=predicted,
            passes=run.passes,
        )


def _numbers(recording: Recording, calls: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """Numbers of calls that there are; None where none were named."""
    if calls is None:
        return None
    count, named = len(recording.calls), [calls] if isinstance(calls, int) else [*calls]
    if not named:
        raise Misuse("no attention call is named; leave calls out to change all")
    for i in named:
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < count:
            raise Misuse(f"attention call {i!r} is not there: the run has {count}, numbered from 0")
    return tuple(sorted(set(named)))


def _edit(recording: Recording, attention: Given, which: tuple[int, ...] | None) -> tuple[Edit, str, tuple[int, ...]]:
    """What is done to a run, what to call it, and the calls to which it is done."""
    every = tuple(range(len(recording.calls))) if which is None else which
    if isinstance(attention, str):
        return Imposed(even_attention(recording), calls=every), "uniform attention", every
    if not isinstance(attention, Mapping):
        name = getattr(attention, "__name__", type(attention).__name__)
        return Probabilities(_same_shape(attention), every), f"attention by {name}", every
    priors = priors_of(recording, attention)
    fitting = fitting_calls(recording, priors, which)
    return imposing(recording, priors, fitting), f"a prior on {', '.join(p.name for p in priors)}", fitting


def fitting_calls(recording: Recording, priors: Sequence[Prior], which: Sequence[int] | None = None) -> tuple[int, ...]:
    """The calls that have rows and keys of a prior, among those named. Raises Misuse where one has not, or none has."""
    for prior in priors:
        if not any(prior.fits(c) for c in recording.calls):
            raise Misuse(f"no attention call has rows and keys of {prior.name!r}, so that a prior would change nothing")
    fitting = {c.index for c in recording.calls if any(p.fits(c) for p in priors)}
    for i in which or ():
        if i not in fitting:
            raise Misuse(f"attention call {i} ({recording.calls[i].module}) has no rows and keys of the prior")
    return tuple(sorted(fitting if which is None else which))


def imposing(recording: Recording, priors: Sequence[Prior], calls: Sequence[int]) -> Probabilities:
    """The edit that shares attention out as some priors say, one after the other."""

    def change(A: Tensor, call: AttentionCall) -> Tensor:
        known = recorded_call(recording, call)  # rows are numbered as there
        for prior in priors:
            A = shared_out(A, open_keys(call), prior.at(known), prior.about[known.keys % STRIDE])
        return A

    return Probabilities(change, calls)


def _same_shape(given: Callable[[Tensor, AttentionCall], Tensor]) -> Callable[[Tensor, AttentionCall], Tensor]:
    """A user's function, whose answer is checked."""

    def change(A: Tensor, call: AttentionCall) -> Tensor:
        made = given(A, call)
        if not isinstance(made, Tensor) or made.shape != A.shape:
            got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise Misuse(f"attention= gave {got} for A {tuple(A.shape)} of attention call {call.index} ({call.module})")
        return made

    return change


__all__ = ["AttentionRerun", "changes", "fitting_calls", "imposing", "prediction", "rerun"]
