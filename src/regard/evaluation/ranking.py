"""Who is best under a protocol, and who is not surely worse: paired differences from the best.

The best is chosen by the very numbers that it is compared on, so "not surely worse" is generous to it: read it as a list of
candidates, not as a test. Nothing is corrected for the number of methods.
"""

from __future__ import annotations

import numpy as np

from regard.attribution.table import METHODS
from regard.errors import Misuse
from regard.evaluation.measured import Rows, measured
from regard.evaluation.summaries import differences, numbers_of

BEST, NEAR = "best", "near"


def ranking(rows: Rows, metric: str, seed: int = 0) -> dict[str, str]:
    """Method -> "best", "near" (its paired difference from the best is not sure), or "", under one protocol.

    Empty where the metric has no better side, or no method has a number of it. Raises Misuse for rows of several protocols.
    """
    every = measured(rows)
    protocols = list(dict.fromkeys(m.protocol for m in every))
    if len(protocols) > 1:
        names = ", ".join(p.name for p in protocols)
        raise Misuse(f"who is best is asked under one protocol, not under {len(protocols)}: {names}")
    side = protocols[0].direction(metric) if protocols else 0
    numbers = {title: k.values[~np.isnan(k.values)] for title, k in numbers_of(every, metric).items()}
    known = {title: float(values.mean()) for title, values in numbers.items() if len(values)}
    if not side or not known:
        return {}
    best = max(known, key=lambda title: side * known[title])
    found = differences([m for m in every if m.title in known], metric, against=best, seed=seed)
    near = {d.title for d in found if not d.sure and d.examples}
    titles = dict.fromkeys(m.title for m in every)
    return {t: BEST if known.get(t) == known[best] else NEAR if t in near else "" for t in titles}


def floors() -> dict[str, bool]:
    """The methods that every other should do better than, and whether they look at the model's attention at all."""
    return {row.name: "maps" in row.needs for row in METHODS.values() if row.floor}


__all__ = ["BEST", "NEAR", "floors", "ranking"]
