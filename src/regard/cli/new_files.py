"""Files that a command writes: made aside, in hidden folders, and put in their places together when all are whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regard.errors import InputError, Misuse
from regard.explanation.writing import is_stream, opened_atomically

HIDDEN = ".regard-"
Render = Callable[[Sequence[Any], Path], list[str]]
"""Draws what was found into a folder; the names of the files, the report first."""


@dataclass
class NewFiles:
    """What one command writes: all of it, or nothing. Used as a context; without `place` nothing is left.

    Attributes:
        pairs: where each file was made, and its place. streams: pipes and devices, which get their lines last.
        aside: the hidden folders.
    """

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    streams: list[tuple[str, Iterable[str]]] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)

    def __enter__(self) -> NewFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self.aside:
            shutil.rmtree(folder, ignore_errors=True)

    def folder(self, beside: Path) -> Path:
        """A hidden folder on the same disk as a folder that is there, or will be."""
        with _writing(beside):
            self.aside.append(Path(tempfile.mkdtemp(prefix=HIDDEN, dir=standing(beside))))
        return self.aside[-1]

    def drawn(self, found: Sequence[Any], out: Path, render: Render) -> list[Path]:
        """Draw everything for a folder; the places of the files, the report first."""
        work = self.folder(out)
        with _writing(out):
            names = render(found, work)
        self.pairs += [(work / name, out / name) for name in names]
        return [out / name for name in names]

    def lines(self, file: str, lines: Iterable[str]) -> list[Path]:
        """Write lines for a file, or for - (stdout), a pipe or a device; the file, if it is one."""
        with _writing(file):
            if file == "-" or is_stream(file):
                self.streams.append((file, lines))
                return []
        final = Path(os.path.abspath(file))
        if any(place == final for _, place in self.pairs):
            raise Misuse(f"{file} is the name of the report or of a picture; give the numbers another")
        made = self.folder(final.parent) / "lines"
        with opened_atomically(made) as opened:
            opened.writelines(f"{line}\n".encode() for line in lines)
        self.pairs.append((made, final))
        return [final]

    def place(self) -> None:
        """Move every file to its place; where one cannot be moved, all that stood there before is put back."""
        moves: list[_Move] = []
        folders: list[Path] = []
        try:
            for made, place in self.pairs:
                with _writing(place):
                    _make(place.parent, folders)
                    moves.append(_Move.to(made, place))
                    moves[-1].do()
        except BaseException:
            for move in reversed(moves):
                move.undo()
            for folder in reversed(folders):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise
        for file, lines in self.streams:
            _pour(file, lines)


def _pour(file: str, lines: Iterable[str]) -> None:
    """Lines into stdout, a pipe or a device."""
    if file == "-":
        for line in lines:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
        return
    with opened_atomically(file) as opened:
        opened.writelines(f"{line}\n".encode() for line in lines)


@dataclass(frozen=True)
class _Move:
    """A file on its way to its place. `old`: where what stood there before goes; None where nothing did."""

    made: Path
    final: Path
    old: Path | None

    @classmethod
    def to(cls, made: Path, place: Path) -> _Move:
        """A link stays, and what it leads to is replaced. Raises InputError for what is no file."""
        final = Path(os.path.realpath(place))
        there = os.path.lexists(final)
        if there and not final.is_file():
            raise InputError(f"{place} is in the way, and no file: move it, or give another place")
        return cls(made, final, made.with_name(f"{made.name}.old") if there else None)

    def do(self) -> None:
        if self.old is not None:
            os.replace(self.final, self.old)
        os.replace(self.made, self.final)

    def undo(self) -> None:
        """What was there before is there again, however far the move had come."""
        if self.old is None:
            self.final.unlink(missing_ok=True)
        elif self.old.exists():
            os.replace(self.old, self.final)


def _make(folder: Path, made: list[Path]) -> None:
    """Make a folder and those above it; they are noted in `made`."""
    for one in reversed([f for f in (folder, *folder.parents) if not f.exists()]):
        made.append(one)
        one.mkdir(exist_ok=True)


def standing(path: Path) -> Path:
    """The path itself or the nearest folder above it that exists. Raises InputError for a path that there cannot be."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be written: {getattr(e, 'strerror', None) or e}") from e
    return next(p for p in (path, *path.parents) if os.path.lexists(p))


@contextlib.contextmanager
def _writing(what: object) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise InputError(f"{what} cannot be written: {e.strerror or e}") from e


__all__ = ["NewFiles", "standing"]
