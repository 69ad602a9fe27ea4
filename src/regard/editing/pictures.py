"""Class rewriting of raw pictures: the 8-bit file that is written, read again by the reader, has the new class.

The picture that is changed is the one that the model sees, at the size of its input. Where the model's processor leaves a
picture of that size as it is, that is the file. Where it resizes and then crops, the file is the resized picture, of which only
the crop is changed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from regard.editing.asked import probabilities
from regard.editing.rewrite import reached, rewrite
from regard.editing.within import INTERNAL
from regard.errors import InputError, ModelError
from regard.explanation.raw_inputs import Picture, Reading
from regard.explanation.rewriting import Rewriting, png_of
from regard.models.pictures import Pixels, ReadPicture, read_picture, to_image
from regard.models.reading import READS, RawReader

RESAMPLED = (
    "the model's processor resamples pictures of the size that the model sees: a file is not read just as it was made"
)
EXACT = 0.05
"""Levels by which a picture that is read again may differ where the processor left it as it is."""
Part = Bool[Tensor, "row column"]


@dataclass(frozen=True)
class Canvas:
    """An 8-bit picture whose pixels from (left, top) on are those that the model sees; `inside`: which of these it has.

    exact: whether the model sees just these when the picture is read.
    """

    pixels: Pixels
    left: int
    top: int
    inside: Part
    picture: Picture
    exact: bool = True

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The part that the model sees: (left, top, right, bottom)."""
        rows, columns = self.inside.shape
        return self.left, self.top, self.left + columns, self.top + rows

    def with_change(self, levels: UInt8[Tensor, "row column 3"], moved: Part) -> Pixels:
        """The picture with other pixels where they moved."""
        out = self.pixels.clone()
        rows, columns = (moved & self.inside).nonzero(as_tuple=True)
        out[rows + self.top, columns + self.left] = levels[rows, columns]
        return out


def rewrite_pictures(
    reader: RawReader, raw: Any, to: Any, keep: Any = None, within: Any = None, **options: Any
) -> Rewriting:
    """Rewrite raw pictures: `regard.rewrite` on what the reader makes of them, in whole levels of an 8-bit file.

    `within`: a mask of the raw picture's size (an array, a tensor, or a picture's file that is not black there), or "internal".
    `success` is that of the files: each is encoded as PNG, decoded and read again. `options` as in `regard.rewrite`.
    """
    if reader.kind != "image":
        reads = f"{type(reader.model).__name__} reads {READS[reader.kind]}"
        raise ModelError(f"rewriting is for models that say what a picture shows; {reads}")
    raws = raw if isinstance(raw, list) else [raw]
    if not raws:
        raise InputError("an empty list was given; give at least one picture")
    read = [ReadPicture.of(one, i) for i, one in enumerate(raws)]
    canvases = [canvas_of(reader, one.pixels, one.name) for one in read]
    reading, notes = reader.read_noted([c.pixels for c in canvases], False)
    _check_pixels(reader, reading)
    allowed = within if isinstance(within, str) and within == INTERNAL else _inside(canvases, within)
    how = {"mean": reading.mean, "std": reading.std, "low": 0.0, "high": 1.0, "levels": 255} | options
    found = rewrite(reader.model, reading.inputs, to, keep, allowed, **how)
    found.labels, found.names = list(reader.labels), [c.picture.name for c in canvases]
    found.notes += [note for one in read for note in one.notes]
    found.notes += [*notes, *([RESAMPLED] if not all(c.exact for c in canvases) else [])]
    found.before = [c.pixels for c in canvases]
    found.after = [_written(c, found, i) for i, c in enumerate(canvases)]
    found.boxes = [c.box for c in canvases]
    judge(reader, found, [io.BytesIO(png_of(p)) for p in found.after])
    return found


def judge(reader: RawReader, found: Rewriting, files: Sequence[Any]) -> None:
    """Let the reader read the written files, and have `probabilities` and `success` say what the model makes of these."""
    from PIL import Image

    pictures = []
    for file in files:
        with Image.open(file) as image:
            image.load()
            pictures.append(image)
    inputs = reader.read_noted(pictures, False)[0].inputs
    found.probabilities = probabilities(reader.model, inputs)
    found.success = reached(found.probabilities, found.to, found.keep)


def _written(canvas: Canvas, found: Rewriting, i: int) -> Pixels:
    """The 8-bit picture after its change."""
    levels = (found.pixels[i] * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    moved = (found.pixels[i] != found.original[i]).any(0)
    return canvas.with_change(levels, moved)


def canvas_of(reader: RawReader, pixels: Pixels, name: str) -> Canvas:
    """The picture that is changed and written, for a raw one."""
    reading, _ = reader.read_noted([pixels], False)
    _check_pixels(reader, reading)
    picture = replace(cast(Picture, reading.raw[reader.stream][0]), name=name)
    seen = _levels(reader, reading)
    plain = Canvas(seen, 0, 0, torch.ones(seen.shape[:2], dtype=torch.bool), picture)
    if _is_read_as_it_is(reader, plain):
        return plain
    cropped = _around(seen, picture)
    return cropped if _is_read_as_it_is(reader, cropped) else replace(plain, exact=False)


def _around(seen: Pixels, picture: Picture) -> Canvas:
    """The raw picture resized so that what the model sees of it has the model's size, with just these pixels in their place."""
    (height, width), (rows, columns) = picture.pixels.shape[:2], seen.shape[:2]
    left, top, right, bottom = picture.box
    across, down = (right - left) / columns, (bottom - top) / rows
    size = (max(1, round(width / across)), max(1, round(height / down)))
    x, y = round(left / across), round(top / down)
    inside = torch.zeros(rows, columns, dtype=torch.bool)
    inside[max(0, -y) : max(0, size[1] - y), max(0, -x) : max(0, size[0] - x)] = True
    whole = torch.from_numpy(np.array(to_image(picture.pixels).resize(size)))
    canvas = Canvas(whole, x, y, inside, picture)
    return replace(canvas, pixels=canvas.with_change(seen, inside))


def _is_read_as_it_is(reader: RawReader, canvas: Canvas) -> bool:
    """Whether the model sees just the pixels of the canvas that it should when it is read."""
    reading, _ = reader.read_noted([canvas.pixels], False)
    rows, columns = canvas.inside.nonzero(as_tuple=True)
    if reading.mean is None or reading.inputs[reader.stream].shape[-2:] != canvas.inside.shape or not len(rows):
        return False
    meant = canvas.pixels[rows + canvas.top, columns + canvas.left].float()
    return float((_exact_levels(reader, reading)[rows, columns] - meant).abs().max()) < EXACT


def _check_pixels(reader: RawReader, reading: Reading) -> None:
    """Raise ModelError where a reading is no single picture whose pixels can be told."""
    x, name = reading.inputs[reader.stream], type(reader.model).__name__
    if x.ndim != 4 or x.shape[1] != 3:
        raise ModelError(
            f"rewriting changes one picture of three channels, and {name} reads {tuple(x.shape)}: pictures that are cut into "
            "patches or tiles, or have other channels, are not rewritten"
        )
    if reading.mean is None or reading.std is None:
        raise ModelError(
            f"the processor of {name} does something else to pixels than (level / 255 - mean) / std, which cannot be undone; "
            "give tensors to regard.rewrite, with mean= and std="
        )


def _exact_levels(reader: RawReader, reading: Reading) -> Float[Tensor, "row column 3"]:
    """What the model sees of the first picture, in levels of 0 to 255."""
    x = reading.inputs[reader.stream][0].float().cpu().permute(1, 2, 0)
    return (x * torch.tensor(reading.std) + torch.tensor(reading.mean)) * 255


def _levels(reader: RawReader, reading: Reading) -> Pixels:
    return _exact_levels(reader, reading).round().clamp(0, 255).to(torch.uint8)


def _inside(canvases: Sequence[Canvas], within: Any) -> Bool[Tensor, "batch row column"] | None:
    """Where the model's pixels may change: within the picture, and within the user's mask of the raw picture."""
    masks = within if isinstance(within, list) else [within] * len(canvases)
    if len(masks) != len(canvases):
        raise InputError(f"within= holds {len(masks)} masks for {len(canvases)} pictures; give one, or one for each")
    found = [c.inside if m is None else c.inside & _mask_at(m, c) for c, m in zip(canvases, masks, strict=True)]
    return None if all(bool(f.all()) for f in found) else torch.stack(found)


def _mask_at(mask: Any, canvas: Canvas) -> Part:
    """A mask of the raw picture at the model's pixels: what the mask says at the centre of each."""
    given = _mask_of(mask)
    (height, width), (rows, columns) = canvas.picture.pixels.shape[:2], canvas.inside.shape
    if given.shape != (height, width):
        raise InputError(
            f"the mask has {given.shape[1]} x {given.shape[0]} pixels, {canvas.picture.name} {width} x {height}; give a mask "
            "of the picture's size"
        )
    left, top, right, bottom = canvas.picture.box
    y = top + (torch.arange(rows) + 0.5) * (bottom - top) / rows
    x = left + (torch.arange(columns) + 0.5) * (right - left) / columns
    found = given[y.long().clamp(0, height - 1)][:, x.long().clamp(0, width - 1)]
    if not bool((found & canvas.inside).any()):
        raise InputError(f"the mask leaves no pixel of {canvas.picture.name} that the model sees to change")
    return found


def _mask_of(mask: Any) -> Part:
    """A mask as an array or tensor (row, column), or a picture that is not black there."""
    if isinstance(mask, Tensor) or (hasattr(mask, "__array_interface__") and not hasattr(mask, "convert")):
        found = torch.as_tensor(mask)
        if found.ndim != 2:
            raise InputError(
                f"within= is a mask (row, column) of the picture's size; not of shape {tuple(found.shape)}"
            )
        return found != 0
    return (read_picture(mask)[0] != 0).any(-1)
