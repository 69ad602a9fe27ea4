"""Shards on this machine: in this process, or in several, which end with it."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from regard import lifeline
from regard.errors import Misuse
from regard.evaluation.engines.schedule import Schedule
from regard.evaluation.engines.work import Work, Worker
from regard.evaluation.plan import Shard

Finished = Iterator[tuple[Shard, bytes]]
AHEAD = 2
"""Shards that wait for each worker; no more are computed than are published."""
TRIES = 2
"""How often a shard is tried whose worker dies."""


def in_this_process(work: Work, reader: Any, shards: Sequence[Shard]) -> Finished:
    """One shard after the other."""
    worker = Worker(work, reader)
    for shard in shards:
        yield shard, worker.parquet(shard)


def in_processes(work: Work, shards: Sequence[Shard], workers: int) -> Finished:
    """Shards as they are finished, in several processes with a copy of the model each.

    A worker that dies (for want of memory, mostly) is replaced, and its shard tried again. Raises Failure at the end where that
    did not help.
    """
    check_not_inside()
    begin = packed(work, _begin)
    schedule = Schedule(shards, TRIES, alone=True)
    while not schedule.over:
        left: dict[Future[bytes], Shard] = {}
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, context, initializer=lifeline.begin, initargs=(os.getpid(), begin))
        try:
            while not schedule.over:
                with _no_interrupts():  # what is started now is deaf to Ctrl-C: this process ends it
                    now = time.monotonic()
                    while len(left) < AHEAD * workers and (shard := schedule.next(now)) is not None:
                        left[pool.submit(_parquet, shard)] = shard
                for done in wait(left, return_when=FIRST_COMPLETED).done:
                    found = done.result()
                    shard = left.pop(done)
                    schedule.finished(shard, time.monotonic())
                    yield shard, found
        except BrokenProcessPool:
            for shard in left.values():  # which of them ended the worker is not known
                schedule.lost(shard)
        finally:
            ended(pool)
    schedule.check()


def packed(work: Work, begin: Callable[[Work], object]) -> bytes:
    """What a worker does first, as it is sent to it. Raises Misuse for a model or data that cannot be sent."""
    try:
        return pickle.dumps(functools.partial(begin, work))
    except (pickle.PicklingError, TypeError, AttributeError) as e:
        raise Misuse(
            f"the model or the data cannot be sent to other processes ({e}); give them by name, or workers=1"
        ) from e


def ended(pool: ProcessPoolExecutor) -> None:
    """End the workers at once: what they have not handed over is computed again."""
    processes = [*(getattr(pool, "_processes", None) or {}).values()]
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Processes that are started in here never see Ctrl-C, not even while they import."""
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_not_inside() -> None:
    """Raise Misuse in a worker that runs the user's script anew."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise Misuse("workers run your script once more as they begin: call evaluate under if __name__ == '__main__':")


# -- in the worker -----------------------------------------------------------------------------------------------------

_worker: list[Worker] = []


def _begin(work: Work) -> None:
    """Load the model."""
    _worker[:] = [Worker(work, work.reader())]


def _parquet(shard: Shard) -> bytes:
    return _worker[0].parquet(shard)


__all__ = ["check_not_inside", "ended", "in_processes", "in_this_process", "packed"]
