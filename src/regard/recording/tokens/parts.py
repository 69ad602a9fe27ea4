"""Which call's output each element of a tensor is, where outputs of several calls stand in one tensor, stacked or side by side.

What stands side by side has not met yet: it may become heads of one attention, or a sum of attentions. It meets where elements
of several calls come together in one (formulas.md 0):

- along their features (a projection of heads that are concatenated): the calls are heads that stand side by side;
- each by itself (a sum over the axis along which they were stacked, weighed or not; element by element): they are added.

What meets in a way that is not followed is told as such. Parts go through operations as ids do (parts_rules.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from regard.recording.tokens.tags import Tag, constant, thin
from regard.recording.tokens.tracker import Trail

FEATURES, ADDED, UNTOLD = "features", "added", "untold"
"""How parts meet: along their features, each by itself, or in a way that is not followed."""


class Parts(NamedTuple):
    """The number of the part that each element of a tensor is of (0: of none), in the tensor's axes; axes along which it does
    not change may have length 1. time: when the parts came to stand in one tensor; whole: the calls that all of them had
    absorbed."""

    numbers: Tensor
    time: int
    whole: int

    def with_(self, numbers: Tensor) -> Parts:
        """The same parts elsewhere."""
        return self._replace(numbers=numbers)


# -- where parts begin ------------------------------------------------------------------------------------------------


def of(trail: Trail, tensor: Tensor) -> Parts | None:
    """The parts of a tensor, if several stand in it."""
    found: Parts | None = trail.parts.get(tensor)
    return found if found is not None and found.numbers.ndim == tensor.ndim else None


def put(trail: Trail, tensor: Tensor, parts: Parts) -> None:
    """Keep the parts of a tensor; where all have met in it, they are forgotten."""
    numbers = parts.numbers
    for dim in range(numbers.ndim):
        if numbers.shape[dim] > 1 and constant(numbers, dim):
            numbers = numbers.narrow(dim, 0, 1)
    if numbers.numel() == 1 and int(numbers) in (0, trail.part_of.get(parts.whole)):
        trail.parts.pop(tensor)
    else:
        trail.parts[tensor] = parts.with_(numbers)


def beside(trail: Trail, tensors: Sequence[Tensor], tags: Sequence[Tag | None], begins: bool) -> list[Parts] | None:
    """Parts of tensors that come to stand in one; None where there are none.
    begins: whether tensors that have absorbed different calls are parts from now on."""
    held = [of(trail, t) for t in tensors]
    alone, time, whole = _alone(trail, tags), trail.events, 0
    if any(held):
        for p in held:
            time, whole = (time, whole) if p is None else (min(time, p.time), whole | p.whole)
        alone = [events | trail.calls_of(t) & whole for t, events in zip(tensors, alone, strict=True)]
        numbers = [_number(trail, events) for events in alone]
    elif begins and any(a & ~b and b & ~a for a, b in combinations(alone, 2)):
        numbers = [_new(trail, events) if events else 0 for events in alone]
    else:
        return None
    for p, events in zip(held, alone, strict=True):
        whole |= events if p is None else 0
    one = [torch.tensor(n).view([1] * t.ndim) for t, n in zip(tensors, numbers, strict=True)]
    return [Parts(n if p is None else p.numbers, time, whole) for p, n in zip(held, one, strict=True)]


def weighed(trail: Trail, tensor: Tensor, tags: Sequence[Tag]) -> Parts | None:
    """The part that a product of two tensors is of, where one has absorbed what the other has, and more: it weighs the other (a
    gate that is made of several calls' outputs)."""
    few, more = sorted((t.seen & trail.call_events for t in tags), key=int.bit_count)
    if not few or few == more or few & ~more:
        return None
    return Parts(torch.tensor(_number(trail, few)).view([1] * tensor.ndim), trail.events, more)


def set_apart(trail: Trail, tensor: Tensor) -> Parts | None:
    """A tensor that is about to be padded with zeros, at whose places others' features may be added: a part of its own."""
    events = trail.calls_of(tensor)
    return Parts(torch.tensor(_number(trail, events)).view([1] * tensor.ndim), trail.events, events) if events else None


def _alone(trail: Trail, tags: Sequence[Tag | None]) -> list[int]:
    """For each of several tensors, the calls that it has absorbed, and not all of them have."""
    seen = [0 if t is None else t.seen & trail.call_events for t in tags]
    common = -1
    for events, tag in zip(seen, tags, strict=True):
        common &= -1 if tag is None else events
    return [events & ~common for events in seen]


def _number(trail: Trail, events: int) -> int:
    """The number of what is made of parts that have met, by the calls that they had absorbed; 0 for none."""
    if events and events not in trail.part_of:
        trail.part_of[events] = _new(trail, events)
    return trail.part_of.get(events, 0)


def _new(trail: Trail, events: int, mixed: bool = False) -> int:
    """The number of a new part. mixed: one of several sums of the same parts, which meet where these sums do."""
    trail.absorbed.append((events, mixed))
    return len(trail.absorbed)


def _events(trail: Trail, numbers: Sequence[int]) -> int:
    """The calls that any of some parts has absorbed."""
    events = 0
    for n in numbers:
        events |= trail.absorbed[n - 1][0] if n else 0
    return events


def full(parts: Sequence[Parts], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Numbers of parts in the shapes of their tensors."""
    return [p.numbers.expand(t.shape) for p, t in zip(parts, tensors, strict=True)]


# -- where they meet --------------------------------------------------------------------------------------------------


def meet(trail: Trail, numbers: Sequence[int], how: str, time: int) -> int:
    """Parts come together: the number of what they make."""
    distinct = sorted({*numbers} - {0})
    each = {trail.absorbed[n - 1] for n in distinct}
    pairs = {(a & ~b, b & ~a) for (a, _), (b, _) in combinations(each, 2)}
    pairs |= {(events, events) for events, mixed in each if mixed}
    for a, b in pairs:
        if a and b and len(distinct) > 1:
            trail.joins[a, b, how] = min(time, trail.joins.get((a, b, how), time))
    return distinct[0] if len(distinct) == 1 else _number(trail, _events(trail, distinct))


def added(trail: Trail, parts: Sequence[Parts]) -> Parts:
    """Parts that meet element by element."""
    numbers, time, whole = parts[0]
    for other, since, more in parts[1:]:
        time, whole = min(time, since), whole | more
        a, b = torch.broadcast_tensors(numbers, other)
        numbers, apart = torch.where(a == 0, b, a), (a != b) & (a > 0) & (b > 0)
        for x, y in torch.stack([a[apart], b[apart]], 1).unique(dim=0).tolist():
            numbers[apart & (a == x) & (b == y)] = meet(trail, [x, y], ADDED, time)
    return Parts(numbers, time, whole)


def end(trail: Trail, tensors: Sequence[Tensor], *outs: Tensor) -> None:
    """Parts go into an operation of which it is not known how they meet in it."""
    for parts in [p for t in tensors if (p := of(trail, t)) is not None]:
        if any(t.is_floating_point() for t in outs):
            meet(trail, parts.numbers.unique().tolist(), UNTOLD, parts.time)
    for t in outs:
        trail.parts.pop(t)


def summed(trail: Trail, tensor: Tensor, parts: Parts, axes: Sequence[int], several: int = 1) -> Parts:
    """Axes, which are kept with length 1, are summed over, with weights or without.

    Where each part has one element in a sum, and its rows have more features than that, parts meet each by itself. several:
    how many sums are made of the same elements; what is made then stands side by side along a new last axis, and meets later.
    """
    numbers, axes = parts.numbers, sorted({a % tensor.ndim for a in axes})
    new = numbers.unsqueeze(-1) if several > 1 else numbers
    if all(numbers.shape[a] == 1 for a in axes):
        return parts.with_(new)
    sums = _Sums.over(tensor, numbers, axes)
    how = ADDED if sums.by_themselves(trail, tensor, numbers) else FEATURES
    made = []
    for some in sums.patterns.tolist():
        if several > 1 and how == ADDED and len({*some} - {0}) > 1:
            made.append([_new(trail, _events(trail, some), mixed=True) for _ in range(several)])
        else:
            made.append([meet(trail, some, how, parts.time)] * several)
    shape = [1 if a in axes else n for a, n in enumerate(numbers.shape)]
    kept = torch.tensor(made)[sums.which].view(*shape, several)
    return parts.with_(kept if several > 1 else kept[..., 0])


class _Sums(NamedTuple):
    """Sums over some axes of a tensor: the numbers that go into them, (pattern, element); the pattern of each sum, flat, along
    the other axes of `numbers`; and a place along these whose sum holds the most parts."""

    axes: Sequence[int]
    patterns: Tensor
    which: Tensor
    widest: tuple[slice, ...]

    @classmethod
    def over(cls, tensor: Tensor, numbers: Tensor, axes: Sequence[int]) -> _Sums:
        rest = [a for a in range(tensor.ndim) if a not in axes]
        full = numbers.expand([tensor.shape[a] if a in axes else n for a, n in enumerate(numbers.shape)])
        places = [numbers.shape[a] for a in rest]
        flat = full.permute(*rest, *axes).reshape(math.prod(places), -1)
        patterns, which = flat.unique(dim=0, return_inverse=True)
        most = max(range(len(patterns)), key=lambda i: len(patterns[i].unique()))
        at, index = int((which == most).nonzero()[0]), [slice(None)] * tensor.ndim
        for a, n in zip(reversed(rest), reversed(places), strict=True):
            at, i = divmod(at, n)
            index[a] = slice(i, i + 1)
        return cls(axes, patterns, which, tuple(index))

    def by_themselves(self, trail: Trail, tensor: Tensor, numbers: Tensor) -> bool:
        """Whether each part has one element in a sum, and its rows have more features than that."""
        tag = trail.tag(tensor)
        ids = torch.zeros((), dtype=torch.int64).expand(tensor.shape) if tag is None else tag.ids
        within = _named(ids[self.widest], numbers[self.widest])
        if len(within.unique(dim=0)) < len(within):
            return False
        return tensor.numel() > len(_named(thin(ids), numbers).unique(dim=0))


def _named(ids: Tensor, numbers: Tensor) -> Tensor:
    """The row and the part of each element, (element, 2)."""
    return torch.stack(torch.broadcast_tensors(ids, numbers), -1).flatten(0, -2)


__all__ = ["Parts", "added", "beside", "end", "full", "meet", "of", "put", "set_apart", "summed", "weighed"]
