"""What `regard.evaluate` costs: examples a second with one and two processes, the store's share of the time, and memory.

The rate is that of the how-to's own run, three methods under three protocols on the scenes of the zoo, from before the first
shard is begun to after the last is published; with two processes their start counts. The store's share is what is left of
this process's CPU time when the runner in memory is taken out: Parquet, publishing, progress. Memory is the peak of the
whole process after the first tenth of a long run and at its end: one that kept anything of an example would grow.

    python benchmarks/runner.py                  # print
    python benchmarks/runner.py --write          # the same, into docs/benchmarks.md
    python benchmarks/runner.py --examples 64 --long 1000
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import measure

import regard
from regard.evaluation import Example
from regard.evaluation.data.bundled import Bundled
from regard.evaluation.engines.work import Worker
from regard.evaluation.evaluate import Progress

MODEL = "zoo/vit-scenes"
METHODS = ["gae", "bti_token", "revised_ig"]
PROTOCOLS = ["perturbation", "segmentation", "attribution-error"]


@dataclass(kw_only=True)
class Repeated(Bundled):
    """The scenes again and again, up to so many examples."""

    kind: ClassVar[str] = "repeated"
    name: str = MODEL
    length: int = 10_000

    def __len__(self) -> int:
        return self.length

    def name_of(self, number: int) -> str:
        """The example's own number."""
        return f"example {number}"

    def read(self, reader: Any, number: int) -> Example:
        """One of the scenes, under that name."""
        made = super().read(reader, number % super().__len__())
        return Example(self.name_of(number), made.reading, made.label, made.mask)


@dataclass
class Clock:
    """When a run told how far it is, and the peak of memory then."""

    began: tuple[float, float] | None = None
    ended: tuple[float, float] = (0.0, 0.0)
    peaks: dict[int, float] | None = None

    def __call__(self, progress: Progress) -> None:
        """The run is so far."""
        self.ended = time.perf_counter(), time.process_time()
        self.began = self.began or self.ended
        self.peaks = (self.peaks or {}) | {progress.examples: peak()}

    @property
    def seconds(self) -> tuple[float, float]:
        """From before the first shard to after the last: as they pass, and of this process's CPU."""
        assert self.began is not None
        return self.ended[0] - self.began[0], self.ended[1] - self.began[1]


def peak() -> float:
    """MB that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(out: Path, workers: int, examples: int) -> tuple[float, float]:
    """Seconds of a run, and the share of this process's CPU time that is not the runner's in memory."""
    clock, inside, rows = Clock(), 0.0, Worker.rows

    def measured(self: Worker, shard: Any) -> Any:
        nonlocal inside
        started = time.process_time()
        found = rows(self, shard)
        inside += time.process_time() - started
        return found

    Worker.rows = measured  # type: ignore[method-assign]
    try:
        regard.evaluate(MODEL, None, METHODS, PROTOCOLS, out, workers=workers, examples=examples, told=clock)
    finally:
        Worker.rows = rows  # type: ignore[method-assign]
    passed, counted = clock.seconds
    return passed, 1 - inside / counted


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--long", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        one, share = timed(home / "one", 1, args.examples)
        two, _ = timed(home / "two", 2, args.examples)
        clock = Clock()
        length = Repeated(length=args.long)
        how: dict[str, Any] = {"shard": 96, "batch": 32, "told": clock}
        regard.evaluate(MODEL, length, ["random"], ["attribution-error(explained=true)"], home / "long", **how)
    known = clock.peaks or {}
    early = next(mb for count, mb in known.items() if count >= args.long // 10)
    late = known[args.long]
    lines = [
        f"| examples a second, one process | {args.examples / one:.2f} |",
        f"| examples a second, two processes, their start included | {args.examples / two:.2f} |",
        f"| the store's share of the CPU time, one process | {100 * share:.2f} % |",
        f"| peak memory after {args.long // 10} examples, and after {args.long} | {early:.0f} MB, {late:.0f} MB |",
        f"| examples a second of that run (`random`, attribution error) | {args.long / clock.seconds[0]:.1f} |",
    ]
    what = f"{args.examples} scenes of {MODEL}, {', '.join(METHODS)} under {', '.join(PROTOCOLS)}, one thread a process"
    text = f"`python benchmarks/runner.py`: {what}, {measure.machine()}.\n\n| | |\n|---|---|\n" + "\n".join(lines)
    print(text)
    if args.write:
        measure.write("runner", text)


if __name__ == "__main__":
    main()
