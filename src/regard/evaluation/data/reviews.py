"""ERASER's documents with rationales as a data set, one line of a jsonl file at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from regard.errors import InputError, Misuse
from regard.evaluation.data.dataset import DataSet, files_digest, reading_of
from regard.evaluation.data.eraser import Document, document, split_of
from regard.evaluation.data.lines import Lines
from regard.evaluation.examples import Example


@dataclass(kw_only=True)
class EraserDocuments(DataSet):
    """A folder of ERASER's files, or one of them.

    Attributes:
        split: of a folder, the file's name: train, val or test.
    """

    kind: ClassVar[str] = "eraser"
    path: str
    split: str = "test"
    lines: Lines = field(init=False, repr=False)

    def __post_init__(self) -> None:
        place = Path(self.path).expanduser()
        self.lines = Lines(place if place.is_file() else split_of(place, self.split))
        if not len(self.lines):
            raise InputError(f"{self.lines.path} holds no documents")

    @property
    def source(self) -> str:
        """The folder or the file."""
        return str(self.path)

    def __len__(self) -> int:
        return len(self.lines)

    def name_of(self, number: int) -> str:
        """The line of the file."""
        return f"line {self.lines.numbers[number]}"

    def choices(self) -> dict[str, Any]:
        """The split."""
        return super().choices() | {"split": self.split}

    @property
    def rationales(self) -> bool:
        """They have them."""
        return True

    def read(self, reader: Any, number: int) -> Example:
        """The text with its class, without its rationale."""
        found = self.document(reader, number)
        return Example(self.name_of(number), reading_of(reader, found.text), found.label)

    def document(self, reader: Any, number: int) -> Document:
        """The text with its rationale."""
        if reader.kind != "text":
            raise Misuse(f"documents are for models of texts, not of the kind {reader.kind!r}")
        row = self.lines.row(number)
        label = row.get("label")
        numbers: dict[Any, int] | None = None
        if isinstance(label, str | int | float) and (number_of := self.number_of(label, reader)) is not None:
            numbers = {label: number_of}
        return document(self.lines.text(number), self.lines.where(number), numbers)

    def digest(self) -> str:
        """Of the file."""
        return files_digest([self.lines.path])


__all__ = ["EraserDocuments"]
