"""Attention that a model writes out itself: which products are weights times values, and whose rows and columns they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from regard.recording.tokens.contractions import Product, read_product
from regard.recording.tokens.elementwise import tensors_in
from regard.recording.tokens.tags import PARAMETERS, STRIDE, Tag, constant, thin
from regard.recording.tokens.tracker import Trail

SOFT = ("exp", "exp2")
"""What makes a softmax by hand, which is zero only where a mask makes it so."""


def attention_product(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Product | None:
    """The product weights × values, with the weights on the left, or None.

    Weights are made of scores, queries times keys, and summed over one of the two: these are the keys (a softmax may have
    been taken over the other one, as in slot attention).
    """
    p = _weighed_sum(trail, args, kwargs) if name == "sum" else read_product(name, args, kwargs)
    if p is None:
        return None
    for q in (p, p.swapped()):
        tag = trail.tag(q.a)
        if tag is not None and tag.lost and tag.probs and _is_plain(q):
            return q  # the user may say whose rows and columns these are
        if tag is None or tag.keys is None or len(q.summed) != 1:
            continue
        axis = q.la.index(q.summed)
        over_keys = q.a.shape[axis] == 1 or not all(constant(t.ids, axis) for t in (tag, tag.keys))
        width = [c for c in q.lb if c in q.lo and c not in q.la]
        if over_keys and len(width) == 1 and _has_rows(q, tag.ids):
            return q if tag.probs or _meets_values(trail, q) else None
    return None


def _has_rows(p: Product, ids: Tensor) -> bool:
    """Whether weights have an axis of rows: of their own, or one that the values have, too (v_ij)."""
    left = [c for c in p.la if c in p.lo]
    return any(c not in p.lb or _changes(ids, p.la.index(c)) for c in left)


def _weighed_sum(trail: Trail, args: Sequence[Any], kwargs: dict[str, Any]) -> Product | None:
    """A sum of weighed values, written with broadcasting, (a[..., None] * v[:, None]).sum(2), as the product that it is."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    dim = dim[0] if isinstance(dim, list | tuple) and len(dim) == 1 else dim
    weighed = trail.weighed.get(args[0]) if args and isinstance(args[0], Tensor) else None
    if weighed is None or not isinstance(dim, int) or isinstance(dim, bool) or kwargs.get("keepdim"):
        return None
    n = args[0].ndim
    letters, last = "ABCDEFGHIJ"[:n], n - 1
    long_a, long_b = ((1,) * (n - t.ndim) + tuple(t.shape) for t in weighed)
    key = dim % n
    own = [d for d in range(n) if long_a[d] > 1 or d == key or (long_b[d] == 1 and d != last)]
    values = [d for d in range(n) if long_b[d] > 1 or d == key or (long_a[d] == 1 and d == last)]
    a, b = (_kept(trail, t, n, axes) for t, axes in zip(weighed, (own, values), strict=True))
    la, lb = ("".join(letters[d] for d in axes) for axes in (own, values))
    return Product(a, b, la, lb, letters.replace(letters[key], ""))


def _kept(trail: Trail, t: Tensor, ndim: int, axes: Sequence[int]) -> Tensor:
    """A tensor, broadcast to so many axes, without those that are not named, which have length 1; with its tag."""

    def kept(x: Tensor) -> Tensor:
        x = x.reshape((1,) * (ndim - x.ndim) + tuple(x.shape))
        return x[tuple(slice(None) if d in axes else 0 for d in range(ndim))]

    out, tag = kept(t), trail.tag(t)
    trail.put(out, tag and tag.moved(kept))
    return out


def _is_plain(p: Product) -> bool:
    """Whether a product has one axis of rows, one of keys and one of features, beside those that both sides have."""
    free = [[c for c in own if c in p.lo and c not in other] for own, other in ((p.la, p.lb), (p.lb, p.la))]
    return len(p.summed) == 1 and all(len(f) == 1 for f in free)


def _meets_values(trail: Trail, p: Product) -> bool:
    """Whether scores that no softmax has seen are multiplied by rows, one for each of their keys. (Of a single key, in a
    window of one token, the weight is 1.)"""
    tag = trail.tag(p.b)
    if tag is None or tag.keys is not None:
        return False
    if p.b.shape[p.lb.index(p.summed)] == 1 and not tag.lost:
        return bool((p.a == 1).all())
    return bool(tag.lost) or not constant(tag.ids, p.lb.index(p.summed))


def unreadable(trail: Trail, p: Product | None, args: Sequence[Any]) -> str:
    """Why the weights of a product cannot be read, or are no probabilities; "" where they can, or where it has none."""
    if p is not None:
        tag = trail.tag(p.a)
        if tag is not None and tag.lost:
            return ""
        if tag is not None and tag.probs:
            return _in_parts(trail, tag, p)
        weights, axis = p.a.detach(), p.la.index(p.summed)
        if _sums_to_one(weights, axis) or (tag is not None and tag.made in SOFT and _leaves_some(weights, axis)):
            return ""
        by = f" (but from `{tag.made}`, each by itself)" if tag is not None and tag.made else ""
        return f"its weights come from no softmax{by}, and do not sum to 1"
    tags = [trail.tag(t) for t in tensors_in(args) if t.ndim >= 3]
    why = next((t.lost for t in tags if t is not None and t.lost and t.probs), "")
    return why and f"the trail of the scores is lost at `{why}`"


def sampled(trail: Trail, name: str, args: Sequence[Any]) -> str:
    """Deformable attention, which takes values from between the tokens: the reason that it cannot be read, or ""."""
    tag = trail.tag(args[0]) if name == "grid_sample" and args else None
    if tag is None or tag.raw or tag.source.rank >= PARAMETERS:
        return ""
    return "`grid_sample` reads values between the tokens"


def _in_parts(trail: Trail, tag: Tag, p: Product) -> str:
    """Where keys of one map are multiplied apart from its other keys (block-sparse attention), no part is a whole call."""
    (q_tag, k_tag, _), _ = weights_and_values(trail, p)
    assert q_tag is not None
    assert k_tag is not None
    rows, keys = thin(q_tag.ids).contiguous(), thin(k_tag.ids).contiguous()
    if tag.probs not in trail.multiplied:
        trail.multiplied[tag.probs] = rows, keys
        return ""
    earlier = trail.multiplied[tag.probs]
    apart = bool(torch.isin(rows, earlier[0]).any()) and not torch.equal(keys.unique(), earlier[1].unique())
    return "its map is multiplied by values in several parts" if apart else ""


def _sums_to_one(weights: Tensor, axis: int) -> bool:
    """Whether weights are probabilities along an axis (a softmax by hand); rows that see nothing are zero."""
    total = weights.sum(axis)
    return bool((weights >= 0).all() and ((total - 1).abs().lt(1e-3) | (total == 0)).all())


def _leaves_some(weights: Tensor, axis: int) -> bool:
    """Whether weights are a softmax's with a sink beside their keys, exp / (1 + sum): no negative one, and rows sum to 1 at the
    most."""
    return bool((weights >= 0).all() and (weights.sum(axis) < 1 + 1e-3).all())


def weights_and_values(trail: Trail, p: Product) -> tuple[list[Tag | None], dict[str, Any]]:
    """The tags of queries, keys and values; A (lead..., row, key), v, and the axes that bring O to (lead..., row, width).

    Where the values are each row's own (v_ij), the rows' axis is one of those that both operands have: each row is then by
    itself (`single`), beside the heads and samples.
    """
    key = p.summed
    tag = trail.tag(p.a)
    assert tag is not None
    sparse = not (tag.probs or tag.lost) and tag.made not in SOFT
    columns = tag.keys or tag  # a lost trail knows of no columns
    if constant(columns.ids, p.la.index(key)) and not constant(tag.ids, p.la.index(key)):
        tag, columns = columns, tag
    v_tag = trail.parameter_tag(p.b)
    row = _row_axis(p, tag.ids, v_tag is None or v_tag.source.rank >= PARAMETERS)
    (width,) = (c for c in p.lb if c in p.lo and c not in p.la)
    lead = [c for c in p.lo if c not in (row, width)]
    order = [*lead, row or "-", key]  # no axis is called "-": it gets length 1
    rows, keys = (_axes(t.ids, p.la, order) for t in (tag, columns))
    q_tag = Tag(rows[..., 0][..., None], tag.source, tag.seen, lost=tag.lost, mixed=tag.mixed, channels=tag.channels)
    k_tag = Tag(keys[..., 0, :][..., None], columns.source, columns.seen, lost=columns.lost, mixed=columns.mixed)
    if v_tag is not None:
        v_tag = trail.settled(v_tag)
        v_tag = replace(v_tag, ids=_axes(v_tag.ids, p.lb, [*lead, key, width]))
    A, v = _axes(p.a, p.la, order), _axes(p.b, p.lb, [*lead, key, width])
    axes = tuple(p.lo.index(c) for c in [*lead, row, width] if c)
    fields = {"A": A, "v": v, "axes": axes, "single": not row, "biased": tag.biased, "sparse": sparse}
    return [q_tag, k_tag, v_tag], fields


def _row_axis(p: Product, ids: Tensor, learned: bool) -> str:
    """The axis of A along which its rows stand; "" where both operands have it (each row has values of its own).

    learned: the values are a parameter's: an axis of length 1 that both have is that of a single row, and not of the samples.
    """
    own = [c for c in p.la if c in p.lo and c not in p.lb]
    changing = [c for c in own if _changes(ids, p.la.index(c))]
    within = [c for c in changing if not _of_samples(ids, p.la.index(c))]
    if within:
        return within[-1]
    one = [c for c in own if ids.shape[p.la.index(c)] == 1]
    both = [p.la.index(c) for c in p.la if c in p.lo and c in p.lb]
    shared = any(_changes(ids, d) or (learned and ids.shape[d] == 1) for d in both)
    if changing and not shared:
        return changing[-1]
    return one[-1] if one else "" if shared else own[-1]


def _of_samples(ids: Tensor, dim: int) -> bool:
    """Whether the sample changes along an axis (whose tokens may stand in another order in each)."""
    sample = thin(ids, but=dim) // STRIDE
    first = torch.where(sample > 0, sample, sample.max()).amin(dim)
    return bool((first < sample.amax(dim)).any())


def _changes(ids: Tensor, dim: int) -> bool:
    """Whether rows, samples apart, change along an axis."""
    return not constant(thin(ids, but=dim) % STRIDE, dim)


def _axes(t: Tensor, letters: str, order: Sequence[str]) -> Tensor:
    """Permute axes named by letters into an order; missing ones get length 1."""
    t = t.permute([letters.index(c) for c in order if c in letters])
    for i, c in enumerate(order):
        if c not in letters:
            t = t.unsqueeze(i)
    return t
