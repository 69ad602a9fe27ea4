"""Rows that are joined between attentions: a mean or a sum of several rows at each place, beside other places (pairs, windows,
frames). New rows are made, 1/m of each of the m that they were made of (formulas.md 3). What is joined before any attention may
be parts of one token (codebooks of a frame): that is not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from regard.recording.tokens.tags import STRIDE, Tag, constant, first_along, occurrence, thin
from regard.recording.tokens.tracker import Trail

ADDS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
MEANS = {"mean", "sum", "amax"}


def averaged(trail: Trail, name: str, tag: Tag, dims: Sequence[int], out: Tensor) -> Tag | None:
    """Rows after a mean or sum over one axis of them; None where no other rows stand beside (all tokens are pooled)."""
    if name not in MEANS or len(dims) != 1 or tag.keys is not None or tag.raw:
        return None
    sources = thin(tag.ids, but=dims[0]).movedim(dims[0], -1)
    if (rows := _of_copies(trail, sources)) is not None:
        made = replace(tag, ids=rows)
    elif not trail.attended(tag) or out.ndim < 3 or all(constant(sources % STRIDE, d) for d in range(sources.ndim - 1)):
        return None
    else:
        made = trail.combined(tag, sources)
    made = made.moved(lambda i: i.movedim(-1, dims[0]))
    return made.moved(lambda i: (i if i.ndim == out.ndim else i.squeeze(dims[0])).expand(out.shape))


def added(trail: Trail, name: str, a: Tag, b: Tag, out: Tensor) -> Tag | None:
    """Rows that are a sum of two, each of one place alone (those at even places, those at odd ones); else None."""
    if name not in ADDS or not (constant(a.ids, -1) and constant(b.ids, -1)):
        return None
    rows = [first_along(t.ids, -1) for t in (a, b)]
    if (same := _of_copies(trail, torch.stack(rows, -1))) is not None:
        return replace(a, ids=same[..., 0].expand(out.shape), seen=a.seen | b.seen)
    if not (trail.attended(a) and trail.attended(b)) or not _all_apart(
        trail, torch.cat([i.flatten(1) for i in rows], 1)
    ):
        return None
    many = torch.ones(trail.rows, dtype=torch.float64)
    if trail.summands:
        many[torch.tensor([*trail.summands])] = torch.tensor([*trail.summands.values()]).double()
    counts = torch.stack([many[i % STRIDE] for i in rows], -1)
    made = trail.combined(a, torch.stack(rows, -1), counts)
    for row, count in zip((made.ids % STRIDE).flatten().tolist(), counts.sum(-1).flatten().tolist(), strict=True):
        trail.summands[row] = int(count)
    return replace(made, ids=made.ids[..., 0].expand(out.shape), seen=made.seen | b.seen)


def _of_copies(trail: Trail, sources: Tensor) -> Tensor | None:
    """The rows that copies were made of, where all that meet (along the last axis, kept with length 1) are copies of one, and
    no attention has run since (experts, each of which is given all tokens): these are that row still; else None."""
    table = torch.arange(trail.rows)
    if trail.made_of:
        table[torch.tensor([*trail.made_of])] = torch.tensor([*trail.made_of.values()])
    rows = sources % STRIDE
    up = table[rows]
    if bool((up == rows).any()) or not constant(sources - rows + up, -1):
        return None
    made = [m.event for m in trail.merges if bool(torch.isin(m.rows, rows).any())]
    return None if trail.call_events >> max(made) else first_along(sources - rows + up, -1)


def _all_apart(trail: Trail, ids: Tensor) -> bool:
    """Whether ids (batch, place) name different rows, and those that are copies of one token were told apart at one time."""
    if bool((occurrence(ids) > 0).any()):
        return False
    rows = (ids % STRIDE).unique().tolist()
    makings: dict[int, set[int]] = {}
    for row in rows:
        makings.setdefault(trail.copies.get(row, row), set()).add(trail.stream_of(row).first if row else 0)
    return all(len(made) == 1 for made in makings.values())


__all__ = ["added", "averaged"]
