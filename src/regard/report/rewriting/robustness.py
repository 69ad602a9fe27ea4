"""How little rewrites a model's answers, as one self-contained page, as a figure and as a table for spreadsheets."""

from __future__ import annotations

import base64
import csv
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regard.editing.robustness import SIZES, ClassPair, Robustness
from regard.editing.suspicion import MEANINGS
from regard.explanation.counts import quantity
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.colour import FOR, LIGHT, text_colour
from regard.report.evaluation import charts
from regard.report.page import COLOURS, templates
from regard.report.rewriting.html import share
from regard.report.view import csv_cell

MANY = 12
"""Classes up to which pairs are a square; where there are more, they are a list of the easiest."""
LISTED = 40


def write_page(found: Robustness, path: str | os.PathLike[str]) -> Path:
    """Write the page. Raises Misuse where a package of `regard[viz]` is missing."""
    return write_atomically(path, page(found).encode("utf-8", "replace"))


def page(found: Robustness) -> str:
    """The page as text; see `write_page`."""
    need("viz")
    most = round(255 * found.budget, 2)
    some = found.share(found.budget, any_class=True)
    count = len(found.names)
    return str(
        templates()
        .get_template("robustness.html.j2")
        .render(
            title=f"How little rewrites {quantity(count, 'picture')}",
            most=f"{most:g}",
            some=share(some),
            every=share(found.share(found.budget)),
            pairs=int(found.asked.sum()),
            shares=[
                {
                    "size": f"{s:g}/255",
                    "pairs": share(found.share(s / 255)),
                    "pictures": share(found.share(s / 255, True)),
                }
                for s in sizes(found)
            ],
            figure=_figure_uris(found),
            square=_square(found),
            listed=_listed(found),
            files=_files(found),
            rounded={k: share(v) for k, v in found.rounded.items()},
            told=_told(found),
            examples=found.examples,
            notes=found.notes,
            colours=COLOURS,
            opacity=1,
        )
    )


def sizes(found: Robustness) -> list[float]:
    """The budgets, of 255, that shares are told for."""
    most = round(255 * found.budget, 2)
    return sorted({float(s) for s in SIZES if s <= most} | {most})


def plot(found: Robustness, path: str | os.PathLike[str] | None = None, dark: bool = False) -> Any:
    """The share that each budget rewrites; return the matplotlib Figure, write it if `path`."""
    need("viz")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    theme = charts.DARK if dark else charts.LIGHT
    figure = Figure(figsize=(6.4, 3.6), dpi=charts.DPI, facecolor=theme.paper, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_facecolor(theme.paper)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.faint)
    axes.grid(axis="y", color=theme.grid, lw=0.8)
    axes.tick_params(colors=theme.faint, labelsize=9)
    x = np.arange(0, math.floor(255 * found.budget + 1e-6) + 1)
    for i, (any_class, name) in enumerate(
        ((True, "pictures, to some class"), (False, "pairs of picture and new class"))
    ):
        y = [100 * found.share(s / 255, any_class) for s in x]
        axes.plot(x, y, "os"[i] + "-", color=theme.methods[i], lw=1.6, ms=5, label=name)
    axes.set_xticks(x)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("largest change of a pixel, levels of 255", fontsize=9, color=theme.faint)
    axes.set_ylabel("rewritten, per cent", fontsize=9, color=theme.faint)
    axes.legend(frameon=False, labelcolor=theme.ink, loc="lower right", fontsize=9)
    return charts.saved(figure, path)


def table(found: Robustness) -> str:
    """Every picture and class as CSV: picture, old class, new class, smallest budget in levels of 255 (empty: none found)."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["picture", "was", "to", "smallest_budget_of_255"])
    for i, c in found.asked.nonzero().tolist():
        value = float(found.smallest[i, c])
        size = "" if math.isinf(value) else f"{round(255 * value, 3):g}"
        writer.writerow(
            [csv_cell(found.names[i]), csv_cell(found.label(int(found.was[i]))), csv_cell(found.label(c)), size]
        )
    return buffer.getvalue()


def _figure_uris(found: Robustness) -> dict[str, str]:
    drawn = {name: charts.png(plot(found, dark=dark)) for name, dark in (("light", False), ("dark", True))}
    return {name: f"data:image/png;base64,{base64.b64encode(data).decode()}" for name, data in drawn.items()}


def _square(found: Robustness) -> dict[str, Any] | None:
    """Medians, old class by new class; None where there are too many classes."""
    pairs = found.pairs()
    old, new = sorted({p.was for p in pairs}), sorted({p.to for p in pairs})
    if len(new) > MANY or len(old) > MANY or not pairs:
        return None
    cells = {(p.was, p.to): _cell(found, p) for p in pairs}
    rows = [{"name": found.label(a), "cells": [cells.get((a, b)) for b in new]} for a in old]
    return {"columns": [found.label(b) for b in new], "rows": rows}


def _cell(found: Robustness, pair: ClassPair) -> dict[str, Any]:
    """One pair: the stronger the colour, the less it takes."""
    most = 255 * found.budget
    strength = 0.0 if math.isinf(pair.median) else max(0.0, 1 - (255 * pair.median - 1) / max(most, 1.0))
    colour = tuple(round((1 - 0.85 * strength) * p + 0.85 * strength * h) for p, h in zip(LIGHT, FOR, strict=True))
    ends = [levels(v, found) for v in (pair.least, pair.most)]
    return {
        "text": levels(pair.median, found),
        "range": "" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}",
        "colour": f"rgb{colour}",
        "ink": text_colour(colour),
        "about": quantity(pair.pictures, "picture"),
    }


def levels(size: float, found: Robustness) -> str:
    """A budget in levels of 255; more than the largest that was tried where none was found."""
    return f"> {round(255 * found.budget, 2):g}" if math.isinf(size) else f"{round(255 * size, 2):g}"


def _listed(found: Robustness) -> list[dict[str, Any]]:
    """The easiest pairs, where there are too many for a square."""
    if _square(found) is not None:
        return []
    order = sorted(found.pairs(), key=lambda p: (p.median, p.least, -p.pictures))[:LISTED]
    return [
        {"was": found.label(p.was), "to": found.label(p.to), "count": p.pictures}
        | {name: levels(getattr(p, name), found) for name in ("least", "median", "most")}
        for p in order
    ]


def _files(found: Robustness) -> list[dict[str, Any]]:
    """What each change of the file leaves of the smallest and of the surest rewriting."""
    if not found.files:
        return []
    both: Sequence[Any] = list(zip(found.files["smallest"], found.files["surest"], strict=True))
    return [
        {
            "name": small.name,
            "cells": [share(v) for v in (small.kept, small.back, sure.kept, sure.back, small.original)],
        }
        for small, sure in both
    ]


def _told(found: Robustness) -> list[dict[str, Any]]:
    """What gives a rewritten picture away."""
    if not found.told_apart:
        return []
    both: Sequence[Any] = list(zip(found.told_apart["smallest"], found.told_apart["surest"], strict=True))
    return [
        {
            "name": small.name,
            "meaning": MEANINGS[small.name],
            "areas": [(f"{s.auroc:.2f}", f"[{s.low:.2f}, {s.high:.2f}]") for s in (small, sure)],
            "means": [f"{v:.2f}" for v in (small.before, small.after, sure.after)],
        }
        for small, sure in both
    ]


__all__ = ["page", "plot", "table", "write_page"]
