"""Tokens of several inputs side by side along their features: `cat([content, position], -1)`.

From there on a row has one name (the content's), as if the others had been added to it. Where the width is cut again before
anything has mixed it, each part is its own input's again; where something mixes it, the others are told as joined to the one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regard.recording.tokens.meetings import meet, spread
from regard.recording.tokens.tags import PARAMETERS, STRIDE, Tag, constant, first_along, thin
from regard.recording.tokens.tracker import Trail


class Width(NamedTuple):
    """Parts that stand side by side in a tensor: the number of the part that each element is of, whose row it was, and the
    parts' tags. one: the tensor's tag, by the one name; norm: the operation that brought all parts to one scale, or ""."""

    numbers: Tensor
    ids: Tensor
    tags: tuple[Tag | None, ...]
    one: Tag
    norm: str = ""

    def moved(self, move: Callable[[Tensor], Any]) -> list[Width]:
        """The same elsewhere."""
        found = [[m] if isinstance(m, Tensor) else list(m) for m in (move(self.numbers), move(self.ids))]
        return [self._replace(numbers=n, ids=i) for n, i in zip(*found, strict=True)]


def begins(trail: Trail, parts: Sequence[Tensor], tags: Sequence[Tag | None], ids: Sequence[Tensor], out: Tensor, dim: int,
           one: Tag) -> None:  # fmt: skip
    """Tensors have come to stand side by side along axis `dim`: their tags, whose rows they were, and the tag of the result."""
    numbers = [torch.full((), n).expand(p.shape) for n, p in enumerate(parts)]
    trail.widths[out] = Width(torch.cat(numbers, dim), torch.cat([*ids], dim), tuple(tags), one)


def of(trail: Trail, tensor: Any) -> Width | None:
    """The parts that stand side by side in a tensor, if nothing was written into it since."""
    found: Width | None = trail.widths.get(tensor) if len(trail.widths) else None
    return found if found is not None and trail.tag(tensor) is found.one else None


def met(trail: Trail, name: str, tensor: Tensor, width: Width) -> None:
    """The parts of a tensor have become one row."""
    trail.widths.pop(tensor)
    best = next(t for t in width.tags if t is not None and t.source is width.one.source)
    for tag in width.tags:
        if tag is None or tag.source is best.source or tag.source.rank >= PARAMETERS:
            continue
        if _one_for_many(tag.ids, best.ids):
            spread(trail, name, tag, best)
        else:
            meet(trail, name, tag, best, tensor)


def _one_for_many(few: Tensor, many: Tensor) -> bool:
    """Whether one row stands beside many along an axis (a vector of the whole input beside each of its tokens)."""
    rows = [first_along(t, -1) % STRIDE for t in (few, many)]
    return any(constant(rows[0], d) and not constant(rows[1], d) for d in range(few.ndim))


def read(trail: Trail, *tensors: Any) -> None:
    """A call reads tensors as they are: what stands side by side in them has become one row."""
    for t in tensors:
        if (width := of(trail, t)) is not None:
            met(trail, "cat", t, width)


def as_one(trail: Trail, name: str, tag: Tag, dim: int, out: Tensor) -> Tag:
    """A tag whose rows of several inputs stand side by side along an axis that is about to be summed, before any attention:
    the rows of the one by whose name they go on."""
    if tag.raw or tag.lost or tag.keys is not None or trail.attended(tag) or constant(tag.ids, dim):
        return tag
    ids = thin(tag.ids, but=dim).movedim(dim, -1)
    numbers = [i for i, s in enumerate(trail.streams) for _ in range(s.count)]
    of_row = torch.tensor([-1, *numbers])[ids % STRIDE].flatten(0, -2)
    if not bool((of_row == of_row[:1]).all()):
        return tag
    streams = {i: trail.streams[i] for i in of_row[0].unique().tolist() if i >= 0}
    own = [i for i, s in streams.items() if s.name == tag.source.name]
    if len({s.name for s in streams.values()}) < 2 or len(own) != 1:
        return tag
    rows = {i: ids[..., of_row[0] == i] for i in streams}
    if not all(constant(r, -1) for r in rows.values()):
        return tag
    one = replace(tag, ids=rows[own[0]][..., :1].movedim(-1, dim).expand(tag.ids.shape))
    for i, stream in streams.items():
        if i not in own and (entered := trail.entered.get(stream.name)) is not None:
            other = replace(entered, ids=rows[i][..., :1].movedim(-1, dim).expand(tag.ids.shape), raw=False)
            meet(trail, name, other, one, out)
    return one


__all__ = ["Width", "as_one", "begins", "met", "of", "read"]
