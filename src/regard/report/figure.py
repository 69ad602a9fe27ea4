"""What figures are drawn with: sheets measured in inches, text that flows, boxes, maps over pictures, files.

Object interface only: no pyplot, no global state, and the same bytes for the same figure.
"""

from __future__ import annotations

import io
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import Misuse
from regard.explanation.boxes import Box
from regard.explanation.raw_inputs import Picture
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.colour import LIGHT, OPACITY, Array, ColourScale, grey, text_colour
from regard.report.drawing import over_picture
from regard.report.view import PictureView, TextPiece, plain

WIDTH = 9.0  # inches, of the whole figure
EDGE = 0.3
DPI, FINE = 120, 300  # of PNG and JPEG; of pictures in SVG and PDF
FORMATS = {".png": "png", ".svg": "svg", ".pdf": "pdf", ".jpg": "jpg", ".jpeg": "jpg"}
BLACK, FAINT = "#1b1d22", "#5c616b"
SIZE = 12.0  # points, of running text
QUOTES = "\"'`"


def sheet(width: float, height: float) -> Any:
    """A white figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def made(draw: Callable[[], Any], path: str | os.PathLike[str] | None) -> Any:
    """A figure, drawn and, if `path`, written; return it.

    Raises Misuse where matplotlib or Pillow is missing, and for an ending that is no format, before anything is drawn.
    """
    need("viz")
    if path is None:
        return draw()
    format_ = format_of(path)
    figure = draw()
    write_atomically(path, written(figure, format_))
    return figure


def format_of(path: str | os.PathLike[str]) -> str:
    """The format of a figure's file by its ending. Raises Misuse for an ending that is none."""
    name = Path(path).name
    ending = Path(name).suffix.lower()
    if ending not in FORMATS:
        says = f"{name!r} ends in {ending}" if ending else f"{name!r} has no ending"
        raise Misuse(f"{says}, which tells no format of a figure; end it in {', '.join(list(FORMATS)[:-1])} or .jpeg")
    return FORMATS[ending]


def written(figure: Any, format_: str = "png") -> bytes:
    """A figure as a file's bytes, the same for the same figure: no date, no version. Text in SVG and PDF stays text."""
    import matplotlib

    buffer = io.BytesIO()
    settings = {"svg.hashsalt": "regard", "svg.fonttype": "none", "pdf.fonttype": 42}
    how: dict[str, Any] = {"metadata": _NAMELESS[format_]} if format_ in _NAMELESS else {}
    if format_ in ("svg", "pdf"):
        how["dpi"] = FINE
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format=format_, **how)
    return buffer.getvalue()


_NAMELESS: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def blend(panel: PictureView) -> Array:
    """The map over its picture in grey, uint8 (height, width, 3); the picture is known. As pages and terminals show it."""
    assert panel.picture is not None
    return panel.scale.over(over_picture(panel), grey(panel.picture.pixels.cpu().numpy()), OPACITY)


def show(axes: Any, pixels: Array, picture: Picture, **how: Any) -> None:
    """Pixels of any number as the picture, so that its own pixels are the axes' coordinates."""
    height, width = picture.pixels.shape[:2]
    small = pixels.shape == picture.pixels.shape and max(pixels.shape) < 400  # its pixels are to be seen as they are
    smooth = "none" if small else "antialiased"
    axes.imshow(pixels, **{"interpolation": smooth, "extent": (-0.5, width - 0.5, height - 0.5, -0.5)} | how)
    edged(axes)


def edged(axes: Any) -> None:
    """A thin edge, so that a bright picture ends where it ends."""
    axes.axis("on")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(linewidth=0.5, color="#c9ced6")


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
    """Break pieces into lines of `width` inches; runs and row count.

    No line starts with punctuation that closes, or ends with such that opens. A word is cut where it alone is too long.
    """
    runs: list[TextRun] = []
    x, row = 0.0, 0
    for unit in _units(pieces, width):
        if unit[0][0] == "\n":
            x, row = 0.0, row + 1
            continue
        parts = [(text, number, _measure(text)) for text, number in unit]
        long = sum(wide for *_, wide in parts) + gap * (len(unit) - 1)
        for i, (text, number, wide) in enumerate(parts):
            needed = wide if long > width else long if i == 0 else 0.0  # a unit wider than a line is parted
            if x > 0 and x + needed > width + 1e-9:
                x, row = 0.0, row + 1
            if text.isspace() and x == 0:
                continue
            runs.append(TextRun(text, pieces[number].score, x, wide, row, number))
            x += wide + gap
    return runs, row + 1


Part = tuple[str, int]
"""A part of a text, and the number of its piece."""


def _units(pieces: list[TextPiece], width: float) -> list[list[Part]]:
    """What stands on one line: a word or a space alone, and what may not be parted."""
    units: list[list[Part]] = []
    for part in ((text, i) for i, piece in enumerate(pieces) for text in _parts(piece.text, width)):
        if units and _belongs(units[-1], part[0]):
            units[-1].append(part)
        elif _spaced(units[-2:]) and (_closes(part[0]) or _opens(units[-2][-1][0][-1])):
            space = units.pop()
            units[-1] += [*space, part]  # "word ," and "( word" stay on one line, too
        else:
            units.append([part])
    return units


def _belongs(unit: list[Part], text: str) -> bool:
    """Whether a part follows on what is before it without a place to break."""
    before = unit[-1][0]
    if before.isspace() or text.isspace():
        return False
    begins = len(unit) == 1 and all(c in QUOTES or _opens(c) for c in before)
    return begins or _opens(before[-1]) or _closes(text) or text[0] in QUOTES


def _spaced(units: list[list[Part]]) -> bool:
    """Whether the last of two is a space that a line may end at."""
    return [u[0][0].isspace() for u in units] == [False, True] and units[-1][0][0] != "\n"


def _opens(character: str) -> bool:
    return unicodedata.category(character) in ("Ps", "Pi") or character in "¿¡#@"


def _closes(text: str) -> bool:
    """Whether a part starts with punctuation that ends what is before it; a quotation mark may as well begin something."""
    first = text[0]
    kind = unicodedata.category(first)
    return text == "''" or (kind[0] == "P" and kind != "Pc" and first not in QUOTES and not _opens(first))


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


def on_one_line(text: str, width: float, size: float) -> str:
    """As many words of a text as `width` inches hold at a size in points."""
    words, most = text.split(), width * SIZE / size
    shown = " ".join(words)
    while words and _measure(shown) > most:
        shown = " ".join(words := words[:-1]) + " …"
    return shown


def _measure(text: str) -> float:
    return sum(_advance(c) for c in text)
