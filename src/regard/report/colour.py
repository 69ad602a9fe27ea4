"""The one place where a colour means something.

Clear says nothing. Scores that are never negative have one hue, orange: the stronger, the more the prediction rests on
that part. Signed scores have two that meet in clear at zero: orange speaks for the target, blue against it, with the
same limit on both sides. The opacity is the score divided by the limit of the scale.

The two hues are as light as each other (OKLab L 0.62 and 0.60: both stand out on white and on black), differ for every
common kind of colour-blindness, and their ramps are perceptually uniform over white, grey and dark paper (the largest
of ten equal steps is at most 1.5 times the smallest, in OKLab; the tests hold them to it).

Under a map a picture has no colour, so that all colour is score: lines in figures (`drawing`), grey on pages and in terminals.
A figure may have any other colour map instead; its colours are then opaque.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
RGB = tuple[int, int, int]

FOR: RGB = (213, 94, 0)
AGAINST: RGB = (20, 130, 225)
LIGHT: RGB = (255, 255, 255)
DARK: RGB = (20, 22, 27)
OPACITY = 0.8  # of the largest score over a picture, so that the picture stays visible


@dataclass(frozen=True)
class ColourScale:
    """From a score to a colour: `limit` is the magnitude that gets the full colour; 0 where all scores are 0.

    `top` is the largest magnitude; it exceeds `limit` where single scores would hide all others (see `scale_of`).
    `colours`: 256 of another colour map, uint8 (256, 3), from no score (signed: from -limit) to the limit.
    """

    limit: float
    signed: bool
    top: float
    note: str = ""
    colours: Array | None = field(default=None, compare=False, repr=False)

    @property
    def clipped(self) -> bool:
        """Whether some scores lie beyond the limit."""
        return self.top > self.limit

    def unit(self, scores: ArrayLike) -> Array:
        """Scores as -1..1 (signed) or 0..1, clipped at the limit; 0 where a score is not a number."""
        values = np.asarray(scores, dtype=np.float64)
        if self.limit == 0:
            return np.zeros_like(values)
        low = -1.0 if self.signed else 0.0
        bounded = np.clip(np.where(np.isnan(values), 0.0, values), -self.limit, self.limit)
        return np.clip(bounded / self.limit, low, 1.0)

    def rgba(self, scores: ArrayLike, opacity: float = 1.0) -> Array:
        """uint8 (..., 4), not premultiplied: the hue, and the unit score as opacity."""
        unit = self.unit(scores)
        hue = self._table(unit) if self.colours is not None else np.where(unit[..., None] < 0, AGAINST, FOR)
        alpha = np.rint(255 * opacity * np.abs(unit))[..., None]
        return np.concatenate([hue, alpha], axis=-1).astype(np.uint8)

    def over(self, scores: ArrayLike, paper: ArrayLike, opacity: float = 1.0) -> Array:
        """uint8 (..., 3): the colours laid on `paper`, one RGB colour or one per score; those of another colour map hide it."""
        if self.colours is not None:
            return self._table(self.unit(scores))
        rgba = self.rgba(scores, opacity).astype(np.float64)
        alpha = rgba[..., 3:] / 255
        laid: Array = np.rint(alpha * rgba[..., :3] + (1 - alpha) * np.asarray(paper, dtype=np.float64))
        return laid.astype(np.uint8)

    def _table(self, unit: Array) -> Array:
        """The colours of another map; zero is in the middle where scores have a sign."""
        assert self.colours is not None
        found: Array = self.colours[np.rint(255 * (unit + 1) / 2 if self.signed else 255 * unit).astype(int)]
        return found

    def ticks(self) -> list[tuple[float, str]]:
        """The scores at which the drawn scale carries a number, and that number; a clipped end says so."""
        if self.limit == 0:
            return [(0.0, "0")]
        more, less = ("≥ ", "≤ ") if self.clipped else ("", "")
        high = [(0.0, "0"), (self.limit / 2, number(self.limit / 2)), (self.limit, more + number(self.limit))]
        if not self.signed:
            return high
        return [(-self.limit, less + number(-self.limit)), (-self.limit / 2, number(-self.limit / 2)), *high]


def scale_of(scores: ArrayLike, signed: bool) -> ColourScale:
    """The scale of a map: its limit is the largest magnitude.

    Where that stands alone, at more than twice the 99th percentile, it would hide all other scores: then the limit is
    the 99th percentile, but never less than a quarter of the largest, so that weak scores do not look strong.
    A map with a negative score gets the signed scale whatever `signed` says.
    """
    values = np.asarray(scores, dtype=np.float64).ravel()
    finite = values[np.isfinite(values)]
    signed = signed or bool((finite < 0).any())
    size = np.abs(finite)
    top = float(size.max()) if size.size else 0.0
    if top == 0:
        return ColourScale(0.0, signed, 0.0, "all scores are 0" if finite.size else "no scores")
    most = float(np.quantile(size, 0.99, method="higher"))
    limit = max(most, top / 4) if top > 2 * most else top
    if limit < top:
        note = f"largest {'magnitude' if signed else 'score'} {number(top)}, beyond the scale"
    else:
        same = size.size > 1 and bool((finite == finite[0]).all())
        note = f"all scores are {number(finite[0])}" if same else ""
    return ColourScale(limit, signed, top, note)


def text_colour(paper: ArrayLike) -> str:
    """Black or white, whichever is more readable on `paper` (contrast at least 4.58, beyond WCAG AA)."""
    return "#000" if luminance(paper) > 0.179 else "#fff"


def text_colours(papers: ArrayLike) -> list[str]:
    """`text_colour` on many papers (n, 3) at once."""
    return ["#000" if light > 0.179 else "#fff" for light in luminances(papers)]


def luminance(rgb: ArrayLike) -> float:
    """Relative luminance of an sRGB colour (0..255), as WCAG 2 defines it."""
    return float(luminances(rgb))


def luminances(rgb: ArrayLike) -> Array:
    """`luminance` of many 8-bit colours (..., 3) at once."""
    found: Array = _LINEAR[np.asarray(rgb, dtype=np.uint8)] @ np.array([0.2126, 0.7152, 0.0722])
    return found


def _linear() -> Array:
    c = np.arange(256) / 255
    table: Array = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return table


_LINEAR = _linear()
"""Of the 256 values of a channel, how much light each is."""


def grey(pixels: Array) -> Array:
    """A picture without its colours, uint8 (height, width, 3)."""
    level = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return np.repeat(np.rint(level)[..., None], 3, axis=-1).astype(np.uint8)


def number(value: float | None) -> str:
    """A score for the eye: three digits that count; `undefined` for None and for what is not a number."""
    if value is None or np.isnan(value):
        return "undefined"
    return "0" if value == 0 else f"{float(value):.3g}"


def veil(pixels: Array, box: tuple[float, float, float, float]) -> Array:
    """A picture with all greyed and hatched that lies outside of `box` (left, top, right, bottom)."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    inside = (x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3])
    step = max(8, max(height, width) // 40)
    stripe = np.where((x + y) % step < step / 5, 230.0, 128.0)[..., None]
    veiled = 0.4 * pixels + 0.6 * stripe
    return np.where(inside[..., None], pixels, np.rint(veiled)).astype(np.uint8)
