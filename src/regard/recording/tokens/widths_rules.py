"""How tokens of several inputs, side by side along their features (widths.py), go through tensor operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from regard.recording.tokens.broadcast import exponential, multiplied
from regard.recording.tokens.elementwise import element_wise, first_alone, normalised, tensors_in
from regard.recording.tokens.movements import function, movement, on_cpu, reshape
from regard.recording.tokens.tags import PARAMETERS, reshaped, thin
from regard.recording.tokens.tracker import Trail
from regard.recording.tokens.widths import Width, met, of

EACH = (element_wise, multiplied, exponential, first_alone)
"""Rules of operations that leave every feature by itself."""


def follow_widths(trail: Trail, rule: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """What has become of parts side by side in an operation. rule: what its tags are made by (operations.py)."""
    operands = tensors_in(args) + tensors_in(kwargs.values())
    held = [(t, w) for t in operands if (w := of(trail, t)) is not None]
    outs = [t for t in ([out] if isinstance(out, Tensor) else out) if isinstance(t, Tensor) and t.is_floating_point()]
    if not held or not outs:
        return
    found = _followed(trail, rule, name, args, kwargs, out, held)
    if found is None:
        for t, width in held:
            met(trail, name, t, width)
        return
    for t, width in zip(outs, found, strict=True):
        _put(trail, t, width)


def _followed(
    trail: Trail, rule: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any, held: Any
) -> list[Width] | None:
    """The parts in an operation's results; None where these are mixed in it."""
    tensor, width = held[0]
    if rule is reshape and tensor is args[0]:
        return width.moved(lambda i: reshaped(i, out.shape))  # type: ignore[no-any-return]
    if rule is movement and tensor is args[0]:
        func, rest, more = function(name, tensor, out), on_cpu(args[1:]), {k: on_cpu(v) for k, v in kwargs.items()}
        return width.moved(lambda i: func(i, *rest, **more))  # type: ignore[no-any-return]
    if rule is normalised and tensor is args[0]:
        return [width._replace(norm=name)]
    if rule not in EACH or not isinstance(out, Tensor) or out.shape != tensor.shape:
        return None
    others = [t for t in tensors_in(args) + tensors_in(kwargs.values()) if not any(t is h for h, _ in held)]
    tags = [tag for t in others if (tag := trail.tag(t)) is not None and tag.source.rank < PARAMETERS]
    alike = all(torch.equal(w.numbers, width.numbers) and torch.equal(w.ids, width.ids) for _, w in held)
    return [width] if alike and not tags else None


def _put(trail: Trail, tensor: Tensor, width: Width) -> None:
    """Keep the parts of a tensor; one that is left by itself is its own input's."""
    one = trail.tag(tensor)
    first = thin(width.numbers).flatten()[:1]
    if one is None or one.lost or not len(first):
        return
    if not bool((thin(width.numbers) == first).all()):
        trail.widths[tensor] = width._replace(one=one)
        return
    tag = width.tags[int(first)]
    if width.norm:
        trail.mixes(width.norm, *(t for t in width.tags if t is not None))
    if tag is None or tag.source is not one.source:
        trail.put(tensor, tag and replace(tag, ids=width.ids))


__all__ = ["follow_widths"]
