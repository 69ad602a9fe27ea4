"""The laboratory as one self-contained page: formulas (MathML), their agreement, a sentence under seven explainers."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import numpy as np

from regard.evaluation.statistics import Interval, mean_with_interval, ratios_of_sums
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.colour import number, scale_of
from regard.report.evaluation.charts import png
from regard.report.page import COLOURS, pieces, templates
from regard.report.theory.figures import agreement, position
from regard.theory.explainers import EXPLAINERS
from regard.theory.laboratory import EXACT, SAMPLES, Experiment, Findings, Numbers

METHODS = {e.name: e.method for e in EXPLAINERS}


def write_page(of: Experiment, path: str | os.PathLike[str]) -> Path:
    """Write the page. Raises Misuse where a package of `regard[viz]` or `regard[eval]` is missing."""
    return write_atomically(path, page(of).encode("utf-8", "replace"))


def page(of: Experiment) -> str:
    """The page as text; see `write_page`."""
    need("viz")
    found = of.found
    title = "Attention against post-hoc explanations"
    return str(
        templates()
        .get_template("theory.html.j2")
        .render(
            title=title,
            corpus=of.corpus,
            sizes=of.model.sizes
            | {"words": len(of.model.words), "parameters": sum(p.numel() for p in of.model.parameters())},
            accuracy={name: f"{100 * share:.1f} %" for name, share in of.accuracy.items()},
            counts={"train": len(of.corpus.train), "dev": len(of.corpus.dev), "test": len(of.corpus.test)},
            card=of.card,
            wrong=found.wrong,
            checks=_checks(found),
            paper=_paper(found),
            sampled={"most": SAMPLES[-1], "z": f"{float((found.z**2).mean()):.2f}"},
            figures={"agreement": _uris(agreement, found)}
            | ({"position": _uris(position, found)} if found.places else {}),
            sentence=_sentence(of),
            signs=sign_table(found),
            place=_place(found),
            watched=[(name, number(value)) for name, value in of.watched.items()],
            colours=COLOURS,
            opacity=1,
        )
    )


def _uris(draw: Any, found: Findings) -> dict[str, str]:
    drawn = {name: png(draw(found, dark)) for name, dark in (("light", False), ("dark", True))}
    return {name: f"data:image/png;base64,{base64.b64encode(data).decode()}" for name, data in drawn.items()}


def _checks(found: Findings) -> dict[str, dict[str, Any]]:
    """The closed forms that are exact: the largest difference, what is allowed, how many numbers were compared."""
    return {
        name: {
            "worst": f"{found.agreements[name].worst:.1e}",
            "most": f"{most:.0e}",
            "ok": name not in found.wrong,
            "texts": found.agreements[name].texts,
            "numbers": f"{sum(len(a) for a in found.agreements[name].formula):,}".replace(",", "\u202f"),
        }
        for name, most in EXACT.items()
    }


def _paper(found: Findings) -> list[dict[str, str]]:
    """Formulas that are nearly right: correlation and scale against the exact limit, medians and quartiles over texts."""
    rows = {
        "paper, trained": "the 3/2 formula, trained classifier",
        "paper, random": "the 3/2 formula, random weights",
        "sampled": f"sampled LIME, infinite bandwidth, {SAMPLES[-1]} samples",
        "bandwidth 0.25": f"sampled LIME as it is used, bandwidth 0.25, {SAMPLES[-1]} samples",
    }
    return [
        {
            "name": said,
            "correlation": _quartiles(found.agreements[key].correlations),
            "scale": _quartiles(found.agreements[key].scales),
        }
        for key, said in rows.items()
    ]


def _quartiles(values: list[float]) -> str:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)) if values else (np.nan,) * 3
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _sentence(of: Experiment) -> dict[str, Any]:
    """One row an explainer: the words, coloured."""
    rows = []
    for explainer in EXPLAINERS:
        scores = of.scores[explainer.name]
        runs = [(word, float(s), False, "", ()) for word, s in zip(of.text.words, scores, strict=True)]
        rows.append(
            {
                "name": explainer.name,
                "method": explainer.method,
                "pieces": pieces(runs, scale_of(scores, explainer.signed)),
                "most": number(float(np.abs(scores).max())),
            }
        )
    own = np.array(of.text.signs)
    truth = pieces([(w, float(s), False, "", ()) for w, s in zip(of.text.words, own, strict=True)], scale_of(own, True))
    unknown = sorted({w for w in of.text.words if w not in of.model.number})
    said = "positive" if of.f > 0 else "negative"
    return {"rows": rows, "truth": truth if of.known else None, "f": number(of.f), "said": said, "unknown": unknown}


def sign_table(found: Findings) -> list[dict[str, str]]:
    """`sign_rows` of the seven explainers on all examined texts."""
    return sign_rows(
        {e.name: [(np.array(text.signs), scores[e.name]) for text, scores in found.scores] for e in EXPLAINERS}
    )


def sign_rows(of: dict[str, list[tuple[Numbers, Numbers]]]) -> list[dict[str, str]]:
    """Of each explainer: how often its sign is a word's own, and how well its size finds the words that have a sign.

    of: by explainer, the own signs and the scores of the words of each text.
    """
    rows = []
    for name, texts in of.items():
        finds = [a for signs, scores in texts if (a := _auc(np.abs(scores), signs != 0)) is not None]
        rows.append(
            {
                "name": name,
                "positive": _share(_agreeing(texts, 1)),
                "negative": _share(_agreeing(texts, -1)),
                "both": _share(_agreeing(texts, 0)),
                "finds": _interval(mean_with_interval(finds)),
            }
        )
    return rows


def _agreeing(of: list[tuple[Numbers, Numbers]], side: int) -> Interval:
    """The share of words whose score has the word's own sign; words are drawn again by their texts."""
    chosen = [((signs != 0) if not side else signs * side > 0, signs * scores > 0) for signs, scores in of]
    counts = [(float((right & there).sum()), float(there.sum())) for there, right in chosen if there.any()]
    return ratios_of_sums([[a] for a, _ in counts], [[b] for _, b in counts])


def _auc(scores: Numbers, there: Any) -> float | None:
    """How often a word that is there scores higher than one that is not; ties count half. None where there is no pair."""
    high, low = scores[there], scores[~there]
    if not len(high) or not len(low):
        return None
    more = (high[:, None] > low).mean() + 0.5 * (high[:, None] == low).mean()
    return float(more)


def _share(of: Interval) -> str:
    return f"{100 * of.value:.0f} % [{100 * of.low:.0f}, {100 * of.high:.0f}]"


def _interval(of: Interval) -> str:
    return f"{of.value:.2f} [{of.low:.2f}, {of.high:.2f}]"


def _place(found: Findings) -> dict[str, Any] | None:
    """What moving a word changes, in numbers; None where there is nothing to move."""
    if not found.places:
        return None
    ends = {name: (number(float(v.min())), number(float(v.max()))) for name, v in found.places.items()}
    turned = bool(found.places["LIME"].min() * found.places["LIME"].max() < 0)
    return {"word": found.moved[0], "ends": ends, "turned": turned, "through": " ".join(found.moved[1])}


__all__ = ["page", "sign_rows", "sign_table", "write_page"]
