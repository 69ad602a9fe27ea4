"""Rows of protocols as one self-contained page: what was asked, numbers with intervals, who is not surely worse, figures.

The page is still: no script, the same words for keyboard and mouse. As in `html`, it asks the network for nothing, and Jinja2
escapes every name. Figures are drawn twice, for light and for dark paper.
"""

from __future__ import annotations

import base64
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import Misuse
from regard.evaluation.measured import ABSENT, SIDES, MethodColumns, Rows, measured
from regard.evaluation.protocols.protocol import Protocol
from regard.evaluation.ranking import ranking
from regard.evaluation.summaries import Summary, numbers_of, summaries
from regard.explanation.counts import quantity
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.evaluation import charts
from regard.report.page import COLOURS, templates

SMALL = 5.5  # inches
KEYS = {1: "higher is better", -1: "lower is better", 0: ""}


def write_page(
    rows: Rows | Iterable[Sequence[MethodColumns]],
    path: str | os.PathLike[str],
    title: str | None = None,
    *,
    against: str = "random",
    seed: int = 0,
) -> Path:
    """Write the page: a section for each protocol among the rows; paired differences are from the method `against`.

    rows: of all protocols; or, one after the other, the columns of one protocol each, so that no two are in memory at once.
    Raises Misuse where there are no rows, or a package of `regard[viz]` is missing.
    """
    return write_atomically(path, page(rows, title, against=against, seed=seed).encode("utf-8", "replace"))


def page(
    rows: Rows | Iterable[Sequence[MethodColumns]], title: str | None = None, *, against: str = "random", seed: int = 0
) -> str:
    """The page as text; see `write_page`."""
    need("viz")
    groups = enumerate(own for own in _by_protocol(rows) if own)
    shown = {own[0].protocol: _section(own, f"p{i}", against, seed) for i, own in groups}
    if not shown:
        raise Misuse("there are no rows to show")
    kinds = list(dict.fromkeys(protocol.kind for protocol in shown))
    template = templates().get_template("evaluation.html.j2")
    return str(
        template.render(
            title=title or f"Protocols: {', '.join(kinds)}", sections=[*shown.values()], colours=COLOURS, opacity=1
        )
    )


def _by_protocol(rows: Rows | Iterable[Sequence[MethodColumns]]) -> Iterator[Sequence[MethodColumns]]:
    """The columns of each protocol."""
    if not isinstance(rows, Sequence):
        yield from rows
        return
    every = measured(rows)
    for protocol in dict.fromkeys(m.protocol for m in every):
        yield [m for m in every if m.protocol == protocol]


def _section(own: Sequence[MethodColumns], key: str, against: str, seed: int) -> dict[str, Any]:
    """What the template needs of one protocol."""
    protocol, found = own[0].protocol, summaries(own, seed, split=True)
    metrics = list(dict.fromkeys(s.metric for s in found if s.metric))
    errors = Counter(why for m in own for _, why in m.errors)
    every = list(dict.fromkeys(m.title for m in own))
    asked, sides = np.zeros(len(own[0].sides), dtype=np.bool_), np.full(len(own[0].sides), ABSENT)
    for m in own:
        asked |= m.sides != ABSENT
        sides[m.good] = m.sides[m.good]
    of_side = Counter({name: int((sides == number).sum()) for number, name in enumerate(SIDES)})
    split = bool(of_side["right"] and of_side["wrong"])
    return {
        "id": key,
        "name": protocol.name,
        "title": protocol.question,
        "counts": _counts(int(asked.sum()), len(every), of_side, errors.total()),
        "metrics": [{"name": m, "better": KEYS[protocol.direction(m)]} for m in metrics],
        "rows": _table(found, own, every, metrics, seed),
        "split": [_sides(found, method, metrics) for method in every] if split else [],
        "errors": [{"method": _failing(own, why), "error": why, "count": n} for why, n in errors.most_common()],
        "figures": _figures(protocol, own, metrics, split, against, seed),
    }


def _failing(own: Sequence[MethodColumns], why: str) -> str:
    """The methods that ended in an error."""
    named = list(dict.fromkeys(m.title for m in own if any(said == why for _, said in m.errors)))
    every = len({m.title for m in own})
    return "all methods" if len(named) == every > 1 else ", ".join(named)


def _counts(examples: int, methods: int, sides: Counter[str], errors: int) -> list[str]:
    """What the numbers are of, in words."""
    known = [f"{n} {word}" for word, n in (("right", sides["right"]), ("wrong", sides["wrong"])) if n]
    model = [f"the model has {', '.join(known)}" + (f", {sides['unknown']} not known" if sides["unknown"] else "")]
    return [
        quantity(examples, "example"),
        quantity(methods, "method"),
        *(model if known else []),
        f"{quantity(errors, 'row')} with an error" if errors else "no errors",
    ]


def _table(
    found: Sequence[Summary], own: Sequence[MethodColumns], every: Sequence[str], metrics: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """A line a method: a cell a metric, how many examples had numbers, and how many ended in an error."""
    marks = {m: ranking(own, m, seed) for m in metrics}
    at = {(s.title, s.metric): s for s in found if s.split == "all"}
    good = {title: np.any([m.good for m in own if m.title == title], axis=0) for title in every}
    return [
        {
            "method": method,
            "cells": [cell(at.get((method, m)), marks[m].get(method, "")) for m in metrics],
            "examples": int(good[method].sum()),
            "errors": sum(len(m.errors) for m in own if m.title == method),
        }
        for method in every
    ]


def _sides(found: Sequence[Summary], method: str, metrics: Sequence[str]) -> dict[str, Any]:
    """A method's cells where the model is right, and where it is wrong."""
    at = {(s.split, s.metric): s for s in found if s.title == method}
    parts = [{"split": s, "cells": [cell(at.get((s, m))) for m in metrics]} for s in charts.SPLIT]
    return {"method": method, "parts": parts}


def cell(summary: Summary | None, mark: str = "") -> dict[str, str]:
    """A number, its interval, how many examples had none, and where it stands. "–" where there is no number."""
    if summary is None or math.isnan(summary.value.value):
        return {"value": "–", "interval": "", "undefined": "", "mark": ""}
    value, interval = str(summary.value).split(" ", 1)
    undefined = f"{summary.undefined} undefined" if summary.undefined else ""
    return {"value": value, "interval": interval, "undefined": undefined, "mark": mark}


# -- figures -----------------------------------------------------------------------------------------------------------


def _figures(
    protocol: Protocol, own: Sequence[MethodColumns], metrics: Sequence[str], split: bool, against: str, seed: int
) -> list[dict[str, Any]]:
    """Curves, and paired differences of the headline metric; for light and for dark paper."""
    there = charts.drawable(own)
    out = [_curves(protocol, own, c, seed) for c in there if protocol.behind.get(c) not in there]
    titles = {m.title for m in own if m.good.any()}
    asked = [m for m in protocol.headlines if m in metrics] or metrics[:1]
    numbers = {m: numbers_of(own, m).get(against) for m in asked}
    metric = next((m for m, k in numbers.items() if k is not None and not np.isnan(k.values).all()), None)
    if metric is not None and len(titles) > 1:
        out.append(_forest(protocol, own, metric, split, against, seed))
    return out


def _curves(protocol: Protocol, own: Sequence[MethodColumns], curve: str, seed: int) -> dict[str, Any]:
    shown = charts.CurveFigure.of(own, curve, seed=seed)
    ranked = ", ".join(line.title for line in shown.every)
    alt = f"Curves of {curve}, one line a method, from the largest on the whole to the smallest: {ranked}."
    known = "area" if curve in protocol.areas else "mean"
    caption = (
        f"{curve}: means over examples with 95 % bootstrap bands; legends give each line's {known}, largest first."
    )
    return _drawn(lambda dark: shown.draw(dark=dark), alt, caption)


def _forest(
    protocol: Protocol, own: Sequence[MethodColumns], metric: str, split: bool, against: str, seed: int
) -> dict[str, Any]:
    shown = charts.Forest.of(own, metric, against=against, split=split, seed=seed)
    better = KEYS[protocol.direction(metric)]
    alt = f"{metric} of every method less that of {against}, example by example; the numbers are in the tables."
    caption = (
        f"{metric}, paired differences from {against} with 95 % bootstrap intervals; filled where zero is left out"
        + (f"; {better}." if better else ".")
    )
    return _drawn(lambda dark: shown.draw(dark=dark), alt, caption)


def _drawn(draw: Callable[[bool], Any], alt: str, caption: str) -> dict[str, Any]:
    """A figure for both papers; a small one may shrink to a phone's width, others are scrolled there."""
    light, dark = draw(False), draw(True)
    uris = {name: f"data:image/png;base64,{base64.b64encode(charts.png(f)).decode()}" for name, f in
            (("light", light), ("dark", dark))}  # fmt: skip
    return {**uris, "alt": alt, "caption": caption, "small": light.get_size_inches()[0] <= SMALL}


__all__ = ["cell", "page", "write_page"]
