"""Ten thousand workers that are not there: the schedule, the store and the lease of `regard.evaluate` on a clock of its own.

What decides and what writes is the library's own code: `Schedule` and `computed` of the engines, `carried_out` of evaluate,
`Worker.parquet`, `Store.publish` and `Store.done`, `Lease`. What is made up is the world around it: a cluster that computes
in no time what would take minutes, whose workers die, straggle and hang, and a coordinator that is killed between the
temporary file and the rename, is killed between two shards, or sleeps until another one has taken its lease. Events stand in
a queue, and the clock jumps from one to the next.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from regard.errors import Failure, Misuse
from regard.evaluation.data.dataset import DataSet
from regard.evaluation.engines import ray as ray_engine
from regard.evaluation.engines.schedule import Crew, Schedule, ShardLost, computed
from regard.evaluation.engines.work import Work, Worker
from regard.evaluation.evaluate import carried_out
from regard.evaluation.examples import Example
from regard.evaluation.plan import Plan, Shard
from regard.evaluation.protocols.attribution_error import AttributionError
from regard.evaluation.protocols.protocol import Row
from regard.evaluation.store import lock
from regard.evaluation.store import store as stores
from regard.evaluation.store.store import Store

HOUR = 3600.0


@dataclass(frozen=True)
class World:
    """What happens to whom.

    Attributes:
        workers: how many. deaths: of a worker, an hour. seconds: that a shard takes, on the average; evenly from half of it to
            one and a half. straggling: the share of tries that take `slower` times as long. hanging: the share of tries that
            never end. noticed: seconds after which a dead worker shows. replaced: seconds after which another stands in its
            place. publishing: seconds that the coordinator spends on each shard. killed: how often it is killed. stalled: how
            often it sleeps past its lease. restarted: seconds until the next one begins.
    """

    workers: int = 10_000
    deaths: float = 0.01
    seconds: float = 600.0
    straggling: float = 0.01
    slower: float = 10.0
    hanging: float = 0.0002
    noticed: float = 30.0
    replaced: float = 300.0
    publishing: float = 0.01
    killed: int = 4
    stalled: int = 2
    restarted: float = 120.0

    @property
    def undisturbed(self) -> World:
        """The same without a failure."""
        return World(self.workers, 0, self.seconds, 0, 1, 0, publishing=self.publishing, killed=0, stalled=0)


class Killed(BaseException):
    """The coordinator's process is gone."""


@dataclass
class Clock:
    """The time of the world, in place of the module `time` where leases look at it."""

    now: float = 0.0

    def time(self) -> float:
        """Seconds."""
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds


@dataclass
class Told:
    """What happened, counted.

    deaths: of workers. lost: shards that did not come back. again: shards that were given out once more because they took long.
    late: tries that were given up, because the shard was there already or the coordinator gone. killed, half: coordinators, and
    those of them that died between temporary file and rename. stalled, refused: coordinators that slept past their lease, and
    those that were kept from publishing then. published: by coordinators. given: tries in all.
    """

    deaths: int = 0
    lost: int = 0
    again: int = 0
    late: int = 0
    killed: int = 0
    half: int = 0
    stalled: int = 0
    refused: int = 0
    published: int = 0
    given: int = 0


class Numbered(DataSet):
    """Examples that are numbers."""

    kind = "numbers"

    def __init__(self, count: int) -> None:
        self.count = count

    source = "numbers"

    def __len__(self) -> int:
        return self.count

    def name_of(self, number: int) -> str:
        """Its number."""
        return str(number)

    def read(self, reader: Any, number: int) -> Example:
        """Nobody reads them."""
        raise NotImplementedError

    def digest(self) -> str:
        """Their count."""
        return str(self.count)


class QuickWorker(Worker):
    """A worker whose rows cost nothing: one for each example."""

    def rows(self, shard: Shard) -> list[Row]:
        """The number of each example."""
        return [
            Row(PROTOCOL, str(i), "number", float(i), method="random", title="random")
            for i in range(shard.first, shard.last)
        ]


class Empty(QuickWorker):
    """A worker that writes nothing."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(Work("", Numbered(plan.count), (), (), ""), None)

    def parquet(self, shard: Shard) -> bytes:
        """No bytes."""
        return b""


PROTOCOL = AttributionError()


@dataclass
class SimulatedCrew(Crew[int]):
    """The cluster as one coordinator sees it. Tasks are numbers; what a dead worker holds is lost."""

    world: World
    clock: Clock
    drawn: random.Random
    told: Told
    worker: QuickWorker
    lease: lock.Lease | None = None

    def __post_init__(self) -> None:
        self.free = list(range(self.world.workers))
        self.queue: deque[int] = deque()
        self.shards: dict[int, Shard] = {}
        self.at: dict[int, int] = {}  # task -> the worker that runs it, or holds what it computed
        self.busy: dict[int, int] = {}
        self.held: dict[int, set[int]] = {}
        self.came: list[int] = []
        self.gone: set[int] = set()
        self.events: list[tuple[float, int, str, int]] = []
        self.numbers = itertools.count()
        self._later(self._until_death(), "death")
        self._later(lock.BEAT, "beat")

    def _later(self, seconds: float, what: str, who: int = -1) -> None:
        heapq.heappush(self.events, (self.clock.now + seconds, next(self.numbers), what, who))

    def _until_death(self) -> float:
        rate = self.world.workers * self.world.deaths / HOUR
        return self.drawn.expovariate(rate) if rate else float("inf")

    def room(self) -> int:
        """As the engine for Ray has it."""
        return ray_engine.AHEAD * self.world.workers

    def give(self, shard: Shard) -> int:
        """The task waits for a free worker."""
        task = next(self.numbers)
        self.told.given += 1
        self.shards[task] = shard
        self.queue.append(task)
        self._start()
        return task

    def _start(self) -> None:
        while self.free and self.queue:
            task = self.queue.popleft()
            if task not in self.shards:  # cancelled
                continue
            worker = self.free.pop()
            self.at[task], self.busy[worker] = worker, task
            seconds = self.world.seconds * self.drawn.uniform(0.5, 1.5)
            fate = self.drawn.random()
            if fate < self.world.straggling:
                seconds *= self.world.slower
            if fate <= 1 - self.world.hanging:
                self._later(seconds, "done", task)

    def back(self, out: Collection[int], seconds: float | None) -> Collection[int]:
        """Let events happen until a task is back, or so long."""
        ends = float("inf") if seconds is None else self.clock.now + seconds
        while not self.came and self.events and self.events[0][0] <= ends:
            self._happen()
        while self.events and self.events[0][0] <= self.clock.now:  # what happened while the coordinator was at work
            self._happen()
        if not self.came and ends < float("inf"):
            self.clock.now = max(self.clock.now, ends)
        self.came, found = [], self.came
        return [t for t in found if t in self.shards]

    def _happen(self) -> None:
        at, _, what, who = heapq.heappop(self.events)
        self.clock.now = max(self.clock.now, at)
        getattr(self, f"_{what}")(who)

    def _beat(self, _: int) -> None:
        if self.lease is not None:
            self.lease.renew()
        self._later(lock.BEAT, "beat")

    def _done(self, task: int) -> None:
        worker = self.at.get(task)
        if worker is None or self.busy.get(worker) != task:  # cancelled, or its worker is dead
            return
        del self.busy[worker]
        self.held.setdefault(worker, set()).add(task)
        self.free.append(worker)
        self.came.append(task)
        self._start()

    def _death(self, _: int) -> None:
        self._later(self._until_death(), "death")
        worker = self.drawn.randrange(self.world.workers)
        if worker in self.gone:
            return
        self.told.deaths += 1
        self.gone.add(worker)
        if worker in self.busy:
            self._later(self.world.noticed, "noticed", self.busy.pop(worker))
        else:
            with contextlib.suppress(ValueError):
                self.free.remove(worker)
        for task in self.held.pop(worker, set()):
            self.at.pop(task, None)
        self._later(self.world.replaced, "replaced", worker)

    def _noticed(self, task: int) -> None:
        if self.at.pop(task, None) is not None:
            self.came.append(task)

    def _replaced(self, worker: int) -> None:
        self.gone.discard(worker)
        self.free.append(worker)
        self._start()

    def result(self, task: int) -> bytes:
        """The file of a shard, made by the library's own worker. Raises ShardLost where the worker is dead."""
        shard, worker = self.shards.pop(task), self.at.pop(task, None)
        if worker is None:
            self.told.lost += 1
            raise ShardLost
        self.held[worker].discard(task)
        return self.worker.parquet(shard)

    def cancel(self, task: int) -> None:
        """Its worker is free again."""
        self.shards.pop(task, None)
        worker = self.at.pop(task, None)
        if worker is not None and self.busy.get(worker) == task:
            del self.busy[worker]
            self.free.append(worker)
            self.told.late += 1
            self._start()


@dataclass
class Simulation:
    """A run of so many shards in a world, coordinators following one another until all is done.

    Attributes:
        out: an empty folder. examples, size: of all, and of a shard. told: what happened. seconds: how long it took there.
    """

    out: Path
    world: World
    examples: int
    size: int
    seed: int = 0
    told: Told = field(default_factory=Told)
    clock: Clock = field(default_factory=Clock)
    holding: list[Any] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        """As the manifest keeps it."""
        asked = {"kind": "AttributionError", "name": PROTOCOL.name, "choices": {}}
        method = {"method": "random", "title": "random", "options": {}}
        return Plan(
            {"name": "none"}, {"source": "numbers"}, {}, [method], [asked], 0, 1, 1, 1, self.size, self.examples
        )

    def run(self) -> Told:
        """Until a coordinator ends by itself, with files."""
        drawn, shards = random.Random(self.seed), -(-self.examples // self.size)
        ends = (
            sorted(drawn.sample(range(1, shards), self.world.killed + self.world.stalled)) if self.world.killed else []
        )
        ways = ["half", "between"] * self.world.killed
        fates = ways[: self.world.killed] + ["stall"] * self.world.stalled
        drawn.shuffle(fates)
        with self._in_the_world():
            for at, fate in [*zip(ends, fates, strict=True), (None, "")]:
                with contextlib.suppress(Killed):
                    self._coordinator(drawn, at, fate)
                self.clock.sleep(self.world.restarted)
        return self.told

    def decided(self) -> Told:
        """The same without coordinators that die, and without a file: the schedule alone, for how long it takes."""
        crew = SimulatedCrew(self.world, self.clock, random.Random(self.seed), self.told, Empty(self.plan))
        schedule = Schedule(self.plan.shards, ray_engine.TRIES, patience=ray_engine.PATIENCE)
        for _ in computed(crew, schedule, self.clock.time):
            self.clock.now += self.world.publishing
            self.told.published += 1
        self.told.again = schedule.again
        return self.told

    @contextlib.contextmanager
    def _in_the_world(self) -> Iterator[None]:
        """Leases look at the world's clock, beat when it says so, and are what keeps this folder."""
        with (
            mock.patch.object(lock, "time", self.clock),
            mock.patch.object(lock.Lease, "_beat", return_value=None),
            mock.patch.object(stores, "can_lock", return_value=False),
        ):
            yield

    def _coordinator(self, drawn: random.Random, end: int | None, fate: str) -> None:
        """One coordinator, from its lease to its end: it is done, or killed after so many shards have been published."""
        store, plan = Store(self.out), self.plan
        worker = QuickWorker(Work("", Numbered(self.examples), (), (), plan.digest), None)
        crew = SimulatedCrew(self.world, self.clock, drawn, self.told, worker)
        schedule: list[Schedule] = []

        def computing(todo: Sequence[Shard]) -> Any:
            schedule.append(Schedule(todo, ray_engine.TRIES, patience=ray_engine.PATIENCE))
            for shard, data in computed(crew, schedule[0], self.clock.time):
                self.clock.now += self.world.publishing
                last = end is not None and self.told.published >= end
                if last and fate == "stall":
                    self._sleep_past_the_lease(store, shard, data)
                with self._dying(last and fate == "half"):
                    yield shard, data
                self.told.published += 1
                if last and fate == "between":
                    self.told.killed += 1
                    raise Killed

        held = store.held()
        self.holding.append(held)  # a process that is killed gives nothing back
        held.__enter__()
        crew.lease = store.lease
        try:
            carried_out(store, plan, computing)
        except Failure:
            if fate != "stall":
                raise
            raise Killed from None
        finally:
            self.told.again += schedule[0].again if schedule else 0
        held.__exit__(None, None, None)

    @contextlib.contextmanager
    def _dying(self, dying: bool) -> Iterator[None]:
        """Die between the temporary file and the rename, as by SIGKILL: nothing is cleared away."""
        if not dying:
            yield
            return
        self.told.killed += 1
        self.told.half += 1
        with mock.patch.object(os, "replace", side_effect=Killed), mock.patch.object(Path, "unlink", return_value=None):
            yield

    def _sleep_past_the_lease(self, store: Store, shard: Shard, data: bytes) -> None:
        """Another coordinator takes the lease meanwhile, and publishes the same shard; this one then is refused."""
        self.told.stalled += 1
        other = Store(self.out)
        with contextlib.suppress(Misuse), other.held():
            raise AssertionError("two coordinators at a time")
        self.clock.sleep(lock.STALE + 1)
        with other.held():
            other.publish(shard, data)
            with contextlib.suppress(Failure):
                store.publish(shard, data)
                raise AssertionError("a coordinator published without its lease")
            self.told.refused += 1
