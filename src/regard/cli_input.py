"""What an INPUT of the command line stands for: a picture file, a text file, stdin, or the words themselves."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path
from typing import Any

from regard.errors import InputError

SUFFIXES = frozenset(
    {".txt", ".md", ".rst", ".csv", ".json", ".html", ".npy", ".pt", ".safetensors"}
    | {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
)


def read_input(value: str, kind: str) -> tuple[Any, str]:
    """The raw input that an argument stands for, and a name for it. Raises InputError where there is none."""
    if kind == "image":
        return (_stdin_picture(), "stdin") if value == "-" else (existing(value), Path(value).name)
    if value == "-":
        return _decoded(sys.stdin.buffer.read(), "stdin"), "stdin"
    if _is_there(value):
        path = existing(value)
        return _decoded(_bytes(path), str(path)), path.name
    if looks_like_path(value):
        hint = "" if "\n" in value else "; to explain these words as a text, pipe them in and give - as INPUT"
        raise InputError(f"no such file: {value}{hint}")
    return value, _headline(value)


def looks_like_path(value: str) -> bool:
    """Whether an argument that is no file was meant as one: a file's suffix, or a slash and no white space."""
    if "\n" in value:
        return False
    if Path(value).suffix.lower() in SUFFIXES:
        return True
    return value.startswith(("/", "./", "../", "~/")) or (
        ("/" in value or "\\" in value) and not re.search(r"\s", value)
    )


def _is_there(value: str) -> bool:
    try:
        return bool(value) and os.path.lexists(value)
    except (OSError, ValueError):  # too long, or with a zero byte: a text
        return False


def existing(value: str) -> Path:
    """The path of a file that is there. Raises InputError where it is not, or is a folder."""
    path = Path(value)
    if not _is_there(value) or not path.exists():
        raise InputError(f"no such file: {value}")
    if path.is_dir():
        raise InputError(f"{value} is a folder; give a file")
    return path


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror or e}") from e


def _decoded(data: bytes, name: str) -> str:
    """A text file's text; a byte order mark and the last line's end are no part of it."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise InputError(f"{name} is not UTF-8 text (byte {e.start}); the model reads text") from e
    if "\0" in text:
        raise InputError(f"{name} is not text: it holds zero bytes; the model reads text")
    if not text.strip():
        raise InputError(f"{name} is empty; give it some text")
    return text.rstrip("\r\n")


def _stdin_picture() -> Any:
    from PIL import Image, UnidentifiedImageError

    data = sys.stdin.buffer.read()
    if not data:
        raise InputError("stdin is empty; the model reads a picture")
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise InputError(f"stdin is not a picture that can be read: {e}") from e
    return image


def _headline(text: str) -> str:
    """The first words of a text, to call it by."""
    line = " ".join(text.split())
    return line if len(line) <= 48 else line[:47].rsplit(" ", 1)[0] + " …"
