"""`regard theory`: what it takes, how it trains and examines the analytic classifier, and what it writes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.errors import Failure, InputError, Misuse

if TYPE_CHECKING:
    from regard.theory.classifier import AttentionClassifier
    from regard.theory.data import Corpus
    from regard.theory.laboratory import Experiment

Told = Callable[[str, int, int], None]


def check_theory(data: Path | None, classifier: Path | None, text: str | None, seed: int) -> None:
    """Refuse what cannot be, before time is spent."""
    for name, folder in (("--data", data), ("--classifier", classifier)):
        if folder is not None and not folder.is_dir():
            what = "is a file" if folder.exists() else "is not there"
            raise InputError(f"{folder} {what}; {name} takes a folder")
    if text is not None and not text.strip():
        raise Misuse("--text is empty; give a sentence")
    if not 0 <= seed < 2**32:
        raise Misuse(f"--seed is a whole number from 0 to {2**32 - 1}, not {seed}")


def laboratory(
    data: Path | None, classifier: Path | None, text: str | None, seed: int, told: Told | None
) -> Experiment:
    """Train the classifier, or read it; examine it; put the seven explainers to one sentence."""
    from regard.theory.data import language, read_treebank
    from regard.theory.laboratory import examine, move
    from regard.theory.store import read
    from regard.theory.training import Recipe, accuracy

    model, card = (None, {"seed": seed}) if classifier is None else read(classifier)
    corpus = language(card.get("seed", seed)) if data is None else read_treebank(data)
    if text is not None:
        _check_length(text, Recipe().length if model is None else model.length)
    if model is None:
        model, card = _trained(corpus, seed, told)
    elif card.get("corpus") != corpus.name:
        raise Misuse(
            f"the classifier in {classifier} was trained on {card.get('corpus')}, not on {corpus.name}; give the same --data"
        )
    right = {"dev": accuracy(model, corpus.dev), "test": accuracy(model, corpus.test)}
    found = examine(model, corpus, seed=seed, told=told)
    made = _of_one(model, corpus, text, seed)
    made.found, made.accuracy, made.card = found, right, card
    move(model, made.text, found)
    return made


def _check_length(text: str, length: int) -> None:
    """Refuse a text that the classifier would cut."""
    from regard.theory.classifier import words_of

    count = len(words_of(text))
    if count >= length:
        raise InputError(f"--text has {count} words, and the classifier takes {length - 1}; shorten it")


def _trained(corpus: Corpus, seed: int, told: Told | None) -> tuple[AttentionClassifier, dict[str, Any]]:
    """A classifier of a corpus, and how it was trained."""
    from regard.theory.training import recipe_of, train

    recipe, start = recipe_of(corpus), time.perf_counter()
    model = train(corpus, recipe, seed, told)
    seconds = round(time.perf_counter() - start)
    return model, {"corpus": corpus.name, "seed": seed, "seconds": seconds, "recipe": asdict(recipe)}


def _of_one(model: AttentionClassifier, corpus: Corpus, text: str | None, seed: int) -> Experiment:
    """One sentence: the seven explainers, and Regard's own methods beside their closed forms."""
    from regard.theory.classifier import words_of
    from regard.theory.data import Labelled
    from regard.theory.explainers import seven
    from regard.theory.laboratory import Experiment, Findings, cut, typical

    if text is None:
        shown = cut(model, typical(corpus))
    else:
        words = tuple(words_of(text))
        shown = Labelled(words, 0.5, True, (0.0,) * len(words))
    inputs = model.read(shown.words)
    f = float(model(**inputs).detach())
    scores = seven(model, inputs["input_ids"][0], shown.words, samples=5000, seed=seed)
    rows = {name: s.numpy() for name, s in scores.items()}
    watched = _watched(model, inputs, scores)
    return Experiment(corpus, model, {}, {}, Findings.empty(), shown, text is None, f, rows, watched)


def _watched(model: AttentionClassifier, inputs: dict[str, Any], scores: dict[str, Any]) -> dict[str, float]:
    """The methods of `regard.explain` that have a closed form here: their largest difference from it, relative."""
    import regard

    explain: Any = regard.explain
    ways: Sequence[tuple[str, str, dict[str, Any]]] = (
        ("α-avg", "raw_attention", {}),
        ("α-max", "alpha_max", {}),
        ("G-avg", "gradient", {"reduce": "mean"}),
        ("G-l1", "gradient", {"reduce": "l1"}),
        ("G-l2", "gradient", {"reduce": "l2"}),
        ("G×I", "input_x_gradient", {"site": regard.Site.embeddings()}),
    )
    found = {}
    for name, method, how in ways:
        of = explain(model, inputs, method=method, **how).scores["input_ids"][0, 1:].double()
        found[name] = float((of - scores[name]).abs().max() / scores[name].abs().max().clamp(min=1e-30))
    return found


def render_theory(found: Sequence[Any], work: Path) -> list[str]:
    """The page, its two figures, its numbers, and the classifier."""
    from regard.report.evaluation.charts import png
    from regard.report.theory.figures import agreement, position
    from regard.report.theory.html import sign_table, write_page
    from regard.theory.laboratory import as_json
    from regard.theory.store import write

    (of,) = found
    write_page(of, work / "report.html")
    (work / "agreement.png").write_bytes(png(agreement(of.found)))
    names = ["report.html", "agreement.png"]
    if of.found.places:
        (work / "position.png").write_bytes(png(position(of.found)))
        names.append("position.png")
    numbers = {"accuracy": of.accuracy, **of.card, **as_json(of.found), "signs": sign_table(of.found)}
    (work / "numbers.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False), encoding="utf-8")
    return [*names, "numbers.json", *write(of.model, work, of.card)]


def in_short_of_theory(of: Experiment) -> str:
    """What was found, in a few lines."""
    from regard.theory.laboratory import EXACT

    said = {
        "gradient": ("the gradient", "autograd"),
        "enumerated": ("LIME's exact limit", "least squares over all perturbations"),
        "integral": ("the same as an integral", "the enumeration"),
    }
    lines = [
        f"trained on {of.corpus.name}: {100 * of.accuracy['test']:.1f} % of {len(of.corpus.test)} test sentences right"
    ]
    for name in EXACT:
        formula, reference = said[name]
        lines.append(f"{formula} differs from {reference} by at most {of.found.agreements[name].worst:.1e}")
    for name in ("paper, trained", "paper, random"):
        a = of.found.agreements[name]
        weights = {"paper, trained": "trained", "paper, random": "random"}[name]
        lines.append(
            f"the 3/2 formula, {weights} weights: correlation with the limit {a.median_correlation:.3f}, "
            f"{a.median_scale:.2f} times as large"
        )
    return "\n".join(lines)


def check_agreed(of: Experiment) -> None:
    """Raise Failure where a closed form is not what it claims to be."""
    if of.found.wrong:
        raise Failure(
            f"closed forms that do not agree with their reference: {', '.join(of.found.wrong)}; see the report"
        )
