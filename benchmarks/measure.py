"""What the benchmarks share: ways timed in turn, peak memory of each in a process of its own, tables between markers.

Ways run round by round in one process, and a ratio is taken within each round, then the median of the rounds: a machine whose
speed drifts from one round to the next leaves it alone. Peak memory is told twice: the growth of the resident set, and the
bytes that torch's allocator held at most (which no leftovers can hide).
"""

from __future__ import annotations

import multiprocessing
import os
import re
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["KINETO_LOG_LEVEL"] = "5"

import torch

Ways = Mapping[str, Callable[[], object]]
Times = Mapping[str, Sequence[float]]
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"


class Peak(NamedTuple):
    """Bytes: growth of the resident set, and what torch's allocator held at most beyond the beginning."""

    resident: int
    allocated: int


def timed(ways: Ways, rounds: int, clock: Callable[[], float] = time.perf_counter) -> Times:
    """Seconds of each way by a clock, round by round, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, run in ways.items():
            start = clock()
            run()
            if turn:
                times[name].append(clock() - start)
    return times


def ratio(times: Times, way: str, floor: str) -> float:
    """How often a way's time holds its floor's: the median of the rounds' own ratios."""
    return statistics.median(a / b for a, b in zip(times[way], times[floor], strict=True))


def peaks(make: Callable[..., Ways], *args: Any, names: list[str]) -> dict[str, Peak]:
    """Peak memory of ways that `make(*args)` makes, each in a fresh process."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 18)  # freed tensors leave the resident set at once
    try:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            return {name: pool.apply(_peak, (make, args, name)) for name in names}
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def _peak(make: Callable[..., Ways], args: tuple[Any, ...], name: str) -> Peak:
    torch.set_num_threads(2)
    run = make(*args)[name]
    run()
    before, top, done = _rss(), 0, threading.Event()

    def watch() -> None:
        nonlocal top
        while not done.is_set():
            top = max(top, _rss())
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    run()
    done.set()
    thread.join()
    return Peak(top - before, allocated(run))


def allocated(run: Callable[[], object]) -> int:
    """The most bytes that torch's CPU allocator held during a run, beyond those at its beginning."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    held = most = 0
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def _rss() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def table(times: Times, memory: Mapping[str, Peak], floor: str) -> str:
    """Rows of ratios to the floor, as Markdown."""
    lines = ["| way | time | resident memory | allocated memory |", "|---|---|---|---|"]
    for name in times:
        ratios = [ratio(times, name, floor), *(a / b for a, b in zip(memory[name], memory[floor], strict=True))]
        lines.append(f"| {name} | " + " | ".join(f"{r:.2f} x" for r in ratios) + " |")
    return "\n".join(lines)


def machine() -> str:
    """What it ran on."""
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads"


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Put a text between `<!-- name: begin -->` and `<!-- name: end -->` on a page."""
    old = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    new, count = re.subn(
        re.escape(begin) + ".*?" + re.escape(end), lambda _: begin + text + "\n" + end, old, flags=re.S
    )
    if count != 1:
        raise SystemExit(f"{page} has no place for {name}: {begin.strip()} ... {end}")
    page.write_text(new, encoding="utf-8")
