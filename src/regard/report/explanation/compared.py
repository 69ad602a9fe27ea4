"""A picture beside the classes that it is compared with: how well each fits, and the map of each that was explained.

All maps of one method share one scale, so that their colours can be compared, and so do all their words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from regard.explanation.compared import ComparedClasses
from regard.explanation.percents import percent
from regard.report.colour import ColourScale, number, scale_of
from regard.report.page import THUMBNAIL, pieces, scale, thumbnail, uri_of
from regard.report.view import PictureView, SampleView, TextView, fits_texts

MOST = 20  # bars: of more classes, those that fit best
HOW = {
    "softmax": "the probability of each among these {count} (softmax over their logits)",
    "sigmoid": "the probability of each by itself (sigmoid of its logit), so that they need not add up to 100 %",
}


def compared_of(views: Sequence[SampleView]) -> dict[str, Any] | None:
    """What the page shows of a picture's classes: bars, the picture, and for each method the maps side by side."""
    fits = next((v.exp.compared for v in views if v.exp.compared is not None), None)
    if fits is None:
        return None
    pictures = [p for v in views for p in v.panels if isinstance(p, PictureView) and p.picture is not None]
    methods = dict.fromkeys(v.method for v in views)
    return {
        **bars_of(fits, views),
        "original": uri_of(pictures[0].picture.pixels.cpu().numpy(), THUMBNAIL)
        if pictures and pictures[0].picture
        else "",
        "name": pictures[0].picture.name if pictures and pictures[0].picture else "",
        "methods": [_maps(m, [v for v in views if v.method == m]) for m in methods],
    }


def bars_of(fits: ComparedClasses, views: Sequence[SampleView] = ()) -> dict[str, Any]:
    """A bar for each class, the one that fits best first; how its length is meant, and what is left out."""
    explained = {c for v in views if (c := class_of_view(v)) is not None}
    shown = fits.order[:MOST]
    how = (
        HOW[fits.activation].format(count=len(fits.names)) if fits.probabilities else "the logit of the one text given"
    )
    left = fits.order[MOST:]
    more = f"{len(left)} more fit less well: at most {_fit(fits, left[0])} each" if left else ""
    made = f"; each class is the mean of {fits.templates} texts" if fits.templates > 1 else ""
    return {
        "how": f"How well each fits: {how}{made}.",
        "more": more,
        "bars": [
            {
                "name": fits.names[c],
                "share": 0.0 if fits.probabilities is None else 100 * fits.probabilities[c],
                "said": _fit(fits, c),
                "logit": number(fits.scores[c]),
                "explained": c in explained and len(explained) < len(fits.names),
            }
            for c in shown
        ],
        "likely": fits.probabilities is not None,
    }


def class_of_view(view: SampleView) -> int | None:
    """The number of the class that a view explains; None where its target is no class."""
    explained = view.exp.receipt.explained
    return None if explained is None or fits_texts(view.exp) else int(explained.reshape(-1)[0])


def _fit(fits: ComparedClasses, c: int) -> str:
    return number(fits.scores[c]) if fits.probabilities is None else percent(fits.probabilities[c])


def _maps(method: str, views: Sequence[SampleView]) -> dict[str, Any]:
    pictures = [p for v in views for p in v.panels if isinstance(p, PictureView)]
    texts = [t for v in views for t in v.panels if isinstance(t, TextView)]
    over = _shared([p.cells.ravel() for p in pictures], [p.scale for p in pictures])
    beside = _shared(
        [np.array([p.score for p in t.best[0] if p.score is not None]) for t in texts], [t.best[1] for t in texts]
    )
    return {
        "method": method,
        "maps": [_map(v, over, beside) for v in views],
        "scale": scale(over),
        "text_scale": scale(beside) if texts else None,
    }


def _shared(scores: Sequence[Any], scales: Sequence[ColourScale]) -> ColourScale:
    """One scale for several maps."""
    return scale_of(np.concatenate([*scores, np.zeros(0)]), any(s.signed for s in scales))


def _map(view: SampleView, over: ColourScale, beside: ColourScale) -> dict[str, Any]:
    fits, c = view.exp.compared, class_of_view(view)
    named = fits is not None and c is not None and not view.exp.target.count(" rather than ")
    pictures = [replace(p, scale=over) for p in view.panels if isinstance(p, PictureView)]
    texts = [t for t in view.panels if isinstance(t, TextView)]
    spelt = bool(texts) and fits is not None and c is not None and named and texts[0].text.text == fits.names[c]
    return {
        "target": view.target,
        "title": "" if spelt else fits.names[c] if fits is not None and c is not None and named else view.target,
        "said": _fit(fits, c) if fits is not None and c is not None and named and fits.probabilities else "",
        "value": number(float(view.exp.receipt.target_value.reshape(-1)[0])),
        "uris": [thumbnail(p) for p in pictures],
        "texts": [pieces([(p.text, p.score, p.special, p.note, p.tokens) for p in t.best[0]], beside) for t in texts],
    }


__all__ = ["bars_of", "compared_of"]
