"""Scores and weighed values that are written by broadcasting: (q[:, :, None] * k[:, None]).sum(-1), (a[..., None] * v).sum(2).

Where rows and columns both have an axis of their own, a product of each with each shows by itself (elementwise.py). A single
query, or a single key, looks like a factor that all rows have in common; that it was one of a pair shows when the sum over its
features comes to a softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from regard.recording.tokens.elementwise import Tags, element_wise, reduction, tensors_in
from regard.recording.tokens.tags import PARAMETERS, STRIDE, Mixing, Tag, constant, thin
from regard.recording.tokens.tracker import Trail

MULTIPLIES = ("mul", "multiply", "__mul__", "__rmul__")


class Met(NamedTuple):
    """Rows of two tensors, multiplied each with each, in the axes of what that gave; and what the receipt was told of it.

    scores: their features have been summed over.
    """

    a: Tag
    b: Tag
    told: tuple[Mixing, ...] = ()
    scores: bool = False


def multiplied(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Element by element; weights that meet rows, and rows that meet a single other one, are kept in mind."""
    before, spread = len(trail.mixings), len(trail.spreads)
    tags = element_wise(trail, name, args, kwargs, out)
    operands = [(t, tag) for t in tensors_in(args) if t.ndim and (tag := trail.tag(t)) is not None]
    if len(operands) != 2 or not isinstance(out, Tensor) or not out.is_floating_point():
        return tags
    (a, ta), (b, tb) = operands
    told = (*trail.mixings[before:], *trail.spreads[spread:])
    if (ta.keys is None) != (tb.keys is None):
        trail.weighed[out] = (a, b) if tb.keys is None else (b, a)
        trail.told[out] = told
    elif tags[0] is not None and tags[0].keys is None and _are_rows(ta, tb) and out.ndim > 2:
        rows, columns = (_expanded(t.ids, out.shape) for t in (ta, tb))
        if _each_with_each(rows, columns, out.shape):
            trail.met[out] = Met(replace(ta, ids=rows), replace(tb, ids=columns), told)
    return tags


def summed(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """A sum; of rows that met, over their features, it is scores, should a softmax be taken of it."""
    tags = reduction(trail, name, args, kwargs, out)
    met, dim = trail.met.get(args[0]), kwargs.get("dim", args[1] if len(args) > 1 else None)
    dim = dim[0] if isinstance(dim, list | tuple) and len(dim) == 1 else dim
    if met is None or not isinstance(dim, int):
        return tags
    if all(constant(t.ids, dim) for t in (met.a, met.b)):
        a, b = (t.moved(lambda i: i.narrow(dim, 0, 1).reshape(out.shape)) for t in (met.a, met.b))
        trail.met[out] = Met(a, b, met.told, scores=True)
    return tags


def compared(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """`cosine_similarity` and `pairwise_distance`, which sum over the features of what two tensors' rows make together."""
    named = dict(zip(("x1", "x2", "dim"), args[:3] if name == "cosine_similarity" else args[:2], strict=False)) | kwargs
    dim = named.get("dim", 1) if name == "cosine_similarity" else -1
    together = named["x1"] * named["x2"]
    trail.put(together, multiplied(trail, name, (named["x1"], named["x2"]), {}, together)[0])
    return summed(trail, "sum", (together, dim), {"keepdim": named.get("keepdim", False)}, out)


def still_met(trail: Trail, operands: Sequence[Tensor], out: Any) -> None:
    """Scores that are scaled or masked are scores still."""
    found = [m for t in operands if (m := trail.met.get(t)) is not None and t.shape == out.shape]
    if len(found) == 1 and out not in trail.met and not any(out is t for t in operands):
        trail.met[out] = found[0]


def as_scores(trail: Trail, scores: Tensor, tag: Tag, dim: int | None = None) -> Tag:
    """The tag of scores whose rows met by broadcasting, rows and columns: the columns are along `dim`, where that is known."""
    met: Met | None = trail.met.get(scores)
    if met is None or not met.scores or tag.keys is not None or tag.lost:
        return tag
    trail.retract(met.told)
    rows, columns = met.a, met.b
    if dim is not None and _off(rows.ids, dim) < _off(columns.ids, dim):
        rows, columns = columns, rows
    return replace(rows, keys=replace(columns, keys=None))


def exponential(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """exp(scores), of which a softmax by hand is made."""
    (tag,) = element_wise(trail, name, args, kwargs, out)
    if tag is None or tag.keys is not None or (made := as_scores(trail, args[0], tag)) is tag:
        return [tag]
    return [replace(made, made="exp")]


def _are_rows(a: Tag, b: Tag) -> bool:
    """Whether two tags name rows, one of them an input's (learned keys are rows of a parameter)."""
    learned = all(t.source.rank >= PARAMETERS for t in (a, b))
    return not learned and not any(t.lost or t.raw or t.keys is not None for t in (a, b))


def _expanded(ids: Tensor, shape: Sequence[int]) -> Tensor:
    return ids.reshape((1,) * (len(shape) - ids.ndim) + tuple(ids.shape)).expand(tuple(shape))


def _each_with_each(a: Tensor, b: Tensor, shape: Sequence[int]) -> bool:
    """Whether no axis has other rows on both sides, and the rows are two tokens; or there is one row and one column.

    Along the samples' axis both have other rows where each sample has an order of its own.
    """
    axes = [d for d in range(len(shape) - 1) if not (_samples_change(a, d) and _samples_change(b, d))]
    changes = [[_changes(ids, d) for d in axes] for ids in (a, b)]
    if any(x and y for x, y in zip(*changes, strict=True)):
        return False
    if any(map(any, changes)):
        return True
    return sum(n == 1 for n in shape[:-1]) > 1


def _changes(ids: Tensor, dim: int) -> bool:
    return not constant(thin(ids, but=dim) % STRIDE, dim)


def _samples_change(ids: Tensor, dim: int) -> bool:
    return not constant(thin(ids, but=dim) // STRIDE, dim)


def _off(ids: Tensor, dim: int) -> int:
    """Along how many axes but one other rows stand."""
    return sum(_changes(ids, d) for d in range(ids.ndim) if d != dim % ids.ndim)


__all__ = ["MULTIPLIES", "as_scores", "compared", "exponential", "multiplied", "still_met", "summed"]
