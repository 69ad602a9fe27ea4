"""The seven explainers of arXiv 2402.03485 on the analytic classifier: one number for each word of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from regard.theory.classifier import AttentionClassifier
from regard.theory.gradient import alpha_avg, alpha_max, gradient, input_x_gradient
from regard.theory.lime import sampled, shown
from regard.theory.terms import Ids, units


class Explainer(NamedTuple):
    """Its name in the paper, the method of `regard.methods()` with its options, and whether a score below 0 can be."""

    name: str
    method: str
    signed: bool


EXPLAINERS = (
    Explainer("α-avg", "alpha_avg", False),
    Explainer("α-max", "alpha_max", False),
    Explainer("LIME", "lime", True),
    Explainer("G-avg", "gradient reduce=mean", True),
    Explainer("G-l1", "gradient reduce=l1", False),
    Explainer("G-l2", "gradient reduce=l2", False),
    Explainer("G×I", "input_x_gradient", True),
)


def seven(
    model: AttentionClassifier, ids: Ids, words: Sequence[str] | None = None, *, samples: int = 1000, seed: int = 0
) -> dict[str, Float[Tensor, " word"]]:
    """The scores of every word ([CLS] left out) by each explainer; for LIME a word has one score wherever it stands.

    `words`: what is written, where the classifier does not know a word; LIME tells words apart by it.
    """
    g = gradient(model, ids)
    of = units(model, ids, words)
    beta = torch.zeros(1, dtype=torch.float64)
    if len(of.words) > 1:
        beta, _ = sampled(shown(model, ids, of), len(of.words), samples=samples, seed=seed)
    by_word = [
        alpha_avg(model, ids), alpha_max(model, ids), beta[of.of], g.mean(-1), g.abs().sum(-1), g.norm(dim=-1),
        input_x_gradient(model, ids),
    ]  # fmt: skip
    return {of.name: scores[1:].double() for of, scores in zip(EXPLAINERS, by_word, strict=True)}


__all__ = ["EXPLAINERS", "Explainer", "seven"]
