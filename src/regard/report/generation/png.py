"""A `Generation` as a matplotlib figure: one row a token written, one column a token that it may rest on.

Each row has its own scale unless one is asked for that all share, as tokens differ in how much they rest on anything. Places
of a picture are left to the small maps above the matrix, one for each token written.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np

from regard.explanation.generation import Generation
from regard.report.colour import LIGHT, Array, ColourScale
from regard.report.drawing import drawing
from regard.report.figure import edged, flat_bar, made, sheet
from regard.report.generation.view import GenerationView, TextUnit, view
from regard.report.look import Look, Scale, limited, shared
from regard.report.view import PictureView, plain

CELL = 0.24  # inches
LETTER = 0.075  # inches, about
COLUMNS, ROWS, MAPS = 90, 60, 12  # drawn at most; the page shows all


def plot(g: Generation, path: str | os.PathLike[str] | None = None, *, cmap: Any = None, scale: Scale = "own") -> Any:
    """Draw the map; return the matplotlib Figure, and write it if `path`, in the format of its ending.

    scale: "own", of each row; "shared", of all rows; or the score that gets the full colour. cmap: as in `Explanation.plot`.
    Raises Misuse without matplotlib, and for an ending, a colour map or a scale that is none.
    """

    def draw() -> Any:
        look = Look.of(cmap, scale)
        return _figure(g, _looked(view(g), look), look)

    return made(draw, path)


def _looked(v: GenerationView, look: Look) -> GenerationView:
    """All rows and their maps of pictures on the scales that were asked for."""
    words = [r.scales["words"] for r in v.rows]
    pictures = [r.pictures[0] for r in v.rows if r.pictures]
    one = shared(pictures) if pictures else None
    rows = []
    for row in v.rows:
        small = [replace(p, scale=_asked(p.scale, one, look)) for p in row.pictures[:1]]
        scale = _asked(row.scales["words"], _highest(words), look)
        rows.append(replace(row, scales=row.scales | {"words": scale}, pictures=small))
    return replace(v, rows=rows)


def _asked(own: ColourScale, together: ColourScale | None, look: Look) -> ColourScale:
    """A scale as it was asked for."""
    if look.scale == "shared" and together is not None:
        return look.coloured(together)
    return look.coloured(limited(own, look.scale) if isinstance(look.scale, float) else own)


def _highest(scales: list[ColourScale]) -> ColourScale:
    """One scale of several rows, up to the highest limit of theirs."""
    signed, top = any(s.signed for s in scales), max(s.top for s in scales)
    return replace(max(scales, key=lambda s: s.limit), signed=signed, top=top)


def _figure(g: Generation, v: GenerationView, look: Look) -> Any:
    units = [u for u in v.coloured("words") if len(u.tokens) == 1 or any(r.scores[u.tokens].any() for r in v.rows)]
    written = [u for u in units if u.tokens[0] >= v.first]
    ahead = units[: len(units) - len(written)]
    columns = [*ahead[-max(COLUMNS - len(written), 8) :], *written][:COLUMNS]
    rows = min(len(v.rows), ROWS)
    maps = [r.pictures[0] for r in v.rows[:MAPS] if r.pictures]
    above = 1.15 * -(-len(maps) // 6)
    names = 0.2 + LETTER * max(len(_name(u)) for u in columns)
    width = max(1.6 + CELL * len(columns) + 0.3, 1.6 + 1.15 * min(len(maps), 6) + 0.3, 6.0)
    bar = 0.0 if look.scale == "own" else 0.45
    height = 0.5 + above + names + CELL * rows + 0.3 + bar
    figure = sheet(width, height)
    title = f"{g.method}: what each written token rests on ({g.target.replace('_', '-')})"
    figure.text(0.15 / width, 1 - 0.15 / height, title, va="top", fontsize=11, fontweight="bold", parse_math=False)
    _maps(figure, maps, [_name(u) for u in written], width, height)
    _matrix(figure, v, columns, written[:rows], (width, height, 0.5 + above + names))
    if bar:
        flat_bar(figure, 1.5, 0.55, v.rows[0].scales["words"])
    return figure


def _matrix(
    figure: Any, v: GenerationView, columns: list[TextUnit], written: list[TextUnit], room: tuple[float, ...]
) -> None:
    width, height, top = room
    size = (CELL * len(columns) / width, CELL * len(written) / height)
    axes = figure.add_axes((1.6 / width, 1 - top / height - size[1], *size))
    axes.imshow(_cells(v, columns, len(written)), interpolation="nearest", aspect="auto")
    axes.set_xticks(range(len(columns)), [_name(u) for u in columns], rotation=90, fontsize=7.5, parse_math=False)
    axes.set_yticks(range(len(written)), [_name(u) for u in written], fontsize=7.5, parse_math=False)
    axes.tick_params(length=0, pad=3, labeltop=True, labelbottom=False, top=False, bottom=False)
    for label, unit in zip(axes.get_xticklabels(), columns, strict=True):
        label.set_color("#8a909b" if unit.special else "#1b1d22")
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(written) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e2e5ea", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    border = next((i for i, u in enumerate(columns) if u.tokens[0] >= v.first), len(columns))
    axes.axvline(border - 0.5, color="#1b1d22", linewidth=1.2)
    for side in axes.spines.values():
        side.set_color("#9aa0aa")


def _cells(v: GenerationView, columns: list[TextUnit], rows: int) -> Array:
    """uint8 (row, column, 3); what a token cannot look at is grey."""
    out = np.empty((rows, len(columns), 3), dtype=np.uint8)
    for i, row in enumerate(v.rows[:rows]):
        out[i] = row.scales["words"].over(np.array([row.scores[u.tokens].sum() for u in columns]), LIGHT)
        out[i, [u.tokens[0] >= v.first + i for u in columns]] = (238, 240, 243)
    return out


def _maps(figure: Any, maps: list[PictureView], names: list[str], width: float, height: float) -> None:
    for i, panel in enumerate(maps):
        pixels = drawing(panel, 0.95)
        left, top = 1.6 + 1.15 * (i % 6), 0.7 + 1.15 * (i // 6)
        axes = figure.add_axes((left / width, 1 - (top + 0.85) / height, 0.95 / width, 0.85 / height))
        axes.imshow(pixels)
        edged(axes)
        axes.set_title(names[i], fontsize=7.5, pad=2, parse_math=False)


def _name(unit: TextUnit) -> str:
    text = plain(unit.text.strip() or ("↵" if "\n" in unit.text else "␣"))
    return text if len(text) <= 14 else text[:13] + "…"
