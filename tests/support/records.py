"""Flat rows as one record an example: where tests read numbers off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from regard.evaluation import Protocol, Row
from regard.evaluation.measured import grouped


@dataclass(frozen=True)
class Made(Protocol):
    """A protocol of rows that are made up."""

    kind: ClassVar[str] = "made"
    question: ClassVar[str] = "Nothing."
    which: str = "p"

    @property
    def name(self) -> str:
        """The full name."""
        return f"{self.kind}/{self.which}"

    def run(self, maps: Any, example: Any) -> list[Row]:
        """None."""
        return []


@dataclass(frozen=True)
class Record:
    """One example, one method, one protocol."""

    protocol: Protocol
    title: str
    example: str
    values: dict[str, float]
    curves: dict[str, tuple[float, ...]]
    row: Row

    @property
    def error(self) -> str:
        """Why there are no numbers."""
        return self.row.error

    @property
    def predicted(self) -> int:
        """The model's answer."""
        assert self.row.predicted is not None
        return self.row.predicted


def records(rows: Sequence[Row]) -> list[Record]:
    """Rows put together, in the order of their first."""
    out = []
    for (protocol, title, example), own in grouped(rows, lambda r: (r.protocol, r.title, r.example)).items():
        good = [r for r in own if not r.error]
        names = dict.fromkeys(r.metric for r in good if r.x is not None)
        curves = {n: tuple(r.value for r in good if r.x is not None and r.metric == n) for n in names}
        values = {r.metric: r.value for r in good if r.x is None}
        out.append(Record(protocol, title, example, values, curves, own[0]))
    return out


def record(rows: Sequence[Row]) -> Record:
    """The record of a single example."""
    (one,) = records(rows)
    return one
