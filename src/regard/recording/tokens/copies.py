"""Tokens that a model itself repeats: from there on each copy is a row of its own, made of the one that it was copied from.

Repeated along an axis of heads or samples, or given to every place of an axis, rows are the same ones elsewhere, and stay so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from regard.recording.tokens.elementwise import rows_in
from regard.recording.tokens.tags import PARAMETERS, STRIDE, Tag, constant, thin
from regard.recording.tokens.tracker import Trail

REPEATS = {"repeat", "tile", "repeat_interleave"}


def of_one_tensor(parts: Sequence[Any]) -> bool:
    """Whether tensors that are put side by side are the same numbers, several times."""
    first, *others = parts
    return bool(others) and all(
        isinstance(p, Tensor) and p.data_ptr() == first.data_ptr() and (p.shape, p.stride()) == (first.shape, first.stride())
        for p in others
    )  # fmt: skip


def told_apart(trail: Trail, tag: Tag, before: Sequence[int]) -> Tag:
    """The tag of what a tensor of shape `before` was repeated to, copies told apart along each axis of tokens that grew."""
    if tag.raw or tag.lost or tag.keys is not None:
        return tag
    shape = (1,) * (tag.ids.ndim - len(before)) + tuple(before)
    for axis, old in enumerate(shape):
        if 1 < old < tag.ids.shape[axis]:
            tag = _along(trail, tag, axis)
    return tag


def _along(trail: Trail, tag: Tag, axis: int) -> Tag:
    """Copies along an axis, told apart where its places are other rows (and not the same rows of other samples)."""
    ids = thin(tag.ids, but=axis).movedim(axis, -1)
    if constant(ids % STRIDE, -1):
        return tag
    flat, told = trail.copies_apart(ids.flatten(0, -2) if ids.ndim > 1 else ids[None])
    if not told:
        return tag
    return replace(tag, ids=flat.view(ids.shape).movedim(-1, axis).expand(tag.ids.shape), seen=tag.seen | told)


def beside_others(trail: Trail, tags: Sequence[Tag | None]) -> list[Tag | None]:
    """Tags of tensors side by side: a parameter's rows that stood beside other tokens before, and beside none of these, are
    rows of their own (the class token that two towers share, that each window has)."""
    tokens = [rows_in(t.ids) for t in tags if t is not None and t.source.rank < PARAMETERS]
    if not tokens:
        return [*tags]
    fresh = (t is not None and t.source.rank >= PARAMETERS and not t.seen & trail.call_events for t in tags)
    beside = torch.cat(tokens).unique()
    return [_own(trail, t, beside) if own and t is not None else t for t, own in zip(tags, fresh, strict=True)]


def _own(trail: Trail, tag: Tag, beside: Tensor) -> Tag:
    """A parameter's rows beside some tokens."""
    known = trail.neighbours.setdefault(rows_in(tag.ids).numpy().tobytes(), [])
    place = next((i for i, before in enumerate(known) if bool(torch.isin(beside, before).any())), len(known))
    known[place:] = [torch.cat([beside, *known[place : place + 1]]).unique(), *known[place + 1 :]]
    return trail.variant(tag, -place) if place else tag


def of_features(trail: Trail, tag: Tag, ndim: int, axis: int) -> Tag:
    """Raw features (batch, tokens, width) whose tokens are about to be repeated: they are tokens by now."""
    ours = tag.raw and not tag.source.ids and len(tag.source.shape) == 2 and ndim == 3 and axis % ndim == 1
    return trail.settled(tag) if ours else tag


__all__ = ["REPEATS", "beside_others", "of_features", "of_one_tensor", "told_apart"]
