"""The mathematical laboratory: a classifier so small that what explainers say of it has closed forms (formulas.md section 8).

from regard.theory import AttentionClassifier, gradient, language, train, units

model = train(language(seed=0))
words = "the script was witty , the music was noisy".split()
ids = model.read(words)["input_ids"][0]
gradient(model, ids)                              # ∂f/∂e of every token, in closed form
analytic_limit(model, ids, units(model, ids))     # LIME's coefficients for infinite bandwidth, exactly
"""

from regard.theory.classifier import AttentionClassifier
from regard.theory.data import Corpus, Labelled, language, read_treebank
from regard.theory.explainers import EXPLAINERS, seven
from regard.theory.gradient import alpha_avg, alpha_max, gradient, input_x_gradient
from regard.theory.laboratory import examine
from regard.theory.lime import analytic_limit, exact_limit, paper_limit, sampled, shown
from regard.theory.store import read, write
from regard.theory.terms import terms, units
from regard.theory.training import Recipe, accuracy, train

__all__ = [
    "EXPLAINERS",
    "AttentionClassifier",
    "Corpus",
    "Labelled",
    "Recipe",
    "accuracy",
    "alpha_avg",
    "alpha_max",
    "analytic_limit",
    "exact_limit",
    "examine",
    "gradient",
    "input_x_gradient",
    "language",
    "paper_limit",
    "read",
    "read_treebank",
    "sampled",
    "seven",
    "shown",
    "terms",
    "train",
    "units",
    "write",
]
