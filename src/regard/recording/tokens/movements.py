"""Movements: the same elements elsewhere. What is done to a tensor is done to its ids, by the very same function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from regard.recording.tokens import parts as parts_of
from regard.recording.tokens import widths
from regard.recording.tokens.copies import REPEATS, beside_others, of_features, of_one_tensor, told_apart
from regard.recording.tokens.elementwise import Tags, broadcasts, element_wise, mixing, nowhere
from regard.recording.tokens.folds import Fold, folded_rows
from regard.recording.tokens.lookups import PICKS, looked_up
from regard.recording.tokens.rereads import earlier_states
from regard.recording.tokens.samples import in_one_sample
from regard.recording.tokens.tags import PARAMETERS, Tag, constant, first_along, reshaped
from regard.recording.tokens.tracker import Trail

RESHAPES = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "_unsafe_view"}
RESHAPES |= {"squeeze_", "unsqueeze_", "ravel", "atleast_1d", "atleast_2d", "atleast_3d", "view_copy", "_reshape_alias"}
EXPANSIONS = {"expand", "expand_as", "repeat", "tile", "broadcast_to", "repeat_interleave"}
_TRANSPOSED = (
    "permute transpose t T mT H mH adjoint movedim moveaxis swapaxes swapdims transpose_ t_ swapaxes_ swapdims_"
)
_CHOSEN = "__getitem__ select slice narrow narrow_copy index_select gather take take_along_dim masked_select diagonal"
_TURNED = "roll flip fliplr flipud rot90 fft_fftshift fft_ifftshift"
_CUT = "split chunk unbind unfold tensor_split split_with_sizes hsplit vsplit dsplit unsafe_split unsafe_chunk"
_SHUFFLED = "as_strided channel_shuffle native_channel_shuffle pixel_shuffle pixel_unshuffle"
MOVEMENTS = EXPANSIONS | {*f"{_TRANSPOSED} {_CHOSEN} {_TURNED} {_CUT} {_SHUFFLED}".split()}
CATS = {"cat", "concat", "concatenate"}
JOINS = CATS | {"stack", "hstack", "vstack", "dstack", "column_stack", "row_stack"}


def reshape(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """The same elements in another shape."""
    tag = trail.parameter_tag(args[0])
    if tag is None:
        return [None]
    if out.numel() != tag.ids.numel():
        return [nowhere(tag, name, out)]
    made = tag.moved(lambda i: reshaped(i, out.shape))
    folded = 1 if tag.raw or tag.lost else folded_rows(tag.ids, out.shape)
    if folded == 1 < tag.folded and any(Fold.of(made.ids, d, tag.folded) for d in range(made.ids.ndim)):
        folded = tag.folded
    return [made if folded == tag.folded else replace(made, folded=folded)]


def movement(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """The same movement of the ids, by the very same function."""
    if name in PICKS and (picked := looked_up(trail, name, args, out)) is not None:
        return [picked]
    tag = trail.parameter_tag(args[0])
    outs = [out] if isinstance(out, Tensor) else list(out)
    if tag is None:
        return [None] * len(outs)
    rest, more = on_cpu(args[1:]), {k: on_cpu(v) for k, v in kwargs.items()}
    func = function(name, args[0], out)
    given = tag.source.rank >= PARAMETERS or tag.source.shared
    if name in EXPANSIONS and tag.keys is None and given and isinstance(out, Tensor):
        return [replace(tag, ids=_spread(trail, tag.ids, args[0].shape, out, func, rest, more))]
    if name in REPEATS and isinstance(out, Tensor) and out.shape[1:2] != args[0].shape[1:2]:
        tag = of_features(trail, tag, out.ndim, 1)
    moved = [func(i, *rest, **more) for i in ([tag.ids] if tag.keys is None else [tag.ids, tag.keys.ids])]
    columns = [[m] if isinstance(m, Tensor) else list(m) for m in moved]
    if tag.keys is None:
        tags = [tag.at(i) for i in columns[0]]
        return [told_apart(trail, t, args[0].shape) for t in tags] if name in REPEATS else tags
    return [replace(tag, ids=i, keys=replace(tag.keys, ids=k)) for i, k in zip(*columns, strict=True)]


def _spread(
    trail: Trail, ids: Tensor, old: torch.Size, out: Tensor, func: Any, rest: Any, more: dict[str, Any]
) -> Tensor:
    """A parameter's rows given to every sample."""
    if broadcasts(old, out.shape):
        return trail.for_samples(ids, out.shape)
    moved: Tensor = func(ids, *rest, **more)
    return moved


def _patches(ids: Tensor, *rest: Any, **more: Any) -> Tensor:
    """`F.unfold`, which has the name of a tensor's own method: windows of a picture, each a column."""
    return nn.functional.unfold(ids.double(), *rest, **more).round().long()


def function(name: str, operand: Tensor, out: Any) -> Callable[..., Any]:
    """The movement of that name that made `out` of an operand, and leaves its own operand as it is."""
    if name == "unfold" and isinstance(out, Tensor) and out.ndim <= operand.ndim:
        return _patches
    if name in ("T", "mT", "H", "mH"):
        return lambda i: getattr(i, name)
    if name == "__getitem__":
        return _getitem
    if name.startswith("fft_"):
        return getattr(torch.fft, name.removeprefix("fft_"))  # type: ignore[no-any-return]
    name = name.removesuffix("_") if name in MOVEMENTS and not name.startswith("_") else name
    found = (getattr(room, name, None) for room in (Tensor, torch, torch.ops.aten))
    return next(f for f in found if f is not None)  # type: ignore[no-any-return]


def _getitem(ids: Tensor, index: Any) -> Tensor:
    """Indexing that leaves constant last axes uncopied where the index does not touch them."""
    parts = index if isinstance(index, tuple) else (index,)
    plain = all(isinstance(p, int | slice) or (isinstance(p, Tensor) and p.dtype == torch.int64) for p in parts)
    if plain and len(parts) < ids.ndim and ids.stride(-1) == 0 and ids.shape[-1] > 0:
        out = ids[..., :1][index]
        return out.expand(*out.shape[:-1], ids.shape[-1])
    return ids[index]


def on_cpu(value: Any) -> Any:
    """An operation's argument, its tensors where the ids are."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(v) for v in value)
    return value


def each(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Several tensors brought to one shape (`meshgrid`, `broadcast_tensors`), each with its own rows."""
    parts = list(args[0]) if isinstance(args[0], list | tuple) else list(args)
    tags = [trail.parameter_tag(t) for t in parts]
    moved = getattr(torch, name)(*[_ids(t, p) for t, p in zip(tags, parts, strict=True)], **kwargs)
    return [None if t is None else replace(t, ids=i, keys=None, lost=t.lost or (name if t.keys else ""))
            for t, i in zip(tags, moved, strict=True)]  # fmt: skip


def as_complex(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Pairs of one row's numbers become complex ones (rotary positions)."""
    tag = trail.tag(args[0])
    if tag is None or tag.lost or not (tag.raw or constant(tag.ids, -1)):
        return [tag and nowhere(tag, tag.lost or name, out)]
    return [tag.moved(lambda i: i[..., 0])]


def as_real(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Complex numbers become pairs."""
    tag = trail.tag(args[0])
    return [tag and tag.moved(lambda i: i[..., None].expand(out.shape))]


def forgotten(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Numbers that are nobody's take the place of what a tensor held."""
    tag = trail.tag(args[0])
    return [tag and tag.moved(torch.zeros_like)]


def join(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Segments: rows of several tensors, side by side (or features of the same rows, side by side)."""
    parts = list(args[0]) if args else list(kwargs["tensors"])
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    tags = [trail.parameter_tag(t) for t in parts]
    copied = name in CATS and of_one_tensor(parts)
    if copied and tags[0] is not None:
        tags = [of_features(trail, tags[0], out.ndim, dim)] * len(parts)
    _earlier(trail, name, parts, tags, dim, out)
    known = [t for t in tags if t is not None and not t.lost]
    gone = [t for t in tags if t is not None and t.lost]
    if gone or not known:
        return [replace(nowhere(gone[0], name, out), seen=_seen(tags)) if gone else None]
    if any(not t.raw for t in known) or len({t.source.name for t in known}) > 1:
        tags = [None if t is None else _rows(trail, t) for t in tags]
    best = min((t for t in tags if t is not None), key=lambda t: t.order)
    columns = [_ids(t, p) for t, p in zip(tags, parts, strict=True)]
    _meet(tags, columns, dim)
    side_by_side = _one_row_each(columns, name, dim)
    met = trail.joined("width" if side_by_side else "rows", tags)
    if met and name == "stack" and not side_by_side:
        trail.stacked[out] = (dim % out.ndim, met)
    if met_parts := parts_of.beside(trail, parts, tags, side_by_side):
        numbers = _joined(name, parts_of.full(met_parts, parts), dim, out)
        parts_of.put(trail, out, met_parts[0].with_(numbers))
    if name in CATS and not side_by_side and not _features(columns, dim):
        staged = trail.at_their_stages(tags)
        if staged is None:
            return [replace(nowhere(best, f"{name} of copies", out), seen=_seen(tags))]
        tags = beside_others(trail, staged)
        columns = [_ids(t, p) for t, p in zip(tags, parts, strict=True)]
        best = min((t for t in tags if t is not None), key=lambda t: t.order)
    for t in tags:
        if t is not None and t.mixed and out.ndim > 2:
            trail.mixes(f"{t.mixed} of different tokens", t)
    beside = columns
    if name in CATS and best.keys is None and _features(columns, dim):
        columns = _of_one_row(trail, tags, columns, best, dim)
    ids = _joined(name, columns, dim, out)
    keys = None
    if best.keys is not None:
        columns = [torch.zeros(p.shape, dtype=torch.int64) if t is None or t.keys is None else t.keys.ids
                   for t, p in zip(tags, parts, strict=True)]  # fmt: skip
        keys = replace(best.keys, ids=_joined(name, columns, dim, out))
    made = replace(best, ids=ids, keys=keys, seen=_seen(tags))
    made = told_apart(trail, made, parts[0].shape) if copied else made
    if any(a is not b for a, b in zip(columns, beside, strict=True)):
        widths.begins(trail, parts, tags, beside, out, dim, made)
    return [made]


def _earlier(trail: Trail, name: str, parts: Sequence[Tensor], tags: Tags, dim: int, out: Tensor) -> None:
    """Earlier states that stand beside later ones of the same rows (rereads.py)."""
    lengths = [(x.shape[dim] if x.ndim == out.ndim else 0) if name in CATS else 1 for x in parts]
    places = [(dim, sum(lengths[:i]), n) for i, n in enumerate(lengths)]
    if name not in CATS | {"stack"}:
        places = [(0, 0, len(out))] * len(parts)
    known = [(x, t, place) for x, t, place in zip(parts, tags, places, strict=True) if t is not None]
    earlier_states(trail, [(x, t) for x, t, _ in known], out, [place for *_, place in known])


def _seen(tags: Tags) -> int:
    """What any of several tensors has seen."""
    seen = 0
    for t in tags:
        seen |= t.seen if t is not None else 0
    return seen


def _meet(tags: Tags, ids: list[Tensor], dim: int) -> None:
    """Tokens of two inputs, side by side, are those of one sample (or one of the inputs is packed)."""
    inputs = [(t, first_along(i, dim)) for t, i in zip(tags, ids, strict=True) if t is not None and i.shape[dim]]
    inputs = [(t, i) for t, i in inputs if t.source.rank < PARAMETERS and t.keys is None]
    for (a, i), (b, j) in pairwise(inputs):
        if a.source is not b.source and i.ndim == j.ndim:
            in_one_sample(*((a, b, i, j) if a.order <= b.order else (b, a, j, i)))


def _rows(trail: Trail, tag: Tag) -> Tag:
    """Raw elements of several inputs, side by side, are told apart as the tokens that they will be."""
    if not tag.raw:
        return tag
    return trail.born(tag, tag.ids) if tag.raw and tag.source.ids else trail.settled(tag)


def _one_row_each(ids: list[Tensor], name: str, dim: int) -> bool:
    """Whether parts hold the same rows, side by side along their width (heads), and not other rows (chunks)."""
    ids = [i for i in ids if i.numel()]
    if name != "stack":
        if not all(constant(i, dim % i.ndim) for i in ids):
            return False
        ids = [first_along(i, dim % i.ndim) for i in ids]
    return all(_equal(f, ids[0]) for f in ids[1:])


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether ids are the same, compared once along axes on which neither changes."""
    if a.shape != b.shape:
        return False
    for dim in range(a.ndim):
        if a.stride(dim) == b.stride(dim) == 0 and a.shape[dim] > 1:
            a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
    return torch.equal(a, b)


def _features(ids: list[Tensor], dim: int) -> bool:
    """Whether an axis is the features': each part is one row's along it, and there is another axis for the tokens."""
    along = dim % ids[0].ndim
    if not all(constant(i, along) for i in ids) or max(i.shape[along] for i in ids) == 1:
        return False
    return along == ids[0].ndim - 1 or any(not constant(i, -1) for i in ids)


def _of_one_row(trail: Trail, tags: Tags, ids: list[Tensor], best: Tag, dim: int) -> list[Tensor]:
    """Content and position side by side are the content's row, as if they were added.

    Rows of one stream stay apart (Swin's merging), and so do rows of two inputs that have been through attention: a
    contraction makes new rows of them.
    """
    own = next(i for t, i in zip(tags, ids, strict=True) if t is not None and t.source is best.source)
    row = first_along(own, dim)
    out = []
    for t, i in zip(tags, ids, strict=True):
        apart = t is not None and (t.source is best.source or (t.source.rank < PARAMETERS and trail.attended(t)))
        out.append(i if apart or i.ndim != row.ndim else row.expand(i.shape))
    return out


def _ids(tag: Tag | None, tensor: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.int64).expand(tensor.shape) if tag is None else tag.ids


def _joined(name: str, ids: list[Tensor], dim: int, out: Tensor) -> Tensor:
    if name not in CATS:
        joined: Tensor = getattr(torch, name)(ids, **({"dim": dim} if name == "stack" else {}))
        return joined
    ids = [i for i in ids if i.numel() or i.ndim == out.ndim]
    along = dim % out.ndim
    ids = [i for i in ids if i.shape[along]] or ids
    if all(i.stride(along) == 0 or i.shape[along] == 1 for i in ids):
        heads = [first_along(i, along) for i in ids]
        if all(torch.equal(h, heads[0]) for h in heads[1:]):
            return heads[0].expand(out.shape)
    if along != out.ndim - 1 and all(i.stride(-1) == 0 for i in ids) and out.shape[-1] > 0:
        return torch.cat([i[..., :1] for i in ids], along).expand(out.shape)
    return torch.cat(ids, along)


def pad(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Padding is nobody's; where it repeats rows, it is theirs."""
    tag = trail.tag(args[0])
    named = dict(zip(("input", "pad", "mode"), args, strict=False)) | kwargs
    widths, mode = list(named["pad"]), named.get("mode", "constant")
    if mode == "constant":
        return [tag and tag.moved(lambda i: nn.functional.pad(i, widths))]
    return [tag and tag.moved(lambda i: nn.functional.pad(i.double(), widths, mode).round().long())]


def select(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """`torch.where`: each element from one of two; a constant counts as the other."""
    operands = list(args) + list(kwargs.values())
    if len(operands) < 3:
        return [None] * len(out)
    condition, a, b = operands[:3]
    ta, tb = (trail.parameter_tag(x) if isinstance(x, Tensor) and x.ndim else None for x in (a, b))
    if ta is None or tb is None or ta.keys is not None or tb.keys is not None:
        return element_wise(trail, name, args, kwargs, out)
    if (ta.lost or tb.lost) and out.is_floating_point():
        return [nowhere(*((ta, ta.lost, out, tb) if ta.lost else (tb, tb.lost, out, ta)))]
    chosen = ta.raw == tb.raw and (not ta.raw or (ta.source is tb.source and out.is_floating_point()))
    same = torch.equal(ta.ids.expand(out.shape), tb.ids.expand(out.shape))
    if not chosen or (same and (ta.seen == tb.seen or condition.shape[-1] > 1)):
        return element_wise(trail, name, args, kwargs, out)
    staged = trail.at_their_stages([ta, tb])
    if staged is None or staged[0] is None or staged[1] is None:
        return [replace(nowhere(ta, f"{name} of copies", out), seen=ta.seen | tb.seen)]
    ta, tb = staged[0], staged[1]
    ids = torch.where(condition.cpu(), trail.for_samples(ta.ids, out.shape), trail.for_samples(tb.ids, out.shape))
    return [replace(min(ta, tb, key=lambda t: t.order), ids=ids, seen=ta.seen | tb.seen)]


def resized(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """A picture read at another size: each pixel is the first one that it was made of; what is blended in is mixing."""
    tag = trail.tag(args[0])
    if tag is None or not tag.raw or tag.source.ids or out.ndim < 3:
        return mixing(trail, name, args, kwargs, out)
    ids = tag.ids
    for axis in range(2, out.ndim):
        n, m = ids.shape[axis], out.shape[axis]
        ids = ids.index_select(axis, torch.arange(m) * n // m) if n != m else ids
    if ids is not tag.ids:
        trail.mixes(name, tag)
    return [replace(tag, ids=ids)]


def copied(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """`x.copy_(y)`: x holds y's rows; those of a constant are nobody's."""
    tag, old = trail.parameter_tag(args[1]), trail.tag(args[0])
    if tag is None:
        return [old and old.moved(torch.zeros_like)]
    return [tag.moved(lambda i: trail.for_samples(i, out.shape))]
