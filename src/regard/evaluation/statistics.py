"""Bootstrap intervals (percentile, 95 %) of means, medians and ratios of sums, and of paired differences; paired tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regard.extras import brought_by

Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers], Numbers]
"""What reduces samples: the last axis of numbers, the last two of samples of several numbers."""
RESAMPLES = 2000
SWAPS = 9999
"""Random swaps of a paired test."""
AT_ONCE = 1 << 22
"""Numbers of a paired test that are in memory at once."""


class Interval(NamedTuple):
    """A statistic and its 95 % bootstrap interval; NaN where there are no samples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def bootstrap(
    values: Sequence[Any],
    statistic: Callable[[Numbers], Numbers],
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """A statistic of samples drawn again with replacement.

    A sample is a number, and `statistic` reduces the last axis; or it is several numbers (a sequence), which stay together,
    and `statistic` reduces the last two axes, samples first. `groups`, one a sample: samples of one group (two questions on
    one picture) are not independent, and are drawn together or not at all.

    >>> bootstrap([1.0, 1.0, 1.0], lambda x: x.mean(-1))
    Interval(value=1.0, low=1.0, high=1.0)
    """
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return Interval(math.nan, math.nan, math.nan)
    value, members = float(statistic(x)), members_of(groups, len(x))
    if len(members) == 1:  # drawn again, it is itself
        return Interval(value, value, value)
    alone = len(members) == len(x)

    def of(drawn: NDArray[np.int64], **_axis: int) -> Numbers:
        """The statistic of the samples whose groups were drawn; groups of different sizes come one draw at a time."""
        return statistic(x[drawn] if alone else x[np.concatenate([members[g] for g in drawn])])

    found = brought_by("eval", "scipy.stats").bootstrap(
        (np.arange(len(members)),), of, vectorized=alone, n_resamples=RESAMPLES, confidence_level=0.95,
        method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Interval(value, float(found.low), float(found.high))


def members_of(groups: Sequence[Hashable] | None, count: int) -> list[list[int]]:
    """The samples of each group, by their numbers; without groups each sample stands alone."""
    if groups is None:
        return [[i] for i in range(count)]
    of: dict[Hashable, list[int]] = {}
    for i, group in zip(range(count), groups, strict=True):
        of.setdefault(group, []).append(i)
    return [*of.values()]


def mean(x: Numbers) -> Numbers:
    """Over samples."""
    return np.asarray(x.mean(-1))


def median(x: Numbers) -> Numbers:
    """Over samples."""
    return np.asarray(np.median(x, -1))


def ratio_of_sums(x: Numbers) -> Numbers:
    """Samples of (part, whole, part, whole, ...): the mean over pairs of Σ parts / Σ wholes; 0 where the wholes are 0.

    A dataset-accumulated IoU is such a number.

    >>> float(ratio_of_sums(np.array([[1.0, 1.0], [0.0, 3.0]])))
    0.25
    """
    sums = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2).sum(-3)
    return np.asarray((sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], 1)).mean(-1))


def mean_with_interval(values: Sequence[float], seed: int = 0, groups: Sequence[Hashable] | None = None) -> Interval:
    """The mean."""
    return bootstrap(values, mean, seed, groups)


def share_with_interval(values: Sequence[float], seed: int = 0, groups: Sequence[Hashable] | None = None) -> Interval:
    """The mean of numbers from 0 to 1, with an interval that holds near the ends too: one 0 and one 1 are drawn with them, as
    Agresti and Coull do. (Forty examples that all have 1 do not show that every example has.)

    >>> share_with_interval([1.0] * 40).low < 0.97
    True
    """
    if not len(values):
        return Interval(math.nan, math.nan, math.nan)
    mean = float(np.mean(values))
    own = [("own", g) for g in (groups if groups is not None else range(len(values)))]
    found = mean_with_interval([*values, 0.0, 1.0], seed, [*own, ("added", 0), ("added", 1)])
    return Interval(mean, min(found.low, mean), max(found.high, mean))


def median_with_interval(values: Sequence[float], seed: int = 0, groups: Sequence[Hashable] | None = None) -> Interval:
    """The median."""
    return bootstrap(values, median, seed, groups)


def paired(a: Sequence[float], b: Sequence[float], seed: int = 0, groups: Sequence[Hashable] | None = None) -> Interval:
    """The mean of a − b, sample by sample."""
    less = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return mean_with_interval(less.tolist(), seed, groups)


def ratios_of_sums(
    parts: Sequence[Sequence[float]],
    wholes: Sequence[Sequence[float]],
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """The mean over columns of Σ parts / Σ wholes, sums over samples (`ratio_of_sums`).

    >>> ratios_of_sums([[1.0], [0.0]], [[1.0], [3.0]]).value
    0.25
    """
    both = np.stack([np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)], axis=-1)
    return bootstrap(both.reshape(len(both), -1).tolist(), ratio_of_sums, seed, groups)


def swapping(
    a: Numbers,
    b: Numbers,
    statistic: Statistic = mean,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
    draws: int = SWAPS,
) -> float:
    """p, two-sided, of a paired permutation test: how often statistic(a) and statistic(b) lie as far apart if samples trade
    their a for their b by the toss of a coin, those of a group together. Of few groups all outcomes of the tosses are tried.

    a, b: numbers (sample,) or several of each (sample, number).

    >>> swapping(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 0.0]))
    0.25
    """
    members = members_of(groups, len(a))
    group_of = np.empty(len(a), dtype=np.int64)
    for number, own in enumerate(members):
        group_of[own] = number
    exact = len(members) < 60 and 2 ** len(members) <= draws + 1
    tosses = 2 ** len(members) if exact else draws
    apart = abs(float(statistic(a) - statistic(b)))
    least, random, far = apart * (1 - 1e-9), np.random.default_rng(seed), 0
    size = max(1, AT_ONCE // max(1, a.size))
    for start in range(0, tosses, size):
        some = np.arange(start, min(tosses, start + size))
        of_groups = (
            (some[:, None] >> np.arange(len(members))) & 1 == 1
            if exact
            else random.random((len(some), len(members))) < 0.5
        )
        traded = of_groups[:, group_of].reshape(len(some), len(a), *[1] * (a.ndim - 1))
        found = np.abs(statistic(np.where(traded, b, a)) - statistic(np.where(traded, a, b)))
        far += int((found >= least).sum())
    return far / tosses if exact else (1 + far) / (1 + tosses)


def holm(p_values: Sequence[float], family: int | None = None) -> list[float]:
    """Holm's correction: the same tests with the chance of even one false alarm among `family` tests, by default all of them.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    count, out, least = len(p_values) if family is None else family, [0.0] * len(p_values), 0.0
    for before, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (count - before) * p_values[i]))
        out[i] = least
    return out
