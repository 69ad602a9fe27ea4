"""States of token streams between blocks: where they stand in a run, and the frontier that a site means.

A state is a tensor that a block (an element of a ModuleList) was given or gave back, whose rows are tokens of a stream. The
frontier after block l is the newest state of every stream at that moment: with all of it replaced, whatever came before has
no say any more (formulas.md section 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from regard.errors import Misuse, nearest
from regard.recording.edits import Edit
from regard.recording.tokens.tags import PARAMETERS, Tag, constant
from regard.recording.tokens.tracker import Trail


class Key(NamedTuple):
    """A place in a run: the `part`-th tensor that goes "in" to, or comes "out" of, the visit-th call of a module."""

    module: str
    visit: int
    side: str
    part: int


@dataclass(frozen=True)
class State:
    """A stream's state: its tensor, in the graph; the ids of its rows, in the tensor's shape; when it stood there."""

    key: Key
    stream: str
    value: Tensor = field(repr=False)
    ids: Tensor = field(repr=False)
    attended: bool
    time: int


def parts(value: Any) -> Iterator[Tensor]:
    """The tensors in what a module takes or gives, in order: positional ones, keyword ones, one level of lists deeper."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    for v in values:
        if isinstance(v, Tensor):
            yield v
        elif isinstance(v, list | tuple | dict):
            yield from parts(v)


def replaced(value: Any, new: Mapping[int, Tensor], count: list[int] | None = None) -> Any:
    """The same structure with some of its tensors, by their number in `parts`, exchanged."""
    count = [0] if count is None else count
    if isinstance(value, Tensor):
        count[0] += 1
        return new.get(count[0] - 1, value)
    if isinstance(value, dict):
        changed = {k: replaced(v, new, count) for k, v in value.items()}
        return changed if type(value) is dict else type(value)(**changed)
    if isinstance(value, list | tuple):
        items = [replaced(v, new, count) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


class Watch:
    """Collects states as blocks are entered and left. Parameters that no call has touched are no state: they never change."""

    def __init__(self, trail: Trail, in_place: bool = False) -> None:
        self.trail = trail
        self.in_place = in_place
        self.states: list[State] = []
        self.placed: dict[str, None] = {}

    def see(self, module: str, visit: int, side: str, value: Any) -> None:
        """Note the states in what goes into a block, or comes out of it."""
        for i, t in enumerate(parts(value)):
            tag = self.trail.tag(t)
            if self.in_place and side == "out" and (tag is None or not self._is_state(t, tag)):
                tag = self._placed(module, visit, t)
            if tag is not None and self._is_state(t, tag):
                attended = self.trail.attended(tag)
                key = Key(module, visit, side, i)
                self.states.append(State(key, tag.source.name, t, tag.ids, attended, self.trail.events))

    def _placed(self, module: str, visit: int, t: Tensor) -> Tag | None:
        """The rows that a block was given, for a tensor of the same shape that it gives back."""
        given = [s for s in self.states if s.key[:3] == (module, visit, "in") and s.value.shape == t.shape]
        if not given or t.ndim < 3 or self.trail.tag(given[0].value) is None:
            return None
        self.trail.put(t, self.trail.tag(given[0].value))
        self.placed[module] = None
        return self.trail.tag(t)

    def _is_state(self, t: Tensor, tag: Tag) -> bool:
        followed = t.is_floating_point() and t.ndim >= 2 and not (tag.raw or tag.lost or tag.keys is not None)
        return followed and (tag.source.rank < PARAMETERS or self.trail.attended(tag))


@dataclass
class ReplaceStates(Edit):
    """Put other values in the place of states: key -> a tensor of the same shape."""

    values: Mapping[Key, Tensor]

    def entering(self, module: str, visit: int, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """The given values among what goes into a block."""
        new = self._at(module, visit, "in")
        if not new:
            return None
        changed: tuple[Any, Any] = tuple(replaced([args, kwargs], new))
        return changed

    def block(self, module: str, visit: int, output: Any) -> Any | None:
        """The given values among what comes out of it."""
        new = self._at(module, visit, "out")
        return replaced(output, new) if new else None

    def _at(self, module: str, visit: int, side: str) -> dict[int, Tensor]:
        return {k.part: v for k, v in self.values.items() if (k.module, k.visit, k.side) == (module, visit, side)}


def embeddings(states: Sequence[State], blocks: Sequence[tuple[str, int]]) -> list[State]:
    """The frontier before all blocks: of every stream, the state that its first block was given."""
    first: dict[str, State] = {}
    for s in states:
        if s.key.side == "in" and (s.key.module, s.key.visit) in blocks and not s.attended:
            first.setdefault(s.stream, s)
    return list(first.values())


def frontier(
    states: Sequence[State], towers: Sequence[Sequence[tuple[str, int]]], layer: int, stream: str | None
) -> list[State]:
    """The states of all streams (or of one) after block number `layer`, in execution order.

    towers: all blocks, those that read one another's tokens together. Negative numbers count from the end of each tower, and
    others from the first block of all, whichever tower it is of.

    Raises Misuse if there is no such block, UnknownName if the stream has no state there.
    """
    blocks = [block for tower in towers for block in tower]
    fewest = min(map(len, towers)) if layer < 0 else len(blocks)
    if not -fewest <= layer < len(blocks):
        of = "the run" if len(towers) == 1 or layer >= 0 else "a tower of the run"
        raise Misuse(f"block {layer} is out of range: {of} has {fewest} blocks, numbered from 0")
    done = [b for tower in (towers if layer < 0 else [blocks]) for b in tower[: layer % len(tower) + 1]]
    newest = {s.stream: s for s in embeddings(states, blocks)}
    for s in states:
        if s.key.side == "out" and (s.key.module, s.key.visit) in done:
            if s.stream in newest and newest[s.stream].key[:3] == s.key[:3]:
                continue  # the first tensor of a stream among a block's outputs is its state
            newest[s.stream] = s
    found = list(newest.values())
    if stream is None:
        return found
    if stream not in newest:
        raise nearest(stream, newest, "stream")
    return [newest[stream]]


def per_row(a: Tensor, ids: Tensor, scatter: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Elements of a state, summed over each row's features, on the rows (batch, row) of all streams."""
    for d in range(a.ndim):
        if constant(ids, d) and a.shape[d] > 1:
            a, ids = a.sum(d, keepdim=True), ids.narrow(d, 0, 1)
    return scatter(a.reshape(1, -1), ids.reshape(1, -1))


__all__ = ["Key", "ReplaceStates", "State", "Watch", "embeddings", "frontier", "parts", "per_row", "replaced"]
