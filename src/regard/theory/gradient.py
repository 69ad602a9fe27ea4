"""The gradient of the analytic classifier in closed form, and the explainers that are made of it or of attention alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from regard.theory.classifier import AttentionClassifier
from regard.theory.terms import Ids, terms, weights


def gradient(model: AttentionClassifier, ids: Ids) -> Float[Tensor, "token width"]:
    """∂f/∂e_t of every token.

    ∇_t f = (1/K) Σ_i α_t [ W_vᵀW_ℓᵀ + (W_kᵀq / √d_att) (W_ℓ v_t − Σ_s α_s W_ℓ v_s) ]. The first summand is what the token says,
    the second how much more of the attention it would get. [CLS] is the query too, and adds
    (1/K) Σ_i W_qᵀ Σ_s α_s (W_ℓ v_s − W_ℓ ṽ) k_s / √d_att, with ṽ = Σ_s α_s v_s.
    """
    W, t = weights(model), terms(model, ids)
    above = t.said - (t.alpha * t.said).sum(-1, keepdim=True)
    says = torch.einsum("hvw,hv->hw", W.v, W.l)[:, None]
    draws = torch.einsum("hkw,hk->hw", W.k, t.q)[:, None] / W.root
    each = t.alpha[..., None] * (says + draws * above[..., None])
    each[:, 0] += torch.einsum("hkw,ht,htk->hw", W.q, t.alpha * above, t.k) / W.root
    return each.mean(0)


def input_x_gradient(model: AttentionClassifier, ids: Ids) -> Float[Tensor, " token"]:
    """e_tᵀ ∇_t f, of e_t = W_e[ξ_t] + W_p(t)."""
    return (terms(model, ids).e * gradient(model, ids)).sum(-1)


def alpha_avg(model: AttentionClassifier, ids: Ids) -> Float[Tensor, " token"]:
    """α_t, the mean over heads."""
    return terms(model, ids).alpha.mean(0)


def alpha_max(model: AttentionClassifier, ids: Ids) -> Float[Tensor, " token"]:
    """α_t of the head that looks at the token most."""
    return terms(model, ids).alpha.amax(0)


__all__ = ["alpha_avg", "alpha_max", "gradient", "input_x_gradient"]
