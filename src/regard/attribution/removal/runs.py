"""The explained number on copies of an input without sets of its units: words, patches, regions, whatever has tokens.

A unit is one token or several. What is taken away is left out of the run (no attention call looks at it, no mean over tokens
counts it), or a baseline's values stand in its place: of pictures and features their own, of ids their word embeddings. Where
something is cut out of a text the rest moves, and a target that reads a position would read another token: nothing is cut here.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from regard.attribution.integral.baseline_values import special_tokens
from regard.attribution.rerun import Rerun
from regard.errors import Misuse, NonFinite, OtherRows, RegardError
from regard.explanation.raw_inputs import Reading
from regard.recording import Recording
from regard.recording.edits import LeaveOut
from regard.recording.gradient import gradient
from regard.recording.inputs import back, first
from regard.recording.relevance.rows import Relevance
from regard.recording.tokens.tags import STRIDE, stream_of

Taken = Bool[Tensor, "copy unit"]
LEFT_OUT = "left out of attention"


def content(recording: Recording, reading: Reading, read: Relevance) -> Bool[Tensor, "batch row"]:
    """The tokens of inputs that can be taken away: no padding, no special token, not the one position that is read of a stream.

    read: weights of the rows that the target reads.
    """
    out = torch.zeros(recording.batch, recording.rows, dtype=torch.bool)
    for stream in recording.streams:
        if not (stream.of_input and stream.shown):
            continue
        out[:, stream.rows] = ~recording.padded[stream.name]
        ids = recording.given.tensors.get(stream.name)
        if ids is not None and not ids.is_floating_point() and not stream.packed:
            ids = recording.given.first(stream.name)
            special = reading.special.get(stream.name)
            special = special_tokens(recording.model, ids) if special is None else special.bool().cpu()
            if special.shape[1:] == (stream.count,):
                out[:, stream.rows] &= ~special
        here = read[:, stream.rows] > 0  # a mean over all tokens reads no position of its own
        out[:, stream.rows] &= ~(here & (here.sum(1, keepdim=True) == 1))
    return out


@dataclass
class Without:
    """Runs on copies of one sample without sets of its units; on copies of all where samples cannot run apart.

    Attributes:
        again: the run that is repeated, of all samples. recording: the run as it was recorded. sample: whose target it is.
        unit: (sample, row) -> the number of the unit that the token belongs to, -1 for none.
        x0: what stands in the place of taken tokens: entry of an input -> a tensor of its shape. None: they are left out of
            attention.
        alone: whether the sample runs by itself. runs: how many copies were run so far.
    """

    again: Rerun
    recording: Recording
    sample: int
    unit: Int[Tensor, "sample row"]
    x0: Mapping[str, Tensor] | None = None
    runs: int = 0
    alone: bool = field(init=False)

    def __post_init__(self) -> None:
        others = torch.arange(len(self.unit)) != self.sample
        self.alone = self.again.can_be_cut and not bool((self.unit[others] >= 0).any())

    @property
    def units(self) -> int:
        """How many there are."""
        return int(self.unit.max()) + 1

    def y(self, taken: Taken) -> Float[Tensor, " copy"]:
        """The target's value without the units that are taken, one a row of `taken`, in double precision."""
        return self.ys(taken, [self.again])[0]

    def ys(self, taken: Taken, targets: Sequence[Rerun]) -> Float[Tensor, "target copy"]:
        """The same of several targets, which share the runs: each as the `Rerun` of its own, of all samples."""
        found = torch.cat([self._some(part, targets) for part in taken.split(self._fit)], 1)
        self.runs += len(taken)
        if not bool(torch.isfinite(found).all()):
            raise NonFinite("the target is NaN or infinite on an input without some of its units")
        return found

    def _some(self, taken: Taken, targets: Sequence[Rerun]) -> Float[Tensor, "target copy"]:
        """Copies side by side as one batch; one by one, or all samples at a time, in a model that takes no other batch."""
        try:
            return self._at(taken, targets)
        except (RuntimeError, ValueError, IndexError, RegardError):
            if len(taken) == 1 and not self.alone:
                raise
        self.alone &= len(taken) > 1
        return torch.cat([self._some(one, targets) for one in taken.split(1)], 1)

    def _at(self, taken: Taken, targets: Sequence[Rerun]) -> Float[Tensor, "target copy"]:
        copies = len(taken)
        again, *others = (self._mine(t) for t in (self.again, *targets))
        with torch.no_grad():
            one = self.recording.output
            output = again.copied(self._output(again, taken), one, copies, self.recording.batch)
            if output is None:
                raise Misuse("samples of this output rest on one another")
            return torch.stack([t.y(output, copies).double().cpu() for t in others])

    def _mine(self, again: Rerun) -> Rerun:
        """A run of the sample alone; of all, for the target of this one."""
        return again.of_sample(self.sample) if self.alone else replace(again, shared=self.sample)

    def _output(self, again: Rerun, taken: Taken) -> object:
        """The model's output without the taken units, copy by copy."""
        if self.x0 is None:
            away = at_units(taken, self._cut(self.unit, 0)).flatten(0, 1)
            return again.run([LeaveOut(away)], copies=len(taken)).output
        return again.output({name: self._filled(name, taken) for name in self.x0}, copies=len(taken))

    def _filled(self, name: str, taken: Taken) -> Tensor:
        """What enters under a name with the taken tokens' share of it exchanged, the copies along the samples' axis."""
        assert self.x0 is not None
        axis = self.recording.axis(name)
        x, x0 = (first(self._cut(t, axis), axis) for t in (self.recording.leaves[name].detach(), self.x0[name]))
        unit = self._unit_at[name]
        away = at_units(taken, self._cut(unit, 0) if len(unit) > 1 else unit).to(x.device)
        return torch.cat([back(torch.where(one, x0.to(x), x), axis) for one in away], axis or 0)

    def _cut(self, t: Tensor, axis: int | None) -> Tensor:
        return t.narrow(axis, self.sample, 1) if self.alone and axis is not None else t

    @cached_property
    def _unit_at(self) -> dict[str, Tensor]:
        """The unit of every element of an input, samples first."""
        return {name: _of_elements(self.recording, name, self.unit) for name in self.x0 or {}}

    @property
    def _fit(self) -> int:
        """How many copies fit the memory budget at a time."""
        if not self.alone:
            return 1
        made = made_hiding_keys(self.recording) if self.x0 is None else self.recording.made
        return max(1, self.recording.budget // max(1, made // self.recording.batch))


def made_hiding_keys(recording: Recording) -> int:
    """Bytes that a run makes in which keys are hidden: of calls with weights or a mask of their own these are made anew."""
    return recording.made + 8 * sum(
        math.prod(c.shape) for c in recording.calls if c.A is not None or c.mask is not None
    )


def _of_elements(recording: Recording, name: str, unit: Int[Tensor, "sample row"]) -> Int[Tensor, "sample ..."]:
    """The unit of every element of what enters under a name."""
    rows = rows_at(recording, name)
    if recording.stream(recording.aliases.get(stream_of(name), stream_of(name))).packed:
        return unit.amax(0)[rows]
    return unit[torch.arange(len(rows)).view(-1, *[1] * (rows.ndim - 1)), rows]


def at_units(taken: Taken, unit: Int[Tensor, "*place"]) -> Bool[Tensor, "copy ..."]:
    """Whether the unit at each place is taken; -1 is never."""
    return torch.cat([taken, taken.new_zeros(len(taken), 1)], 1)[:, unit]


def rows_at(recording: Recording, name: str) -> Int[Tensor, "sample ..."]:
    """The row of every element of what enters under a name, samples first; 0 for nobody's. Raises Misuse where that is not
    known."""
    if name in recording.embedded:
        return first(recording.embedded[name], recording.axis(name))[..., None] % STRIDE
    entry = stream_of(name)
    stream = recording.stream(recording.aliases.get(entry, entry))
    x = recording.leaves[name]
    x = x[None] if stream.packed else first(x, recording.axis(name))
    cells = stream.cells if entry == stream.name else None
    if cells is not None and x[0].numel() == len(cells.own):
        placed = recording.placed.get(name)
        of = cells.of if placed is None else cells.of[first(placed, recording.axis(name))[0].flatten() % STRIDE - 1]
        rows = torch.where(of >= 0, stream.first + of, 0).view(1, *x.shape[1:])
    elif x.ndim in (2, 3) and x.shape[1] == stream.count:
        rows = torch.arange(stream.first, stream.first + stream.count).view(1, -1, *[1] * (x.ndim - 2))
    else:
        raise Misuse(
            f"it is not known which elements of {name!r} {tuple(x.shape)} its {stream.count} tokens are made of, so nothing "
            "can stand in their place; leave baseline= out"
        )
    return rows[0] if stream.packed else rows.expand(len(x), *rows.shape[1:])


def reached(again: Rerun, recording: Recording, unit: Int[Tensor, "sample row"]) -> Bool[Tensor, " sample"]:
    """Whether units that are left out of attention still reach the target: they are merged, mixed outside attention, pooled by
    another operation than a mean, or read at their own position. Told by gradients, every other unit left out."""
    hidden = (unit >= 0) & (unit % 2 == 0)
    with torch.enable_grad():
        try:
            made = again.run([LeaveOut(hidden)])
        except OtherRows:  # merged, and as their values have it
            return torch.ones(len(unit), dtype=torch.bool)
        y = again.y(made.output).sum()
        mine = {s.name for s in recording.streams if s.of_input}
        entries = {k: t for k, t in made.leaves.items() if stream_of(k) in mine}
        found = gradient(y, [*entries.values()]) if y.requires_grad and entries else []
    sizes, rounding = torch.zeros(unit.shape, dtype=torch.float64), 1e-5
    for name, g in zip(entries, found, strict=False):
        if g is not None:
            rounding = max(rounding, 16 * torch.finfo(g.dtype).eps)  # A is brought back to its sum in the model's dtype
            sizes = torch.maximum(sizes, _largest(recording, name, g))
    return (sizes * hidden).amax(1) >= rounding * sizes.amax(1)  # also where no gradient comes through


def _largest(recording: Recording, name: str, g: Tensor) -> Float[Tensor, "sample row"]:
    """The largest gradient at the elements of each row."""
    rows = rows_at(recording, name)
    g = first(g, recording.axis(name)).abs().double().cpu()
    at = rows.expand(g.shape).flatten(1)
    out = torch.zeros(recording.batch, recording.rows, dtype=torch.float64)
    out[: len(g)].scatter_reduce_(1, at, g.flatten(1), "amax")
    out[:, 0] = 0  # nobody's
    return out


# -- which units to take ------------------------------------------------------------------------------------------------


def drawn_from(seed: int, purpose: str) -> torch.Generator:
    """Draws of one purpose: no other draw from the same seed has anything to do with them."""
    digest = hashlib.sha256(f"{purpose}, seed {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def subsets_of_size(units: int, size: int, count: int, seed: int, *, all_below: int = 0) -> Taken:
    """`count` random subsets of so many units; all of them, each once, where there are at most `all_below`."""
    if math.comb(units, size) <= all_below:
        chosen = torch.tensor([*itertools.combinations(range(units), size)]).view(-1, size)
    else:
        noise = torch.rand(
            count, units, generator=drawn_from(seed, f"subsets of {size} of {units}"), dtype=torch.float64
        )
        chosen = noise.argsort(1)[:, :size]
    return torch.zeros(len(chosen), units, dtype=torch.bool).scatter_(1, chosen, True)


__all__ = [
    "LEFT_OUT",
    "Taken",
    "Without",
    "at_units",
    "content",
    "drawn_from",
    "made_hiding_keys",
    "reached",
    "rows_at",
    "subsets_of_size",
]
