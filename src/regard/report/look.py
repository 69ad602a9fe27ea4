"""What a user chooses of a figure: the colour map, whose scores share a scale, whether the original stands beside the map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regard.errors import Misuse, nearest
from regard.report.colour import Array, ColourScale, number, scale_of
from regard.report.view import Panel, SampleView, TextView, view_of

Scale = str | float
SCALES = ("own", "shared")


@dataclass(frozen=True)
class Look:
    """How a figure is drawn. `colours`: those of a colour map, uint8 (256, 3); None: orange, and blue against."""

    colours: Array | None = None
    scale: Scale = "own"
    original: bool = True

    @classmethod
    def of(cls, cmap: Any = None, scale: Scale = "own", original: bool = True) -> Look:
        """What was asked for, checked. Raises Misuse for a colour map or a scale that is none."""
        said = scale if isinstance(scale, str) else float(scale) if isinstance(scale, int | float) else str(scale)
        if isinstance(said, str) and said not in SCALES:
            raise nearest(said, SCALES, "scale") if isinstance(scale, str) else Misuse(_A_SCALE.format(scale))
        if isinstance(said, float) and not (math.isfinite(said) and said > 0):
            raise Misuse(_A_SCALE.format(scale))
        return cls(None if cmap is None else _table(cmap), said, original)

    def coloured(self, scale: ColourScale) -> ColourScale:
        """A scale with these colours."""
        return replace(scale, colours=self.colours)

    def on(self, view: SampleView) -> SampleView:
        """A sample as it is to be drawn."""
        others = [view_of(view.exp, i) for i in range(view.exp.samples)] if self.scale == "shared" else [view]
        every = [p for v in others for p in v.panels]
        return replace(view, panels=[self._on(p, every) for p in view.panels])

    def _on(self, panel: Panel, every: Iterable[Panel]) -> Panel:
        if isinstance(self.scale, float):
            scale = limited(scale_of_panel(panel), self.scale)
        else:
            scale = shared([p for p in every if _stream(p) == _stream(panel)])
        return with_scale(panel, self.coloured(scale))


_A_SCALE = 'scale is "own", "shared" or a number above 0, the score that gets the full colour; not {!r}'


def scale_of_panel(panel: Panel) -> ColourScale:
    """The scale of what is drawn of a panel."""
    return panel.best[1] if isinstance(panel, TextView) else panel.scale


def with_scale(panel: Panel, scale: ColourScale) -> Panel:
    """A panel on another scale."""
    if isinstance(panel, TextView):
        return replace(panel, word_scale=scale, token_scale=scale)
    return replace(panel, scale=scale)


def shared(panels: Sequence[Panel]) -> ColourScale:
    """The one scale of several panels' scores; of one panel, its own."""
    scales = [scale_of_panel(p) for p in panels]
    if all(s == scales[0] for s in scales):
        return scales[0]
    return scale_of(np.concatenate([_scores(p) for p in panels]), any(s.signed for s in scales))


def limited(scale: ColourScale, limit: float) -> ColourScale:
    """A scale whose full colour is at a limit that was given."""
    sign = "magnitude" if scale.signed else "score"
    note = f"largest {sign} {number(scale.top)}, beyond the scale" if scale.top > limit else ""
    return replace(scale, limit=limit, note=note)


def _stream(panel: Panel) -> str:
    """The stream that a panel is of, of one of several pictures in a row too."""
    return panel.stream.partition("[")[0]


def _scores(panel: Panel) -> Array:
    if isinstance(panel, TextView):
        pieces = panel.words or [t for t in panel.tokens if not t.special] or panel.tokens
        return np.array([p.score for p in pieces if p.score is not None])
    return panel.cells.ravel() if not hasattr(panel, "scores") else np.asarray(panel.scores)


def _table(cmap: Any) -> Array:
    """The 256 colours of a matplotlib colour map, by its name or itself."""
    import matplotlib
    from matplotlib.colors import Colormap

    if isinstance(cmap, str) and cmap not in matplotlib.colormaps:
        raise nearest(cmap, list(matplotlib.colormaps), "colour map")
    found = matplotlib.colormaps[cmap] if isinstance(cmap, str) else cmap
    if not isinstance(found, Colormap):
        raise Misuse(f"cmap is the name of a matplotlib colour map or such a map; not {type(cmap).__name__}")
    table: Array = np.rint(255 * np.asarray(found(np.linspace(0, 1, 256)))[:, :3]).astype(np.uint8)
    return table


__all__ = ["Look", "Scale", "limited", "scale_of_panel", "shared", "with_scale"]
