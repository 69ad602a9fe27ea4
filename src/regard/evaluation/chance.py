"""Better than chance, and better than one another: exact enough tests of means, corrected for how many are asked.

A test flips signs: where chance alone is at work, a value is as likely to be so far above its middle as below it, so signs are
drawn anew, many times, and the mean that was found is held against the means that come of it. Examples of one group flip
together.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence

import numpy as np

from regard.evaluation.statistics import Numbers, holm, numbered

FLIPS = 20_000
LEVEL = 0.05


def sign_flip(values: Numbers, groups: Sequence[Hashable] | None = None, seed: int = 0) -> Numbers:
    """One-sided p-values that the mean of each column is above 0: (1 + as large) / (flips + 1).

    values: (example, column), less what chance has on the mean; NaN where there is none, which says nothing for either side.

    >>> sign_flip(np.ones((10, 1)))[0] < 0.01
    np.True_
    """
    known = np.nan_to_num(np.asarray(values, dtype=np.float64))
    of, count = numbered(groups, len(known))
    sums = np.zeros((count, known.shape[1]))
    np.add.at(sums, of, known)
    signs = np.random.default_rng(seed).integers(0, 2, (FLIPS, len(sums)), dtype=np.int8) * 2 - 1
    found, tolerance = sums.sum(0), 1e-9 * np.abs(sums).sum(0)
    as_large = (signs.astype(np.float64) @ sums >= found - tolerance).sum(0)
    made: Numbers = (1 + as_large) / (FLIPS + 1)
    return made


def surely_better(values: Numbers, groups: Sequence[Hashable] | None = None, seed: int = 0) -> list[set[int]]:
    """For each column the columns that its mean is surely above: the paired difference is, corrected for the number of pairs.

    values: (example, column), higher is better; NaN where there is none. All of it holds together with a chance of 95 %.
    """
    found: list[set[int]] = [set() for _ in range(values.shape[1])]
    pairs = list(itertools.combinations(range(values.shape[1]), 2))
    if not pairs:
        return found
    less = np.stack([values[:, i] - values[:, j] for i, j in pairs], 1)
    above, below = (sign_flip(sign * less, groups, seed) for sign in (1, -1))
    sure = holm(np.minimum(1.0, 2 * np.minimum(above, below))) <= LEVEL
    for (i, j), one, first in zip(pairs, sure, above < below, strict=True):
        if one:
            found[i if first else j].add(j if first else i)
    return found


__all__ = ["FLIPS", "LEVEL", "sign_flip", "surely_better"]
