"""Rows written into another tensor at given places, or added to what stands there.

A write is the same write of the ids, by the very same function; a constant's rows are nobody's. Where several rows come
together in one place (`scatter_add`, `index_add`, `scatter_reduce`: tokens merged as in ToMe, arXiv 2210.09461), a new row is
made of them, 1/m each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regard.recording.tokens import parts as parts_of
from regard.recording.tokens.elementwise import Tags, mixing, nowhere
from regard.recording.tokens.movements import on_cpu
from regard.recording.tokens.samples import in_one_sample
from regard.recording.tokens.tags import Tag, constant, first_along
from regard.recording.tokens.tracker import Trail

WRITES = {
    "__setitem__": ("index", "source"),
    "masked_scatter": ("mask", "source"),
    "index_copy": ("dim", "index", "source"),
    "index_fill": ("dim", "index", "source"),
    "scatter": ("dim", "index", "source"),
    "index_put": ("indices", "source", "accumulate"),
    "_index_put_impl_": ("indices", "source", "accumulate"),
    "put": ("index", "source", "accumulate"),
    "slice_scatter": ("source", "dim", "start", "end", "step"),
    "select_scatter": ("source", "dim", "index"),
    "diagonal_scatter": ("source", "offset", "dim1", "dim2"),
}
"""Operations that write into a tensor, and what stands after it among their arguments."""
SUMS_INTO = {
    "index_add": ("dim", "index", "source", "alpha"),
    "scatter_add": ("dim", "index", "source"),
    "scatter_reduce": ("dim", "index", "source", "reduce"),
    "index_reduce": ("dim", "index", "source", "reduce"),
}
"""Operations that join what they write to what stands there."""
SPELLED = {"src": "source", "value": "source", "values": "source", "tensor": "source"}


def spellings(names: Iterable[str]) -> set[str]:
    """Names, each also as the operation that writes in place."""
    return {spelled for name in names for spelled in (name, name + "_")}


class Write(NamedTuple):
    """A write: into what, what, and the other arguments by name; the tags of both (a constant has none)."""

    into: Tensor
    source: Any
    named: dict[str, Any]
    base: Tag | None
    value: Tag | None

    @classmethod
    def read(cls, trail: Trail, table: dict[str, Any], name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Write:
        """From an operation's arguments."""
        into, *rest = args
        named = dict(zip(table[name], rest, strict=False)) | {SPELLED.get(k, k): v for k, v in kwargs.items()}
        source = named.pop("source")
        return cls(into, source, named, trail.tag(into), trail.parameter_tag(source))

    @property
    def lost(self) -> Tag | None:
        """The tag of an operand whose rows are not known: a write never hides that."""
        return next((t for t in (self.value, self.base) if t is not None and t.lost), None)


def scatter(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Rows written into another tensor at given places."""
    out = args[0] if out is None else out
    name = name if name in WRITES else name.removesuffix("_")
    write = Write.read(trail, WRITES, name, args, kwargs)
    tags = _written_over(trail, name, write, out)
    _parts_written(trail, name, write, out)
    return tags


def _parts_written(trail: Trail, name: str, write: Write, out: Tensor) -> None:
    """Parts that stand in a tensor after a write."""
    if not isinstance(write.source, Tensor):
        return
    if write.named.get("accumulate"):
        parts_of.end(trail, [write.into, write.source], out)
        return
    begins = _side_by_side(trail, name, write)
    both = [write.into, write.source]
    if beside := parts_of.beside(trail, both, [write.base, write.value], begins):
        parts_of.put(trail, out, beside[0].with_(_written(name, write, *parts_of.full(beside, both))))


def _written_over(trail: Trail, name: str, write: Write, out: Tensor) -> Tags:
    if write.named.get("accumulate") or write.named.pop("reduce", None):
        return _added(trail, name, write, out)
    base, value = write.base, write.value
    if (value is not None and value.lost) or (base is not None and base.lost and not _everywhere(name, write)):
        return [_gone(write, name, out)]
    if value is None and (base is None or base.keys is not None):
        return [base]  # a mask
    if (
        value is not None
        and (value.keys is not None) != (base is not None and base.keys is not None)
        and base is not None
    ):
        return [_gone(write, name, out)]
    if value is not None and value.mixed:
        trail.mixes(f"{value.mixed} of different tokens", value)
    if value is None or base is None:
        best = value or base
        assert best is not None
        ids = _written(name, write, None if base is None else base.ids, None if value is None else value.ids)
        if base is not None and constant(base.ids, -1) and not constant(ids, -1):
            return [base]  # some of a row's features are set: it is that row's still
        keys = best.keys and replace(best.keys, ids=_written(name, write, None, best.keys.ids))
        made = replace(best, ids=ids, keys=keys)
        return [_whole_scores(made, write.named["dim"]) if name == "scatter" and keys is not None else made]
    met = _meeting(trail, name, write, base, value)
    if met is None:
        return [replace(nowhere(base, f"{name} of copies", out), seen=base.seen | value.seen)]
    base, value = met
    ids = in_one_sample(base, value, base.ids, _written(name, write, base.ids, value.ids))
    best = min(base, value, key=lambda t: t.order)
    keys = None
    if base.keys is not None and value.keys is not None and best.keys is not None:
        keys = replace(best.keys, ids=_written(name, write, base.keys.ids, value.keys.ids))
    return [replace(best, ids=ids, keys=keys, seen=value.seen | base.seen)]


def _whole_scores(tag: Tag, dim: int) -> Tag:
    """Scores of some keys of each row, put where these stand among all keys: the places between them, which hold no scores, are
    in the rows and columns of the others."""
    assert tag.keys is not None
    ids, columns = _named_along(tag.ids, dim), tag.keys.ids
    for axis in range(columns.ndim):
        columns = columns if axis == dim % columns.ndim else _named_along(columns, axis)
    return replace(tag, ids=ids, keys=replace(tag.keys, ids=columns))


def _named_along(ids: Tensor, axis: int) -> Tensor:
    """Ids with nobody's places named as the others along an axis are, where these are all the same."""
    one = ids.amax(axis, keepdim=True)
    return torch.where(ids == 0, one, ids) if bool(((ids == 0) | (ids == one)).all()) else ids


def _meeting(trail: Trail, name: str, write: Write, base: Tag, value: Tag) -> tuple[Tag, Tag] | None:
    """Both tags of a write, at their stages where rows of one state stand beside those of another from then on; None where
    they cannot be told apart."""
    if base.seen == value.seen:
        return base, value
    same = _side_by_side(trail, name, write)
    trail.joined("width" if same else "rows", [base, value])
    if same:
        return base, value
    staged = trail.at_their_stages([base, value])
    if staged is None or staged[0] is None or staged[1] is None:
        return None
    return staged[0], staged[1]


def _side_by_side(trail: Trail, name: str, write: Write) -> bool:
    """Whether what is written are rows that stand there already, side by side with what other calls have made of them."""
    base, value = write.base, write.value
    if base is None or value is None or base.seen == value.seen or base.lost or value.lost:
        return False
    marks = torch.full((), -1).expand(write.source.shape)
    return beside_itself(_written(name, write, base.ids, marks), _written(name, write, base.ids, value.ids))


def beside_itself(kept: Tensor, after: Tensor) -> bool:
    """Whether a row has been written beside parts of itself (a head's columns), and not other rows beside it. `kept`: the ids
    before, -1 where others were written; `after`: the ids afterwards."""
    for dim in range(kept.ndim):
        both = (kept > 0).any(dim) & (kept == -1).any(dim)
        least = torch.where(after > 0, after, torch.iinfo(after.dtype).max).amin(dim)
        if bool(both.any()) and bool((least == after.amax(dim))[both].all()):
            return True
    return False


def _gone(write: Write, name: str, out: Tensor) -> Tag:
    """The result of a write that is not followed."""
    first, *others = [t for t in (write.lost, write.value, write.base) if t is not None]
    return nowhere(replace(first, seen=first.seen | sum(o.seen & ~first.seen for o in others[:1])), first.lost or name, out,
                   *others)  # fmt: skip


def _written(name: str, write: Write, base: Tensor | None, value: Tensor | None) -> Tensor:
    """Ids after a write: `base`'s, and at its places `value`'s (None: nobody's)."""
    ids = torch.zeros(write.into.shape, dtype=torch.int64) if base is None else base
    places = {k: on_cpu(v) for k, v in write.named.items() if k != "accumulate"}
    moved: Any = 0
    if isinstance(write.source, Tensor):
        moved = (
            torch.zeros(write.source.shape, dtype=torch.int64) if value is None else value.expand(write.source.shape)
        )
    if name == "__setitem__":
        ids = ids.clone(memory_format=torch.contiguous_format)
        ids[places["index"]] = moved
        return ids
    if name.endswith("index_put") or name == "_index_put_impl_":
        at = tuple(slice(None) if i is None else i for i in places["indices"])
        ids = ids.clone(memory_format=torch.contiguous_format)
        ids[at] = moved
        return ids
    if isinstance(moved, Tensor) and name == "index_fill":
        moved = 0
    order = [moved if k == "source" else places[k] for k in WRITES[name] if k == "source" or k in places]
    if name.endswith("_scatter") and name != "masked_scatter":
        written: Tensor = getattr(torch, name)(ids, moved, **places)
        return written
    return getattr(ids.contiguous(), name)(*order)  # type: ignore[no-any-return]


def _everywhere(name: str, write: Write) -> bool:
    """Whether nothing is left of what stood there before."""
    shape = write.source.shape if isinstance(write.source, Tensor) else ()
    ones = torch.ones(shape, dtype=torch.int64)
    return bool(_written(name, write, None, ones if isinstance(write.source, Tensor) else None).all())


def added(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Rows joined to those that stand at given places."""
    name = name.removesuffix("_")
    return _added(trail, name, Write.read(trail, SUMS_INTO, name, args, kwargs), out)


def _added(trail: Trail, name: str, write: Write, out: Any) -> Tags:
    base, value = write.base, write.value
    keyed = any(t is not None and t.keys is not None for t in (base, value))
    if write.lost is not None or keyed or not isinstance(write.source, Tensor):
        return [_gone(write, name, out)] if base is not None or value is not None else [None]
    if value is None:
        return [base]
    if "dim" not in write.named:  # index_put, put
        return [_added_at(trail, name, write, out)]
    if value.raw or (base is not None and base.raw):
        if not out.is_floating_point():
            return [_gone(write, name, out)]
        value, base = trail.settled(value), base and trail.settled(base)
    return [_joined(trail, write, base, value, out)]


def _added_at(trail: Trail, name: str, write: Write, out: Tensor) -> Tag:
    """Rows added at places given one by one: followed where nothing else stands there."""
    once = _written(name, write, None, torch.arange(1, write.source.numel() + 1).view(write.source.shape))
    alone = len(once.unique()) - int((once == 0).any()) == write.source.numel()
    if write.base is not None or write.value is None or not alone:
        return _gone(write, name, out)
    return replace(write.value, ids=_written(name, write, None, write.value.ids))


def _joined(trail: Trail, write: Write, base: Tag | None, value: Tag, out: Tensor) -> Tag:
    """Ids after rows `value` were joined to rows `base` along an axis."""
    dim, index = write.named["dim"] % out.ndim, on_cpu(write.named["index"])
    ids = torch.zeros((), dtype=torch.int64).expand(out.shape) if base is None else base.ids
    came = value.ids.expand(write.source.shape)
    if index.ndim < out.ndim:
        index = index.view(-1, *[1] * (out.ndim - dim - 1)).expand(came.shape)
    came = came[tuple(slice(n) for n in index.shape)]
    if base is not None:
        _met(trail, write, base, value, out, dim, index)
    wide = out.ndim > 1 and dim != out.ndim - 1 and all(t.stride(-1) == 0 for t in (ids, came, index))
    if wide and index.shape[-1] == out.shape[-1]:
        ids, came, index = (first_along(t, -1) for t in (ids, came, index))
    best = value if base is None else min(base, value, key=lambda t: t.order)
    best = replace(best, seen=value.seen | (0 if base is None else base.seen))
    stays = bool(write.named.get("include_self", True))
    new, best = _together(trail, best, ids.contiguous(), came, dim, index, stays)
    return replace(best, ids=new.expand(out.shape))


def _met(trail: Trail, write: Write, base: Tag, value: Tag, out: Tensor, dim: int, index: Tensor) -> None:
    """Note how rows `value`, joined to what stands at some places, meet it: as if they were written, where nobody stands."""
    came = value.ids.expand(write.source.shape)[tuple(slice(n) for n in index.shape)]
    if bool(base.ids.gather(dim, index).any()):
        trail.joined("added", [base, value])
        parts_of.end(trail, [write.into, write.source], out)
        return
    ids, marks = base.ids.contiguous(), torch.full_like(came, -1)
    same = base.seen != value.seen and beside_itself(ids.scatter(dim, index, marks), ids.scatter(dim, index, came))
    trail.joined("width" if same else "rows", [base, value])
    both = [write.into, write.source]
    if beside := parts_of.beside(trail, both, [base, value], begins=same):
        kept, new = parts_of.full(beside, both)
        parts_of.put(trail, out, beside[0].with_(kept.scatter(dim, index, new)))


def _together(
    trail: Trail, best: Tag, ids: Tensor, came: Tensor, dim: int, index: Tensor, stays: bool
) -> tuple[Tensor, Tag]:
    """Ids where rows `came` have joined those at `index` (or, unless these stay, one another): the row itself where all are
    one, a new row, 1/m each, where not."""
    written = ids.scatter(dim, index, came)
    stood = ids.gather(dim, index) if stays else torch.zeros_like(came)
    if bool(((stood == came) | (stood == 0)).all()) and torch.equal(written.gather(dim, index), came):
        return written, best
    places = torch.arange(ids.numel()).view(ids.shape).gather(dim, index).flatten()
    touched, where = places.unique(return_inverse=True)
    order = where.argsort(stable=True)
    nth = torch.arange(len(order)) - torch.searchsorted(where[order], where[order])
    sources = torch.zeros(len(touched), int(nth.max()) + 2, dtype=torch.int64)
    sources[:, 0] = ids.flatten()[touched] * stays
    sources[where[order], nth + 1] = came.flatten()[order]
    made = trail.combined(best, sources)
    new = ids.flatten().index_copy(0, touched, made.ids[:, 0])
    return new.view(ids.shape), made


def set_item(trail: Trail, args: Sequence[Any]) -> None:
    """`x[index] = value`, which returns nothing, and changes x."""
    if all(trail.parameter_tag(t) is None for t in (args[0], args[2])):
        return
    try:
        (tag,) = scatter(trail, "__setitem__", args, {}, None)
    except (RuntimeError, IndexError, ValueError, TypeError):
        (tag,) = mixing(trail, "__setitem__", args, {}, args[0])
    trail.put(args[0], tag)


__all__ = ["SUMS_INTO", "WRITES", "Write", "added", "beside_itself", "scatter", "set_item", "spellings"]
