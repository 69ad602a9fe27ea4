"""Weighted Banzhaf values of the second order, over two sets of units that are crossed: each copy of the one with each of the
other. FIxLIP (Baniecki et al., NeurIPS 2025), our reading.

Everything here is a function of numbers: `kept` (copy, unit), 1 where a unit is there, and y (copy, copy), in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from regard.attribution.removal.runs import drawn_from
from regard.attribution.removal.surrogate import every_subset
from regard.errors import Misuse

Kept = Float[Tensor, "copy unit"]
Others = Float[Tensor, "other more"]
"""The same of the other side."""
Weights = Float[Tensor, " copy"]
RESAMPLES = 200


class Masks(NamedTuple):
    """Copies of one side: which units are there, and how much each counts. exact: they are all subsets."""

    kept: Kept
    weights: Weights
    exact: bool

    def some(self, index: Tensor) -> Masks:
        """A part of them."""
        return Masks(self.kept[index], self.weights[index], self.exact)


@dataclass(frozen=True)
class Crossed:
    """y ≈ base + Σ_i first_i z_i + Σ_j second_j w_j + Σ_ij pairs_ij z_i w_j, for units i of one side and j of the other."""

    base: float
    first: Float[Tensor, " first"]
    second: Float[Tensor, " second"]
    pairs: Float[Tensor, "first second"]

    @classmethod
    def of(cls, B: Float[Tensor, "more_first more_second"]) -> Crossed:
        """From the coefficients of products of (1, z) and (1, w)."""
        return cls(float(B[0, 0]), B[1:, 0], B[0, 1:], B[1:, 1:])

    def at(self, z: Kept, w: Others) -> Float[Tensor, "copy other"]:
        """The model's y of every crossing."""
        return self.base + (z @ self.first)[:, None] + w @ self.second + z @ self.pairs @ w.T

    def values(self, p: float) -> tuple[Float[Tensor, " first"], Float[Tensor, " second"]]:
        """Weighted Banzhaf values: what each unit adds, on the average over the others, each there with chance p."""
        return self.first + p * self.pairs.sum(1), self.second + p * self.pairs.sum(0)


def masks(units: int, count: int, p: float, seed: int, side: str) -> Masks:
    """Units that are there with chance p, each by itself; all subsets, weighted by their chance, where there are no more."""
    if units < 31 and 2**units <= count:
        kept = (~every_subset(units)).double()
        there = kept.sum(1)
        return Masks(kept, p**there * (1 - p) ** (units - there), True)
    drawn = torch.rand(
        count, units, generator=drawn_from(seed, f"interaction, {side}, {units} units"), dtype=torch.float64
    )
    return Masks((drawn < p).double(), torch.ones(count, dtype=torch.float64), False)


def fitted(z: Masks, w: Masks, y: Float[Tensor, "copy other"]) -> Crossed:
    """Weighted least squares over all crossings. The design is a Kronecker product of (1, z) and (1, w), and so its inverse:
    B = X⁺ y X'⁺ᵀ. Raises Misuse where there are too few copies to tell the units apart."""
    return Crossed.of(solver(z) @ y @ solver(w).T)


def solver(side: Masks) -> Float[Tensor, "more copy"]:
    """(XᵀWX)⁻¹XᵀW of X = (1, kept)."""
    X = torch.cat([torch.ones(len(side.kept), 1, dtype=torch.float64), side.kept], 1)
    root = side.weights.sqrt()[:, None]
    if int(torch.linalg.matrix_rank(X * root)) < X.shape[1]:
        raise Misuse(
            f"{len(X)} masks do not tell {side.kept.shape[1]} units apart; ask for more, or for a larger window or unit"
        )
    found: Tensor = torch.linalg.pinv(X * root) * root.T
    return found


def unseen_r2(z: Masks, w: Masks, y: Float[Tensor, "copy other"]) -> float:
    """What share of y's variance a fit to four fifths of the drawn copies of each side explains on the others, crossed. A side
    whose subsets are all there is whole in both."""
    (z_in, z_out), (w_in, w_out) = (_split(side) for side in (z, w))
    found = fitted(z.some(z_in), w.some(w_in), y[z_in][:, w_in])
    z_new, w_new = z.some(z_out), w.some(w_out)
    weights = z_new.weights[:, None] * w_new.weights
    true = y[z_out][:, w_out]
    mean = (weights * true).sum() / weights.sum()
    spread = (weights * (true - mean).square()).sum()
    left = (weights * (true - found.at(z_new.kept, w_new.kept)).square()).sum()
    return float(1 - left / spread) if spread > 0 else float("nan")


def _split(side: Masks) -> tuple[Tensor, Tensor]:
    every = torch.arange(len(side.kept))
    if side.exact:
        return every, every
    return every[every % 5 != 4], every[every % 5 == 4]


def errors(
    z: Masks, w: Masks, y: Float[Tensor, "copy other"], p: float, seed: int
) -> tuple[Float[Tensor, " first"], Float[Tensor, " second"], Float[Tensor, "first second"]]:
    """Standard errors of both sides' values and of the pairs, by a two-way bootstrap: the drawn copies of each side are drawn
    again. A side whose subsets are all there has none of its own."""
    generator = drawn_from(seed, "interaction, bootstrap")
    found: list[list[Tensor]] = [[], [], []]
    for _ in range(RESAMPLES):
        try:
            fit = fitted(_resampled(z, generator), _resampled(w, generator), y)
        except Misuse:  # a draw that leaves out what tells two units apart
            continue
        for known, value in zip(found, (*fit.values(p), fit.pairs), strict=True):
            known.append(value)
    made = [
        torch.stack(k).std(0) if len(k) > 1 else torch.full_like(v, torch.nan)
        for k, v in zip(found, _like(z, w), strict=True)
    ]
    return made[0], made[1], made[2]


def _resampled(side: Masks, generator: torch.Generator) -> Masks:
    if side.exact:
        return side
    n = len(side.kept)
    counts = torch.bincount(torch.randint(n, (n,), generator=generator), minlength=n)
    return side._replace(weights=side.weights * counts)


def _like(z: Masks, w: Masks) -> tuple[Tensor, Tensor, Tensor]:
    a, b = z.kept.shape[1], w.kept.shape[1]
    return torch.zeros(a).double(), torch.zeros(b).double(), torch.zeros(a, b).double()


__all__ = ["Crossed", "Masks", "errors", "fitted", "masks", "solver", "unseen_r2"]
