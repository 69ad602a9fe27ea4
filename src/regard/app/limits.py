"""How much one visitor may ask of the machine, and how what was sent is read: nothing of it is trusted."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.errors import InputError


@dataclass(frozen=True)
class Limits:
    """The most that is taken: pixels of a picture, bytes of its file, characters of a text, visitors that wait in the queue.

    seconds: how long the test of what is shown may take; a map that would take longer says so.
    """

    pixels: int = 25_000_000
    bytes: int = 20_000_000
    characters: int = 4_000
    waiting: int = 30
    seconds: float = 20.0

    def checked_text(self, text: str | None, what: str) -> str:
        """A text that was typed. Raises InputError for one that is empty or too long; what: "the text"."""
        said = text or ""
        if not said.strip():
            raise InputError(f"{what} is empty: type it, or choose an example")
        if len(said) > self.characters:
            raise InputError(
                f"{what} has {len(said):,} characters, and at most {self.characters:,} are taken: shorten it"
            )
        return said

    def read_upload(self, said: object, folder: Path) -> Any:
        """A picture that was uploaded to a folder, as a PIL image with its file's name. said: its path, as the browser says.

        Raises InputError for what is no file in that folder, no picture, or too large.
        """
        path = _inside(said, folder)
        size, width, height = path.stat().st_size, *_size(path)
        if size > self.bytes:
            raise InputError(f"{path.name} has {megabytes(size)} MB, and at most {megabytes(self.bytes)} MB are taken")
        if width * height > self.pixels:
            most = f"at most {self.pixels / 1e6:g} million are taken: make it smaller"
            raise InputError(
                f"{path.name} has {width * height / 1e6:.3g} million pixels ({width} x {height}), and {most}"
            )
        from regard.models.pictures import read_picture, to_image

        try:
            image = to_image(read_picture(path)[0])
        except InputError as e:
            raise InputError(str(e).replace(str(path), path.name)) from None
        image.filename = path.name
        return image


def megabytes(count: int) -> str:
    """Bytes in millions, for a sentence."""
    return f"{count / 1e6:.3g}"


def _inside(said: object, folder: Path) -> Path:
    """A path that lies in a folder. Raises InputError for any other: it is the browser that names it."""
    try:
        path = Path(str(said)).resolve()
        there = path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError):  # too long, or with a zero byte
        there = False
    if not there:
        raise InputError("the picture that was sent is no longer here: drop it again")
    return path


def _size(path: Path) -> tuple[int, int]:
    """Width and height by the file's head alone; (0, 0) where reading it will say what is wrong."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.size
    except Exception:  # whatever Pillow says of a file that is no picture, or far too large a one
        return 0, 0


__all__ = ["Limits", "megabytes"]
