"""Heads that are folded into the rows: (batch, token, head, width) seen as (batch, token · head, width), against keys that all
heads share (multi-query attention). A token then has several rows, which are parts of it and no copies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from regard.recording.tokens.tags import STRIDE, Tag, constant, reshaped, thin


def folded_rows(ids: Tensor, shape: Sequence[int]) -> int:
    """How many rows a reshape makes of each token: 1 where no axis of its parts comes to stand in one with that of tokens."""
    pieces = _pieces(ids.shape, shape)
    if not pieces:
        return 1
    ids = reshaped(ids, [n for axis in pieces for n in axis])
    at = 0
    for axis in pieces:
        here = range(at, at := at + len(axis))
        parts = [d for d in here if ids.shape[d] > 1 and constant(ids, d)]
        if parts and any(_changes(ids, d) for d in here if d not in parts):
            return math.prod(ids.shape[d] for d in parts)
    return 1


def _pieces(old: Sequence[int], new: Sequence[int]) -> list[list[int]]:
    """For each new axis, the pieces of old ones that it is made of; [] where an old axis is not cut evenly, or none joined."""
    left, out = [n for n in old if n > 1], []
    for n in new:
        axis: list[int] = []
        while n > 1:
            if not left or max(n, left[0]) % min(n, left[0]):
                return []
            piece = min(n, left[0])
            axis.append(piece)
            n //= piece
            left[0] //= piece
            if left[0] == 1:
                del left[0]
        out.append(axis)
    return out if any(len(axis) > 1 for axis in out) else []


def _changes(ids: Tensor, dim: int) -> bool:
    """Whether rows, samples apart, change along an axis."""
    return not constant(thin(ids, but=dim) % STRIDE, dim)


class Fold(NamedTuple):
    """How an axis of rows is cut into (token, head), or (head, token)."""

    shape: tuple[int, int]
    head: int

    @classmethod
    def of(cls, ids: Tensor, dim: int, heads: int) -> Fold | None:
        """From ids, the axis of rows, and how many rows each token has; None where they do not stand in order."""
        rows = thin(ids, but=dim).movedim(dim, -1)
        n = rows.shape[-1]
        if heads == 1 or n % heads or n == heads:
            return None
        for shape, head in (((n // heads, heads), 1), ((heads, n // heads), 0)):
            cut = rows.unflatten(-1, shape)
            once = cut.select(head - 2, 0).flatten(0, -2).sort(-1).values
            if constant(cut, head - 2) and bool((once.diff() != 0).all()):
                return cls(shape, head)
        return None

    def __call__(self, t: Tensor, dim: int) -> Tensor:
        """A tensor with its axis of rows (counted from the end) cut, heads ahead of tokens. One row stands for all."""
        if t.shape[dim] == 1:
            return t.unsqueeze(dim - 1)
        cut: Tensor = t.unflatten(dim, self.shape)
        return cut if self.head == 0 else cut.transpose(dim - 1, dim)

    def tags(self, tags: Sequence[Tag | None]) -> list[Tag | None]:
        """The tags of queries, whose rows are cut, and of keys and values, which all heads share."""
        queries, *shared = tags
        return [
            queries and queries.moved(lambda i: self(i, -2)),
            *(t and t.moved(lambda i: i.unsqueeze(-3)) for t in shared),
        ]

    def cut(self, out: Tensor, dim: int) -> Tensor:
        """An output with its axis of rows cut, the two parts in the order in which the model has them."""
        cut: Tensor = out.unflatten(dim, self.shape)
        return cut

    def axes(self, axes: Iterable[int], dim: int) -> tuple[int, ...]:
        """How a cut output is permuted to (lead..., head, token, width); `axes` did so for the whole, its rows at `dim`."""
        rows = [dim + self.head, dim + 1 - self.head]
        return tuple(b for a in axes for b in (rows if a == dim else [a + (a > dim)]))


__all__ = ["Fold", "folded_rows"]
