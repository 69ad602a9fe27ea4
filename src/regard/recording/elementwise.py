"""Operations that work element by element, and those that mix rows in ways that are not followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from regard.recording.tokens import Tag, Trail, lost

Tags = Sequence[Tag | None]
MIXERS = ("fft", "lstm", "gru", "sort", "interpolate", "upsample", "adaptive", "cumsum", "cumprod", "conv_transpose")
PARAMETERS = 10_000
"""Sources of this rank and above are parameters."""
SAME_IDS = {
    "clone",
    "to",
    "contiguous",
    "detach",
    "long",
    "int",
    "masked_fill",
    "masked_fill_",
    "type_as",
    "cuda",
    "cpu",
}


def tensors_in(args: Any) -> list[Tensor]:
    """Tensors among arguments, one level of lists included."""
    found = []
    for a in args:
        if isinstance(a, Tensor):
            found.append(a)
        elif isinstance(a, list | tuple):
            found += [x for x in a if isinstance(x, Tensor)]
    return found


def element_wise(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """The tag of the operand that fills the result; inputs win over parameters, seen calls are united."""
    if not isinstance(out, Tensor):
        return mixing(trail, name, args, kwargs, out)
    operands = [t for t in tensors_in(args) + tensors_in(kwargs.values()) if t.ndim]
    tags = [(t, tag) for t in operands if (tag := trail.tag(t)) is not None]
    tags = [(t, tag) for t, tag in tags if tag.source.rank < PARAMETERS and t.shape == out.shape] or tags
    if all(tag.source.rank >= PARAMETERS for _, tag in tags):
        tags = [(t, tag) for t in operands if (tag := trail.parameter_tag(t)) is not None]
    fits = [(t, tag) for t, tag in tags if broadcasts(t.shape, out.shape)]
    if not fits:
        strong = [tag for _, tag in tags if tag.source.rank < PARAMETERS and out.is_floating_point()]
        return [nowhere(min(strong, key=lambda t: t.order), name, out)] if strong else [None]
    found = [tag for _, tag in fits]
    if any(not t.raw for t in found) and any(t.raw for t in found) and out.is_floating_point():
        fits = [(t, trail.settled(tag)) for t, tag in fits]
    _, best = min(fits, key=lambda p: (bool(p[1].lost), p[1].keys is None, p[0].shape != out.shape, *p[1].order))
    same = [t for _, t in fits if t.source is best.source and not (t.lost or t.raw or t.keys)]
    full = [t.ids[..., 0] for t in same if t.ids.shape == out.shape and out.ndim >= 3]
    if any(not torch.equal(full[0], ids) for ids in full[1:]):
        return [nowhere(replace(best, seen=united(found)), f"{name} of different tokens", out)]
    if gone := _not_healed(fits, best, out):
        if not trail.attended(best):
            return [nowhere(gone, name, out)]
        trail.doubt(best, f"`{gone.lost}` made rows that are not followed, and were added to it")
    seen = united(found)
    for tag in found:
        if (
            tag.source.rank != best.source.rank
            and max(tag.source.rank, best.source.rank) < PARAMETERS
            and not best.seen
        ):
            trail.aliases.setdefault(tag.source.name, best.source.name)
    keys = best.keys
    if keys is not None:
        keys = replace(keys, ids=keys.ids.expand(out.shape))
        return [replace(best, ids=best.ids.expand(out.shape), keys=keys)]
    computed = best.computed or (best.raw and best.source.ids and name not in SAME_IDS)
    return [replace(best, ids=trail.for_samples(best.ids, out.shape), seen=seen, computed=computed)]


def _not_healed(fits: Sequence[tuple[Tensor, Tag]], best: Tag, out: Tensor) -> Tag | None:
    """A lost operand of the best one's own stream. It is healed by the output of an attention call that it has not absorbed
    (a residual connection around a call whose tokens the user named), and by nothing else.
    """
    if best.lost or best.raw or out.ndim < 3 or not out.is_floating_point():
        return None
    gone = (t for x, t in fits if t.lost and t.source is best.source and x.shape == out.shape)
    return next((t for t in gone if not best.seen & ~t.seen), None)


def mixing(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Rows are mixed in a way that is not followed."""
    tags = [t for x in tensors_in(args) if (t := trail.tag(x)) is not None]
    if name in ("cumsum", "cumprod", "sort") and isinstance(out, Tensor) and not out.is_floating_point():
        return element_wise(trail, name, args, kwargs, out)
    outs = [out] if isinstance(out, Tensor) else list(out)
    if not tags:
        return [None] * len(outs)
    first = replace(tags[0], seen=united(tags))
    return [nowhere(first, name, o) if isinstance(o, Tensor) else None for o in outs]


def united(tags: Sequence[Tag]) -> int:
    """Events that any of several tags has absorbed."""
    seen = 0
    for tag in tags:
        seen |= tag.seen
    return seen


def nowhere(tag: Tag, name: str, out: Tensor) -> Tag:
    """A tag for a tensor whose rows are not known any more since the operation `name`."""
    return lost(replace(tag, ids=torch.zeros((), dtype=torch.int64).expand(out.shape), raw=False), name)


def broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Whether a shape can be expanded to another."""
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))
