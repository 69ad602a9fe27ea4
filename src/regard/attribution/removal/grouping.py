"""Which tokens are taken away together: each by itself, the pieces of a word, all places of a word, a block of patches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from regard.attribution.removal.runs import Taken
from regard.errors import Misuse, nearest
from regard.explanation.raw_inputs import Reading, Text
from regard.recording import Recording, Stream

UNITS = ("token", "word")
MOST = 20_000
"""Runs of one sample: more are refused, for they are hardly what was meant."""


def numbered(
    recording: Recording,
    reading: Reading,
    tokens: Bool[Tensor, "sample row"],
    unit: str = "token",
    *,
    bow: bool = False,
    window: int = 1,
) -> Int[Tensor, "sample row"]:
    """The number of each token's unit, -1 where it has none.

    unit: "token", or "word": the pieces of a word where a reader knows the words. bow: all places of a word, or of an id, are
    one unit. window: blocks of so many tokens along each axis of a grid.
    """
    if unit not in UNITS:
        raise nearest(str(unit), UNITS, "unit")
    known: dict[Hashable, int] = {}
    out = torch.full(tokens.shape, -1)
    for sample, stream in itertools.product(range(len(tokens)), recording.streams):
        if stream.of_input and bool(tokens[sample, stream.rows].any()):
            names = _names(recording, reading, stream, sample, unit, bow, window)
            for place in tokens[sample, stream.rows].nonzero()[:, 0].tolist():
                key = (sample, stream.name, names[place])
                out[sample, stream.first + place] = known.setdefault(key, len(known))
    return out


def _names(
    recording: Recording, reading: Reading, stream: Stream, sample: int, unit: str, bow: bool, window: int
) -> Sequence[Hashable]:
    """What tokens of one unit have in common, token by token."""
    raw = reading.raw.get(stream.name, ())
    text = raw[sample] if sample < len(raw) else None
    if window > 1:
        return [tuple(i // window for i in at) for at in places(stream)]
    if unit == "word" and isinstance(text, Text):
        return _words(text, stream.count, bow)
    ids = recording.given.tensors.get(stream.name)
    if bow and ids is not None and not ids.is_floating_point() and not stream.packed:
        own = recording.given.first(stream.name)
        if own.shape[1:] == (stream.count,) and sample < len(own):
            return [int(i) for i in own[sample].tolist()]
    return [("token", i) for i in range(stream.count)]


def _words(text: Text, count: int, bow: bool) -> list[Hashable]:
    out: list[Hashable] = []
    for i in range(count):
        word = text.word_of[i] if i < len(text.word_of) else None
        if word is None:
            out.append(("token", i))
        else:
            a, b = text.words[word]
            out.append(text.text[a:b] if bow else word)
    return out


def places(stream: Stream) -> list[tuple[int, ...]]:
    """Where each token stands: on its grid, else in its row."""
    grid = stream.grid if stream.grid is not None and math.prod(stream.grid) == stream.count else (stream.count,)
    return [*itertools.product(*map(range, grid))]


def windows(recording: Recording, unit: Int[Tensor, "sample row"], size: int, stride: int) -> Taken:
    """Windows of `size` tokens along each axis of a grid, `stride` apart, whole inside it, as sets of units (each a token).

    The last one of an axis ends where the axis does. Streams that are no grid, or are not whole, have windows of tokens that
    follow one another.
    """
    if size == stride == 1:
        _refuse_many(int(unit.max()) + 1)
        return torch.eye(int(unit.max()) + 1, dtype=torch.bool)
    found: list[list[int]] = []
    for sample, stream in itertools.product(range(len(unit)), recording.streams):
        if stream.of_input and bool((unit[sample, stream.rows] >= 0).any()):
            found += _windows_of(unit[sample, stream.rows], stream.grid, size, stride)
    _refuse_many(len(found))
    out = torch.zeros(len(found), int(unit.max()) + 1, dtype=torch.bool)
    for i, some in enumerate(found):
        out[i, some] = True
    return out


def _windows_of(own: Int[Tensor, " token"], grid: tuple[int, ...] | None, size: int, stride: int) -> list[list[int]]:
    """The units of each window of one stream."""
    there = own[own >= 0]
    whole = grid is not None and math.prod(grid) == len(there) == len(own)
    lattice = there.view(grid) if whole and grid is not None else there
    corners = itertools.product(*(_starts(n, size, stride) for n in lattice.shape))
    return [lattice[tuple(slice(a, a + size) for a in corner)].flatten().tolist() for corner in corners]


def _starts(length: int, size: int, stride: int) -> list[int]:
    last = max(0, length - size)
    return [*range(0, last, stride), last]


def _refuse_many(count: int) -> None:
    if count > MOST:
        raise Misuse(
            f"the input has {count} units, and each takes a run of the model: take larger ones away, with window=8 and stride=8"
        )


__all__ = ["UNITS", "numbered", "windows"]
