"""A rewritten picture as one matplotlib figure: before and after, each with the maps of both classes."""

from __future__ import annotations

import os
from typing import Any

from regard.explanation.rewriting import Rewriting
from regard.report.colour import LIGHT, Array, number
from regard.report.drawing import MOST, resized, veiled
from regard.report.figure import BLACK, EDGE, FAINT, axes_at, edged, made, safe, sheet, write
from regard.report.rewriting.html import share
from regard.report.rewriting.view import RewritingView, view_of

CELL, GAP = 2.5, 0.2  # inches
HEAD, NAMED = 0.75, 0.3


def plot(found: Rewriting, path: str | os.PathLike[str] | None = None, sample: int = 0) -> Any:
    """Draw one picture; return the matplotlib Figure, and write it if `path`.

    Raises Misuse where matplotlib is missing, for an ending that is no format, or where the sample is not there.
    """
    return made(lambda: _figure(view_of(found, sample)), path)


def _figure(view: RewritingView) -> Any:
    height, width = view.before.pixels.shape[:2]
    high = CELL * height / width
    columns = 1 + len(view.maps) if view.maps else 2
    figure = sheet(2 * EDGE + max(3, columns) * (CELL + GAP) - GAP, 2 * EDGE + HEAD + 2 * (high + NAMED) + 0.45)
    at = figure.get_figheight() - EDGE
    done = "Rewritten" if view.success else "Not rewritten"
    write(figure, EDGE, at, _short(f"{done}: {view.name}", 60), 13, BLACK, weight="bold")
    kept = f", {view.kept} kept" if view.kept else ""
    said = f"{view.was} to {view.to}{kept}; largest change {view.size}"
    write(figure, EDGE, at - 0.3, _short(said, 90), 9.5, FAINT)
    at -= HEAD
    for i, (name, picture) in enumerate((("before", view.before), ("after", view.after))):
        first = view.found.probabilities_before if i == 0 else view.found.probabilities
        c = int(first[view.sample].argmax())
        title = f"{name}: {view.found.label(c)} {share(float(first[view.sample, c]))}"
        _cell(figure, 0, at, high, title, resized(picture, MOST).pixels.cpu().numpy())
        for column, (label, _, panels) in enumerate(view.maps, start=1):
            p = panels[i]
            _cell(figure, column, at, high, f"map of {label}, {name}", veiled(p, max(CELL, high)))
        at -= high + NAMED
    for column, (_, scale, _) in enumerate(view.maps, start=1):
        _scale(figure, column, at, scale)
    return figure


def _cell(figure: Any, column: int, top: float, high: float, title: str, pixels: Array) -> None:
    left = EDGE + column * (CELL + GAP)
    write(figure, left, top, _short(title, 36), 8.5, BLACK)
    axes = axes_at(figure, left, top - 0.2, CELL, high)
    axes.imshow(pixels, interpolation="nearest" if min(pixels.shape[:2]) < 200 else "antialiased", aspect="auto")
    edged(axes)


def _scale(figure: Any, column: int, top: float, scale: Any) -> None:
    """The drawn scale of a column of maps."""
    import numpy as np

    left = EDGE + column * (CELL + GAP)
    if scale.limit == 0:
        write(figure, left, top - 0.05, scale.note, 8, FAINT)
        return
    low = -scale.limit if scale.signed else 0.0
    axes = axes_at(figure, left, top - 0.05, CELL, 0.12)
    axes.imshow(scale.over(np.linspace(low, scale.limit, 128)[None], LIGHT), aspect="auto")
    write(figure, left, top - 0.2, number(low), 8, FAINT)
    figure.text(
        (left + CELL) / figure.get_figwidth(), (top - 0.2) / figure.get_figheight(), number(scale.limit),
        va="top", ha="right", fontsize=8, color=FAINT, parse_math=False, family="DejaVu Sans",
    )  # fmt: skip


def _short(text: str, most: int) -> str:
    drawn = safe(" ".join(text.split()))
    return drawn if len(drawn) <= most else drawn[: most - 1] + "…"
