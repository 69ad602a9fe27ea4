"""Rows of A and of G = ∂y/∂A rebuilt in tiles: some heads, some rows, the keys that those rows can see.

No tile outgrows the memory budget, whatever the number of tokens, heads and samples. Each head's keys and values are brought
into order once and serve all its tiles. A is softmax(q kᵀ · scale + mask) of a fused call, or the A that the model made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.recording.calls.kernel import Kernel, visible

TILE_BYTES = 256 << 20
"""The most that the tiles of rebuilt rows take of it: A, A⊙G and what is made of them."""

COPIES = 4
"""How many matrices of a tile's size are alive at a time: A, A⊙G, what the rule makes of them, and a mask."""

CACHED_BYTES = 8 << 20
"""How large a tile may be on a CPU: what the caches hold. Larger tiles are slower there (twice, at 8192 tokens)."""

CACHED_ROWS = 128
"""How many rows a tile has at the least, where the budget allows: products of fewer rows are slow."""


@dataclass(frozen=True)
class Tile:
    """Some (group, head) pairs, numbered group · heads + head, of a call; some of its query rows; a range of its keys.

    `groups` and `heads` say how the pairs are counted: either whole groups, or some heads of one. part: what it is made of.
    """

    pairs: slice
    groups: slice
    heads: int
    rows: Int[Tensor, " row"]
    keys: slice
    part: Operands

    @property
    def span(self) -> slice | Tensor:
        """The rows as an index: a slice, which copies nothing, where they stand side by side."""
        first, last = int(self.rows[0]), int(self.rows[-1])
        return slice(first, last + 1) if last - first == len(self.rows) - 1 else self.rows

    def cut(self, t: Float[Tensor, "pair row key"]) -> Float[Tensor, "group head row key"]:
        """The tile's values by group and head."""
        by_group: Tensor = t.unflatten(0, (-1, self.heads))
        return by_group


def tile_size(call: Kernel, pairs: int) -> int:
    """Elements of a tile of at least so many (group, head) pairs: what fits the budget, and on a CPU the caches too."""
    each = call.precision.itemsize
    most = max(1, min(call.budget, TILE_BYTES) // COPIES // each)
    if call.output.device.type != "cpu":
        return most
    return min(most, max(CACHED_BYTES // each, CACHED_ROWS * pairs * call.shape[3]))


def row_blocks(call: Kernel, rows: Int[Tensor, " row"], pairs: int) -> tuple[Tensor, ...]:
    """Rows in blocks, such that a block of so many (group, head) pairs is no larger than a tile (a row at the least)."""
    return rows.split(max(1, tile_size(call, pairs) // max(1, pairs * call.shape[3]))) if len(rows) else ()


def tiles(
    call: Kernel, rows: Int[Tensor, " row"], *, whole: bool = False, unseen: bool = False
) -> Iterator[tuple[Tile, Tensor, Tensor | None]]:
    """(tile, A, G) of some rows; G is None for an unbound call.

    whole: all heads of a group stand in one tile. unseen: keys that no row of a tile can see, where A is zero, are there too.
    A and G are buffers that the next tile writes over: (pair, row, key), to be done with, or changed, at once.
    """
    groups, heads, _, m = call.shape
    whole = whole or call.A is not None  # the model's own A is put in order for all heads at once
    buffers: dict[str, Tensor] = {}
    size, block = tile_size(call, heads if whole else 1), row_blocks(call, rows, heads if whole else 1)
    if not block:
        return
    wide = heads if whole else min(heads, max(1, size // (len(block[0]) * m)))
    many = max(1, size // (len(block[0]) * m * heads)) if wide == heads else 1
    for group in range(0, groups, many):
        last = min(groups, group + many)
        for head in range(0, heads, wide):
            count = min(wide, heads - head)
            pairs = slice(group * heads + head, (last - 1) * heads + head + count)
            part = Operands(call, pairs, buffers)
            for index in block:
                keys = slice(0, m) if unseen else part.keys(index)
                tile = Tile(pairs, slice(group, last), count, index, keys, part)
                yield tile, *part.rows(index, keys)


class Operands:
    """Some (group, head) pairs of a call: queries and dO (pair, token, width), keys and values (pair, width, token)."""

    def __init__(self, call: Kernel, pairs: slice, buffers: dict[str, Tensor]) -> None:
        self.call, self.pairs, self.buffers = call, pairs, buffers
        self.size = pairs.stop - pairs.start
        if call.A is None:
            assert call.q is not None
            assert call.k is not None
            self.unscaled = self._of(call.q)
            self.kT = self._of(call.k).transpose(1, 2)
        if call.dO is not None and call.G is None:
            self.dO = self._of(call.by_rows(call.dO))
            self.vT = self._of(call.v).transpose(1, 2)

    @cached_property
    def q(self) -> Tensor:
        """Scaled queries (pair, token, width)."""
        return self.unscaled * self.call.scale

    def _of(self, t: Tensor) -> Tensor:
        return self.call.layout.pairs(t.detach(), self.pairs).to(self.call.precision)

    def _buffer(self, name: str, rows: int, keys: int) -> Tensor:
        """(pair, row, key) of uninitialised memory, the same for every tile."""
        count = self.size * rows * keys
        if name not in self.buffers or self.buffers[name].numel() < count:
            self.buffers[name] = torch.empty(count, device=self.call.output.device, dtype=self.call.precision)
        return self.buffers[name][:count].view(self.size, rows, keys)

    def keys(self, index: Tensor) -> slice:
        """The range of keys that some rows can see: none later than the last row of a causal call, none that is masked."""
        m = self.call.shape[3]
        if self.call.mask is not None and self.call.A is None:
            open_ = visible(rows_of(self.call.mask, index)).flatten(0, -2)
            if not bool(open_.any(-1).all()):  # a row that sees nothing looks at all keys alike, by an additive mask
                return slice(0, m)
            seen = open_.any(0).expand(m).nonzero()[:, 0]
            return slice(int(seen[0]), int(seen[-1]) + 1)
        return slice(0, min(m, int(index[-1]) + 1) if self.call.causal else m)

    def rows(self, index: Tensor, keys: slice) -> tuple[Tensor, Tensor | None]:
        """A, and G of a bound call, at some rows and keys."""
        A = self.probabilities(index, keys)
        if self.call.dO is None:
            return A, None
        G = self._buffer("G", len(index), keys.stop - keys.start)
        if self.call.G is not None:
            return A, G.copy_(self.call.layout.pairs(rows_of(self.call.G, index), self.pairs)[..., keys])
        return A, torch.bmm(rows_of(self.dO, index), self.vT[..., keys], out=G)

    def probabilities(self, index: Tensor, keys: slice) -> Tensor:
        """softmax(q kᵀ · scale + mask), or the model's own A."""
        call = self.call
        if call.A is not None:
            return call.layout.pairs(rows_of(call.A.detach(), index), self.pairs)[..., keys].to(call.precision)
        scores = self._buffer("A", len(index), keys.stop - keys.start)
        torch.bmm(rows_of(self.unscaled, index) * call.scale, self.kT[..., keys], out=scores)
        if call.mask is not None:
            add_mask(
                scores, call.layout.pairs(_spelled(rows_of(call.mask, index), call.shape[3]), self.pairs)[..., keys]
            )
        if call.causal:
            first = min(max(keys.start, int(index[0])), keys.stop)  # every row sees the keys before the first of them
            at = torch.arange(first, keys.stop, device=scores.device)
            scores[..., first - keys.start :].masked_fill_(at > index.to(scores.device)[:, None], -torch.inf)
        A = torch.softmax(scores, -1, out=scores)
        return A if call.mask is None else A.nan_to_num_(0.0)


def rows_of(t: Tensor, index: Int[Tensor, " row"]) -> Tensor:
    """Rows (the axis before the last) of a tensor, without a copy where they stand side by side; one row stands for all."""
    t = t if t.ndim > 1 else t[None]
    if t.shape[-2] == 1:
        return t
    if len(index) and int(index[-1]) - int(index[0]) == len(index) - 1:
        return t.narrow(-2, int(index[0]), len(index))
    return t.index_select(-2, index.to(t.device))


def _spelled(mask: Tensor, keys: int) -> Tensor:
    """A mask with its last axis spelled out, without a copy."""
    return mask.detach().expand(*mask.shape[:-1], keys)


def add_mask(scores: Tensor, mask: Tensor) -> None:
    """Apply a boolean (True: may look) or additive mask in place."""
    if mask.dtype == torch.bool:
        scores.masked_fill_(~mask, -torch.inf)
    else:
        scores.add_(mask.to(scores.dtype))
