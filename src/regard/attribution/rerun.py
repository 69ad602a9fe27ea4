"""The same model on the same inputs once more, with edits: one sample alone, or several copies side by side as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.recording.edits import Edit
from regard.recording.entry import keywords
from regard.recording.recorder import Run, run
from regard.target import Target


@dataclass(frozen=True)
class Rerun:
    """How the recorded run can be repeated.

    Attributes:
        inputs: as they were given. target: with `classes` (and `rivals`) for its classes, whatever a changed run predicts.
        streams: what the user said of the tokens. rng: the random state that the recorded run began with.
        shared: the one sample that y belongs to where samples read rows of one another.
    """

    model: nn.Module
    inputs: Any
    target: Target
    batch: int
    classes: Tensor | None = None
    rivals: Tensor | None = None
    streams: Any = None
    rng: Tensor | None = None
    shared: int | None = None

    @property
    def can_be_cut(self) -> bool:
        """Whether axis 0 of every input tensor is the samples, so that samples can run alone, or several times over."""
        sizes = {len(v) for v in keywords(self.model, self.inputs)[0].values() if isinstance(v, Tensor) and v.ndim}
        return sizes == {self.batch} and self.shared is None

    def of_sample(self, i: int) -> Rerun:
        """The same for one sample alone."""
        one = slice(i, i + 1)
        classes, rivals = (None if v is None else v[one] for v in (self.classes, self.rivals))
        inputs = _each(self.model, self.inputs, lambda v: v[one])
        return replace(self, inputs=inputs, batch=1, classes=classes, rivals=rivals)

    def run(self, edits: Sequence[Edit], *, copies: int = 1, states: bool = False) -> Run:
        """One watched forward pass with edits; gradients are recorded if the caller's grad mode says so."""
        if self.rng is not None:
            torch.set_rng_state(self.rng)
        inputs = self.inputs
        if copies > 1:
            inputs = _each(self.model, inputs, lambda v: v.repeat(copies, *[1] * (v.ndim - 1)))
        return run(self.model, inputs, edits, self.streams, states=states)

    def y(self, output: Any, copies: int = 1, half: int | None = None) -> Float[Tensor, " some"]:
        """The target's value in a run's output, one a sample (of the one that it belongs to if shared), copy by copy.

        half: of the first or the second of the two that a contrast is the difference of.
        """
        target = self.target if self.classes is None else self.target.at(self.classes, self.rivals)
        if half is not None and target.halves is not None:
            target = target.halves[half]
        named = keywords(self.model, self.inputs)[0]
        ys = [target.value(of_copy(output, i, copies), named).y for i in range(copies)]
        if self.shared is not None:
            ys = [y[self.shared : self.shared + 1] for y in ys]
        return torch.cat(ys)


def _each(model: nn.Module, inputs: Any, change: Any) -> Any:
    """The inputs with every tensor (but single numbers) changed."""
    values, by_keyword = keywords(model, inputs)
    changed = {n: change(v) if isinstance(v, Tensor) and v.ndim else v for n, v in values.items()}
    if by_keyword:
        return changed
    return changed["input"] if isinstance(inputs, Tensor) else tuple(changed.values())


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


def shapes(output: Any) -> list[tuple[int, ...]]:
    """The shapes of an output's tensors, in order."""
    if isinstance(output, Tensor):
        return [tuple(output.shape)]
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    return [s for v in values for s in shapes(v)]


def are_copies(many: Any, one: Any, samples: tuple[int, int]) -> bool:
    """Whether `many`, of so many samples, is what `one` is: axis 0 of tensors as long as the samples ask, all others alike."""
    pairs = list(zip(shapes(many), shapes(one), strict=False))
    return all(
        a == b or (len(a) == len(b) > 0 and a[0] * samples[1] == b[0] * samples[0] and a[1:] == b[1:]) for a, b in pairs
    )
