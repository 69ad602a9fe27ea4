"""What there is to draw of two pictures on one canvas: both, the canvas, maps of both classes and of what tells them apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Picture
from regard.explanation.told import Box, Told
from regard.report.colour import Array, ColourScale, scale_of
from regard.report.view import PictureView, enlarged


class Named(NamedTuple):
    """A map with what it is of."""

    title: str
    panel: PictureView


@dataclass(frozen=True)
class ToldView:
    """What tells class c from class e.

    canvas: maps of c, of e and of c − e on the canvas, in one scale: orange speaks for c, blue for e. own: on the first
    picture's own tokens, c on that picture alone, c on the canvas, and c rather than e. shares: of the orange in c − e how
    much lies on the first picture, of the blue on the second; None where there is none, or where one picture lies in the
    other.
    """

    told: Told
    scale: ColourScale
    canvas: list[Named]
    own: list[Named]
    shares: tuple[float | None, float | None]

    @property
    def pictures(self) -> list[tuple[str, Picture]]:
        """The two pictures and the canvas."""
        told = self.told
        return [(told.first.name, told.first), (told.second.name, told.second), ("the canvas", told.composite)]


def view_of(told: Told) -> ToldView:
    """What there is to draw."""
    stream = next(iter(told.difference.grid))
    for_c, for_e = (_cells(e, stream) for e in (told.of_c, told.of_e))
    apart = _cells(told.difference, stream) - (0 if told.against is None else _cells(told.against, stream))
    cells = [for_c, -for_e, apart]
    scale = scale_of(np.stack(cells), True)
    titles = (told.c, told.e, f"{told.c} rather than {told.e}")
    canvas = [Named(t, _panel(stream, m, scale, told.composite)) for t, m in zip(titles, cells, strict=True)]
    return ToldView(told, scale, canvas, _own(told, stream), _shares(told, apart))


def _cells(exp: Explanation, stream: str) -> Array:
    found: Array = exp.cells(stream)[0].detach().cpu().float().numpy()
    return found


def _panel(stream: str, cells: Array, scale: ColourScale, picture: Picture) -> PictureView:
    return PictureView(stream, cells, scale, enlarged(picture))


def _own(told: Told, stream: str) -> list[Named]:
    """The first picture's own maps, each in its own scale: their numbers are of two runs, and of two targets."""
    maps = {
        f"{told.c}, this picture alone": told.alone,
        f"{told.c}, with the other": told.on_first[0],
        f"{told.c} rather than {told.e}": told.guided,
    }
    found = []
    for title, exp in maps.items():
        cells = _cells(exp, stream)
        found.append(Named(title, _panel(stream, cells, scale_of(cells, exp.signed), told.first)))
    return found


def _shares(told: Told, apart: Array) -> tuple[float | None, float | None]:
    if told.within:
        return None, None
    found = []
    for sign, place in zip((1, -1), told.places, strict=True):
        above = np.clip(sign * apart, 0, None)
        found.append(float(above[_inside(told, apart, place)].sum() / above.sum()) if above.any() else None)
    return found[0], found[1]


def _inside(told: Told, cells: Array, place: Box) -> tuple[slice, slice]:
    """The cells of the canvas that a picture has."""
    height, width = told.composite.pixels.shape[:2]
    high, wide = height / cells.shape[0], width / cells.shape[1]
    left, top, right, bottom = place
    return slice(round(top / high), round(bottom / high)), slice(round(left / wide), round(right / wide))


__all__ = ["Named", "ToldView", "view_of"]
