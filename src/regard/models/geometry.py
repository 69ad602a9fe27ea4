"""Where in the original picture the model looked, measured instead of read from a processor's settings.

Settings differ from processor to processor (size, shortest edge, crop_pct, padding, rounding), but every one of them
maps pixels to pixels along each axis: x = scale * (i + 1/2) + offset for output column i. So the processor is shown
grey pictures whose level *is* the coordinate, and the line is fitted to what comes out. Black and white pictures first
tell the normalisation, and which output pixels show the picture at all (the rest is padding). One ramp over the whole
picture tells where a column lies to about one level of 255; a steep wave then tells it exactly, and the fit is snapped
to whole pixels (a resize to a whole number of columns, then a crop or padding of a whole number) where it lies close.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float64, UInt8
from torch import Tensor

from regard.recording.tokens.rasters import order

Process = Callable[[UInt8[Tensor, "height width 3"]], Tensor]
Line = Float64[Tensor, "..."]
Points = Float64[Tensor, "points"]

SNAP = 0.3  # output pixels: how near to whole pixels a fit must lie to be snapped to them
TOP = 254  # the highest level of a ramp
FLANK = 32  # output pixels, about: the length of one flank of the steep wave
REACH = (
    3  # pixels: how far interpolation reaches (Lanczos), which flattens a ramp at the border and a wave at its turns
)


@dataclass(frozen=True)
class View:
    """What a processor makes of pictures of one size.

    `box` (left, top, right, bottom) in pixels of the original is what the model sees, and may reach beyond it; None
    where the processor does something else than resizing, cropping and padding. `mean` and `std`, one value a channel:
    pixels come out as (level / 255 - mean) / std; None where they do not. `tiles`: of a processor that cuts pictures into
    tiles, the box of each; `box` then holds them all.
    """

    box: tuple[float, float, float, float] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    tiles: tuple[tuple[float, float, float, float], ...] = ()


def probe_tiles(process: Process, count: int, width: int, height: int) -> View:
    """`probe` for a processor that makes (tile, channels, rows, columns) of pictures of this size, tile by tile."""
    made: dict[bytes, Tensor] = {}

    def of(tile: int) -> Process:
        def one(pixels: UInt8[Tensor, "height width 3"]) -> Tensor:
            key = pixels.numpy().tobytes()
            if key not in made:
                made[key] = process(pixels)
            return made[key][tile]

        return one

    views = [probe(of(i), width, height) for i in range(count)]
    boxes = [v.box for v in views if v.box is not None]
    if len(boxes) < count:
        return View(None, views[0].mean, views[0].std)
    ends = [f(box[i] for box in boxes) for i, f in enumerate((min, min, max, max))]
    return View((ends[0], ends[1], ends[2], ends[3]), views[0].mean, views[0].std, tuple(boxes))


def probe(process: Process, width: int, height: int) -> View:
    """Measure what `process` (pixels (height, width, 3) -> (channels, rows, columns)) does to pictures of this size.

    Six pictures of that size are processed. The box is exact where the processor resizes to whole pixels and then
    crops or pads; it is within half an output pixel otherwise.
    """
    black, white = (process(torch.full((height, width, 3), v, dtype=torch.uint8)).double() for v in (0, 255))
    if black.ndim != 3 or white.shape != black.shape:
        return View(None, None, None)
    span = white - black
    gain = span.flatten(1).amax(1)[:, None, None]
    seen = (span > gain * (1 - 1e-3)).all(0)
    if not bool((gain > 0).all()) or not bool(seen.any()):
        return View(None, None, None)
    zero = torch.stack([channel[seen].median() for channel in black])[:, None, None]

    def levels(line: Line, across: bool) -> Line:
        picture = (line[None] if across else line[:, None]).round().to(torch.uint8)
        grey = ((process(picture[..., None].expand(height, width, 3).contiguous()).double() - zero) / gain).mean(
            0
        ) * 255
        return grey if across else grey.T

    x = _ends(lambda line: levels(line, True), seen, width)
    y = _ends(lambda line: levels(line, False), seen.T, height)
    box = None if x is None or y is None else (x[0], y[0], x[1], y[1])
    return View(box, _rounded(-zero / gain), _rounded(1 / gain))


def _ends(
    levels: Callable[[Line], Line], seen: Bool[Tensor, "rows columns"], length: int
) -> tuple[float, float] | None:
    """Return the coordinates of the two ends of the output along one axis; None where no straight line leads there.

    `levels` shows the processor a picture with the given grey levels (length,) along that axis.
    """
    columns = seen.shape[1]
    i = (torch.arange(columns, dtype=torch.float64) + 0.5).expand(seen.shape)
    pixel = torch.arange(length, dtype=torch.float64)
    slope = _slope(length)
    coarse = levels(slope * pixel) / slope + 0.5
    border = min(REACH * max(1.0, length / columns), 0.3 * length)
    inner = seen & (coarse > border) & (coarse < length - border)
    line = _fit(i[inner], coarse[inner], tolerance=max(0.5, 1 / slope))
    if line is None:
        return None
    slope = _slope(max(FLANK * line[0], 4.0 * REACH))
    flank = TOP / slope
    if flank < length:
        fine = levels(TOP - ((slope * pixel) % (2 * TOP) - TOP).abs()) / slope
        guess = line[0] * i + line[1] - 0.5
        rising, into = guess // flank % 2 == 0, guess % flank
        turn = max(REACH * max(1.0, line[0]), length / TOP)
        clear = inner & (into > turn) & (into < flank - turn)
        exact = guess - into + torch.where(rising, fine, flank - fine) + 0.5
        line = _fit(i[clear], exact[clear], tolerance=0.5) or line
    scale, offset = _snap(*line, length)
    return offset, offset + scale * columns


def _slope(length: float) -> float:
    """Levels a pixel, so that a ramp over `length` pixels stays within TOP; a whole number where it can be: exact."""
    return TOP // length if length <= TOP else TOP / length


def _fit(i: Points, x: Points, tolerance: float) -> tuple[float, float] | None:
    """Fit x = scale i + offset; None where that is no rising line, to `tolerance` or one output pixel (rms)."""
    spread = float((i - i.mean()).square().sum()) if len(i) else 0.0
    if spread == 0:
        return None
    scale = float(((i - i.mean()) * x).sum()) / spread
    offset = float(x.mean() - scale * i.mean())
    residual = float((scale * i + offset - x).square().mean().sqrt())
    return (scale, offset) if scale > 0 and residual <= max(scale, tolerance) else None


def _snap(scale: float, offset: float, length: int) -> tuple[float, float]:
    """Take a fit near a resize to whole columns, with whole columns cut off or added, to be exactly that."""
    resized, cut = length / scale, offset / scale
    if abs(resized - round(resized)) > SNAP or abs(cut - round(cut)) > SNAP:
        return scale, offset
    return length / round(resized), round(cut) * length / round(resized)


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(float(v), 6) for v in values.flatten())


def from_flat_patches(patches: Tensor, grid: tuple[int, ...], channels: int = 3) -> Tensor:
    """The picture (channel, height, width) of a row of square patches (patch, height · width · channel), padding left out."""
    rows, columns = grid
    size = math.isqrt(patches.shape[1] // channels)
    cut = patches[: rows * columns].view(rows, columns, size, size, channels)
    whole: Tensor = cut.permute(4, 0, 2, 1, 3).reshape(channels, rows * size, columns * size)
    return whole


def from_patches(patches: Tensor, grid: tuple[int, ...], processor: Any) -> Tensor:
    """The picture (channel, height, width) that a processor cut into patches (patch, channel · frame · height · width)."""
    size, frames = int(processor.patch_size), int(processor.temporal_patch_size)
    rows, columns = grid[-2:]
    raster = patches[order([(rows, columns)], int(processor.merge_size))]
    cut = raster.view(rows, columns, -1, frames, size, size)[:, :, :, 0]
    whole: Tensor = cut.permute(2, 0, 3, 1, 4).reshape(-1, rows * size, columns * size)
    return whole
