"""A linear model of y over units that are there or not: LIME's weighted ridge, Shapley values by KernelSHAP, their errors.

Everything here is a function of numbers: `kept` (copy, unit), 1 where a unit is there, and y of each copy, in double precision.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.attribution.removal.runs import Taken, drawn_from
from regard.extras import brought_by

Kept = Float[Tensor, "copy unit"]


@dataclass(frozen=True)
class Fit:
    """A fitted linear model.

    Attributes:
        coefficients: one a unit. intercept: y without any unit. r2: what share of y's weighted variance it explains, NaN where
            y does not vary.
        errors: a standard error for each coefficient: how far it would move with other draws. 0 where every subset was run, NaN
            where there were no more draws than units. runs: how many copies it was fitted to. exact: to every subset.
    """

    coefficients: Float[Tensor, " unit"]
    intercept: float
    r2: float
    errors: Float[Tensor, " unit"]
    runs: int
    exact: bool

    @classmethod
    def of_nothing(cls, y: float) -> Fit:
        """Where there is no unit to take away."""
        none = torch.zeros(0, dtype=torch.float64)
        return cls(none, y, math.nan, none, 0, True)

    @property
    def units(self) -> int:
        """How many there are."""
        return len(self.coefficients)


# -- which units to take ------------------------------------------------------------------------------------------------


def every_subset(units: int) -> Taken:
    """All subsets, the empty one first."""
    return torch.tensor([*itertools.product((False, True), repeat=units)], dtype=torch.bool).view(-1, units)


def lime_draws(units: int, count: int, seed: int) -> Taken:
    """As the `lime` package draws for texts: how many are taken is uniform on 1..d, and then every such subset alike; the first
    copy is whole."""
    generator = drawn_from(seed, f"lime, {units} units")
    sizes = torch.randint(1, units + 1, (count - 1, 1), generator=generator)
    ranks = torch.rand(count - 1, units, generator=generator, dtype=torch.float64).argsort(1).argsort(1)
    return torch.cat([torch.zeros(1, units, dtype=torch.bool), ranks < sizes])


def shap_draws(units: int, count: int, seed: int) -> Taken:
    """Subsets, neither none nor all, as often as KernelSHAP's kernel weighs them; each beside its complement."""
    generator = drawn_from(seed, f"shap, {units} units")
    s = torch.arange(1, units, dtype=torch.float64)
    sizes = torch.multinomial(1 / (s * (units - s)), -(-count // 2), replacement=True, generator=generator) + 1
    ranks = torch.rand(len(sizes), units, generator=generator, dtype=torch.float64).argsort(1).argsort(1)
    taken = ranks < sizes[:, None]
    return torch.stack([taken, ~taken], 1).flatten(0, 1)


# -- how much each counts -----------------------------------------------------------------------------------------------


def lime_kernel(kept: Kept, bandwidth: float) -> Float[Tensor, " copy"]:
    """exp(−D²/2ν²), D the cosine distance to the whole: the `lime` package's kernel. 1 everywhere for ν = ∞."""
    share = kept.mean(1)
    distance = 1 - share.sqrt()  # ⟨z, 1⟩ / ‖z‖‖1‖ = √(share kept)
    return torch.exp(-(distance**2) / (2 * bandwidth**2))


def lime_chances(taken: Taken) -> Float[Tensor, " copy"]:
    """How likely each subset is to be drawn: 1/(d C(d, s)) for s ≥ 1 units."""
    return _by_size(taken, lambda s, d: 1 / (d * math.comb(d, s)) if s else 0.0)


def shap_kernel_weights(taken: Taken) -> Float[Tensor, " copy"]:
    """KernelSHAP's (d − 1)/(C(d, s) s (d − s)), for s other than 0 and d."""
    return _by_size(taken, lambda s, d: (d - 1) / (math.comb(d, s) * s * (d - s)) if 0 < s < d else 0.0)


def _by_size(taken: Taken, weight: Callable[[int, int], float]) -> Float[Tensor, " copy"]:
    units = taken.shape[1]
    return torch.tensor([weight(s, units) for s in range(units + 1)], dtype=torch.float64)[taken.sum(1)]


# -- fits ---------------------------------------------------------------------------------------------------------------


def ridge(kept: Kept, y: Float[Tensor, " copy"], weights: Float[Tensor, " copy"], alpha: float, drawn: bool) -> Fit:
    """Weighted ridge with an intercept, by scikit-learn. drawn: copies are draws, so that coefficients have errors."""
    found = _regression(alpha).fit(kept.numpy(), y.numpy(), sample_weight=weights.numpy())
    left = y - torch.from_numpy(found.predict(kept.numpy()))
    errors = torch.zeros(kept.shape[1], dtype=torch.float64)
    if drawn:
        centred, each = kept - weights @ kept / weights.sum(), torch.arange(len(kept))
        errors = _covariance(centred, left, weights, alpha, weights / weights.sum(), each).diagonal().sqrt()
    r2 = _r2(y, left, weights)
    return Fit(torch.from_numpy(found.coef_), float(found.intercept_), r2, errors, len(kept), not drawn)


def shapley(
    kept: Kept,
    y: Float[Tensor, " copy"],
    weights: Float[Tensor, " copy"],
    ends: tuple[float, float],
    pair: Int[Tensor, " copy"] | None,
) -> Fit:
    """KernelSHAP: the same regression under φ0 = y without any unit, Σφ = y − φ0. ends: y, φ0.

    The last unit's φ is what the others leave of the sum, so these are regressed on z_j − z_d. pair: which copies were drawn
    together; None: all subsets are there, and the values are exact.
    """
    whole, none = ends
    columns = kept[:, :-1] - kept[:, -1:]
    aim = y - none - kept[:, -1] * (whole - none)
    first, errors = torch.zeros(0, dtype=torch.float64), torch.zeros(kept.shape[1], dtype=torch.float64)
    if columns.shape[1]:
        found = _regression(0.0, intercept=False).fit(columns.numpy(), aim.numpy(), sample_weight=weights.numpy())
        first = torch.from_numpy(found.coef_)
        if pair is not None:
            covariance = _covariance(columns, aim - columns @ first, weights, 0.0, 0 * weights, pair)
            errors = torch.cat([covariance.diagonal(), covariance.sum()[None]]).clamp(min=0).sqrt()
    phi = torch.cat([first, (whole - none - first.sum())[None]])
    return Fit(phi, none, _r2(y, y - none - kept @ phi, weights), errors, len(kept), pair is None)


def _regression(alpha: float, intercept: bool = True) -> Any:
    """scikit-learn's ridge; least squares where nothing is penalised, which also copes with more units than copies."""
    linear = brought_by("eval", "sklearn.linear_model")
    return linear.Ridge(alpha, fit_intercept=intercept) if alpha else linear.LinearRegression(fit_intercept=intercept)


def _covariance(
    columns: Float[Tensor, "copy column"],
    left: Float[Tensor, " copy"],
    weights: Float[Tensor, " copy"],
    alpha: float,
    pull: Float[Tensor, " copy"],
    group: Int[Tensor, " copy"],
) -> Float[Tensor, "column column"]:
    """Of the coefficients, over other draws: the sandwich A⁻¹ Σ_g s_g s_gᵀ A⁻¹, A = XᵀWX + αI, s_g a group's Σ w x e/(1 − h).

    It takes the model for an approximation: y is no linear function of the units. h, a copy's own pull on its fit (`pull`: on
    the intercept), makes up for errors that the fit has made smaller (HC3).
    """
    if int(group.max()) <= columns.shape[1]:  # what is drawn together is one draw
        return torch.full((columns.shape[1],) * 2, math.nan, dtype=torch.float64)
    weighed = weights[:, None] * columns
    inverse = torch.linalg.pinv(columns.T @ weighed + alpha * torch.eye(columns.shape[1]).double(), hermitian=True)
    h = ((weighed @ inverse) * columns).sum(1) + pull
    scores = weighed * (left / (1 - h).clamp(min=1e-3))[:, None]
    sums = torch.zeros(int(group.max()) + 1, columns.shape[1], dtype=torch.float64).index_add_(0, group, scores)
    half: Float[Tensor, "group column"] = sums @ inverse
    return half.T @ half


def _r2(y: Float[Tensor, " copy"], left: Float[Tensor, " copy"], weights: Float[Tensor, " copy"]) -> float:
    total = (weights * (y - weights @ y / weights.sum()) ** 2).sum()
    return float(1 - (weights * left**2).sum() / total) if total > 0 else math.nan


def infinite_bandwidth(taken: Taken, y: Float[Tensor, " copy"]) -> Float[Tensor, " unit"]:
    """LIME's coefficients for endless draws and an infinite bandwidth, in closed form, of any y on all subsets of d ≥ 2 units.

    β_j = 3(d − 1)/(d + 1) [D_j − (d − 3)/(d(d − 1)) Σ_k D_k], D_j = E[y | j kept] − E[y], the number removed uniform on 1..d
    (formulas.md section 8).
    """
    d, p, kept = taken.shape[1], lime_chances(taken), (~taken).double()
    D = (p * y) @ kept / (p @ kept) - p @ y
    return 3 * (d - 1) / (d + 1) * (D - (d - 3) / (d * (d - 1)) * D.sum())


__all__ = [
    "Fit",
    "every_subset",
    "infinite_bandwidth",
    "lime_chances",
    "lime_draws",
    "lime_kernel",
    "ridge",
    "shap_draws",
    "shap_kernel_weights",
    "shapley",
]
