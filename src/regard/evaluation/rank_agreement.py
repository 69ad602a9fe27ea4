"""How far two maps of one input agree on its units (formulas.md section 8): ranks, the units that both put first, and signs.

A map is an array (unit,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from regard.evaluation.statistics import Numbers
from regard.extras import brought_by


class AgreementMetric(NamedTuple):
    """A number of two maps: what tables call it, and what it is. symmetric: which map comes first does not matter; sizes: it
    is of the scores without their signs."""

    called: str
    about: str
    symmetric: bool = True
    sizes: bool = False


METRICS = {
    "kendall": AgreementMetric(
        "Kendall’s τ-b", "rank correlation of the scores: 1 the same order, 0 none, −1 the opposite"
    ),
    "spearman": AgreementMetric("Spearman’s ρ", "correlation of the ranks of the scores"),
    "overlap": AgreementMetric("top-k overlap", "share of the k highest units that both maps have"),
    "kendall_of_sizes": AgreementMetric("τ-b of sizes", "the same of the scores without their signs", sizes=True),
    "spearman_of_sizes": AgreementMetric("ρ of sizes", "the same of the scores without their signs", sizes=True),
    "overlap_of_sizes": AgreementMetric("top-k overlap of sizes", "the same of scores without their signs", sizes=True),
    "sign_disagreement": AgreementMetric(
        "sign disagreement",
        "share of the first map’s k highest units that the second one, a signed map, scores below 0",
        False,
    ),
}


def kendall(a: Numbers, b: Numbers) -> float:
    """Kendall's τ-b: (concordant − discordant) / √((pairs not tied in a)(pairs not tied in b)); NaN where a map is constant."""
    if _constant(a) or _constant(b):
        return math.nan
    return float(brought_by("eval", "scipy.stats").kendalltau(a, b, variant="b", method="asymptotic").statistic)


def spearman(a: Numbers, b: Numbers) -> float:
    """Spearman's ρ, the correlation of ranks, equal scores sharing their mean rank; NaN where a map is constant."""
    if _constant(a) or _constant(b):
        return math.nan
    return float(brought_by("eval", "scipy.stats").spearmanr(a, b).statistic)


def _constant(a: Numbers) -> bool:
    return bool((a == a[0]).all())


def chosen(a: Numbers, k: int) -> Numbers:
    """How likely each unit is to be among the k highest where equal scores are put in a random order; they add up to k."""
    border = np.sort(a)[-k]
    above, tied = a > border, a == border
    found: Numbers = above + tied * (k - above.sum()) / tied.sum()
    return found


def overlap(a: Numbers, b: Numbers, k: int) -> float:
    """The share of the k highest units of one map that the other has among its own: expected, ties broken at random in each.

    Chance gives k/n.
    """
    return float(chosen(a, k) @ chosen(b, k) / k)


def sign_disagreement(a: Numbers, b: Numbers, k: int) -> float:
    """The share of the k highest units of a, ties broken at random, to which b gives a negative score.

    Chance gives the share of b's scores that are negative.
    """
    return float(chosen(a, k) @ (b < 0) / k)


def agreements(scores: Numbers, signed: Sequence[bool], k: int) -> dict[str, Numbers]:
    """Every metric of every two maps, (map, map): a row is the first map, a column the second; NaN where one is missing.

    scores: (map, unit), a missing map NaN. signed: which maps have a sign: sign disagreement with one that has none is NaN.
    """
    found = {name: np.full((len(scores),) * 2, np.nan) for name in METRICS}
    there = [i for i, a in enumerate(scores) if not np.isnan(a).any()]
    for i in there:
        for j in (j for j in there if j != i):
            if signed[j]:
                found["sign_disagreement"][i, j] = sign_disagreement(scores[i], scores[j], k)
            if j > i:
                for name, value in _symmetric(scores[i], scores[j], k, signed[i] or signed[j]).items():
                    found[name][i, j] = found[name][j, i] = value
    return found


def _symmetric(a: Numbers, b: Numbers, k: int, signed: bool) -> dict[str, float]:
    """What does not depend on which map comes first, of scores and of their sizes."""
    whole = _ranks(a, b, k)
    sizes = _ranks(np.abs(a), np.abs(b), k) if signed else whole
    return whole | {f"{name}_of_sizes": value for name, value in sizes.items()}


def _ranks(a: Numbers, b: Numbers, k: int) -> dict[str, float]:
    return {"kendall": kendall(a, b), "spearman": spearman(a, b), "overlap": overlap(a, b, k)}


__all__ = ["METRICS", "AgreementMetric", "agreements", "chosen", "kendall", "overlap", "sign_disagreement", "spearman"]
