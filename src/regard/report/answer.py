"""What stands on top of a page: what the model predicts, whether the map is better than chance, what it points at in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from regard.explanation.boxes import Found
from regard.explanation.causal_test import CausalTest
from regard.explanation.counts import quantity
from regard.explanation.explanation import Explanation
from regard.explanation.names import stream_name
from regard.explanation.prediction import Prediction
from regard.report.colour import Array, number
from regard.report.headline import headline
from regard.report.receipt import SAME, at, chosen_for, differs
from regard.report.view import PictureView, SampleView, SoundView, TextPiece, TextView, target_of

MOST = 3
"""Words, regions or moments that are named."""
HALF = 0.5
"""What speaks for the target is named until so much of it has been."""
ASK = {
    "page": "Not tested. exp.test() tells whether this map is better than chance.",
    "terminal": "Not tested; --test tells whether this map is better than chance.",
    "testing": "Testing whether this map is better than chance …",
    "framed": "Not tested: there is no test of such a map.",
}


class Verdict(NamedTuple):
    """Whether a map is better than chance here, in one sentence. passed: None where nobody knows."""

    sentence: str
    passed: bool | None

    @property
    def mark(self) -> str:
        """A sign for it."""
        return {True: "✓", False: "✗", None: "?"}[self.passed]


def verdict_of(exp: Explanation, sample: int = 0, where: str = "page") -> Verdict:
    """The causal test of a map, or how to ask for it. where: a key of `ASK`."""
    tests = [t for t in exp.receipt.causal if t.sample == sample]
    if not tests:
        why = exp.untested
        return Verdict(f"Not tested: {why.rstrip('.')}." if why else ASK[where], None)
    test: CausalTest = tests[0]
    return Verdict(test.verdict, test.better_than_chance)


def in_short(views: Sequence[SampleView]) -> str:
    """What the model predicts, with its probability: "Trouser 51 %"; of what is no class, the target and its value; of several
    objects how many there are of which: "2 × Bag, Shoe"."""
    exp, sample = views[0].exp, views[0].sample
    objects = _objects(views)
    if len(objects) > 1:
        counts = Counter(f.label for f in objects.values())
        return ", ".join(label if n == 1 else f"{n} × {label}" for label, n in counts.items())
    if exp.found is None and exp.compared is None and (likely := exp.prediction) is not None:
        first = likely[min(sample, len(likely) - 1)][0]
        if not likely.several:
            return f"{first.label} {first.percent}".strip()
    if exp.found is not None or exp.compared is not None:
        return headline(exp, sample)
    return f"{target_of(exp, sample)}: {number(at(exp.receipt.target_value, sample))}"


def _objects(views: Sequence[SampleView]) -> dict[str, Found]:
    """The objects that the maps are of, by the words for them as targets."""
    return {v.target: v.exp.found for v in views if v.exp.found is not None}


def answers(views: Sequence[SampleView]) -> dict[str, Any] | None:
    """The likeliest classes with their probabilities, and which of the views explains each; None where there are none."""
    view = views[0]
    exp = view.exp
    if len(objects := _objects(views)) > 1:
        bars = [
            {"name": f.label, "share": 100 * f.probability, "said": f.percent, "logit": "", "target": target}
            for target, f in objects.items()
        ]
        how = "Each object with its probability."
        return {"bars": bars, "likely": True, "how": how, "clicks": True, "all": True, "what": "an object"}
    if exp.found is not None or exp.compared is not None or exp.prediction is None:
        return None
    likely: Prediction = exp.prediction
    shown = likely[min(view.sample, len(likely) - 1)]
    targets = {c: v.target for v in reversed(views) if (c := _class_of(v)) is not None}
    of = {"softmax": f"softmax over {likely.total} classes", "sigmoid": "the sigmoid of each"}.get(
        likely.activation, ""
    )
    how = f"Probabilities are {of}." if of and likely.probabilities is not None else "Scores of the model."
    return {
        "bars": [
            {
                "name": c.label,
                "share": 0.0 if c.probability is None else 100 * c.probability,
                "said": c.percent or number(c.score),
                "logit": number(c.score),
                "target": targets.get(c.number, ""),
            }
            for c in shown
        ],
        "likely": likely.probabilities is not None,
        "how": how,
        "clicks": len(set(targets.values())) > 1,
        "what": "a class",
        "all": {v.target for v in views} <= {targets.get(c.number) for c in shown},
    }


def _class_of(view: SampleView) -> int | None:
    """The class that a view's map is of, where its target is plainly that class's."""
    explained = view.exp.receipt.explained
    if explained is None or " rather than " in view.target or view.target.startswith("contrast"):
        return None
    flat = explained.reshape(-1)
    return int(flat[min(view.sample, len(flat) - 1)])


# -- what the map points at -----------------------------------------------------------------------------------------------


def because(view: SampleView, verdict: Verdict) -> str:
    """The words, regions or places that speak most for the target, in a sentence; hedged where the map has not stood a test."""
    parts = [p for panel in view.panels if (p := _named(view, panel))]
    if not parts:
        return "In this map nothing speaks for it." if view.panels else ""
    found = " and ".join(parts)
    lies = "what lies in " if parts[0].startswith(("the ", "several ")) else ""
    return f"Mostly because of {lies}{found}." if verdict.passed else f"The map points at {found}."


def _named(view: SampleView, panel: Any) -> str:
    if isinstance(panel, TextView):
        return _words(panel.best[0])
    if isinstance(panel, SoundView):
        return _listed([p.text for p in _strongest(panel.moments)])
    if isinstance(panel, PictureView) and panel.regions:
        pieces = [TextPiece(str(i + 1), float(v)) for i, v in enumerate(panel.cells[0].tolist())]
        names = [p.text for p in _strongest(pieces)]
        return f"{'region' if len(names) == 1 else 'regions'} {_listed(names)}" if names else ""
    if isinstance(panel, PictureView):
        cells = panel.cells
        place = place_of(cells if cells.ndim == 2 else cells.reshape(-1, cells.shape[-1]))
        return f"{place} of the {stream_name(view.exp, panel.stream)}" if place else ""
    return ""


def _words(pieces: Sequence[TextPiece]) -> str:
    names = [" ".join(p.text.split()) for p in _strongest([p for p in pieces if p.text.strip()])]
    return _listed([f"“{n}”" for n in dict.fromkeys(names)])


def _strongest(pieces: Sequence[TextPiece]) -> list[TextPiece]:
    """Those that speak most for the target, until half of all that does has been named."""
    speaking = sorted((p for p in pieces if p.score is not None and p.score > 0), key=lambda p: -(p.score or 0.0))
    whole, found, named = sum(p.score or 0.0 for p in speaking), 0.0, []
    for piece in speaking[:MOST]:
        named.append(piece)
        found += piece.score or 0.0
        if found >= HALF * whole:
            break
    return named


def place_of(cells: Array) -> str:
    """Where what speaks for the target lies: "the lower left", "the middle"; "many places" where it is spread out."""
    up = np.clip(np.nan_to_num(np.asarray(cells, dtype=np.float64)), 0, None)
    if up.ndim != 2 or not up.any():
        return ""
    count = max(1, math.ceil(up.size / 10))
    top = np.sort(up.ravel())[::-1][:count]
    weight = np.where(up >= top[-1], up, 0.0)
    weight /= weight.sum()
    rows, columns = (np.arange(n) + 0.5 for n in up.shape)
    y, x = float(weight.sum(1) @ rows), float(weight.sum(0) @ columns)
    spread = math.hypot(
        math.sqrt(float(weight.sum(1) @ (rows - y) ** 2)) / up.shape[0],
        math.sqrt(float(weight.sum(0) @ (columns - x) ** 2)) / up.shape[1],
    )
    if spread > 0.28:
        return "several parts"
    across, down = _third(x / up.shape[1]), _third(y / up.shape[0])
    if across == down == 1:
        return "the middle"
    vertical, horizontal = ("upper", "", "lower")[down], ("left", "", "right")[across]
    if vertical and horizontal:
        return f"the {vertical} {horizontal}"
    return f"the {horizontal} side" if horizontal else {"upper": "the upper part", "lower": "the lower part"}[vertical]


def _third(share: float) -> int:
    return min(2, int(3 * share))


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def folded(exp: Explanation, target: str) -> str:
    """The receipt in one line: whether the output is the model's own, what was explained, how many passes it took."""
    r = exp.receipt
    own = "" if r.output_difference is None else SAME if r.same_output else f"output {differs(r.output_difference)}"
    task = chosen_for(r)
    method = f"{exp.method}, the default for {task}" if task else exp.method
    notes = quantity(len(r.notes), "note") if r.notes else ""
    return " · ".join(filter(None, (own, f"explained: {target}", method, quantity(r.passes, "pass"), notes)))


__all__ = ["Verdict", "answers", "because", "folded", "in_short", "place_of", "verdict_of"]
