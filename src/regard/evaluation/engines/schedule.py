"""Which shard is computed next, and what becomes of one that does not come back.

The same decisions for the processes of this machine, for a cluster, and for the ten thousand workers of a simulation
(docs/scale.md): nothing here knows a process, and the clock is given.
"""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from regard.errors import Failure
from regard.evaluation.plan import Shard

Task = TypeVar("Task")
LEAST = 60.0
"""Seconds before which no shard is given out once more because it takes long."""
REMEMBERED = 999
"""Shards whose times the median is of."""


class ShardLost(Exception):
    """A shard did not come back: its worker died, or what it had computed is gone."""


@dataclass
class Schedule:
    """The shards that are still to be computed, in order, and those that are out.

    Attributes:
        tries: how often a shard may be lost; then it is given up, and the others go on. alone: a shard that was lost is tried
            again while no other is out, so that the one which ends its worker is known from those that died with it.
        patience: a shard that is out for so many times the usual time is given out once more, where nothing else waits; the
            first to come back counts. None: never.
        losses: number of a shard -> how often it was lost. given_up: shards, and why. again: how often one was given out once
            more.
    """

    shards: Sequence[Shard]
    tries: int
    alone: bool = False
    patience: float | None = None
    losses: Counter[int] = field(default_factory=Counter)
    given_up: list[Shard] = field(default_factory=list)
    again: int = 0
    why: str = ""

    def __post_init__(self) -> None:
        self._waiting = deque(self.shards)
        self._copies: Counter[int] = Counter()
        self._began: dict[int, float] = {}
        self._given: dict[int, tuple[float, Shard]] = {}  # the one whose last copy went out first is first
        self._took: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def over(self) -> bool:
        """Whether nothing waits and nothing is out."""
        return not self._waiting and not self._began

    def copies(self, shard: Shard) -> int:
        """How often a shard is out."""
        return self._copies[shard.number]

    def next(self, now: float) -> Shard | None:
        """A shard to be given out; None: none for the time being."""
        if self._waiting:
            if self.alone and self._began and any(self.losses[n] for n in (self._waiting[0].number, *self._began)):
                return None
            return self._out(self._waiting.popleft(), now)
        if self.due(now) != 0:
            return None
        self.again += 1
        return self._out(next(iter(self._given.values()))[1], now)

    def due(self, now: float) -> float | None:
        """Seconds until a shard that is out will be given out once more; None: it will not."""
        if self.patience is None or self._waiting or not self._given or not self._took:
            return None
        since, _ = next(iter(self._given.values()))
        return max(0.0, since + max(LEAST, self.patience * statistics.median(self._took)) - now)

    def _out(self, shard: Shard, now: float) -> Shard:
        self._copies[shard.number] += 1
        self._began.setdefault(shard.number, now)
        self._given.pop(shard.number, None)
        self._given[shard.number] = (now, shard)
        return shard

    def _in(self, shard: Shard) -> float | None:
        """A shard is out no longer; since when it was, None where it was not."""
        self._given.pop(shard.number, None)
        self._copies.pop(shard.number, None)
        return self._began.pop(shard.number, None)

    def finished(self, shard: Shard, now: float) -> bool:
        """A shard came back; whether it is the first time."""
        since = self._in(shard)
        if since is not None:
            self._took.append(now - since)
        return since is not None

    def lost(self, shard: Shard, why: str = "") -> None:
        """A shard did not come back; `why`: in a word. It waits before all others, unless another copy of it is out."""
        if shard.number not in self._began:
            return
        self.losses[shard.number] += 1
        self._copies[shard.number] -= 1
        if self._copies[shard.number]:
            return
        self._in(shard)
        if self.losses[shard.number] < self.tries:
            self._waiting.appendleft(shard)
        else:
            self.given_up.append(shard)
            self.why = why or self.why

    def check(self) -> None:
        """Raise Failure where shards were given up."""
        if self.given_up:
            first, *more = sorted(self.given_up, key=lambda s: s.number)
            others = f" and over {len(more)} more shards" if len(more) > 1 else " and over one more shard" * len(more)
            why = f" ({self.why})" if self.why else ""
            raise Failure(
                f"the workers died over the examples {first.first} to {first.last - 1}{others}{why}, for want of memory "
                "perhaps; what is done is kept, and the same command tries these again; take fewer workers, or smaller batches"
            )


class Crew(ABC, Generic[Task]):
    """Who computes shards; a Task is what stands for one that is out."""

    @abstractmethod
    def room(self) -> int:
        """How many shards may be out at present."""

    @abstractmethod
    def give(self, shard: Shard) -> Task:
        """Have a shard computed."""

    @abstractmethod
    def back(self, out: Collection[Task], seconds: float | None) -> Collection[Task]:
        """Those of `out` that are back: one at the least, or none after so many seconds."""

    @abstractmethod
    def result(self, task: Task) -> bytes:
        """What a task that is back has computed. Raises ShardLost where it is gone, and what the shard itself raised."""

    @abstractmethod
    def cancel(self, task: Task) -> None:
        """Give up a task that is out."""


def computed(
    crew: Crew[Task], schedule: Schedule, clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[Shard, bytes]]:
    """Shards as they are finished, each once; no more are asked for than there is room. Raises Failure at the end for those
    that were given up.
    """
    out: dict[Task, Shard] = {}
    try:
        while not schedule.over:
            room = crew.room()
            while len(out) < room and (shard := schedule.next(clock())) is not None:
                out[crew.give(shard)] = shard
            wait = schedule.due(clock()) if len(out) < room else None
            for task in crew.back(out.keys(), wait):
                shard = out.pop(task, None)
                if shard is None:  # its twin came back with it
                    continue
                try:
                    found = crew.result(task)
                except ShardLost as e:
                    schedule.lost(shard, str(e))
                    continue
                if schedule.copies(shard) > 1:
                    for twin in [t for t, s in out.items() if s.number == shard.number]:
                        crew.cancel(twin)
                        del out[twin]
                schedule.finished(shard, clock())
                yield shard, found
    finally:
        for task in out:
            crew.cancel(task)
    schedule.check()


__all__ = ["Crew", "Schedule", "ShardLost", "computed"]
