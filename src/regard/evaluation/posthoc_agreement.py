"""What `regard.attention_vs_posthoc` found: agreement of every two maps of each input, and its means with intervals."""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import nearest
from regard.evaluation.rank_agreement import METRICS
from regard.evaluation.statistics import Interval, Numbers, ratios_of_sums
from regard.explanation import display
from regard.explanation.counts import quantity
from regard.explanation.explanation import Explanation
from regard.explanation.export import frame

KINDS = {"attention": "attention", "posthoc": "post-hoc", "floor": "random"}
"""What maps are of, and what these are called."""


@dataclass(frozen=True)
class ComparedMethod:
    """A method among those compared: what tables call it, its name, its kind (one of `KINDS`), and its options."""

    title: str
    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparedInput:
    """One input, and how far its maps agree.

    Attributes:
        name: what it is called. group: what it is drawn with in intervals. stream: whose tokens; unit: what a unit is ("patch",
            "word", "token"); units: how many; k: how many of them are "the highest". target, label: what was explained of it.
        values: metric -> (method, method): the row's map first, the column's second; NaN where it is undefined.
    """

    name: str
    group: Hashable
    stream: str
    unit: str
    units: int
    k: int
    target: str
    label: str
    values: Mapping[str, Numbers] = field(repr=False)


@dataclass(frozen=True)
class LeftOut:
    """What could not be compared, and why: an input, or one method's map of it."""

    name: str
    reason: str
    method: str = ""


@dataclass(frozen=True)
class ShownInput:
    """The maps of one input, for a page: method -> explanation, of this sample alone. agreement: the mean of Kendall's τ-b of
    its attention maps with its post-hoc maps."""

    compared: ComparedInput
    agreement: float
    maps: Mapping[str, Explanation] = field(repr=False)

    @property
    def name(self) -> str:
        """What the input is called."""
        return self.compared.name


@dataclass(frozen=True)
class PosthocAgreement:
    """How far attention maps agree with post-hoc maps, and each kind with itself, over many inputs. `print` it for a table.

    Attributes:
        methods: all that were compared: attention first, then post-hoc, then `random`, the floor.
        inputs: one entry a sample that was compared. left_out: what was not, and why.
        top: the share of the units that counts as the highest. seed: of methods that draw. model: its class.
        shown: the inputs on which attention and post-hoc maps agree least and most, with their maps.
    """

    methods: tuple[ComparedMethod, ...]
    inputs: tuple[ComparedInput, ...] = field(repr=False)
    left_out: tuple[LeftOut, ...] = field(repr=False)
    top: float
    seed: int
    model: str
    shown: tuple[ShownInput, ...] = field(default=(), repr=False)

    @property
    def missing(self) -> list[LeftOut]:
        """The inputs that were left out whole."""
        return [one for one in self.left_out if not one.method]

    @property
    def chance(self) -> float:
        """The top-k overlap that chance gives: the mean of k/n."""
        return float(np.mean([i.k / i.units for i in self.inputs]))

    def of_kind(self, kind: str) -> list[str]:
        """The titles of the methods of a kind. Raises UnknownName for another than `KINDS`."""
        if kind not in KINDS:
            raise nearest(kind, KINDS, "kind of method")
        return [m.title for m in self.methods if m.kind == kind]

    def values(self, first: str, second: str, metric: str = "kendall") -> Numbers:
        """A metric of two methods' maps, one number an input; NaN where it is undefined (a map is constant, or missing).

        Raises UnknownName for a method or a metric that there is not.
        """
        i, j = self._place(first), self._place(second)
        return np.array([each.values[_metric(metric)][i, j] for each in self.inputs], dtype=np.float64)

    def interval(self, first: str, second: str, metric: str = "kendall") -> Interval:
        """The mean over the inputs on which it is defined, with its 95 % bootstrap interval."""
        return self._mean(self.values(first, second, metric))

    def undefined(self, first: str, second: str, metric: str = "kendall") -> int:
        """On how many inputs it is not defined."""
        return int(np.isnan(self.values(first, second, metric)).sum())

    def between(self, kind: str, other: str, metric: str = "kendall") -> Interval:
        """The same of the mean over all pairs of a map of one kind and one of another (or of two maps of the same kind)."""
        return self._mean(self.means(kind, other, metric))

    def means(self, kind: str, other: str, metric: str = "kendall") -> Numbers:
        """The same mean of each input; NaN where no pair of it is defined."""
        firsts, seconds = self.of_kind(kind), self.of_kind(other)
        symmetric = METRICS[_metric(metric)].symmetric
        pairs = {frozenset((a, b)) if symmetric else (a, b): (a, b) for a in firsts for b in seconds if a != b}
        every = np.array([self.values(a, b, metric) for a, b in pairs.values()]).reshape(len(pairs), len(self.inputs))
        known = ~np.isnan(every)
        sums, counts = np.where(known, every, 0).sum(0), known.sum(0)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def _mean(self, values: Numbers) -> Interval:
        """The mean of what is defined; inputs of one group are drawn together, as one sum over one count."""
        sums: dict[Hashable, list[float]] = {}
        for value, each in zip(values.tolist(), self.inputs, strict=True):
            if not math.isnan(value):
                sums.setdefault(each.group, []).append(value)
        if not sums:
            return Interval(math.nan, math.nan, math.nan)
        return ratios_of_sums([[sum(own)] for own in sums.values()], [[len(own)] for own in sums.values()])

    def _place(self, title: str) -> int:
        titles = [m.title for m in self.methods]
        if title not in titles:
            raise nearest(title, titles, "method among those compared")
        return titles.index(title)

    def records(self) -> list[dict[str, Any]]:
        """One row an input and ordered pair of methods, every metric a column; NaN where it is undefined."""
        return [
            {
                "input": each.name,
                "group": each.group,
                "stream": each.stream,
                "unit": each.unit,
                "units": each.units,
                "k": each.k,
                "target": each.target,
                "label": each.label,
                "first": a.title,
                "first_kind": a.kind,
                "second": b.title,
                "second_kind": b.kind,
                **{metric: float(values[i, j]) for metric, values in each.values.items()},
            }
            for each in self.inputs
            for i, a in enumerate(self.methods)
            for j, b in enumerate(self.methods)
            if i != j
        ]

    def to_dataframe(self) -> Any:
        """`records` as a pandas DataFrame. Raises Misuse where pandas is not installed."""
        return frame(self.records())

    def table(self, metric: str = "kendall") -> list[list[str]]:
        """A metric's means as text, under a head: a row's method has the first map, a column's, a post-hoc one, the second."""
        columns = self.of_kind("posthoc")
        head = [METRICS[_metric(metric)].called, *columns]
        rows = [[m.title, *(self._cell(m.title, c, metric) for c in columns)] for m in self.methods]
        return [head, *rows]

    def _cell(self, first: str, second: str, metric: str) -> str:
        return "" if first == second else spelled(self.interval(first, second, metric).value)

    def __str__(self) -> str:
        rows = self.table()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, "", *self.sentences()])

    __repr__ = __str__

    def sentences(self) -> list[str]:
        """The same in a few lines: each kind with each, what was left out."""
        pairs = (("attention", "posthoc"), ("posthoc", "posthoc"), ("attention", "attention"), ("floor", "posthoc"))
        found = [(f"{KINDS[a]} with {KINDS[b]}", self.between(a, b)) for a, b in pairs]
        lines = [f"{name}: τ-b {whole(mean)}" for name, mean in found if not math.isnan(mean.value)]
        shared = self.between("attention", "posthoc", "overlap")
        lines.append(
            f"of the highest {100 * self.top:g} % of units both have {whole(shared)}; chance {spelled(self.chance)}"
        )
        opposed = self.between("attention", "posthoc", "sign_disagreement")
        if not math.isnan(opposed.value):
            lines.append(f"of attention's highest units, signed post-hoc maps score below 0 {whole(opposed)}")
        return [*lines, counted(len(self.inputs), len(self.missing))]

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page (needs `regard[viz]`)."""
        return display.write_posthoc(self, path)


def _metric(name: str) -> str:
    if name not in METRICS:
        raise nearest(name, METRICS, "metric of agreement")
    return name


def spelled(value: float) -> str:
    """An agreement with two decimals, a minus sign that is one; – where it is undefined."""
    return "–" if math.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def whole(of: Interval) -> str:
    """An interval likewise; of one input there is none."""
    return spelled(of.value) if of.low == of.high else f"{spelled(of.value)} [{spelled(of.low)}, {spelled(of.high)}]"


def counted(compared: int, missing: int) -> str:
    """How many inputs a result is of."""
    return f"{quantity(compared, 'input')} compared, {missing} left out"


def extremes(shown: Sequence[ShownInput]) -> tuple[ShownInput, ...]:
    """The inputs with the least and the most agreement; one where there is only one."""
    known = sorted((s for s in shown if not math.isnan(s.agreement)), key=lambda s: s.agreement)
    return (known[0], known[-1]) if len(known) > 1 else tuple(known or shown[:1])


__all__ = [
    "ComparedInput",
    "ComparedMethod",
    "LeftOut",
    "PosthocAgreement",
    "ShownInput",
    "counted",
    "extremes",
    "spelled",
    "whole",
]
