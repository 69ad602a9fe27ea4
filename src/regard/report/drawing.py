"""A map over a picture: the picture as a drawing in lines, the map between them in exactly the colours of its colour bar.

Blended over a photograph a map has other colours than its bar, darker on dark places and paler on bright ones, and whoever
reads a number off the bar reads a wrong one. So the paper under the map is white as the bar's is, whatever the picture's
lightness, and only the contours of the picture are drawn on it, with some shade within a tenth of an inch of them: dark on
light colours, light on dark. Figures show the picture in its own colours beside it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from regard.explanation.boxes import Box
from regard.explanation.places import place
from regard.explanation.raw_inputs import Picture
from regard.report.colour import LIGHT, Array, luminances, veil
from regard.report.view import PictureView

MOST, LEAST = 1200, 240  # pixels on the longer side of what is drawn
SHARP = 300  # pixels an inch, where that many are allowed
LINE = 0.014  # inches, about the width of a fine line
FAINTEST = 0.006  # of a step in lightness that is drawn: less is rounding
ROUGH, ROUGHEST = 1.2, 0.02  # times the usual step around it, at most so much, is noise, too
DARKEST, SHADE = 0.3, 0.25  # of a colour what is left under a line; what the shade beside it takes away at most


def drawing(panel: PictureView, inches: float = 4.0) -> Array:
    """The map over its picture, uint8 (height, width, 3), for so many inches of the longer side; of no known picture its cells.

    No side has more than 1,200 pixels, whatever the picture has.
    """
    if panel.picture is None:
        return panel.scale.over(panel.cells, LIGHT)
    fit = fitted(panel, inches)
    assert fit.picture is not None
    pixels = fit.picture.pixels.cpu().numpy()
    drawn = fit.scale.over(over_picture(fit), LIGHT)
    line = LINE / inches * max(pixels.shape)
    own = max(pixels.shape) / max(panel.picture.pixels.shape)  # how large a pixel of the picture itself has become
    return inked(drawn, ink(pixels, max(line, own / 2)))


def veiled(panel: PictureView, inches: float = 4.0) -> Array:
    """`drawing`, greyed and hatched where the model did not look."""
    fit = panel if panel.picture is None else fitted(panel, inches)
    drawn = drawing(panel, inches)
    return drawn if fit.picture is None else veil(drawn, fit.picture.box)


def over_picture(panel: PictureView) -> Array:
    """The scores of a panel at the size of its picture, which is known."""
    assert panel.picture is not None
    cells = torch.from_numpy(np.ascontiguousarray(panel.cells))
    placed: Array = place(cells, panel.picture, panel.raster).numpy()
    return placed


def fitted(panel: PictureView, inches: float = 4.0) -> PictureView:
    """A panel whose picture, known, has as many pixels as so many inches of a figure need."""
    assert panel.picture is not None
    side = round(min(MOST, max(LEAST, SHARP * inches)))
    return replace(panel, picture=resized(panel.picture, side, enlarge=True))


def resized(picture: Picture, side: int, enlarge: bool = False) -> Picture:
    """A picture whose longer side has so many pixels, with all boxes on it; a smaller one as it is unless `enlarge`."""
    from PIL import Image

    height, width = picture.pixels.shape[:2]
    longer = max(height, width)
    if longer == side or (longer < side and not enlarge):
        return picture
    wide, high = (max(1, round(n * side / longer)) for n in (width, height))
    how = Image.Resampling.BOX if longer > side else Image.Resampling.BICUBIC
    pixels = np.array(Image.fromarray(picture.pixels.cpu().numpy()).resize((wide, high), how))
    x, y = wide / width, high / height
    return replace(
        picture,
        pixels=torch.from_numpy(pixels),
        box=_times(picture.box, x, y),
        regions=tuple(Box(*_times(b, x, y)) for b in picture.regions),
        tiles=tuple(_times(b, x, y) for b in picture.tiles),
    )


def _times(box: Any, x: float, y: float) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return left * x, top * y, right * x, bottom * y


def ink(pixels: Array, line: float) -> Array:
    """What is left of a colour under the contours of a picture, (height, width), 1 where there are none.

    A place is dark where it is darker than what is next to it: a line where two areas meet, however light or dark they are
    themselves. line: its width in pixels.
    """
    light = np.cbrt(luminances(pixels)).astype(np.float32)
    shade = np.maximum(1.2 * _contours(light, 3 * line), -SHADE)
    left: Array = np.clip(1 + 3.5 * _contours(light, line) + shade, DARKEST, 1.0)
    return left


def _contours(light: Array, radius: float) -> Array:
    """By how much a place is darker than what is around it, beyond noise; 0 or less."""
    steps = light - blurred(light, radius)
    noise = FAINTEST + np.minimum(ROUGH * blurred(np.abs(steps), 8 * radius), ROUGHEST)
    darker: Array = np.minimum(0.0, steps + noise)
    return darker


def blurred(values: Array, radius: float) -> Array:
    """Nearly a Gaussian blur: the mean over 2r + 1 pixels, r at least 1, twice along each axis."""
    r = max(1, round(radius))
    for along in (0, 0, 1, 1):
        wider = np.pad(values, [(r + 1, r), (0, 0)] if along == 0 else [(0, 0), (r + 1, r)], "edge")
        sums = np.cumsum(wider, axis=along, dtype=np.float32)
        ahead, behind = (
            (sums[2 * r + 1 :], sums[: -2 * r - 1]) if along == 0 else (sums[:, 2 * r + 1 :], sums[:, : -2 * r - 1])
        )
        values = (ahead - behind) / (2 * r + 1)
    return values


def inked(colours: Array, left: Array) -> Array:
    """Colours with lines on them: towards black on light colours, towards white on dark ones."""
    line = np.where((luminances(colours) > 0.179)[..., None], 0.0, 255.0)
    laid: Array = np.rint(line + left[..., None] * (colours - line))
    return laid.astype(np.uint8)


__all__ = ["MOST", "blurred", "drawing", "fitted", "ink", "over_picture", "resized", "veiled"]
