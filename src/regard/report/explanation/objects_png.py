"""All objects that a detector found in one picture, each with its map, in one figure."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import Any

from regard.errors import Misuse
from regard.explanation.explanation import Explanation
from regard.report import need
from regard.report.figure import BLACK, EDGE, FAINT, WIDTH, axes_at, blend, frame, safe, save, sheet, write
from regard.report.view import PictureView, view_of

ACROSS = 4  # pictures in a row
MOST = 24  # objects; the page shows all of them


def plot(explanations: Sequence[Explanation], path: str | os.PathLike[str] | None = None) -> Any:
    """Draw the objects of one picture, by one method; return the matplotlib Figure, and write it as PNG if `path`.

    Raises Misuse where an explanation is of no found object, or its picture is not known.
    """
    need("viz")
    panels = [_panel(e) for e in explanations[:MOST]]
    if not panels:
        raise Misuse("there is no object to show")
    figure = _figure(explanations, panels)
    return figure if path is None else save(figure, path)


def _panel(exp: Explanation) -> PictureView:
    panels = [p for p in view_of(exp).panels if isinstance(p, PictureView) and p.found and p.picture]
    if not panels:
        raise Misuse(f"{exp.target} is no object that was found in a picture; explain one with a detector's reader")
    return panels[0]


def _figure(explanations: Sequence[Explanation], panels: Sequence[PictureView]) -> Any:
    assert panels[0].picture is not None
    high, wide = panels[0].picture.pixels.shape[:2]
    side = (WIDTH - 2 * EDGE - 0.15 * (ACROSS - 1)) / ACROSS
    tall = min(side * high / wide, 2 * side)
    rows = -(-(len(panels) + 1) // ACROSS)
    figure = sheet(WIDTH, 2 * EDGE + 0.45 + rows * (tall + 0.4))
    top = figure.get_figheight() - EDGE
    title = textwrap.shorten(f"{safe(panels[0].picture.name)}: {_count(len(explanations))}", 80, placeholder=" …")
    write(figure, EDGE, top, title, 13, BLACK, weight="bold")
    for i in range(len(panels) + 1):
        left, here = EDGE + i % ACROSS * (side + 0.15), top - 0.45 - i // ACROSS * (tall + 0.4)
        axes = axes_at(figure, left, here - 0.2, side, tall)
        if i == 0:
            axes.imshow(panels[0].picture.pixels.cpu().numpy(), interpolation="none")
            write(figure, left, here, "the picture", 9, FAINT)
        else:
            axes.imshow(blend(panels[i - 1]), interpolation="none")
            write(figure, left, here, _named(panels[i - 1]), 9, BLACK)
        for panel in panels if i == 0 else [panels[i - 1]]:
            assert panel.found is not None
            frame(axes, panel.found.box, 1.2)
    write(
        figure,
        EDGE,
        EDGE / 2 + 0.1,
        "Each map is of one object, on a scale of its own up to its largest score.",
        8,
        FAINT,
    )
    return figure


def _named(panel: PictureView) -> str:
    assert panel.found is not None
    return f"{textwrap.shorten(safe(panel.found.label), 26, placeholder=' …')}, {panel.found.percent}"


def _count(objects: int) -> str:
    said = f"{objects} object{'' if objects == 1 else 's'} found"
    return said if objects <= MOST else f"{said}, the {MOST} likeliest"
