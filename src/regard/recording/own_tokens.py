"""Tokens of an input itself, where no attention tells how it is cut up: what a map of a gradient at the input is drawn on.

Token ids: each is a token. Features (batch, token, width): each token. Pictures: the patches that the model's first operation
cuts them into, where these do not overlap (mixers, ConvNeXt), else the pixels; of sounds and volumes likewise. Plain numbers
(batch, feature): each number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from regard.recording.inputs import first
from regard.recording.tokens.tags import STRIDE, Stream, Tag, first_along
from regard.recording.tokens.tracker import Trail


def own_tokens(trail: Trail, used: Tensor, axes: Mapping[str, int | None]) -> Bool[Tensor, " row"]:
    """The rows in use (row,), and those of the tokens of inputs that no call reads; their streams are made if need be.

    axes: the inputs, and which axis of each is its samples'.
    """
    read = {s.name for s in trail.streams if bool(used[s.rows].any())}
    missing = [name for name in axes if name not in read and name not in trail.aliases]
    chosen = [_cut(trail, name, axes[name]) for name in missing]
    out = torch.zeros(trail.rows, dtype=torch.bool)
    out[: len(used)] = used
    for stream in chosen:
        out[stream.rows] = True
    return out


def _cut(trail: Trail, name: str, samples: int | None) -> Stream:
    """The stream of an input's first cut, where it is one into pieces that do not overlap; else of its smallest pieces."""
    tag = trail.entered[name]
    tag = replace(tag, ids=first(tag.ids, samples))
    born = [s for s in trail.streams if s.name == name and s.kind == "input"]
    axes = _pieces(tag, trail.overlapping.get(name))
    count = tag.ids[0][tuple(slice(None) if a in axes else 0 for a in range(1, tag.ids.ndim))].numel()
    if born and name not in trail.overlapping and (born[0].count > 1 or count == 1):
        return born[0]
    ids, cells, whole = tag.ids, tag.ids[..., None], [d for d in range(1, tag.ids.ndim) if d not in axes]
    for dim in whole:
        ids = first_along(ids, dim)
        cells = cells.unsqueeze(dim).movedim(dim + 1, -1).flatten(-2)
    made = trail.born(tag, ids, cells)
    return trail.stream_of(int(made.ids.max()) % STRIDE)


def _pieces(tag: Tag, sliding: int | None) -> tuple[int, ...]:
    """The axes along which an input's elements are pieces of their own: those that a window slides over, or by its shape."""
    n = tag.ids.ndim
    if sliding is not None:
        return tuple(range(n - sliding, n))
    if tag.source.ids or n == 2:
        return tuple(range(1, n))
    return (1,) if n == 3 else tuple(range(2, n))
