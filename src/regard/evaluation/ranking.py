"""Who is best under a protocol, and who is not surely worse: paired differences from the best.

The best is chosen by the very numbers that it is compared on, so "not surely worse" is generous to it: read it as a list of
candidates, not as a test. Nothing is corrected for the number of methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from regard.attribution.table import METHODS
from regard.errors import Misuse
from regard.evaluation.protocols.protocol import Row
from regard.evaluation.rows import grouped
from regard.evaluation.summaries import differences

BEST, NEAR = "best", "near"


def ranking(rows: Sequence[Row], metric: str, seed: int = 0) -> dict[str, str]:
    """Method -> "best", "near" (its paired difference from the best is not sure), or "", under one protocol.

    Empty where the metric has no better side, or no method has a number of it. Raises Misuse for rows of several protocols.
    """
    protocols = list(dict.fromkeys(r.protocol for r in rows))
    if len(protocols) > 1:
        names = ", ".join(p.name for p in protocols)
        raise Misuse(f"who is best is asked under one protocol, not under {len(protocols)}: {names}")
    side = protocols[0].direction(metric) if protocols else 0
    means = {title: _mean(own, metric) for title, own in grouped(rows, lambda r: r.title).items()}
    known = {title: mean for title, mean in means.items() if not math.isnan(mean)}
    if not side or not known:
        return {}
    best = max(known, key=lambda title: side * known[title])
    found = differences([r for r in rows if r.title in known], metric, against=best, seed=seed)
    near = {d.title for d in found if not d.sure and d.examples}
    return {t: BEST if known.get(t) == known[best] else NEAR if t in near else "" for t in means}


def floors() -> dict[str, bool]:
    """The methods that every other should do better than, and whether they look at the model's attention at all."""
    return {row.name: "maps" in row.needs for row in METHODS.values() if row.floor}


def _mean(rows: Sequence[Row], metric: str) -> float:
    values = [r.value for r in rows if r.x is None and r.metric == metric and not math.isnan(r.value)]
    return sum(values) / len(values) if values else math.nan


__all__ = ["BEST", "NEAR", "floors", "ranking"]
