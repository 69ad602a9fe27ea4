"""Every closed form put to the test on one classifier, and what sign and position do; numbers, which a page shows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.errors import InputError
from regard.theory.classifier import AttentionClassifier
from regard.theory.data import Corpus, Labelled
from regard.theory.explainers import seven
from regard.theory.gradient import alpha_avg, gradient, input_x_gradient
from regard.theory.lime import analytic_limit, exact_limit, paper_limit, perturbations, probabilities, sampled, shown
from regard.theory.terms import Units, units
from regard.theory.training import Recipe, fresh

Told = Callable[[str, int, int], None]
Numbers = NDArray[np.float64]
FEW = 10
"""Distinct words up to which least squares over all perturbations is run beside the closed form."""
SAMPLES = (125, 250, 500, 1000, 2000, 4000, 8000)
EXACT = {"gradient": 1e-10, "enumerated": 1e-8, "integral": 1e-8}
"""The most by which a closed form may differ from what it is tested against, in float64."""


@dataclass
class Agreement:
    """One formula against its reference: the numbers of all texts, those of one text side by side."""

    formula: list[Numbers] = field(default_factory=list)
    reference: list[Numbers] = field(default_factory=list)

    def add(self, formula: Tensor, reference: Tensor) -> None:
        """The numbers of one more text."""
        self.formula.append(formula.detach().double().flatten().numpy())
        self.reference.append(reference.detach().double().flatten().numpy())

    @property
    def texts(self) -> int:
        """How many."""
        return len(self.formula)

    @property
    def worst(self) -> float:
        """The largest difference of any number."""
        return max(float(np.abs(a - b).max()) for a, b in zip(self.formula, self.reference, strict=True))

    @property
    def correlations(self) -> list[float]:
        """Pearson's correlation within each text; texts whose numbers are all alike are left out."""
        pairs = zip(self.formula, self.reference, strict=True)
        return [float(np.corrcoef(a, b)[0, 1]) for a, b in pairs if min(a.std(), b.std()) > 1e-12]

    @property
    def scales(self) -> list[float]:
        """By how much the formula is too large in each text: the factor that takes the reference nearest to it."""
        pairs = zip(self.formula, self.reference, strict=True)
        return [float(a @ b / (b @ b)) for a, b in pairs if b @ b > 1e-24]

    @property
    def median_correlation(self) -> float:
        """Of the texts' own."""
        return float(np.median(self.correlations))

    @property
    def median_scale(self) -> float:
        """Of the texts' own."""
        return float(np.median(self.scales))


@dataclass
class Findings:
    """What the laboratory found. `scores`: for each examined text, its words, their own signs, and the seven explainers."""

    agreements: dict[str, Agreement]
    errors: dict[int, float]
    """How far sampled LIME is from its exact limit, by samples: root mean square over words and texts."""
    z: Numbers
    """(sampled − exact) / standard error, of every word, with the most samples."""
    scores: list[tuple[Labelled, dict[str, Numbers]]]
    places: dict[str, Numbers] = field(default_factory=dict)
    """α-avg, G×I and LIME's exact limit of one word, moved through a sentence, and f."""
    moved: tuple[str, tuple[str, ...]] = ("", ())

    @classmethod
    def empty(cls) -> Findings:
        """Before anything was found."""
        return cls({}, {}, np.zeros(0), [])

    @property
    def wrong(self) -> list[str]:
        """The closed forms that differ by more than rounding from what they are tested against."""
        return [name for name, most in EXACT.items() if not self.agreements[name].worst <= most]


def examine(
    model: AttentionClassifier,
    corpus: Corpus,
    *,
    texts: int = 40,
    words: int = 300,
    seed: int = 0,
    told: Told | None = None,
) -> Findings:
    """Test every closed form on `texts` test sentences, in float64, and put the seven explainers to `words` of them.

    Raises InputError where no sentence has two distinct words.
    """
    exact = copy.deepcopy(model).double().eval()
    random = fresh(model.words, alike(model), torch.Generator().manual_seed(seed))
    chosen = spread(corpus.test, texts)
    if not chosen:
        raise InputError("no test sentence has two distinct words, and LIME is about what is left of them")
    found = Findings.empty()
    steps = 2 * len(chosen) + min(words, len(corpus.test))
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        if told is not None:
            told(what, done, steps)

    errors: dict[int, list[Numbers]] = {n: [] for n in SAMPLES}
    z: list[Numbers] = []
    for text in chosen:
        step("closed forms")
        compare(exact, text, found.agreements)
        compare_paper(exact, text, found.agreements, "paper, trained")
        compare_paper(random.double(), text, found.agreements, "paper, random")
    for i, text in enumerate(chosen):
        step("sampled LIME")
        z.append(converge(exact, text, found.agreements, errors, seed + i))
    for i, text in enumerate(spread(corpus.test, words)):
        step("seven explainers")
        text = cut(model, text)
        ids = model.read(text.words)["input_ids"][0]
        scores = seven(exact, ids, text.words, seed=seed + i)
        found.scores.append((text, {name: s.numpy() for name, s in scores.items()}))
    found.errors = {n: float(np.sqrt(np.concatenate(e).mean())) for n, e in errors.items() if e}
    found.z = np.concatenate(z)
    return found


def alike(model: AttentionClassifier) -> Recipe:
    """What makes an untrained classifier of the same sizes."""
    sizes: dict[str, Any] = dict(model.sizes)
    return Recipe(**sizes)


def typical(corpus: Corpus) -> Labelled:
    """A test sentence to show: of both kinds of words, and neither short nor long where there is one."""
    both = [t for t in corpus.test if min(t.signs) < 0 < max(t.signs)]
    fit = [t for t in both if 9 <= len(t.words) <= 16]
    return (fit or both or spread(corpus.test, 1))[0]


def spread(texts: Sequence[Labelled], count: int) -> list[Labelled]:
    """So many texts of at least two distinct words, evenly over all."""
    able = [t for t in texts if len(set(t.words)) > 1]
    return [able[i * len(able) // count] for i in range(count)] if len(able) > count else able


def cut(model: AttentionClassifier, text: Labelled, distinct: int | None = None) -> Labelled:
    """A text as long as the model takes, or its beginning of so many distinct words."""
    n = min(len(text.words), model.length - 1)
    if distinct is not None:
        n = max(k for k in range(n + 1) if len(set(text.words[:k])) <= distinct)
    return text._replace(words=text.words[:n], signs=text.signs[:n])


def _read(model: AttentionClassifier, text: Labelled) -> tuple[Tensor, Units]:
    ids = model.read(text.words)["input_ids"][0]
    return ids, units(model, ids, text.words)


def compare(model: AttentionClassifier, text: Labelled, into: dict[str, Agreement]) -> None:
    """Gradient and exact limits of one text, the limits of its beginning."""
    whole, few = cut(model, text), cut(model, text, FEW)
    ids, _ = _read(model, whole)
    into.setdefault("gradient", Agreement()).add(gradient(model, ids), by_autograd(model, ids))
    ids, of = _read(model, few)
    f, d = shown(model, ids, of), len(of.words)
    limit = exact_limit(f, d)
    into.setdefault("enumerated", Agreement()).add(limit, by_least_squares(f, d))
    into.setdefault("integral", Agreement()).add(analytic_limit(model, ids, of), limit)


def compare_paper(model: AttentionClassifier, text: Labelled, into: dict[str, Agreement], name: str) -> None:
    """The paper's limit against the exact one, of a whole text."""
    ids, of = _read(model, cut(model, text))
    into.setdefault(name, Agreement()).add(paper_limit(model, ids, of), analytic_limit(model, ids, of))


def converge(
    model: AttentionClassifier, text: Labelled, into: dict[str, Agreement], errors: dict[int, list[Numbers]], seed: int
) -> Numbers:
    """Sampled LIME of one text, ever more samples, against its exact limit; and at the usual bandwidth. The last z."""
    ids, of = _read(model, cut(model, text))
    f, d = shown(model, ids, of), len(of.words)
    limit = analytic_limit(model, ids, of)
    z: Numbers = np.zeros(d)
    for n in SAMPLES:
        if n < 4 * d:
            continue
        beta, error = sampled(f, d, samples=n, bandwidth=math.inf, seed=seed)
        errors[n].append(((beta - limit) ** 2).numpy())
        z = ((beta - limit) / error).numpy()
    into.setdefault("sampled", Agreement()).add(beta, limit)
    near, _ = sampled(f, d, samples=SAMPLES[-1], seed=seed)
    into.setdefault("bandwidth 0.25", Agreement()).add(near, limit)
    return z


def by_autograd(model: AttentionClassifier, ids: Tensor) -> Tensor:
    """∂f/∂e, as torch takes it."""
    with torch.enable_grad():
        e = model.embed(ids[None]).detach().requires_grad_()
        (g,) = torch.autograd.grad(model.classify(e).sum(), [e])
    return g[0]


def by_least_squares(f: Callable[[Tensor], Tensor], d: int) -> Tensor:
    """β of a linear model with an intercept, fitted to all perturbations with their probabilities as weights."""
    kept = perturbations(d)
    root = probabilities(kept).sqrt()[:, None]
    X = torch.cat([torch.ones(len(kept), 1), kept], 1).double()
    found: Tensor = torch.linalg.lstsq(X * root, f(kept)[:, None] * root).solution
    return found[1:, 0]


def move(model: AttentionClassifier, text: Labelled, found: Findings) -> None:
    """Put the word of which LIME says most before each other word of a text in turn, and after the last."""
    exact = copy.deepcopy(model).double().eval()
    text = cut(exact, text)
    ids, of = _read(exact, text)
    if len(of.words) < 2:
        return
    word = of.words[int(analytic_limit(exact, ids, of).abs().argmax())]
    others = [w for w in text.words if w != word]
    rows: dict[str, list[float]] = {"α-avg": [], "G×I": [], "LIME": [], "f": []}
    for at in range(len(others) + 1):
        words = [*others[:at], word, *others[at:]]
        ids = exact.read(words)["input_ids"][0]
        of = units(exact, ids, words)
        rows["α-avg"].append(float(alpha_avg(exact, ids)[at + 1]))
        rows["G×I"].append(float(input_x_gradient(exact, ids)[at + 1]))
        rows["LIME"].append(float(analytic_limit(exact, ids, of)[of.words.index(word)]))
        rows["f"].append(float(exact(ids[None]).detach()))
    found.moved = (word, tuple(others))
    found.places = {name: np.array(row) for name, row in rows.items()}


def as_json(found: Findings) -> dict[str, Any]:
    """The numbers of the page, as JSON values."""
    return {
        "agreements": {
            name: {
                "texts": a.texts,
                "worst_difference": a.worst,
                "median_correlation": a.median_correlation,
                "median_scale": a.median_scale,
            }
            for name, a in found.agreements.items()
        },
        "sampled_error": {str(n): e for n, e in found.errors.items()},
        "z_mean_square": float((found.z**2).mean()),
        "moved": {"word": found.moved[0], "through": list(found.moved[1])}
        | {name: v.tolist() for name, v in found.places.items()},
    }


@dataclass
class Experiment:
    """All that the page shows: the classifier and its corpus, how well it does, and one sentence under the seven explainers."""

    corpus: Corpus
    model: AttentionClassifier
    accuracy: dict[str, float]
    card: dict[str, Any]
    found: Findings
    text: Labelled
    known: bool
    """Whether the words' own signs are known."""
    f: float
    scores: dict[str, Numbers]
    watched: dict[str, float] = field(default_factory=dict)
    """By how much Regard's own methods differ from the closed forms on the sentence, as shares of the largest scores."""


__all__ = ["EXACT", "Agreement", "Experiment", "Findings", "as_json", "examine", "move", "typical"]
