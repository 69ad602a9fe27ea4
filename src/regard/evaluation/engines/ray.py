"""Shards on a Ray cluster: the same work, the same rows, published by the one process that holds the store.

A cluster that is joined already (`ray.init(address=...)`) is used as it is, else the one that RAY_ADDRESS names, else one is
begun on this machine. Shards are tasks, which Ray gives to any free slot; each process of a node keeps one copy of the model.
What is tried again when a node dies, and when a task takes too long, is the schedule's to say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regard.evaluation.engines.schedule import Crew, Schedule, ShardLost, computed
from regard.evaluation.engines.work import Work, Worker
from regard.evaluation.plan import Shard
from regard.extras import brought_by

TRIES = 5
"""How often a shard is tried whose node or process dies."""
AHEAD = 8
"""For so many slots of the cluster one shard is asked for ahead: few, so that none waits long behind a slow one."""
PATIENCE = 1.25
"""A shard that is out for so many times the usual time is asked for once more, when nothing else waits: slots are free then."""

_kept: dict[str, Worker] = {}
"""The worker of this process, by its plan; in a process of the cluster."""


def on_cluster(work: Work, shards: Sequence[Shard], workers: int | None) -> Iterator[tuple[Shard, bytes]]:
    """Shards as they are finished. `workers`: at most so many at a time; None: as many as the cluster has room for.

    Raises Failure at the end where the processes of a shard died again and again; and what a shard raises.
    """
    ray = brought_by("ray", "ray")
    with _joined(ray):
        slot = slot_of(work)
        task = ray.remote(num_cpus=slot["CPU"], num_gpus=slot.get("GPU", 0), max_retries=0)(_parquet)
        crew = RayCrew(ray, task, ray.put(work), slot, workers)
        yield from computed(crew, Schedule(shards, TRIES, patience=PATIENCE))


def room_for(slots: int) -> int:
    """How many shards may be out at a cluster of so many slots: no more are computed than are published."""
    return slots + max(1, slots // AHEAD)


def slot_of(work: Work) -> dict[str, int]:
    """What a task takes of a cluster's resources: a processor for each thread, and a GPU where the model runs on one."""
    return {"CPU": work.threads, **({"GPU": 1} if work.device.startswith("cuda") else {})}


@dataclass
class RayCrew(Crew[Any]):
    """The slots of a cluster.

    ray: the module. task: the remote function. work: where the cluster keeps the work. slot: what a task takes of the
    cluster's resources. workers: at most so many tasks at a time; None: as many as there is room for.
    """

    ray: Any
    task: Any
    work: Any
    slot: Mapping[str, int]
    workers: int | None

    def room(self) -> int:
        """How many shards may be out at present."""
        there = self.ray.cluster_resources()
        slots = min(int(there.get(name, 0)) // count for name, count in self.slot.items())
        return self.workers or room_for(max(1, slots))

    def give(self, shard: Shard) -> Any:
        """Have a shard computed."""
        return self.task.remote(self.work, shard)

    def back(self, out: Collection[Any], seconds: float | None) -> Collection[Any]:
        """Those that are back; their bytes stay where they are until they are asked for."""
        tasks = list(out)
        found, rest = self.ray.wait(tasks, timeout=seconds, fetch_local=False)
        if found and rest:  # all that are back at one look: with thousands out, one look for each would be too slow
            more, _ = self.ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False)
            found += more
        made: Collection[Any] = found
        return made

    def result(self, task: Any) -> bytes:
        """What a task has computed. Raises ShardLost where its process or its node died."""
        try:
            found: bytes = self.ray.get(task)
            return found
        except self.ray.exceptions.RayTaskError as e:
            raise e.cause from None
        except self.ray.exceptions.RayError as e:
            raise ShardLost(type(e).__name__) from e

    def cancel(self, task: Any) -> None:
        """Give up a task."""
        self.ray.cancel(task, force=True)


@contextlib.contextmanager
def _joined(ray: Any) -> Iterator[None]:
    """A cluster: the one that was joined, or one that is left again."""
    if ray.is_initialized():
        yield
        return
    ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        yield
    finally:
        ray.shutdown()


def _parquet(work: Work, shard: Shard) -> bytes:
    """One shard, in a process of the cluster, which keeps the model for the next."""
    if work.plan not in _kept:
        _kept.clear()
        _kept[work.plan] = Worker(work, work.reader())
    return _kept[work.plan].parquet(shard)


__all__ = ["on_cluster"]
