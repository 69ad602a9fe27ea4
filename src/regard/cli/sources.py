"""What the inputs of one command are: words and files, folders, globs, the rows of JSON Lines and CSV files, chats.

Inputs are found one after the other and are never all in memory. All that can be refused without a model is refused first.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.cli.inputs import (
    MESSAGES,
    PICTURES,
    ROWS,
    SOUNDS,
    chat_of,
    existing,
    headline,
    is_table,
    is_there,
    looks_like_path,
    read_input,
    read_json,
    what_reads,
)
from regard.errors import InputError, Misuse, nearest
from regard.explanation.separated import SEPARATED, delimiter_of

TEXTS = frozenset({".txt", ".md", ".rst"})
READ = {"image": PICTURES, "sound": SOUNDS}
"""By what a model reads, which files of a folder are its inputs; else texts."""
LONGEST = 1 << 26  # characters of a cell


@dataclass(frozen=True)
class OneInput:
    """One input, not read yet.

    Attributes:
        name: what it is called. stem: the same for a file's name. value: an argument of the command line, or what a row holds.
        home: of a row, where the files that it names are; None for an argument. target: what is explained of it, where its row
            says so. error: why it is none.
    """

    name: str
    stem: str
    value: Any
    home: Path | None = None
    target: str | None = None
    error: str = ""

    def read(self, kind: str) -> tuple[Any, str]:
        """The raw input, and a name for it. Raises InputError where there is none."""
        if self.error:
            raise InputError(self.error)
        if self.home is None:
            raw, name = read_input(self.value, kind)
            return raw, self.name if isinstance(raw, Path) else name
        if kind in READ:
            return self._file(), self.name
        if isinstance(self.value, str) and not self.value.strip():
            raise InputError(f"{self.name} is empty; give it some text")
        return self.value, f"{self.name}: {headline(self.value)}" if isinstance(self.value, str) else self.name

    def _file(self) -> Path:
        """The file that a row names, beside the file that it is a row of."""
        if not isinstance(self.value, str) or self.home is None:
            raise InputError(f"{self.name} holds a chat, and the model reads no text")
        try:
            return existing(str(self.home / self.value))
        except InputError as e:
            raise InputError(f"{self.name}: {e}") from None

    def stamp(self, kind: str) -> str:
        """What tells it from any other input: its name, its target, and what it holds."""
        digest = hashlib.sha256(json.dumps([self.name, self.target, self.error]).encode())
        file = self._named(kind)
        if file is None:
            digest.update(json.dumps(self.value, default=str).encode())
        else:
            with file.open("rb") as opened:
                for part in iter(lambda: opened.read(1 << 20), b""):
                    digest.update(part)
        return digest.hexdigest()

    def _named(self, kind: str) -> Path | None:
        """The file that it is read from; None where it is said in words, or is not there."""
        if not isinstance(self.value, str) or (self.home is not None and kind not in READ):
            return None
        path = Path(self.value) if self.home is None else self.home / self.value
        try:
            return path if path.is_file() else None
        except (OSError, ValueError):  # too long, or with a zero byte: a text
            return None


@dataclass(frozen=True)
class Argument:
    """Words, a file, or - (stdin)."""

    value: str

    def items(self, _kind: str) -> Iterator[OneInput]:
        """The one that it is."""
        if self.value == "-":
            yield OneInput("stdin", "stdin", self.value)
        elif is_there(self.value):
            yield OneInput(self.value, Path(self.value).stem, self.value)
        else:
            yield OneInput(headline(self.value), headline(self.value), self.value)


@dataclass(frozen=True)
class FilesIn:
    """The files of a folder and of those in it, by name; hidden ones, and those in the output folder, are passed over."""

    folder: Path
    out: Path

    def items(self, kind: str) -> Iterator[OneInput]:
        """Those that a model of this kind reads. Raises InputError where there is none."""
        found = False
        for path in self._files(READ.get(kind, TEXTS)):
            found = True
            yield OneInput(str(path), str(path.relative_to(self.folder).with_suffix("")), str(path))
        if not found:
            raise InputError(_holds_nothing(self.folder, READ.get(kind, TEXTS)))

    def check(self) -> None:
        """Refuse a folder in which nothing can be read by any model."""
        if next(self._files(PICTURES | SOUNDS | TEXTS), None) is None:
            raise InputError(_holds_nothing(self.folder, PICTURES | SOUNDS | TEXTS))

    def _files(self, suffixes: frozenset[str]) -> Iterator[Path]:
        for home, folders, files in os.walk(self.folder):
            here = Path(home)
            folders[:] = sorted(f for f in folders if f[0] != "." and Path(os.path.abspath(here / f)) != self.out)
            for name in sorted(files):
                if name[0] != "." and Path(name).suffix.lower() in suffixes:
                    yield here / name


def _holds_nothing(folder: Path, suffixes: frozenset[str]) -> str:
    return f"{folder} is a folder in which nothing can be read ({', '.join(sorted(suffixes))})"


@dataclass(frozen=True)
class Matches:
    """The files that a pattern with *, ? or [...] matches, by name."""

    pattern: str

    def items(self, _kind: str) -> Iterator[OneInput]:
        """All of them."""
        for path in self.files():
            yield OneInput(path, Path(path).stem, path)

    def files(self) -> list[str]:
        """Their paths."""
        return sorted(f for f in glob.iglob(self.pattern, recursive=True) if os.path.isfile(f))


@dataclass(frozen=True)
class TableRows:
    """The rows of a JSON Lines or a CSV file: the input in one column, what is explained of it perhaps in another."""

    path: Path
    column: str | None
    label: str | None

    def items(self, _kind: str) -> Iterator[OneInput]:
        """One a row, also of rows that hold none."""
        for number, row in self._rows():
            name = f"{self.path} {number}"
            value, target, error = self._read(name, row)
            yield OneInput(name, f"{self.path.stem}-{number}", value, self.path.parent, target, error)

    def _read(self, name: str, row: Any) -> tuple[Any, str | None, str]:
        """What a row holds, what is explained of it, and why it is no input."""
        if isinstance(row, InputError):
            return None, None, str(row)
        value = self._value(row)
        if value is None:
            return None, None, f"{name} has " + (f"nothing in column {self.column!r}" if self.column else "no text")
        target = row.get(self.label) if self.label and isinstance(row, dict) else None
        if self.label and (target is None or not str(target).strip()):
            return value, None, f"{name} has no label in column {self.label!r}"
        return value, None if target is None else str(target), ""

    def _value(self, row: Any) -> Any:
        """What a row says: a text, a path, a chat; None where it says nothing of the kind."""
        value = row if self.column is None or not isinstance(row, dict) else row.get(self.column)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
        return chat_of(value)

    def check(self) -> None:
        """Refuse a file that cannot be read, or whose columns are not those that were named."""
        fields: dict[str, None] = {}
        bare = rows = 0
        for _, row in self._rows():
            rows += 1
            fields |= dict.fromkeys(name for name in row if name is not None) if isinstance(row, dict) else {}
            bare += not isinstance(row, dict | InputError) or (isinstance(row, dict) and chat_of(row) is not None)
        if not rows:
            raise InputError(f"{self.path} holds no rows")
        if self.column is None and not bare and fields:
            raise Misuse(
                f"{self.path} has the columns {', '.join(fields)}; name the one that holds the inputs with --column"
            )
        for name in (self.column, self.label):
            if name is not None and name not in fields:
                raise nearest(name, fields, f"column of {self.path}")

    def _rows(self) -> Iterator[tuple[int, Any]]:
        """Each row that is not blank, with the number of its line (of a CSV file, of its row)."""
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as opened:
                yield from (self._of_csv(opened) if self.path.suffix.lower() in SEPARATED else self._of_lines(opened))
        except UnicodeDecodeError as e:
            raise InputError(f"{self.path} is not UTF-8 text (byte {e.start}); save it as UTF-8") from e
        except (OSError, csv.Error) as e:
            raise InputError(f"{self.path} cannot be read: {getattr(e, 'strerror', None) or e}") from e

    def _of_csv(self, opened: Any) -> Iterator[tuple[int, Any]]:
        csv.field_size_limit(LONGEST)
        delimiter = delimiter_of(opened.readline())
        opened.seek(0)
        yield from enumerate(csv.DictReader(opened, delimiter=delimiter), 1)

    def _of_lines(self, opened: Any) -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(opened, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as e:
                    said = e.msg if isinstance(e, json.JSONDecodeError) else str(e)
                    yield number, InputError(f"line {number} of {self.path} is not JSON ({said})")


@dataclass(frozen=True)
class ChatFile:
    """A JSON file of a chat's messages."""

    path: str

    def items(self, _kind: str) -> Iterator[OneInput]:
        """The one chat."""
        yield OneInput(self.path, Path(self.path).stem, self.path)

    def check(self) -> None:
        """Refuse a file that is no chat."""
        if chat_of(read_json(Path(self.path), MESSAGES)) is None:
            raise InputError(f"{self.path} holds no chat; give {MESSAGES}")


Part = Argument | FilesIn | Matches | TableRows | ChatFile


@dataclass(frozen=True)
class Sources:
    """All inputs of one command."""

    parts: tuple[Part, ...]

    @classmethod
    def checked(
        cls, values: Sequence[str], chats: Sequence[Path], column: str | None, label: str | None, out: Path
    ) -> Sources:
        """What the arguments stand for. Raises Misuse and InputError for what can be refused without a model."""
        parts: list[Part] = [part for value in values for part in _parts(value, column, label, out)]
        parts += [ChatFile(str(path)) for path in chats]
        if not parts:
            raise Misuse("no INPUT is given: a picture, a text, a file, a folder, a glob; or --chat FILE")
        if (column or label) and not any(isinstance(p, TableRows) for p in parts):
            name = "--column" if column else "--label"
            raise Misuse(f"{name} names a column of a .csv, .tsv or .jsonl file, and none is given")
        for part in parts:
            if isinstance(part, FilesIn | TableRows | ChatFile):
                part.check()
        return cls(tuple(parts))

    @property
    def arguments(self) -> list[str]:
        """Those that stand for one input each."""
        return [p.value for p in self.parts if isinstance(p, Argument)]

    @property
    def single(self) -> bool:
        """Whether they are one input, which has a report of its own; else there is an index."""
        return len(self.parts) == 1 and isinstance(self.parts[0], Argument | ChatFile)

    def check_rows(self, target: Sequence[str] | None, written: bool) -> None:
        """Refuse --label beside what it takes the place of, or where what is written is explained."""
        if not any(isinstance(p, TableRows) and p.label for p in self.parts):
            return
        if target:
            raise Misuse("--label says what is explained of each row, and --target of all; leave one out")
        if written:
            raise Misuse(
                "--label says what is explained of each row, --generate and --answer of each token; leave one out"
            )

    def check_kind(self, kind: str, reader: Any) -> None:
        """Refuse a chat for a model that reads none."""
        if kind in READ and any(isinstance(p, ChatFile) for p in self.parts):
            model = type(getattr(reader, "model", reader)).__name__
            raise Misuse(f"--chat goes with models that read texts; {model} reads {what_reads(reader.kind)}")

    def items(self, kind: str) -> Iterator[OneInput]:
        """One after the other, for a model that reads pictures ("image"), "sound" or texts."""
        for part in self.parts:
            yield from part.items(kind)

    def count(self, kind: str) -> int:
        """How many there are."""
        return sum(1 for _ in self.items(kind))


def check_ends(sources: Sources, beside: Sequence[Any], resume: bool, opened: bool, no_page: bool) -> None:
    """Refuse to go on with what cannot be gone on with, and to open a page that is not made.

    beside: what goes with each input.
    """
    if resume and sources.single:
        raise Misuse("--resume goes on with several inputs, and one is given; leave it out")
    if resume and "-" in [*sources.arguments, *beside]:
        raise Misuse("--resume cannot tell whether stdin is the same as before; save it to a file, and give that")
    if opened and no_page:
        raise Misuse("--open opens the page that --no-page leaves out; leave one out")


def _is_glob(value: str) -> bool:
    """Whether words with *, ? or [...] are a pattern: they look like a path, or they are one word that matches files."""
    if not glob.has_magic(value) or "\n" in value or "\0" in value:
        return False
    return looks_like_path(value) or (not any(c.isspace() for c in value) and bool(Matches(value).files()))


def _parts(value: str, column: str | None, label: str | None, out: Path) -> list[Part]:
    """What an argument stands for; the tables among the files that a glob matches are read by rows, too."""
    there = is_there(value)
    if there and os.path.isdir(value):
        return [FilesIn(Path(value), out)]
    if not there and _is_glob(value):
        found = Matches(value)
        tables = [f for f in found.files() if Path(f).suffix.lower() in ROWS]
        if not found.files():
            raise InputError(f"no file matches {value}")
        if not tables:
            return [found]
        return [TableRows(Path(f), column, label) if f in tables else Matches(glob.escape(f)) for f in found.files()]
    if is_table(value):
        return [TableRows(existing(value), column, label)]
    return [Argument(value)]


__all__ = ["OneInput", "Sources", "check_ends"]
