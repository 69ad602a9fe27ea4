"""The main map of one sample in a user's own matplotlib axes: no headline, no numbers, so that a figure can hold many."""

from __future__ import annotations

from typing import Any

import numpy as np

from regard.report.colour import LIGHT, ColourScale, text_colour
from regard.report.drawing import drawing
from regard.report.figure import BLACK, SIZE, flow, frame, show, spelt
from regard.report.look import scale_of_panel
from regard.report.view import ChartView, Panel, PictureView, SampleView, TextView

LARGEST, SMALLEST = 12.0, 5.0  # points, of running text
LINE = 1.6  # heights of the letters, from line to line


def draw_into(axes: Any, view: SampleView) -> Any:
    """Draw the picture of a sample, else its text, else its scores as a strip; return the figure of the axes."""
    panel, root = main(view), axes.figure.canvas.figure
    scale = scale_of_panel(panel)
    if root.get_layout_engine() is not None:
        root.draw_without_rendering()  # only then it is known how large the axes are
    if isinstance(panel, TextView):
        _words(axes, panel, scale)
    elif isinstance(panel, ChartView):
        _strip(axes, panel)
    elif panel.picture is None:
        axes.imshow(scale.over(panel.cells, LIGHT), interpolation="none")
        axes.set(xticks=[], yticks=[])
    else:
        show(axes, drawing(panel, max(_inches(axes))), panel.picture)
        if panel.found is not None:
            frame(axes, panel.found.box, 1.2)
    for image in axes.images:
        _with_bar(image, scale)
    return root


def main(view: SampleView) -> Panel:
    """What is drawn of a sample that has room for one thing."""
    pictures = [p for p in view.panels if isinstance(p, PictureView) and p.picture is not None]
    return [*pictures, *(p for p in view.panels if isinstance(p, TextView)), *view.panels][0]


def _with_bar(image: Any, scale: ColourScale) -> None:
    """Let `figure.colorbar(axes.images[0])` have the map's colours and numbers, though the image has its colours already."""
    from matplotlib.colors import ListedColormap, Normalize

    low = -scale.limit if scale.signed else 0.0
    image.set_cmap(ListedColormap(scale.over(np.linspace(low, scale.limit, 256), LIGHT) / 255))
    image.set_norm(Normalize(low, scale.limit or 1.0))


def _strip(axes: Any, panel: ChartView) -> None:
    colours = panel.scale.over(panel.scores, LIGHT)[None]
    axes.imshow(colours, aspect="auto", interpolation="none", extent=(-0.5, len(panel.scores) - 0.5, 0.0, 1.0))
    axes.set_yticks([])
    axes.locator_params(axis="x", integer=True)


def _words(axes: Any, panel: TextView, scale: ColourScale) -> None:
    """Running words as large as fit, in inches from the upper left corner, so that they stay together if the axes move."""
    from matplotlib.patches import Rectangle
    from matplotlib.transforms import ScaledTranslation

    wide, high = _inches(axes)
    axes.set_axis_off()
    inches = axes.figure.dpi_scale_trans + ScaledTranslation(0, 1, axes.transAxes)
    pieces = [spelt(p) for p in panel.best[0]]
    gap = 0.0 if panel.words else 0.06
    for size in np.arange(LARGEST, SMALLEST - 0.25, -0.5):
        runs, rows = flow(pieces, wide * SIZE / size, gap)
        if rows * size * LINE / 72 <= high:
            break
    step = size * LINE / 72
    for run in (r for r in runs if (r.row + 1) * step <= high + 1e-9):
        left, bottom, width = run.left * size / SIZE, -(run.row + 1) * step, run.width * size / SIZE
        colour = BLACK
        if run.score is not None:
            paper = scale.over(run.score, LIGHT)
            box = Rectangle((left, bottom), width, 0.92 * step, facecolor=paper / 255, linewidth=0, transform=inches)
            axes.add_artist(box).set_in_layout(False)
            colour = text_colour(paper)
        axes.text(left, bottom + 0.27 * step, run.text, fontsize=size, color=colour, va="baseline", parse_math=False,
                  family="DejaVu Sans", transform=inches).set_in_layout(False)  # fmt: skip


def _inches(axes: Any) -> tuple[float, float]:
    """Width and height of the axes."""
    box, dots = axes.get_window_extent(), axes.figure.dpi
    return float(box.width / dots), float(box.height / dots)


__all__ = ["draw_into", "main"]
