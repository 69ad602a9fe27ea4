"""Rows to numbers with intervals; differences between methods, example by example; protocol 6: right and wrong apart.

An explanation must agree with the model's performance (METHODS.md section 6, principle 2): a metric over all examples hides
that the model had some of them wrong from the start, so every summary can be split by that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from regard.errors import Misuse, nearest
from regard.evaluation.rows import Row
from regard.evaluation.statistics import Interval, mean_with_interval, paired, ratios_of_sums

K = TypeVar("K")
ACCUMULATED = "mean_iou_accumulated"


@dataclass(frozen=True)
class Summary:
    """One metric of one method under one protocol: its mean over examples.

    Attributes:
        split: "all", "right", "wrong", or "unknown" (no label). examples: how many the mean is over. undefined: how many
            gave no such number (NaN). errors: how many ended in an error.
    """

    protocol: str
    method: str
    metric: str
    split: str
    value: Interval
    examples: int
    undefined: int
    errors: int


@dataclass(frozen=True)
class Difference:
    """metric(method) − metric(against), mean over the examples that both have; the interval leaves out 0 where it is sure."""

    protocol: str
    method: str
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
    for (protocol, method), own in grouped(rows, lambda r: (r.protocol, r.method)).items():
        parts = {"all": own} | ({} if not split else grouped(own, side))
        for name, part in parts.items():
            good = [r for r in part if not r.error]
            for metric in dict.fromkeys(m for r in good for m in r.values if not m.startswith("_")):
                known = [r for r in good if not math.isnan(r.values.get(metric, math.nan))]
                groups = [r.drawn_with for r in known]
                made = mean_with_interval([r.values[metric] for r in known], seed, groups)
                lost = len(good) - len(known)
                out.append(Summary(protocol, method, metric, name, made, len(known), lost, len(part) - len(good)))
            if counted := [r for r in good if "_union" in r.values]:
                made = accumulated_iou(counted, seed)
                lost = len(part) - len(good)
                out.append(Summary(protocol, method, ACCUMULATED, name, made, len(counted), 0, lost))
            if not good:
                none = Interval(math.nan, math.nan, math.nan)
                out.append(Summary(protocol, method, "", name, none, 0, 0, len(part)))
    return out


def consistency(rows: Sequence[Row], seed: int = 0) -> list[Summary]:
    """Protocol 6: every metric on the examples that the model had right, and on those it had wrong."""
    return [s for s in summaries(rows, seed, split=True) if s.split != "all"]


def side(row: Row) -> str:
    """Which side of the split a row is on."""
    return {True: "right", False: "wrong", None: "unknown"}[row.right]


def accumulated_iou(rows: Sequence[Row], seed: int = 0) -> Interval:
    """mIoU accumulated over the data set: the mean over object and ground of Σ intersection / Σ union."""
    parts = [[r.values["_intersection"], r.values["_ground_intersection"]] for r in rows]
    wholes = [[r.values["_union"], r.values["_ground_union"]] for r in rows]
    return ratios_of_sums(parts, wholes, seed, [r.drawn_with for r in rows])


def differences(rows: Sequence[Row], metric: str, *, against: str = "random", seed: int = 0) -> list[Difference]:
    """What each method has over another one, example by example. Examples that either lacks are left out and not counted."""
    out: list[Difference] = []
    methods = list(dict.fromkeys(r.method for r in rows))
    if against not in methods:
        raise nearest(against, methods, "method among the rows")
    if not any(metric in r.values for r in rows):
        raise nearest(metric, dict.fromkeys(m for r in rows for m in r.values), "metric among the rows")
    for protocol, own in grouped(rows, lambda r: r.protocol).items():
        if not any(metric in r.values for r in own):
            continue
        known = {(r.method, r.example): r.values.get(metric, math.nan) for r in own if not r.error}
        groups = {r.example: r.drawn_with for r in own}
        if len(known) != sum(not r.error for r in own):
            raise Misuse(f"an example has two rows of one method under {protocol}; give each example a name of its own")
        for method in (m for m in methods if m != against):
            names = [e for m, e in known if m == method and (against, e) in known]
            pairs = np.array([(known[method, e], known[against, e]) for e in names]).reshape(-1, 2)
            good = ~np.isnan(pairs).any(1)
            pairs, together = pairs[good], [groups[e] for e, g in zip(names, good, strict=True) if g]
            value = paired(pairs[:, 0].tolist(), pairs[:, 1].tolist(), seed, together)
            out.append(Difference(protocol, method, against, metric, value, len(pairs)))
    return out


def curve(rows: Sequence[Row], name: str, seed: int = 0) -> list[Interval]:
    """The mean of a curve over the rows that have it, step by step, with intervals."""
    having = [r for r in rows if not r.error and name in r.curves]
    groups = [r.drawn_with for r in having]
    return [mean_with_interval(step, seed, groups) for step in zip(*(r.curves[name] for r in having), strict=True)]


def grouped(rows: Sequence[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    """Rows by a key, in the order of their first."""
    out: dict[K, list[Row]] = {}
    for row in rows:
        out.setdefault(key(row), []).append(row)
    return out


__all__ = ["Difference", "Summary", "accumulated_iou", "consistency", "curve", "differences", "summaries"]
