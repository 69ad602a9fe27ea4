"""Contractions: an axis is summed over. Raw elements become tokens, weights meet rows, queries meet keys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from regard.recording.tokens.broadcast import as_scores
from regard.recording.tokens.elementwise import Tags, element_wise, mixing, nowhere, rows_in
from regard.recording.tokens.meetings import meet_along
from regard.recording.tokens.memories import of_each_head
from regard.recording.tokens.tags import PARAMETERS, STRIDE, Tag, constant, first_along, thin
from regard.recording.tokens.tracker import Trail
from regard.recording.tokens.widths import as_one

PRODUCTS = {
    "matmul",
    "__matmul__",
    "__rmatmul__",
    "linalg_matmul",
    "bmm",
    "mm",
    "mv",
    "dot",
    "einsum",
    "addmm",
    "baddbmm",
}
PRODUCTS |= {"inner", "tensordot", "addmv"}
CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
POOLS = {
    "avg_pool1d": 1,
    "avg_pool2d": 2,
    "max_pool1d": 1,
    "max_pool2d": 2,
    "_max_pool2d": 2,
    "max_pool2d_with_indices": 2,
}


def embedding(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Token ids become tokens; rows picked from a table by no input's ids are the table's rows."""
    index = args[0] if args else kwargs["input"]
    weight = args[1] if len(args) > 1 else kwargs.get("weight")  # none where a kernel of its own ran (`through_linear`)
    tag = trail.tag(index)
    if tag is None:
        table = trail.parameter_tag(weight)
        return [None if table is None else table.moved(lambda i: i[index.cpu()])]
    trail.looked_up.add(tag.source.name)
    tag = trail.born(tag, tag.ids) if tag.raw else tag
    return [tag.moved(lambda i: i[..., None].expand(out.shape))]


def one_hot(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Token ids become tokens, a number for each word of the vocabulary (a linear layer then is their embedding)."""
    tag = trail.tag(args[0])
    if tag is None:
        return [None]
    trail.looked_up.add(tag.source.name)
    tag = trail.born(tag, tag.ids) if tag.raw else tag
    return [tag.moved(lambda i: i[..., None].expand(out.shape))]


def linear(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """The last axis is contracted with weights."""
    tag = trail.parameter_tag(args[0])
    if tag is None or tag.lost:
        return [tag and _lost_still(tag, out)]
    weight = args[1] if len(args) > 1 else kwargs.get("weight")  # none where a kernel of its own ran (`through_linear`)
    if name == "linear" and weight is not None and not constant(tag.ids, -1):
        batch = "ABCDEFGH"[: args[0].ndim - 1]
        return [_weighted(trail, name, Product(args[0], weight, batch + "k", "mk", batch + "m"), tag, out)]
    return [_contracted(trail, tag, -1, name, out).moved(lambda i: i.expand(out.shape))]


def _lost_still(tag: Tag, out: Tensor) -> Tag:
    """Rows that are lost stay lost; weights of pairs whose heads are mixed (talking heads) are weights still, so that the call
    that they are multiplied in is seen."""
    return replace(nowhere(tag, tag.lost, out), probs=tag.probs if out.ndim > 3 else 0)


def _contracted(trail: Trail, tag: Tag, dim: int, name: str, out: Tensor) -> Tag:
    """An axis summed over with weights; it is kept with length 1."""
    if tag.keys is not None and constant(tag.ids, dim) and of_each_head(trail, tag.keys.ids, dim):
        return tag.moved(lambda i: first_along(i, dim))
    return trail.contracted(as_one(trail, name, tag, dim, out), dim, name)


def through_linear(trail: Trail, x: Any, out: Tensor) -> None:
    """The rows of x go through a linear layer that ran in a kernel which could not be followed."""
    tag, after = trail.tag(x), trail.tag(out)
    if tag is None or tag.lost or tag.keys is not None or (after is not None and not after.lost):
        return
    if x.shape[:-1] == out.shape[:-1]:
        trail.put(out, linear(trail, "linear", (x,), {}, out)[0])


def evenly_pooled(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Pooling to a given size, in windows that are all alike; one that pools all that there is, is a head's."""
    axes = int(name[-2])
    sizes = [*zip(args[0].shape[-axes:], out.shape[-axes:], strict=True)] if isinstance(out, Tensor) else []
    if not sizes or any(n % m for n, m in sizes) or all(m == 1 for _, m in sizes):
        return mixing(trail, name, args, kwargs, out)
    kernel = tuple(n // m for n, m in sizes)
    return convolution(trail, f"avg_pool{axes}d", (args[0], kernel), {}, out)


def convolution(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """A window slides over the last axes: stride 1 keeps each row, a larger stride makes new ones.

    The row itself is where the padding ahead puts it (the last tap of a causal window), else in the window's middle.
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
    if tag is not None and tag.keys is not None and out.shape[-axes:] == args[0].shape[-axes:] and max(kernel) == 1:
        return [_contracted(trail, tag, -axes - 1, name, out).moved(lambda i: i.expand(out.shape))]  # heads that talk
    if tag is not None and tag.lost and isinstance(out, Tensor):
        return [_lost_still(tag, out)]
    if tag is None or tag.lost or tag.keys is not None or not isinstance(out, Tensor):
        return [None if tag is None else nowhere(tag, tag.lost or name, out)]
    stride, dilation = (_tuple(named.get(k, 1), axes) for k in ("stride", "dilation"))
    padding = named.get("padding", 0)
    before = (
        tuple((k - 1) * d // 2 if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True))
        if isinstance(padding, str)
        else _tuple(padding, axes)
    )
    if any(k > s for k, s in zip(kernel, stride, strict=True)):
        trail.mixes(name, tag, told=not tag.raw or _along_tokens(tag))  # raw: patches that overlap
        if tag.raw:
            trail.overlapping.setdefault(tag.source.name, axes)
    ids = first_along(tag.ids, -axes - 1)
    if not tag.raw and not constant(tag.ids, -axes - 1):
        return [nowhere(tag, name, out)]
    centres, cells = ids, ids[..., None]
    for a in range(axes):
        dim, n, m = a - axes, tag.ids.shape[a - axes], out.shape[a - axes]
        start = torch.arange(m) * stride[a] - before[a]
        ahead = before[a] + _leading_nobody(ids, dim)
        middle = ahead if stride[a] == 1 and 0 < ahead < kernel[a] * dilation[a] else (kernel[a] - 1) * dilation[a] // 2
        centre = (start + middle).clamp(0, n - 1)
        centres = centres.index_select(dim, centre)
        cells = _at(cells, dim - 1, Taps(0, m, stride[a], stride[a])).flatten(-2)
    if tag.raw:
        tag = trail.born(tag, centres, _windows(tag.ids, out.shape[-axes:], kernel, stride, before), name)
    elif max(stride) > 1 and not trail.attended(tag):
        tag = trail.born(tag, centres, cells)
    elif max(stride) > 1:
        tag = trail.merged(tag, cells).moved(lambda i: i[..., 0])
    else:
        if max(kernel) > 1:
            trail.doubt(tag, f"a convolution ({name}) mixed in neighbours, which are not followed")
        tag = replace(tag, ids=centres)
    return [tag.moved(lambda i: i.expand(out.shape))]


def _along_tokens(tag: Tag) -> bool:
    """Whether the last axis of a table (token, width), turned, is its tokens'."""
    if len(tag.source.shape) != 2 or tag.source.ids:
        return False
    return not constant(torch.where(tag.ids % STRIDE > 0, (tag.ids % STRIDE - 1) // tag.source.shape[1], 0), -1)


class Taps(NamedTuple):
    """Places on an axis: windows, each a stride after the one before, from `first` on, of `width` places side by side."""

    first: int
    windows: int
    stride: int
    width: int


def _at(cells: Tensor, dim: int, taps: Taps) -> Tensor:
    """(..., place, ...) at taps of an axis -> (..., window, ..., width); outside of it, the place at its end."""
    first, windows, stride, width = taps
    end = first + (windows - 1) * stride + width
    if first < 0 or end > cells.shape[dim]:
        cells = cells.index_select(dim, torch.arange(first, end).clamp(0, cells.shape[dim] - 1))
    else:
        cells = cells.narrow(dim, first, end - first)
    return cells.unfold(dim, width, stride)


def _windows(
    ids: Tensor, windows: Sequence[int], kernel: Sequence[int], stride: Sequence[int], before: Sequence[int]
) -> Tensor:
    """The raw elements of each window, as much of it as the next leaves: (..., 1, window..., element), all channels."""
    axes = len(windows)
    channels = ids.ndim - axes - 1
    cells = ids
    for a, m in enumerate(windows):
        first = -before[a] if kernel[a] <= stride[a] else 0 if before[a] else (kernel[a] - stride[a] + 1) // 2
        cells = _at(cells, channels + 1 + a, Taps(first, m, stride[a], min(stride[a], max(kernel[a], 1))))
    return cells.movedim(channels, -1).flatten(-axes - 1).unsqueeze(channels)


def _leading_nobody(ids: Tensor, dim: int) -> int:
    """How many places at the beginning of an axis are padding."""
    nobody = (ids.movedim(dim, -1).flatten(0, -2) == 0).all(0)
    return int(nobody.long().cumprod(0).sum())


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
    if name in ("addmm", "baddbmm", "addmv"):
        operands = operands[1:]
    if name == "__rmatmul__":
        operands = operands[::-1]
    if len(operands) != 2 or min(t.ndim for t in operands) < 1:
        return None
    a, b = operands
    if name == "tensordot":
        return _read_tensordot(a, b, kwargs.get("dims", args[2] if len(args) > 2 else 2))
    if name == "inner":
        return _read_tensordot(a, b, ((-1,), (-1,)))
    batch = "ABCDEFGH"[: max(a.ndim, b.ndim, 2) - 2]
    la = "k" if a.ndim == 1 else batch[len(batch) - a.ndim + 2 :] + "nk"
    lb = "k" if b.ndim == 1 else batch[len(batch) - b.ndim + 2 :] + "km"
    return Product(a, b, la, lb, batch + "n" * (a.ndim > 1) + "m" * (b.ndim > 1))


def _read_tensordot(a: Tensor, b: Tensor, dims: Any) -> Product | None:
    """Some axes of one tensor are summed with some of another."""
    if isinstance(dims, int):
        dims = range(a.ndim - dims, a.ndim), range(dims)
    if isinstance(dims, Tensor) or len(dims) != 2:
        return None
    ones, others = (
        [d % t.ndim for d in ([of] if isinstance(of, int) else of)] for t, of in zip((a, b), dims, strict=True)
    )
    la = list("ABCDEFGHIJ"[: a.ndim])
    lb = list("NOPQRSTUVW"[: b.ndim])
    for i, j in zip(ones, others, strict=True):
        lb[j] = la[i]
    lo = [c for c in la if c not in lb] + [c for c in lb if c not in la]
    return Product(a, b, *("".join(letters) for letters in (la, lb, lo)))


def _read_einsum(args: Sequence[Any]) -> Product | None:
    if len(args) == 2 and isinstance(args[1], list | tuple):
        args = (args[0], *args[1])
    if len(args) != 3 or not isinstance(args[0], str):
        return None
    equation = args[0].replace(" ", "")
    if "..." in equation:
        terms = equation.split("->")[0].split(",")
        batch = {t.ndim - len(l) + 3 for t, l in zip(args[1:], terms, strict=True) if "..." in l}
        if len(batch) != 1:
            return None
        equation = equation.replace("...", "ABCDEFGH"[: batch.pop()])
    left, _, lo = equation.partition("->")
    la, lb = left.split(",")
    lo = lo or "".join(sorted(c for c in set(la + lb) if (la + lb).count(c) == 1))
    return Product(args[1], args[2], la, lb, lo)


def read_single(name: str, args: Sequence[Any]) -> tuple[Tensor, str, str] | None:
    """An einsum of one tensor: the tensor, and its letters before and after; None for anything else."""
    operands = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else args[1:]
    if name != "einsum" or len(operands) != 1 or not isinstance(args[0], str) or "..." in args[0]:
        return None
    letters, _, to = args[0].replace(" ", "").partition("->")
    plain = "->" in args[0] and len({*letters}) == len(letters) == operands[0].ndim
    return (operands[0], letters, to) if plain else None


def product(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Weights applied to rows, or queries times keys (a tag with columns)."""
    p = read_product(name, args, kwargs)
    if p is None:
        return _by_weights(trail, name, args, out) or mixing(trail, name, args, kwargs, out)
    return _multiplied(trail, name, p, out)


def _by_weights(trail: Trail, name: str, args: Sequence[Any], out: Any) -> Tags:
    """An einsum of one operand with rows and several weights, which sums over features alone; [] for anything else."""
    if name != "einsum" or not isinstance(args[0], str) or "..." in args[0] or "->" not in args[0]:
        return []
    operands = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else args[1:]
    left, lo = args[0].replace(" ", "").split("->")
    tags = [trail.tag(t) for t in operands]
    rows = [
        (t, l) for t, x, l in zip(tags, operands, left.split(","), strict=True) if t is not None and not is_weight(t, x)
    ]
    if len(rows) != 1 or len({*rows[0][1]}) < len(rows[0][1]):
        return []
    tag, la = rows[0]
    gone = [la.index(c) for c in la if c not in lo]
    if tag.lost or tag.keys is not None or not (tag.raw or all(constant(tag.ids, d) for d in gone)):
        return []
    for d in gone:
        tag = _contracted(trail, tag, d, name, out)
    return [tag.moved(lambda i: _placed(i, la, lo, out.shape))]


def distances(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """`cdist`: scores of each row with each, as a product of the two has them."""
    a, b = (args[i] if len(args) > i else kwargs[f"x{i + 1}"] for i in range(2))
    batch = "ABCDEFGH"[: out.ndim - 2]
    la, lb = (batch[len(batch) - t.ndim + 2 :] + rows for t, rows in ((a, "nk"), (b, "mk")))
    return _multiplied(trail, name, Product(a, b, la, lb, batch + "nm"), out)


def _multiplied(trail: Trail, name: str, p: Product, out: Tensor) -> Tags:
    ta, tb = trail.tag(p.a), trail.tag(p.b)
    ta, tb = (None if t is not None and is_weight(t, x) else t for t, x in ((ta, p.a), (tb, p.b)))
    if ta is None and tb is None:
        return [None]
    if tb is None or ta is None:
        return [_weighted(trail, name, p if tb is None else p.swapped(), ta or tb, out)]
    if (chosen := _routed(trail, p, ta, tb, out)) is not None:
        return [chosen]
    if ta.lost or tb.lost or ta.keys is not None or tb.keys is not None:
        return [nowhere(ta, ta.lost or tb.lost or name, out, tb)]
    ta, tb = _features_summed(trail, ta, p.la, p.summed), _features_summed(trail, tb, p.lb, p.summed)
    flat = all(constant(t.ids, letters.index(c)) for t, letters in ((ta, p.la), (tb, p.lb)) for c in p.summed)
    if not flat or not p.summed:
        return [replace(nowhere(ta, name, out, tb), channels=name if _of_features(p, ta, tb) else "")]
    rows, columns = (_placed(t.ids, la, p.lo, out.shape) for t, la in ((ta, p.la), (tb, p.lb)))
    if _within_tokens(p, ta, tb, out) and torch.equal(rows, columns):
        return [replace(min(ta, tb, key=lambda t: t.order), ids=rows, seen=ta.seen | tb.seen)]
    return [replace(ta, ids=rows, keys=replace(tb, ids=columns))]


def _features_summed(trail: Trail, tag: Tag, letters: str, summed: str) -> Tag:
    """A tag whose rows are known; raw features that are summed over in a product are one token's (x xᵀ)."""
    if not tag.raw or len(summed) != 1:
        return trail.settled(tag)
    tokens = trail.born(tag, first_along(tag.ids, letters.index(summed)))
    return tokens.moved(lambda i: i.expand(tag.ids.shape))


def _of_features(p: Product, a: Tag, b: Tag) -> bool:
    """Whether both sides are summed over the same tokens, and what is left of them is features (a covariance)."""
    sides = ((a, p.la, p.lb), (b, p.lb, p.la))
    free = [t.ids.shape[l.index(c)] > 1 and constant(t.ids, l.index(c)) for t, l, other in sides for c in l
            if c in p.lo and c not in other]  # fmt: skip
    tokens = [not constant(t.ids, l.index(c)) for t, l, _ in sides for c in p.summed]
    return len(free) > 1 and all(free) and bool(tokens) and all(tokens)


def _within_tokens(p: Product, a: Tag, b: Tag, out: Tensor) -> bool:
    """Whether each token has a matrix of its own on both sides: features are mixed, these are no scores of two tokens."""
    free = [c for c in p.lo if (c in p.la) != (c in p.lb)]
    if max((out.shape[p.lo.index(c)] for c in free), default=1) == 1:
        return False
    return all(constant(t.ids, l.index(c)) for t, l in ((a, p.la), (b, p.lb)) for c in free if c in l)


def is_weight(tag: Tag, tensor: Tensor) -> bool:
    """A parameter that has only been moved about, not given to samples: a weight matrix (or one for each expert)."""
    return tag.source.rank >= PARAMETERS and tensor.ndim <= 2 and not tag.seen


def _weighted(trail: Trail, name: str, p: Product, tag: Tag | None, out: Tensor) -> Tag | None:
    """Rows of p.a after an axis was summed over with the weights p.b."""
    if tag is None:
        return None
    if tag.lost:
        return nowhere(tag, tag.lost, out)
    if (mixed := _on_tokens(trail, name, p, tag, out)) is not None:
        return mixed
    for c in p.la:
        if c not in p.lo:
            tag = _contracted(trail, tag, p.la.index(c), name, out)
    return tag.moved(lambda i: _placed(i, p.la, p.lo, out.shape))


def _on_tokens(trail: Trail, name: str, p: Product, tag: Tag, out: Tensor) -> Tag | None:
    """Rows after a matrix was applied to an axis along which they change from place to place; None for another axis.

    A matrix that has one number in each of its rows takes rows, whatever it is; a constant one joins them by its weights; a
    learned one mixes them: new rows, in equal parts, which the receipt tells of where a call reads them.
    """
    gone = [c for c in p.la if c not in p.lo]
    if tag.keys is not None or len(gone) != 1 or gone[0] not in p.lb:
        return None
    axis = p.la.index(gone[0])
    if constant(tag.ids, axis) or _of_one_number(trail, tag):
        return None
    weights = _axes_in_order(p.b.detach(), p.lb, p.lo + gone[0])
    if bool(((weights != 0).sum(-1) <= 1).all()):
        return replace(tag, ids=_rows_taken(tag.ids, p, weights, out))
    fixed = trail.tag(p.b) is None and not isinstance(p.b, nn.Parameter) and not p.b.requires_grad
    if tag.raw and fixed and p.a.ndim == 3 and axis == 1:
        tag = trail.settled(tag)
    each = (
        thin(tag.ids, but=axis).sort(axis).values.diff(dim=axis) != 0
    ).all()  # else: features of several rows, joined
    if tag.raw or not bool(each) or (tag.source.rank >= PARAMETERS and not trail.attended(tag)):
        return None
    sources, weights = _side_by_side(tag.ids, p, weights)
    if fixed:
        return trail.combined(tag, sources, weights.expand(sources.shape)).moved(lambda i: i[..., 0].expand(out.shape))
    apart = [c for c in p.lo if c in p.lb and c not in p.la]
    numbers = torch.arange(math.prod(out.shape[p.lo.index(c)] for c in apart))
    numbers = numbers.view([out.shape[p.lo.index(c)] if c in apart else 1 for c in p.lo] + [1])
    mixed = trail.combined(tag, sources, apart=numbers.expand(*sources.shape[:-1], 1), mixes=name)
    return replace(mixed.moved(lambda i: i[..., 0].expand(out.shape)), blend=name, origin=rows_in(tag.ids))


def _of_one_number(trail: Trail, tag: Tag) -> bool:
    """Whether tokens are one number each, before any attention (a grey picture's pixels): what joins them makes tokens."""
    if tag.raw or tag.source.ids or len(tag.source.shape) < 3 or trail.attended(tag):
        return False
    return not any(n > 1 and constant(tag.ids % STRIDE, d) for d, n in enumerate(tag.ids.shape[1:], start=1))


def _axes_in_order(t: Tensor, letters: str, order: str) -> Tensor:
    """Axes named by letters in another order; those that it lacks have length 1. On the ids' device."""
    t = t.permute([letters.index(c) for c in order if c in letters])
    for i, c in enumerate(order):
        if c not in letters:
            t = t.unsqueeze(i)
    return t.cpu()


def _rows_taken(ids: Tensor, p: Product, weights: Tensor, out: Tensor) -> Tensor:
    """Ids where each of the result's rows is one row of the operand, or nobody's."""
    rows, weights = _side_by_side(ids, p, weights)
    which = (weights != 0).to(torch.int8).argmax(-1, keepdim=True).expand(*rows.shape[:-1], 1)
    taken = torch.where((weights != 0).any(-1, keepdim=True), rows.gather(-1, which), 0)
    return taken[..., 0].expand(out.shape)


def _side_by_side(ids: Tensor, p: Product, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and weights, (axes of the result..., axis that is summed over); axes along which neither changes have length 1."""
    gone = next(c for c in p.la if c not in p.lo)
    few = thin(ids, but=p.la.index(gone))
    rows = _axes_in_order(few, p.la, p.lo + gone)
    shape = torch.broadcast_shapes(rows.shape, weights.shape)
    return rows.expand(shape), weights


def _routed(trail: Trail, p: Product, ta: Tag, tb: Tag, out: Tensor) -> Tag | None:
    """Rows taken by a matrix that the input made, which has one 1 in each of its rows in this run (hard routing); else None."""
    for q, rows, by in ((p, ta, tb), (p.swapped(), tb, ta)):
        gone = [c for c in q.la if c not in q.lo]
        if rows.lost or rows.keys is not None or len(gone) != 1 or gone[0] not in q.lb or by.raw:
            continue
        if constant(rows.ids, q.la.index(gone[0])):
            continue
        weights = _axes_in_order(q.b.detach(), q.lb, q.lo + gone[0]).abs()
        sharp = torch.where(weights > 1e-5, weights, 0)
        if bool(((sharp - 1).abs() < 1e-5).sum(-1).eq(1).all() and (sharp != 0).sum(-1).eq(1).all()):
            trail.doubt(rows, "rows were chosen by the input, and are followed as they were chosen in this run")
            return replace(rows, ids=_rows_taken(rows.ids, q, sharp, out), seen=rows.seen | by.seen)
    return None


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
        trail.softmaxes += 1
        return [replace(nowhere(tag, tag.lost, out), probs=trail.softmaxes, channels=tag.channels)]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    tag = tag and as_scores(trail, args[0], tag, dim)
    if tag is None or tag.keys is None:
        if tag is not None and isinstance(dim, int):
            meet_along(trail, name, tag, [dim], out)
        return element_wise(trail, name, args, kwargs, out)
    if constant(tag.keys.ids, dim) and not constant(tag.ids, dim):
        tag = replace(tag.keys, keys=replace(tag, keys=None))
    trail.softmaxes += 1
    return [replace(tag, probs=trail.softmaxes)]
