"""Shards on a Ray cluster: the same work, the same rows, published by the one process that holds the store.

A cluster that is joined already (`ray.init(address=...)`) is used as it is, else the one that RAY_ADDRESS names, else one is
begun on this machine. Shards are tasks, which Ray gives to any free slot and tries again where a node dies; each process of a
node keeps one copy of the model.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from regard.errors import Failure
from regard.evaluation.engines.work import Work, Worker
from regard.evaluation.plan import Shard
from regard.extras import brought_by

TRIES = 5
"""How often a shard is tried anew whose node or process dies."""
AHEAD = 2
"""Shards that are asked for beyond the cluster's slots, in multiples of them: no more are computed than are published."""

_kept: dict[str, Worker] = {}
"""The worker of this process, by its plan; in a process of the cluster."""


def on_cluster(work: Work, shards: Sequence[Shard], workers: int | None) -> Iterator[tuple[Shard, bytes]]:
    """Shards as they are finished. `workers`: at most so many at a time; None: as many as the cluster has room for.

    Raises Failure where a shard's processes die again and again; and what a shard raises.
    """
    ray = brought_by("ray", "ray")
    with _joined(ray):
        task = ray.remote(num_cpus=work.threads, max_retries=TRIES)(_parquet)
        left: dict[Any, Shard] = {}
        given, waiting = ray.put(work), deque(shards)
        try:
            while waiting or left:
                most = workers or AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)) // work.threads)
                while waiting and len(left) < most:
                    shard = waiting.popleft()
                    left[task.remote(given, shard)] = shard
                (done, *_), _ = ray.wait(list(left))
                found = _found(ray, done, left[done])
                yield left.pop(done), found
        finally:
            for one in left:
                ray.cancel(one, force=True)


def _found(ray: Any, done: Any, shard: Shard) -> bytes:
    """What came of a task."""
    try:
        found: bytes = ray.get(done)
        return found
    except ray.exceptions.RayTaskError as e:
        raise e.cause from None
    except ray.exceptions.RayError as e:
        raise Failure(
            f"the examples {shard.first} to {shard.last - 1} could not be computed on the cluster: {type(e).__name__}; what is "
            "done is kept, and the same command goes on"
        ) from e


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
