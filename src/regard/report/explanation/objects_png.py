"""All objects that a detector found in one picture, each with its map, in one figure."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from regard.errors import Misuse
from regard.explanation.counts import quantity
from regard.explanation.explanation import Explanation
from regard.report.drawing import MOST as PIXELS
from regard.report.drawing import drawing, resized
from regard.report.figure import BLACK, EDGE, FAINT, WIDTH, axes_at, flat_bar, frame, made, safe, sheet, show, write
from regard.report.look import Look, Scale, limited, shared
from regard.report.view import PictureView, view_of

ACROSS = 4  # pictures in a row
MOST = 24  # objects; the page shows all of them


def plot(
    explanations: Sequence[Explanation],
    path: str | os.PathLike[str] | None = None,
    *,
    cmap: Any = None,
    scale: Scale = "shared",
) -> Any:
    """Draw the objects of one picture, by one method; return the matplotlib Figure, and write it if `path`.

    The maps share a scale, as they are all of one method and of logits: where an object is pale, little was found for it.
    `scale="own"` gives each its own; cmap: as in `Explanation.plot`. Raises Misuse where an explanation is of no found object,
    or its picture is not known.
    """

    def draw() -> Any:
        look = Look.of(cmap, scale)
        panels = [_panel(e) for e in explanations[:MOST]]
        if not panels:
            raise Misuse("there is no object to show")
        return _figure(explanations, _scaled(panels, look), look)

    return made(draw, path)


def _scaled(panels: list[PictureView], look: Look) -> list[PictureView]:
    if look.scale == "shared":
        scales = [shared(panels)] * len(panels)
    else:
        scales = [p.scale if look.scale == "own" else limited(p.scale, float(look.scale)) for p in panels]
    return [replace(p, scale=look.coloured(s)) for p, s in zip(panels, scales, strict=True)]


def _panel(exp: Explanation) -> PictureView:
    panels = [p for p in view_of(exp).panels if isinstance(p, PictureView) and p.found and p.picture]
    if not panels:
        raise Misuse(f"{exp.target} is no object that was found in a picture; explain one with a detector's reader")
    return panels[0]


def _figure(explanations: Sequence[Explanation], panels: Sequence[PictureView], look: Look) -> Any:
    picture = panels[0].picture
    assert picture is not None
    high, wide = picture.pixels.shape[:2]
    side = (WIDTH - 2 * EDGE - 0.15 * (ACROSS - 1)) / ACROSS
    tall = min(side * high / wide, 2 * side)
    rows = -(-(len(panels) + 1) // ACROSS)
    figure = sheet(WIDTH, 2 * EDGE + 0.8 + rows * (tall + 0.4))
    top = figure.get_figheight() - EDGE
    title = textwrap.shorten(f"{safe(picture.name)}: {_count(len(explanations))}", 80, placeholder=" …")
    write(figure, EDGE, top, title, 13, BLACK, weight="bold")
    for i in range(len(panels) + 1):
        left, here = EDGE + i % ACROSS * (side + 0.15), top - 0.45 - i // ACROSS * (tall + 0.4)
        axes = axes_at(figure, left, here - 0.2, side, tall)
        if i == 0:
            show(axes, resized(picture, PIXELS).pixels.cpu().numpy(), picture)
            write(figure, left, here, "the picture", 9, FAINT)
        else:
            show(axes, drawing(panels[i - 1], max(side, tall)), picture)
            write(figure, left, here, _named(panels[i - 1]), 9, BLACK)
        for panel in panels if i == 0 else [panels[i - 1]]:
            assert panel.found is not None
            frame(axes, panel.found.box, 1.2)
    if look.scale == "own":
        said = "Each map is of one object, on a scale of its own up to its largest score."
        write(figure, EDGE, EDGE + 0.15, said, 8, FAINT)
    else:
        flat_bar(figure, EDGE, EDGE + 0.35, panels[0].scale)
    return figure


def _named(panel: PictureView) -> str:
    assert panel.found is not None
    return f"{textwrap.shorten(safe(panel.found.label), 26, placeholder=' …')} {panel.found.percent}"


def _count(objects: int) -> str:
    said = f"{quantity(objects, 'object')} found"
    return said if objects <= MOST else f"{said}, the {MOST} likeliest"
