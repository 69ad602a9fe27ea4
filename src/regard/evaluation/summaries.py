"""Rows to numbers with intervals; differences between methods, example by example; protocol 6: right and wrong apart.

An explanation must agree with the model's performance (formulas.md section 6, principle 2): a metric over all examples hides
that the model had some of them wrong from the start, so every summary can be split by that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regard.errors import Misuse, nearest
from regard.evaluation.measured import MethodColumns, MetricColumn, Places, Rows, joined, measured
from regard.evaluation.protocols.protocol import Protocol
from regard.evaluation.statistics import (
    Interval,
    Numbers,
    Statistic,
    bootstrap,
    bootstraps,
    mean,
    mean_with_interval,
    median,
    paired,
    ratio_of_sums,
)
from regard.explanation.explanation import Explanation

NONE = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Summary:
    """One metric of one method under one protocol: its mean over examples, or what the protocol takes in its place.

    Attributes:
        title: what tables call the method. split: "all", "right", "wrong", or "unknown" (no label). examples: how many the
            number is of. undefined: how many gave no such number (NaN). errors: how many ended in an error.
    """

    protocol: Protocol
    title: str
    site: str
    baseline: str
    metric: str
    split: str
    value: Interval
    examples: int
    undefined: int
    errors: int


@dataclass(frozen=True)
class Difference:
    """metric(title) − metric(against), mean over the examples that both have; the interval leaves out 0 where it is sure."""

    protocol: Protocol
    title: str
    against: str
    metric: str
    value: Interval
    examples: int

    @property
    def sure(self) -> bool:
        """Whether the 95 % interval leaves out zero; a single example makes nothing sure."""
        return self.examples > 1 and (self.value.low > 0 or self.value.high < 0)


def summaries(rows: Rows, seed: int = 0, *, split: bool = False) -> list[Summary]:
    """One line a protocol × method × metric, in the order of the rows; `split`: also the right and the wrong ones apart."""
    out: list[Summary] = []
    for own in measured(rows):
        parts = {"all": own} | ({} if not split else own.by_side())
        for name, part in parts.items():
            errors, examples = len(part.errors), int(part.good.sum())
            known = metric_values(part)
            out += [
                Summary(*own.key, v.metric, name, interval, len(v.of), v.undefined, errors)
                for v, interval in zip(known, intervals(known, seed), strict=True)
            ]
            if not known:
                out.append(Summary(*own.key, "", name, NONE, 0, examples, errors))
    return out


@dataclass(frozen=True)
class MetricValues:
    """One metric's numbers of examples, and what makes one number of them.

    Attributes:
        values: (n,), or (n, number) where sums over examples are divided. statistic: over examples. of: (n,) places of the
            examples. groups: (n,) equal where they are drawn together. undefined: how many other examples gave no such number
            (NaN).
    """

    metric: str
    values: Numbers
    statistic: Statistic
    of: Places
    groups: Places
    undefined: int

    def interval(self, seed: int = 0) -> Interval:
        """The number with its interval."""
        return bootstrap(self.values, self.statistic, seed, self.groups)


def intervals(found: Sequence[MetricValues], seed: int = 0) -> list[Interval]:
    """The number of each with its interval; means over the same examples are of the same resamples, drawn once."""
    out: dict[int, Interval] = {}
    for i, v in enumerate(found):
        if i in out:
            continue
        if v.statistic is not mean or not len(v.of):
            out[i] = v.interval(seed)
            continue
        alike = [j for j, w in enumerate(found) if w.statistic is mean and np.array_equal(w.of, v.of)]
        columns = np.stack([found[j].values for j in alike], 1)
        out |= dict(zip(alike, bootstraps(columns, mean, seed, v.groups), strict=True))
    return [out[i] for i in range(len(found))]


def metric_values(own: MethodColumns) -> list[MetricValues]:
    """Each metric of one method under a protocol; none where no example gave one."""
    protocol, examples, groups = own.protocol, int(own.good.sum()), own.examples.groups
    summed = {name for pairs in protocol.sums.values() for pair in pairs for name in pair}
    found = []
    for metric, (of, values) in own.values.items():
        if metric not in summed:
            known = ~np.isnan(values)
            of, values = of[known], values[known]
            how = median if metric in protocol.medians else mean
            found.append(MetricValues(metric, values, how, of, groups[of], examples - len(of)))
    for metric, pairs in protocol.sums.items():
        if summed <= set(own.values):
            values = np.stack([own.values[name].values for pair in pairs for name in pair], 1)
            of = own.values[pairs[0][0]].of
            found.append(MetricValues(metric, values, ratio_of_sums, of, groups[of], examples - len(of)))
    return found


def consistency(rows: Rows, seed: int = 0) -> list[Summary]:
    """Protocol 6: every metric on the examples that the model had right, and on those it had wrong."""
    return [s for s in summaries(rows, seed, split=True) if s.split != "all"]


@dataclass(frozen=True)
class Accuracies:
    """How often the user's model and the one that the maps are of put the right class first, and how often both the same one.

    They are one model, and `same` is 1, unless the method explains another (`Receipt.explained_model`).
    """

    own: Interval
    explained: Interval
    same: Interval
    examples: int


def accuracies(explanations: Sequence[Explanation], labels: Sequence[int], seed: int = 0) -> Accuracies:
    """Principle 2's other half: the accuracy of the explained model beside that of the user's, over samples in turn.

    labels: the right class of each sample, all explanations in order. Raises Misuse where their number is another, or an
    explanation knows no predicted class.
    """
    own: list[int] = []
    explained: list[int] = []
    for explanation in explanations:
        receipt = explanation.receipt
        other = receipt.explained_model
        first = receipt.predicted if other is None or other.own is None else other.own
        second = first if other is None else other.predicted
        if first is None or second is None:
            raise Misuse(f"which class the model puts first is not known of {receipt.target}: explain a class")
        own += first.tolist()
        explained += second.tolist()
    if len(own) != len(labels):
        raise Misuse(f"there are {len(labels)} labels for {len(own)} explained samples")
    right, other_right = ([float(a == b) for a, b in zip(of, labels, strict=True)] for of in (own, explained))
    same = [float(a == b) for a, b in zip(own, explained, strict=True)]
    means = [mean_with_interval(values, seed) for values in (right, other_right, same)]
    return Accuracies(means[0], means[1], means[2], len(own))


def differences(rows: Rows, metric: str, *, against: str = "random", seed: int = 0) -> list[Difference]:
    """What each method has over another one, example by example. Examples that either lacks are left out and not counted."""
    out: list[Difference] = []
    every = measured(rows)
    titles = list(dict.fromkeys(m.title for m in every))
    if against not in titles:
        raise nearest(against, titles, "method among the rows")
    if not any(metric in m.values for m in every):
        raise nearest(metric, dict.fromkeys(name for m in every for name in m.values), "metric among the rows")
    for protocol in dict.fromkeys(m.protocol for m in every if metric in m.values):
        known = numbers_of([m for m in every if m.protocol == protocol], metric)
        if any(len(np.unique(k.of)) != len(k.of) for k in known.values()):
            raise Misuse(
                f"an example has two rows of one method under {protocol.name}; give each example a name of its own"
            )
        for title in (t for t in titles if t != against):
            of, a, b = paired_values(known.get(title), known.get(against))
            good = ~(np.isnan(a) | np.isnan(b))
            value = paired(a[good], b[good], seed, every[0].examples.groups[of[good]])
            out.append(Difference(protocol, title, against, metric, value, int(good.sum())))
    return out


def numbers_of(found: Sequence[MethodColumns], metric: str) -> dict[str, MetricColumn]:
    """One metric under one protocol: title -> its numbers, of all its sites."""
    own = [m for m in found if metric in m.values]
    return {t: joined(m.values[metric] for m in own if m.title == t) for t in dict.fromkeys(m.title for m in own)}


def paired_values(one: MetricColumn | None, other: MetricColumn | None) -> tuple[Places, Numbers, Numbers]:
    """The examples that both have a row of, in the order of the first, and the numbers of both."""
    if one is None or other is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0)
    at = np.full(max(one.of.max(initial=-1), other.of.max(initial=-1)) + 1, -1)
    at[other.of] = np.arange(len(other.of))
    both = at[one.of] >= 0
    return one.of[both], one.values[both], other.values[at[one.of[both]]]


def curve(rows: Rows, name: str, seed: int = 0) -> list[Interval]:
    """The mean of a curve over the examples that have it, step by step, with intervals."""
    found = [(c, m.examples.groups[c.of]) for m in measured(rows) if (c := m.curve(name)) is not None]
    if not found:
        return []
    return bootstraps(np.concatenate([c.y for c, _ in found]), mean, seed, np.concatenate([own for _, own in found]))


__all__ = [
    "Accuracies",
    "Difference",
    "MetricValues",
    "Summary",
    "accuracies",
    "consistency",
    "curve",
    "differences",
    "intervals",
    "metric_values",
    "numbers_of",
    "paired_values",
    "summaries",
]
