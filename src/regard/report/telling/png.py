"""What tells two classes apart as one matplotlib figure: pictures, maps on the canvas, maps on the first picture itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from regard.explanation.percents import percent as chance
from regard.explanation.told import Told
from regard.report.colour import LIGHT, Array, ColourScale
from regard.report.drawing import MOST, resized, veiled
from regard.report.figure import BLACK, EDGE, FAINT, axes_at, edged, made, place_at, safe, sheet, write
from regard.report.telling.html import percent
from regard.report.telling.view import Named, ToldView, view_of
from regard.report.view import enlarged

CELL, GAP = 2.75, 0.25  # inches
HEAD, NAMED, SCALE = 0.85, 0.55, 0.6


def plot(told: Told, path: str | os.PathLike[str] | None = None) -> Any:
    """Draw it; return the matplotlib Figure, and write it if `path`.

    Raises Misuse where matplotlib is missing, or for an ending that is no format.
    """
    return made(lambda: _figure(view_of(told)), path)


def _figure(view: ToldView) -> Any:
    told = view.told
    pictures = [p for _, p in view.pictures]
    first, second = _high(pictures), _high([told.composite])
    third = _high([told.first])
    height = 2 * EDGE + HEAD + first + second + third + 3 * NAMED + 2 * SCALE
    figure = sheet(2 * EDGE + 3 * CELL + 2 * GAP, height)
    at = height - EDGE
    write(figure, EDGE, at, _short(f"What tells {told.c} from {told.e}", 62), 14, BLACK, weight="bold")
    write(figure, EDGE, at - 0.33, _short(_sentence(view), 118), 9.5, FAINT)
    at -= HEAD
    rows = zip(view.pictures, told.probabilities.tolist(), strict=True)
    for i, ((name, picture), (c, e)) in enumerate(rows):
        under = f"{told.c} {chance(c)}, {told.e} {chance(e)}"
        _cell(figure, i, at, (name, under), resized(enlarged(picture), MOST).pixels.cpu().numpy())
    at -= first + NAMED
    for i, (m, under) in enumerate(zip(view.canvas, _UNDER, strict=True)):
        _cell(figure, i, at, (m.title, under), _drawn(m))
    at -= second + NAMED
    _scale(figure, 0, at - 0.05, 3 * CELL + 2 * GAP - 0.3, view.scale)
    at -= SCALE
    for i, (m, under) in enumerate(zip(view.own, _OWN, strict=True)):
        _cell(figure, i, at, (m.title, under), _drawn(m))
        _scale(figure, i, at - third - NAMED + 0.05, CELL - 0.3, m.panel.scale)
    return figure


_OWN = ("without the other picture", "on the canvas", "the guided map")
_UNDER = ("on the canvas, in orange", "on the canvas, in blue", "what tells them apart")


def _sentence(view: ToldView) -> str:
    told, (c, e) = view.told, view.shares
    said = f"Orange speaks for {told.c}, blue for {told.e}"
    if c is None or e is None:
        return said
    return (
        f"{said}: {percent(c)} of the orange lies on {told.first.name}, {percent(e)} of the blue on {told.second.name}"
    )


def _high(pictures: Sequence[Any]) -> float:
    """The height of a row of pictures in inches."""
    return float(max(CELL * min(2.0, p.pixels.shape[0] / p.pixels.shape[1]) for p in pictures))


def _drawn(m: Named) -> Array:
    return veiled(m.panel, CELL)


def _cell(figure: Any, column: int, top: float, titles: tuple[str, str], pixels: Array) -> None:
    left = EDGE + column * (CELL + GAP)
    write(figure, left, top, _short(titles[0], 40), 9.5, BLACK)
    write(figure, left, top - 0.17, _short(titles[1], 46), 8.5, FAINT)
    axes = axes_at(figure, left, top - 0.37, CELL, CELL * min(2.0, pixels.shape[0] / pixels.shape[1]))
    axes.imshow(pixels, interpolation="antialiased", aspect="auto")
    edged(axes)


def _scale(figure: Any, column: int, top: float, width: float, scale: ColourScale) -> None:
    """The drawn scale, lying, with its numbers."""
    left = EDGE + column * (CELL + GAP) + 0.15
    if scale.limit == 0:
        write(figure, left, top, scale.note, 8, FAINT)
        return
    low = -scale.limit if scale.signed else 0.0
    axes = figure.add_axes(place_at(figure, left, top, width, 0.12))
    axes.imshow(
        scale.over(np.linspace(low, scale.limit, 256)[None], LIGHT), aspect="auto", extent=(low, scale.limit, 0.0, 1.0)
    )
    axes.set_yticks([])
    axes.set_xticks([v for v, _ in scale.ticks()], [s for _, s in scale.ticks()], fontsize=8, color=BLACK)


def _short(text: str, most: int) -> str:
    drawn = safe(" ".join(text.split()))
    return drawn if len(drawn) <= most else drawn[: most - 1] + "…"
