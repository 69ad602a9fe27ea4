"""Texts or pictures in the rows of a CSV or a JSON Lines file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from regard.errors import InputError, nearest
from regard.evaluation.data.dataset import DataSet, checked_picture, file_of, files_digest, inside, reading_of
from regard.evaluation.data.lines import CsvRows, Lines
from regard.evaluation.examples import Example
from regard.explanation.separated import SEPARATED

COLUMNS = ("text", "sentence", "image", "picture", "file", "path")
"""Columns that are looked for, in this order, where none is named."""


@dataclass(kw_only=True)
class Table(DataSet):
    """A row for each text, or for each path of a picture, which lies in the file's folder.

    Attributes:
        column: of the text, or the path; None: the first of `COLUMNS` that there is. label: of the class; rows without it have
            none. group: of what several rows share; intervals draw them together.
    """

    kind: ClassVar[str] = "table"
    file: str
    column: str | None = None
    label: str = "label"
    group: str | None = None
    rows: Lines = field(init=False, repr=False)

    def __post_init__(self) -> None:
        file = file_of(self.file, "a CSV or a JSON Lines file")
        plain = file.with_suffix("") if file.suffix == ".gz" else file
        self.rows = CsvRows(file) if plain.suffix.lower() in SEPARATED else Lines(file)
        if not len(self.rows):
            raise InputError(f"{file} holds no rows")
        first = self._columns()
        if self.column is None and first:
            self.column = next((c for c in COLUMNS if c in first), None)
            if self.column is None:
                raise InputError(
                    f"{file} has the columns {', '.join(first)}; name the one of the texts or paths with column="
                )
        for name in (self.column, self.group):
            if name is not None and first and name not in first:
                raise nearest(name, first, f"column of {file}")

    def _columns(self) -> list[str]:
        """As the head says, or the first row that can be read."""
        if isinstance(self.rows, CsvRows):
            return self.rows.names
        for number in range(len(self.rows)):
            try:
                return list(self.rows.row(number))
            except InputError:  # it will be a row with its error
                continue
        raise InputError(f"{self.file} holds no row that can be read: its lines are no JSON objects")

    @property
    def source(self) -> str:
        """The file."""
        return str(self.file)

    def __len__(self) -> int:
        return len(self.rows)

    def name_of(self, number: int) -> str:
        """The line of the file."""
        return f"line {self.rows.numbers[number]}"

    @property
    def labelled(self) -> bool:
        """Whether there is a column of classes."""
        return self.label in self._columns()

    def choices(self) -> dict[str, Any]:
        """The columns."""
        return super().choices() | {"column": self.column, "label": self.label, "group": self.group}

    def read(self, reader: Any, number: int) -> Example:
        """One row."""
        row = self.rows.row(number)
        value = row.get(self.column or "")
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{self.rows.where(number)} has nothing in the column {self.column!r}")
        raw: Any = value
        if reader.kind == "image":
            raw = checked_picture(inside(Path(self.file).expanduser().parent, value), value)
        label = self.number_of(row.get(self.label) if row.get(self.label) != "" else None, reader)
        group = row.get(self.group) if self.group else None
        return Example(self.name_of(number), reading_of(reader, raw), label, group="" if group is None else str(group))

    def digest(self) -> str:
        """Of the file, and of the pictures that it names."""
        file = Path(self.file).expanduser()
        return files_digest([file, *self._pictures(file.parent)], file.parent)

    def _pictures(self, home: Path) -> Iterator[Path]:
        """The files that rows name; none where the first row that can be read names none."""
        for number in range(len(self)):
            try:
                path = inside(home, str(self.rows.row(number).get(self.column or "")))
                there = path.is_file()
            except (InputError, OSError, ValueError):  # such a row becomes a row with its error; or a text is no path
                continue
            if there:
                yield path
            elif number == 0:
                return


__all__ = ["Table"]
