"""Figures of protocols: what a table of summaries says, as curves with their bootstrap intervals and as paired differences.

Object interface of matplotlib only, like `png`: no pyplot, no global state. Many methods are told apart by being few at a time:
curves stand in panels of at most six, in the order of their areas, with the floors in grey in each.
"""

from __future__ import annotations

import io
import math
import os
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from regard.errors import Misuse, nearest
from regard.evaluation.measured import MethodColumns, MetricColumn, Rows, measured
from regard.evaluation.ranking import floors
from regard.evaluation.statistics import Interval, bootstraps, mean
from regard.evaluation.summaries import Difference, Summary, differences, paired_values
from regard.explanation.counts import quantity
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.figure import format_of, written


class Theme(NamedTuple):
    """Colours of paper, of words and lines, and of methods: told apart by most eyes (after Okabe and Ito)."""

    paper: str
    ink: str
    faint: str
    grid: str
    methods: tuple[str, ...]


LIGHT = Theme("#ffffff", "#1b1d22", "#5c616b", "#e3e5ea",
              ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#3d3d3d"))  # fmt: skip
DARK = Theme("#14161b", "#e6e8ec", "#a3a9b5", "#363b45",
             ("#56b4e9", "#ff8f4d", "#2fc79a", "#e79ac8", "#e6c34a", "#b3a1ff", "#9bd1ff", "#d0d0d0"))  # fmt: skip
DPI = 120
MARKERS = "os^Dv"
LEAST = 1e-4
"""Errors below this share of |T| are drawn there."""
PANEL = 6
FLOORS = {name: (0, (5, 2)) if looks else (0, (1, 2)) for name, looks in floors().items()}
"""How lines of the floors are drawn: dashed, and dotted for noise."""
SPLIT = ("right", "wrong")


def attribution_error(summaries: Sequence[Summary], path: str | os.PathLike[str] | None = None, title: str = "") -> Any:
    """Median ε/|T| of each method over sites, on a logarithmic scale, with 95 % bootstrap intervals.

    A method at several sites is a curve, one with its own site a mark. Returns the matplotlib Figure, and writes it if
    `path`. Raises Misuse without matplotlib.
    """
    need("viz")
    defined = [
        s for s in summaries if s.metric == "relative_error" and s.split == "all" and not math.isnan(s.value.value)
    ]
    sites = list(dict.fromkeys(s.site for s in defined))
    figure, (axes,) = _figure(max(6.5, 1.1 * len(sites) + 4.2), 4.4, title, LIGHT)
    groups = dict.fromkeys((s.title, s.baseline) for s in defined)
    colours = LIGHT.methods
    for i, (title_of, baseline) in enumerate(groups):
        own = [s for s in defined if (s.title, s.baseline) == (title_of, baseline)]
        x = [sites.index(s.site) + 0.05 * (i % 5 - 2) for s in own]
        y = [[max(v, LEAST) for v in s.value] for s in own]
        below, above = ([abs(v[side] - v[0]) for v in y] for side in (1, 2))
        axes.errorbar(
            x, [v[0] for v in y], (below, above), color=colours[i % len(colours)], lw=1.4, elinewidth=1, ms=4.5,
            marker=MARKERS[i // len(colours) % len(MARKERS)], label=f"{title_of} ({baseline})",
        )  # fmt: skip
    axes.axhline(1.0, color=LIGHT.faint, lw=0.8, ls=(0, (4, 3)))
    axes.set(yscale="log", ylabel="attribution error, share of |T|", xticks=range(len(sites)))
    axes.set_xticklabels(sites, rotation=30, ha="right", parse_math=False)
    _legend(axes, LIGHT, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8.5)
    return saved(figure, path)


# -- curves ------------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A method's curve: its mean step by step with intervals, and its area (of one with no area of its own: its mean)."""

    title: str
    x: tuple[float, ...]
    band: list[Interval]
    area: Interval
    examples: int


def curves(
    rows: Rows,
    name: str,
    path: str | os.PathLike[str] | None = None,
    title: str = "",
    *,
    split: bool = False,
    dark: bool = False,
    seed: int = 0,
) -> Any:
    """A curve of the rows of one protocol (`probability`, `accuracy`, ...): one line a method, with 95 % bootstrap bands.

    Legends are in the order of areas, the largest first. `split`: examples that the model has right on the left, those that it
    has wrong on the right. Returns the matplotlib Figure, and writes it if `path`. Raises Misuse where the rows
    are of several protocols or none has the curve.
    """
    return saved(CurveFigure.of(rows, name, split=split, seed=seed).draw(title, dark=dark), path)


class CurveFigure(NamedTuple):
    """What a figure of curves shows, to be drawn on light and on dark paper.

    Attributes:
        parts: the lines of each panel beside another, right and wrong; without a split, one of all. every: the lines of all.
    """

    name: str
    axis: str
    every: list[Line]
    parts: list[list[Line]]

    @classmethod
    def of(cls, rows: Rows, name: str, *, split: bool = False, seed: int = 0) -> CurveFigure:
        """Raises as `curves`."""
        need("viz")
        own = _of_one_protocol(rows)
        every = lines(own, name, seed)
        parts = [_lines(sided(own, s), name, seed) for s in SPLIT] if split else [every]
        return cls(name, own[0].protocol.axis, every, parts)

    def draw(self, title: str = "", *, dark: bool = False) -> Any:
        """The matplotlib Figure."""
        theme, split = DARK if dark else LIGHT, len(self.parts) > 1
        found = [{line.title: line for line in part} for part in self.parts]
        groups = panels([line.title for line in self.every])
        columns = 2 if split or len(groups) > 1 else 1
        cells = [(group, s) for group in groups for s in range(len(found))]
        high = 3.1 + 0.19 * max(len(g) for g in groups)
        figure, axes = _figure(
            (5.2 if columns > 1 else 4.8) * columns, high * -(-len(cells) // columns), title, theme, len(cells), columns
        )
        for place, (group, s) in zip(axes, cells, strict=False):
            _draw(place, [found[s][m] for m in group if m in found[s]], theme)
            count = max((line.examples for line in found[s].values()), default=0)
            place.set_xlabel(self.axis, fontsize=9, color=theme.faint)
            place.set_ylabel(self.name.replace("_", " "), fontsize=9, color=theme.faint)
            if split:
                place.set_title(f"model {SPLIT[s]}, {quantity(count, 'example')}", fontsize=9, color=theme.ink)
        return figure


def lines(rows: Rows, name: str, seed: int = 0) -> list[Line]:
    """The lines of all methods, the largest area first. Raises UnknownName where no row has such a curve of numbers."""
    out = _lines(measured(rows), name, seed)
    if not out:
        raise nearest(name, drawable(rows), "curve among the rows")
    return out


def _lines(own: Sequence[MethodColumns], name: str, seed: int) -> list[Line]:
    """Those of the methods that have one; the area is the metric that the protocol says, or else the mean over the curve."""
    out = []
    for m in own:
        found = m.curve(name)
        good = None if found is None else found.finite
        if good is not None and len(good.of):
            area = good.y.mean(1)
            known = m.values.get(m.protocol.areas.get(name, ""))
            if known is not None:
                *_, there = paired_values(MetricColumn(good.of, area), known)
                area[np.isin(good.of, known.of)] = there
            every = np.concatenate([area[:, None], good.y], 1)
            first, *band = bootstraps(every, mean, seed, m.examples.groups[good.of])
            out.append(Line(m.title, tuple(good.x.tolist()), band, first, len(good.of)))
    return sorted(out, key=lambda line: -line.area.value)


def drawable(rows: Rows) -> list[str]:
    """The names of curves that some example has, with a number at each step."""
    own = measured(rows)
    names = dict.fromkeys(name for m in own for name in m.points)
    return [n for n in names if any((c := m.curve(n)) is not None and len(c.finite.of) for m in own)]


def sided(own: Sequence[MethodColumns], which: str) -> list[MethodColumns]:
    """The examples that the model has right, or wrong; methods that have none are not there."""
    return [part for m in own if (part := m.by_side().get(which)) is not None]


def panels(methods: Sequence[str]) -> list[list[str]]:
    """Methods in groups of at most `PANEL`, as even as can be; where there are several, the floors stand in each."""
    if len(methods) <= PANEL + 2:
        return [list(methods)]
    others = [m for m in methods if m not in FLOORS]
    parts = np.array_split(np.arange(len(others)), -(-len(others) // PANEL))
    kept = [{others[i] for i in part} | set(FLOORS) for part in parts]
    return [[m for m in methods if m in own] for own in kept]


def _draw(axes: Any, shown: Sequence[Line], theme: Theme) -> None:
    """The lines of one panel."""
    styles = ({"color": c, "marker": m, "lw": 1.6} for m, c in zip("os^DvPX*", theme.methods, strict=True))
    for line in shown:
        floor = FLOORS.get(line.title)
        style = next(styles) if floor is None else {"color": theme.faint, "ls": floor, "lw": 1.4}
        y, low, high = ([p[i] for p in line.band] for i in range(3))
        axes.fill_between(line.x, low, high, color=style["color"], alpha=0.13, lw=0)
        axes.plot(line.x, y, ms=4, label=f"{line.title}  {line.area}", **style)
    if not shown:
        axes.text(0.5, 0.5, "no example", transform=axes.transAxes, ha="center", color=theme.faint)
        return
    _legend(axes, theme, loc="upper left", bbox_to_anchor=(0, -0.17), fontsize=8)


# -- paired differences ------------------------------------------------------------------------------------------------


def forest(
    rows: Rows,
    metric: str,
    path: str | os.PathLike[str] | None = None,
    title: str = "",
    *,
    against: str = "random",
    split: bool = False,
    dark: bool = False,
    seed: int = 0,
) -> Any:
    """Paired differences of each method from one of them, under one protocol, with 95 % bootstrap intervals.

    Marks are filled where the interval leaves out zero. `split`: right and wrong apart, one mark each. The best stands on top.
    Returns the matplotlib Figure, and writes it if `path`. Raises Misuse where the rows are of several protocols,
    UnknownName where none has the metric, or the method to compare with is not there.
    """
    return saved(Forest.of(rows, metric, against=against, split=split, seed=seed).draw(title, dark=dark), path)


class Forest(NamedTuple):
    """What a figure of paired differences shows, to be drawn on light and on dark paper.

    Attributes:
        up: which way is better, or 0. order: titles, the best first. parts: name of a side, or "" -> its differences.
    """

    metric: str
    against: str
    up: int
    order: list[str]
    parts: dict[str, list[Difference]]

    @classmethod
    def of(cls, rows: Rows, metric: str, *, against: str = "random", split: bool = False, seed: int = 0) -> Forest:
        """Raises as `forest`."""
        need("viz")
        own = _of_one_protocol(rows)
        up = own[0].protocol.direction(metric)
        every = [d for d in differences(own, metric, against=against, seed=seed) if d.examples]
        order = [d.title for d in sorted(every, key=lambda d: (-(up or 1) * d.value.value, d.title))]
        sides = {s: sided(own, s) for s in SPLIT} if split else {}
        apart = {
            s: differences(part, metric, against=against, seed=seed) if _has(part, metric, against) else []
            for s, part in sides.items()
        }
        parts = {s: [d for d in found if d.title in order and d.examples] for s, found in apart.items()}
        return cls(metric, against, up, order, parts if split else {"": every})

    def draw(self, title: str = "", *, dark: bool = False) -> Any:
        """The matplotlib Figure."""
        theme, split = DARK if dark else LIGHT, len(self.parts) > 1
        figure, (axes,) = _figure(7.4, 1.3 + (0.36 if split else 0.25) * max(2, len(self.order)), title, theme)
        for i, (name, found) in enumerate(self.parts.items()):
            _marks(axes, found, self.order, i, name, theme)
        axes.axvline(0, color=theme.faint, lw=0.9)
        axes.grid(axis="x", color=theme.grid, lw=0.8)
        axes.grid(axis="y", visible=False)
        axes.set(ylim=(len(self.order) - 0.4, -0.6), yticks=range(len(self.order)))
        axes.set_yticklabels(self.order, parse_math=False, color=theme.ink)
        better = {1: " (right is better)", -1: " (left is better)", 0: ""}[self.up]
        axes.set_xlabel(f"{self.metric}, less that of {self.against}{better}", fontsize=9, color=theme.faint)
        if split:
            _legend(axes, theme, loc="lower right", bbox_to_anchor=(1.0, 1.0), fontsize=8.5, ncols=2)
        return figure


def _marks(axes: Any, found: Sequence[Difference], order: Sequence[str], i: int, name: str, theme: Theme) -> None:
    """One mark a method; of the second part below the first."""
    colour, shift = theme.methods[i], 0.0 if not name else (-0.16, 0.16)[i]
    for d in found:
        y = order.index(d.title) + shift
        axes.plot((d.value.low, d.value.high), (y, y), color=colour, lw=1.3)
        axes.plot(d.value.value, y, MARKERS[i], ms=5.5, color=colour, mfc=colour if d.sure else theme.paper, ls="")
    if name:
        count = max((d.examples for d in found), default=0)
        axes.plot([], [], MARKERS[i], ms=5.5, color=colour, ls="", label=f"model {name}, {quantity(count, 'example')}")


def _has(own: Sequence[MethodColumns], metric: str, against: str) -> bool:
    return any(metric in m.values for m in own) and any(m.title == against for m in own)


# -- what all share ----------------------------------------------------------------------------------------------------


def _of_one_protocol(rows: Rows) -> list[MethodColumns]:
    own = measured(rows)
    names = [p.name for p in dict.fromkeys(m.protocol for m in own)]
    if len(names) != 1:
        raise Misuse(
            f"a figure is of one protocol; these rows are of {len(names)}" + (f": {', '.join(names)}" if names else "")
        )
    return own


def _figure(
    width: float, height: float, title: str, theme: Theme, count: int = 1, columns: int = 1
) -> tuple[Any, list[Any]]:
    """A figure with so many axes, which share their scales."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=theme.paper, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(-(-count // columns), columns, sharex=True, sharey=True, squeeze=False)
    every = list(grid.flat)
    for axes in every[count:]:
        axes.remove()
    for axes in every[:count]:
        axes.set_facecolor(theme.paper)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(theme.faint)
        axes.grid(axis="y", color=theme.grid, lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=theme.faint, labelsize=9, labelbottom=True, labelleft=True)
    if title:
        first = {"x": 0.005, "ha": "left", "fontsize": 11, "fontweight": "bold"}
        shown = "\n".join(textwrap.wrap(title, int(9.5 * width)))
        figure.suptitle(shown, color=theme.ink, parse_math=False, **first)
    return figure, every[:count]


def _legend(axes: Any, theme: Theme, **where: Any) -> None:
    legend = axes.legend(frameon=False, labelcolor=theme.ink, **where)
    for text in legend.get_texts():
        text.set_parse_math(False)


def saved(figure: Any, path: str | os.PathLike[str] | None) -> Any:
    """Write a figure if `path`, in the format of its ending; return it. Raises Misuse for an ending that is none."""
    if path is not None:
        format_ = format_of(path)
        write_atomically(path, png(figure) if format_ == "png" else written(figure, format_))
    return figure


def png(figure: Any) -> bytes:
    """A figure as the bytes of a PNG of 256 colours, the same for the same figure. The themes' own colours are kept."""
    from matplotlib.colors import to_rgb
    from PIL import Image

    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    own = [round(255 * v) for t in (LIGHT, DARK) for c in (*t[:4], *t.methods) for v in to_rgb(c)]
    cut = Image.fromarray(pixels.copy()).quantize(256 - len(own) // 3).getpalette() or []
    palette = np.array([*own, *cut]).reshape(-1, 3)
    colours, at = np.unique(pixels.astype(np.int64) @ (1 << 16, 1 << 8, 1), return_inverse=True)
    rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1)
    nearest = ((rgb[:, None] - palette) ** 2).sum(-1).argmin(-1).astype(np.uint8)
    few, buffer = Image.fromarray(nearest[at].reshape(pixels.shape[:2])), io.BytesIO()
    few.putpalette(palette.ravel().tolist())
    few.save(buffer, format="png", optimize=True, dpi=(DPI, DPI))
    return buffer.getvalue()


__all__ = ["attribution_error", "curves", "drawable", "forest", "lines", "panels", "png", "saved"]
