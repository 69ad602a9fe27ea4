"""Tags: whose tokens the rows of a tensor are, as numbers that go through the same operations as the tensor itself."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from regard.recording.tokens.cells import Cells, lattice

STRIDE = 1 << 32
"""An id is (sample + 1) * STRIDE + row. Row 0 stands for no token (padding); sample -1 is a parameter not yet assigned."""


PARAMETERS = 10_000
"""Sources of this rank and above are parameters."""


class Why(enum.Enum):
    """Kinds of reasons why it is not known whose tokens something is."""

    UNFOLLOWED = enum.auto()
    """It comes from no input or parameter that was followed."""
    SAMPLES = enum.auto()
    """Rows of several samples meet."""
    AXIS = enum.auto()
    """Rows were given to samples by the length of an axis alone."""
    COPIES = enum.auto()
    """Copies of one token, or several places of it, cannot be told apart."""
    CHANNELS = enum.auto()
    """Channels are weighed, not tokens."""
    OTHER = enum.auto()


class Lost(str):
    """A reason in words, of a kind."""

    kind: Why

    def __new__(cls, words: str, kind: Why = Why.OTHER) -> Lost:
        """The words, and what they are about."""
        made = super().__new__(cls, words)
        made.kind = kind
        return made


def kind_of(reason: str) -> Why:
    """The kind of a reason, which may be words alone."""
    return reason.kind if isinstance(reason, Lost) else Why.OTHER


SEVERAL = Lost("a sum over several samples", Why.SAMPLES)
"""What ends the trail of rows that were summed over an axis of samples."""


class Entry(str):
    """Where a stream enters a run: its name, and how often it has entered before (BART's decoder embeds the same ids again).

    It is a name itself: `input_ids`, `input_ids#1`.
    """

    stream: str
    visit: int

    def __new__(cls, stream: str, visit: int = 0) -> Entry:
        """The entry of a stream, counted from 0."""
        made = super().__new__(cls, f"{stream}#{visit}" if visit else stream)
        made.stream, made.visit = stream, visit
        return made


def stream_of(name: str) -> str:
    """The stream that enters under a name, which may be a stream's own."""
    return name.stream if isinstance(name, Entry) else name


@dataclass
class Stream:
    """The tokens of one input, of one parameter, of a later stage of another stream (`kind="merged"`), `said` by the user, or
    `added` by the model among an input's (a decoder's start token).

    `first` is its first row; `elements` names, for each token, the element of the raw input that stands for it. `packed`: the
    input's axis 0 is not samples; tokens of all samples stand in one row (see samples.py). `shape`: the input's, without
    samples; `owned`: the token of each of its elements, where that is known (cells.py).
    """

    name: str
    first: int
    count: int
    kind: str = "input"
    grid: tuple[int, ...] | None = None
    elements: Tensor | None = field(default=None, repr=False)
    packed: bool = False
    shape: tuple[int, ...] = ()
    owned: Callable[[], Tensor] | None = field(default=None, repr=False)

    @cached_property
    def cells(self) -> Cells | None:
        """Which elements of the input its tokens are made of."""
        return None if self.owned is None else Cells(self.count, self.shape, self.owned())

    @cached_property
    def window(self) -> tuple[float, float, float, float] | None:
        """What part of a picture (left, top, right, bottom; shares of it) the grid's cells cover: the rest, at the end of a
        picture that is no multiple of its patch, counts with the last."""
        found = None if self.elements is None or self.grid is None else lattice(self.elements, self.shape)
        if found is None or self.cells is None:
            return None
        top, bottom, left, right = self.cells.extent(found[0][-2:])
        return left, top, right, bottom

    @property
    def shown(self) -> bool:
        """Whether its tokens have scores of their own in a map."""
        return self.of_input or self.kind == "parameter"

    @property
    def of_input(self) -> bool:
        """Whether its rows are tokens, of an input or said by the user: not a parameter's, no later stage."""
        return self.kind in ("input", "said")

    @property
    def rows(self) -> slice:
        """The stream's columns in a relevance matrix (batch, rows)."""
        return slice(self.first, self.first + self.count)


@dataclass
class Source:
    """One model input or parameter: its name, its rank when two meet (smaller wins), and its shape without batch.

    `ids`: its elements are token ids, so that each is a token, wherever it is moved (BART's shifted ids). `floats`: they are
    floats as given. `shared`: it is given to every sample.
    """

    name: str
    rank: int
    shape: tuple[int, ...] = ()
    ids: bool = False
    packed: bool = False
    shared: bool = False
    floats: bool = False


@dataclass(frozen=True)
class Merge:
    """Token map: new row `rows[i]` is made of `sources[i]`, in the shares `weights[i]` (None: the mean of them).

    `event` is its place among calls, in order. A source may be nobody (0): its share is lost.
    without: where the new rows are the old ones at an earlier stage: events that rows beside them had absorbed, and they not.
    mixes: the operation whose weights the shares do not tell of (a learned matrix on the token axis), or "".
    """

    event: int
    rows: Tensor
    sources: Tensor
    tentative: bool = False
    without: int = 0
    weights: Tensor | None = None
    mixes: str = ""

    @property
    def shares(self) -> Tensor:
        """How much of each new row goes back to each of its sources: 1/m, or the weights."""
        if self.weights is not None:
            return self.weights
        m = self.sources.shape[1]
        return torch.full(self.sources.shape, 1 / m, dtype=torch.float64)


@dataclass(frozen=True)
class Mixing:
    """From `event` on, rows of the streams named hold something of each other's tokens that is not followed. operation: its
    name, or "" where another entry has it."""

    event: int
    streams: frozenset[str]
    operation: str


@dataclass(frozen=True)
class Tag:
    """Whose rows a tensor holds.

    Attributes:
        ids: int64, the tensor's shape. seen: bit e is set when the rows have absorbed the output of event e.
        raw: the elements are not tokens yet (pixels, token ids). keys: for scores q kᵀ, the tag of the columns.
        probs: the number of the softmax that the scores have been through, or 0.
        lost: the operation at which the trail was lost, or "".
        computed: raw numbers made from token ids (positions), no longer the ids themselves.
        mixed: the operation that added another token's row to one standing alone (a recurrent state), or "".
        origin: where the trail is lost, the rows (without samples) that stood there before; None where these are not known.
        made: for scores that no softmax has seen, the last of exp, sigmoid, relu, ... that they have been through, or "".
        lost_in: the module at work then, or "".
        blend: the operation that mixed the rows of `origin` to new ones in shares that are not followed, or "".
        channels: of scores between features, the operation that summed over the tokens (cross-covariance attention), or "".
        biased: of scores, other inputs that were added to them (distances of a graph's nodes).
        folded: into how many rows each token's features have been cut where heads were folded into the rows, or 1.
    """

    ids: Tensor
    source: Source
    seen: int = 0
    raw: bool = False
    keys: Tag | None = None
    probs: int = 0
    lost: str = ""
    computed: bool = False
    mixed: str = ""
    origin: Tensor | None = None
    lost_in: str = ""
    blend: str = ""
    made: str = ""
    channels: str = ""
    biased: frozenset[str] = frozenset()
    folded: int = 1

    def at(self, ids: Tensor, keys: Tag | None = None, **more: Any) -> Tag:
        """The same with other ids and columns: `dataclasses.replace` in a fraction of its time, as each operation needs it."""
        made = object.__new__(Tag)
        made.__dict__.update(self.__dict__, ids=ids, keys=keys, **more)
        return made

    def moved(self, move: Callable[[Tensor], Tensor]) -> Tag:
        """The same rows elsewhere: the movement applied to the ids, and to the columns' ids."""
        return self.at(move(self.ids), self.keys and self.keys.at(move(self.keys.ids)))

    @property
    def order(self) -> tuple[bool, bool, bool, int]:
        """Who wins where two tags meet element by element (smallest)."""
        return (bool(self.lost), self.keys is None, not self.probs, self.source.rank)


def is_parameter(t: Any) -> bool:
    """Whether something is a parameter; plain tensors, most of what is asked about, are told at once."""
    return type(t) is not Tensor and isinstance(t, nn.Parameter)


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same place in memory, seen in the same way."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


def constant(ids: Tensor, dim: int) -> bool:
    """Whether ids do not change along an axis."""
    if ids.shape[dim] <= 1 or ids.stride(dim) == 0:
        return True
    ids = thin(ids, but=dim)
    return bool((ids == ids.narrow(dim, 0, 1)).all())


def first_along(ids: Tensor, dim: int) -> Tensor:
    """The first index along an axis, the axis kept with length 1."""
    return ids.narrow(dim, 0, 1)


def reshaped(ids: Tensor, shape: Sequence[int]) -> Tensor:
    """`ids.reshape(shape)` that keeps a constant last axis free of charge."""
    shape = tuple(shape)
    if ids.ndim and shape and ids.shape[-1] == shape[-1] and ids.stride(-1) == 0 and ids.numel():
        return ids[..., :1].reshape(*shape[:-1], 1).expand(shape)
    return ids.reshape(shape)


def thin(ids: Tensor, but: int | None = None) -> Tensor:
    """Every constant axis (but one) cut to length 1."""
    for dim in range(ids.ndim):
        if (but is None or dim != but % ids.ndim) and ids.stride(dim) == 0:
            ids = ids.narrow(dim, 0, min(1, ids.shape[dim]))
    return ids


def occurrence(rows: Tensor) -> Tensor:
    """How often each row (group, token) has stood in its group before."""
    ordered, order = rows.sort(dim=1, stable=True)
    place = torch.arange(rows.shape[1]).expand_as(rows)
    begins = torch.cat([torch.ones_like(rows[:, :1], dtype=torch.bool), ordered[:, 1:] != ordered[:, :-1]], 1)
    return torch.empty_like(rows).scatter_(1, order, place - torch.where(begins, place, 0).cummax(1).values)


def lost(tag: Tag, where: str) -> Tag:
    """The trail ends here; the name of the operation is kept for the error."""
    return replace(tag, keys=None, probs=0, lost=tag.lost or where)
