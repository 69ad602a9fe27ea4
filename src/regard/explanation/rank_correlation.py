"""Spearman's rank correlation of scores, for what needs no scipy."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def rank_correlation(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Spearman's ρ; NaN where either is constant, or where there is none."""
    ranks = [ranked(t) - ranked(t).mean() if len(t) else t for t in (x, y)]
    length = ranks[0].norm() * ranks[1].norm()
    return ranks[0] @ ranks[1] / length if bool(length > 0) else torch.tensor(torch.nan, dtype=torch.float64)


def ranked(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Ranks from 0; equal values share their mean rank."""
    below, same = (x[:, None] > x).sum(1), (x[:, None] == x).sum(1)
    return below.double() + (same.double() - 1) / 2


__all__ = ["rank_correlation", "ranked"]
