"""What a method is given: one recording, one target's gradients, and the read-out."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Sequence, ValuesView
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.attribution.rerun import Rerun
from regard.explanation.raw_inputs import Reading
from regard.recording import Gradients, Recording, Stream
from regard.site import Site

Relevance = Float[Tensor, "batch row"]


def summed(a: Relevance, count: int) -> Float[Tensor, " sum"]:
    """Σa of each of `count` samples, or of all together (1), as the receipt has it.

    Added in double precision: terms of either sign may leave a sum that is far smaller than they are.
    """
    by_sample = a.float().double().sum(1)
    return (by_sample if len(a) == count else by_sample.sum()[None]).float()


def merged_too(recording: Recording, values: Float[Tensor, "*batch row"]) -> Float[Tensor, "*batch row"]:
    """Values of rows, written over at merged rows: what their sources have, in the shares in which they are made of them."""
    for merge in recording.merges:
        values[..., merge.rows] = (values[..., merge.sources] * merge.shares.abs().to(values)).sum(-1)
    return values


class LateReadout:
    """The read-out, found when it is first asked for: most methods that take a gradient at the input do without.

    asked: whether it was, since this was last set to False.
    """

    def __init__(self, find: Callable[[], tuple[dict[int, Tensor], str]]) -> None:
        self._find = find
        self.asked = False

    @cached_property
    def _known(self) -> tuple[dict[int, Tensor], str]:
        return self._find()

    @property
    def _found(self) -> tuple[dict[int, Tensor], str]:
        self.asked = True
        return self._known

    @property
    def how(self) -> str:
        """Where the rows were found, in words."""
        return self._found[1]

    def __iter__(self) -> Iterator[int]:
        return iter(self._found[0])

    def items(self) -> ItemsView[int, Tensor]:
        """Final calls, and the weights of their rows."""
        return self._found[0].items()

    def values(self) -> ValuesView[Tensor]:
        """The weights alone."""
        return self._found[0].values()


@dataclass
class Context:
    """One recording and one target.

    Attributes:
        readout: the number of each final attention -> its weights r, (batch, row) over all rows. seed: for methods that draw.
        site, baseline: as asked for, or None: the method's own. again: how the run can be repeated with changes.
        reading: special tokens, and the normalisation of pictures. nodes: how many points of a path were run.
        forwards: plain runs of a method's own, without a gradient.
        asked: whether the read-out is the user's. cells: the streams that the map is of, where they are not the inputs' own.
        read: how the read rows were weighed, where the method weighs them otherwise than the read-out says.
        reference: what the map is measured against, where the method found that out itself. notes: for the receipt.
        siblings: every target of the call, each with its classes fixed (None: one that shares no runs); `number`: this one's
            place among them. shared_runs: what they found in runs that serve all of them.
        fits: what a linear model fitted to runs says of itself, one a target value; errors: its standard errors, as relevance.
        mask: what a mask that was learned says of itself. explained_model: by how much the model that the map is of differs
            from the user's. between: what pairs of tokens do together, (value, row, row);
            between_errors: the standard errors of that.
    """

    recording: Recording
    gradients: Gradients
    readout: LateReadout | dict[int, Relevance]
    seed: int = 0
    site: Site | None = None
    baseline: Any = None
    again: Rerun | None = None
    reading: Reading = field(default_factory=lambda: Reading({}))
    nodes: int = 0
    forwards: int = 0
    reference: Any = None
    asked: bool = False
    cells: list[Stream] | None = None
    read: str = ""
    notes: list[str] = field(default_factory=list)
    siblings: Callable[[], Sequence[Rerun | None]] = tuple
    number: int = 0
    shared_runs: dict[Any, Any] = field(default_factory=dict, repr=False)
    fits: list[Any] = field(default_factory=list)
    errors: Any = None
    mask: Any = None
    explained_model: Any = None
    between: Any = None
    between_errors: Any = None

    @property
    def r(self) -> Relevance:
        """Read-out weights over all rows; 0 where nothing is known of it."""
        return sum(self.readout.values(), self.recording.zeros())

    def tokens(self) -> Float[Tensor, " row"]:
        """1 for tokens of an input, 0 for rows born from a parameter; of merged rows, the share that is made of such tokens."""
        is_token = torch.zeros(self.recording.rows, dtype=torch.float32)
        for stream in self.recording.streams if self.cells is None else self.cells:
            if stream.of_input:
                is_token[stream.rows] = 1
        return merged_too(self.recording, is_token)

    def hidden(self) -> Tensor:
        """bool (batch, row): padding."""
        return self.recording.hidden()
