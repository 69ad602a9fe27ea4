"""What happens to picture files on their way: JPEG, blur, resizing. Does a rewritten picture keep its new class through it?"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from regard.editing.asked import probabilities
from regard.models.pictures import Pixels, to_image
from regard.models.reading import RawReader

if TYPE_CHECKING:
    from PIL.Image import Image

Treatment = Callable[["Image"], "Image"]


@dataclass(frozen=True)
class FileChange:
    """Shares of rewritten files that after some change of the file have the new class, the old one, another one; and of
    unchanged pictures, how many keep their class through the same.
    """

    name: str
    kept: float
    back: float
    other: float
    original: float


def _jpeg(quality: int) -> Treatment:
    def change(image: Image) -> Image:
        from PIL import Image as Pillow

        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality)
        return Pillow.open(buffer).convert("RGB")

    return change


def _blur(sigma: float) -> Treatment:
    def change(image: Image) -> Image:
        from PIL import ImageFilter

        return image.filter(ImageFilter.GaussianBlur(sigma))

    return change


def _resized(share: float) -> Treatment:
    def change(image: Image) -> Image:
        from PIL.Image import Resampling

        small = (max(1, round(share * image.width)), max(1, round(share * image.height)))
        return image.resize(small, Resampling.BILINEAR).resize(image.size, Resampling.BILINEAR)

    return change


CHANGES: dict[str, Treatment] = {
    "the file as it is written": lambda image: image,
    "JPEG, quality 95": _jpeg(95),
    "JPEG, quality 85": _jpeg(85),
    "JPEG, quality 75": _jpeg(75),
    "JPEG, quality 50": _jpeg(50),
    "Gaussian blur of 0.5 pixels": _blur(0.5),
    "Gaussian blur of 1 pixel": _blur(1.0),
    "resized to 90 % and back": _resized(0.9),
    "resized to a half and back": _resized(0.5),
}


def through(
    reader: RawReader, before: Sequence[Pixels], after: Sequence[Pixels], was: Int[Tensor, " n"], to: Int[Tensor, " n"]
) -> list[FileChange]:
    """What each change does to pictures that were rewritten from `was` to `to`, and to the originals."""
    found = []
    for name, change in CHANGES.items():
        old, new = (_classes(reader, [change(to_image(p)) for p in side]) for side in (before, after))
        kept, back = (new == to).float().mean(), (new == was).float().mean()
        found.append(
            FileChange(name, float(kept), float(back), float(1 - kept - back), float((old == was).float().mean()))
        )
    return found


def _classes(reader: RawReader, images: Sequence[Any], size: int = 32) -> Int[Tensor, " n"]:
    """What the model takes pictures for."""
    parts = []
    for i in range(0, len(images), size):
        raw = [torch.from_numpy(np.array(image)) for image in images[i : i + size]]
        parts.append(probabilities(reader.model, reader.read_noted(raw, False)[0].inputs).argmax(1))
    return torch.cat(parts)


__all__ = ["CHANGES", "FileChange", "through"]
