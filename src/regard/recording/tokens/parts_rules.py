"""How parts (parts.py) go through tensor operations: the same ways as ids go, and where they meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard.recording.tokens.broadcast import exponential, multiplied, summed
from regard.recording.tokens.contractions import (
    CONVOLUTIONS,
    Product,
    convolution,
    linear,
    product,
    read_product,
    read_single,
    softmax,
)
from regard.recording.tokens.elementwise import (
    REDUCTIONS,
    element_wise,
    first_alone,
    gated,
    normalised,
    ranking,
    reduction,
    running,
    tensors_in,
)
from regard.recording.tokens.movements import (
    as_complex,
    as_real,
    copied,
    forgotten,
    function,
    join,
    movement,
    on_cpu,
    pad,
    reshape,
    select,
)
from regard.recording.tokens.parts import Parts, added, beside, end, of, put, set_apart, weighed
from regard.recording.tokens.parts import summed as summed_over
from regard.recording.tokens.tracker import Trail
from regard.recording.tokens.writes import added as added_to
from regard.recording.tokens.writes import scatter

Found = Parts | None | list[Parts | None]
Args = Sequence[Any]
Kwargs = Mapping[str, Any]


KEPT = (join, scatter)
"""Rules that keep parts themselves, where these begin."""


class Untold(Exception):
    """How parts meet in an operation is not known."""


def follow_parts(trail: Trail, rule: Any, name: str, args: Args, kwargs: Kwargs, out: Any) -> None:
    """Parts of an operation's results. rule: what its tags are made by (operations.py)."""
    if rule in KEPT or not (len(trail.parts) or rule in (multiplied, pad)):
        return
    held = [t for t in tensors_in(args) + tensors_in(kwargs.values()) if of(trail, t) is not None]
    outs = [t for t in ([out] if isinstance(out, Tensor) else out) if isinstance(t, Tensor)]
    found: Found = None
    if held or rule in (multiplied, added_to, pad):
        try:
            found = RULES[rule](trail, name, args, kwargs, out)
        except (Untold, RuntimeError, IndexError, ValueError, TypeError, KeyError, AttributeError):
            end(trail, held, *outs)
            return
    each = found if isinstance(found, list) else [found] * len(outs)
    for t, parts in zip(outs, each, strict=True):
        if parts is None:
            trail.parts.pop(t)
        else:
            put(trail, t, parts)


def _element_wise(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    operands = [t for t in tensors_in(args) + tensors_in(kwargs.values()) if t.ndim]
    if not out.is_floating_point():
        return None
    tags = [trail.tag(t) for t in operands]
    found = beside(trail, operands, tags, begins=False) or []
    kept = [p for t, p in zip(operands, found, strict=True) if of(trail, t) is not None or _apart(trail, t, operands)]
    kept = [p.with_(_in_axes_of(out, p.numbers)) for p in kept]
    some = len(kept) == 2 and all(bool(p.numbers.any()) for p in kept)
    if some and not bool(torch.mul(*(p.numbers for p in kept)).any()):
        trail.joined("width", tags)  # padded with zeros: what is added comes to stand side by side
    return added(trail, kept)


def _apart(trail: Trail, tensor: Tensor, operands: Sequence[Tensor]) -> bool:
    """Whether a tensor has absorbed a call that one with parts has not, and that one another."""
    own = trail.calls_of(tensor)
    others = [trail.calls_of(t) for t in operands if of(trail, t) is not None]
    return any(own & ~other and other & ~own for other in others)


def _in_axes_of(out: Tensor, numbers: Tensor) -> Tensor:
    return numbers.reshape([1] * (out.ndim - numbers.ndim) + [*numbers.shape])


def _weighed(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    tags = [(t, tag) for t in tensors_in(args) if (tag := trail.tag(t)) is not None]
    if len(tags) == 2 and all(of(trail, t) is None for t, _ in tags) and out.is_floating_point():
        return weighed(trail, out, [tag for _, tag in tags])
    return _element_wise(trail, name, args, kwargs, out)


def _first(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Any) -> Found:
    parts = of(trail, args[0])
    return parts if isinstance(out, Tensor) else [parts, *[None] * (len(out) - 1)]


def _full(parts: Parts, tensor: Tensor) -> Tensor:
    return parts.numbers.expand(tensor.shape)


def _moved(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Any) -> Found:
    parts = of(trail, args[0])
    if parts is None:
        return None
    func = function(name, args[0], out)
    moved = func(_full(parts, args[0]), *on_cpu(args[1:]), **{k: on_cpu(v) for k, v in kwargs.items()})
    return parts.with_(moved) if isinstance(moved, Tensor) else [parts.with_(m) for m in moved]


def _reshaped(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    parts = of(trail, args[0])
    return parts and parts.with_(_full(parts, args[0]).reshape(out.shape))


def _copied(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    parts = of(trail, args[1])
    return parts and parts.with_(_in_axes_of(out, parts.numbers))


def _padded(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    pads = args[1] if len(args) > 1 else kwargs["pad"]
    parts = of(trail, args[0]) or (set_apart(trail, args[0]) if len(pads) == 2 else None)
    padded: Callable[..., Tensor] = nn.functional.pad
    return parts and parts.with_(padded(_full(parts, args[0]).double(), *args[1:], **kwargs).round().long())


def _chosen(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    condition, *both = args
    held = [of(trail, t) for t in both]
    first, second = (torch.tensor(0) if p is None else p.numbers for p in held)
    chosen = torch.where(condition.cpu(), first, second).expand(out.shape)
    return added(trail, [p.with_(chosen) for p in held if p is not None])


def _gated(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    parts, dim = of(trail, args[0]), kwargs.get("dim", args[1] if len(args) > 1 else -1)
    return parts and added(trail, [parts.with_(n) for n in _full(parts, args[0]).chunk(2, dim)])


def _reduced(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    parts, at = of(trail, args[0]), REDUCTIONS[name]
    dim = kwargs.get("dim", kwargs.get("axis", args[at] if len(args) > at else None))
    if not out.is_floating_point():
        return None
    return parts and _over(trail, args[0], parts, dim, out)


def _over(trail: Trail, tensor: Tensor, parts: Parts, dim: Any, out: Tensor) -> Parts:
    """Parts after a reduction over some axes, or all."""
    dims = range(tensor.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = [d % tensor.ndim for d in dims]
    numbers = summed_over(trail, tensor, parts, dims).numbers
    if out.ndim < tensor.ndim:
        numbers = numbers[tuple(0 if d in dims else slice(None) for d in range(tensor.ndim))]
    return parts.with_(numbers)


def _ranked(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Any) -> Found:
    """The largest or least along an axis; or of two tensors, element by element."""
    at = 2 if name == "topk" else 1
    dim = kwargs.get("dim", args[at] if len(args) > at else None if name in ("max", "min") else -1)
    if isinstance(dim, Tensor) or "other" in kwargs:
        return _element_wise(trail, name, args, kwargs, out)
    values, parts = out if isinstance(out, Tensor) else out[0], of(trail, args[0])
    assert parts is not None
    if name in ("max", "min"):
        found = _over(trail, args[0], parts, dim, values)
        return found if isinstance(out, Tensor) else [found, None]
    return [_unless_along(parts, [dim]), None]


def _unless_along(parts: Parts, axes: Sequence[int]) -> Parts:
    """The parts, unless they change along some axes."""
    if any(parts.numbers.shape[a] > 1 for a in axes):
        raise Untold
    return parts


def _running(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Any) -> Found:
    parts, dim = of(trail, args[0]), kwargs.get("dim", args[1] if len(args) > 1 else -1)
    found = parts and _unless_along(parts, [dim])
    return found if isinstance(out, Tensor) else [found, None]


def _linear(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    parts = of(trail, args[0])
    if parts is None:
        raise Untold  # weights that are made of calls' outputs
    several = out.shape[-1]
    numbers = summed_over(trail, args[0], parts, [-1], several).numbers
    return parts.with_(numbers.squeeze(-2) if several > 1 else numbers)


def _convolved(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    """Channels are features; windows slide along axes of rows or features, along which parts are not followed."""
    parts = of(trail, args[0])
    if parts is None or name not in CONVOLUTIONS:
        raise Untold
    axes = CONVOLUTIONS[name]
    named = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation", "groups"), args, strict=False)) | {
        **kwargs
    }
    kernel = named["weight"].shape[-axes:]
    if any(k > 1 for k in kernel) or args[0].shape[-axes:] != out.shape[-axes:]:
        _unless_along(parts, range(-axes, 0))
    channels, groups = args[0].ndim - axes - 1, named.get("groups", 1)
    if groups == args[0].shape[channels] == out.shape[channels]:
        return parts
    if groups > 1:
        return _unless_along(parts, [channels])
    several = out.shape[channels]
    numbers = summed_over(trail, args[0], parts, [channels], several).numbers
    return parts.with_(numbers.movedim(-1, channels).squeeze(channels + 1) if several > 1 else numbers)


def _multiplied(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    """A product of two tensors, and what is added to it; or a sum over axes that einsum writes."""
    if (single := read_single(name, args)) is not None:
        x, letters, to = single
        parts = of(trail, x)
        return parts and _over_letters(trail, Product(x, x, letters, "", to), parts)
    p = read_product(name, args, dict(kwargs))
    if p is None:
        raise Untold
    found = [(q, parts) for q in (p, p.swapped()) if (parts := of(trail, q.a)) is not None]
    if len(found) > 1 and any(_changes(*found[0], c) and _changes(*found[1], c) for c in p.summed):
        found = [max(found, key=lambda f: f[0].a.numel())]  # the other weighs each part by a number of its own
    met = [_over_letters(trail, q, parts) for q, parts in found]
    start = of(trail, args[0]) if name in ("addmm", "baddbmm", "addmv") else None
    return added(trail, met if start is None else [*met, start])


def _changes(p: Product, parts: Parts, letter: str) -> bool:
    return parts.numbers.shape[p.la.index(letter)] > 1


def _over_letters(trail: Trail, p: Product, parts: Parts) -> Parts:
    """Parts of p.a in the axes of the result."""
    if len({*p.la}) < len(p.la):
        raise Untold
    new = {c: p.b.shape[p.lb.index(c)] for c in p.lo if c not in p.la}
    several = math.prod(new.values())
    gone = [i for i, c in enumerate(p.la) if c not in p.lo]
    numbers = summed_over(trail, p.a, parts, gone, several).numbers
    numbers = numbers[tuple(slice(None) if c in p.lo else 0 for c in p.la)]
    if several > 1:
        sizes = [*new.values()] if numbers.shape[-1] > 1 else [1] * len(new)
        numbers = numbers.unflatten(-1, sizes)
    else:
        numbers = numbers.view(*numbers.shape, *[1] * len(new))
    letters = [c for c in p.la if c in p.lo] + [*new]
    return parts.with_(numbers.permute([letters.index(c) for c in p.lo]))


def _as_complex(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    parts = of(trail, args[0])
    return parts and parts.with_(_unless_along(parts, [-1]).numbers[..., 0])


def _as_real(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    parts = of(trail, args[0])
    return parts and parts.with_(parts.numbers[..., None])


def _forgotten(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    return None


def _added_to(trail: Trail, name: str, args: Args, kwargs: Kwargs, out: Tensor) -> Found:
    """Rows added at given places: kept by the rule itself, where it is known how they meet."""
    if (parts := of(trail, out)) is None:
        raise Untold
    return parts


RULES: dict[Any, Callable[..., Found]] = {
    **dict.fromkeys((element_wise, exponential), _element_wise),
    multiplied: _weighed,
    **dict.fromkeys((first_alone, normalised, softmax), _first),
    **dict.fromkeys((reduction, summed), _reduced),
    movement: _moved,
    reshape: _reshaped,
    copied: _copied,
    pad: _padded,
    select: _chosen,
    gated: _gated,
    ranking: _ranked,
    running: _running,
    linear: _linear,
    convolution: _convolved,
    product: _multiplied,
    as_complex: _as_complex,
    as_real: _as_real,
    forgotten: _forgotten,
    added_to: _added_to,
}
"""By the rule that makes an operation's tags. What is in none of them ends the parts: how they meet is untold."""

__all__ = ["follow_parts"]
