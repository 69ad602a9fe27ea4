"""What figures are drawn with: sheets measured in inches, text that flows, boxes, maps over pictures, PNG files.

Object interface only: no pyplot, no global state, and the same bytes for the same figure.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from regard.explanation.boxes import Box
from regard.explanation.files import write_atomically
from regard.explanation.places import place
from regard.report.colour import LIGHT, OPACITY, Array, ColourScale, grey, text_colour
from regard.report.view import PictureView, TextPiece, plain

WIDTH = 9.0  # inches, of the whole figure
EDGE = 0.3
DPI = 120
BLACK, FAINT = "#1b1d22", "#5c616b"
SIZE = 12.0  # points, of running text


def sheet(width: float, height: float) -> Any:
    """A white figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: str | os.PathLike[str]) -> Any:
    """Write a figure as PNG, the same bytes for the same figure; return it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
    return figure


def blend(panel: PictureView) -> Array:
    """The map over its picture in grey, uint8 (height, width, 3); the picture is known."""
    assert panel.picture is not None
    return panel.scale.over(over_picture(panel), grey(panel.picture.pixels.cpu().numpy()), OPACITY)


def over_picture(panel: PictureView) -> Array:
    """The scores of a panel at the size of its picture, which is known."""
    import torch

    assert panel.picture is not None
    cells = torch.from_numpy(np.ascontiguousarray(panel.cells))
    placed: Array = place(cells, panel.picture, panel.raster).numpy()
    return placed


def frame(axes: Any, box: Box, width: float) -> None:
    """A box on a picture, white on dark, so that it stands out everywhere."""
    from matplotlib.patches import Rectangle

    corner, across, down = (box.left - 0.5, box.top - 0.5), box.right - box.left, box.bottom - box.top
    for colour, line in ((BLACK, width + 0.9), ("white", width)):
        axes.add_patch(Rectangle(corner, across, down, fill=False, edgecolor=colour, linewidth=line))


def spelt(piece: TextPiece) -> TextPiece:
    """A piece as it can be drawn."""
    return TextPiece(safe(piece.text, keep="\n").replace("\t", "    "), piece.score, piece.special)


@dataclass(frozen=True)
class TextRun:
    """A piece of text, or a part of one, placed in a line: its left end and width in inches, its row, the piece's number."""

    text: str
    score: float | None
    left: float
    width: float
    row: int
    piece: int = 0


def flow(pieces: list[TextPiece], width: float, gap: float = 0.0) -> tuple[list[TextRun], int]:
    """Break pieces into lines of `width` inches, a word cut where it alone is too long; runs and row count."""
    runs: list[TextRun] = []
    x, row = 0.0, 0
    for number, piece in enumerate(pieces):
        for part in _parts(piece.text, width):
            if part == "\n":
                x, row = 0.0, row + 1
                continue
            long = _measure(part)
            if x + long > width and x > 0:
                x, row = 0.0, row + 1
            if part.isspace() and x == 0:
                continue
            runs.append(TextRun(part, piece.score, x, long, row, number))
            x += long + gap
    return runs, row + 1


def _parts(text: str, width: float) -> list[str]:
    """Words, spaces and line ends apart; what is wider than a line is cut."""
    parts: list[str] = []
    for part in re.findall(r"\n|[ \t]+|[^ \t\n]+", text):
        while part != "\n" and _measure(part) > width:
            cut = max(1, int(len(part) * width / _measure(part)) - 1)
            parts.append(part[:cut])
            part = part[cut:]
        parts.append(part)
    return parts


def write_run(figure: Any, run: TextRun, left: float, top: float, scale: ColourScale, line: bool = False) -> None:
    """A part of a text on its colour; `line`: underlined."""
    from matplotlib.patches import Rectangle

    colour: Any = BLACK
    if run.score is not None:
        paper = scale.over(run.score, LIGHT)
        box = place_at(figure, left + run.left, top + 0.03, run.width, SIZE * 1.45 / 72)
        figure.add_artist(
            Rectangle(box[:2], box[2], box[3], facecolor=paper / 255, linewidth=0, transform=figure.transFigure)
        )
        colour = text_colour(paper)
    write(figure, left + run.left, top, run.text, SIZE, colour)
    if line:
        under = place_at(figure, left + run.left, top - SIZE * 1.3 / 72, run.width, 0.02)
        figure.add_artist(
            Rectangle(under[:2], under[2], under[3], facecolor=BLACK, linewidth=0, transform=figure.transFigure)
        )


def flat_bar(figure: Any, left: float, top: float, scale: ColourScale, width: float = 3.0) -> None:
    """The colour scale, lying, with its numbers."""
    low = -scale.limit if scale.signed else 0.0
    axes = figure.add_axes(place_at(figure, left + 0.1, top, width, 0.14))
    values = np.linspace(low, scale.limit, 256)[None, :]
    axes.imshow(
        scale.over(values, LIGHT), aspect="auto", extent=(low, scale.limit or 1.0, 0.0, 1.0), interpolation="none"
    )
    axes.set_yticks([])
    axes.set_xticks([v for v, _ in scale.ticks()], [s for _, s in scale.ticks()], fontsize=8.5, color=BLACK)
    write(figure, left + width + 0.4, top + 0.03, scale.note, 8.5, FAINT)


def axes_at(figure: Any, left: float, top: float, width: float, height: float) -> Any:
    """Bare axes at a place in inches."""
    axes = figure.add_axes(place_at(figure, left, top, width, height))
    axes.set_axis_off()
    return axes


def place_at(figure: Any, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
    """A rectangle given in inches, from the left and from the bottom to its top, in fractions of the figure."""
    w, h = figure.get_size_inches()
    return left / w, (top - height) / h, width / w, height / h


def write(figure: Any, left: float, top: float, text: str, size: float, colour: str, weight: str = "normal") -> None:
    """Text whose upper left corner stands at a place in inches, `top` from the figure's lower edge; as it is, no formulas."""
    w, h = figure.get_size_inches()
    figure.text(
        left / w,
        top / h,
        text,
        va="top",
        fontsize=size,
        color=colour,
        weight=weight,
        parse_math=False,
        family="DejaVu Sans",
    )


@lru_cache(maxsize=1)
def _font() -> Any:
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    font = FT2Font(findfont(FontProperties(family="DejaVu Sans")))
    font.set_size(SIZE, 72)
    return font


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    return frozenset(_font().get_charmap())


def safe(text: str, keep: str = "") -> str:
    """Text that can be drawn: control characters, and characters that the font has not, become �."""
    known = _glyphs()
    return "".join(c if ord(c) in known or c in keep else "�" for c in plain(text, keep))


@lru_cache(maxsize=4096)
def _advance(character: str) -> float:
    """Width of a character in inches at the size of running text."""
    return float(_font().load_char(ord(character)).linearHoriAdvance) / 65536 / 72


def _measure(text: str) -> float:
    return sum(_advance(c) for c in text)
