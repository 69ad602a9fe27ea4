"""LIME (Ribeiro et al., KDD 2016) and KernelSHAP (Lundberg & Lee, NeurIPS 2017): one regression of y on what is there."""

from __future__ import annotations

import math

import torch

from regard.attribution.context import Context, Relevance
from regard.attribution.removal.explained import OneSample, explained
from regard.attribution.removal.grouping import numbered
from regard.attribution.removal.surrogate import (
    Fit,
    every_subset,
    lime_chances,
    lime_draws,
    lime_kernel,
    ridge,
    shap_draws,
    shap_kernel_weights,
    shapley,
)
from regard.errors import Misuse
from regard.kinds import Count


def lime(
    context: Context,
    *,
    samples: Count = 1024,
    bandwidth: float | int = 0.25,
    alpha: float | int = 1.0,
    unit: str = "word",
    bow: bool = True,
    window: Count = 1,
) -> Relevance:
    """Coefficients of a weighted ridge regression of y on which units are there, as the `lime` package fits it for texts.

    The number of units taken is uniform on 1..d; copies are weighed by exp(−D²/2ν²), D the cosine distance to the whole and ν
    the `bandwidth` (math.inf: all alike); `alpha` is the penalty. 0.25 and 1 are the package's. Where there are no more than
    `samples` subsets all are run, each weighed by its chance: what endless draws would give, without errors, and `alpha` has no
    weight. unit: "word" (where a reader knows the words, else the token) or "token"; bow: all places of a word are one unit, as
    in the package; window: blocks of so many tokens along each axis. A unit's coefficient is shared by its tokens.
    """
    check_positive("bandwidth", bandwidth)
    check_positive("alpha", alpha, zero=True)

    def fit(one: OneSample) -> Fit:
        drawn = samples < 2**one.units - 1
        taken = lime_draws(one.units, samples, context.seed) if drawn else every_subset(one.units)
        kept = (~taken).double()
        chances = torch.ones(len(taken)).double() if drawn or one.units == 1 else lime_chances(taken)
        return ridge(kept, one.y(taken), chances * lime_kernel(kept, float(bandwidth)), float(alpha) * drawn, drawn)

    return explained(
        context,
        lambda tokens: numbered(context.recording, context.reading, tokens, unit, bow=bow, window=window),
        fit,
    )


def shap_kernel(
    context: Context, *, samples: Count = 2048, unit: str = "word", bow: bool = False, window: Count = 1
) -> Relevance:
    """Shapley values of the units by KernelSHAP: the same regression under another weighting, and Σφ = y − y without any unit.

    Where there are no more than `samples` subsets all are run, and the values are exact; else subsets are drawn by the kernel's
    own weights, each with its complement. unit, bow, window: as of `lime`.
    """

    def fit(one: OneSample) -> Fit:
        drawn = samples < 2**one.units - 2
        taken = shap_draws(one.units, samples, context.seed) if drawn else every_subset(one.units)[1:-1]
        weights = torch.ones(len(taken)).double() if drawn else shap_kernel_weights(taken)
        pair = torch.arange(len(taken)) // 2 if drawn else None
        y = one.y(taken) if len(taken) else torch.zeros(0).double()
        return shapley((~taken).double(), y, weights, one.ends, pair)

    return explained(
        context,
        lambda tokens: numbered(context.recording, context.reading, tokens, unit, bow=bow, window=window),
        fit,
    )


def check_positive(name: str, value: object, zero: bool = False) -> None:
    """Raise Misuse for what is no positive number (`zero`: or 0)."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not (number > 0 or (zero and number == 0)):
        raise Misuse(f"{name} is a positive number{' or 0' if zero else ''}, not {value!r}")


__all__ = ["lime", "shap_kernel"]
