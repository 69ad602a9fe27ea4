"""An explanation as a matplotlib figure and as a file: bands from top to bottom, in inches; or in a user's own axes."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regard.errors import Misuse
from regard.explanation.boxes import Box
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Picture
from regard.report.colour import LIGHT, OPACITY, Array, ColourScale
from regard.report.drawing import MOST, drawing, over_picture, resized
from regard.report.explanation.axes import draw_into
from regard.report.figure import (
    BLACK,
    EDGE,
    FAINT,
    SIZE,
    WIDTH,
    axes_at,
    flat_bar,
    flow,
    frame,
    made,
    on_one_line,
    place_at,
    safe,
    sheet,
    show,
    spelt,
    write,
    write_run,
)
from regard.report.guided import drawn, guided_of
from regard.report.headline import caption, headline
from regard.report.look import Look, Scale
from regard.report.view import (
    ChartView,
    Panel,
    PictureView,
    SampleView,
    SoundView,
    TextPiece,
    TextView,
    listed,
    pictures_of,
    view_of,
)

TAG = {"facecolor": "black", "alpha": 0.75, "pad": 1.0, "linewidth": 0.0}  # behind the number of a region
ROWS = 500  # of running text at most, about 8,000 words; the page shows all of it


@dataclass(frozen=True)
class Band:
    """A strip of the figure: its height in inches, and what draws it given the figure and the height of its top."""

    height: float
    draw: Callable[[Any, float], None]


def plot(
    explanation: Explanation,
    path: str | os.PathLike[str] | None = None,
    sample: int = 0,
    *,
    ax: Any = None,
    cmap: Any = None,
    scale: Scale = "own",
    original: bool = True,
) -> Any:
    """Draw one sample; return the matplotlib Figure, and write it if `path`, in the format of its ending.

    See `Explanation.plot`. Raises Misuse where matplotlib or Pillow is missing, for an ending, a colour map or a scale that is
    none, and for a sample that is not there.
    """

    def draw() -> Any:
        look = Look.of(cmap, scale, original)
        view = look.on(view_of(explanation, sample))
        return _figure(view, look) if ax is None else draw_into(ax, view)

    return made(draw, path)


def overlay(exp: Explanation, sample: int = 0) -> Array:
    """The map alone at its original picture's size, uint8 RGBA (height, width, 4): clear where the score is 0.

    Clear, too, where the model did not look. The opacity is 0.8 at the limit of the scale.
    """
    panel = next((p for p in pictures_of(exp, sample) if p.picture is not None), None)
    if panel is None:
        raise Misuse("no original picture is known; explain raw pictures with regard.load(...).explain(picture)")
    return panel.scale.rgba(over_picture(panel), OPACITY)


def _figure(view: SampleView, look: Look) -> Any:
    bands = [_heading(view), *_guided(view, look), *(_band(p, look.original) for p in _unshown(view))]
    if view.listed:
        bands.append(_paragraph("Beside it: " + " · ".join(listed(p) for p in view.listed), 8.5, FAINT))
    figure = sheet(WIDTH, sum(b.height for b in bands) + 2 * EDGE)
    top = figure.get_figheight() - EDGE
    for band in bands:
        band.draw(figure, top)
        top -= band.height
    return figure


def _guided(view: SampleView, look: Look) -> list[Band]:
    """The guide beside the maps without and with it, stream by stream."""
    guided = guided_of(view, look.colours)
    if guided is None:
        return []
    pictures = [Band(*drawn.pictures(p)) for p in guided.pictures]
    return [_paragraph(guided.sentence, 9.5, BLACK), *pictures, *(Band(*drawn.texts(t)) for t in guided.texts)]


def _unshown(view: SampleView) -> list[Panel]:
    """The panels that are not drawn beside their guide."""
    guidance = view.exp.guidance
    return view.panels if guidance is None else [p for p in view.panels if p.stream not in guidance.m]


def _band(panel: Panel, original: bool) -> Band:
    if isinstance(panel, TextView):
        return _text(panel)
    if isinstance(panel, ChartView):
        return _chart(panel)
    if isinstance(panel, SoundView):
        return _sound(panel)
    return _picture(panel, original) if panel.picture is not None else _grid(panel)


def _heading(view: SampleView) -> Band:
    rows = textwrap.wrap(safe(headline(view.exp, view.sample)), 62)[:3] or [""]
    under = on_one_line(safe(caption(view.exp, view.sample)), WIDTH - 2 * EDGE, 10)

    def draw(figure: Any, top: float) -> None:
        for i, row in enumerate(rows):
            write(figure, EDGE, top - 0.27 * i, row, 15, BLACK, weight="bold")
        write(figure, EDGE, top - 0.06 - 0.27 * len(rows), under, 10, FAINT)

    return Band(0.35 + 0.27 * len(rows), draw)


def _paragraph(text: str, size: float, colour: str) -> Band:
    runs, count = flow([TextPiece(safe(text))], (WIDTH - 2 * EDGE) * SIZE / size)
    rows = ["".join(r.text for r in runs if r.row == i) for i in range(count)]
    step = size * 1.5 / 72

    def draw(figure: Any, top: float) -> None:
        for i, row in enumerate(rows):
            write(figure, EDGE, top - 0.1 - step * i, row, size, colour)

    return Band(0.15 + step * len(rows), draw)


def _picture(panel: PictureView, original: bool) -> Band:
    picture = panel.picture
    assert picture is not None
    height, width = picture.pixels.shape[:2]
    across = 2 if original else 1
    wide, high = _fit(width, height, (WIDTH - 2 * EDGE - 1.1) / across, 5.0)
    fit = resized(picture, MOST)
    over = drawing(replace(panel, picture=fit), max(wide, high)), "the map" if original else safe(picture.name)
    pairs = [(fit.pixels.cpu().numpy(), safe(picture.name)), over][-across:]
    left = (WIDTH - across * wide - 1.1) / 2 if original else EDGE

    def draw(figure: Any, top: float) -> None:
        for i, (pixels, name) in enumerate(pairs):
            x = left + i * (wide + 0.15)
            axes = axes_at(figure, x, top - 0.22, wide, high)
            show(axes, pixels, picture, aspect="auto")
            write(figure, x, top, textwrap.shorten(name, 45, placeholder=" …"), 9, FAINT)
            outside(axes, picture)
            for n, box in enumerate(panel.regions):
                frame(axes, box, 0.8)
                axes.text(max(box.left, 0), max(box.top, 0), str(n + 1), va="top", fontsize=7, color="white", bbox=TAG)
            if panel.found is not None:
                frame(axes, panel.found.box, 1.6)
        _bar(figure, left + across * (wide + 0.15), top - 0.22, high, panel.scale)

    return Band(high + 0.4, draw)


def _sound(panel: SoundView) -> Band:
    """A sound is wide: its map takes the figure's whole width."""
    assert panel.picture is not None
    height, width = panel.picture.pixels.shape[:2]
    wide = WIDTH - 2 * EDGE
    high = wide * height / width

    def draw(figure: Any, top: float) -> None:
        axes = axes_at(figure, EDGE, top - 0.25, wide, high)
        show(axes, drawing(panel, wide), panel.picture, aspect="auto")  # type: ignore[arg-type]
        write(figure, EDGE, top - 0.03, textwrap.shorten(safe(panel.picture.name), 90, placeholder=" …"), 9, FAINT)  # type: ignore[union-attr]
        flat_bar(figure, EDGE, top - 0.4 - high, panel.scale)

    return Band(high + 1.0, draw)


def outside(axes: Any, picture: Picture) -> None:
    """Grey and hatch what the model did not see, and frame what it saw."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    height, width = picture.pixels.shape[:2]
    a, b, c, d = (
        max(picture.box[0], 0),
        max(picture.box[1], 0),
        min(picture.box[2], width),
        min(picture.box[3], height),
    )
    if (a, b, c, d) == (0, 0, width, height):
        return
    shift = np.array([-0.5, -0.5])  # imshow puts the first pixel's centre at 0
    outer = np.array([(0, 0), (width, 0), (width, height), (0, height), (0, 0)]) + shift
    inner = np.array([(a, b), (a, d), (c, d), (c, b), (a, b)]) + shift
    codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * 2
    ring = Path(np.concatenate([outer, inner]), codes)
    axes.add_patch(PathPatch(ring, facecolor=(0.5, 0.5, 0.5, 0.6), edgecolor=(1, 1, 1, 0.5), hatch="////", linewidth=0))
    frame(axes, Box(a, b, c, d), 0.7)


def _grid(panel: PictureView) -> Band:
    rows, columns = panel.cells.shape
    wide, high = _fit(columns, rows, 5.0, 5.0)

    def draw(figure: Any, top: float) -> None:
        axes = axes_at(figure, EDGE, top - 0.25, wide, high)
        axes.imshow(panel.scale.over(panel.cells, LIGHT), interpolation="none")
        write(figure, EDGE, top - 0.03, f"{safe(panel.name)}: {rows} x {columns} tokens", 9, FAINT)
        _bar(figure, EDGE + wide + 0.2, top - 0.25, high, panel.scale)

    return Band(high + 0.45, draw)


def _chart(panel: ChartView) -> Band:
    def draw(figure: Any, top: float) -> None:
        axes = figure.add_axes(place_at(figure, EDGE + 0.7, top - 0.3, WIDTH - 2 * EDGE - 0.8, 2.2))
        axes.bar(
            range(len(panel.scores)), np.nan_to_num(panel.scores), color=panel.scale.over(panel.scores, LIGHT) / 255
        )
        axes.axhline(0, color=BLACK, linewidth=0.8)
        axes.set_xlabel("token", color=BLACK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.locator_params(axis="x", integer=True)
        note = f"  ({panel.scale.note})" if panel.scale.note else ""
        write(figure, EDGE, top - 0.03, safe(panel.name) + note, 9, FAINT)

    return Band(3.1, draw)


def _text(panel: TextView) -> Band:
    pieces, scale = panel.best
    runs, rows = flow([spelt(p) for p in pieces], WIDTH - 2 * EDGE, gap=0.0 if panel.words else 0.06)
    left_out, rows = max(0, rows - ROWS), min(rows, ROWS)
    step = SIZE * 1.75 / 72

    def draw(figure: Any, top: float) -> None:
        if left_out:
            write(figure, EDGE + 3.4, top - 0.2 - step * rows, f"{left_out} more lines: see the page", 8.5, FAINT)
        for run in (r for r in runs if r.row < rows):
            write_run(figure, run, EDGE, top - 0.05 - step * run.row, scale)
        flat_bar(figure, EDGE, top - 0.2 - step * rows, scale)

    return Band(0.75 + step * rows, draw)


def _bar(figure: Any, left: float, top: float, height: float, scale: ColourScale) -> None:
    """The colour scale, upright, with its numbers."""
    low = -scale.limit if scale.signed else 0.0
    high = min(height, 3.0)
    axes = figure.add_axes(place_at(figure, left, top, 0.16, high))
    values = np.linspace(low, scale.limit, 256)[:, None]
    extent = (0.0, 1.0, low, scale.limit or 1.0)
    axes.imshow(scale.over(values, LIGHT), origin="lower", aspect="auto", extent=extent)
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks([v for v, _ in scale.ticks()], [s for _, s in scale.ticks()], fontsize=8.5, color=BLACK)
    for i, row in enumerate(textwrap.wrap(scale.note, 16)):
        write(figure, left, top - high - 0.08 - 0.13 * i, row, 7.5, FAINT)


def _fit(width: int, height: int, most_wide: float, most_high: float) -> tuple[float, float]:
    """The largest size in inches with these proportions (very long pictures are squeezed to 1:8)."""
    ratio = min(max(height / width, 1 / 8), 8.0)
    wide = min(most_wide, most_high / ratio)
    return wide, wide * ratio
