"""A `Diagnosis` as one self-contained page: the answer first. Nothing from the network; all text escaped; no script."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from regard.evaluation.diagnosis import (
    CONTROL,
    Diagnosis,
    MethodStanding,
    duration,
    percent,
    percents,
    place,
    small,
    verdict,
    within,
)
from regard.evaluation.statistics import Interval
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.page import COLOURS, templates

TITLE = "Which explainer to trust"
WIDE = 200.0
"""The width of a strip, in its own units."""
DEEPEST = 0.75
"""The opacity of a cell whose number is 1: what is written in it stays readable."""
REASONS = 10
"""The most errors that are listed."""


def write_page(of: Diagnosis, path: str | os.PathLike[str]) -> Path:
    """Write the page. Raises Misuse where a package of `regard[viz]` is missing."""
    return write_atomically(path, page(of).encode("utf-8", "replace"))


def page(of: Diagnosis) -> str:
    """The page as text; see `write_page`."""
    need("viz")
    failures = sorted(of.failures.items(), key=lambda one: -one[1])
    return str(
        templates()
        .get_template("doctor.html.j2")
        .render(
            title=f"{TITLE} on {of.model}",
            model=of.model,
            data=of.data,
            answer=of.sentence,
            good=of.recommended is not None,
            rows=[_row(s, of) for s in of.standings],
            doubts=_doubts(of),
            checks=[_checks(s) for s in of.standings],
            agreement=_agreement(of),
            proof=of.proof,
            purchase=of.purchase,
            failures=failures[:REASONS],
            more_failures=max(0, len(failures) - REASONS),
            control=_control(of),
            colours=COLOURS,
            opacity=1,
        )
    )


def _row(s: MethodStanding, of: Diagnosis) -> dict[str, Any]:
    """A method with its strip from 0 to 100 %."""
    said = verdict(s, of)
    tone = "use" if s.title == of.recommended else "floor" if s.title == CONTROL else "" if s.better else "weak"
    return {
        "title": s.title,
        "verdict": said,
        "tone": tone,
        "strip": strip(s.rank),
        "mean": percent(s.rank.value),
        "interval": "" if math.isnan(s.rank.value) else f"{100 * s.rank.low:.0f} to {100 * s.rank.high:.0f} %",
        "place": place(s.places),
        "p": small(s.p_value),
        "examples": s.examples,
        "errors": s.errors,
    }


def strip(value: Interval) -> dict[str, str]:
    """Where a dot and its interval lie on a line from 0 to 1; nothing where there is no number."""
    if math.isnan(value.value):
        return {}
    low, middle, high = (WIDE * v for v in (value.low, value.value, value.high))
    return {
        "low": f"{low:.1f}",
        "high": f"{high:.1f}",
        "middle": f"{middle:.1f}",
        "said": f"{percents(value)}, chance 50 %",
    }


def _doubts(of: Diagnosis) -> list[dict[str, Any]]:
    """What not to believe, a method's sentences together."""
    found: dict[str, list[str]] = {}
    for doubt in of.doubts:
        found.setdefault(doubt.title, []).append(doubt.sentence)
    return [{"title": title, "sentences": sentences} for title, sentences in found.items()]


def _checks(s: MethodStanding) -> dict[str, Any]:
    """A method's other numbers."""
    cells = [s.head, s.final, s.noise]
    added = "–" if s.relative_error is None else percents(s.relative_error)
    return {
        "title": s.title,
        "cells": [_within(c) for c in cells],
        "added": added,
        "checked": s.checked,
        "seconds": "–" if math.isnan(s.seconds) else duration(s.seconds),
    }


def _within(value: Interval) -> str:
    return "–" if math.isnan(value.value) else within(value)


def _agreement(of: Diagnosis) -> dict[str, Any]:
    """Every two methods but the control."""
    titles = [s.title for s in of.standings if s.title != CONTROL]
    rows = [{"title": a, "cells": [_cell(of, a, b) for b in titles]} for a in titles]
    return {"titles": titles, "rows": rows}


def _cell(of: Diagnosis, a: str, b: str) -> dict[str, str]:
    value = of.agreement.get((a, b))
    if value is None or math.isnan(value.value):
        return {"text": "", "alpha": "0", "hue": "for", "title": ""}
    hue = "against" if value.value < 0 else "for"
    alpha = f"{DEEPEST * min(1.0, abs(value.value)):.3f}"
    return {"text": within(value).split(" ")[0], "alpha": alpha, "hue": hue, "title": f"{a} with {b}: {within(value)}"}


def _control(of: Diagnosis) -> str:
    """Whether random maps come out as chance has it."""
    control = of.control
    if control is None or math.isnan(control.rank.value):
        return ""
    found = f"Random maps, the control, beat {percents(control.rank)} of random choices"
    if control.better or control.below:
        return f"{found}, where 50 % are expected: read all numbers here with caution."
    return f"{found}, as they should: about 50 %."


__all__ = ["page", "strip", "write_page"]
