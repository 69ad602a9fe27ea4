"""The figures of the laboratory: closed forms against what they are tested with, and a word moved through a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regard.report.evaluation.charts import DARK, DPI, LIGHT, Theme
from regard.theory.laboratory import Agreement, Findings, Numbers

DOTS = 3000
"""The most points of a cloud that are drawn: every so-manieth of more."""


def agreement(found: Findings, dark: bool = False) -> Any:
    """Six panels: a formula on the vertical axis, its reference on the horizontal one; equal numbers lie on the line."""
    theme = DARK if dark else LIGHT
    figure, grid = _sheet(10.2, 6.8, 2, 3, theme)
    a = found.agreements
    _cloud(grid[0], a["gradient"], theme, "Gradient", "closed form", "autograd")
    _cloud(grid[1], a["enumerated"], theme, "Exact limit of LIME", "formula", "least squares, all perturbations")
    _cloud(grid[2], a["sampled"], theme, "LIME, infinite bandwidth", "sampled, most samples", "exact limit")
    _cloud(grid[3], a["paper, trained"], theme, "The 3/2 formula, trained", "3/2 formula", "exact limit", slope=1.5)
    _cloud(
        grid[4], a["paper, random"], theme, "The 3/2 formula, random weights", "3/2 formula", "exact limit", slope=1.5
    )
    _decay(grid[5], found, theme)
    return figure


def position(found: Findings, dark: bool = False) -> Any:
    """What the explainers give one word, by the place it is put at."""
    theme = DARK if dark else LIGHT
    figure, (axes, other) = _sheet(10.2, 3.3, 1, 2, theme)
    word, sentence = found.moved
    x = np.arange(len(found.places["f"]))
    for i, name in enumerate(("LIME", "G×I", "f")):
        label = {"LIME": "LIME, exact limit", "f": "f of the whole sentence"}.get(name, name)
        axes.plot(x, found.places[name], "os^"[i] + "-", color=theme.methods[i], lw=1.6, ms=4, label=label)
    axes.axhline(0, color=theme.faint, lw=0.8)
    other.plot(x, found.places["α-avg"], "o-", color=theme.methods[3], lw=1.6, ms=4, label="α-avg")
    other.set_ylim(0, None)
    for place, title in ((axes, f"What “{word}” says"), (other, f"How much attention “{word}” gets")):
        place.set_title(title, fontsize=10, color=theme.ink, parse_math=False, loc="left")
        place.set_xticks(x)
        place.set_xticklabels([*sentence, "(end)"][: len(x)], rotation=60, ha="right", fontsize=8, parse_math=False)
        place.set_xlabel("put before", fontsize=9, color=theme.faint)
    _legend(axes, theme)
    return figure


def _legend(axes: Any, theme: Theme, **where: Any) -> None:
    """On paper of its own, so that no line of the grid runs through its words."""
    box = {"facecolor": theme.paper, "edgecolor": "none", "framealpha": 1.0}
    axes.legend(labelcolor=theme.ink, fontsize=8, **box, **where)


def _sheet(width: float, height: float, rows: int, columns: int, theme: Theme) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=theme.paper, layout="constrained")
    FigureCanvasAgg(figure)
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in every:
        axes.set_facecolor(theme.paper)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(theme.faint)
        axes.grid(color=theme.grid, lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=theme.faint, labelsize=8.5)
    return figure, every


def _cloud(axes: Any, of: Agreement, theme: Theme, title: str, y: str, x: str, slope: float | None = None) -> None:
    """One dot a number, the line of equal numbers, and where asked a second line."""
    down, across = (_thinned(v) for v in (of.formula, of.reference))
    reach = 1.08 * float(np.abs(across).max() or 1.0)
    axes.plot((-reach, reach), (-reach, reach), color=theme.faint, lw=0.9, label="equal")
    if slope is not None:
        ends = (-slope * reach, slope * reach)
        axes.plot((-reach, reach), ends, color=theme.methods[1], lw=0.9, ls=(0, (4, 3)), label=f"{slope:g} times")
        _legend(axes, theme, loc="upper left")
    axes.plot(across, down, ".", ms=4, color=theme.methods[0], alpha=0.55, mew=0)
    axes.set_title(title, fontsize=10, color=theme.ink, loc="left")
    axes.set_xlabel(x, fontsize=9, color=theme.faint)
    axes.set_ylabel(y, fontsize=9, color=theme.faint)


def _thinned(parts: Sequence[Numbers]) -> Numbers:
    whole: Numbers = np.concatenate(parts)
    return whole[:: -(-len(whole) // DOTS)]


def _decay(axes: Any, found: Findings, theme: Theme) -> None:
    """The error of sampled LIME, and the slope of one over the root of samples."""
    n, error = (np.array([*v], dtype=float) for v in (found.errors.keys(), found.errors.values()))
    axes.loglog(n, error, "o-", color=theme.methods[0], lw=1.6, ms=4, label="measured")
    middle = len(n) // 2
    axes.loglog(
        n, error[middle] * np.sqrt(n[middle] / n), color=theme.faint, lw=0.9, ls=(0, (4, 3)), label="1 / √samples"
    )
    axes.set_title("Sampled LIME nears its limit", fontsize=10, color=theme.ink, loc="left")
    axes.set_xlabel("samples", fontsize=9, color=theme.faint)
    axes.set_ylabel("root mean square error", fontsize=9, color=theme.faint)
    axes.set_xticks(n)
    axes.set_xticklabels([f"{v:g}" for v in n], rotation=45)
    axes.minorticks_off()
    _legend(axes, theme)


__all__ = ["agreement", "position"]
