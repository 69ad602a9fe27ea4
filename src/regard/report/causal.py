"""What there is to draw of a causal test: where the map's own drop lies among those of random choices."""

from __future__ import annotations

from typing import Any

from regard.explanation.causal_test import CausalTest, Outcome
from regard.explanation.explanation import Explanation
from regard.report.colour import number
from regard.report.receipt import about

MARGIN = 4.0
"""Per cent of the strip left free at either end."""


def causal_of(exp: Explanation, sample: int = 0) -> list[dict[str, Any]]:
    """The causal tests of one sample, as a page shows them."""
    return [_shown(t) for t in exp.receipt.causal if t.sample == sample]


def _shown(test: CausalTest) -> dict[str, Any]:
    title = {True: "Better than chance", False: "Not better than chance", None: "Better than chance?"}
    return {
        "title": title[test.better_than_chance],
        "passed": bool(test.better_than_chance),
        "sentence": test.sentence,
        "strip": None if test.highest is None else strip(test.highest) | {"every": test.every},
        "about": about(test) if test.tested else "",
    }


def strip(outcome: Outcome) -> dict[str, Any]:
    """Places in per cent from left to right: of each random drop, of the map's, and of no drop at all."""
    every = [*outcome.random, outcome.change, 0.0]
    low, high = min(every), max(every)
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return MARGIN + (100 - 2 * MARGIN) * (value - low) / span

    own = at(outcome.change)
    ends = [(at(0.0), "0")] if abs(own - at(0.0)) > 12 else []
    return {
        "random": [at(v) for v in outcome.random],
        "own": own,
        "ticks": [*ends, (own, number(outcome.change))],
    }


__all__ = ["causal_of", "strip"]
