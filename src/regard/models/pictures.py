"""Raw pictures of any kind to RGB, 8 bits a channel. Pillow is imported when the first picture is read."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from regard.errors import InputError, ModelError

if TYPE_CHECKING:
    from PIL import Image

Pixels = UInt8[Tensor, "height width 3"]
ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
WIDE = ("I", "F")
ORDINARY = ("1", "L", "P", "RGB", "CMYK", "YCbCr", *ALPHA)
"""Modes that everybody's pictures have: these are not what is wrong with one."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"})
_ADDRESS = re.compile(r"(?i)([a-z][a-z0-9+.-]+)://|(data):")


class ReadPicture(NamedTuple):
    """A raw picture, read: RGB `pixels`, uint8 (height, width, 3), its name, and how much of it was `transparent`, 0 to 1."""

    pixels: Pixels
    name: str
    transparent: float = 0.0

    @property
    def notes(self) -> list[str]:
        """What the model saw otherwise than the eye does."""
        if not self.transparent:
            return []
        share = "less than 1 %" if self.transparent < 0.01 else f"{100 * self.transparent:.0f} %"
        return [f"{share} of {self.name} is transparent, and was laid over white for the model"]

    @classmethod
    def of(cls, raw: Any, number: int = 0) -> ReadPicture:
        """Read one raw picture.

        `raw` is a path, a file: or data: address (others are not fetched), a PIL image, or a uint8 numpy array or torch
        tensor (height, width), (height, width, 3) or (height, width, 4). Rotation by EXIF is applied, transparent pixels are
        laid over white, an animation gives its first frame, and pictures of more than 8 bits are scaled down (see `to_rgb`).

        Raises InputError for what is missing, empty, damaged, too large to open safely, or not a picture.
        """
        Image = _pillow()
        name = f"picture {number}"
        if isinstance(raw, str) and (address := _ADDRESS.match(raw)):
            return _addressed(raw, (address[1] or address[2]).lower(), name)
        if isinstance(raw, str | os.PathLike):
            return _open(Path(raw))
        if isinstance(raw, Image.Image):
            return _decode(raw, getattr(raw, "filename", "") or name)
        if isinstance(raw, np.ndarray | Tensor):
            pixels, transparent = _flattened(Image.fromarray(_checked(raw, name)))
            return cls(pixels, name, transparent)
        raise InputError(
            f"{name} is of type {type(raw).__name__}; give a path, a PIL image, or a uint8 array or tensor (height, width, 3)"
        )


def read_picture(raw: Any, number: int = 0) -> tuple[Pixels, str]:
    """RGB pixels, uint8 (height, width, 3), of one raw picture, and a name for it; see `ReadPicture.of`."""
    found = ReadPicture.of(raw, number)
    return found.pixels, found.name


def names_picture(text: str) -> str | None:
    """How a text is the name of a picture, if it is: what can be said of it; None for other texts."""
    address = _ADDRESS.match(text)
    if address is not None and not re.search(r"\s", text):
        return (
            "is the address of a picture"
            if (address[1] or address[2]).lower() in ("file", "data")
            else "is an address on the web"
        )
    try:
        there = os.path.isfile(text)
    except ValueError:  # a zero byte
        return None
    called = Path(text).suffix.lower() in SUFFIXES and not re.search(r"\s", text)
    if not there:
        return "is named like a picture, but there is no such file" if called else None
    if called:
        return "is a picture's file"
    Image = _pillow()
    try:
        with Image.open(text):
            return "is a picture's file"
    except Exception:  # whatever Pillow says of a file that is no picture
        return None


def _addressed(address: str, scheme: str, name: str) -> ReadPicture:
    """A picture by its address: a file here, or the bytes themselves. Nothing is fetched from elsewhere."""
    if scheme == "file":
        return _open(Path(url2pathname(urlsplit(address).path)))
    if scheme != "data":
        raise InputError(f"{address} is not fetched: pictures are read from files; download it, and give its path")
    Image = _pillow()
    try:
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2], validate=False))) as image:
            return _decode(image, name)
    except InputError:
        raise
    except Exception as e:  # no base64, or no picture
        raise InputError(f"{name} is a data: address that holds no picture that Pillow can read") from e


def to_rgb(image: Image.Image) -> Pixels:
    """Turn a PIL image of any mode into pixels, uint8 (height, width, 3), on the CPU.

    Transparency is laid over white. 16-bit grey is divided by 257. Whole numbers beyond 8 bits (mode I) are read as
    16-bit grey where they fit, floats (mode F) within 0..1 are multiplied by 255; both are kept as they are within
    0..255, and stretched from their minimum to their maximum where they fit neither.
    """
    return _flattened(image)[0]


def _flattened(image: Image.Image) -> tuple[Pixels, float]:
    """The same, and the share of pixels that are not wholly opaque."""
    Image, transparent = _pillow(), 0.0
    if image.mode.startswith("I;16") or image.mode in WIDE:
        image = Image.fromarray(_to_8_bits(np.asarray(image), image.mode))
    if image.mode == "La":  # Pillow knows this way only
        image = image.convert("LA")
    if image.mode in ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        transparent = float((np.asarray(image.getchannel("A")) < 255).mean())
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return torch.from_numpy(np.array(image.convert("RGB"))), transparent


def _to_8_bits(values: np.ndarray[Any, Any], mode: str) -> np.ndarray[Any, Any]:
    """Scale one channel of integers or floats (height, width) to uint8."""
    x = values.astype(np.float64)
    if not np.isfinite(x).all():
        raise InputError("the picture holds NaN or infinity")
    low, high = float(x.min()), float(x.max())
    if mode.startswith("I;16") or (mode == "I" and low >= 0 and 255 < high <= 65535):
        x = x / 257
    elif mode == "F" and low >= 0 and high <= 1:
        x = x * 255
    elif low < 0 or high > 255:
        x = (x - low) * 255 / (high - low) if high > low else np.zeros_like(x)
    scaled: np.ndarray[Any, Any] = np.rint(x).astype(np.uint8)
    return scaled


def _open(path: Path) -> ReadPicture:
    """Open a picture file; every way in which that can fail becomes one InputError."""
    Image = _pillow()
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; give a picture file")
        if not path.exists():
            raise InputError(f"no such picture: {path}")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        with open(path, "rb") as file, Image.open(file) as image:
            return _decode(image, str(path))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise InputError(f"{path} is too large to be opened safely; make it smaller first ({e})") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"{path} is not a picture that Pillow can read") from None
    except PermissionError:
        raise InputError(f"{path} may not be read (permission denied)") from None
    except (InputError, MemoryError):
        raise
    except Exception as e:  # among them Pillow's warnings, where they are errors
        raise InputError(f"{path} cannot be read: {e}") from e


def _decode(image: Image.Image, name: str) -> ReadPicture:
    """Decode an opened PIL image upright; decoders raise many kinds of errors for damaged data. `name`: what errors call it,
    the last part of which is the picture's own."""
    from PIL import ImageOps

    if 0 in image.size:
        raise InputError(f"{name} is an empty picture ({image.width} x {image.height})")
    try:
        pixels, transparent = _flattened(ImageOps.exif_transpose(image))
        return ReadPicture(pixels, Path(name).name, transparent)
    except InputError as e:
        raise InputError(f"{name}: {e}") from None
    except MemoryError:
        raise
    except Exception as e:
        known = "" if image.mode in ORDINARY else f" (mode {image.mode})"
        raise InputError(f"{name} is damaged or of an unknown kind{known}: {e}") from e


def _checked(raw: np.ndarray[Any, Any] | Tensor, name: str) -> np.ndarray[Any, Any]:
    """Check an array of pixels: uint8, (height, width) or (height, width, 3 or 4), not empty."""
    array = np.ascontiguousarray(raw.detach().cpu().numpy() if isinstance(raw, Tensor) else raw)
    shape = " x ".join(map(str, array.shape)) or "a single number"
    if array.dtype != np.uint8:
        raise InputError(f"{name} has dtype {raw.dtype}; give uint8 pixels, 0 to 255")
    if array.size == 0:
        raise InputError(f"{name} is empty ({shape})")
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (3, 4):
        raise InputError(f"{name} has shape {shape}, channels first; give it as (height, width, 3)")
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise InputError(f"{name} has shape {shape}; give (height, width, 3), and several pictures as a list")
    return array


@contextmanager
def taking(pixels: Pixels, name: str) -> Iterator[None]:
    """What an image processor raises, as one sentence."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as e:
        size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise InputError(f"the image processor cannot take {name} ({size} pixels): {e}") from e


def to_image(pixels: Pixels) -> Any:
    """Pixels as a PIL image."""
    from PIL import Image

    return Image.fromarray(pixels.numpy())


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ModelError('pictures are read with Pillow, which is missing; pip install "regard[hf]"') from None
    return Image
