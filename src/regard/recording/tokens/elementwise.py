"""Operations that work element by element, and those that mix rows in ways that are not followed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from regard.recording.tokens.joining import added, averaged
from regard.recording.tokens.meetings import meet, meet_along, meet_itself
from regard.recording.tokens.meetings import spread as spread_to_all
from regard.recording.tokens.rereads import earlier_states
from regard.recording.tokens.tags import (
    PARAMETERS,
    STRIDE,
    Tag,
    constant,
    first_along,
    lost,
    same_numbers,
    thin,
)
from regard.recording.tokens.tracker import Trail

Tags = Sequence[Tag | None]
MAKERS = {
    "exp",
    "exp2",
    "sigmoid",
    "special_expit",
    "relu",
    "relu6",
    "elu",
    "gelu",
    "silu",
    "softplus",
    "tanh",
    "square",
    "pow",
}
"""What makes weights of scores, each by itself."""
SCALES = {"mul", "multiply", "rmul", "imul", "div", "divide", "true_divide", "truediv", "itruediv"}
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

_ARITHMETIC = """
    add sub rsub subtract mul multiply div divide true_divide floor_divide remainder fmod pow float_power neg negative positive
    reciprocal square sqrt rsqrt addcmul addcdiv lerp maximum minimum fmax fmin hypot clamp clamp_min clamp_max clip gcd lcm
    abs absolute sign sgn signbit copysign heaviside nextafter ldexp frac fix trunc floor ceil round nan_to_num
    exp exp2 expm1 log log2 log10 log1p logaddexp logaddexp2 xlogy sin cos tan asin acos atan atan2 arcsin arccos arctan arctan2
    sinh cosh tanh asinh acosh atanh arcsinh arccosh arctanh sinc deg2rad rad2deg erf erfc erfinv lgamma digamma polygamma
    mvlgamma i0 igamma igammac logit conj conj_physical real imag angle polar complex resolve_conj resolve_neg
"""
_COMPARISONS = """
    eq ne lt le gt ge not_equal less less_equal greater greater_equal isclose isfinite isinf isnan isneginf isposinf isreal isin
    logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift
    bitwise_right_shift
"""
_ACTIVATIONS = """
    relu relu6 elu selu celu gelu silu mish sigmoid log_sigmoid logsigmoid softplus softsign softshrink hardshrink hardtanh
    hardswish hardsigmoid tanhshrink threshold leaky_relu rrelu prelu dropout dropout1d dropout2d dropout3d alpha_dropout
    feature_dropout feature_alpha_dropout bernoulli
"""
_SPECIAL = """
    airy_ai bessel_j0 bessel_j1 bessel_y0 bessel_y1 digamma entr erf erfc erfcx erfinv exp2 expit expm1 gammainc gammaincc
    gammaln i0 i0e i1 i1e log1p log_ndtr logit multigammaln ndtr ndtri psi round sinc xlog1py xlogy zeta
"""
_COPIES = """
    clone contiguous detach alias lift_fresh lift_fresh_copy alias_copy detach_copy to type float half double bfloat16 cfloat
    cdouble chalf long int short byte char bool cpu cuda xpu mps data requires_grad as_tensor dequantize to_dense
    pin_memory share_memory masked_fill tril triu fill_diagonal bucketize
"""
_OPERATORS = """
    add radd iadd sub rsub isub mul rmul imul div rdiv idiv truediv rtruediv itruediv floordiv rfloordiv ifloordiv mod rmod imod
    pow rpow ipow and rand iand or ror ior xor rxor ixor invert neg pos abs lshift rlshift ilshift rshift rrshift irshift
    eq ne lt le gt ge deepcopy
"""


def _spelled(names: str) -> set[str]:
    """Names, each also as the operation that writes in place."""
    return {spelled for name in names.split() for spelled in (name, name + "_")}


ELEMENT_WISE = frozenset(
    _spelled(_ARITHMETIC + _COMPARISONS + _ACTIVATIONS + _COPIES)
    | {"special_" + name for name in _SPECIAL.split()}
    | {f"__{name}__" for name in _OPERATORS.split()}
    | {"_to_copy", "_conj", "_neg_view", "_threshold"}
)
"""Operations of which each element of the result is made of the operands' elements at its place alone. A positive list: what
is in none of the tables ends the trail (operations.py)."""


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
    if len(tags) == 1 and _as_it_is(tags[0][1], tags[0][0], out):
        return [tags[0][1]]
    biased = frozenset(tag.source.name for _, tag in tags if tag.source.rank < PARAMETERS and tag.keys is None)
    whole = [(t, tag) for t, tag in tags if tag.source.rank < PARAMETERS and t.shape == out.shape]
    spread = [tag for t, tag in tags if whole and tag.source.rank < PARAMETERS and t.shape != out.shape]
    tags = _or_parameters(trail, name, operands, whole or tags)
    fits = [(t, tag) for t, tag in tags if broadcasts(t.shape, out.shape)]
    if not fits:
        strong = [tag for _, tag in tags if tag.source.rank < PARAMETERS and out.is_floating_point()]
        return [nowhere(min(strong, key=lambda t: t.order), name, out)] if strong else [None]
    if any(tag.seen != fits[0][1].seen for _, tag in fits):
        fits = [(t, tag) for t, tag in fits if not _nobodys(tag)] or fits
    if (pairs := _pairs(fits, out)) is not None:
        return [pairs]
    if not any(t in trail.parts for t in operands):  # else: parts_rules.py
        trail.joined("added", [tag for _, tag in fits])
    earlier_states(trail, fits, out)
    fits = _settled(trail, fits, out)
    found = [tag for _, tag in fits]
    fits = _unblended(trail, fits, out)
    _, best = min(fits, key=lambda p: (bool(p[1].lost), p[1].keys is None, p[0].shape != out.shape, *p[1].order))
    if best.source.rank >= PARAMETERS:
        best = _varied(trail, best, found)
    else:
        fits, found, best = _filled(fits, found, best, out)
    same = [t for _, t in fits if t.source is best.source and not (t.lost or t.raw or t.keys)]
    full = [t for t in same if t.ids.shape == out.shape and out.ndim >= 3]
    if len(full) > 1 and best.keys is None:
        newest = _newest(trail, full)
        if newest is None:
            plain = len(full) == len(fits) == 2 and "alpha" not in kwargs
            return [_different(trail, name, replace(best, seen=united(found)), full, plain, out)]
        best = replace(best, ids=newest.expand(out.shape))
    if gone := _not_healed(fits, best, out):
        if not trail.attended(best):
            return [nowhere(gone, name, out)]
        trail.doubt(best, f"`{gone.lost}` made rows that are not followed, and were added to it")
    _spread_over(trail, name, best, spread, out)
    for tag in found:
        meet_itself(trail, f"{name} of different tokens", best, tag, out)
    alone = [t.ids[..., 0] for t in same if t.ids.shape == out.shape and out.ndim == 2]
    mixed = name if any(not trail.alike(alone[0], ids) for ids in alone[1:]) else ""
    mixed = _met(trail, name, best, found, mixed, out)
    if best.keys is not None:
        return [_scored(name, best, best.keys, biased, out)]
    computed = best.computed or (best.raw and best.source.ids and name not in SAME_IDS)
    return [best.at(trail.for_samples(best.ids, out.shape), seen=united(found), computed=computed, mixed=mixed)]


def _beside_nobodys(fits: Sequence[tuple[Tensor, Tag]], best: Tag, out: Tensor) -> list[Tag]:
    """Tags of other inputs whose features are added to nobody's alone (each padded with zeros, to stand side by side)."""
    if len(fits) < 2 or best.raw or best.lost or best.keys is not None or best.ids.ndim < 2 or constant(best.ids, -1):
        return []
    others = [tag for x, tag in fits if tag.source is not best.source and x.shape == out.shape]
    plain = [t for t in others if not (t.raw or t.lost) and t.keys is None and t.source.rank < PARAMETERS]
    return [t for t in plain if not bool(((t.ids > 0) & (best.ids > 0)).any())]


def _filled(
    fits: list[tuple[Tensor, Tag]], found: list[Tag], best: Tag, out: Tensor
) -> tuple[list[tuple[Tensor, Tag]], list[Tag], Tag]:
    """The operands' tags, those that fill what is nobody's in the best one taken into it."""
    taken = _beside_nobodys(fits, best, out)
    if not taken:
        return fits, found, best
    for tag in taken:
        best = best.at(torch.where(best.ids == 0, tag.ids, best.ids), seen=best.seen | tag.seen)
    fits = [(t, tag) for t, tag in fits if not any(tag is other for other in taken)]
    return fits, [tag for tag in found if not any(tag is other for other in taken)], best


def _or_parameters(
    trail: Trail, name: str, operands: Sequence[Tensor], tags: list[tuple[Tensor, Tag]]
) -> list[tuple[Tensor, Tag]]:
    """Operands with their tags; where none is an input's, those that are parameters'."""
    if any(tag.source.rank < PARAMETERS for _, tag in tags):
        return tags
    tags = [(t, tag) for t in operands if (tag := trail.parameter_tag(t)) is not None]
    return _but_scales(tags) if name.strip("_") in SCALES else tags


def _settled(trail: Trail, fits: list[tuple[Tensor, Tag]], out: Tensor) -> list[tuple[Tensor, Tag]]:
    """Raw inputs that meet what are tokens by now are tokens, too."""
    raw = [tag.raw for _, tag in fits]
    if all(raw) or not any(raw) or not out.is_floating_point():
        return fits
    return [(t, trail.settled(tag) if tag.raw else tag) for t, tag in fits]


def _different(trail: Trail, name: str, best: Tag, full: Sequence[Tag], plain: bool, out: Tensor) -> Tag:
    """Rows of different tokens, each of which fills the result: their sum, if it is a plain one of two; else they are lost."""
    if plain and (sums := added(trail, name, full[0], full[1], out)):
        return sums
    trail.confuse([t for t in full if trail.alike(t.ids, full[0].ids)])
    return nowhere(best, f"{name} of different tokens", out)


def _met(trail: Trail, name: str, best: Tag, found: Sequence[Tag], mixed: str, out: Tensor) -> str:
    """Tell what other tokens came into the rows of `best`; what mixed them, where a head reads them."""
    followed = not best.lost and best.keys is None and out.is_floating_point()
    for tag in found:
        mixed = mixed or tag.mixed
        if followed and tag.lost and tag.source.rank < PARAMETERS and not tag.computed:
            if out.ndim < 3 and trail.attended(best) and trail.attended(tag):
                mixed = mixed or tag.lost  # a head reads it: told should a call look at it
            else:
                trail.mixes(tag.lost, best, tag)
        if tag.source.rank != best.source.rank and max(tag.source.rank, best.source.rank) < PARAMETERS:
            meet(trail, name, tag, best, out)
    return mixed


def _scored(name: str, best: Tag, keys: Tag, biased: frozenset[str], out: Tensor) -> Tag:
    """Scores of rows and columns, after an operation; `biased`: the inputs that were added to them."""
    made = name.rstrip("_") if name.rstrip("_") in MAKERS else best.made
    biased = best.biased | biased - {best.source.name, keys.source.name}
    ids, columns = best.ids.expand(out.shape), keys.ids.expand(out.shape)
    return replace(best, ids=ids, keys=replace(keys, ids=columns), made=made, biased=biased)


def _but_scales(tags: list[tuple[Tensor, Tag]]) -> list[tuple[Tensor, Tag]]:
    """Learned rows that are multiplied, without a factor that all of them have in common (a norm's scale): it is no token."""
    several = [len(rows_in(tag.ids)) > 1 for _, tag in tags]
    return [p for p, rows in zip(tags, several, strict=True) if rows or not any(several)]


def _nobodys(tag: Tag) -> bool:
    """Whether all places are nobody's (those of a buffer, of which others are filled by now): these have absorbed nothing."""
    return not (tag.raw or tag.lost or tag.keys is not None or bool(thin(tag.ids).any()))


def _as_it_is(tag: Tag, operand: Tensor, out: Tensor) -> bool:
    """Whether the rows of one operand fill the result, each where it was."""
    plain = not (tag.raw or tag.lost or tag.blend) and tag.keys is None and tag.source.rank < PARAMETERS
    return plain and operand.shape == out.shape


def _pairs(fits: Sequence[tuple[Tensor, Tag]], out: Tensor) -> Tag | None:
    """Rows that meet columns by broadcasting, each with each (`q[:, :, None] * k[:, None]`, additive scores); else None."""
    if len(fits) != 2 or out.ndim < 3 or not out.is_floating_point() or any(t.shape == out.shape for t, _ in fits):
        return None
    ta, tb = (tag for _, tag in fits)
    if any(t.lost or t.raw or t.keys is not None or t.source.rank >= PARAMETERS for t in (ta, tb)):
        return None
    rows, columns = (ids.reshape((1,) * (out.ndim - ids.ndim) + ids.shape) for ids in (ta.ids, tb.ids))
    axes = range(out.ndim)
    across = any(columns.shape[d] == 1 and not constant(rows, d) for d in axes)
    along = any(rows.shape[d] == 1 and not constant(columns, d) for d in axes)
    if not (across and along):
        return None
    return replace(ta, ids=rows.expand(out.shape), keys=replace(tb, ids=columns.expand(out.shape)))


def _spread_over(trail: Trail, name: str, best: Tag, others: Sequence[Tag], out: Tensor) -> None:
    """Rows to which something of other rows was added or multiplied, the same to many of them: a mean over tokens (squeeze and
    excitation, a series brought to unit variance), a class token, another input's rows."""
    if best.lost or best.keys is not None or not out.is_floating_point():
        return
    for tag in others:
        if tag.lost:
            if not tag.computed:
                trail.mixes(tag.lost, best, tag)
        elif tag.source is not best.source:
            spread_to_all(trail, name, tag, best)
        elif tag.raw and best.raw:
            meet_itself(trail, f"{name} of different tokens", best, tag, out)
        elif not (tag.raw or best.raw) and not _alike(trail, tag.ids.expand(out.shape), best.ids.expand(out.shape)):
            trail.mixes(f"{name} of different tokens", best)


def _alike(trail: Trail, a: Tensor, b: Tensor) -> bool:
    """`Trail.alike`, of one feature where all features are one row's."""
    if a.ndim and constant(a, -1) and constant(b, -1):
        a, b = a[..., :1], b[..., :1]
    return trail.alike(torch.where(a % STRIDE == 0, b, a), b)  # what is nobody's changes nothing


def _unblended(trail: Trail, fits: list[tuple[Tensor, Tag]], out: Tensor) -> list[tuple[Tensor, Tag]]:
    """Operands without those that are mixed of the others' own rows (a mixer beside its residual, a gate): the receipt tells
    of these, and the rows stay what they were."""
    if not any(tag.blend for _, tag in fits) or all(tag.blend or tag.lost for _, tag in fits):
        return fits
    plain = [(t, tag) for t, tag in fits if not (tag.blend or tag.lost) and tag.keys is None and t.shape == out.shape]
    kept = [*plain]
    for t, tag in fits:
        origin = tag.origin if tag.blend else None
        beside = [rows_in(p.ids) for _, p in plain if p.source is tag.source]
        if origin is not None and any(bool(torch.isin(origin, rows).all()) for rows in beside):
            trail.mixes(tag.blend, tag)
        elif not any(tag is p for _, p in plain):
            kept.append((t, tag))
    return kept


def _newest(trail: Trail, tags: Sequence[Tag]) -> Tensor | None:
    """Of rows that are the same but for the stage that they are at (copies told apart by a call, beside the residual), the
    latest, which have the higher numbers; None where they are not the same."""
    rows = [t.ids for t in tags]
    if all(constant(i, -1) for i in rows):
        rows = [first_along(i, -1) for i in rows]
    newest = rows[0]
    for other in rows[1:]:
        if same_numbers(newest, other) or torch.equal(newest, other):
            continue
        newest, other = torch.where(newest == 0, other, newest), torch.where(other == 0, newest, other)  # nobody's rows
        if not trail.alike(newest, other) or not trail.in_line(newest, other):
            return None
        sample = torch.maximum(newest // STRIDE, other // STRIDE)
        newest = sample * STRIDE + torch.maximum(newest % STRIDE, other % STRIDE)
    return newest


REDUCTIONS = {
    **dict.fromkeys(("sum", "mean", "amax", "amin", "prod", "logsumexp", "std", "var", "nansum", "nanmean"), 1),
    **dict.fromkeys(("all", "any", "count_nonzero"), 1),
    **dict.fromkeys(("norm", "linalg_norm", "linalg_vector_norm"), 2),
}
"""Operations that take axes away, and the place of `dim` among their arguments."""


def reduction(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """A sum or mean over an axis along which every place is the same row's (experts of a token); over tokens it is lost."""
    tag, at = trail.tag(args[0]), REDUCTIONS[name]
    dim = kwargs.get("dim", kwargs.get("axis", args[at] if len(args) > at else None))
    if tag is None or dim is None or not isinstance(out, Tensor):
        return element_wise(trail, name, args, kwargs, out)
    dims = sorted({d % args[0].ndim for d in ([dim] if isinstance(dim, int) else dim)})
    trail.summed(args[0], dims)
    if tag.lost:
        return element_wise(trail, name, args, kwargs, out)
    if tag.raw:
        if not (_of_one_row(tag, dims) or of_channels(tag, dims)):
            return element_wise(trail, name, args, kwargs, out)
        meet_along(trail, name, tag, dims, args[0])
    elif not all(constant(t.ids, d) for t in (tag, tag.keys) if t is not None for d in dims):
        return [averaged(trail, name, tag, dims, out) or element_wise(trail, name, args, kwargs, out)[0]]

    def reduced(ids: Tensor) -> Tensor:
        for d in reversed(dims):
            ids = ids.select(d, 0)
        return ids.reshape(out.shape)

    return [tag.moved(reduced)]


def _of_one_row(tag: Tag, dims: Sequence[int]) -> bool:
    """Whether elements along some axes of a table (token, width) of numbers are of one row of it."""
    if len(tag.source.shape) != 2 or tag.source.ids:
        return False
    rows = torch.where(tag.ids % STRIDE > 0, (tag.ids % STRIDE - 1) // tag.source.shape[1], -1)
    return all(constant(rows, d) for d in dims)


def of_channels(tag: Tag, dims: Sequence[int]) -> bool:
    """Whether an axis of a picture's numbers is its channels': the shortest axis of the input, and the whole of it. What is
    made of a pixel's channels (grey) is of that pixel's token."""
    shape = tag.source.shape
    if len(dims) != 1 or len(shape) < 3 or tag.source.ids or sorted(shape)[:2].count(min(shape)) > 1:
        return False
    axis, rows = shape.index(min(shape)), thin(tag.ids, but=dims[0]).movedim(dims[0], 0) % STRIDE
    if len(rows) != shape[axis] or not bool((rows > 0).all()):
        return False
    step = math.prod(shape[axis + 1 :])
    first = (rows[0] - 1) // step % shape[axis] == 0
    return bool(
        first.all() and (rows == rows[:1] + torch.arange(len(rows)).view(-1, *[1] * (rows.ndim - 1)) * step).all()
    )


def gated(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """One half of the features weighs the other."""
    tag, dim = trail.tag(args[0]), kwargs.get("dim", args[1] if len(args) > 1 else -1)
    if tag is None or tag.lost or not constant(tag.ids, dim):
        return mixing(trail, name, args, kwargs, out)
    return [tag.moved(lambda i: i.narrow(dim, 0, out.shape[dim]))]


def ranking(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """The largest along an axis on which every place is the same row's (a router's experts); over tokens it is lost."""
    tag = trail.tag(args[0])
    at = 2 if name == "topk" else 1
    dim = kwargs.get("dim", args[at] if len(args) > at else -1)
    if isinstance(out, Tensor):
        return element_wise(trail, name, args, kwargs, out)
    if tag is not None and tag.keys is not None and not tag.lost and name in ("topk", "sort"):
        chosen = out[1].cpu()  # scores, each with its row and its key
        return [tag.moved(lambda i: i.gather(dim, chosen)), None]
    if tag is None or tag.lost or tag.keys is not None or not isinstance(dim, int):
        return mixing(trail, name, args, kwargs, out)
    ids, channels = first_along(tag.ids, dim), tag.raw and of_channels(tag, [dim % tag.ids.ndim])
    if not channels and (tag.raw or not constant(tag.ids, dim)):
        return mixing(trail, name, args, kwargs, out)
    if channels:
        meet_along(trail, name, tag, [dim], args[0])
    values = out[0]
    return [replace(tag, ids=(ids if values.ndim == ids.ndim else ids.squeeze(dim)).expand(values.shape)), None]


def _varied(trail: Trail, best: Tag, found: Sequence[Tag]) -> Tag:
    """Rows of one table to which one row of another is added (ProphetNet's streams) are not those with another row added."""
    if best.keys is None and not best.lost:
        for tag in found:
            if tag.source is not best.source and tag.source.rank > PARAMETERS + 1 and not tag.lost and tag.ids.numel():
                row = int(tag.ids.flatten()[0]) % STRIDE
                if bool((tag.ids % STRIDE == row).all()):
                    best = trail.variant(best, row)
    return best


def first_alone(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Element by element, of the first operand: `x.type_as(y)`, and norms, whose scale and shift are no tokens (even of rows
    that begin as zeros)."""
    if isinstance(out, Tensor):
        return element_wise(trail, name, args[:1], {}, out)
    return [*element_wise(trail, name, args[:1], {}, out[0]), *[None] * (len(out) - 1)]


def normalised(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Norms. One that takes its mean over tokens as well (a group norm over time) mixes them."""
    tag = trail.tag(args[0])
    if tag is not None and not tag.lost and tag.keys is None:
        axes = _averaged(name, args, kwargs)
        if tag.raw or not all(constant(tag.ids, d) for d in axes):
            features = tag.raw or any(
                tag.ids.shape[d] > 1 and constant(tag.ids, d) for d in range(1, tag.ids.ndim) if d not in axes
            )
            if len(axes) == 1 and not features:
                axes = axes[1:]  # several rows side by side, which are to become one (Swin's merging)
            meet_along(trail, name, tag, axes, args[0])
    return first_alone(trail, name, args, kwargs, out)


def _averaged(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> range:
    """The axes over which a norm takes its mean; none for those that keep it from training."""
    n = args[0].ndim
    if name in ("layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm"):
        shape = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
        return range(n - (1 if isinstance(shape, int) else len(shape)), n)
    return range({"group_norm": 1, "native_group_norm": 1, "instance_norm": 2}.get(name, n), n)


def running(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Sums (products, ...) up to each place of an axis: of one row's places, or of whole numbers, which are no tokens."""
    tag, dim = trail.tag(args[0]), kwargs.get("dim", args[1] if len(args) > 1 else -1)
    if not isinstance(out, Tensor):  # a running maximum, and where it stands
        return [*running(trail, name, args, kwargs, out[0]), None]
    along = isinstance(dim, int) and tag is not None and tag.keys is None and not tag.raw and constant(tag.ids, dim)
    if isinstance(dim, int) and tag is not None and tag.raw and _of_one_row(tag, [dim]):
        meet_along(trail, name, tag, [dim], out)
        along = True
    if along or not out.is_floating_point():
        return element_wise(trail, name, args, kwargs, out)
    return mixing(trail, name, args, kwargs, out)


def _not_healed(fits: Sequence[tuple[Tensor, Tag]], best: Tag, out: Tensor) -> Tag | None:
    """A lost operand of the best one's own stream, which may hold other tokens than the best one does.

    It is healed by the output of an attention call that it has not absorbed (a residual connection around a call whose tokens
    the user named), and by the rows that it was made of (a residual connection around what mixes them).
    """
    if best.lost or best.raw or best.keys is not None or out.ndim < 3 or not out.is_floating_point():
        return None
    gone = [t for x, t in fits if t.lost and t.source is best.source and x.shape == out.shape and not t.computed]
    gone = [t for t in gone if not best.seen & ~t.seen]
    if not gone:
        return None
    own = rows_in(best.ids)
    return next((t for t in gone if t.origin is None or not bool(torch.isin(own, t.origin).all())), None)


def rows_in(ids: Tensor) -> Tensor:
    """The rows that ids name, each once, without samples."""
    rows: Tensor = (thin(ids) % STRIDE).unique()
    return rows


def mixing(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Tags:
    """Rows are mixed in a way that is not followed, or in none that is known."""
    tags = [t for x in tensors_in([*args, *kwargs.values()]) if (t := trail.tag(x)) is not None]
    outs = [out] if isinstance(out, Tensor) else list(out)
    if not tags:
        return [None] * len(outs)
    best = min(tags, key=lambda t: t.source.rank)
    computed = any(t.computed or (t.raw and t.source.ids) for t in tags)
    best = replace(best, seen=united(tags), computed=computed and best.source.ids)
    return [nowhere(best, name, o) if isinstance(o, Tensor) else None for o in outs]


def united(tags: Sequence[Tag]) -> int:
    """Events that any of several tags has absorbed."""
    seen = 0
    for tag in tags:
        seen |= tag.seen
    return seen


def nowhere(tag: Tag, name: str, out: Tensor, *others: Tag) -> Tag:
    """A tag for a tensor whose rows are not known any more since the operation `name`; `others` went into them as well."""
    origins = [t.origin if t.lost else None if t.raw else rows_in(t.ids) for t in (tag, *others)]
    known = [o for o in origins if o is not None]
    origin = torch.cat(known).unique() if len(known) == len(origins) else None
    nobody = torch.zeros((), dtype=torch.int64).expand(out.shape)
    return lost(replace(tag, ids=nobody, raw=False, origin=origin, channels=""), name)


def broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Whether a shape can be expanded to another."""
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))
