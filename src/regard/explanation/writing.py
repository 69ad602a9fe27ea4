"""How files are written: there whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from regard.errors import InputError


def write_atomically(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file that is there whole or not at all (see `opened_atomically`)."""
    with opened_atomically(path) as f:
        f.write(data)
    return Path(path)


@contextmanager
def opened_atomically(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A temporary file beside `path` to be filled, then renamed: never half a file. Makes missing folders.

    A link stays one, and what it leads to is replaced. A device or a pipe is written into: it cannot be replaced.
    Raises InputError where nothing can be written.
    """
    try:
        with _into(path) if is_stream(path) else _replacing(Path(os.path.realpath(path))) as f:
            yield f
    except OSError as e:
        raise InputError(f"{path} cannot be written: {e.strerror or e}") from e


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether there is something that is neither a file nor a folder: a device, a pipe. Raises OSError as `os.stat` does."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    except ValueError as e:  # a zero byte, half a character
        raise OSError(errno.EINVAL, "no file can be called that") from e
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _into(path: str | os.PathLike[str]) -> IO[bytes]:
    """A device or a pipe, opened. Raises OSError for a pipe that nobody reads, rather than wait for ever."""
    if not Path(path).is_fifo():
        return open(path, "wb")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as e:
        if e.errno == errno.ENXIO:
            raise OSError(e.errno, "nobody reads from this pipe") from None
        raise
    os.set_blocking(handle, True)
    return os.fdopen(handle, "wb")


@contextmanager
def _replacing(final: Path) -> Iterator[IO[bytes]]:
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".regard-{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as f:
            yield f
        if final.exists():
            temporary.chmod(stat.S_IMODE(final.stat().st_mode))
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


__all__ = ["is_stream", "opened_atomically", "write_atomically"]
