"""Tensors that hold the same memory: what is written into one stands in the others, too.

`y.data`, `y.detach()`, views of one tensor and `torch.from_numpy` give other tensors of the same memory. A write into one of
them is found in all. Where autograd does not see it (`y.data = ...`, under `no_grad`), gradients are those of what stood there
before: rows that change by it are followed no further, and rows that stay theirs are told of. Memory that was handed out of
torch (numpy) is looked at again when the run is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

from regard.errors import ModelError
from regard.recording.tokens.elementwise import nowhere
from regard.recording.tokens.parts import beside, full, put
from regard.recording.tokens.tags import Tag, is_parameter
from regard.recording.tokens.tracker import Trail
from regard.recording.tokens.writes import beside_itself

HANDS_OUT = {"numpy", "__array__", "__dlpack__", "storage", "untyped_storage"}
"""What gives a tensor's memory to others than torch."""


def written_into(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Tensor | None:
    """The tensor that an operation wrote into; None where it makes a new one."""
    if isinstance(kwargs.get("out"), Tensor):
        return kwargs["out"]  # type: ignore[no-any-return]
    first = args[0] if args else None
    if not isinstance(first, Tensor) or is_parameter(first):
        return None
    if name in ("__setitem__", "__set__"):
        return first
    return first if name.endswith("_") and out is first else None


def written(trail: Trail, name: str, t: Tensor, before: Tag | None) -> None:
    """After a write into t, whose tag was `before`: the tags of tensors that hold the same memory."""
    tag, base = trail.tag(t), t._base
    if tag is not None and base is not None and base not in trail.tags:
        nobody = torch.zeros((), dtype=torch.int64).expand(base.shape)
        trail.put(base, replace(tag, ids=nobody, keys=None, lost=""))
    others = [*_sharing(trail, t)]
    seen = torch.is_grad_enabled() and t.requires_grad
    if t.requires_grad and not seen:
        _past_autograd(trail, name, t, before)
    for other in others:
        old = trail.tag(other)
        trail.put(other, _told(trail, t, tag, other, old))
        if other.requires_grad and not (seen and _views_of_one(t, other)):
            _past_autograd(trail, name, other, old)


def replaced(trail: Trail, t: Tensor, value: Any) -> None:
    """`t.data = value`: t holds other memory, and its graph is the old one."""
    before = trail.tag(t)
    trail.put(t, trail.parameter_tag(value) if isinstance(value, Tensor) else None)
    if t.requires_grad:
        _past_autograd(trail, "data", t, before)


def _views_of_one(a: Tensor, b: Tensor) -> bool:
    """Whether autograd knows that two tensors hold the same memory."""
    return (a if a._base is None else a._base) is (b if b._base is None else b._base)


def _past_autograd(trail: Trail, name: str, t: Tensor, before: Tag | None) -> None:
    """A tensor whose values are no longer those that its graph gives: lost, where they are other rows' now."""
    tag = trail.tag(t)
    if tag is None and before is None:
        return
    trail.unseen.setdefault(name)
    if tag is not None and before is not None and _same(tag, before):
        return
    known = tag or before
    assert known is not None
    trail.put(t, nowhere(replace(known, lost=""), f"{name}, which autograd does not see", t))


def _same(a: Tag, b: Tag) -> bool:
    alike = a.source is b.source and bool(a.lost) == bool(b.lost) and (a.keys is None) == (b.keys is None)
    return alike and a.ids.shape == b.ids.shape and torch.equal(a.ids, b.ids)


def _sharing(trail: Trail, t: Tensor) -> Iterator[Tensor]:
    """Other tensors, with a tag, in whose memory t lies."""
    if t.layout is not torch.strided or t.device.type == "meta":
        return
    start, end = _extent(t)
    for other in [*trail.tags]:
        if other is not t and other.layout is torch.strided and other.device == t.device:
            a, b = _extent(other)
            if a < end and start < b:
                yield other


def _extent(t: Tensor) -> tuple[int, int]:
    """The bytes between a tensor's first and last element."""
    last = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) if t.numel() else -1
    return t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size()


def _told(trail: Trail, t: Tensor, tag: Tag | None, other: Tensor, old: Tag | None) -> Tag | None:
    """The tag of a tensor that holds memory of t, into which has been written; nobody's where t has none."""
    assert old is not None
    if tag is None and old.keys is not None:
        return nowhere(old, "a write into its memory", other)
    same_place = t.data_ptr() == other.data_ptr() and t.stride() == other.stride() and t.shape == other.shape
    if tag is not None and same_place:
        return tag
    if tag is not None and (tag.lost or tag.keys is not None or old.keys is not None or old.lost):
        return nowhere(old if old.lost else tag, tag.lost or old.lost or "a write into its memory", other)
    if t.dtype != other.dtype:
        return nowhere(old, "a write into its memory", other)
    found = _in_memory(t, torch.zeros((), dtype=torch.int64) if tag is None else tag.ids, other)
    if tag is not None and tag.seen != old.seen:
        met = _meeting(trail, t, tag, other, old, found)
        if met is None:
            return nowhere(old, "a write of copies into its memory", other)
        old = met
    new = torch.where(found >= 0, found, old.ids)
    if torch.equal(new, old.ids):
        return old if tag is None else replace(old, seen=old.seen | tag.seen)
    best = old if tag is None else min(old, tag, key=lambda x: x.order)
    return replace(best, ids=new, seen=old.seen | (0 if tag is None else tag.seen))


def _in_memory(t: Tensor, numbers: Tensor, other: Tensor) -> Tensor:
    """Numbers of the elements of t, not negative, at the places of `other` that are the same memory; -1 at its own places."""
    base = min(t.data_ptr(), other.data_ptr())
    places = (_extent(t)[1] - base) // t.element_size(), (_extent(other)[1] - base) // t.element_size()
    table = torch.full((max(places),), -1)
    _at(table, t, base).copy_(numbers)
    return _at(table, other, base)


def _meeting(trail: Trail, t: Tensor, tag: Tag, other: Tensor, old: Tag, found: Tensor) -> Tag | None:
    """The tag of what stood in a tensor, into whose memory t was written: side by side with it (heads in columns of a buffer),
    or rows beside its own, which are at their stage from then on; None where they cannot be told apart. found: ids that came.
    """
    same = beside_itself(torch.where(found >= 0, -1, old.ids), torch.where(found >= 0, found, old.ids))
    trail.joined("width" if same else "rows", [old, tag])
    if parts := beside(trail, [other, t], [old, tag], begins=same):
        kept, came = full(parts, [other, t])
        came = _in_memory(t, came, other)
        put(trail, other, parts[0].with_(torch.where(came >= 0, came, kept)))
    if same:
        return old
    staged = trail.at_their_stages([old, tag])
    return None if staged is None else staged[0]


def _at(table: Tensor, t: Tensor, base: int) -> Tensor:
    """The places of a tensor's elements in a table of memory that begins at `base`."""
    return table.as_strided(t.shape, t.stride(), (t.data_ptr() - base) // t.element_size())


def written_by_kernel(trail: Trail, func: Any, args: Sequence[Any]) -> None:
    """A kernel that is not torch's own, and writes into what it is given: whose rows stand there then is not known."""
    schema = getattr(func, "_schema", None) or getattr(getattr(func, "default", None), "_schema", None)
    for value, argument in zip(args, schema.arguments if schema else (), strict=False):
        info = argument.alias_info
        if info is not None and info.is_write and (before := trail.tag(value)) is not None:
            trail.put(value, nowhere(before, name_of_kernel(func), value))
            written(trail, name_of_kernel(func), value, before)


def name_of_kernel(func: Any) -> str:
    """The full name of an operation that is not torch's own (a user's kernel): what it does to rows is not known; else ""."""
    if not isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return ""
    name = str(getattr(func, "_name", "") or getattr(func, "_qualified_op_name", ""))
    return "" if name.partition("::")[0] in ("aten", "prims") else name.partition(".")[0]


# -- where no tags are followed any more -----------------------------------------------------------------------------------


def glance(trail: Trail, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """Once the tokens of all inputs are known: writes past autograd are told of still."""
    if name in ("data", "detach") and isinstance(out, Tensor) and args[0].requires_grad:
        trail.apart[out] = TensorWeakRef(args[0])
    if name in HANDS_OUT and (args[0].requires_grad or args[0] in trail.apart):
        _lend(trail, name, args[0])
    t = written_into(name, args, kwargs, out)
    if t is None:
        return
    known = trail.apart.get(t) or (trail.apart.get(t._base) if t._base is not None else None)
    if (known is not None and known() is not None) or (
        t.requires_grad and (name == "__set__" or not torch.is_grad_enabled())
    ):
        trail.unseen.setdefault("data" if name == "__set__" else name)


# -- memory handed out of torch -------------------------------------------------------------------------------------------


def hand_out(trail: Trail, name: str, t: Any) -> None:
    """Keep what stands in a followed tensor, whose memory others than torch can write into from now on."""
    if isinstance(t, Tensor) and trail.tag(t) is not None:
        _lend(trail, name, t)


def _lend(trail: Trail, name: str, t: Tensor) -> None:
    if all(t is not other for other, *_ in trail.lent):
        trail.lent.append((t, t._version, t.detach().clone(), name))


def check_lent(trail: Trail) -> None:
    """After a run. Raises ModelError where memory that was handed out has been changed out of sight."""
    for t, version, value, name in trail.lent:
        if t._version == version and not torch.equal(t.detach().nan_to_num(), value.nan_to_num()):
            raise ModelError(
                f"the model changes a tensor in place through `{name}`, where torch cannot see it: whose tokens it holds "
                "then is not known, and its gradients are those of the earlier content; write with torch instead"
            )


__all__ = ["HANDS_OUT", "check_lent", "hand_out", "replaced", "written", "written_into"]
