"""What a token is made of when it is born: which elements of the input, in which order, and whose they are when tokens join."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regard.recording.tokens.cells import owners
from regard.recording.tokens.tags import STRIDE, Stream, Tag, constant, first_along, thin


def tokens_apart(tag: Tag) -> Tensor | None:
    """The first element of each raw element's token (tokens, width), where several tokens stand along the last axis."""
    if len(tag.source.shape) != 2 or tag.source.ids or not tag.ids.numel():
        return None
    rows = tag.ids % STRIDE
    first = torch.where(rows > 0, rows - (rows - 1) % tag.source.shape[1], 0)
    return None if constant(first, -1) else tag.ids - rows + first


def in_order(ids: Tensor, changes: Tensor) -> tuple[Tensor, Tensor]:
    """Ids sorted along their last axis, and where they change then, if all stand there equally often; else as they were."""
    ordered = thin(ids, but=-1).sort(-1).values
    fewer = (ordered[..., 1:] != ordered[..., :-1]).flatten(0, -2)
    runs = torch.diff(torch.cat([torch.tensor([-1]), fewer.any(0).nonzero()[:, 0], torch.tensor([ids.shape[-1] - 1])]))
    if bool((fewer == fewer[:1]).all()) and bool((runs == runs[0]).all()):
        return ordered.expand(ids.shape), fewer.any(0)
    return ids, changes


def whole_axis(elements: Tensor, shape: Sequence[int], cells: Tensor | None) -> Tensor | None:
    """Features (tokens, width): every token of the input, also those that the model drops before it looks; else None."""
    if len(shape) != 2 or not len(elements) or len(((elements - 1) % shape[1]).unique()) > 1:
        return None
    if cells is not None and not torch.equal(*((cells[..., i] % STRIDE - 1) // shape[1] for i in (0, -1))):
        return None  # several rows of the table make one token
    return torch.arange(shape[0]) * shape[1] + elements[0] - (elements[0] - 1) // shape[1] * shape[1]


def of_several(cells: Tensor) -> bool:
    """Whether a cell begins in one sample and ends in another."""
    first, last = cells[..., 0], cells[..., -1]
    return bool(((first // STRIDE != last // STRIDE) & (first > 0) & (last > 0)).any())


def standing(cells: Tensor) -> Tensor:
    """The element of each cell (..., element) that stands for its token, (..., 1): the first, or the first place that is
    somebody's in all of them (windows that begin in the padding)."""
    first = first_along(cells, -1)
    if not cells.shape[-1] or bool((first % STRIDE > 0).all()):
        return first
    everywhere = (thin(cells, but=-1) % STRIDE > 0).flatten(0, -2).all(0).nonzero()[:, 0]
    return cells.narrow(-1, int(everywhere[0]), 1) if len(everywhere) else first


def each_once(ids: Tensor, cells: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Cells (..., element) in which each element stands once, where those of several tokens have elements in common: in that of
    the token that begins at it, or last before it; None where they have none. `ids` stand for the tokens, (...); shape: the
    input's."""
    rows, names = cells % STRIDE, (ids % STRIDE)[..., None].expand(cells.shape)
    if len(rows) > 1 and torch.equal(rows, rows[:1].expand_as(rows)) and torch.equal(names, names[:1].expand_as(names)):
        rows, names = rows[:1], names[:1]  # samples alike
    owner = torch.zeros(int(rows.max()) + 1 if rows.numel() else 1, dtype=torch.int64)
    owner[rows] = names
    if not bool(((owner[rows] != names) & (rows > 0)).any()):
        return None
    each = zip(shape, *(torch.unravel_index((t - 1).clamp(min=0), tuple(shape)) for t in (rows, names)), strict=True)
    off = torch.stack([(at - start) % n for n, at, start in each]).sum(0)
    place = off * rows.shape[-1] + torch.arange(rows.shape[-1])
    nearest = torch.full_like(owner, int(place.max())).scatter_reduce(0, rows.flatten(), place.flatten(), "amin")
    return torch.where(nearest[rows] == place, cells, 0)


def owners_of_all(count: int, tokens: Tensor, cells: Tensor) -> Tensor:
    """The token of each element, by the cells of all samples (sample, ..., m), or of one where those of all are alike."""
    apart = cells - cells[:1]
    alike = cells.ndim > 1 and bool((apart == apart[(slice(None), *[slice(1)] * (cells.ndim - 1))]).all())
    if alike and torch.equal(tokens, tokens[:1].expand_as(tokens)):
        tokens, cells = tokens[:1], cells[:1]
    return owners(count, tokens, cells % STRIDE)


def of_features(shape: tuple[int, ...]) -> Tensor:
    """The token of each element of a table (token, width)."""
    return torch.arange(shape[0] * shape[1]) // shape[1]


def regrouped(count: int, before: Sequence[Stream], tokens: Tensor, cells: Tensor) -> Tensor:
    """The token of each element, where tokens were joined to new ones."""
    rows = cells % STRIDE
    new, own = owners(int(rows.max()), tokens, rows), torch.full((count,), -1)
    for stream in before:
        old = stream.owned() if stream.owned is not None else own
        mine = (old >= 0) & (old + stream.first <= len(new))
        own[mine] = new[old[mine] + stream.first - 1]
    return own


__all__ = [
    "each_once",
    "in_order",
    "of_features",
    "of_several",
    "owners_of_all",
    "regrouped",
    "standing",
    "tokens_apart",
    "whole_axis",
]
