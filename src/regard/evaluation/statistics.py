"""Bootstrap intervals (percentile, 95 %) of means, medians and ratios of sums, and of paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regard.extras import brought_by

Numbers = NDArray[np.float64]
RESAMPLES = 2000


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


def mean_with_interval(values: Sequence[float], seed: int = 0, groups: Sequence[Hashable] | None = None) -> Interval:
    """The mean."""
    return bootstrap(values, lambda x: x.mean(-1), seed, groups)


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
    return bootstrap(values, lambda x: np.median(x, -1), seed, groups)


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
    """The mean over columns of Σ parts / Σ wholes, sums over samples: a dataset-accumulated IoU is such a number.

    A column whose wholes sum to nothing (a class that neither is there nor was found) counts as 0 of 1.

    >>> ratios_of_sums([[1.0], [0.0]], [[1.0], [3.0]]).value
    0.25
    """
    both = np.stack([np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)], axis=-1)
    columns = both.shape[1] if both.ndim == 3 else 1

    def statistic(x: Numbers) -> Numbers:
        sums = x.reshape(*x.shape[:-1], columns, 2).sum(-3)
        return np.asarray((sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], 1)).mean(-1))

    return bootstrap(both.reshape(len(both), -1).tolist(), statistic, seed, groups)
