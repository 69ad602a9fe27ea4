"""A `Comparison` as one matplotlib figure: a row of maps for each method, ε/|T| under each, laid out in inches."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from regard.errors import Misuse
from regard.evaluation.compare import Comparison, formula
from regard.explanation.explanation import Explanation
from regard.report.colour import LIGHT, ColourScale, text_colour
from regard.report.comparison.html import SIDE, Shown, accounts, ends, maps, shown, small
from regard.report.drawing import resized
from regard.report.figure import (
    BLACK,
    EDGE,
    FAINT,
    SIZE,
    TextRun,
    axes_at,
    edged,
    flow,
    made,
    place_at,
    safe,
    sheet,
    show,
    spelt,
    write,
)
from regard.report.look import Look, Scale, scale_of_panel
from regard.report.receipt import lines
from regard.report.view import ChartView, Panel, PictureView, TextPiece, TextView, input_name, view_of

GAP = 0.15  # inches, between maps
PICTURE, TEXT = 1.35, 2.3  # inches, the width of a cell
TYPE = 7.5  # points, of texts in a cell
STEP = TYPE * 1.6 / 72
LINES = 14  # of a text in a cell at most; the page shows all of it
NAMED = 0.3  # inches, of a method's name over its maps


def plot(
    c: Comparison,
    path: str | os.PathLike[str] | None = None,
    sample: int = 0,
    *,
    cmap: Any = None,
    scale: Scale = "shared",
) -> Any:
    """Draw one sample; return the matplotlib Figure, and write it if `path`, in the format of its ending.

    See `Comparison.plot`. Raises Misuse where matplotlib or Pillow is missing, for an ending, a colour map or a scale that is
    none, or where the sample is not there.
    """

    def draw() -> Any:
        look = Look.of(cmap, scale)
        if not 0 <= sample < c.batch:
            raise Misuse(f"sample {sample} does not exist; the comparison holds {c.batch}, counted from 0")
        return _figure(c, sample, shown(c, sample, look))

    return made(draw, path)


def _figure(c: Comparison, sample: int, of: Shown) -> Any:
    first = view_of(c.explanations[0], sample)
    cell = PICTURE if any(isinstance(p, PictureView) for p in first.panels) else TEXT
    columns = max(len(c.sites) if c.grid else 1, 3)
    bands = _bands(c, columns)
    heights = [_height(cells, of, cell) for *_, cells in bands]
    target = textwrap.wrap(safe(lines(c.explanations[0], sample)[0].value), int(columns * cell * 11))[:2]
    above = EDGE + 0.4 + 0.2 * len(target)
    picture = next((p.picture for p in first.panels if isinstance(p, PictureView) and p.picture is not None), None)
    high = 0.0 if picture is None else min(cell * picture.pixels.shape[0] / picture.pixels.shape[1], 2.5 * cell)
    top = above + high + 0.15 * bool(high)
    width = 2 * EDGE + columns * (cell + GAP) - GAP
    figure = sheet(width, top + sum(heights) + EDGE)
    at = figure.get_figheight() - EDGE
    title = f"Methods compared: {input_name(c.explanations[0], sample)}"
    write(figure, EDGE, at, _shortened(title, columns * cell, 8), 13, BLACK, weight="bold")
    for i, line in enumerate(target):
        write(figure, EDGE, at - 0.3 - 0.2 * i, line, 9.5, FAINT)
    if picture is not None:
        axes = axes_at(figure, EDGE, figure.get_figheight() - above, cell, high)
        show(axes, resized(picture, SIDE).pixels.cpu().numpy(), picture)
    at = figure.get_figheight() - top
    for (name, more, cells), height in zip(bands, heights, strict=True):
        write(figure, EDGE, at, name, 9.5, BLACK, weight="bold")
        write(
            figure,
            EDGE + 0.15 + 0.095 * len(name),
            at,
            _shortened(more, columns * cell - 0.1 * len(name), 12),
            9,
            FAINT,
        )
        for i, (label, exp) in enumerate(cells):
            if exp is not None:
                _cell(figure, EDGE + i * (cell + GAP), at - NAMED, cell, (label, exp, sample), of)
        at -= height
    return figure


Cells = list[tuple[str, Explanation | None]]


def _bands(c: Comparison, columns: int) -> list[tuple[str, str, Cells]]:
    """Rows of cells: a method of the grid each, then the methods that have a site of their own, as many as fit in a row."""
    inside = [(m, formula(next(e for _, e in found if e is not None)).a, found) for m, found in maps(c)]
    own: Cells = [
        (f"{e.method}: {'no site' if e.receipt.site == 'none' else e.receipt.site}", e) for e in c.own.values()
    ]
    rows = [own[i : i + columns] for i in range(0, len(own), columns)]
    return inside + [("methods with a site of their own" if i == 0 else "", "", row) for i, row in enumerate(rows)]


def _height(cells: Cells, of: Shown, width: float) -> float:
    """Of a row: its name, a line for the site, its highest map with the scale, what is beside it, ε/|T|."""
    found = [of[id(e)] for _, e in cells if e is not None]
    every = [sum(_high(p, width) + 0.24 for p in panels) + 0.13 * bool(beside) for panels, beside in found]
    return NAMED + 0.17 + max(every, default=0.0) + 0.32


def _high(panel: Panel, width: float) -> float:
    if isinstance(panel, PictureView):
        rows, columns = small(panel).shape[:2]
        return float(min(width * rows / columns, 2.5 * width))
    _, count, left = _flowed(panel, width)
    return STEP * (count + (left > 0)) + 0.06


def _flowed(panel: TextView | ChartView, width: float) -> tuple[list[TextRun], int, int]:
    """A text's runs at the width of a cell, how many lines are drawn, and how many are left out."""
    pieces = (
        panel.best[0] if isinstance(panel, TextView) else [TextPiece(str(i), s) for i, s in enumerate(panel.scores)]
    )
    gap = 0.0 if isinstance(panel, TextView) and panel.words else 0.06
    runs, count = flow([spelt(p) for p in pieces], width * SIZE / TYPE / 1.03, gap)
    return runs, min(count, LINES), max(0, count - LINES)


def _cell(figure: Any, left: float, top: float, width: float, what: tuple[str, Explanation, int], of: Shown) -> None:
    label, exp, sample = what
    write(figure, left, top, _shortened(label, width, 16), 7.5, FAINT)
    top -= 0.17
    panels, beside = of[id(exp)]
    for panel in panels:
        high = _high(panel, width)
        if isinstance(panel, PictureView):
            pixels = small(panel)
            wide = min(width, high * pixels.shape[1] / pixels.shape[0])
            axes = axes_at(figure, left, top, wide, high)
            axes.imshow(pixels, interpolation="antialiased", aspect="auto")
            edged(axes)
        else:
            _text(figure, left, top, width, panel)
        scale = scale_of_panel(panel)
        _legend(figure, left, top - high - 0.06, width, scale)
        top -= high + 0.24
    if beside:
        write(figure, left, top + 0.03, _shortened(" · ".join(beside), width, 18), 6.5, FAINT)
        top -= 0.13
    write(figure, left, top + 0.03, f"ε/|T| {accounts(exp, sample)}", 8.5, BLACK)


def _text(figure: Any, left: float, top: float, width: float, panel: TextView | ChartView) -> None:
    from matplotlib.patches import Rectangle

    scale = panel.best[1] if isinstance(panel, TextView) else panel.scale
    runs, count, more = _flowed(panel, width)
    size = 1.03 * TYPE / SIZE  # small letters are drawn a little wider
    for run in (r for r in runs if r.row < count):
        at, x = top - STEP * run.row, left + run.left * size
        paper: Sequence[int] | Any = LIGHT
        if run.score is not None:
            paper = scale.over(run.score, LIGHT)
            a, b, w, h = place_at(figure, x, at + 0.02, run.width * size, STEP * 0.9)
            box = Rectangle((a, b), w, h, facecolor=paper / 255, linewidth=0, transform=figure.transFigure)
            figure.add_artist(box)
        figure.text(*_fraction(figure, x, at - 0.09), run.text, fontsize=TYPE, color=text_colour(paper), va="baseline",
                    parse_math=False, family="DejaVu Sans")  # fmt: skip
    if more:
        write(figure, left, top - STEP * count, f"{more} more lines: see the page", 6.5, FAINT)


def _fraction(figure: Any, left: float, top: float) -> tuple[float, float]:
    return place_at(figure, left, top, 0.0, 0.0)[:2]


def _shortened(text: str, width: float, letters: float) -> str:
    """Text that can be drawn on one line of so many letters an inch."""
    return textwrap.shorten(safe(text), int(width * letters), placeholder=" …")


def _legend(figure: Any, left: float, top: float, width: float, scale: ColourScale) -> None:
    """The colour scale, small, between the numbers at its ends."""
    if scale.limit == 0:
        write(figure, left, top, _shortened(scale.note, width, 20), 6.5, FAINT)
        return
    low, high = ends(scale)
    start, end = 0.07 + 0.055 * len(low), 0.07 + 0.055 * len(high)
    write(figure, left, top, low, 6.5, FAINT)
    write(figure, left + width - end + 0.05, top, high, 6.5, FAINT)
    bottom = -scale.limit if scale.signed else 0.0
    values = np.linspace(bottom, scale.limit, 128)[None, :]
    axes = axes_at(figure, left + start, top - 0.02, max(0.1, width - start - end), 0.07)
    axes.imshow(scale.over(values, LIGHT), aspect="auto", interpolation="none")
