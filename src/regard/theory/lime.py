"""LIME on the analytic classifier: as it samples, its limit in the paper, and its exact limit of infinite bandwidth.

A text of d distinct words is shown without some of them, each replaced by [UNK] wherever it occurs. s, the number of words
removed, is uniform on 1..d, then the words are; a linear model with an intercept is fitted to f, and β_j is its coefficient
of "word j is kept".
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regard.errors import Misuse
from regard.theory.classifier import AttentionClassifier
from regard.theory.terms import Ids, Units, unknown

Kept = Bool[Tensor, "copy unit"]
Shown = Callable[[Kept], Float[Tensor, " copy"]]
MOST = 16
"""Words up to which all 2^d − 1 perturbations are enumerated."""


def shown(model: AttentionClassifier, ids: Ids, units: Units) -> Shown:
    """f of a text of which some words are kept, all at once.

    (1/K) Σ_i Σ_t z_t W_ℓ v_t / Σ_t z_t, with z_t = g_t and v_t where the word is kept, else those of [UNK] in its place.
    """
    own, unk = unknown(model, ids)

    def f(kept: Kept) -> Float[Tensor, " copy"]:
        with_cls = torch.cat([kept, torch.ones_like(kept[:, :1])], 1)  # unit −1 is [CLS]
        there = with_cls[:, units.of][:, None]
        z = torch.where(there, own.g, unk.g)
        return ((z * torch.where(there, own.said, unk.said)).sum(-1) / z.sum(-1)).mean(-1)

    return f


def paper_limit(model: AttentionClassifier, ids: Ids, units: Units) -> Float[Tensor, " unit"]:
    """β_j ≈ (3/2) (1/K) Σ_i Σ_{t: ξ_t = j} W_ℓ (α_t v_t − (h_t / Σ_s h_s) v_t^UNK): the paper's limit for long texts.

    h_t = exp(qᵀk_t^UNK / √d_att). Our reading: [CLS] is never removed, and so counts in Σ_s h_s with its own g.
    """
    own, unk = unknown(model, ids)
    each = (own.alpha * own.said - unk.alpha * unk.said).mean(0)
    return 1.5 * torch.zeros(len(units.words), dtype=each.dtype).index_add(0, units.of[1:], each[1:])


def exact_limit(f: Shown, d: int) -> Float[Tensor, " unit"]:
    """The limit of LIME's β for infinite bandwidth and many samples, of any f, from all 2^d − 1 perturbations.

    β_j = 3(d−1)/(d+1) [ D_j − (d−3)/(d(d−1)) Σ_k D_k ], with D_j = E[f | j kept] − E[f]; a perturbation that removes s words
    has probability 1/(d C(d,s)). Raises Misuse for more words than can be enumerated.
    """
    if not 2 <= d <= MOST:
        raise Misuse(f"all perturbations of 2 to {MOST} words are enumerated, not of {d}")
    kept = perturbations(d)
    P = probabilities(kept)
    y = f(kept).to(P)
    there = kept.to(P).T * P
    return from_differences(there @ y / there.sum(1) - P @ y)


def analytic_limit(model: AttentionClassifier, ids: Ids, units: Units) -> Float[Tensor, " unit"]:
    """The same limit for the classifier and a text of any length, without enumerating: an integral in place of 2^d − 1 texts.

    Words removed one by one with a probability p ~ Unif(0, 1) are s ~ Unif{0..d} words; and 1/Z = ∫₀^∞ exp(−uZ) du makes of
    N/Z, sums over words both, a sum of products over words. Of degree d in p, it is exact by Gauss-Legendre; in u, by the
    double exponential rule; 5e-7 is the largest error seen. s = 0, the text itself, is taken out at the end.
    """
    own, unk = unknown(model, ids)
    d = len(units.words)
    if d < 2:
        raise Misuse("the limit is of a text of at least 2 distinct words")
    a, b = _by_unit(own.g, units), _by_unit(unk.g, units)
    A, B = _by_unit(own.g * own.said, units), _by_unit(unk.g * unk.said, units)
    c, C = own.g[:, 0], (own.g * own.said)[:, 0]
    least = c + torch.minimum(a, b).sum(-1)  # of Z: u is measured in its inverse
    (u, du), (p, dp) = _half_line(), _unit_interval(d)
    u = (u[:, None] / least)[:, None, :, None]  # (u, p, head, unit)
    kept, away = (1 - p).log()[:, None, None] - u * a, p.log()[:, None, None] - u * b
    phi = torch.logaddexp(kept, away)
    share = (kept - phi).exp()
    says = A * share + B * (1 - share)
    rest = torch.exp(phi.sum(-1) - u[..., 0] * c) * du[:, None, None] / least * dp[:, None]
    all_ = C + says.sum(-1)
    mean = (rest * all_).sum((0, 1)).mean()
    with_j = (rest[..., None] * share * (all_[..., None] - says + A)).sum((0, 1)).mean(0)
    f = (own.alpha * own.said).sum(-1).mean().double()
    mean, with_j = (((d + 1) * E - f) / d for E in (mean, with_j))
    return from_differences(with_j / ((d - 1) / (2 * d)) - mean)


def _by_unit(x: Float[Tensor, "head token"], units: Units) -> Float[Tensor, "head unit"]:
    """Summed over the places of each word."""
    return x.new_zeros(len(x), len(units.words)).index_add(1, units.of[1:], x[:, 1:])


def _half_line(step: float = 1 / 32) -> tuple[Tensor, Tensor]:
    """Nodes and weights on (0, ∞) for what falls exponentially: u = exp(x − exp(−x))."""
    x = torch.arange(-4.0, 5.0, step, dtype=torch.float64)
    u = torch.exp(x - torch.exp(-x))
    return u, step * u * (1 + torch.exp(-x))


def _unit_interval(degree: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on (0, 1), exact for polynomials of a degree."""
    x, w = np.polynomial.legendre.leggauss(degree // 2 + 1)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)


def from_differences(D: Float[Tensor, " unit"]) -> Float[Tensor, " unit"]:
    """β of D_j = E[f | j kept] − E[f]."""
    d = len(D)
    return 3 * (d - 1) / (d + 1) * (D - (d - 3) / (d * (d - 1)) * D.sum())


def perturbations(d: int) -> Kept:
    """Which words are kept, in each of the 2^d − 1 texts that lack at least one."""
    return (torch.arange(2**d - 1)[:, None] >> torch.arange(d)) % 2 == 1


def probabilities(kept: Kept) -> Float[Tensor, " copy"]:
    """1 / (d C(d, s)), s words removed."""
    d = kept.shape[1]
    each = torch.tensor([1 / (d * math.comb(d, s)) for s in range(1, d + 1)], dtype=torch.float64)
    return each[(~kept).sum(1) - 1]


def sampled(
    f: Shown, d: int, *, samples: int = 1000, bandwidth: float = 0.25, seed: int = 0
) -> tuple[Float[Tensor, " unit"], Float[Tensor, " unit"]]:
    """LIME as it is run, without its ridge: β and its standard errors, from random perturbations and the text itself.

    Weights are exp(−δ² / 2ν²), δ = 1 − √(share kept) the cosine distance to the text, ν the bandwidth (`math.inf`: all 1, and
    the text itself, which is not drawn, is left out). Standard errors are those of weighted least squares for any variance
    (HC0).
    """
    draw = np.random.default_rng(seed)
    removed = draw.integers(1, d + 1, samples)
    kept = draw.random((samples, d)).argsort(1).argsort(1) >= removed[:, None]
    if not math.isinf(bandwidth):
        kept[0] = True
    y = f(torch.from_numpy(kept)).double().numpy()
    delta = 1 - np.sqrt(kept.mean(1))
    w = np.exp(-((delta / bandwidth) ** 2) / 2)
    X = np.concatenate([np.ones((samples, 1)), kept], 1)
    bread = np.linalg.pinv(X.T @ (w[:, None] * X))
    beta = bread @ (X.T @ (w * y))
    scores = X * (w * (y - X @ beta))[:, None]
    errors = np.sqrt(np.diag(bread @ (scores.T @ scores) @ bread))
    return torch.from_numpy(beta[1:]), torch.from_numpy(errors[1:])


__all__ = [
    "analytic_limit",
    "exact_limit",
    "from_differences",
    "paper_limit",
    "perturbations",
    "probabilities",
    "sampled",
    "shown",
]
