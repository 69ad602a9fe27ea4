"""An attention transfer as a matplotlib figure: one layer large with its arrows, all layers small, the row sums at the foot.

Laid out in inches from top to bottom; arrows are drawn last, over everything, from place to place.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regard.explanation.raw_inputs import Picture
from regard.explanation.transfer import Transfer
from regard.report.colour import AGAINST, FOR, LIGHT, ColourScale, number, text_colour
from regard.report.drawing import MOST, drawing, resized
from regard.report.explanation.png import TAG, outside
from regard.report.figure import (
    BLACK,
    EDGE,
    FAINT,
    SIZE,
    WIDTH,
    TextRun,
    axes_at,
    edged,
    flow,
    frame,
    made,
    place_at,
    safe,
    sheet,
    show,
    spelt,
    write,
)
from regard.report.receipt import at
from regard.report.transfer.view import (
    Arrow,
    LayerView,
    RunningView,
    Spot,
    TransferView,
    lead,
    unit,
    view_of_transfer,
)
from regard.report.view import PictureView, TextPiece

INNER = WIDTH - 2 * EDGE
HIGH = 4.2  # inches, of the large picture at most
BOX = SIZE * 1.45 / 72  # of a word
STEP = SIZE * 3.0 / 72  # from line to line of running text, with room for arcs
THUMB = 1.15
LINE = 0.24  # from row to row of a matrix
ROWS = 40  # of running text at most; the page shows all of it
LABELLED = 60  # words in a matrix of layers at most that have their names
DRAWN = 8  # arrows


def plot(
    transfer: Transfer, path: str | os.PathLike[str] | None = None, sample: int = 0, layer: int | None = None
) -> Any:
    """Draw one sample; return the matplotlib Figure, and write it if `path`.

    Raises Misuse where matplotlib or Pillow is missing, for an ending that is no format, or where the sample is not there.
    """
    return made(lambda: _figure(view_of_transfer(transfer, sample, layer)), path)


def _figure(view: TransferView) -> Any:
    large = view.layers[view.large]
    head, foot = _Words(_head(view, large)), _Words(_foot(view))
    big, small = _Large(large, view.scale), _Small(view)
    figure = sheet(WIDTH, head.height + big.height + small.height + foot.height + 2 * EDGE)
    top = figure.get_figheight() - EDGE
    for part in (head, big, small, foot):
        part.draw(figure, top)
        top -= part.height
    return figure


# -- words ------------------------------------------------------------------------------------------------------------

Paragraph = tuple[str, float, str, str]  # text, size in points, colour, weight


def _head(view: TransferView, large: LayerView) -> list[Paragraph]:
    value = at(view.exp.receipt.target_value, view.sample)
    return [
        (f"Attention transfer · {view.target} = {number(value)}", 10, FAINT, "normal"),
        (large.sentence, 14, BLACK, "bold"),
        (large.ends, 10.5, BLACK, "normal"),
        (lead(), 9.5, FAINT, "normal"),
    ]


def _foot(view: TransferView) -> list[Paragraph]:
    return [(said, 8.5, FAINT, "normal") for said in (f"Numbers: {unit(view)}.", *view.checks)]


class _Words:
    """Paragraphs, wrapped."""

    def __init__(self, paragraphs: Sequence[Paragraph]) -> None:
        self.lines: list[tuple[str, float, str, str]] = []
        self.height = 0.1
        for text, size, colour, weight in paragraphs:
            wide = INNER * SIZE / size * (0.88 if weight == "bold" else 1.0)
            runs, count = flow([TextPiece(safe(text))], wide)
            for i in range(count):
                self.lines.append(("".join(r.text for r in runs if r.row == i), size, colour, weight))
            self.height += count * size * 1.5 / 72 + 0.06

    def draw(self, figure: Any, top: float) -> None:
        for text, size, colour, weight in self.lines:
            write(figure, EDGE, top, text, size, colour, weight)
            top -= size * 1.5 / 72 + 0.02


# -- the large layer --------------------------------------------------------------------------------------------------


@dataclass
class _Large:
    """The panels of one layer, one under the other, and the arrows between their places."""

    layer: LayerView
    scale: ColourScale

    def __post_init__(self) -> None:
        self.parts = [_Picture(p) if isinstance(p, PictureView) else _Running(p) for p in self.layer.panels]
        self.height = 0.35 + sum(p.height for p in self.parts) + 0.6

    def draw(self, figure: Any, top: float) -> None:
        module = f"layer {self.layer.index} · {self.layer.module}" + (
            f" · {self.layer.looks}" if self.layer.looks else ""
        )
        write(figure, EDGE, top - 0.05, safe(module), 10, BLACK)
        top -= 0.35
        for part in self.parts:
            part.draw(figure, top, self.scale)
            top -= part.height
        for arrow in self.layer.arrows[:DRAWN][::-1]:
            self._arrow(figure, arrow)
        _bar(figure, EDGE, top, self.scale)

    def _arrow(self, figure: Any, arrow: Arrow) -> None:
        if arrow.begins is None or arrow.ends is None:
            return
        begin, end = (self.parts[spot[0]].point(spot) for spot in (arrow.begins, arrow.ends))
        if begin is None or end is None:
            return
        texts = [isinstance(self.parts[spot[0]], _Running) for spot in (arrow.begins, arrow.ends)]
        along = all(texts) and abs(begin[1] - end[1]) < BOX / 2
        if not along:  # what lies above a word leads to its upper edge, what lies below to its lower one
            begin = begin[0], begin[1] - BOX * (texts[0] and end[1] < begin[1])
            end = end[0], end[1] - BOX * (texts[1] and begin[1] < end[1])
        way = _over if along else _between_lines if all(texts) else _bent
        _draw_arrow(figure, [begin, *way(*begin, *end), end], arrow.amount / self.layer.arrows[0].amount)


Way = tuple[tuple[float, float], tuple[float, float]]
"""The two control points of a curve."""


def _over(x0: float, y0: float, x1: float, y1: float) -> Way:
    """An arc over the words of a line."""
    rise = min(0.12 + 0.1 * abs(x1 - x0), 0.32)
    return (x0 + 0.15 * (x1 - x0), y0 + rise), (x1 - 0.15 * (x1 - x0), y1 + rise)


def _between_lines(x0: float, y0: float, x1: float, y1: float) -> Way:
    """From line to line, across in the middle between them."""
    return (x0, (y0 + y1) / 2), (x1, (y0 + y1) / 2)


def _bent(x0: float, y0: float, x1: float, y1: float) -> Way:
    """A little to one side, so that an arrow and the opposite one stay apart."""
    dx, dy = x1 - x0, y1 - y0
    return (x0 + dx / 3 - dy / 9, y0 + dy / 3 + dx / 9), (x0 + dx * 2 / 3 - dy / 9, y0 + dy * 2 / 3 + dx / 9)


class _Picture:
    """A picture with its map; the picture alone beside it, with the numbers of its regions."""

    def __init__(self, panel: PictureView) -> None:
        self.panel = panel
        shape = panel.cells.shape if panel.picture is None else panel.picture.pixels.shape
        self.size = float(shape[1]), float(shape[0])
        ratio = min(max(shape[0] / shape[1], 1 / 8), 8.0)
        self.wide = min(INNER / 2 - 0.1, HIGH / ratio)
        self.high = self.wide * ratio
        self.height = self.high + 0.3
        self.top = 0.0

    def draw(self, figure: Any, top: float, scale: ColourScale) -> None:
        self.top = top
        picture = self.panel.picture
        if picture is None:
            axes_at(figure, EDGE, self.top, self.wide, self.high).imshow(
                scale.over(self.panel.cells, LIGHT), interpolation="none", aspect="auto"
            )
            return
        pixels = resized(picture, MOST).pixels.cpu().numpy()
        beside = self._shown(figure, EDGE + self.wide + 0.2, pixels, picture)
        over = self._shown(figure, EDGE, drawing(self.panel, max(self.wide, self.high)), picture)
        for axes in (beside, over):
            outside(axes, picture)
            for i, box in enumerate(self.panel.regions):
                frame(axes, box, 0.8)
                if axes is beside:
                    at = max(box.left, 0), max(box.top, 0)
                    axes.text(*at, str(i + 1), va="top", fontsize=8, color="white", bbox=TAG)

    def _shown(self, figure: Any, left: float, pixels: Any, picture: Picture) -> Any:
        axes = axes_at(figure, left, self.top, self.wide, self.high)
        show(axes, pixels, picture, aspect="auto")
        return axes

    def point(self, spot: Spot) -> tuple[float, float] | None:
        _, x, y = spot
        return EDGE + x / self.size[0] * self.wide, self.top - y / self.size[1] * self.high


class _Running:
    """Running text, its lines apart so that arcs can go over them."""

    def __init__(self, panel: RunningView) -> None:
        blank = "" if panel.text or panel.single else "\u00a0"  # numbers are narrow
        spelled = [
            replace(p, text=f"{blank}{p.text}{blank}") if p.score is not None else p for p in map(spelt, panel.pieces)
        ]
        self.runs, rows = flow(spelled, INNER)
        self.boxes: dict[int, TextRun] = {}  # the first part of each piece
        for run in self.runs:
            self.boxes.setdefault(run.piece, run)
        self.rows = min(rows, ROWS)
        self.lift = 1.3 * BOX if panel.single else STEP
        self.title = "" if panel.text or panel.single else safe(panel.name)
        self.height = self.rows * self.lift + 0.15
        self.top = 0.0

    def draw(self, figure: Any, top: float, scale: ColourScale) -> None:
        self.top = top
        write(figure, EDGE, top - 0.02, self.title, 8.5, FAINT)
        for run in (r for r in self.runs if r.row < ROWS):
            box = place_at(figure, EDGE + run.left, self._line(run.row) + BOX, run.width, BOX)
            colour = BLACK if run.score is None else _painted(figure, box, scale, run.score)
            write(figure, EDGE + run.left, self._line(run.row) + BOX - 0.03, run.text, SIZE, colour)

    def _line(self, row: int) -> float:
        """The lower edge of a line's boxes."""
        return self.top - (row + 1) * self.lift

    def point(self, spot: Spot) -> tuple[float, float] | None:
        run = self.boxes.get(int(spot[1]))
        if run is None or run.row >= ROWS:
            return None
        return EDGE + run.left + run.width / 2, self._line(run.row) + BOX


def _painted(figure: Any, box: tuple[float, float, float, float], scale: ColourScale, score: float) -> str:
    """A box in the colour of a score; the colour of what is written on it."""
    from matplotlib.patches import Rectangle

    paper = scale.over(score, LIGHT)
    figure.add_artist(
        Rectangle(
            box[:2],
            box[2],
            box[3],
            facecolor=paper / 255,
            edgecolor=FAINT,
            linewidth=0.3,
            transform=figure.transFigure,
        )
    )
    return text_colour(paper)


def _draw_arrow(figure: Any, curve: Sequence[tuple[float, float]], strength: float) -> None:
    """Along four points of a curve in inches: black on white, the thicker the more."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path
    from matplotlib.patheffects import Stroke

    w, h = figure.get_size_inches()
    points = [(x / w, y / h) for x, y in curve]
    path = Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    line = 0.8 + 1.4 * strength
    patch = FancyArrowPatch(
        path=path,
        transform=figure.transFigure,
        arrowstyle=f"-|>,head_length={3.2 + 1.6 * strength},head_width={1.6 + 0.8 * strength}",
        mutation_scale=1.0,
        linewidth=line,
        color=BLACK,
        capstyle="round",
        joinstyle="miter",
    )
    patch.set_path_effects([Stroke(linewidth=line + 1.8, foreground="white"), Stroke(linewidth=line, foreground=BLACK)])
    figure.add_artist(patch)


def _bar(figure: Any, left: float, top: float, scale: ColourScale) -> None:
    """The colour scale, lying, with what its ends mean."""
    axes = figure.add_axes(place_at(figure, left + 1.75, top - 0.05, 2.6, 0.13))
    values = np.linspace(-scale.limit, scale.limit, 256)[None, :]
    limit = scale.limit or 1.0
    axes.imshow(scale.over(values, LIGHT), aspect="auto", extent=(-limit, limit, 0.0, 1.0), interpolation="none")
    axes.set_yticks([])
    axes.set_xticks([v for v, _ in scale.ticks()], [s for _, s in scale.ticks()], fontsize=8, color=BLACK)
    write(figure, left, top - 0.03, "should lose attention", 8.5, _hex(AGAINST))
    write(figure, left + 4.5, top - 0.03, "should gain attention", 8.5, _hex(FOR))


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


# -- all layers -------------------------------------------------------------------------------------------------------


class _Small:
    """All layers: pictures side by side, each text as a matrix of layers and words."""

    def __init__(self, view: TransferView) -> None:
        self.view = view
        self.pictured = [v for v in view.layers if any(isinstance(p, PictureView) for p in v.panels)]
        self.across = max(1, int((INNER + 0.15) // (THUMB + 0.15)))
        self.thumbs = math.ceil(len(self.pictured) / self.across) * (THUMB + 0.55)
        self.matrices = [_Matrix(view, stream) for stream in self._streams()]
        self.height = 0.3 + self.thumbs + sum(m.height for m in self.matrices)

    def _streams(self) -> list[str]:
        """Streams that have a matrix: all that are no picture, but single tokens beside one."""
        running = [p for v in self.view.layers for p in v.panels if isinstance(p, RunningView)]
        return list(dict.fromkeys(p.stream for p in running if not (p.single and self.pictured)))

    def draw(self, figure: Any, top: float) -> None:
        write(figure, EDGE, top - 0.05, "All layers, on one scale; the number is how much is transferred", 9, FAINT)
        for i, layer in enumerate(self.pictured):
            row, column = divmod(i, self.across)
            self._thumb(figure, layer, EDGE + column * (THUMB + 0.15), top - 0.3 - row * (THUMB + 0.55))
        top -= 0.3 + self.thumbs
        for matrix in self.matrices:
            matrix.draw(figure, top)
            top -= matrix.height

    def _thumb(self, figure: Any, layer: LayerView, left: float, top: float) -> None:
        panel = next(p for p in layer.panels if isinstance(p, PictureView))
        height, width = (panel.cells.shape if panel.picture is None else panel.picture.pixels.shape)[:2]
        wide, high = THUMB * min(1, width / height), THUMB * min(1, height / width)
        axes = axes_at(figure, left, top - 0.2, wide, high)
        smooth = "none" if panel.picture is None else "antialiased"
        axes.imshow(drawing(panel, THUMB), interpolation=smooth, aspect="auto")
        edged(axes)
        _label(figure, self.view, layer, left, top)
        singles = [p.scored[0] for p in layer.panels if isinstance(p, RunningView) and p.single]
        for n, piece in enumerate(singles[:2]):
            box = place_at(figure, left + n * 0.55, top - 0.23 - high, 0.5, 0.16)
            colour = _painted(figure, box, self.view.scale, piece.score or 0.0)
            write(figure, left + n * 0.55 + 0.04, top - 0.255 - high, safe(piece.text)[:8], 7, colour)


def _label(figure: Any, view: TransferView, layer: LayerView, left: float, top: float) -> None:
    weight = "bold" if layer.index == view.large else "normal"
    write(figure, left, top, f"layer {layer.index} · {number(layer.amount)}", 8, BLACK, weight)


class _Matrix:
    """The layers that look at one text, row by row; a column for each of its words."""

    def __init__(self, view: TransferView, stream: str) -> None:
        self.view, self.rows = view, list[tuple[LayerView, RunningView]]()
        for layer in view.layers:
            self.rows += [(layer, p) for p in layer.panels if isinstance(p, RunningView) and p.stream == stream]
        self.words = max((p.scored for _, p in self.rows), key=len)
        longest = max(len(p.text) for p in self.words)
        self.above = 0.2 + 0.065 * min(14, longest) if len(self.words) <= LABELLED else 0.22
        self.height = self.above + LINE * len(self.rows) + 0.15

    def draw(self, figure: Any, top: float) -> None:
        write(figure, EDGE, top - self.above + 0.18, safe(self.rows[0][1].name)[:18], 8.5, FAINT)
        top -= self.above
        cells = np.zeros((len(self.rows), len(self.words)))
        for row, (layer, panel) in zip(cells, self.rows, strict=True):
            row[: len(panel.scored)] = [p.score or 0.0 for p in panel.scored]
            _label(figure, self.view, layer, EDGE, top - LINE * self.rows.index((layer, panel)) - 0.05)
        axes = figure.add_axes(place_at(figure, EDGE + 1.15, top, INNER - 1.15, LINE * len(cells)))
        axes.imshow(self.view.scale.over(cells, LIGHT), interpolation="none", aspect="auto")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(linewidth=0.4, color=FAINT)
        for i, piece in enumerate(self.words if len(self.words) <= LABELLED else []):
            _slanted(axes, i, safe(piece.text))


def _slanted(axes: Any, column: int, name: str) -> None:
    name = name if len(name) < 14 else name[:13] + "…"
    axes.text(column, -0.62, name, rotation=60, ha="left", va="bottom", fontsize=8, color=BLACK, parse_math=False,
              rotation_mode="anchor")  # fmt: skip
