"""Bootstrap intervals (percentile, 95 %) of means, medians and ratios of sums, and of paired differences; paired tests.

A resample is kept as how often it drew each sample, so that the means of many metrics, and of all steps of a curve, are one
product of matrices. The draws are those of `scipy.stats.bootstrap` with numpy's generator.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Counts = NDArray[np.integer[Any]]
RESAMPLES = 2000
HAIR = 1 - 1e-9
"""Numbers that differ by less than that are equal, but for rounding."""
SWAPS = 9999
"""Random swaps of a paired test."""
AT_ONCE = 1 << 22
"""Numbers of resamples, and of a paired test, that are in memory at once."""
KEPT = 1 << 25
"""Resamples of so many numbers are kept for the next who asks, in 64 MB."""


class Statistic(Protocol):
    """What reduces samples, the first axis of x; all other axes stay, but for what the statistic itself puts together.

    counts: (resample, sample), how often each sample is there; the result has the axis of resamples first.
    """

    def __call__(self, x: Numbers, counts: Counts | None = None, /) -> Numbers:
        """The statistic of the samples, or of each resample."""


class Interval(NamedTuple):
    """A statistic and its 95 % bootstrap interval; NaN where there are no samples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def bootstrap(
    values: Sequence[Any] | Numbers,
    statistic: Statistic,
    seed: int = 0,
    groups: Sequence[Hashable] | Counts | None = None,
) -> Interval:
    """A statistic of samples drawn again with replacement.

    A sample is a number, or several numbers that stay together and of which `statistic` makes one. `groups`, one a sample:
    samples of one group (two questions on one picture) are not independent, and are drawn together or not at all.

    >>> bootstrap([1.0, 1.0, 1.0], mean)
    Interval(value=1.0, low=1.0, high=1.0)
    """
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return Interval(math.nan, math.nan, math.nan)
    (found,) = bootstraps(x, statistic, seed, groups)
    return found


def bootstraps(
    x: Numbers, statistic: Statistic, seed: int = 0, groups: Sequence[Hashable] | Counts | None = None
) -> list[Interval]:
    """An interval for each number that the statistic gives, of the same resamples. x: (sample, ...), one sample or more.

    >>> [interval.value for interval in bootstraps(np.array([[1.0, 2.0], [3.0, 6.0]]), mean)]
    [2.0, 4.0]
    """
    value, (of, count) = np.atleast_1d(statistic(x)), numbered(groups, len(x))
    if count == 1:  # drawn again, it is itself
        return [Interval(float(v), float(v), float(v)) for v in value]
    alone = count == len(x)
    found = np.concatenate([statistic(x, drawn if alone else drawn[:, of]) for drawn in resamples(count, seed)])
    low, high = np.percentile(found.reshape(len(found), -1), [2.5, 97.5], axis=0)
    return [Interval(float(v), float(a), float(b)) for v, a, b in zip(value, low, high, strict=True)]


def resamples(count: int, seed: int) -> Iterator[Counts]:
    """How often each of `count` was drawn, (resample, count): `RESAMPLES` of them, as many at once as memory is given to."""
    if RESAMPLES * count > KEPT:
        yield from _drawn(count, seed)
    else:
        every, size = _kept(count, seed), _at_once(count)
        yield from (every[start : start + size] for start in range(0, RESAMPLES, size))


@functools.lru_cache(maxsize=4)
def _kept(count: int, seed: int) -> Counts:
    """All of them; a page asks for the same ones a thousand times."""
    small = np.min_scalar_type(count)
    return np.concatenate([drawn.astype(small) for drawn in _drawn(count, seed)])


def _drawn(count: int, seed: int) -> Iterator[Counts]:
    random, size = np.random.default_rng(seed), _at_once(count)
    for start in range(0, RESAMPLES, size):
        own = random.integers(0, count, (min(size, RESAMPLES - start), count))
        flat = own + count * np.arange(len(own))[:, None]
        yield np.bincount(flat.ravel(), minlength=own.size).reshape(own.shape)


def _at_once(count: int) -> int:
    return max(1, AT_ONCE // count)


def numbered(groups: Sequence[Hashable] | Counts | None, count: int) -> tuple[Counts, int]:
    """The group of each sample as a number, in the order of their first, and how many there are; None: each stands alone."""
    if groups is None:
        return np.arange(count), count
    if len(groups) != count:
        raise ValueError(f"{count} samples, but {len(groups)} groups")
    if isinstance(groups, np.ndarray):
        _, first, of = np.unique(groups, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[of], len(first)
    at: dict[Hashable, int] = {}
    of = np.array([at.setdefault(group, len(at)) for group in groups], dtype=np.int64)
    return of, len(at)


def mean(x: Numbers, counts: Counts | None = None, /) -> Numbers:
    """Over samples."""
    if counts is None:
        return np.asarray(x.mean(0))
    return np.asarray(_sums(x, counts) / counts.sum(1).reshape(-1, *[1] * (x.ndim - 1)))


def median(x: Numbers, counts: Counts | None = None, /) -> Numbers:
    """Over samples."""
    if counts is None:
        return np.asarray(np.median(x, 0))
    if x.ndim > 1:
        return np.stack([median(column, counts) for column in np.moveaxis(x, -1, 0)], -1)
    order = np.argsort(x)
    until = counts[:, order].cumsum(1)
    last = until[:, -1:]
    middle = [x[order][(until <= place).sum(1)] for place in ((last - 1) // 2, last // 2)]
    return np.asarray((middle[0] + middle[1]) / 2)


def ratio_of_sums(x: Numbers, counts: Counts | None = None, /) -> Numbers:
    """Samples of (part, whole, part, whole, ...): the mean over pairs of Σ parts / Σ wholes; 0 where the wholes are 0.

    A dataset-accumulated IoU is such a number.

    >>> float(ratio_of_sums(np.array([[1.0, 1.0], [0.0, 3.0]])))
    0.25
    """
    sums = x.sum(0) if counts is None else _sums(x, counts)
    sums = sums.reshape(*sums.shape[:-1], sums.shape[-1] // 2, 2)
    return np.asarray((sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], 1)).mean(-1))


def _sums(x: Numbers, counts: Counts) -> Numbers:
    """The sum of each resample."""
    return np.tensordot(counts.astype(np.float64), x, 1)


def mean_with_interval(
    values: Sequence[float] | Numbers, seed: int = 0, groups: Sequence[Hashable] | Counts | None = None
) -> Interval:
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


def paired(
    a: Sequence[float] | Numbers,
    b: Sequence[float] | Numbers,
    seed: int = 0,
    groups: Sequence[Hashable] | Counts | None = None,
) -> Interval:
    """The mean of a − b, sample by sample."""
    less = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return mean_with_interval(less, seed, groups)


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
    return bootstrap(both.reshape(len(both), -1), ratio_of_sums, seed, groups)


def swapping(
    a: Numbers,
    b: Numbers,
    statistic: Statistic = mean,
    seed: int = 0,
    groups: Sequence[Hashable] | Counts | None = None,
    draws: int = SWAPS,
) -> float:
    """p, two-sided, of a paired permutation test: how often statistic(a) and statistic(b) lie as far apart if samples trade
    their a for their b by the toss of a coin, those of a group together. Of few groups all outcomes of the tosses are tried.

    a, b: numbers (sample,) or several of each (sample, number).

    >>> swapping(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 0.0]))
    0.25
    """
    if statistic is mean:
        return float(swappings((a - b)[:, None], seed, groups, draws)[0])
    group_of, count = numbered(groups, len(a))
    apart, far, tossed = abs(float(statistic(a) - statistic(b))), 0, 0
    a, b = a[:, None], b[:, None]  # the axis of tosses
    for of_groups in _tosses(count, draws, seed, a.size):
        traded = of_groups[:, group_of].T.reshape(len(a), -1, *[1] * (a.ndim - 2))
        found = np.abs(statistic(np.where(traded, b, a)) - statistic(np.where(traded, a, b)))
        far, tossed = far + int((found >= apart * HAIR).sum()), tossed + len(of_groups)
    return far / tossed if _exact(count, draws) else (1 + far) / (1 + tossed)


def swappings(
    less: Numbers, seed: int = 0, groups: Sequence[Hashable] | Counts | None = None, draws: int = SWAPS
) -> Numbers:
    """`swapping` of many means at once, by the same tosses. less: (sample, test), a − b; p: (test,).

    >>> swappings(np.array([[1.0, 1.0], [2.0, -2.0], [3.0, 0.5]])).tolist()
    [0.25, 1.0]
    """
    group_of, count = numbered(groups, len(less))
    sums = np.zeros((count, less.shape[1]))
    np.add.at(sums, group_of, less)
    least, far, tossed = np.abs(sums.sum(0)) * HAIR, np.zeros(less.shape[1]), 0
    for traded in _tosses(count, draws, seed, count):
        found = np.abs(sums.sum(0) - 2 * (traded.astype(np.float64) @ sums))
        far, tossed = far + (found >= least).sum(0), tossed + len(traded)
    return np.asarray(far / tossed if _exact(count, draws) else (1 + far) / (1 + tossed))


def _exact(count: int, draws: int) -> bool:
    """Whether all outcomes are tried."""
    return count < 60 and 2**count <= draws + 1


def _tosses(count: int, draws: int, seed: int, size: int) -> Iterator[NDArray[np.bool_]]:
    """(toss, group): which trade, all outcomes or so many at random; of each toss `size` numbers are made."""
    random, exact = np.random.default_rng(seed), _exact(count, draws)
    tosses, at_once = 2**count if exact else draws, max(1, AT_ONCE // max(1, size))
    for start in range(0, tosses, at_once):
        some = np.arange(start, min(tosses, start + at_once))
        yield (some[:, None] >> np.arange(count)) & 1 == 1 if exact else random.random((len(some), count)) < 0.5


def holm(p_values: Sequence[float] | Numbers, family: int | None = None) -> Numbers:
    """p-values corrected for their number (Holm 1979), or that of a larger `family`: all that stay at most α are true together
    with a chance of 1 − α.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order, count = np.argsort(p, kind="stable"), len(p) if family is None else family
    steps = p[order] * np.arange(count, count - len(p), -1)
    found = np.empty(len(p))
    found[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(p) else steps
    return found
