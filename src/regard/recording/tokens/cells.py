"""Which elements of an input each token is made of: the patches of a picture, frame by frame; the rows of a table.

A token's cell is what the operation that gave birth to it read, as far as no other token's does: windows that overlap are
cut where the next one begins. Elements in no cell (the rest of a picture that is no multiple of its patch) count with the
last one before them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

Shape = tuple[int, ...]


@dataclass
class Cells:
    """The cells of a stream's tokens.

    Attributes:
        count: how many tokens there are. shape: the input's, without samples.
        own: the token whose cell an element is in, (element,), -1 for none.
    """

    count: int
    shape: Shape
    own: Int[Tensor, " element"]

    @cached_property
    def of(self) -> Int[Tensor, " element"]:
        """The token that each element counts with: that of its cell, else that of the last one before it along an axis."""
        of = self.own.view(self.shape)
        if bool((of >= 0).all()):
            return self.own
        for axis in reversed(range(of.ndim)):
            at = torch.arange(of.shape[axis]).view(-1, *[1] * (of.ndim - axis - 1)).expand(of.shape)
            of = of.gather(axis, torch.where(of >= 0, at, 0).cummax(axis).values)
        return of.flatten()

    @cached_property
    def filled(self) -> Int[Tensor, " element"]:
        """The token of each element, the rest at the end left out: of a picture that was read at half its size, all pixels."""
        of = self.of.view(self.shape).clone()
        for axis in range(of.ndim):
            at = (self.own >= 0).view(self.shape).movedim(axis, 0).flatten(1).any(1).nonzero()[:, 0]
            end = int(at[-1]) + (int(at[-1] - at[-2]) if len(at) > 1 else 1)
            of.narrow(axis, min(end, of.shape[axis]), max(of.shape[axis] - end, 0)).fill_(-1)
        return of.flatten()

    def index(self, raw: Int[Tensor, " place"] | None = None) -> Int[Tensor, "token nth"]:
        """Where the elements of each token stand, its own cell's first, each part in the input's order; -1 where one has fewer.

        `raw`: the element that stands at each place, where these are in another order than the input's.
        """
        of, rest = (t if raw is None else t[raw] for t in (self.of, self.own < 0))
        key = of * 2 + rest
        if raw is None:  # small keys in the input's own order: a radix sort, ten times as fast
            narrow = np.int16 if 2 * self.count < np.iinfo(np.int16).max else np.int64
            order = torch.from_numpy(np.argsort(key.numpy().astype(narrow), kind="stable"))
        else:
            order = torch.argsort(key * len(self.own) + raw, stable=True)
        order = order[of[order] >= 0]
        counts = torch.bincount(of[order], minlength=self.count)
        nth = torch.arange(len(order)) - (counts.cumsum(0) - counts)[of[order]]
        out = torch.full((len(counts), int(counts.max())), -1)
        out[of[order], nth] = order
        return out

    def summed(
        self, t: Float[Tensor, "batch ..."], raw: Int[Tensor, " place"] | None = None
    ) -> Float[Tensor, "batch token"]:
        """The elements of each token added, in double precision, always in the same order."""
        of = (self.of if raw is None else self.of[raw]) + 1  # 0: nobody's
        sums = [torch.bincount(of, sample, self.count + 1)[1:] for sample in t.flatten(1).double().cpu()]
        return torch.stack(sums).to(t)

    @cached_property
    def _index(self) -> Int[Tensor, "token nth"]:
        return self.index()

    def gathered(
        self, t: Float[Tensor, "batch ..."], raw: Int[Tensor, " place"] | None = None
    ) -> Float[Tensor, "batch token nth"]:
        """The elements of each token; tokens of fewer elements (no rest counts with them) are padded with zeros."""
        index = (self._index if raw is None else self.index(raw)).to(t.device)
        out = t.flatten(1)[:, index.clamp(min=0)]
        return out if bool((index >= 0).all()) else out * (index >= 0)

    @cached_property
    def size(self) -> int:
        """How many elements a token has, the rest left out: as many as most have."""
        counts = torch.bincount(self.own[self.own >= 0])
        return int(counts.mode().values)

    def extent(self, axes: Sequence[int]) -> tuple[float, ...]:
        """What part of some axes the cells cover, as (first, end) of each, in shares of its length."""
        there = (self.own >= 0).view(self.shape)
        ends: list[float] = []
        for axis in axes:
            at = there.movedim(axis, 0).flatten(1).any(1).nonzero()[:, 0]
            ends += [int(at[0]) / len(there.movedim(axis, 0)), (int(at[-1]) + 1) / len(there.movedim(axis, 0))]
        return tuple(ends)


def owners(count: int, tokens: Int[Tensor, "*place"], cells: Int[Tensor, "*place m"]) -> Int[Tensor, " element"]:
    """The token of each of `count` elements (numbered from 1 in `cells`), -1 for none; where cells overlap, the later's."""
    own = torch.full((count + 1,), -1)
    own[cells.flatten()] = tokens[..., None].expand(cells.shape).flatten()
    return own[1:]


def lattice(elements: Int[Tensor, " token"], shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Where tokens stand on a lattice of a picture, of several, or of a volume: its axes and how many tokens each has.

    `elements` stand for the tokens, numbered from 1. The last two axes are rows and columns, (..., height, width) or
    (..., height, width, channel); those before them are views, frames, tiles or slices. None where there is no such lattice.
    """
    if len(shape) < 2 or not len(elements):
        return None
    at = torch.unravel_index(elements - 1, tuple(shape))
    counts = [a.unique().numel() for a in at]
    last = len(shape) - (2 if len(shape) > 2 and counts[-1] == 1 and counts[-3] > 1 else 1)
    picture = (last - 1, last)
    axes = (*(a for a in range(len(shape)) if counts[a] > 1 and a not in picture), *picture)
    if math.prod(counts[a] for a in axes) != len(elements):
        return None
    flat = len(axes) > 2 and counts[last - 1] * counts[last] == 1
    if flat or (len(shape) == 2 and not all(_apart(at[a]) for a in picture)):
        return None  # a table of features, a sequence of frames: no picture
    return axes, tuple(counts[a] for a in axes)


def _apart(at: Int[Tensor, " token"]) -> bool:
    """Whether there are elements between the tokens of an axis."""
    steps = at.unique().diff()
    return len(steps) > 0 and bool((steps > 1).all())
