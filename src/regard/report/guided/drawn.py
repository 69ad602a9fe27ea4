"""A guide beside the maps without and with it, as strips of a figure: (height in inches, what draws it at a height)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regard.report.colour import Array
from regard.report.drawing import drawing
from regard.report.figure import (
    EDGE,
    FAINT,
    SIZE,
    WIDTH,
    axes_at,
    edged,
    flat_bar,
    flow,
    spelt,
    write,
    write_run,
)
from regard.report.guided.view import SHARE, GuidedPicture, GuidedText, outlined
from regard.report.view import PictureView

Strip = tuple[float, Callable[[Any, float], None]]
TITLES = ("the guide", "the map without it", "the map with it")
GAP = 0.25  # inches
ROWS = 30  # of each text; the page shows all of it


def pictures(view: GuidedPicture) -> Strip:
    """The guide on the picture, and both maps with their scales."""
    panels = (view.guide, view.without, view.guided)
    wide = (WIDTH - 2 * EDGE - 2 * GAP) / 3
    high = wide * min(2.0, _ratio(view.guide))

    def draw(figure: Any, top: float) -> None:
        for i, (title, panel) in enumerate(zip(TITLES, panels, strict=True)):
            left = EDGE + i * (wide + GAP)
            write(figure, left, top - 0.03, title, 9, FAINT)
            axes = axes_at(figure, left, top - 0.25, wide, high)
            pixels = guide_on(view) if i == 0 else drawing(panel, max(wide, high))
            axes.imshow(pixels, interpolation="antialiased", aspect="auto")
            edged(axes)
            if i or view.region is None:
                flat_bar(figure, left, top - 0.35 - high, panel.scale, wide - 0.4)
                write(figure, left, top - 0.75 - high, panel.scale.note, 7.5, FAINT)

    return high + 0.95, draw


def _ratio(panel: PictureView) -> float:
    height, width = panel.cells.shape if panel.picture is None else panel.picture.pixels.shape[:2]
    return float(height / width)


def guide_on(view: GuidedPicture) -> Array:
    """The guide as pixels: a region outlined on the picture, any other as a map."""
    panel = view.guide
    if view.region is None or panel.picture is None:
        return drawing(panel)
    return outlined(panel.picture.pixels.cpu().numpy(), view.region)


def texts(view: GuidedText) -> Strip:
    """The text three times: with the guide, and coloured by both maps."""
    shown = [(view.guide, SHARE), view.without, view.guided]
    step = SIZE * 1.75 / 72
    flowed = [flow([spelt(p) for p in pieces], WIDTH - 2 * EDGE) for pieces, _ in shown]
    heights = [
        0.35 + step * min(rows, ROWS) + (0.55 if i or not view.lines else 0.1) for i, (_, rows) in enumerate(flowed)
    ]

    def draw(figure: Any, top: float) -> None:
        for i, ((runs, rows), (_, scale)) in enumerate(zip(flowed, shown, strict=True)):
            write(figure, EDGE, top - 0.03, TITLES[i], 9, FAINT)
            for run in (r for r in runs if r.row < ROWS):
                under = i == 0 and run.piece in view.lines
                write_run(figure, run, EDGE, top - 0.25 - step * run.row, scale, under)
            if i or not view.lines:
                flat_bar(figure, EDGE, top - 0.35 - step * min(rows, ROWS), scale)
            top -= heights[i]

    return sum(heights), draw


__all__ = ["guide_on", "pictures", "texts"]
