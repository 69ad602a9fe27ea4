"""A `Generation` as a matplotlib figure: one row a token written, one column a token that it may rest on.

Each row has its own scale, as tokens differ in how much they rest on anything. Places of a picture are left to the small maps
above the matrix, one for each token written.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from regard.explanation.generation import Generation
from regard.report import need
from regard.report.colour import LIGHT, Array
from regard.report.figure import blend, save, sheet
from regard.report.generation.view import GenerationView, TextUnit, view
from regard.report.view import PictureView, plain

CELL = 0.24  # inches
LETTER = 0.075  # inches, about
COLUMNS, ROWS, MAPS = 90, 60, 12  # drawn at most; the page shows all


def plot(g: Generation, path: str | os.PathLike[str] | None = None) -> Any:
    """Draw the map; return the matplotlib Figure, and write it as PNG if `path`. Raises Misuse without matplotlib."""
    need("viz")
    figure = _figure(g, view(g))
    return figure if path is None else save(figure, path)


def _figure(g: Generation, v: GenerationView) -> Any:
    units = [u for u in v.coloured("words") if len(u.tokens) == 1 or any(r.scores[u.tokens].any() for r in v.rows)]
    written = [u for u in units if u.tokens[0] >= v.first]
    ahead = units[: len(units) - len(written)]
    columns = [*ahead[-max(COLUMNS - len(written), 8) :], *written][:COLUMNS]
    rows = min(len(v.rows), ROWS)
    maps = [r.pictures[0] for r in v.rows[:MAPS] if r.pictures]
    above = 1.15 * -(-len(maps) // 6)
    names = 0.2 + LETTER * max(len(_name(u)) for u in columns)
    width = max(1.6 + CELL * len(columns) + 0.3, 1.6 + 1.15 * min(len(maps), 6) + 0.3, 6.0)
    height = 0.5 + above + names + CELL * rows + 0.3
    figure = sheet(width, height)
    title = f"{g.method}: what each written token rests on ({g.target.replace('_', '-')})"
    figure.text(0.15 / width, 1 - 0.15 / height, title, va="top", fontsize=11, fontweight="bold", parse_math=False)
    _maps(figure, maps, [_name(u) for u in written], width, height)
    _matrix(figure, v, columns, written[:rows], (width, height, 0.5 + above + names))
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
        pixels = panel.scale.over(panel.cells, LIGHT) if panel.picture is None else blend(panel)
        left, top = 1.6 + 1.15 * (i % 6), 0.7 + 1.15 * (i // 6)
        axes = figure.add_axes((left / width, 1 - (top + 0.85) / height, 0.95 / width, 0.85 / height))
        axes.imshow(pixels)
        axes.set_axis_off()
        axes.set_title(names[i], fontsize=7.5, pad=2, parse_math=False)


def _name(unit: TextUnit) -> str:
    text = plain(unit.text.strip() or ("↵" if "\n" in unit.text else "␣"))
    return text if len(text) <= 14 else text[:13] + "…"
