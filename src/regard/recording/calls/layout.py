"""From a call's own axes to (group, head, token, width), and back."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from regard.recording.tokens.tags import constant


@dataclass(frozen=True)
class Layout:
    """From a call's own axes (lead..., token, width) to (group, head, token, width).

    A lead axis along which the ids do not change is a head axis; the others are groups (samples, windows). Groups whose
    ids repeat (batch × heads flattened into one axis, sample by sample or head by head) are heads too; where they do not
    stand side by side, `places` says where each (group, head) does.
    """

    lead: tuple[int, ...]
    order: tuple[int, ...]
    groups: int
    heads: int
    places: Int[Tensor, " pair"] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, queries: Tensor, keys: Tensor) -> Layout:
        """From ids (lead..., query) and (lead..., key)."""
        lead = queries.shape[:-1]
        head = [d for d in range(len(lead)) if constant(queries, d) and constant(keys, d)]
        order = [d for d in range(len(lead)) if d not in head] + head
        heads = int(torch.tensor([lead[d] for d in head]).prod()) if head else 1
        groups = int(torch.tensor(lead).prod()) // heads if lead else 1
        flat = [t.permute(*order, -1).reshape(groups, heads, -1)[:, 0] for t in (queries, keys)]
        ids = torch.cat(flat, 1)
        repeats, places = _run_length(ids), None
        if repeats == 1 and (alike := _scattered(ids)) is not None:
            repeats = alike.shape[1]
            places = (alike[..., None] * heads + torch.arange(heads)).flatten()
        return cls(tuple(lead), tuple(order), groups // repeats, heads * repeats, places)

    def __call__(self, t: Tensor) -> Tensor:
        """(lead..., token, width) -> (group, head, token, width); lead axes of length 1 are broadcast."""
        t = t.expand(*self.lead, *t.shape[-2:])
        n = len(self.lead)
        t = t.permute(*self.order, n, n + 1)
        if self.places is not None:
            t = t.reshape(-1, *t.shape[-2:])[self.places.to(t.device)]
        return t.reshape(self.groups, self.heads, *t.shape[-2:])

    def of_groups(self, ids: Tensor) -> Int[Tensor, "group token"]:
        """Ids (lead..., token), one row for each group."""
        return self(ids[..., None])[:, 0, :, 0].contiguous()

    def pairs(self, t: Tensor, part: slice) -> Tensor:
        """(lead..., token, width) -> (some of group · head, token, width); a copy of that part only, and only where needed.

        A lead axis of `t` may be shorter than the call's: keys and values of grouped heads serve the queries of their group.
        """
        shape = (1,) * (len(self.lead) - t.ndim + 2) + tuple(t.shape[:-2])
        t = t.reshape(*shape, *t.shape[-2:])
        if all(n == 1 for n in shape):
            return t.reshape(1, *t.shape[-2:]).expand(part.stop - part.start, -1, -1)
        if shape == self.lead and len(shape) == 1 and self.places is None:
            return t[part]
        if self.places is None and shape == self.lead == (self.groups, self.heads) and self.order == (0, 1):
            first, last = part.start // self.heads, -(-part.stop // self.heads)
            return t[first:last, part.start - first * self.heads :][:, : part.stop - part.start].flatten(0, 1)
        numbers = torch.arange(part.start, part.stop, device=t.device)
        numbers = numbers if self.places is None else self.places.to(t.device)[part]
        at = torch.unravel_index(numbers, [self.lead[d] for d in self.order])
        index = {d: at[i] * shape[d] // self.lead[d] for i, d in enumerate(self.order)}
        return t[tuple(index[d] for d in range(len(self.lead)))]

    def back(self, t: Tensor) -> Tensor:
        """(group, head, token, width) -> (lead..., token, width)."""
        n = len(self.lead)
        if self.places is not None:
            t = t.reshape(-1, *t.shape[-2:])[self.places.argsort().to(t.device)]
        t = t.reshape(*[self.lead[d] for d in self.order], *t.shape[-2:])
        inverse = sorted(range(n), key=lambda d: self.order[d])
        return t.permute(*inverse, n, n + 1)


def _run_length(ids: Tensor) -> int:
    """How often each row of ids is repeated in place, where every row is repeated equally often; else 1."""
    if len(ids) < 2:
        return 1
    changes = (ids[1:] != ids[:-1]).any(1).nonzero()[:, 0] + 1
    run = int(changes[0]) if len(changes) else len(ids)
    regular = len(ids) % run == 0 and torch.equal(changes, torch.arange(run, len(ids), run))
    return run if regular else 1


def _scattered(ids: Tensor) -> Int[Tensor, "group repeat"] | None:
    """Where the rows of ids that are alike stand, group by group, where each stands equally often and more than once."""
    if len(ids) < 2 or int((ids == ids[0]).all(1).sum()) < 2:
        return None
    _, which, counts = torch.unique(ids, dim=0, return_inverse=True, return_counts=True)
    if not bool((counts == counts[0]).all()):
        return None
    first = torch.full_like(counts, len(ids)).scatter_reduce(0, which, torch.arange(len(ids)), "amin")
    return first[which].argsort(stable=True).view(len(counts), -1)
