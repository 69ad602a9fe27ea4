"""How far units that a map puts first move a target, against as many drawn by chance (formulas.md section 12)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.explanation.causal_test import CHOICES, LEAST


def size_of(units: int, share: float) -> int:
    """k = max(⌈share · n⌉, the least k with C(n, k) ≥ 50); 0 where there are too few units to test."""
    if units < LEAST:
        return 0
    enough = next(k for k in range(1, units) if math.comb(units, k) >= CHOICES)
    return max(math.ceil(share * units - 1e-9), enough)


def ranked(scores: Float[Tensor, " unit"], generator: torch.Generator) -> Int[Tensor, " unit"]:
    """Units from the highest score to the lowest; equal ones in an order that is drawn."""
    shuffled = torch.randperm(len(scores), generator=generator)
    return shuffled[scores[shuffled].argsort(descending=True, stable=True)]


def moved(y0: float, y: float, ys: Float[Tensor, " choice"], sign: int) -> tuple[float, Float[Tensor, " choice"]]:
    """How far y moved as claimed, and how far on each random choice: fallen (+1), risen (-1), or what is left of it (0)."""
    return (y, ys) if not sign else (sign * (y0 - y), sign * (y0 - ys))


__all__ = ["moved", "ranked", "size_of"]
