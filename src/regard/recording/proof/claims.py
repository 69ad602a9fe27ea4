"""What a recording claims of rows, as sets of input tokens; codes that tell the sets apart; which elements a token has.

A claim is "this row is a function of these tokens alone, before attention moves anything". Rows are claimed to be a token of
an input, several of them (merged rows), or none (a parameter's rows, padding). Where it is known that an operation mixed
tokens (`Recording.mixings`), the claim that is left is the whole stream.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from regard.recording.recording import Recording
from regard.recording.tokens.tags import STRIDE, Stream, stream_of, thin

ROUNDS = 24
"""Sets that overlap are coded in rounds, apart; beyond so many rounds they share their tokens, and the test is weaker."""


class Claim(NamedTuple):
    """A set of tokens (rows of inputs) of a sample, numbered from 1; sample 0: of none, or of all samples in one row."""

    sample: int
    tokens: frozenset[int]


class Claims:
    """The claims of one recording: from ids of rows to sets of tokens."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.names = [""] * recording.rows
        self.streams: dict[int, Stream] = {}
        packed: set[int] = set()
        used, in_use = {s.name for s in recording.streams}, {id(s) for s in recording.streams}
        placed = torch.cat([torch.zeros(1), *(i.flatten() % STRIDE for i in recording.embedded.values())]).unique()
        self.made_of: list[frozenset[int]] = [frozenset()] * recording.rows  # of no stream in use: of none
        for row in placed.long().tolist():
            self.made_of[row] = frozenset([row])
        for stream in [*recording.stages, *recording.streams]:
            rows = range(stream.first, stream.first + stream.count)
            own = id(stream) in in_use or stream.name not in used
            for row in rows:
                self.names[row], self.streams[row] = stream.name, stream
                self.made_of[row] = frozenset([row]) if own and stream.kind != "parameter" else frozenset()
            packed |= {*rows} if stream.packed or stream.name in recording.given.shared else set()
        self.packed = packed
        for merge in sorted(recording.merges, key=lambda m: m.event):
            for row, sources in zip(merge.rows.tolist(), merge.sources.tolist(), strict=True):
                self.made_of[row] = frozenset().union(*(self.made_of[s] for s in sources)) - {0}
        self._blurred: dict[tuple[frozenset[str], ...], dict[str, frozenset[int]]] = {}

    def of(self, identity: int, event: int, *, sharp: bool = False) -> Claim:
        """The claim of a row at an event. sharp: as if nothing were mixed outside attention."""
        sample, row = divmod(identity, STRIDE)
        tokens = self.made_of[row]
        if not sharp and tokens:
            whole = self.blurred(event)
            tokens = tokens.union(*(whole[n] for n in {self.names[t] for t in tokens} if n in whole))
        several = not tokens or tokens == {0} or not self.packed.isdisjoint(tokens)
        return Claim(0 if several else sample, tokens)

    def mixed(self, identity: int, event: int) -> bool:
        """Whether it is known that a row holds something of other tokens than those that it is said to be."""
        whole = self.blurred(event)
        return any(self.names[t] in whole for t in self.made_of[identity % STRIDE])

    @cached_property
    def _padded(self) -> Tensor:
        out = torch.zeros(self.recording.batch, self.recording.rows, dtype=torch.bool)
        for stream in self.streams.values():
            hidden = self.recording.padded.get(stream.name)
            if hidden is not None and hidden.shape == (len(out), stream.count):
                out[:, stream.rows] = hidden
        return out

    def padding(self, claim: Claim) -> bool:
        """Whether a claim is of padding alone, which no map speaks of."""
        return claim.sample > 0 and bool(self._padded[claim.sample - 1, list(claim.tokens)].all())

    def blurred(self, event: int) -> dict[str, frozenset[int]]:
        """Streams of which tokens have been mixed before an event -> all tokens that their rows may hold."""
        known = tuple(dict.fromkeys(m.streams for m in self.recording.mixings if m.event <= event))
        if known not in self._blurred:
            self._blurred[known] = self._joined(known)
        return self._blurred[known]

    def _joined(self, mixings: Iterable[frozenset[str]]) -> dict[str, frozenset[int]]:
        groups: list[set[str]] = []
        for names in mixings:
            touched = [g for g in groups if g & names]
            groups = [g for g in groups if not g & names] + [set(names).union(*touched)]
        rows: dict[str, set[int]] = {}
        for row, stream in self.streams.items():
            rows.setdefault(stream.name, set()).update(self.made_of[row])
        return {name: frozenset().union(*(rows.get(n, set()) for n in group)) for group in groups for name in group}

    def said(self, claim: Claim) -> str:
        """A claim in words: `input_ids[3]`, `pixel_values[2, 5]`, with the sample where there are several."""
        if not claim.tokens:
            return "no input"
        words = [self.word(row) for row in sorted(claim.tokens)[:3]]
        more = f" and {len(claim.tokens) - 3} more" if len(claim.tokens) > 3 else ""
        where = f" of sample {claim.sample - 1}" if claim.sample and self.recording.batch > 1 else ""
        return ", ".join(words) + more + where

    def word(self, row: int) -> str:
        """A token in words."""
        stream = self.streams.get(row)
        if stream is None:
            return "rows of no token" if not row else f"row {row}"
        at = row - stream.first
        return (
            f"{stream.name}[{', '.join(map(str, divmod(at, stream.grid[-1])))}]"
            if stream.grid
            else f"{stream.name}[{at}]"
        )


@dataclass
class Round:
    """Claims whose sets are disjoint, with a code each: bits of equal number, so that no code contains another."""

    owner: dict[tuple[int, int], Claim] = field(default_factory=dict)
    cuts: dict[tuple[int, str], int] = field(default_factory=dict)
    claims: dict[Claim, int] = field(default_factory=dict)

    @property
    def bits(self) -> int:
        """How many bits a code has."""
        bits = 2
        while math.comb(bits, bits // 2) < len(self.claims):
            bits += 1
        return bits

    @cached_property
    def codes(self) -> Tensor:
        """(claim, bit), 0 or 1; neighbours get codes that have little to do with each other."""
        bits = self.bits
        every = list(itertools.combinations(range(bits), bits // 2))
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(len(every)))
        codes = torch.zeros(len(self.claims), bits)
        for row, number in enumerate(order[: len(self.claims)].tolist()):
            codes[row, list(every[number])] = 1
        return codes

    def take(self, claim: Claim, claims: Claims, *, always: bool = False) -> bool:
        """Put a claim into this round, if no token of it is another's here."""
        if claim in self.claims:
            return True
        tokens = [(claim.sample, t) for t in claim.tokens]
        cuts = {(claim.sample, s.name): s.first for t in claim.tokens if (s := claims.streams.get(t)) is not None}
        free = all(t not in self.owner for t in tokens) and all(self.cuts.get(c, f) == f for c, f in cuts.items())
        if not (free or always):
            return False
        self.claims[claim] = len(self.claims)
        self.owner.update(dict.fromkeys(tokens, claim))
        self.cuts.update(cuts)
        return True

    def allowed(self, batch: int, rows: int) -> Tensor:
        """bool (bit, sample, row): where a bit's gradient may sit."""
        out = torch.zeros(self.bits, batch + 1, rows, dtype=torch.bool)
        for claim, number in self.claims.items():
            if claim.tokens:
                out[:, claim.sample, list(claim.tokens)] |= self.codes[number, :, None].bool()
        return out


def rounds(claims: Claims, wanted: Iterable[Claim]) -> list[Round]:
    """Claims in as few rounds as first come, first served makes of them."""
    out: list[Round] = []
    for claim in wanted:
        if any(r.take(claim, claims) for r in out):
            continue
        if len(out) < ROUNDS:
            out.append(Round())
        out[-1].take(claim, claims, always=True)
    return out


# -- where gradients are read -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadAt:
    """A leaf of the run, and whose elements it holds: ids that broadcast to its shape, one tensor for each cut into tokens."""

    name: str
    leaf: Tensor
    ids: list[Tensor]

    def mass(self, gradient: Tensor | None) -> Tensor:
        """|gradient| summed over each token's features: the shape of the ids, which is thin along features."""
        shape = torch.broadcast_shapes(*(i.shape for i in self.ids))
        if gradient is None:
            return torch.zeros(shape)
        size = gradient.detach().abs()
        size = size if size.dtype == torch.float64 else size.float()
        for d, n in enumerate(shape):
            if n == 1 and size.shape[d] > 1:
                size = size.sum(d, keepdim=True)
        return size.cpu()

    def where(self, table: Tensor) -> Tensor:
        """bool (sample, row) read at every element, for any of the cuts."""
        found = [table[i // STRIDE, i % STRIDE] for i in self.ids]
        return torch.stack(torch.broadcast_tensors(*found)).any(0)


def places(recording: Recording) -> tuple[list[ReadAt], list[str]]:
    """Where gradients are read, and sentences on inputs whose elements cannot be told apart as tokens.

    An input that is no stream of its own meets others element by element (its tokens are theirs), or is spread over their rows
    alike; any other may reach no row at all.
    """
    found, beside = [], []
    for name, leaf in recording.leaves.items():
        stream = stream_of(name)
        own = [s for s in recording.streams if s.name == stream and s.kind == "input"]
        known = own or [s for s in recording.stages if s.name == stream and s.kind == "input"]
        met = [] if own else _met(recording, stream)
        if name in recording.embedded and known:
            ids = [_thin(recording.embedded[name], leaf)]
        else:
            ids = [i for s in known if (i := owners(recording, name, leaf.shape, s)) is not None]
        ids += [
            i
            for other in met
            for i in _beside(recording, name, leaf, other) or _in_order(recording, name, leaf, known, other)
        ]
        if stream in recording.given.shared:  # of all samples
            ids = [i % STRIDE for i in ids]
        if not (known or met):
            ids = [torch.zeros([1] * leaf.ndim, dtype=torch.int64)]
        if ids and len({i.ndim for i in ids}) == 1:
            found.append(ReadAt(name, leaf, ids))
        else:
            how = (
                "it is not known which of its elements belong to a token"
                if own
                else "it is spread over rows of other tokens"
            )
            beside.append(f"input {name}: {how}")
    return found, beside


def _met(recording: Recording, name: str) -> list[str]:
    """The streams that an input meets, also by way of others that are none themselves."""
    met, todo = {name: None}, [name]
    while todo:
        for other in recording.meets.get(todo.pop(), {}):
            if other not in met:
                met[other] = None
                todo.append(other)
    return [*met][1:]


def _thin(ids: Tensor, leaf: Tensor) -> Tensor:
    """Ids of tokens (batch, token) in the shape of their embeddings."""
    return ids.reshape(*ids.shape, *[1] * (leaf.ndim - ids.ndim))


def _beside(recording: Recording, own: str, leaf: Tensor, name: str) -> list[Tensor]:
    """Ids of an input that meets another one element by element: its tokens are the other one's, in order."""
    streams = [s for s in recording.streams if s.name == name and s.kind == "input" and not s.packed]
    other = recording.leaves.get(name)
    if other is not None and other.shape == leaf.shape and name not in recording.embedded:
        return [i for s in streams if (i := owners(recording, own, leaf.shape, s)) is not None]
    stream = next((s for s in streams if leaf.ndim > 1 and s.count == leaf.shape[1]), None)
    if stream is None or len(leaf) not in (1, recording.batch):
        return []
    ids = torch.arange(stream.first, stream.first + stream.count) + _samples(len(leaf))[:, None]
    return [_thin(ids, leaf)]


def _in_order(recording: Recording, own: str, leaf: Tensor, known: Sequence[Stream], name: str) -> list[Tensor]:
    """The same of an input whose own tokens were made before they met the other's, one for each."""
    streams = [s for s in recording.streams if s.name == name and s.kind == "input" and not s.packed]
    pairs = [(s, other) for s in known for other in streams if s.count == other.count]
    found = [(owners(recording, own, leaf.shape, s), other.first - s.first) for s, other in pairs]
    return [ids + further for ids, further in found if ids is not None]


def _samples(batch: int) -> Tensor:
    return torch.arange(1, batch + 1) * STRIDE


def owners(recording: Recording, name: str, shape: torch.Size, stream: Stream) -> Tensor | None:
    """Ids of the token that each element of an input belongs to, in the axes of what enters (see `_owners`)."""
    raw = recording.placed.get(name)
    if raw is not None:
        whole = recording.given.first(stream_of(name)).shape
        ids = _owners(tuple(whole) if stream.packed else (1, *whole[1:]), stream)
        return None if ids is None else _of_elements(raw, ids.expand(whole if stream.packed else (1, *whole[1:])))
    axis = recording.axis(name)
    if stream.packed or axis == 0:
        return _owners(tuple(shape), stream)
    lengths = list(shape)
    ids = _owners((1 if axis is None else lengths.pop(axis), *lengths), stream)
    return None if ids is None else ids[0] if axis is None else ids.movedim(0, axis)


def _of_elements(raw: Tensor, ids: Tensor) -> Tensor:
    """Ids of the tokens of whole numbers, where these stand in what enters: `raw` are their places, `ids` whose a place is."""
    tokens = torch.cat([torch.zeros(1, dtype=torch.int64), ids.flatten() % STRIDE])
    return thin(raw // STRIDE * STRIDE + tokens[raw % STRIDE])


def _owners(shape: tuple[int, ...], stream: Stream) -> Tensor | None:
    """Ids of the token that each element of an input belongs to, thin along features; None where that cannot be told.

    Tokens stand on a lattice: along each axis their cells have the distance of neighbours, the rest counts with the last.
    """
    inner = shape if stream.packed else shape[1:]
    if stream.elements is None or not inner or len(stream.elements) != stream.count:
        return None
    at = torch.unravel_index(stream.elements - 1, inner)
    cells, sizes, token = [], [], torch.zeros(stream.count, dtype=torch.int64)
    for axis, coordinates in enumerate(at):
        marks, index = coordinates.unique(return_inverse=True)
        gaps = marks.diff()
        if len(gaps) and not bool((gaps == gaps[0]).all()):
            return None
        if len(marks) == 1:
            cell = torch.zeros(1, dtype=torch.int64)
        else:
            step = int(gaps[0])
            start = int(marks[0]) // step * step
            cell = ((torch.arange(inner[axis]) - start).div(step, rounding_mode="floor")).clamp(0, len(marks) - 1)
        cells.append(cell.view(-1, *[1] * (len(inner) - axis - 1)))
        sizes.append(len(marks))
        token = token * len(marks) + index
    if math.prod(sizes) != stream.count or len(token.unique()) != stream.count:
        return None
    table = torch.empty(stream.count, dtype=torch.int64)
    table[token] = torch.arange(stream.count)
    number = torch.zeros((), dtype=torch.int64)
    for cell, size in zip(cells, sizes, strict=True):
        number = number * size + cell
    ids = table[number] + stream.first
    return ids if stream.packed else ids + _samples(shape[0]).view(-1, *[1] * len(inner))
