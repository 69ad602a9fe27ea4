"""Rows as columns: all that one method's rows say under one protocol, as arrays over examples.

A run over ten thousand pictures has millions of rows: as objects of Python they fill the memory, as columns they are a few
arrays. Summaries, rankings and figures are made of these. `measured` makes them of the rows of the runner in memory, a store of
its files (`store.results`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from regard.errors import Misuse
from regard.evaluation.protocols.protocol import Protocol, Row
from regard.evaluation.statistics import Numbers, numbered

Places = NDArray[np.integer[Any]]
SIDES = ("wrong", "right", "unknown")
"""Whether the model had an example right, by its number; `ABSENT`: there is no row that could tell."""
ABSENT = -1


@dataclass(frozen=True, eq=False)
class Examples:
    """What several methods were asked about.

    Attributes:
        names: of each example, all different. drawn_with: what a bootstrap draws each with (`Row.drawn_with`).
    """

    names: Sequence[str]
    drawn_with: Sequence[str]

    @functools.cached_property
    def groups(self) -> Places:
        """(example,) a number each, equal where they are drawn together."""
        return numbered(self.drawn_with, len(self.names))[0]


class MetricColumn(NamedTuple):
    """One metric. of: (n,) places of the examples. values: (n,), NaN where it is undefined."""

    of: Places
    values: Numbers


class PointColumn(NamedTuple):
    """The points of one curve. of: (n,) places of the examples. x, y: (n,), in the order of the rows."""

    of: Places
    x: Numbers
    y: Numbers


class CurveColumn(NamedTuple):
    """One curve. of: (n,) places of the examples. x: (point,), increasing. y: (n, point)."""

    of: Places
    x: Numbers
    y: Numbers

    @classmethod
    def put_together(cls, name: str, points: PointColumn) -> CurveColumn:
        """Points of one example in one row, in the order of x. Raises Misuse where examples have theirs at other x."""
        order = np.lexsort((points.x, points.of))
        _, count = np.unique(points.of, return_counts=True)
        if len(np.unique(count)) > 1:
            raise Misuse(
                f"{name} has {count.min()} points of one example and {count.max()} of another; show them apart"
            )
        rows = order.reshape(-1, count[0])
        if (points.x[rows] != points.x[rows[0]]).any():
            raise Misuse(f"the points of {name} do not lie at the same places for all examples; show them apart")
        rows = rows[np.argsort(rows.min(1))]  # in the order of the rows, as numbers are
        return cls(points.of[rows[:, 0]], points.x[rows[0]], points.y[rows])

    @property
    def finite(self) -> CurveColumn:
        """Those with a number at each point."""
        kept = np.isfinite(self.y).all(1)
        return CurveColumn(self.of[kept], self.x, self.y[kept])


@dataclass(frozen=True, eq=False)
class MethodColumns:
    """The rows of one method under one protocol, at one site and baseline.

    Attributes:
        title: what tables call the method. sides: (example,) `SIDES` of the examples with a row, `ABSENT` of others. good:
            (example,) whether there is a row without an error. values: metric -> its numbers. points: curve -> its points.
            errors: place of an example and why it has no number, a pair for each such row.
    """

    protocol: Protocol
    title: str
    site: str
    baseline: str
    examples: Examples
    sides: NDArray[np.int8]
    good: NDArray[np.bool_]
    values: Mapping[str, MetricColumn]
    points: Mapping[str, PointColumn]
    errors: Sequence[tuple[int, str]]

    @property
    def key(self) -> tuple[Protocol, str, str, str]:
        """What it is of."""
        return self.protocol, self.title, self.site, self.baseline

    def curve(self, name: str) -> CurveColumn | None:
        """A curve of the examples that have it; None where none has. Raises as `CurveColumn.put_together`."""
        return CurveColumn.put_together(name, self.points[name]) if name in self.points else None

    def only(self, kept: NDArray[np.bool_]) -> MethodColumns:
        """The same of some examples. kept: (example,)."""
        values = {m: MetricColumn(v.of[kept[v.of]], v.values[kept[v.of]]) for m, v in self.values.items()}
        points = {
            name: PointColumn(p.of[own], p.x[own], p.y[own]) for name, p in self.points.items() for own in (kept[p.of],)
        }
        return dataclasses.replace(
            self,
            sides=np.where(kept, self.sides, ABSENT).astype(np.int8),
            good=self.good & kept,
            values={m: v for m, v in values.items() if len(v.of)},
            points={name: p for name, p in points.items() if len(p.of)},
            errors=[(place, why) for place, why in self.errors if kept[place]],
        )

    def by_side(self) -> dict[str, MethodColumns]:
        """Right, wrong and unknown ones apart, in the order of the first of each."""
        first = {s: int(np.argmax(self.sides == n)) for n, s in enumerate(SIDES) if (self.sides == n).any()}
        return {s: self.only(self.sides == SIDES.index(s)) for s in sorted(first, key=first.__getitem__)}


Rows: TypeAlias = "Sequence[Row] | Sequence[MethodColumns]"
"""What summaries are made of: rows, or their columns."""


K = TypeVar("K")


def grouped(rows: Iterable[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    """Rows by a key, in the order of their first."""
    out: dict[K, list[Row]] = {}
    for row in rows:
        out.setdefault(key(row), []).append(row)
    return out


def measured(rows: Rows) -> list[MethodColumns]:
    """Rows as columns, in the order of their first, over examples that all share; columns as they are."""
    if not all(isinstance(r, Row) for r in rows):
        return shared([r for r in rows if isinstance(r, MethodColumns)])
    own: list[Row] = [r for r in rows if isinstance(r, Row)]
    drawn_with: dict[str, str] = {}
    for r in own:
        drawn_with.setdefault(r.example, r.drawn_with)
    examples, at = Examples([*drawn_with], [*drawn_with.values()]), {name: i for i, name in enumerate(drawn_with)}
    keyed = grouped(own, lambda r: (r.protocol, r.title, r.site, r.baseline))
    return [_of_rows(key, part, examples, at) for key, part in keyed.items()]


def _of_rows(
    key: tuple[Protocol, str, str, str], rows: Sequence[Row], examples: Examples, at: Mapping[str, int]
) -> MethodColumns:
    places = np.array([at[r.example] for r in rows], dtype=np.int64)
    sides = np.full(len(at), ABSENT, dtype=np.int8)
    good = np.zeros(len(at), dtype=np.bool_)
    for place, r in zip(places[::-1], rows[::-1], strict=True):  # of several rows of one example, the first tells
        sides[place] = SIDES.index(side(r))
        good[place] |= not r.error
    errors = [(int(place), r.error) for place, r in zip(places, rows, strict=True) if r.error]
    given = [(place, r) for place, r in zip(places, rows, strict=True) if not r.error]
    metrics: dict[str, int] = {}
    values, points = by_metric(
        np.array([metrics.setdefault(r.metric, len(metrics)) for _, r in given], dtype=np.int64),
        [*metrics],
        np.array([place for place, _ in given], dtype=np.int64),
        np.array([np.nan if r.x is None else r.x for _, r in given], dtype=np.float64),
        np.array([r.value for _, r in given], dtype=np.float64),
        np.array([r.x is not None for _, r in given], dtype=np.bool_),
    )
    return MethodColumns(*key, examples, sides, good, values, points, errors)


def by_metric(
    codes: Places, names: Sequence[str], of: Places, x: Numbers, y: Numbers, point: NDArray[np.bool_]
) -> tuple[dict[str, MetricColumn], dict[str, PointColumn]]:
    """The numbers and points of one method, in the order of its rows, apart by metric: values, and points of curves.

    codes: (row,) place of the metric among `names`. of: (row,) place of the example. point: which are of a curve.
    """
    values, points = {}, {}
    every, first = np.unique(codes, return_index=True)
    for code in every[np.argsort(first)]:
        name, own = names[code], codes == code
        single, of_curve = own & ~point, own & point
        if single.any():
            values[name] = MetricColumn(of[single], y[single])
        if of_curve.any():
            points[name] = PointColumn(of[of_curve], x[of_curve], y[of_curve])
    return values, points


def side(row: Row) -> str:
    """Which side of the split a row is on."""
    return {True: "right", False: "wrong", None: "unknown"}[row.right]


def shared(found: Sequence[MethodColumns]) -> list[MethodColumns]:
    """The same over one list of examples, where they come of several runs: an example is known by its name."""
    lists = list({id(m.examples): m.examples for m in found}.values())
    if len(lists) < 2:
        return [*found]
    drawn_with: dict[str, str] = {}
    for examples in lists:
        for name, group in zip(examples.names, examples.drawn_with, strict=True):
            drawn_with.setdefault(name, group)
    every, at = Examples([*drawn_with], [*drawn_with.values()]), {name: i for i, name in enumerate(drawn_with)}
    moved = {id(old): np.array([at[name] for name in old.names], dtype=np.int64) for old in lists}
    return [_moved(m, moved[id(m.examples)], every) for m in found]


def _moved(m: MethodColumns, to: Places, every: Examples) -> MethodColumns:
    sides, good = np.full(len(every.names), ABSENT, dtype=np.int8), np.zeros(len(every.names), dtype=np.bool_)
    sides[to], good[to] = m.sides, m.good
    values = {name: v._replace(of=to[v.of]) for name, v in m.values.items()}
    points = {name: p._replace(of=to[p.of]) for name, p in m.points.items()}
    errors = [(int(to[place]), why) for place, why in m.errors]
    return dataclasses.replace(m, examples=every, sides=sides, good=good, values=values, points=points, errors=errors)


def joined(found: Iterable[MetricColumn]) -> MetricColumn:
    """One metric of several sites, one after the other."""
    every = [*found]
    return MetricColumn(np.concatenate([k.of for k in every]), np.concatenate([k.values for k in every]))


__all__ = [
    "ABSENT",
    "SIDES",
    "CurveColumn",
    "Examples",
    "MethodColumns",
    "MetricColumn",
    "PointColumn",
    "Rows",
    "by_metric",
    "grouped",
    "joined",
    "measured",
    "shared",
    "side",
]  # fmt: skip
