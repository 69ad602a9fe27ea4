"""How tags go through tensor operations: movements, contractions, and everything that works element by element.

`follow` is called after each operation of a recorded run. An operation that is in none of the tables below and does not
keep the shape ends the trail; the name of the operation stays on the tag, so that an error can say where it was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from regard.recording.tokens import Tag, Trail, constant, first_along, lost, reshaped

RESHAPES = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "_unsafe_view"}
EXPANSIONS = {"expand", "expand_as", "repeat", "tile", "broadcast_to", "repeat_interleave"}
MOVEMENTS = EXPANSIONS | {
    *("permute", "transpose", "t", "T", "mT", "H", "mH", "movedim", "moveaxis", "swapaxes", "swapdims", "__getitem__"),
    *(
        "select",
        "narrow",
        "index_select",
        "gather",
        "take_along_dim",
        "roll",
        "flip",
        "split",
        "chunk",
        "unbind",
        "unfold",
    ),
    *("tensor_split", "split_with_sizes", "masked_select", "diagonal", "as_strided"),
}
JOINS = {"cat", "concat", "concatenate", "stack", "hstack", "vstack"}
PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "einsum", "addmm", "baddbmm"}
CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
POOLS = {
    "avg_pool1d": 1,
    "avg_pool2d": 2,
    "max_pool1d": 1,
    "max_pool2d": 2,
    "_max_pool2d": 2,
    "max_pool2d_with_indices": 2,
}
MIXERS = ("fft", "lstm", "gru", "sort", "interpolate", "upsample", "adaptive", "cumsum", "cumprod", "conv_transpose")
FRESH = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones"}
FRESH |= {"new_empty", "new_full", "new_tensor", "argmax", "argmin", "nonzero", "size", "item", "tolist"}
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


def name_of(func: Callable[..., Any]) -> str:
    """An operation's bare name; a property's own name for its getter."""
    name: str = getattr(func, "__name__", "?")
    if name == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", "?"))
    return name


def tensors_in(args: Any) -> list[Tensor]:
    """Tensors among arguments, one level of lists included."""
    found = []
    for a in args:
        if isinstance(a, Tensor):
            found.append(a)
        elif isinstance(a, list | tuple):
            found += [x for x in a if isinstance(x, Tensor)]
    return found


def follow(trail: Trail, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Tag an operation's results."""
    if not isinstance(out, Tensor | list | tuple):
        return
    name = name_of(func)
    operands = tensors_in(args) + tensors_in(kwargs.values())
    if not any(isinstance(t, nn.Parameter) or trail.tag(t) is not None for t in operands):
        return
    if name in FRESH:
        return
    rule: Callable[..., Tags] = RULES.get(name, element_wise)
    if any(m in name for m in MIXERS):
        rule = mixing
    try:
        tags = rule(trail, name, args, kwargs, out)
    except (RuntimeError, IndexError, ValueError, TypeError, KeyError, AttributeError):
        tags = mixing(trail, name, args, kwargs, out)  # not known in this form: the trail ends, the run goes on
    outs = [out] if isinstance(out, Tensor) else list(out)
    before = trail.tag(out) if isinstance(out, Tensor) else None
    for t, tag in zip(outs, tags, strict=False):
        trail.put(t, tag)
    if isinstance(out, Tensor) and name.endswith("_") and args and out is args[0] and before is not trail.tag(out):
        write_through(trail, out)


Tags = Sequence[Tag | None]


def element_wise(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """The tag of the operand that fills the result; inputs win over parameters, seen calls are united."""
    if not isinstance(out, Tensor):
        return mixing(trail, name, args, kwargs, out)
    operands = [t for t in tensors_in(args) + tensors_in(kwargs.values()) if t.ndim]
    tags = [(t, tag) for t in operands if (tag := trail.tag(t)) is not None]
    tags = [(t, tag) for t, tag in tags if tag.source.rank < PARAMETERS and t.shape == out.shape] or tags
    if all(tag.source.rank >= PARAMETERS for _, tag in tags):
        tags = [(t, tag) for t in operands if (tag := trail.parameter_tag(t)) is not None]
    fits = [(t, tag) for t, tag in tags if _broadcasts(t.shape, out.shape)]
    if not fits:
        strong = [tag for _, tag in tags if tag.source.rank < PARAMETERS and out.is_floating_point()]
        return [_nowhere(min(strong, key=lambda t: t.order), name, out)] if strong else [None]
    found = [tag for _, tag in fits]
    if any(not t.raw for t in found) and any(t.raw for t in found) and out.is_floating_point():
        fits = [(t, trail.settled(tag)) for t, tag in fits]
    _, best = min(fits, key=lambda p: (bool(p[1].lost), p[1].keys is None, p[0].shape != out.shape, *p[1].order))
    same = [t for _, t in fits if t.source is best.source and not (t.lost or t.raw or t.keys)]
    full = [t.ids[..., 0] for t in same if t.ids.shape == out.shape and out.ndim >= 3]
    if any(not torch.equal(full[0], ids) for ids in full[1:]):
        return [_nowhere(best, f"{name} of different tokens", out)]
    seen = 0
    for tag in found:
        seen |= tag.seen
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


def mixing(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Rows are mixed in a way that is not followed."""
    tags = [t for x in tensors_in(args) if (t := trail.tag(x)) is not None]
    if name in ("cumsum", "cumprod", "sort") and isinstance(out, Tensor) and not out.is_floating_point():
        return element_wise(trail, name, args, kwargs, out)
    outs = [out] if isinstance(out, Tensor) else list(out)
    if not tags:
        return [None] * len(outs)
    return [_nowhere(tags[0], name, o) if isinstance(o, Tensor) else None for o in outs]


def _nowhere(tag: Tag, name: str, out: Tensor) -> Tag:
    return lost(replace(tag, ids=torch.zeros((), dtype=torch.int64).expand(out.shape), raw=False), name)


def _broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))


# -- movements --------------------------------------------------------------------------------------------------------


def reshape(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """The same elements in another shape."""
    tag = trail.parameter_tag(args[0])
    if tag is None:
        return [None]
    if out.numel() != tag.ids.numel():
        return [_nowhere(tag, name, out)]
    return [tag.moved(lambda i: reshaped(i, out.shape))]


def movement(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """The same movement of the ids, by the very same function."""
    tag = trail.parameter_tag(args[0])
    outs = [out] if isinstance(out, Tensor) else list(out)
    if tag is None:
        return [None] * len(outs)
    rest, more = _on_cpu(args[1:]), {k: _on_cpu(v) for k, v in kwargs.items()}
    func = _function(name)
    if name in EXPANSIONS and tag.keys is None and tag.source.rank >= PARAMETERS and isinstance(out, Tensor):
        return [replace(tag, ids=_spread(trail, tag.ids, args[0].shape, out, func, rest, more))]
    moved = [func(i, *rest, **more) for i in ([tag.ids] if tag.keys is None else [tag.ids, tag.keys.ids])]
    columns = [[m] if isinstance(m, Tensor) else list(m) for m in moved]
    if tag.keys is None:
        return [replace(tag, ids=i) for i in columns[0]]
    return [replace(tag, ids=i, keys=replace(tag.keys, ids=k)) for i, k in zip(*columns, strict=True)]


def _spread(
    trail: Trail, ids: Tensor, old: torch.Size, out: Tensor, func: Any, rest: Any, more: dict[str, Any]
) -> Tensor:
    """A parameter's rows given to every sample."""
    if _broadcasts(old, out.shape):
        return trail.for_samples(ids, out.shape)
    moved: Tensor = func(ids, *rest, **more)
    return moved


def _function(name: str) -> Callable[..., Any]:
    if name in ("T", "mT", "H", "mH"):
        return lambda i: getattr(i, name)
    if name == "__getitem__":
        return _getitem
    return getattr(Tensor, name, None) or getattr(torch, name)  # type: ignore[no-any-return]


def _getitem(ids: Tensor, index: Any) -> Tensor:
    """Indexing that leaves constant last axes uncopied where the index does not touch them."""
    parts = index if isinstance(index, tuple) else (index,)
    plain = all(isinstance(p, int | slice) or (isinstance(p, Tensor) and p.dtype == torch.int64) for p in parts)
    if plain and len(parts) < ids.ndim and ids.stride(-1) == 0 and ids.shape[-1] > 0:
        out = ids[..., :1][index]
        return out.expand(*out.shape[:-1], ids.shape[-1])
    return ids[index]


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(v) for v in value)
    return value


def join(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Segments: rows of several tensors, side by side (or features of the same rows, side by side)."""
    parts = list(args[0]) if args else list(kwargs["tensors"])
    tags = [trail.parameter_tag(t) for t in parts]
    known = [t for t in tags if t is not None and not t.lost]
    gone = [t for t in tags if t is not None and t.lost]
    if gone or not known:
        return [_nowhere(gone[0], name, out) if gone else None]
    if any(not t.raw for t in known):
        tags = [None if t is None else trail.settled(t) for t in tags]
    best = min((t for t in tags if t is not None), key=lambda t: t.order)
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    ids = _joined(name, [_ids(t, p) for t, p in zip(tags, parts, strict=True)], dim, out)
    keys = None
    if best.keys is not None:
        columns = [torch.zeros(p.shape, dtype=torch.int64) if t is None or t.keys is None else t.keys.ids
                   for t, p in zip(tags, parts, strict=True)]  # fmt: skip
        keys = replace(best.keys, ids=_joined(name, columns, dim, out))
    seen = 0
    for t in tags:
        seen |= t.seen if t is not None else 0
    return [replace(best, ids=ids, keys=keys, seen=seen)]


def _ids(tag: Tag | None, tensor: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.int64).expand(tensor.shape) if tag is None else tag.ids


def _joined(name: str, ids: list[Tensor], dim: int, out: Tensor) -> Tensor:
    if name not in ("cat", "concat", "concatenate"):
        joined: Tensor = getattr(torch, name)(ids, **({"dim": dim} if name == "stack" else {}))
        return joined
    ids = [i for i in ids if i.numel() or i.ndim == out.ndim]
    along = dim % out.ndim
    if all(i.stride(along) == 0 or i.shape[along] == 1 for i in ids):
        heads = [first_along(i, along) for i in ids]
        if all(torch.equal(h, heads[0]) for h in heads[1:]):
            return heads[0].expand(out.shape)
    if along != out.ndim - 1 and all(i.stride(-1) == 0 for i in ids) and out.shape[-1] > 0:
        return torch.cat([i[..., :1] for i in ids], along).expand(out.shape)
    return torch.cat(ids, along)


def pad(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Padding is nobody's."""
    tag = trail.tag(args[0])
    widths = args[1] if len(args) > 1 else kwargs["pad"]
    return [None if tag is None else tag.moved(lambda i: nn.functional.pad(i, list(widths)))]


def select(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """`torch.where`: each element from one of two; a constant counts as the other."""
    operands = list(args) + list(kwargs.values())
    if len(operands) < 3:
        return [None] * len(out)
    condition, a, b = operands[:3]
    ta, tb = (trail.tag(x) for x in (a, b))
    if ta is None or tb is None or ta.keys is not None or tb.keys is not None or ta.lost or tb.lost:
        return element_wise(trail, name, args, kwargs, out)
    if torch.equal(ta.ids.expand(out.shape), tb.ids.expand(out.shape)) or ta.raw or tb.raw:
        return element_wise(trail, name, args, kwargs, out)
    ids = torch.where(condition.cpu(), ta.ids, tb.ids)
    return [replace(min(ta, tb, key=lambda t: t.order), ids=ids, seen=ta.seen | tb.seen)]


def scatter(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Rows written into another tensor at given places."""
    into, *rest = args
    places = [_on_cpu(x) for x in rest] + [_on_cpu(v) for v in kwargs.values() if isinstance(v, Tensor)]
    source = next((x for x in reversed(rest) if isinstance(x, Tensor) and trail.tag(x) is not None), None)
    base, value = trail.tag(into), trail.tag(source)
    if value is None or source is None:
        return [base]
    ids = (torch.zeros(into.shape, dtype=torch.int64) if base is None else base.ids).clone(
        memory_format=torch.contiguous_format
    )
    moved = value.ids.expand(source.shape)
    if name == "__setitem__":
        ids[places[0]] = moved
    elif name.startswith("masked_scatter"):
        ids = ids.masked_scatter(places[0], moved)
    elif name.startswith(("index_add", "index_copy")):
        ids = ids.index_copy(places[0], places[1], moved)
    elif name.startswith("index_put"):
        ids = ids.index_put(places[0], moved)
    else:
        ids = ids.scatter(places[0], places[1], moved)
    best = value if base is None else min(base, value, key=lambda t: t.order)
    return [replace(best, ids=ids, seen=value.seen | (0 if base is None else base.seen))]


def copied(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """`x.copy_(y)`: x holds y's rows."""
    tag = trail.tag(args[1])
    return [None if tag is None else tag.moved(lambda i: i.expand(out.shape))]


def write_through(trail: Trail, view: Tensor) -> None:
    """A write into a view is a write into the tensor that it is a view of."""
    base = view._base
    tag = trail.tag(view)
    if base is None or tag is None or tag.keys is not None or isinstance(base, nn.Parameter):
        return
    old = trail.tag(base)
    if tag.lost or not base.is_contiguous():
        trail.put(base, _nowhere(tag, tag.lost or "a write into a view", base))
        return
    ids = (
        torch.zeros(base.shape, dtype=torch.int64)
        if old is None
        else old.ids.clone(memory_format=torch.contiguous_format)
    )
    ids.as_strided(view.shape, view.stride(), view.storage_offset() - base.storage_offset()).copy_(tag.ids)
    best = tag if old is None else min(old, tag, key=lambda t: t.order)
    trail.put(base, replace(best, ids=ids, seen=tag.seen | (0 if old is None else old.seen)))


def set_item(trail: Trail, args: Sequence[Any]) -> None:
    """`x[index] = value`, which returns nothing, and changes x."""
    try:
        (tag,) = scatter(trail, "__setitem__", args, {}, None)
    except (RuntimeError, IndexError, ValueError, TypeError):
        (tag,) = mixing(trail, "__setitem__", args, {}, args[0])
    trail.put(args[0], tag)
    write_through(trail, args[0])


# -- contractions -----------------------------------------------------------------------------------------------------


def embedding(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Token ids become tokens; rows picked from a table by no input's ids are the table's rows."""
    index = args[0] if args else kwargs["input"]
    weight = args[1] if len(args) > 1 else kwargs["weight"]
    tag = trail.tag(index)
    if tag is None:
        table = trail.parameter_tag(weight)
        return [None if table is None else table.moved(lambda i: i[index.cpu()])]
    tag = trail.born(tag, tag.ids) if tag.raw else tag
    return [tag.moved(lambda i: i[..., None].expand(out.shape))]


def linear(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """The last axis is contracted with weights."""
    tag = trail.parameter_tag(args[0] if args else kwargs["input"])
    if tag is None or tag.lost:
        return [tag if tag is None else _nowhere(tag, tag.lost, out)]
    return [trail.contracted(tag, -1, name).moved(lambda i: i.expand(out.shape))]


def convolution(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """A window slides over the last axes: stride 1 keeps each row, a larger stride makes new ones.

    Our reading: what a stride-1 window mixes in from a row's neighbours is not followed.
    """
    if name in CONVOLUTIONS:
        axes, tag = CONVOLUTIONS[name], trail.tag(args[0])
        named = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation"), args, strict=False)) | kwargs
        kernel: Any = named["weight"].shape[-axes:]
    else:
        axes, tag = POOLS[name], trail.tag(args[0])
        named = dict(zip(("input", "kernel_size", "stride", "padding"), args, strict=False)) | kwargs
        kernel = _tuple(named["kernel_size"], axes)
        named["stride"] = named.get("stride") or kernel
    if tag is None or tag.lost or tag.keys is not None or not isinstance(out, Tensor):
        return [None if tag is None else _nowhere(tag, tag.lost or name, out)]
    stride, dilation = (_tuple(named.get(k, 1), axes) for k in ("stride", "dilation"))
    padding = named.get("padding", 0)
    before = (
        tuple((k - 1) * d // 2 if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True))
        if isinstance(padding, str)
        else _tuple(padding, axes)
    )
    ids = first_along(tag.ids, -axes - 1)
    if not tag.raw and not constant(tag.ids, -axes - 1):
        return [_nowhere(tag, name, out)]
    centres, cells = ids, ids[..., None]
    for a in range(axes):
        dim, n, m = a - axes, tag.ids.shape[a - axes], out.shape[a - axes]
        start = torch.arange(m) * stride[a] - before[a]
        middle = before[a] if stride[a] == 1 and before[a] else (kernel[a] - 1) * dilation[a] // 2
        centre = (start + middle).clamp(0, n - 1)
        centres = centres.index_select(dim, centre)
        taps = ((torch.arange(m) * stride[a])[:, None] + torch.arange(stride[a])).clamp(0, n - 1)
        cells = (
            cells.index_select(dim - 1, taps.flatten()).unflatten(dim - 1, taps.shape).movedim(dim - 1, -1).flatten(-2)
        )
    if tag.raw or (max(stride) > 1 and not trail.attended(tag)):
        tag = trail.born(tag, centres, cells)
    elif max(stride) > 1:
        tag = trail.merged(tag, cells).moved(lambda i: i[..., 0])
    else:
        tag = replace(tag, ids=centres)
    return [tag.moved(lambda i: i.expand(out.shape))]


def _tuple(value: Any, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value) * (axes if len(value) == 1 else 1)


@dataclass(frozen=True)
class Product:
    """A product of two tensors, its axes named by letters as in einsum."""

    a: Tensor
    b: Tensor
    la: str
    lb: str
    lo: str

    def swapped(self) -> Product:
        """The same product with the operands exchanged."""
        return Product(self.b, self.a, self.lb, self.la, self.lo)

    @property
    def summed(self) -> str:
        """Letters that are summed over."""
        return "".join(c for c in self.la if c in self.lb and c not in self.lo)


def read_product(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Product | None:
    """The letters of a matrix product or einsum of two tensors; None for anything else."""
    if name == "einsum":
        return _read_einsum(args)
    operands = [x for x in [*args, *kwargs.values()] if isinstance(x, Tensor)]
    if name in ("addmm", "baddbmm"):
        operands = operands[1:]
    if name == "__rmatmul__":
        operands = operands[::-1]
    if len(operands) != 2 or min(t.ndim for t in operands) < 2:
        return None
    a, b = operands
    batch = "ABCDEFGH"[: max(a.ndim, b.ndim) - 2]
    return Product(a, b, batch[len(batch) - a.ndim + 2 :] + "nk", batch[len(batch) - b.ndim + 2 :] + "km", batch + "nm")


def _read_einsum(args: Sequence[Any]) -> Product | None:
    if len(args) == 2 and isinstance(args[1], list | tuple):
        args = (args[0], *args[1])
    if len(args) != 3 or not isinstance(args[0], str) or "..." in args[0]:
        return None
    left, _, lo = args[0].replace(" ", "").partition("->")
    la, lb = left.split(",")
    lo = lo or "".join(sorted(c for c in set(la + lb) if (la + lb).count(c) == 1))
    return Product(args[1], args[2], la, lb, lo)


def product(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Weights applied to rows, or queries times keys (a tag with columns)."""
    p = read_product(name, args, kwargs)
    if p is None:
        return mixing(trail, name, args, kwargs, out)
    ta, tb = trail.tag(p.a), trail.tag(p.b)
    ta, tb = (None if t is not None and _is_weight(t, x) else t for t, x in ((ta, p.a), (tb, p.b)))
    if ta is None and tb is None:
        return [None]
    if tb is None or ta is None:
        return [_weighted(trail, name, p if tb is None else p.swapped(), ta or tb, out)]
    if ta.lost or tb.lost or ta.keys is not None or tb.keys is not None:
        return [_nowhere(ta, ta.lost or tb.lost or name, out)]
    ta, tb = trail.settled(ta), trail.settled(tb)
    flat = all(constant(t.ids, letters.index(c)) for t, letters in ((ta, p.la), (tb, p.lb)) for c in p.summed)
    if not flat or not p.summed:
        return [_nowhere(ta, name, out)]
    rows, columns = (_placed(t.ids, la, p.lo, out.shape) for t, la in ((ta, p.la), (tb, p.lb)))
    return [replace(ta, ids=rows, keys=replace(tb, ids=columns))]


def _is_weight(tag: Tag, tensor: Tensor) -> bool:
    """A parameter that has only been moved about, not given to samples: a weight matrix (or one for each expert)."""
    return tag.source.rank >= PARAMETERS and tensor.ndim <= 2 and not tag.seen


def _weighted(trail: Trail, name: str, p: Product, tag: Tag | None, out: Tensor) -> Tag | None:
    if tag is None:
        return None
    if tag.lost:
        return _nowhere(tag, tag.lost, out)
    for c in p.la:
        if c not in p.lo:
            tag = trail.contracted(tag, p.la.index(c), name)
    return tag.moved(lambda i: _placed(i, p.la, p.lo, out.shape))


def _placed(ids: Tensor, letters: str, to: str, shape: Sequence[int]) -> Tensor:
    """Ids with axes `letters` in the order of `to`, expanded to `shape`; letters not in `to` have become constant."""
    gone = [i for i, c in enumerate(letters) if c not in to]
    for i in gone:
        ids = first_along(ids, i)
    kept = [c for c in to if c in letters]
    ids = (
        ids.permute(*[letters.index(c) for c in kept], *gone).flatten(len(kept))
        if gone
        else ids.permute(*[letters.index(c) for c in kept])
    )
    ids = ids[..., 0] if gone else ids
    for i, c in enumerate(to):
        if c not in letters:
            ids = ids.unsqueeze(i)
    return ids.expand(tuple(shape))


def softmax(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Scores become probabilities; the axis that sums to one is the keys'."""
    tag = trail.tag(args[0])
    if tag is not None and tag.lost and out.ndim >= 3:
        return [replace(_nowhere(tag, tag.lost, out), probs=True)]
    if tag is None or tag.keys is None:
        return element_wise(trail, name, args, kwargs, out)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    if constant(tag.keys.ids, dim) and not constant(tag.ids, dim):
        tag = replace(tag.keys, keys=replace(tag, keys=None))
    return [replace(tag, probs=True)]


RULES: dict[str, Callable[..., Tags]] = {
    **dict.fromkeys(RESHAPES, reshape),
    **dict.fromkeys(MOVEMENTS, movement),
    **dict.fromkeys(JOINS, join),
    **dict.fromkeys(PRODUCTS, product),
    **dict.fromkeys(CONVOLUTIONS, convolution),
    **dict.fromkeys(POOLS, convolution),
    **dict.fromkeys(("softmax", "_softmax"), softmax),
    **dict.fromkeys(
        ("masked_scatter", "masked_scatter_", "index_add", "index_add_", "index_copy", "index_copy_", "scatter"),
        scatter,
    ),
    **dict.fromkeys(("scatter_", "scatter_add", "scatter_add_", "index_put", "index_put_"), scatter),
    "copy_": copied,
    "pad": pad,
    "where": select,
    "embedding": embedding,
    "linear": linear,
}
