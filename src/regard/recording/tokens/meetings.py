"""Rows of two inputs at one place: added or multiplied, they are one row from there on, and one name stands for both.

In step, token i of the one meets token i of the other (features + boxes, ids + token types): what is said of the row is said
of both. Out of step (turned, shifted, chosen by an index) the row is a token of the one and another token of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from regard.recording.tokens.tags import PARAMETERS, STRIDE, Mixing, Tag, constant, first_along
from regard.recording.tokens.tracker import Trail


def meet(trail: Trail, operation: str, tag: Tag, best: Tag, out: Tensor) -> None:
    """Rows of `tag` go on under the name of `best`, the rows of another input."""
    own, name = tag.source.name, best.source.name
    trail.meets.setdefault(own, {}).setdefault(name)
    if tag.lost or best.lost or tag.keys is not None or best.keys is not None:
        return
    pooled = trail.attended(best) and out.ndim < 3  # rows that a head adds are read out, each by itself
    apart = out.is_floating_point() and not (tag.computed or pooled)
    if apart and not in_step(trail, tag, best):
        trail.aliases.pop(own, None)
        trail.displaced.add(own)
        trail.mixings.append(Mixing(trail.events, frozenset([own, name]), operation))
    elif apart and trail.attended(best) and own not in trail.aliases:
        trail.mixings.append(Mixing(trail.events, frozenset([own, name]), operation))
        trail.renamed[own, name, operation] = trail.events
    elif not best.seen and own not in trail.displaced:
        trail.aliases.setdefault(own, name)
    if apart and (own in trail.displaced or trail.attended(tag)):
        trail.renamed[own, name, operation] = trail.events


def spread(trail: Trail, operation: str, tag: Tag, best: Tag) -> None:
    """Rows of one input, each of which many rows of another have something of."""
    trail.meets.setdefault(tag.source.name, {}).setdefault(best.source.name)
    trail.at_work(operation)
    trail.spreads.append(Mixing(trail.events, frozenset([best.source.name, tag.source.name]), operation))


def meet_itself(trail: Trail, operation: str, a: Tag, b: Tag, out: Tensor) -> None:
    """Elements of an input meet others of it before its tokens are known: whether these are one token's shows in the end."""
    if not (a.raw and b.raw and a.source is b.source and out.is_floating_point()) or a.source.ids:
        return
    x, y = torch.broadcast_tensors(a.ids % STRIDE, b.ids % STRIDE)
    if bool((apart := (x != y) & (x > 0) & (y > 0)).any()):
        trail.at_work(operation)
        trail.raw_pairs.append((trail.events, a.source.name, operation, x[apart] - 1, y[apart] - 1))


def meet_along(trail: Trail, operation: str, tag: Tag, axes: Iterable[int], out: Tensor) -> None:
    """Rows along some axes have a say in one another (a softmax, a norm): mixing, where they are several tokens'."""
    if not out.is_floating_point() or tag.lost or tag.keys is not None or tag.source.rank >= PARAMETERS:
        return
    for axis in axes:
        if tag.raw:
            meet_itself(trail, operation, tag, replace(tag, ids=first_along(tag.ids, axis).expand(tag.ids.shape)), out)
        elif not constant(tag.ids, axis):
            trail.mixes(operation, tag)
            return


def of_other_tokens(trail: Trail) -> None:
    """After a run: mixing, where elements that met are of several tokens; an element that no token was seen to be made of is of
    the token of the element that it met (channels that were added up)."""
    for stream in trail.streams:
        pairs = [(x, y) for _, name, _, x, y in trail.raw_pairs if name == stream.name]
        if stream.owned is not None and pairs:
            stream.owned = partial(_with_met, stream.owned(), pairs)
    for event, name, operation, x, y in trail.raw_pairs:
        for owned in (s.owned() for s in trail.streams if s.name == name and s.owned is not None):
            if bool((owned[x] != owned[y]).any()):
                trail.mixings.append(Mixing(event, frozenset([name]), operation))
                trail.mixers.setdefault(operation)


def _with_met(owned: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The token of each element, (element,); elements without one take that of the element that they met."""
    owned = owned.clone()
    for _ in pairs:  # at most as often as there are meetings: a sum of sums
        left = int((owned < 0).sum())
        for x, y in pairs:
            for own, other in ((x, y), (y, x)):
                new = (owned[own] < 0) & (owned[other] >= 0)
                owned[own[new]] = owned[other[new]]
        if int((owned < 0).sum()) == left:
            break
    return owned


def in_step(trail: Trail, a: Tag, b: Tag) -> bool:
    """Whether each row of one input meets the row of the other that has its number.

    Where an input has several rows for each of the other's (boxes, four numbers each), a row stands for all of its own.
    """
    if a.raw and b.raw and a.source.shape == b.source.shape:
        x, y = torch.broadcast_tensors(a.ids % STRIDE, b.ids % STRIDE)
        return bool(((x == y) | (x == 0) | (y == 0)).all())
    x, y = (_numbers(trail, t) for t in torch.broadcast_tensors(*(_one_feature(t) for t in (a, b))))
    known = (x[:, 0] >= 0) & (y[:, 0] >= 0)
    (i, n), (j, m) = x[known].T, y[known].T
    if bool((m % n.clamp(min=1) == 0).all()):
        return torch.equal(j * n // m.clamp(min=1), i)
    if bool((n % m.clamp(min=1) == 0).all()):
        return torch.equal(i * m // n.clamp(min=1), j)
    order = i.argsort(stable=True)
    return bool((j[order].diff() >= 0).all())


def _one_feature(tag: Tag) -> Tensor:
    """Ids without the axis of features, which keeps the length 1."""
    return first_along(tag.ids, -1) if tag.ids.ndim and constant(tag.ids, -1) else tag.ids


def _numbers(trail: Trail, ids: Tensor) -> Int[Tensor, "place 2"]:
    """The number of each row in its stream, and how many rows that has; -1 for rows of parameters, and nobody's."""
    table = torch.full((trail.rows, 2), -1)
    for stream in trail.streams:
        if stream.kind != "parameter":
            table[stream.rows] = torch.tensor([0, stream.count])
            table[stream.rows, 0] += torch.arange(stream.count)
    older = torch.arange(trail.rows)
    if trail.copies:
        older[torch.tensor([*trail.copies])] = torch.tensor([*trail.copies.values()])
    table[0] = -1
    found: Tensor = table[older[(ids % STRIDE).flatten()]]
    return found


__all__ = ["in_step", "meet", "meet_itself", "of_other_tokens", "spread"]
