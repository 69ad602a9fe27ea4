"""Token provenance: which input's tokens the rows of a tensor are, and which attention calls they have absorbed.

Every tensor that comes from a model's input carries a `Tag`. Its `ids` have the tensor's own shape and name, element by
element, the (sample, row) that the element belongs to; along feature axes they are constant and cost nothing (stride 0).
A movement (reshape, transpose, roll, gather, cat, ...) is the same movement of the ids, so axes are followed and never
guessed from lengths: a model whose batch, tokens, heads and head size are all 4 is read like any other.

Rows are numbered over all streams. A contraction of raw elements (an embedding, a patch convolution, a first linear
layer) makes tokens; a contraction of several rows that have already been through attention (Swin's merging)
gives new rows and a token map, `Merge`, which the walk goes back through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

from regard.recording.tokens.birth import (
    each_once,
    in_order,
    of_features,
    of_several,
    owners_of_all,
    regrouped,
    standing,
    tokens_apart,
    whole_axis,
)
from regard.recording.tokens.by_tensor import ByTensor
from regard.recording.tokens.cells import lattice
from regard.recording.tokens.parameter_names import Names
from regard.recording.tokens.tags import (
    SEVERAL,
    STRIDE,
    Merge,
    Mixing,
    Source,
    Stream,
    Tag,
    constant,
    first_along,
    is_parameter,
    lost,
    occurrence,
    thin,
)


class Trail:
    """The tags of one run, the streams found, and the token maps. Follows operations through `follow`."""

    def __init__(self, names: Names, batches: set[int]) -> None:
        self.tags: ByTensor[tuple[Tag, int]] = ByTensor()  # with where the tensor's memory began
        self.names = names
        self.batches = batches
        self.streams: list[Stream] = []
        self.merges: list[Merge] = []
        self.rows = 1
        self.final_seen: dict[int, int] = {}
        self._known: dict[Any, Stream] = {}
        self._births: dict[Any, int] = {}
        self._sources: dict[str, Source] = {}
        self.events = 0
        self.call_events = 0
        self.aliases: dict[str, str] = {}
        self.meets: dict[str, dict[str, None]] = {}
        self.displaced: set[str] = set()
        self.unseen: dict[str, None] = {}
        self.rereads: list[Any] = []
        self.lent: list[tuple[Tensor, int, Tensor, str]] = []
        self.apart: ByTensor[TensorWeakRef] = ByTensor()
        self.constants: ByTensor[bool] = ByTensor()
        self.renamed: dict[tuple[str, str, str], int] = {}
        self.raw_pairs: list[tuple[int, str, str, Tensor, Tensor]] = []
        self.entered: dict[str, Tag] = {}
        self.whole_numbers = False
        self.doubts: list[tuple[int, str, str]] = []
        self.copies: dict[int, int] = {}
        self.made_of: dict[int, int] = {}
        self.mixers: dict[str, None] = {}
        self.module: Callable[[], str] = lambda: ""
        self.modules: dict[str, dict[str, None]] = {}
        self.looked_up: set[str] = set()
        self.mixings: list[Mixing] = []
        self.spreads: list[Mixing] = []
        self.overlapping: dict[str, int] = {}
        self.softmaxes = 0
        self.summands: dict[int, int] = {}
        self.weighed: ByTensor[tuple[Tensor, ...]] = ByTensor()
        self.met: ByTensor[Any] = ByTensor()
        self.told: ByTensor[tuple[Mixing, ...]] = ByTensor()
        self.beside: dict[frozenset[str], int] = {}
        self.joins: dict[tuple[int, int, str], int] = {}
        self.stacked: ByTensor[tuple[int, list[tuple[int, int]]]] = ByTensor()
        self.parts: ByTensor[Any] = ByTensor()
        self.widths: ByTensor[Any] = ByTensor()
        self.part_of: dict[int, int] = {}
        self.absorbed: list[tuple[int, bool]] = []
        self.confused = 0
        self.queried: dict[int, Tensor] = {}
        self._copied: dict[bytes, tuple[int, int]] = {}
        self.multiplied: dict[int, tuple[Tensor, Tensor]] = {}
        self._patterns: dict[tuple[int, ...], int] = {}
        self._merged: dict[Any, tuple[int, int]] = {}
        self.neighbours: dict[bytes, list[Tensor]] = {}
        self._variants: dict[tuple[int, bytes], tuple[int, int]] = {}

    # -- tags -------------------------------------------------------------------------------------------------------

    def tag(self, tensor: Any) -> Tag | None:
        """The tensor's tag, if it has one; lost where its memory has been exchanged (`set_`, which no mode sees)."""
        found = self.tags.get(tensor)
        if found is None:
            based = isinstance(tensor, Tensor) and tensor._base is not None
            return self._of_base(tensor, tensor._base) if based else None
        tag, began = found
        if began != _pointer(tensor):
            return lost(replace(tag, ids=torch.zeros((), dtype=torch.int64).expand(tensor.shape)), "set_")
        return tag

    def _of_base(self, view: Tensor, base: Tensor) -> Tag | None:
        """The tag of a view that was taken before its tensor held anybody's rows."""
        found = self.tags.get(base)
        if found is None:
            return None
        of, _ = found
        if of.lost or of.keys is not None or not base.is_contiguous():
            return lost(replace(of, ids=torch.zeros((), dtype=torch.int64).expand(view.shape)), "a view")
        ids = of.ids.contiguous()
        return replace(of, ids=ids.as_strided(view.shape, view.stride(), view.storage_offset() - base.storage_offset()))

    def put(self, tensor: Any, tag: Tag | None) -> None:
        """Tag a tensor (parameters are never tagged: the user's objects stay clean), or forget its tag."""
        if not isinstance(tensor, Tensor) or is_parameter(tensor):
            return
        if tag is None:
            self.tags.pop(tensor)
            self.constants[tensor] = True  # seen, and nobody's: a sum that scores are divided by
            return
        if tag.ids.shape != tensor.shape:
            tag = replace(tag, ids=torch.zeros((), dtype=torch.int64).expand(tensor.shape), keys=None, lost="shape")
        self.tags[tensor] = tag, _pointer(tensor)
        if self.attended(tag):
            last = (tag.seen & self.call_events).bit_length() - 1
            self.final_seen[last] = self.final_seen.get(last, 0) | tag.seen

    def enter(self, tensor: Tensor, source: Source, axis: int | None = 0) -> None:
        """Tag a model input: every element is its own row, sample by sample along an axis (None: all are one sample's); of a
        packed input, nobody's yet."""
        ids = torch.arange(1, math.prod(source.shape) + 1).view(source.shape)
        if source.packed:
            ids = self._for_single(ids)
        elif source.shared:
            ids = ids if axis is None else ids.unsqueeze(axis)
        elif axis is None:
            ids = ids + STRIDE
        else:
            samples = torch.arange(1, tensor.shape[axis] + 1) * STRIDE
            ids = (ids + samples.view(-1, *[1] * len(source.shape))).movedim(0, axis)
        self.entered[source.name] = tag = Tag(ids, source, raw=True)
        self.whole_numbers |= not source.floats
        self.put(tensor, tag)

    def next_event(self, call: bool = False) -> int:
        """Number the next call or token map."""
        if call:
            self.call_events |= 1 << self.events
        self.events += 1
        return self.events - 1

    def parameter_tag(self, tensor: Any) -> Tag | None:
        """The tag of a tensor; for a parameter, a weak one whose rows are all but its last axis."""
        if not is_parameter(tensor):
            return self.tag(tensor)
        name = self.names.of(tensor)
        if name is None or not tensor.ndim:
            return None
        stream = self._parameter_stream(tensor, name)
        ids = torch.arange(stream.first, stream.first + stream.count).view(*tensor.shape[:-1], 1)
        return Tag(self._for_single(ids).expand(tensor.shape), self._parameter_source(tensor, name))

    def _parameter_source(self, tensor: Tensor, name: str) -> Source:
        """A parameter's source; where two meet, the one of fewer rows names them (a class token, not its position)."""
        return self._sources.setdefault(name, Source(name, 10_000 + math.prod(tensor.shape[:-1])))

    def _parameter_stream(self, tensor: Tensor, name: str) -> Stream:
        key = ("parameter", name, tuple(tensor.shape))
        if key not in self._known:
            self._known[key] = self.new_stream(name, math.prod(tensor.shape[:-1]), "parameter")
        return self._known[key]

    def _for_single(self, ids: Tensor) -> Tensor:
        """With one sample only, rows of a parameter are that sample's at once."""
        return ids + STRIDE if self.batches == {1} else ids

    def new_stream(self, name: str, count: int, kind: str, **more: Any) -> Stream:
        """Rows of their own for a stream."""
        stream = Stream(name, self.rows, count, kind, **more)
        self.rows += count
        self.streams.append(stream)
        return stream

    def doubt(self, tag: Tag, why: str) -> None:
        """From now on it is not quite certain whose tokens the rows of a stream are."""
        self.doubts.append((self.events, tag.source.name, why))
        self.mixings.append(Mixing(self.events, frozenset([tag.source.name]), ""))

    def mixes(self, operation: str, *tags: Tag, told: bool = True) -> None:
        """An operation outside attention mixes rows in a way that is not followed. told: the receipt names it."""
        self.at_work(operation, next((t.lost_in for t in tags if t.lost == operation), ""))
        if told:
            self.mixers.setdefault(operation)
        self.mixings.append(Mixing(self.events, frozenset(t.source.name for t in tags), operation))

    def at_work(self, operation: str, module: str = "") -> None:
        """Note the module in which an operation mixes rows; the one at work, if it is not named."""
        self.modules.setdefault(operation, {}).setdefault(module or self.module())

    def retract(self, told: Sequence[Mixing]) -> None:
        """What was taken for mixing was attention."""
        self.mixings, self.spreads = (
            [m for m in every if not any(m is t for t in told)] for every in (self.mixings, self.spreads)
        )
        for operation in {m.operation for m in told} - {m.operation for m in self.mixings}:
            self.mixers.pop(operation, None)

    def joined(self, how: str, tags: Sequence[Tag | None]) -> list[tuple[int, int]]:
        """Rows that have absorbed different calls meet: side by side along the width or the rows, or added (attention.py).
        Returns the sets of events that have met so for the first time."""
        new = []
        names = frozenset(t.source.name for t in tags if t is not None)
        if how == "rows" and len(names) > 1:
            self.beside.setdefault(names, self.events)
        before = 0
        for seen in (t.seen & self.call_events for t in tags if t is not None):
            left, right = before & ~seen, seen & ~before
            if left and right and (left, right, how) not in self.joins:
                self.joins[left, right, how] = self.events
                new.append((left, right))
            before |= seen
        return new

    def summed(self, tensor: Tensor, dims: Sequence[int]) -> None:
        """Axes of a tensor are summed over: other rows that were stacked along one of them are no rows of one attention."""
        base = tensor if tensor in self.stacked or tensor._base is None else tensor._base
        found = self.stacked.get(base)
        if found is None:
            return
        axis, pairs = found
        if any(tensor.shape[d] == base.shape[axis] and tensor.stride(d) == base.stride(axis) for d in dims):
            for left, right in pairs:
                time = self.joins.pop((left, right, "rows"), self.events)
                self.joins.setdefault((left, right, "added"), time)

    def calls_of(self, tensor: Tensor) -> int:
        """The calls that a tensor has absorbed."""
        tag = self.tag(tensor)
        return 0 if tag is None else tag.seen & self.call_events

    # -- births, merges ---------------------------------------------------------------------------------------------

    def attended(self, tag: Tag) -> bool:
        """Whether the rows have been through an attention call."""
        return bool(tag.seen & self.call_events)

    def born(self, tag: Tag, ids: Tensor, cells: Tensor | None = None, by: str = "cat") -> Tag:
        """Tokens of a raw (or not yet attended) stream: one for each distinct id, in the input's own order.

        `ids` stand for the new rows (one raw element, or earlier token, each). The same elements give the same tokens. `cells`
        (ids' shape, m) are all elements, or earlier tokens, that a row is made of: should a call read such tokens as they
        were, too, then the new rows are a later stage of theirs (`later_stages`), else they take their place. by: the operation
        that makes them, of which the receipt tells where they have elements in common.
        """
        samples, rows, shape = ids // STRIDE * STRIDE, ids % STRIDE, tag.source.shape
        features = False
        if cells is not None and of_several(cells):
            return lost(replace(tag, ids=torch.zeros_like(ids), raw=False), SEVERAL)
        if cells is not None and tag.raw and not tag.source.ids and (apart := each_once(ids, cells, shape)) is not None:
            cells = apart
            self.mixes(by, tag)
        if tag.raw and tag.source.ids:
            elements, index, nobody = torch.arange(1, math.prod(shape) + 1), rows - 1, False
        else:
            elements, index = torch.unique(rows, return_inverse=True)
            nobody = bool(len(elements) and elements[0] == 0)
            elements = elements[int(nobody) :]
            if tag.raw and (whole := whole_axis(elements, shape, cells)) is not None:
                elements, index, nobody, features = whole, (rows - 1) // shape[1], False, True
        if not tag.raw:
            elements = self._elements_of(elements)
        key = (tag.source.name, elements.numpy().tobytes())
        if key not in self._known:
            packed = tag.source.packed
            found = None if packed or tag.source.ids else lattice(elements, shape)
            more = {
                "grid": None if found is None else found[1],
                "elements": elements,
                "packed": packed,
                "shape": shape,
                "owned": None
                if tag.source.ids
                else partial(of_features, shape)
                if features
                else self._owned(tag, index - int(nobody), ids[..., None] if cells is None else cells),
            }
            self._known[key] = self.new_stream(tag.source.name, len(elements), "input", **more)
            if cells is not None and not tag.raw:
                sources = torch.zeros(len(elements) + int(nobody), cells.shape[-1], dtype=torch.int64)
                sources[index.flatten()] = (cells % STRIDE).flatten(0, -2)
                rows_made = torch.arange(len(elements)) + self._known[key].first
                self.merges.append(Merge(self.next_event(), rows_made, sources[int(nobody) :], tentative=True))
                self._births[key] = self.events - 1
        new = index - int(nobody) + self._known[key].first
        seen = tag.seen | (1 << self._births[key] if key in self._births else 0)
        made = torch.where(rows == 0, 0, samples + new)
        if tag.raw and tag.source.ids:
            made = self._with_added(made, tag.source.name)
        return replace(tag, ids=made, raw=False, seen=seen)

    def _with_added(self, ids: Tensor, name: str) -> Tensor:
        """Nobody's places among token ids (a decoder's start token) get rows of their own: others look at them, too."""
        flat = ids.reshape(len(ids), -1)
        places = (flat == 0).any(0).nonzero()[:, 0]
        if not len(places):
            return ids
        key = ("added", name, places.numpy().tobytes())
        if key not in self._known:
            self._known[key] = self.new_stream(f"{name}.added", len(places), "added")
        rows = torch.zeros(flat.shape[1], dtype=torch.int64)
        rows[places] = torch.arange(len(places)) + self._known[key].first
        sample = flat.amax(1, keepdim=True) // STRIDE * STRIDE
        return torch.where(flat > 0, flat, sample + rows).reshape(ids.shape)

    def later_stages(self, used: Tensor) -> None:
        """Decide on tentative token maps: kept where a call reads their sources as well. `used`: bool (row,)."""
        for merge in reversed(self.merges):
            if bool(used[merge.rows].any()) and not merge.tentative:
                used[merge.sources.flatten()] = True
                if merge.mixes:
                    self.mixers.setdefault(merge.mixes)
        kept = []
        for merge in self.merges:
            sources = merge.sources[merge.sources > 0]
            if merge.tentative and bool(used[merge.rows].any()) and bool(used[sources].any()):
                self.stream_of(int(merge.rows[0])).kind = "merged"
            elif merge.tentative:
                continue
            kept.append(merge)
        self.merges = kept

    def _owned(self, tag: Tag, tokens: Tensor, cells: Tensor) -> Callable[[], Tensor]:
        """What finds the token of each element of the input; `cells` are elements, or rows of streams before this one."""
        count = math.prod(tag.source.shape)
        if tag.raw:
            return partial(owners_of_all, count, tokens, cells)
        first, last = int((cells % STRIDE).min()), int((cells % STRIDE).max())
        before = [s for s in self.streams if s.first <= last and s.first + s.count > first and s.owned is not None]
        return partial(regrouped, count, before, tokens, cells)

    def _elements_of(self, rows: Tensor) -> Tensor:
        stream = self.stream_of(int(rows[0]))
        return rows if stream.elements is None else stream.elements[rows - stream.first]

    def merged(self, tag: Tag, sources: Tensor) -> Tag:
        """New rows, each the mean of the ids in `sources`'s last axis (which is kept, with length 1).

        The same rows merged once more at the same stage are the same new rows: queries, keys, values and the shortcut, each
        pooled in a way of its own.
        """
        own = sources[sources > 0]
        overlapping = len(own) > len(own.unique()) and len(sources.flatten(0, -2).unique(dim=0)) > 1
        if not self.attended(tag) and not overlapping:
            return self.born(tag, first_along(sources, -1), sources[..., None, :])
        distinct, index = torch.unique(sources.flatten(0, -2), dim=0, return_inverse=True)
        samples, rows = (distinct // STRIDE).amax(1) * STRIDE, distinct % STRIDE  # the first of them may be padding
        patterns, which = torch.unique(rows, dim=0, return_inverse=True)
        key = (tag.source.name, tag.seen, tuple(patterns.shape), patterns.numpy().tobytes())
        if key not in self._merged:
            self._merged[key] = self._merge(tag, patterns)
        first, event = self._merged[key]
        ids = (samples + first + which)[index].view(*sources.shape[:-1], 1)
        return replace(tag, ids=ids, seen=tag.seen | 1 << event)

    def _merge(self, tag: Tag, patterns: Tensor) -> tuple[int, int]:
        """New rows, one of each pattern (row, source): the first of them, and the event of the token map."""
        stream = self.new_stream(tag.source.name, len(patterns), "merged", packed=tag.source.packed)
        made = torch.arange(stream.first, stream.first + stream.count)
        for row, pattern in zip(made.tolist(), patterns.tolist(), strict=True):
            if (twin := self._patterns.setdefault(tuple(pattern), row)) != row:
                self.copies[row] = twin
        self.merges.append(Merge(self.next_event(), made, patterns))
        return stream.first, self.events - 1

    def combined(
        self,
        tag: Tag,
        sources: Tensor,
        weights: Tensor | None = None,
        apart: Tensor | None = None,
        mixes: str = "",
    ) -> Tag:
        """Rows, each made of the ids in `sources`'s last axis (which is kept, with length 1): of those that are somebody's.

        Shares are 1/m each, or `weights` (sources' shape), brought to sum 1 in magnitude: a sum of tokens says of each of them
        what their mean says. A row that is made of one row alone is that row. All others are rows of their own, whether or not
        they have been through attention; those with different numbers `apart` (..., 1) are different rows. mixes: see `Merge`.
        """
        flat = sources.flatten(0, -2)
        shares = (
            torch.ones(flat.shape, dtype=torch.float64) if weights is None else weights.double().reshape(flat.shape)
        )
        shares = shares * (flat % STRIDE > 0)
        flat = torch.where(shares != 0, flat, 0)
        own = flat.amax(1)
        several = ((flat != own[:, None]) & (flat > 0)).any(1)
        if not bool(several.any()):
            return replace(tag, ids=own.view(*sources.shape[:-1], 1))
        shares = (shares / shares.abs().sum(1, keepdim=True))[several]
        table = torch.cat([flat[several] % STRIDE, shares.view(torch.int64)], 1)
        if apart is not None:
            table = torch.cat([table, apart.flatten(0, -2)[several]], 1)
        patterns, which = torch.unique(table, dim=0, return_inverse=True)
        m = flat.shape[1]
        stream = self.new_stream(tag.source.name, len(patterns), "merged", packed=tag.source.packed)
        event = self.next_event()
        made = torch.arange(stream.first, stream.first + stream.count)
        parts = patterns[:, m : 2 * m].contiguous().view(torch.float64)
        self.merges.append(Merge(event, made, patterns[:, :m].contiguous(), weights=parts, mixes=mixes))
        if mixes:
            self.mixes(mixes, tag, told=False)
        own[several] = own[several] // STRIDE * STRIDE + made[which]
        return replace(tag, ids=own.view(*sources.shape[:-1], 1), seen=tag.seen | 1 << event)

    def copies_apart(self, ids: Tensor) -> tuple[Tensor, int]:
        """Query rows (group, token) in which copies of one row (mask tokens, tokens said twice) are rows of their own, and the
        token map's bit in `seen` (0: there are none). From here on they differ; what each was made of is the one row."""
        rows, nth = ids % STRIDE, occurrence(ids)
        if not bool((nth > 0).any()):
            return ids, 0
        copied = torch.unique(rows[(rows > 0) & (nth > 0)])
        if not len(copied):
            return ids, 0
        mine = torch.isin(rows, copied)
        each, which = torch.unique(torch.stack([rows[mine], nth[mine]]), dim=1, return_inverse=True)
        first, event = self._copies_of(each)
        out = ids.clone()
        out[mine] += first + which - rows[mine]
        return out, 1 << event

    def variant(self, tag: Tag, by: int) -> Tag:
        """A parameter's rows changed by row `by` of another one: rows of their own, made of those that they were before any
        call."""
        rows = torch.unique(tag.ids % STRIDE)
        rows = rows[rows > 0]
        key = (by, rows.numpy().tobytes())
        if key not in self._variants:
            self._variants[key] = self._made_of(rows, self.call_events & ~tag.seen)
        first, event = self._variants[key]
        new = first + torch.searchsorted(rows, tag.ids % STRIDE)
        ids = torch.where(tag.ids % STRIDE > 0, tag.ids - tag.ids % STRIDE + new, tag.ids)
        return replace(tag, ids=ids, seen=tag.seen | 1 << event)

    def at_their_stages(self, tags: Sequence[Tag | None]) -> list[Tag | None] | None:
        """Tags of tensors that are about to stand side by side. Rows that have not absorbed a call whose other rows the joint
        state holds, though the call had them among its queries, are rows of their own from here on: the same, at an earlier
        stage (x with only its class token exchanged for a newer one). None where several tensors hold one row, each after
        calls of its own (copies of a token, attended in chunks): these cannot be told from one another."""
        seen = 0
        for tag in tags:
            seen |= tag.seen if tag is not None else 0
        missing = [0 if tag is None else seen & self.call_events & ~tag.seen for tag in tags]
        stale = [self._changed_elsewhere(t, m) if t is not None and m else None for t, m in zip(tags, missing)]
        several = torch.cat([rows for rows in stale if rows is not None] or [torch.zeros(0, dtype=torch.int64)])
        if len(several) > len(several.unique()):
            self.confuse(tags)
            return None
        return [
            tag if tag is None or rows is None or not len(rows) else self._staged(tag, rows % STRIDE, m)
            for tag, rows, m in zip(tags, stale, missing)
        ]

    def confuse(self, tags: Sequence[Tag | None]) -> None:
        """Copies of a token have been told apart by several calls, each in its own way: whose rows are whose is not known."""
        known = [t for t in tags if t is not None]
        everywhere = self.call_events
        for tag in known:
            everywhere &= tag.seen
        rows = torch.cat([thin(t.ids).unique() for t in known])
        for tag in known:
            own = tag.seen & self.call_events & ~everywhere
            for event in range(own.bit_length()):
                if own >> event & 1 and bool(torch.isin(self.queried[event], rows).any()):
                    self.confused |= 1 << event

    def _changed_elsewhere(self, tag: Tag, missing: int) -> Tensor:
        """Ids of a tensor's rows that calls which it has not absorbed had among their queries."""
        none = torch.zeros(0, dtype=torch.int64)
        changed = [self.queried[e] for e in range(missing.bit_length()) if missing >> e & 1 and e in self.queried]
        if tag.raw or tag.keys is not None or tag.lost or not changed:
            return none
        own = thin(tag.ids).unique()
        own = own[own % STRIDE > 0]
        found: Tensor = own[torch.isin(own, torch.cat(changed))]
        return found

    def _staged(self, tag: Tag, stale: Tensor, missing: int) -> Tag:
        """The tag, with some of its rows as rows of their own."""
        stale = stale.unique()
        first, event = self._made_of(stale, missing)
        rows = tag.ids % STRIDE
        new = torch.where(torch.isin(rows, stale), first + torch.searchsorted(stale, rows), rows)
        return replace(tag, ids=tag.ids - rows + new, seen=tag.seen | 1 << event)

    def _copies_of(self, each: Tensor) -> tuple[int, int]:
        """New rows for copies, (row, how often it stood before): the same copies are the same rows in every call (heads)."""
        key = each.numpy().tobytes()
        if key not in self._copied:
            self._copied[key] = self._made_of(each[0])
        return self._copied[key]

    def _made_of(self, rows: Tensor, without: int = 0) -> tuple[int, int]:
        """New rows, one of each of some rows: the first of them, and the event of the token map."""
        stream = self.new_stream(self.stream_of(int(rows[0])).name, len(rows), "merged")
        made = torch.arange(stream.first, stream.first + stream.count)
        self.merges.append(Merge(self.next_event(), made, rows[:, None], without=without))
        self.copies.update((m, self.copies.get(r, r)) for m, r in zip(made.tolist(), rows.tolist(), strict=True))
        self.made_of.update(zip(made.tolist(), rows.tolist(), strict=True))
        return stream.first, self.events - 1

    def alike(self, a: Tensor, b: Tensor) -> bool:
        """Whether ids name the same tokens, be it at different stages: copies told apart, merged of the same rows, or not yet
        given to samples."""
        if torch.equal(a, b):
            return True
        table = torch.arange(self.rows)
        if self.copies:
            table[torch.tensor([*self.copies])] = torch.tensor([*self.copies.values()])
        x, y = a // STRIDE, b // STRIDE
        return bool((table[a % STRIDE] == table[b % STRIDE]).all() and ((x == y) | (x == 0) | (y == 0)).all())

    def in_line(self, a: Tensor, b: Tensor) -> bool:
        """Whether rows that are copies of the same ones were made of one another (and are not copies told apart twice)."""
        older, newer = torch.minimum(a % STRIDE, b % STRIDE), torch.maximum(a % STRIDE, b % STRIDE)
        table = torch.arange(self.rows)
        if self.made_of:
            table[torch.tensor([*self.made_of])] = torch.tensor([*self.made_of.values()])
        while bool((newer > older).any()):
            up = torch.where(newer > older, table[newer], newer)
            if torch.equal(up, newer):
                return False
            newer = up
        return torch.equal(newer, older)

    def stream_of(self, row: int) -> Stream:
        """The stream that a row belongs to."""
        return next(s for s in self.streams if s.first <= row < s.first + s.count)

    def settled(self, tag: Tag) -> Tag:
        """Raw features (batch, tokens, width) that meet tokens: their last axis is the features'."""
        if tag.keys is not None:
            return lost(tag, "pairs of tokens")
        if not tag.raw:
            return tag
        if (apart := tokens_apart(tag)) is not None:
            return self.born(tag, apart)
        return self.born(tag, standing(tag.ids), tag.ids[..., None, :]).moved(lambda i: i.expand(tag.ids.shape))

    def contracted(self, tag: Tag, dim: int, name: str) -> Tag:
        """A tag after one axis has been summed over with weights; the axis is kept with length 1."""
        if tag.raw:
            cells = tag.ids.movedim(dim, -1)
            return self.born(tag, standing(cells).movedim(-1, dim), cells.unsqueeze(dim % tag.ids.ndim), name)
        if all(constant(t.ids, dim) for t in (tag, tag.keys) if t is not None):
            return tag.moved(lambda i: first_along(i, dim))
        if tag.keys is not None:
            return lost(tag, name)
        ids = tag.ids.movedim(dim, -1)
        changes = (ids[..., 1:] != ids[..., :-1]).flatten(0, -2).any(0)
        if (
            int(changes.sum()) > 15
        ):  # features of several rows in turn: each row once is enough where all occur equally often
            ids, changes = in_order(ids, changes)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), changes.nonzero()[:, 0] + 1])
        return self.merged(tag, ids[..., starts]).moved(lambda i: i.movedim(-1, dim))

    def learned(self, ids: Tensor) -> Tensor:
        """Whether rows are a parameter's, at each place."""
        table = torch.zeros(self.rows, dtype=torch.bool)
        for stream in self.streams:
            table[stream.rows] |= stream.kind == "parameter"
        return table[ids % STRIDE]

    def for_samples(self, ids: Tensor, shape: Sequence[int]) -> Tensor:
        """`ids.expand(shape)`; rows of a parameter that are thereby handed to every sample become the samples' own."""
        if ids.shape == shape:
            return ids
        out = ids.expand(shape)
        few = thin(ids)
        if not bool(((few > 0) & (few < STRIDE)).any()):
            return out
        old = [1] * (len(shape) - ids.ndim) + list(ids.shape)
        for dim, (a, b) in enumerate(zip(old, shape, strict=True)):
            if a == 1 and b > 1 and b in self.batches:
                sample = (torch.arange(1, b + 1) * STRIDE).view(-1, *[1] * (len(shape) - dim - 1))
                few = thin(out, but=dim)
                return torch.where((few > 0) & (few < STRIDE), few + sample, few).expand(shape)
        return out


def _pointer(t: Tensor) -> int:
    """Where a tensor's memory begins; 0 where it has none of its own."""
    try:
        return t.data_ptr()
    except RuntimeError:
        return 0
