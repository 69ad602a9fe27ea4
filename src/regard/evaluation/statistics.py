"""Bootstrap intervals of means and medians; paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
RESAMPLES = 2000


class Interval(NamedTuple):
    """A statistic and its 95 % bootstrap interval; NaN where there are no samples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def bootstrap(values: Sequence[float], statistic: Callable[[Numbers], Numbers], seed: int = 0) -> Interval:
    """A statistic of samples drawn again with replacement; `statistic` reduces the last axis.

    >>> bootstrap([1.0, 1.0, 1.0], lambda x: x.mean(-1))
    Interval(value=1.0, low=1.0, high=1.0)
    """
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return Interval(math.nan, math.nan, math.nan)
    drawn = np.random.default_rng(seed).integers(0, len(x), (RESAMPLES, len(x)))
    low, high = np.quantile(statistic(x[drawn]), [0.025, 0.975])
    return Interval(float(statistic(x)), float(low), float(high))


def mean_with_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean."""
    return bootstrap(values, lambda x: x.mean(-1), seed)


def median_with_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The median."""
    return bootstrap(values, lambda x: np.median(x, -1), seed)


def paired(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Interval:
    """The mean of a − b, sample by sample."""
    return mean_with_interval((np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)).tolist(), seed)
