"""Towers: sequences of tokens that block after block hands on, and what is known of them when the run is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from regard.errors import Misuse
from regard.recording import Recording
from regard.recording.states import Key, ReplaceStates, State, parts, replaced
from regard.recording.tokens.tags import STRIDE, constant, thin


@dataclass
class Tower:
    """A sequence of tokens that block after block hands on: the state that each gives back, the calls that ran on the way to
    each, and those that pool the last state, if any do."""

    states: list[State]
    calls: list[list[int]]
    pooling: list[int]

    def last(self, count: int) -> list[tuple[State, list[int]]]:
        """The states after the last blocks, and whose A the target rests on where each is read."""
        if count > len(self.states):
            raise Misuse(
                f"layers={count}, but the tokens after {self.states[-1].key.module} stand after {len(self.states)} "
                f"block{'s' if len(self.states) > 1 else ''} only"
            )
        return [(s, self.pooling or c) for s, c in zip(self.states[-count:], self.calls[-count:], strict=True)]


@dataclass
class AsRecorded(ReplaceStates):
    """Blocks give back what they gave in the recorded run, uncomputed. whole: none of them handed on more than that."""

    whole: bool = True

    def skips(self, module: str, visit: int) -> bool:
        """All that are known."""
        return any(k[:2] == (module, visit) for k in self.values)

    def block(self, module: str, visit: int, output: Any) -> Any | None:
        """A copy: a model may go on to write into it."""
        known = {k.part: v.clone() for k, v in self.values.items() if k[:2] == (module, visit)}
        if not known:
            return None
        self.whole &= len([*parts(output)]) == len(known)
        return replaced(output, known)


def towers(recording: Recording, method: str) -> list[Tower]:
    """The states after blocks by their tokens and shape; those whose tokens are merged later (stages) are left out.

    Raises Misuse, which names the method, where no state is known, or no attention leads to one.
    """
    out: dict[tuple[Any, ...], Tower] = {}
    since = 0
    for block in recording.blocks:
        state = next((s for s in recording.states if s.key[:3] == (block.module, block.visit, "out")), None)
        if state is None:
            continue
        between = [c.index for c in recording.calls if since <= c.event < state.time]
        tower = out.setdefault((rows_in(state.ids), state.value.shape), Tower([], [], []))
        tower.states.append(state)
        tower.calls.append(block.calls or between)
        since = state.time
    made = [t for (rows, _), t in out.items() if any(t.calls) and not _merged(recording, rows, t.states[-1].time)]
    if not made:
        raise Misuse(
            f"{method} reads the tokens after blocks, and no block (an element of a ModuleList that holds attention) was seen"
        )
    inside = {i for tower in out.values() for calls in tower.calls for i in calls}
    for tower in made:
        last = max(i for calls in tower.calls for i in calls)
        after = [c for c in recording.calls if c.index > last and c.index not in inside]
        tower.pooling = [c.index for c in after if rows_in(c.keys) == rows_in(tower.states[-1].ids)]
    return made


def rows_in(ids: Tensor) -> frozenset[int]:
    """The rows that some ids name, of all samples."""
    ids = thin(ids)
    return frozenset((ids[ids > 0] % STRIDE).unique().tolist())


def _merged(recording: Recording, rows: frozenset[int], time: int) -> bool:
    return any(m.event >= time and bool(rows & rows_in(m.sources)) for m in recording.merges)


def token_axis(state: State) -> int:
    """The axis of a state along which one sample's rows change. Raises Misuse where there are several."""
    ids = state.ids
    axes = [
        d for d in range(ids.ndim) if ids.shape[d] > 1 and not constant(ids % STRIDE, d) and not _of_samples(ids, d)
    ]
    if len(axes) != 1:
        raise Misuse(
            f"the tokens after {state.key.module} lie along {len(axes) or 'no'} axes: their mean is not defined here; choose "
            "another method"
        )
    return axes[0]


def _of_samples(ids: Tensor, d: int) -> bool:
    """Whether every place along an axis is one sample, and every sample one place."""
    each = [part[part > 0].div(STRIDE, rounding_mode="floor").unique().tolist() for part in thin(ids, but=d).unbind(d)]
    return all(len(samples) == 1 for samples in each) and len({samples[0] for samples in each}) == len(each) > 1


def others(recording: Recording, place: State, kept: Sequence[str], calls: Sequence[int]) -> AsRecorded:
    """Blocks as they were, of those that do not rest on what a place is given: all before it, and those of other towers.

    Left out are the modules `kept`, those that hold some calls, and what is around or inside of either.
    """
    needed = [*kept, *(b.module for b in recording.blocks if {*b.calls} & {*calls})]
    towers = recording.blocks_apart()
    elsewhere = {at for tower in towers if place.key[:2] not in tower for at in tower} if len(towers) > 1 else set()
    found: dict[Key, Tensor] = {}
    before = True
    for s in recording.states:
        around = any(f"{n}.".startswith(f"{s.key.module}.") or f"{s.key.module}.".startswith(f"{n}.") for n in needed)
        independent = before or s.key[:2] in elsewhere
        if s.key.side == "out" and independent and not around:
            found[s.key] = s.value.detach()
        before &= s.key != place.key
    return AsRecorded(found)


__all__ = ["AsRecorded", "Tower", "others", "rows_in", "token_axis", "towers"]
