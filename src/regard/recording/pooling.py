"""A mean over tokens, which an edit may change: the head of a model without a CLS token takes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from regard.recording.edits import Edit
from regard.recording.tokens.tags import constant
from regard.recording.tokens.tracker import Trail

POOLS = {"adaptive_avg_pool1d": 1, "adaptive_avg_pool2d": 2}


def pooled(
    edits: Sequence[Edit], trail: Trail, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Any:
    """What an operation gave; where it is a mean over tokens, what the edits make of it."""
    if not edits or not isinstance(out, Tensor) or not (axes := _averaged(name, args, kwargs)):
        return out
    value = args[0] if args else kwargs["input"]
    tag = trail.tag(value)
    if tag is None or tag.lost or tag.raw or tag.keys is not None or all(constant(tag.ids, d) for d in axes):
        return out
    for edit in edits:
        new = edit.pooled(value, tag.ids.expand(value.shape), axes)
        out = out if new is None else new.to(out.dtype).reshape(out.shape)
    return out


def _averaged(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """The axes that a mean, or a pooling to one place, takes away; none for other operations."""
    if name in POOLS:
        size = args[1] if len(args) > 1 else kwargs.get("output_size")
        ones = size == 1 or (isinstance(size, tuple | list) and all(s == 1 for s in size))
        return tuple(range(-POOLS[name], 0)) if ones else ()
    if name != "mean":
        return ()
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    return () if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
