"""Where the tokens of a picture lie: their grid, and how a grid of scores is drawn over the picture."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from regard.errors import Misuse
from regard.explanation.boxes import painted
from regard.explanation.raw_inputs import Picture
from regard.kinds import fits

MOST = 1 << 28  # pixels
WHOLE = (0.0, 0.0, 1.0, 1.0)
Grid = tuple[int, ...] | list[tuple[int, ...]]
"""Rows and columns of a picture's tokens, after frames, views or slices where there are such; or those of each of several
pictures in one row of tokens."""


@dataclass(frozen=True)
class Raster:
    """How the tokens of a picture's stream lie on its grid, where that is not cell by cell over the whole of it.

    `window` (left, top, right, bottom; shares of the picture that the model reads) is what the cells cover: of a picture that
    is no multiple of its patch, not all; the rest counts with the last cells. `order`: the token at each place of the grid,
    of one picture after the other, where all stand in one row; None: in order. each: every sample has a row of its own, in
    the same order, which may leave tokens out (padding).
    """

    window: tuple[float, float, float, float] = WHOLE
    order: tuple[int, ...] | None = None
    each: bool = False

    def box(self, of: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """The box that the cells cover, of a box that the model reads."""
        (left, top, right, bottom), (a, b, c, d) = of, self.window
        wide, high = right - left, bottom - top
        return left + a * wide, top + b * high, left + c * wide, top + d * high


PLAINLY = Raster()


@dataclass(frozen=True)
class SamplePictures:
    """Which pictures one sample holds of those that lie in rows of tokens together: their numbers, their grid, how it lies."""

    pictures: list[int]
    grid: Grid
    raster: Raster


def pictures_of_sample(
    grid: Grid, raster: Raster, scores: Float[Tensor, "batch token"], i: int
) -> SamplePictures | None:
    """The pictures of one sample of several; None where every sample has rows of its own.

    As many pictures as samples are one each; else they are those whose tokens score anything in the sample's row: tokens of
    others score 0.
    """
    if raster.order is None or raster.each or len(scores) == 1:
        return None
    every = grid if isinstance(grid, list) else [grid]
    ends = torch.tensor([math.prod(g) for g in every]).cumsum(0).tolist()
    orders = [raster.order[end - math.prod(g) : end] for end, g in zip(ends, every, strict=True)]
    own = [p for p, order in enumerate(orders) if bool(scores[i, list(order)].any())]
    found = [i] if len(every) == len(scores) else own or [*range(len(every))]
    order = tuple(token for p in found for token in orders[p])
    grids = [every[p] for p in found]
    kept = dataclasses.replace(raster, order=order)
    return SamplePictures(found, grids[0] if len(grids) == 1 else grids, kept)


def size_of(size: Any) -> tuple[int, int]:
    """A height and a width. Raises Misuse for what is none, or more pixels than can be drawn."""
    if not fits(size, tuple[int, int]) or min(size) < 1 or size[0] * size[1] > MOST:
        raise Misuse(f"a size is (height, width) in pixels, at most {MOST} of them; not {reprlib.repr(size)}")
    return int(size[0]), int(size[1])


def resized(
    cells: Float[Tensor, "map rows columns"], size: tuple[int, int], raster: Raster
) -> Float[Tensor, "map height width"]:
    """Cells drawn bilinearly at a size of the whole picture that the model reads."""
    if raster.window == WHOLE:
        return F.interpolate(cells[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    box = raster.box((0.0, 0.0, float(size[1]), float(size[0])))
    return torch.stack([_drawn(c, box, *size) for c in cells])


def _drawn(
    cells: Float[Tensor, "rows columns"], box: tuple[float, float, float, float], height: int, width: int
) -> Float[Tensor, "height width"]:
    """A grid of scores over a box of a picture, read bilinearly at each pixel's centre; its border goes on outside."""
    left, top, right, bottom = box
    x = (torch.arange(width) + 0.5 - left) / (right - left)
    y = (torch.arange(height) + 0.5 - top) / (bottom - top)
    where = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1) * 2 - 1
    values, where = cells.detach()[None, None], where[None].to(cells)
    return F.grid_sample(values, where, mode="bilinear", padding_mode="border", align_corners=False)[0, 0]


def placed(cells: Tensor, picture: Picture, raster: Raster = PLAINLY) -> Float[Tensor, "height width"]:
    """`place` of a grid, or of the grids of a picture's tiles, added. Raises Misuse for frames, which no one picture holds."""
    if cells.ndim == 2:
        return place(cells, picture, raster)
    if len(picture.tiles) != len(cells) or cells.ndim != 3:
        raise Misuse(f"a grid of {tuple(cells.shape)} is not of one picture; use image_map, which has every frame")
    each = [dataclasses.replace(picture, box=box) for box in picture.tiles]
    return torch.stack([place(c, p, raster) for c, p in zip(cells, each, strict=True)]).sum(0)


def joined(cells: Float[Tensor, "tile rows columns"], picture: Picture) -> Float[Tensor, "high wide"]:
    """The grids of a picture's tiles as one over the whole picture, as fine as the finest of them."""
    height, width = picture.pixels.shape[:2]
    rows, columns = cells.shape[-2:]
    high = round(height / min((bottom - top) / rows for _, top, _, bottom in picture.tiles))
    wide = round(width / min((right - left) / columns for left, _, right, _ in picture.tiles))
    x, y = wide / width, high / height
    small = [(left * x, top * y, right * x, bottom * y) for left, top, right, bottom in picture.tiles]
    blank = torch.zeros(high, wide, 3, dtype=torch.uint8)
    return placed(cells, dataclasses.replace(picture, pixels=blank, tiles=tuple(small)))


def place(
    cells: Float[Tensor, "rows columns"], picture: Picture, raster: Raster = PLAINLY
) -> Float[Tensor, "height width"]:
    """Draw a grid of scores over the box of the picture that the model saw; 0 outside of it.

    Each pixel centre of the original is mapped into the box and the grid is read there bilinearly, so that boxes
    that end between pixels stay exact. Where the picture has regions the cells are theirs (see `found.painted`).
    """
    height, width = picture.pixels.shape[:2]
    if picture.regions:
        return painted(cells.detach().cpu().float().flatten(), picture.regions, height, width)
    left, top, right, bottom = picture.box
    x, y = (torch.arange(n) + 0.5 for n in (width, height))
    inside = ((x >= left) & (x <= right))[None, :] & ((y >= top) & (y <= bottom))[:, None]
    return _drawn(cells.cpu().float(), raster.box(picture.box), height, width) * inside


def grid_of(values: Any) -> Grid:
    """A grid from what a file holds, or one for each picture. Raises ValueError for one of no rows and columns."""
    if isinstance(values, list | tuple) and values and isinstance(values[0], list | tuple):
        return [_grid_of(v) for v in values]
    return _grid_of(values)


def _grid_of(values: Any) -> tuple[int, ...]:
    if not fits(values, list[int]) or len(values) < 2 or min(values) < 1:
        raise ValueError(f"a grid of {values}")
    return tuple(values)


def raster_of(values: dict[str, Any]) -> Raster:
    """A `Raster` from what a file holds."""
    left, top, right, bottom = (float(v) for v in values["window"])
    order = values.get("order")
    known = None if order is None else tuple(int(i) for i in order)
    return Raster((left, top, right, bottom), known, bool(values.get("each", False)))
