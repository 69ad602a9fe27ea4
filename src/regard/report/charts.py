"""Figures of protocols: what a table of summaries says, as curves with their bootstrap intervals.

Object interface of matplotlib only, like `png`: no pyplot, no global state.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from typing import Any

from regard.evaluation.attribution_error import Summary
from regard.explanation import write_atomically
from regard.report import need

DPI = 120
INK, FAINT, GRID = "#1b1d22", "#5c616b", "#e3e5ea"
# Okabe and Ito's colours, told apart by most eyes; then the same again with other markers.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#3d3d3d")
MARKERS = "os^Dv"
LEAST = 1e-4
"""Errors below this share of |T| are drawn there."""


def attribution_error(summaries: Sequence[Summary], path: str | os.PathLike[str] | None = None, title: str = "") -> Any:
    """Median ε/|T| of each method over sites, on a logarithmic scale, with 95 % bootstrap intervals.

    A method at several sites is a curve, one with its own site a mark. Returns the matplotlib Figure, and writes it as PNG if
    `path`. Raises Misuse without matplotlib.
    """
    need("viz")
    defined = [s for s in summaries if not math.isnan(s.relative_error.value)]
    sites = list(dict.fromkeys(s.site for s in defined))
    figure, axes = _axes(max(6.5, 1.1 * len(sites) + 4.2), 4.4, title)
    groups = dict.fromkeys((s.method, s.baseline) for s in defined)
    for i, (method, baseline) in enumerate(groups):
        own = [s for s in defined if (s.method, s.baseline) == (method, baseline)]
        x = [sites.index(s.site) + 0.05 * (i % 5 - 2) for s in own]
        y = [[max(v, LEAST) for v in s.relative_error] for s in own]
        below, above = ([abs(v[side] - v[0]) for v in y] for side in (1, 2))
        axes.errorbar(
            x, [v[0] for v in y], (below, above), color=COLOURS[i % len(COLOURS)], lw=1.4, elinewidth=1, ms=4.5,
            marker=MARKERS[i // len(COLOURS) % len(MARKERS)], label=f"{method} ({baseline})",
        )  # fmt: skip
    axes.axhline(1.0, color=FAINT, lw=0.8, ls=(0, (4, 3)))
    axes.set(yscale="log", ylabel="attribution error, share of |T|", xticks=range(len(sites)))
    axes.set_xticklabels(sites, rotation=30, ha="right", parse_math=False)
    return _written(figure, axes, path)


def _axes(width: float, height: float, title: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=9)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, parse_math=False)
    return figure, axes


def _written(figure: Any, axes: Any, path: str | os.PathLike[str] | None) -> Any:
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8.5)
    for text in legend.get_texts():
        text.set_parse_math(False)
    if path is not None:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        write_atomically(path, buffer.getvalue())
    return figure
