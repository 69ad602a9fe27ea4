"""What the user says of a run's tokens where the trail is lost, or leads astray: `streams={"name": ...}`.

A stream may be said of an attention call (its keys, and the queries of self-attention, are that stream's tokens in order), or
of an input (one of its axes is the tokens'). What is said is used as it is, noted for the receipt, and checked: a statement
that does not fit the run is one sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from regard.errors import Misuse, TrailLost, nearest
from regard.recording.tokens.tags import (
    PARAMETERS,
    STRIDE,
    Source,
    Stream,
    Tag,
    Why,
    first_along,
    kind_of,
)
from regard.recording.tokens.tracker import Trail

FIELDS = ("call", "side", "at", "grid", "axis")
SIDES = {"": ("keys", "queries"), "both": ("keys", "queries"), "keys": ("keys",), "queries": ("queries",)}
SAMPLES = (
    "axis 0 of the inputs was taken for the samples. Where another axis is theirs, as in (tokens, batch, width), say "
    "batch_axis=1; where none is, as in (tokens, width), batch_axis=None; a dict, {'input': 1}, where inputs differ"
)
SAID = 1_000
"""The rank of a stream that the user made up: after the inputs, before the parameters."""


@dataclass(frozen=True, eq=False)
class Override:
    """`side` of `call` (a number, or a module's path) is stream `name`; or `axes` of input `name` are its tokens'.

    `at` are the positions at which the stream's tokens stand there; None: all, in order.
    """

    name: str
    call: int | str | None = None
    side: str = ""
    at: Any = None
    grid: tuple[int, int] | None = None
    axes: tuple[int, ...] = ()

    def of(self, index: int, module: str) -> bool:
        """Whether the statement is about this call."""
        if isinstance(self.call, str):
            return module == self.call or module.startswith(self.call + ".")
        return self.call == index


@dataclass(frozen=True)
class CallPlace:
    """An attention call as far as it is known without its tokens: its leading axes (samples, heads), rows and keys."""

    index: int
    module: str
    lead: tuple[int, ...]
    rows: int
    keys: int

    def __str__(self) -> str:
        axes = f", leading axes {' x '.join(map(str, self.lead))}" if self.lead else ""
        return f"attention call {self.index} ({self.module or 'the model'}: {self.rows} rows, {self.keys} keys{axes})"

    def count(self, side: str) -> int:
        """How many rows or keys."""
        return self.rows if side == "queries" else self.keys


def stated_in(streams: Any) -> list[Override]:
    """The user's `streams`, one statement each; Misuse and UnknownName for what is no statement."""
    if streams is None:
        return []
    if not isinstance(streams, Mapping):
        raise Misuse(f"streams must be a dict from a stream's name to a call or an axis, not {type(streams).__name__}")
    if wrong := [name for name in streams if not isinstance(name, str)]:
        raise Misuse(f"streams must be a dict from a stream's name to a call or an axis; {wrong[0]!r} is not a name")
    return [s for name, what in streams.items() for s in _stated(name, what)]


def _stated(name: str, what: Any) -> Iterator[Override]:
    if isinstance(what, list | tuple) and what:
        for one in what:
            yield from _stated(name, one)
    elif isinstance(what, str) or (isinstance(what, int) and not isinstance(what, bool)):
        yield Override(name, call=what)
    elif isinstance(what, Mapping):
        yield from _fields(name, what)
    else:
        raise Misuse(
            f"streams[{name!r}] must be the number of an attention call, a module's path, a list of these, or a dict such "
            f"as {{'call': 3, 'side': 'keys'}} or {{'axis': 1}}, not {what!r}"
        )


def _fields(name: str, what: Mapping[str, Any]) -> Iterator[Override]:
    for key in what:
        if key not in FIELDS:
            raise nearest(str(key), FIELDS, f"field of streams[{name!r}]")
    if ("call" in what) == ("axis" in what):
        raise Misuse(f"streams[{name!r}] must name either a call or an axis, and not both")
    side, grid = what.get("side", ""), what.get("grid")
    if side not in SIDES:
        raise nearest(str(side), ("keys", "queries", "both"), "side")
    if "axis" in what:
        axes = what["axis"] if isinstance(what["axis"], list | tuple) else (what["axis"],)
        if len(what) > 1 or not axes or not all(isinstance(a, int) for a in axes):
            raise Misuse(f"streams[{name!r}]: an axis is a number (or several), and stands alone")
        yield Override(name, axes=tuple(axes))
        return
    for one in _stated(name, what["call"]):
        if one.call is None:
            raise Misuse(f"streams[{name!r}]: a call is a number or a module's path, not {what['call']!r}")
        yield Override(name, one.call, side, what.get("at"), None if grid is None else (int(grid[0]), int(grid[1])))


@dataclass
class Overrides:
    """The user's statements during one run: what was used, and the calls that are lost nevertheless.

    notes: call -> stream -> the sides said to hold its tokens. places: every call. lost: call -> the lost side, and its source.
    """

    stated: list[Override]
    used: set[Override] = field(default_factory=set)
    notes: dict[int, dict[str, list[str]]] = field(default_factory=dict)
    places: dict[int, CallPlace] = field(default_factory=dict)
    lost: dict[int, tuple[str, str]] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)

    # -- of inputs --------------------------------------------------------------------------------------------------

    def entered(self, trail: Trail, name: str, tag: Tag) -> Tag:
        """The tag of an input, its tokens born at once where the user names their axis."""
        axes = sorted({_axis(s, a, tag.ids.ndim) for s in self.stated if s.name == name for a in s.axes})
        if not axes:
            return tag
        self.used |= {s for s in self.stated if s.name == name and s.axes}
        ids = tag.ids
        for dim in range(1, ids.ndim):
            ids = ids if dim in axes else first_along(ids, dim)
        elements = Tag(ids, Source(name, tag.source.rank, tag.source.shape), raw=True)
        born = trail.born(elements, ids)
        return Tag(born.ids.expand(tag.ids.shape), tag.source)

    # -- of calls ---------------------------------------------------------------------------------------------------

    def corrected(
        self, trail: Trail, place: CallPlace, tags: Sequence[Tag | None], found: Sequence[Tensor | None]
    ) -> list[Tag | None]:
        """Tags of a call's queries and keys, as the user says. `found`: ids (lead..., token) of queries, keys, values."""
        self.places[place.index] = place
        mine = [s for s in self.stated if s.of(place.index, place.module)]
        if not mine:
            return list(tags)
        itself = place.rows == place.keys and (found[0] is None or _same(found[0], found[1]))
        out = list(tags)
        for i, side in ((1, "keys"), (0, "queries")):
            told = [s for s in mine if side in SIDES[s.side] and (s.side or side == "keys" or itself)]
            if told:
                out[i] = self._told(trail, place, side, told, tags[i], found)
        self.used |= {*mine}
        return out

    def _told(
        self,
        trail: Trail,
        place: CallPlace,
        side: str,
        told: Sequence[Override],
        tag: Tag | None,
        found: Sequence[Tensor | None],
    ) -> Tag:
        """One side of a call: the rows that statements name; the others as found, or nobody's."""
        n, ids = place.count(side), found[("queries", "keys").index(side)]
        ids = torch.zeros(*place.lead, n, dtype=torch.int64) if ids is None else ids.clone()
        sources = []
        for s in told:
            at = _places(s, place, side)
            stream = self._stream(trail, s, place, side, at.shape[-1])
            batch = len(trail.entered[s.name].ids) if s.name in trail.entered else max(trail.batches)
            samples = _samples(place, batch, found)
            rows = (samples * STRIDE)[..., None] + torch.arange(stream.first, stream.first + stream.count)
            if at.ndim == 2:
                at = at.expand(batch, -1)[samples - 1]
            ids = ids.scatter(-1, at.expand(rows.shape), rows)
            sources.append(self.sources.setdefault(s.name, _source(trail, stream)))
            self.notes.setdefault(place.index, {}).setdefault(s.name, []).append(side)
        seen = (
            (1 << trail.events) - 1 if tag is None else tag.seen
        )  # nothing is known: all that went before may be in it
        return Tag(ids[..., None], min(sources, key=lambda s: s.rank), seen)

    def _stream(self, trail: Trail, s: Override, place: CallPlace, side: str, n: int) -> Stream:
        """The stream of a name and a size: one that is known, or born now."""
        if s.name in trail.entered and not any(t.name == s.name for t in trail.streams):
            _born(trail, trail.entered[s.name])
        known = [t for t in trail.streams if t.name == s.name]
        stream = next((t for t in reversed(known) if t.count == n), None)
        if stream is None and known:
            what = f"{n} of the {side}" if s.at is not None else f"the {n} {side}"
            raise Misuse(
                f"streams[{s.name!r}] says that {what} of {place} are its tokens, but it has {known[0].count}: say at which "
                "positions they stand (at=), or give these rows a name of their own"
            )
        if stream is None:
            kind = "input" if s.name in trail.entered else "said"
            stream = trail.new_stream(s.name, n, "parameter" if s.name in trail.names else kind)
        if s.grid is not None:
            if s.grid[0] * s.grid[1] != stream.count:
                raise Misuse(
                    f"streams[{s.name!r}]: a grid of {s.grid[0]} x {s.grid[1]} does not hold {stream.count} tokens"
                )
            stream.grid = s.grid
        return stream

    # -- after the run ----------------------------------------------------------------------------------------------

    def check(self, trail: Trail) -> None:
        """Every statement was about something; else one sentence."""
        for s in self.stated:
            if s in self.used or (isinstance(s.call, int) and s.call in self.places and not self.places[s.call].keys):
                continue
            if s.axes:
                raise nearest(s.name, trail.entered, "input (an axis belongs to an input)")
            without = [p for p in self.places.values() if s.of(p.index, p.module)]
            if without:
                named = f"attention call {without[0].index} ({without[0].module or 'the model'})"
                raise Misuse(f"streams[{s.name!r}] names {named}, whose weights cannot be read: it has no rows to name")
            if isinstance(s.call, str):
                raise nearest(s.call, sorted({p.module for p in self.places.values()}), "module with an attention call")
            raise Misuse(
                f"streams[{s.name!r}] names attention call {s.call}, but the run made {len(self.places)}, numbered from 0; "
                "see regard.inspect(model, inputs)"
            )

    def sentences(self) -> list[str]:
        """What was said, for the receipt."""
        calls: dict[str, list[str]] = {}
        for index, notes in self.notes.items():
            for name, sides in notes.items():
                what = f"tokens of {name} are the {' and '.join(dict.fromkeys(sides))}"
                calls.setdefault(what, []).append(str(index))
        said = [f"said by the caller: {what} of attention call {', '.join(c)}" for what, c in calls.items()]
        axes = {s.name: ", ".join(map(str, s.axes)) for s in self.stated if s.axes}
        return said + [f"said by the caller: tokens of {name} are along axis {a}" for name, a in axes.items()]

    def refuse_lost(self, trail: Trail, reasons: Mapping[int, str]) -> None:
        """An error that names the first call whose tokens are not known, and what to say. `reasons`: call -> why."""
        for index, why in reasons.items():
            if kind_of(why) is Why.SAMPLES:
                raise TrailLost(f"in {self.places[index]} rows of several samples meet: {SAMPLES}")
            if not self.places[index].keys:
                raise TrailLost(
                    f"attention call {index} ({self.places[index].module or 'the model'}) has no map: {why}"
                )
            if kind_of(why) is Why.CHANNELS:
                raise TrailLost(f"{self.places[index]} {why}: there is no map of tokens")
            raise TrailLost(
                f"it is not known whose tokens {self.places[index]} reads: {why}; {self._remedy(trail, index, why)}"
            )

    def _remedy(self, trail: Trail, index: int, why: str) -> str:
        """What helps. Rows that are known, but of which one token has several, no statement of the caller tells apart."""
        if kind_of(why) is Why.COPIES:
            return "streams= cannot tell these apart, and there is no map of such attention"
        if kind_of(why) is Why.AXIS:
            return "explain another number of samples at a time"
        side, name = self.lost.get(index, ("keys", ""))
        name, n = name or next(iter(trail.entered), "tokens"), self.places[index].count(side)
        fits = n in _counts(trail, name)
        name = name if fits else self._new_name(trail, index, n)
        what = str(index) if side == "keys" else f"{{'call': {index}, 'side': 'queries'}}"
        which = f"the {n} tokens of {name}, in order" if fits else f"{n} token{'s' * (n > 1)} that you call {name!r}"
        return f"if its {side} are {which}, say streams={{{name!r}: {what}}}; see regard.inspect(model, inputs)"

    def _new_name(self, trail: Trail, index: int, n: int) -> str:
        """A name for n tokens that no stream of another number has."""
        taken = any(s.name == "tokens" and s.count != n for s in trail.streams)
        return f"tokens of call {index}" if taken else "tokens"


def _axis(s: Override, axis: int, ndim: int) -> int:
    if not -ndim <= axis < ndim or axis % ndim == 0:
        raise Misuse(
            f"streams[{s.name!r}]: axis {axis} is not a token axis; besides its samples, the input has axes 1 to {ndim - 1}"
        )
    return axis % ndim


def _places(s: Override, place: CallPlace, side: str) -> Int[Tensor, "*place"]:
    """Where the stream's tokens stand among the rows or keys: (token,), or (sample, token)."""
    n = place.count(side)
    if s.at is None or isinstance(s.at, slice):
        at = torch.arange(n)[s.at or slice(None)]
    else:
        at = torch.as_tensor(s.at, dtype=torch.int64).cpu()
        at = at[None] if at.ndim == 0 else at
    if at.ndim > 2 or not at.numel() or bool((at < -n).any()) or bool((at >= n).any()):
        raise Misuse(f"streams[{s.name!r}]: at={s.at!r} names no positions among the {n} {side} of {place}")
    return at % n


def _samples(place: CallPlace, batch: int, found: Sequence[Tensor | None]) -> Int[Tensor, "*place"]:
    """The sample, from 1, at each place of a call's leading axes: that of rows that are known, else axis 0 is the batch's."""
    for ids in found:
        if ids is not None and ids.shape[-1] and bool((of := ids.amax(-1) // STRIDE).all()):
            return of
    lead = place.lead
    if batch == 1 or not lead:
        return torch.ones(lead, dtype=torch.int64)
    if lead[0] % batch:
        raise Misuse(
            f"it cannot be seen which rows of {place} belong to which of the {batch} samples; explain one sample at a time"
        )
    of = torch.arange(lead[0]) // (lead[0] // batch) + 1
    return of.view(-1, *[1] * (len(lead) - 1)).expand(lead)


def _same(queries: Tensor, keys: Tensor | None) -> bool:
    return keys is not None and torch.equal(queries, keys)


def _counts(trail: Trail, name: str) -> set[int]:
    """How many tokens a stream of a name may have."""
    known = {t.count for t in trail.streams if t.name == name}
    if known or name not in trail.entered:
        return known
    shape = trail.entered[name].source.shape
    return {shape[0]} if _plain(trail.entered[name]) else set()


def _plain(tag: Tag) -> bool:
    """Token ids (batch, token) or features (batch, token, width)."""
    return len(tag.source.shape) == (1 if tag.source.ids else 2)


def _born(trail: Trail, tag: Tag) -> None:
    """The tokens of an input that no operation has made yet; nothing where the shape does not say what they are."""
    if _plain(tag):
        trail.born(tag, tag.ids if tag.source.ids else first_along(tag.ids, -1))


def _source(trail: Trail, stream: Stream) -> Source:
    if stream.name in trail.entered:
        return trail.entered[stream.name].source
    return Source(stream.name, PARAMETERS + stream.count if stream.kind == "parameter" else SAID)
