"""Rows to numbers with intervals; differences between methods, example by example; protocol 6: right and wrong apart.

An explanation must agree with the model's performance (formulas.md section 6, principle 2): a metric over all examples hides
that the model had some of them wrong from the start, so every summary can be split by that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regard.errors import Misuse, nearest
from regard.evaluation.protocols.protocol import Protocol, Row
from regard.evaluation.rows import curves_of, grouped
from regard.evaluation.statistics import (
    Interval,
    Statistic,
    bootstrap,
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


def summaries(rows: Sequence[Row], seed: int = 0, *, split: bool = False) -> list[Summary]:
    """One line a protocol × method × metric, in the order of the rows; `split`: also the right and the wrong ones apart."""
    out: list[Summary] = []
    for key, own in grouped(rows, lambda r: (r.protocol, r.title, r.site, r.baseline)).items():
        parts = {"all": own} | ({} if not split else grouped(own, side))
        for name, part in parts.items():
            errors, examples = sum(bool(r.error) for r in part), len({r.example for r in part if not r.error})
            known = metric_values(key[0], part)
            out += [
                Summary(*key, v.metric, name, v.interval(seed), len(v.examples), v.undefined, errors) for v in known
            ]
            if not known:
                out.append(Summary(*key, "", name, NONE, 0, examples, errors))
    return out


@dataclass(frozen=True)
class MetricValues:
    """One metric's numbers of examples, and what makes one number of them.

    Attributes:
        values: (example,), or (example, number) where sums over examples are divided. statistic: over examples. examples: their
            names. groups: what is drawn together. undefined: how many other examples gave no such number (NaN).
    """

    metric: str
    values: NDArray[np.float64]
    statistic: Statistic
    examples: Sequence[str]
    groups: Sequence[str]
    undefined: int

    def interval(self, seed: int = 0) -> Interval:
        """The number with its interval."""
        return bootstrap(self.values.tolist(), self.statistic, seed, self.groups)


def metric_values(protocol: Protocol, rows: Sequence[Row]) -> list[MetricValues]:
    """Each metric of one method's rows under a protocol; none where no example gave one."""
    good = [r for r in rows if not r.error]
    by_metric, examples = grouped([r for r in good if r.x is None], lambda r: r.metric), len({r.example for r in good})
    summed = {name for pairs in protocol.sums.values() for pair in pairs for name in pair}
    found = []
    for metric, own in by_metric.items():
        if metric not in summed:
            known = [r for r in own if not math.isnan(r.value)]
            values = np.array([r.value for r in known], dtype=np.float64)
            how = median if metric in protocol.medians else mean
            found.append(MetricValues(metric, values, how, *_named(known), examples - len(known)))
    for metric, pairs in protocol.sums.items():
        if summed <= set(by_metric):
            parts = [[r.value for r in by_metric[name]] for pair in pairs for name in pair]
            values, own = np.array(parts, dtype=np.float64).T, by_metric[pairs[0][0]]
            found.append(MetricValues(metric, values, ratio_of_sums, *_named(own), examples - len(own)))
    return found


def _named(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Their examples, and what each is drawn with."""
    return [r.example for r in rows], [r.drawn_with for r in rows]


def consistency(rows: Sequence[Row], seed: int = 0) -> list[Summary]:
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


def side(row: Row) -> str:
    """Which side of the split a row is on."""
    return {True: "right", False: "wrong", None: "unknown"}[row.right]


def differences(rows: Sequence[Row], metric: str, *, against: str = "random", seed: int = 0) -> list[Difference]:
    """What each method has over another one, example by example. Examples that either lacks are left out and not counted."""
    out: list[Difference] = []
    titles = list(dict.fromkeys(r.title for r in rows))
    if against not in titles:
        raise nearest(against, titles, "method among the rows")
    numbers = [r for r in rows if r.metric == metric and r.x is None and not r.error]
    if not numbers:
        raise nearest(
            metric, dict.fromkeys(r.metric for r in rows if r.metric and r.x is None), "metric among the rows"
        )
    for protocol, own in grouped(numbers, lambda r: r.protocol).items():
        known = {(r.title, r.example): r for r in own}
        if len(known) != len(own):
            raise Misuse(
                f"an example has two rows of one method under {protocol.name}; give each example a name of its own"
            )
        for title in (t for t in titles if t != against):
            names = [e for t, e in known if t == title and (against, e) in known]
            pairs = np.array([(known[title, e].value, known[against, e].value) for e in names]).reshape(-1, 2)
            good = ~np.isnan(pairs).any(1)
            pairs, together = pairs[good], [known[title, e].drawn_with for e, g in zip(names, good, strict=True) if g]
            value = paired(pairs[:, 0].tolist(), pairs[:, 1].tolist(), seed, together)
            out.append(Difference(protocol, title, against, metric, value, len(pairs)))
    return out


def curve(rows: Sequence[Row], name: str, seed: int = 0) -> list[Interval]:
    """The mean of a curve over the examples that have it, step by step, with intervals."""
    found = curves_of(rows, name)
    groups = [c.row.drawn_with for c in found]
    return [mean_with_interval(step, seed, groups) for step in zip(*(c.y for c in found), strict=True)]


__all__ = [
    "Accuracies",
    "Difference",
    "MetricValues",
    "Summary",
    "accuracies",
    "consistency",
    "curve",
    "differences",
    "metric_values",
    "side",
    "summaries",
]
