"""The same model on the same inputs once more, with edits: one sample alone, or several copies side by side as one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.errors import Misuse, RegardError
from regard.recording.edits import Edit, Replace
from regard.recording.inputs import Inputs, is_mask
from regard.recording.recorder import Until, entered
from regard.recording.run import Run, run, unwatched
from regard.recording.states import ReplaceStates, parts, replaced
from regard.target import Target

CLOSED = (
    "no gradient reaches the last attention from the target: the model switches gradients off around it (torch.no_grad(), or "
    "a torch.autograd.Function of its own); use 'gae' or 'revised_ig'"
)

CLOSE = 1e-3
"""How far what is made of the same may be apart, as a share of its size."""


@dataclass(frozen=True)
class Rerun:
    """How the recorded run can be repeated.

    Attributes:
        inputs: as they were given. target: with `classes` (and `rivals`) for its classes, whatever a changed run predicts.
        streams: what the user said of the tokens. rng: the random state that the recorded run began with.
        shared: the one sample that y belongs to where samples read rows of one another. in_place: see `recorder.run`.
        known: what was found out about its runs.
    """

    model: nn.Module
    inputs: Inputs
    target: Target
    batch: int
    classes: Tensor | None = None
    rivals: Tensor | None = None
    streams: Any = None
    rng: Tensor | None = None
    shared: int | None = None
    in_place: bool = False
    known: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    @property
    def can_be_cut(self) -> bool:
        """Whether every input tensor has an axis of the samples, so that samples can run alone, or several times over."""
        if self.shared is not None or self.inputs.caches:
            return False
        axes = [(name, self.inputs.axis(name), t) for name, t in self.inputs.tensors.items()]
        if any(axis != 0 and is_mask(name, t) for name, axis, t in axes):
            return False  # a mask has axes of its own
        return all(axis is not None and t.shape[axis] == self.batch for _, axis, t in axes)

    def of_sample(self, i: int) -> Rerun:
        """The same for one sample alone."""
        return self.of_samples(i, 1)

    def of_samples(self, first: int, count: int) -> Rerun:
        """The same for some samples that follow one another."""
        own = slice(first, first + count)
        classes, rivals = (None if v is None else v[own] for v in (self.classes, self.rivals))
        inputs = self._each(lambda v, axis: v.narrow(axis, first, count))
        target = self.target.of_samples(own)
        return replace(self, inputs=inputs, batch=count, target=target, classes=classes, rivals=rivals)

    def run(self, edits: Sequence[Edit], *, copies: int = 1, states: bool = False, until: Until | None = None) -> Run:
        """One watched forward pass with edits; gradients are recorded if the caller's grad mode says so."""
        inputs = self._begun(copies)
        with self._running():
            return run(self.model, inputs, edits, self.streams, states=states, until=until, in_place=self.in_place)

    def output(self, values: Mapping[Any, Tensor], *, copies: int = 1) -> Any:
        """The model's output with values in the place of a site's. Inputs alone need no watching, or none once they entered."""
        names = [k for k in values if isinstance(k, str)]
        if len(names) < len(values):
            return self.run(edits(values), copies=copies).output
        given = self.inputs.tensors
        plain = {self.inputs.axis(n) for n in given} == {0}
        if plain and all(n in given and given[n].is_floating_point() for n in names):
            with self._running():
                return unwatched(self.model, self._begun(copies), {n: values[n] for n in names})
        until = entered(names) if plain else None  # where the output's samples stand elsewhere is known by watching it
        return self.run(edits(values), copies=copies, until=until).output

    def copied(self, output: Any, one: Any, copies: int, batch: int) -> Any | None:
        """A run's output as that of so many copies; None where copies rest on one another.

        one: what the recorded run, of `batch` samples, gave.

        Where all pictures of a batch are compared with all its texts, two copies alike are run once, and must give what one
        does: similarities do, their softmax over the texts does not.
        """
        if copies == 1:
            return output
        found = as_copies(output, one, copies, (copies * self.batch, batch))
        if found is None or (found[1] and not self._crossed_alone()):
            return None
        return found[0]

    def _crossed_alone(self) -> bool:
        """Whether two copies alike give what one does."""
        if "crossed alone" not in self.known:
            with torch.no_grad():
                single, double = self.run([]).output, self.run([], copies=2).output
            found = as_copies(double, single, 2, (2 * self.batch, self.batch))
            self.known["crossed alone"] = found is not None and all(
                a.shape == b.shape or alike(a[: len(b)], b)
                for a, b in zip(parts(found[0]), parts(single), strict=False)
            )
        return self.known["crossed alone"]

    def _begun(self, copies: int) -> Inputs:
        """The inputs, side by side as often as asked; the random state is that of the recorded run."""
        if self.rng is not None:
            torch.set_rng_state(self.rng)
        if copies == 1:
            return self.inputs
        return self._each(lambda v, axis: torch.cat([v] * copies, axis))

    @contextmanager
    def _running(self) -> Iterator[None]:
        """What the model's own code raises on values in the place of its own, in one sentence."""
        try:
            yield
        except (RegardError, MemoryError, torch.OutOfMemoryError):
            raise
        except (ValueError, TypeError, LookupError, RuntimeError, AssertionError) as e:
            said = (str(e).strip().splitlines() or [type(e).__name__])[0]
            raise Misuse(
                f"{type(self.model).__name__} does not run with other values in place of its own ({said}); give another "
                "baseline or site"
            ) from e

    def _each(self, change: Callable[[Tensor, int], Tensor]) -> Inputs:
        """The inputs with every tensor (but single numbers) changed along its samples' axis."""
        return self.inputs.replaced({n: change(t, self.inputs.axis(n) or 0) for n, t in self.inputs.tensors.items()})

    def y(self, output: Any, copies: int = 1, half: int | None = None) -> Float[Tensor, " some"]:
        """The target's value in a run's output, one a sample (of the one that it belongs to if shared), copy by copy.

        half: of the first or the second of the two that a contrast is the difference of.
        """
        target = self.target if self.classes is None else self.target.at(self.classes, self.rivals)
        if half is not None and target.halves is not None:
            target = target.halves[half]
        ys = [target.value(of_copy(output, i, copies), self.inputs.bare).y for i in range(copies)]
        if self.shared is not None:
            ys = [y[self.shared : self.shared + 1] for y in ys]
        return torch.cat(ys)


def edits(values: Mapping[Any, Tensor]) -> list[Edit]:
    """A run with values in the place of a site's."""
    named = {k: v for k, v in values.items() if isinstance(k, str)}
    inside = {k: v for k, v in values.items() if not isinstance(k, str)}
    return [Replace(dict(named)), ReplaceStates(inside)]


def of_copy(output: Any, i: int, copies: int) -> Any:
    """The i-th of some copies' share of an output: axis 0 of every tensor in it, cut."""
    if copies == 1:
        return output
    if isinstance(output, Tensor):
        n = len(output) // copies if output.ndim else 0
        return output[i * n : (i + 1) * n] if n and len(output) == n * copies else output
    if isinstance(output, Mapping):
        cut = {key: of_copy(v, i, copies) for key, v in output.items()}
        return cut if type(output) is dict else type(output)(**cut)
    if isinstance(output, list | tuple):
        items = [of_copy(v, i, copies) for v in output]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    return output


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors differ by no more than rounding."""
    size = float(b.detach().abs().max())
    return a.shape == b.shape and float((a.detach() - b.detach()).abs().max()) <= CLOSE * max(size, 1e-30)


def as_copies(many: Any, one: Any, copies: int, samples: tuple[int, int]) -> tuple[Any, bool] | None:
    """An output of so many copies, and whether some of its tensors were crossed; None where it is no such output.

    one: what the recorded run gave; samples: how many `many` and `one` are of. Axis 0 of a tensor is as long as the samples
    ask, all others are alike, or it is the same tensor. A crossed tensor (the similarities of all pictures and all texts) has
    the samples of every copy along axis 1 too; what copies have in common with one another is taken out of it.
    """
    pairs = list(zip(parts(many), parts(one), strict=False))
    n, m = samples
    new: dict[int, Tensor] = {}
    for number, (a, b) in enumerate(pairs):
        scaled = a.ndim == b.ndim > 0 and a.shape[0] * m == b.shape[0] * n
        if a.shape == b.shape or (scaled and a.shape[1:] == b.shape[1:]):
            continue
        if not (scaled and a.ndim > 1 and a.shape[1] * m == b.shape[1] * n and a.shape[2:] == b.shape[2:]):
            return None
        own = zip(a.chunk(copies), range(copies), strict=True)
        new[number] = torch.cat([rows.chunk(copies, 1)[i] for rows, i in own])
    return (replaced(many, new), True) if new else (many, False)
