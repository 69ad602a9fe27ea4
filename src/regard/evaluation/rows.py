"""Rows put together: by a key, and the points of each curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from regard.evaluation.protocols.protocol import Row

K = TypeVar("K")


class Curve(NamedTuple):
    """One example's curve by one method."""

    title: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    row: Row

    @property
    def finite(self) -> bool:
        """Whether there is a number at each point."""
        return all(math.isfinite(v) for v in self.y)


def grouped(rows: Iterable[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    """Rows by a key, in the order of their first."""
    out: dict[K, list[Row]] = {}
    for row in rows:
        out.setdefault(key(row), []).append(row)
    return out


def curves_of(rows: Sequence[Row], name: str) -> list[Curve]:
    """The curves of a name, one an example and method, in the order of the rows."""
    points = [r for r in rows if r.x is not None and r.metric == name]
    every = grouped(points, lambda r: (r.protocol, r.title, r.example)).values()
    return [Curve(own[0].title, tuple(r.x or 0.0 for r in own), tuple(r.value for r in own), own[0]) for own in every]


def curve_names(rows: Sequence[Row]) -> list[str]:
    """The names of all curves."""
    return list(dict.fromkeys(r.metric for r in rows if r.x is not None))


__all__ = ["Curve", "curve_names", "curves_of", "grouped"]
