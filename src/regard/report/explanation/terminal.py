"""An explanation in a terminal, with Rich: a small map or the strongest words, and the receipt.

The colours are those of `colour`; where there are none (a pipe, NO_COLOR) a map is drawn in digits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.rule import Rule
from rich.style import Style
from rich.table import Table
from rich.text import Text as Line

from regard.explanation.boxes import Box
from regard.explanation.generation import Generation
from regard.explanation.names import object_name
from regard.report.answer import answers, because, folded, verdict_of
from regard.report.colour import DARK, Array, ColourScale, number, text_colour
from regard.report.explanation.compared import bars_of
from regard.report.explanation.pairs import PairTable, place_of, tables_of
from regard.report.figure import blend
from regard.report.generation.view import WrittenRow
from regard.report.generation.view import view as written_view
from regard.report.receipt import lines
from regard.report.view import ChartView, Panel, PictureView, SampleView, SoundView, TextPiece, TextView, listed, plain

STRONGEST = 8
COLUMNS = 48
BARS = 24  # characters of a bar of 100 %


def show(view: SampleView, console: Console, *, details: bool = True) -> RenderableType:
    """All of one sample's view, to be printed on `console`, whose width and colours it heeds. details: the whole receipt."""
    coloured = console.color_system is not None and not console.no_color
    width = max(8, console.width)
    parts: list[RenderableType] = [Rule(Line(plain(f"{view.method} · {view.target}")), align="left", style="dim")]
    parts += told(view)
    if (found := view.exp.found) is not None:
        parts.append(Line(f"found: {plain(object_name(found))}, in {_span(found.box)}"))
    for panel in view.panels:
        parts += _panel(panel, width, coloured)
    parts += [Line("beside it: " + plain(listed(p)), style="dim") for p in view.listed]
    parts += [together(table) for table in tables_of(view)]
    return Group(
        *parts, Line(""), *([_receipt(view)] if details else [Line(plain(folded(view.exp, view.target)), style="dim")])
    )


def told(view: SampleView) -> list[RenderableType]:
    """Whether the map is better than chance, and what it points at."""
    verdict = verdict_of(view.exp, view.sample, "terminal")
    colour = {True: "green", False: "red", None: "dim"}[verdict.passed]
    said = [Line(f"{verdict.mark} ", style=colour).append(plain(verdict.sentence), "default")]
    pointed = because(view, verdict)
    return [*said, *([Line(f"  {plain(pointed)}")] if pointed else []), Line("")]


def predicted(views: Sequence[SampleView]) -> list[RenderableType]:
    """The likeliest classes: a bar each."""
    found = answers(views)
    if found is None:
        return []
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for number_, bar in enumerate(found["bars"]):
        drawn = [Line("█" * round(bar["share"] * BARS / 100) or "▏")] if found["likely"] else []
        style = "bold" if number_ == 0 else ""
        table.add_row(Line(plain(bar["name"]), style), *drawn, Line(bar["said"], style, justify="right"))
    return [table, Line("")]


def fits_of(views: Sequence[SampleView]) -> list[RenderableType]:
    """How well each class fits that a picture is compared with: a bar each."""
    fits = next((v.exp.compared for v in views if v.exp.compared is not None), None)
    if fits is None:
        return []
    shown = bars_of(fits, views)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for bar in shown["bars"]:
        drawn = "█" * round(bar["share"] * BARS / 100) or "▏"
        bars = [Line(drawn), Line(bar["said"], justify="right")] if shown["likely"] else []
        table.add_row(Line(plain(bar["name"])), *bars, Line(f"logit {bar['logit']}", "dim"))
    more = [Line(f"{shown['more']}.", style="dim")] if shown["more"] else []
    alone = len({v.exp.target for v in views}) == 1 < len(fits.names)
    of = (
        [Line("One of them is explained here; --target names another, --target all each.", style="dim")]
        if alone
        else []
    )
    return [Line(shown["how"], style="dim"), table, *more, *of, Line("")]


def _panel(panel: Panel, width: int, coloured: bool) -> list[RenderableType]:
    if isinstance(panel, PictureView) and panel.regions and not coloured:
        pieces = [TextPiece(f"region {i + 1} {_span(b)}", float(v)) for i, (b, v) in enumerate(_regions(panel))]
        return [strongest(pieces, "region"), Line(legend(panel.scale), style="dim")]
    if isinstance(panel, SoundView):
        shown = [blocks(panel, width)] if coloured else []
        return [*shown, strongest(panel.moments, "moment"), Line(legend(panel.scale), style="dim")]
    if isinstance(panel, PictureView):
        drawing = blocks(panel, width) if coloured else digits(panel, width)
        return [drawing, Line(legend(panel.scale, "" if coloured else "digits are tenths of it"), style="dim")]
    if isinstance(panel, ChartView):
        pieces = [TextPiece(f"token {i}", s) for i, s in enumerate(panel.scores)]
        return [
            Line(plain(panel.name), style="dim"),
            strongest(pieces, "token"),
            Line(legend(panel.scale), style="dim"),
        ]
    return _text(panel, coloured)


def _regions(panel: PictureView) -> Iterator[tuple[Box, float]]:
    return zip(panel.regions, panel.cells[0].tolist(), strict=True)


def _span(box: Box) -> str:
    """A box in the picture's pixels."""
    left, top, right, bottom = (round(v) for v in box)
    return f"({left}, {top})-({right}, {bottom})"


def _text(panel: TextView, coloured: bool) -> list[RenderableType]:
    pieces, scale = panel.best
    table = strongest(pieces, "word" if panel.words else "token")
    running: list[RenderableType] = [words(pieces, scale, "" if panel.words else " "), Line("")] if coloured else []
    return [*running, table, Line(legend(scale), style="dim")]


def legend(scale: ColourScale, more: str = "") -> str:
    """The scale in words."""
    if scale.limit == 0:
        return scale.note
    said = f"scale: {scale.ticks()[0][1]} to {scale.ticks()[-1][1]}"
    return "; ".join(s for s in (said, scale.note, more) if s)


def blocks(panel: PictureView, width: int) -> Line:
    """A map over its picture in half-blocks: two pixels a character, as wide as fits, at most `COLUMNS`."""
    if panel.picture is not None:
        pixels = shrink(blend(panel), min(width, COLUMNS))
    else:
        times = max(1, min(width, COLUMNS) // panel.cells.shape[1])
        pixels = shrink(np.kron(panel.scale.over(panel.cells, DARK), np.ones((times, times, 1))), min(width, COLUMNS))
    pixels = np.concatenate([pixels, pixels[-1:]]) if len(pixels) % 2 else pixels
    drawn = Line(no_wrap=True)
    for upper, lower in zip(pixels[::2], pixels[1::2]):
        for a, b in zip(upper, lower):
            drawn.append("▀", Style(color=_hex(a), bgcolor=_hex(b)))
        drawn.append("\n")
    drawn.rstrip()
    return drawn


def digits(panel: PictureView, width: int) -> Line:
    """A map in digits, one cell a token where that fits: sign and tenths of the scale, `.` for zero."""
    cells = panel.cells
    if 2 * cells.shape[1] > width:
        cells = shrink(cells[..., None], max(1, width // 2))[..., 0]
    unit = panel.scale.unit(cells)
    return Line("\n".join("".join(_digit(u) for u in row) for row in unit), no_wrap=True)


def _digit(unit: float) -> str:
    tenth = min(9, int(abs(unit) * 10))
    return " ." if tenth == 0 else f"{'-' if unit < 0 else ' '}{tenth}"


def words(pieces: list[TextPiece], scale: ColourScale, gap: str = "") -> Line:
    """Running text with coloured words; below a tenth of the scale a word keeps the terminal's own colours."""
    drawn = Line()
    for piece in pieces:
        text = plain(piece.text, keep="\n")
        if piece.score is None or abs(float(scale.unit(piece.score))) < 0.1:
            drawn.append(text)
        else:
            paper = scale.over(piece.score, DARK)
            drawn.append(
                text, Style(color={"#000": "#000000", "#fff": "#ffffff"}[text_colour(paper)], bgcolor=_hex(paper))
            )
        drawn.append(gap)
    return drawn


def strongest(pieces: list[TextPiece], what: str) -> Table:
    """The scored pieces of largest magnitude, in order of magnitude."""
    scored = [(p.score, p.text) for p in pieces if p.score is not None]
    first = sorted(scored, key=lambda p: -abs(np.nan_to_num(p[0])))[:STRONGEST]
    table = Table(box=None, pad_edge=False)
    table.add_column(f"strongest {what}s" + ("" if len(scored) <= STRONGEST else f" ({len(first)} of {len(scored)})"))
    table.add_column("score", justify="right", no_wrap=True)
    for score, text in first:
        table.add_row(Line(plain(text)), number(score))
    return table


def together(found: PairTable) -> Table:
    """The words and patches that do most together, with where each patch is."""
    table = Table(box=None, pad_edge=False)
    table.add_column("strongest pairs: a word and a patch")
    table.add_column("together", justify="right", no_wrap=True)
    for pair in found.strongest():
        patch = place_of(pair, found.picture.cells.shape)
        table.add_row(Line(plain(f"{pair.text} with {patch}")), pair.said)
    return table


def _receipt(view: SampleView) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("name", style="dim", max_width=18)
    table.add_column("value", overflow="fold")
    for line in lines(view.exp, view.sample):
        value = Line(plain(line.value))
        table.add_row(escape(line.name), value.append(f"  {plain(line.meaning)}", "dim") if line.meaning else value)
    return table


def shrink(pixels: Array, columns: int) -> Array:
    """Average an image (height, width, channels) down to `columns`, proportions kept; smaller ones stay as they are."""
    height, width = pixels.shape[:2]
    if width <= columns:
        return np.asarray(pixels, dtype=np.float64)
    rows = max(1, round(height * columns / width))
    across = np.stack([pixels[:, a:b].mean(1) for a, b in _spans(width, columns)], 1)
    return np.stack([across[a:b].mean(0) for a, b in _spans(height, min(rows, height))], 0)


def _spans(size: int, parts: int) -> Iterator[tuple[int, int]]:
    edges = [round(i * size / parts) for i in range(parts + 1)]
    return itertools.pairwise(edges)


def _hex(rgb: Array) -> str:
    r, g, b = (round(float(v)) for v in rgb)
    return f"#{r:02x}{g:02x}{b:02x}"


def _on_picture(row: WrittenRow) -> list[str]:
    """The share of a picture or a sound in a written token's map, where it has one; its places are too many to name."""
    return [f"the {name} ({share:.1%} of the map)" for name, share in row.shares if name in ("picture", "sound")]


def written(g: Generation) -> list[list[str]]:
    """One row a token that was written: the token, the target's value, and the words that it rests on most."""
    v = written_view(g)
    tokens = [u for u in v.written.units["tokens"] if u.tokens and u.tokens[0] >= v.first]
    return [
        [
            plain(unit.text.strip()) or "(white space)",
            number(float(exp.receipt.target_value[0])),
            ", ".join([*_on_picture(row), *(f"{plain(word)} {score}" for word, score in row.most["words"])]),
        ]
        for unit, exp, row in zip(tokens, g, v.rows, strict=True)
    ]
