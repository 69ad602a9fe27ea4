"""What `--json` and `--csv` write: the explanations as JSON, and every token of them as a row; to a file or to stdout."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.cli.new_files import NewFiles, standing
from regard.errors import InputError, Misuse
from regard.explanation.writing import is_stream

WRITTEN = ("written", "written_token")
PIECES = {"json": "explanations.jsonl", "csv": "tokens.csv"}
"""The files of one input of many."""


@dataclass(frozen=True)
class DataOut:
    """Where the explanations go beside the page; "-" is stdout, which then gets nothing else."""

    json: str | None = None
    csv: str | None = None

    @classmethod
    def checked(cls, json: str | None, csv: str | None) -> DataOut:
        """Raises Misuse and InputError for files that cannot be written."""
        if json == csv == "-":
            raise Misuse("--json - and --csv - both write to stdout; give one of them a file")
        json, csv = (None if file is None else os.path.expanduser(file) for file in (json, csv))
        for option, file in (("--json", json), ("--csv", csv)):
            if file not in (None, "-"):
                _check(option, Path(str(file)))
        if json is not None and csv is not None and json != "-" and os.path.abspath(json) == os.path.abspath(csv):
            raise Misuse("--json and --csv name the same file; give each its own")
        return cls(json, csv)

    @property
    def stdout(self) -> bool:
        """Whether stdout is taken."""
        return "-" in (self.json, self.csv)

    @property
    def kinds(self) -> list[str]:
        """Which of the two are wanted."""
        return [kind for kind in PIECES if getattr(self, kind) is not None]

    def write(self, found: Sequence[tuple[str, Any]], new: NewFiles) -> list[Path]:
        """Write what was found of one input: (its name, an explanation or what was written); the files."""
        return self._written({kind: _lines_of(kind, found) for kind in self.kinds}, new)

    def pieces(self, found: Sequence[tuple[str, Any]], folder: Path) -> None:
        """The same of one input of many, in its own folder, from which `join` takes it."""
        for kind in self.kinds:
            with (folder / PIECES[kind]).open("w", encoding="utf-8", newline="") as opened:
                opened.writelines(line + "\n" for line in _lines_of(kind, found))

    def join(self, folders: Sequence[Path]) -> list[Path]:
        """Put what `pieces` wrote together, in order, line by line; the files."""
        with NewFiles() as new:
            files = self._written({kind: _lines(folders, kind) for kind in self.kinds}, new)
            new.place()
        return files

    def _written(self, lines: dict[str, Iterable[str]], new: NewFiles) -> list[Path]:
        files = []
        for kind, some in lines.items():
            file = str(getattr(self, kind))
            whole = kind == "json" and not file.endswith((".jsonl", ".ndjson"))
            files += new.lines(file, _array(some) if whole else some)
        return files


def _lines_of(kind: str, found: Sequence[tuple[str, Any]]) -> Iterable[str]:
    return map(one_json, found) if kind == "json" else csv_lines(found)


def one_json(named: tuple[str, Any]) -> str:
    """An explanation, or what was written, as JSON in one line, with its input's name; plain ASCII, as any pipe takes it."""
    name, found = named
    return json.dumps({"input": name} | found.to_dict(), ensure_ascii=True, allow_nan=False)


def csv_lines(found: Sequence[tuple[str, Any]]) -> Iterator[str]:
    """Heads, and a row for each token of all explanations, with its input, method and target."""
    from regard.explanation.export import COLUMNS
    from regard.report.view import csv_cell

    written = any(hasattr(made, "explanations") for _, made in found)
    heads = ["input", "method", "target", *(WRITTEN if written else ()), *COLUMNS]
    yield _csv_line(heads)
    for name, made in found:
        about = {"input": csv_cell(name), "method": made.method, "target": csv_cell(made.target)}
        for row in made.to_rows():
            yield _csv_line([_plain((about | row).get(head)) for head in heads])


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half of a surrogate pair is no text
    return "" if value is None else value


class _Line:
    """What a CSV writer writes to."""

    text = ""

    def write(self, text: str) -> None:
        """Keep it."""
        self.text = text


def _csv_line(cells: Sequence[Any]) -> str:
    line = _Line()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.text


def _lines(folders: Sequence[Path], kind: str) -> Iterator[str]:
    """The lines of all pieces; of CSV the heads once."""
    first = True
    for folder in folders:
        with (folder / PIECES[kind]).open(encoding="utf-8", newline="") as opened:
            for number, line in enumerate(opened):
                if kind == "json" or number or first:
                    yield line.rstrip("\n")
                first = False


def _array(lines: Iterable[str]) -> Iterator[str]:
    before = "["
    for line in lines:
        yield before + line
        before = ","
    yield "[]" if before == "[" else "]"


def _check(option: str, file: Path) -> None:
    home = Path(os.path.abspath(file)).parent
    standing(Path(os.path.abspath(file)))
    if file.is_dir() or not file.name:
        raise InputError(f"{file} is a folder; {option} needs a file, or - for stdout")
    there = standing(home)
    if not there.is_dir():
        raise InputError(f"{there} is a file; {option} needs a folder for {file.name}")
    if not os.access(there, os.W_OK) and not is_stream(file):
        raise InputError(f"{there} cannot be written to; give {option} another place")


__all__ = ["DataOut"]
