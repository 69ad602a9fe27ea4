"""The lines of a file, or the rows of a CSV file, by number: where each begins is kept, and nothing of what they say."""

from __future__ import annotations

import csv
import gzip
import json
import weakref
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from regard.errors import InputError
from regard.explanation.separated import delimiter_of

LONGEST = 1 << 24
"""Letters of a field of a CSV file."""


@dataclass(eq=False)
class Lines:
    """Lines that are not blank, of a plain file or a gzipped one.

    Attributes:
        begins: where each begins, in bytes of the text. numbers: which line of the file each is, from 1.
    """

    path: Path
    begins: array[int] = field(default_factory=lambda: array("q"), repr=False)
    numbers: array[int] = field(default_factory=lambda: array("q"), repr=False)
    _opened: IO[bytes] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        at = 0
        try:
            with self._open() as opened:
                for number, line in enumerate(opened, 1):
                    if line.strip():
                        self.begins.append(at)
                        self.numbers.append(number)
                    at += len(line)
        except (OSError, EOFError, zlib.error) as e:
            raise InputError(f"{self.path} cannot be read: {(str(e).splitlines() or [type(e).__name__])[0]}") from e

    def __getstate__(self) -> dict[str, Any]:
        """Without the opened file."""
        return self.__dict__ | {"_opened": None}

    def __len__(self) -> int:
        return len(self.begins)

    def _open(self) -> IO[bytes]:
        found: Any = gzip.open if self.path.suffix == ".gz" else open
        opened: IO[bytes] = found(self.path, "rb")
        return opened

    def from_line(self, number: int) -> Iterator[str]:
        """The text from one of them on, line by line. Raises InputError for what is not UTF-8."""
        if self._opened is None:
            self._opened = self._open()
            weakref.finalize(self, self._opened.close)
        self._opened.seek(self.begins[number])
        for line in self._opened:
            try:
                yield line.decode("utf-8-sig")
            except UnicodeDecodeError as e:
                raise InputError(f"{self.where(number)} is not UTF-8 text") from e

    def where(self, number: int) -> str:
        """Which line it is, in words."""
        return f"{self.path.name}, line {self.numbers[number]}"

    def text(self, number: int) -> str:
        """One line."""
        return next(self.from_line(number))

    def row(self, number: int) -> dict[str, Any]:
        """What the JSON of a line says. Raises InputError where it is no object."""
        try:
            made = json.loads(self.text(number))
        except (ValueError, RecursionError) as e:
            if isinstance(e, InputError):
                raise
            raise InputError(f"{self.where(number)} is not JSON ({e})") from e
        if not isinstance(made, dict):
            raise InputError(f"{self.where(number)} is no JSON object")
        return made


@dataclass(eq=False)
class CsvRows(Lines):
    """The rows of a CSV file whose first one names the columns; a field may run over several lines."""

    names: list[str] = field(default_factory=list)
    delimiter: str = ","

    def __post_init__(self) -> None:
        csv.field_size_limit(LONGEST)
        self._at, self._line = 0, 0
        try:
            with self._open() as opened:
                self.delimiter = delimiter_of(opened.readline().decode("utf-8-sig", "replace"))
                opened.seek(0)
                rows = csv.reader(self._counted(opened), delimiter=self.delimiter)
                self.names = next(rows, [])
                begins, number = self._at, self._line + 1
                for row in rows:
                    if row:
                        self.begins.append(begins)
                        self.numbers.append(number)
                    begins, number = self._at, self._line + 1
        except (OSError, EOFError, zlib.error, csv.Error) as e:
            raise InputError(f"{self.path} cannot be read: {(str(e).splitlines() or [type(e).__name__])[0]}") from e

    def _counted(self, opened: IO[bytes]) -> Iterator[str]:
        for line in opened:
            self._at, self._line = self._at + len(line), self._line + 1
            yield line.decode("utf-8-sig", "replace")

    def row(self, number: int) -> dict[str, Any]:
        """One row by its columns."""
        try:
            values = next(csv.reader(self.from_line(number), delimiter=self.delimiter))
        except csv.Error as e:
            raise InputError(f"{self.where(number)} is no row of a CSV file ({e})") from e
        if len(values) != len(self.names):
            raise InputError(f"{self.where(number)} has {len(values)} fields for {len(self.names)} columns")
        return dict(zip(self.names, values, strict=True))


__all__ = ["CsvRows", "Lines"]
