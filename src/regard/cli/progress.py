"""How far a run over many inputs is: a bar with its rate and the time that is left, or on a pipe a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import typer

from regard.cli.terminal import one_line

EVERY = 10.0
"""Seconds from one line to the next, where there is no terminal."""


def duration(seconds: float) -> str:
    """A time for the eye: 40 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def paced(rate: float, left: float) -> str:
    """How many a second, or how long each takes, and the seconds that are left; 0 where nothing is."""
    said = f"{rate:.3g} a second" if rate >= 0.1 else f"{duration(1 / rate)} each"
    return f"{said}, {duration(left)} left" if left else said


@dataclass
class Counted:
    """How many inputs are done of how many, and how fast; those that an earlier run had done do not count for the rate."""

    total: int
    done: int = 0
    failed: int = 0
    worked: int = 0
    started: float = field(default_factory=time.monotonic)

    def step(self, failed: bool = False, worked: bool = True) -> None:
        """One more."""
        self.done += 1
        self.failed += failed
        self.worked += worked

    @property
    def rate(self) -> float:
        """Inputs a second."""
        return self.worked / max(time.monotonic() - self.started, 1e-9)

    @property
    def pace(self) -> str:
        """The rate in words, and what is left."""
        return paced(self.rate, (self.total - self.done) / self.rate) if self.worked else ""

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        pace = self.pace
        return f"{self.done} of {self.total} inputs{failed}" + (f"; {pace}" if pace else "")


class ProgressLine:
    """Says on stderr how far it is, line by line."""

    def __init__(self, counted: Counted, quiet: bool) -> None:
        self.counted, self.quiet, self.next = counted, quiet, counted.started + EVERY

    def told(self, name: str) -> None:
        """What is done next."""
        if not self.quiet and time.monotonic() >= self.next:
            typer.echo(f"{self.counted}; now {one_line(name)}", err=True)
            self.next = time.monotonic() + EVERY

    def failed(self, said: str) -> None:
        """One that could not be explained."""
        if not self.quiet:
            typer.echo(f"failed: {one_line(said)}", err=True)


class ProgressBar(ProgressLine):
    """The same as a bar on a terminal."""

    def __init__(self, counted: Counted, bar: Any) -> None:
        super().__init__(counted, quiet=False)
        self.bar, self.task = bar, bar.add_task("", total=counted.total, pace="")

    def told(self, name: str) -> None:
        """What is done next."""
        self.bar.update(
            self.task, description=one_line(name)[-32:], completed=self.counted.done, pace=self.counted.pace
        )

    def failed(self, said: str) -> None:
        """One that could not be explained: a line above the bar."""
        from rich.text import Text as Line

        self.bar.console.print(Line(f"failed: {one_line(said)}"))


@contextmanager
def progress(counted: Counted, quiet: bool) -> Iterator[ProgressLine]:
    """A bar on a terminal, else lines."""
    if quiet or not sys.stderr.isatty():
        yield ProgressLine(counted, quiet)
        return
    with drawn_bar() as bar:
        yield ProgressBar(counted, bar)


@contextmanager
def drawn_bar() -> Iterator[Any]:
    """A bar on a terminal: what is done, how much of it, and its pace, a field of the task. Gone when it ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar


__all__ = ["Counted", "drawn_bar", "duration", "paced", "progress"]
