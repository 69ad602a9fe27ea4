"""One input that is cut into tokens more than once: a picture and its mirror image, patches of two sizes, crops.

Its tokens for the reader are then the coarsest cells that every cut is made of (the patches themselves, where the cuts are
the same but for their order), and each cut's rows are later stages of them: a row's relevance goes to its cells in equal
shares, and what several cuts say of one cell is added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from regard.errors import ModelError
from regard.recording.recording import Recording
from regard.recording.tokens.cells import lattice
from regard.recording.tokens.tags import Merge, Stream

Own = Int[Tensor, " element"]


def joined(recording: Recording) -> None:
    """Put one stream in the place of several cuts of an input. Raises ModelError where it is not known what they cut."""
    by_name: dict[str, list[Stream]] = {}
    for stream in recording.streams:
        if stream.shown and stream.kind == "input":
            by_name.setdefault(stream.name, []).append(stream)
    for name, cuts in by_name.items():
        if len(cuts) > 1:
            _join(recording, name, cuts)


def _join(recording: Recording, name: str, cuts: Sequence[Stream]) -> None:
    owns = [s.cells.filled for s in cuts if s.cells is not None]
    if len(owns) < len(cuts) or any(s.packed for s in cuts):
        sizes = " and into ".join(str(s.count) for s in cuts)
        raise ModelError(
            f"input {name!r} is cut into {sizes} tokens, and it is not known which of its elements each is made of; explain "
            "the part of the model that reads one of these cuts, on the input that it is given"
        )
    own, grid = common(cuts)
    first = torch.full((int(own.max()) + 1,), len(own)).scatter_reduce(0, own.clamp(min=0), _places(own), "amin")
    stream = Stream(name, recording.rows, len(first), "input", grid, first + 1, False, cuts[0].shape, lambda: own)
    recording.rows += stream.count
    merges: list[Merge] = []
    for cut, of in zip(cuts, owns, strict=True):
        cut.kind = "merged"
        merges += _made_of(cut, of[first], stream)
    at = recording.streams.index(cuts[0])
    recording.streams = [*recording.streams[:at], stream, *recording.streams[at:]]
    recording.merges = merges + recording.merges  # first of all: what stands at rows of a cut at last goes to its cells


def _places(own: Own) -> Own:
    """The number of each element; one beyond the last for those of no cell."""
    return torch.where(own >= 0, torch.arange(len(own)), len(own))


def _made_of(cut: Stream, token: Int[Tensor, " cell"], stream: Stream) -> list[Merge]:
    """Each row of a cut is the mean of its cells. `token`: the cut's token that each cell belongs to, -1 for none."""
    event = 1 << 20  # no call has absorbed it: the walk itself goes past it
    counts = torch.bincount(token[token >= 0], minlength=cut.count)
    cells = torch.argsort(token, stable=True)[int((token < 0).sum()) :]
    starts = counts.cumsum(0) - counts
    merges = []
    for m in counts[counts > 0].unique().tolist():
        rows = (counts == m).nonzero()[:, 0]
        sources = cells[starts[rows][:, None] + torch.arange(m)]
        merges.append(Merge(event, rows + cut.first, sources + stream.first))
    return merges


def common(cuts: Sequence[Stream]) -> tuple[Own, tuple[int, ...] | None]:
    """The coarsest cells that every cut is made of: the cell of each element (-1 for none), and their grid."""
    owns = torch.stack([s.cells.filled for s in cuts if s.cells is not None])
    found = [lattice(s.elements, s.shape) for s in cuts if s.elements is not None]
    axes = {f[0] for f in found if f is not None}
    if len(axes) == 1 and None not in found:
        own = _lattice_of(owns, cuts[0].shape, [*axes.pop()])
    else:
        own = _numbered(owns, torch.zeros(owns.shape[1], dtype=torch.int64))
    first = torch.full((int(own.max()) + 1,), len(own)).scatter_reduce(0, own.clamp(min=0), _places(own), "amin")
    grid = lattice(first + 1, cuts[0].shape)
    return own, None if grid is None else grid[1]


def _numbered(owns: Int[Tensor, "cut element"], also: Own) -> Own:
    """One number for elements that belong to the same token in every cut, in the input's order."""
    there = (owns >= 0).any(0)
    _, index = torch.unique(torch.cat([owns, also[None]])[:, there], dim=1, return_inverse=True)
    first = torch.full((int(index.max()) + 1,), owns.shape[1])
    first = first.scatter_reduce(0, index, there.nonzero()[:, 0], "amin")
    own = torch.full((owns.shape[1],), -1)
    own[there] = first.argsort().argsort()[index]
    return own


def _lattice_of(owns: Int[Tensor, "cut element"], shape: tuple[int, ...], axes: Sequence[int]) -> Own:
    """Cells of one size along each axis, the greatest that divides all steps of all cuts."""
    number = torch.zeros(shape, dtype=torch.int64)
    for axis in axes:
        along = owns.view(-1, *shape).movedim(axis + 1, -1).flatten(0, -2)
        borders = (along[:, 1:] != along[:, :-1]).any(0).nonzero()[:, 0] + 1
        step = math.gcd(*borders.tolist()) if len(borders) else shape[axis]
        place = torch.arange(shape[axis]) // step
        number = number * (int(place[-1]) + 1) + place.view(-1, *[1] * (len(shape) - axis - 1))
    number = torch.where((owns >= 0).any(0), number.flatten(), -1)
    return _numbered(number[None], torch.zeros_like(number))
