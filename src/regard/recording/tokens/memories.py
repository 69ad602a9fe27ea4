"""Memory keys and values: rows of a parameter beside the tokens, of which each head may have its own part.

A memory that is kept as (head, memory, width) is one token for each memory, cut into heads beforehand: its parts are merged to
one row, so that what falls on it goes back to all of them in equal shares (formulas.md section 3).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from regard.recording.tokens.tags import STRIDE, Tag
from regard.recording.tokens.tracker import Trail


def heads_together(trail: Trail, tag: Tag, queries: Tensor, keys: Tensor) -> tuple[Tag, Tensor]:
    """The keys (lead..., key) of a call, with the learned ones of all heads at the same queries (lead..., query) as one row;
    and their tag, which has absorbed the merging. As they were where heads differ in anything else."""
    flat = keys.reshape(-1, keys.shape[-1])
    learned = trail.learned(flat)
    if not bool(learned.any()):
        return tag, keys
    _, group, size = torch.unique(
        queries.reshape(-1, queries.shape[-1]), dim=0, return_inverse=True, return_counts=True
    )
    if bool((size != size[0]).any()):
        return tag, keys
    order = group.argsort(stable=True)
    heads = flat[order].unflatten(0, (len(size), -1))
    apart = (heads != heads[:, :1]).any(1)
    if not bool(apart.any()) or not bool(learned[order].unflatten(0, heads.shape[:2]).all(1)[apart].all()):
        return tag, keys
    name = trail.stream_of(int(heads[apart.unsqueeze(1).expand_as(heads)][0] % STRIDE)).name
    of_memories = replace(tag, source=replace(tag.source, name=name))
    merged = trail.combined(of_memories, heads.movedim(1, -1))
    together = torch.empty_like(flat)
    together[order] = merged.ids.movedim(-1, 1).expand_as(heads).flatten(0, 1)
    return replace(tag, seen=merged.seen), together.view(keys.shape)


def of_each_head(trail: Trail, ids: Tensor, dim: int) -> bool:
    """Whether columns of scores differ along an axis only where each head has a learned key of its own: where heads talk, these
    are the columns of all of them."""
    learned = trail.learned(ids)
    first, was = ids.narrow(dim, 0, 1), learned.narrow(dim, 0, 1)
    return bool(((ids == first) | (learned & was)).all()) and not bool(learned.all())
