"""What one map costs, by each method in a process of its own: time, and by how much the process grows.

The process loads the model, runs it on the examples, makes one map to warm up (what is imported late is not the map's), and
then a map of each example by itself. Memory is the resident set: torch's tensors are in it, which no profiler of Python sees.
The kernel keeps its peak, and sets it back when asked to; that is Linux, and elsewhere memory is not known.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from regard import lifeline
from regard.errors import Failure
from regard.evaluation.engines.local import check_not_inside, ended, packed
from regard.evaluation.engines.work import Work, one_way_of_counting
from regard.evaluation.leaderboard import Cost
from regard.evaluation.protocols.protocol import MethodChoice
from regard.evaluation.runner import answered, map_of

EXAMPLES = 8
SCANNED = 16
"""So many examples are looked through for as many as can be read."""
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def costs(work: Work, told: Callable[[str], None] | None = None) -> dict[str, Cost]:
    """Title -> what a map costs; methods that cannot explain the model have none. told: is called with each method's title.

    Raises Failure where a process dies.
    """
    check_not_inside()
    found: dict[str, Cost] = {}
    for choice in work.methods:
        if told is not None:
            told(choice.title)
        cost = _alone(work, choice)
        if cost is not None:
            found[choice.title] = cost
    return found


def _alone(work: Work, choice: MethodChoice) -> Cost | None:
    """One method, in a process that begins and ends with it."""
    start = (os.getpid(), packed(work, _nothing))
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=lifeline.begin, initargs=start)
    try:
        return pool.submit(cost_of, work, choice).result()
    except BrokenProcessPool as e:
        raise Failure(
            f"the process that measured {choice.title} died, for want of memory perhaps; the rows are kept"
        ) from e
    finally:
        ended(pool)


def _nothing(_work: Work) -> None:
    """A process that measures begins with nothing."""


# -- in the process ----------------------------------------------------------------------------------------------------


def cost_of(work: Work, choice: MethodChoice) -> Cost | None:
    """One method's cost, in this process; None where it makes no map of any example."""
    reader = work.reader()
    with one_way_of_counting(work.threads):
        made = [*_maps(work, reader, choice)]
        if not made:
            return None
        made[0]()
        gc.collect()
        before = _set_back()
        times = [_timed(run) for run in made]
        peak = _kilobytes("VmHWM")
    grown = None if before is None or peak is None else max(0, peak - before) * 1024
    return Cost(statistics.median(times), grown, len(times), work.threads, _machine())


def _maps(work: Work, reader: Any, choice: MethodChoice) -> Iterator[Callable[[], object]]:
    """What makes a map of each of the first good examples; the model has run on them, and the method can explain them."""
    count = 0
    for number in range(min(SCANNED, len(work.data))):
        batch = answered(reader.model, work.data.example(reader, number))
        if batch is None:
            continue
        run = functools.partial(map_of, reader.model, batch, choice, seed=work.seed)
        try:
            if not count:
                run()
        except Exception:  # its rows say why
            continue
        count += 1
        yield run
        if count == EXAMPLES:
            return


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _set_back() -> int | None:
    """Let the peak begin anew; kilobytes that are resident now, None where there is no telling.

    What was freed is given back to the system first, or an earlier peak would hide a later one.
    """
    try:
        with contextlib.suppress(AttributeError):  # not of every C library
            ctypes.CDLL(None).malloc_trim(0)
        CLEAR.write_text("5")
    except OSError:
        return None
    return _kilobytes("VmRSS")


def _kilobytes(name: str) -> int | None:
    try:
        lines = STATUS.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))
    except (OSError, StopIteration, ValueError):
        return None


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}"


__all__ = ["cost_of", "costs"]
