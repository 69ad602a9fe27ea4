"""What a run over many inputs keeps in its output folder, so that another run can go on from there: `index.json`.

It is written atomically: the options and the model of the run, and an entry for every input that is done. A run that goes on
must have the same options and model. An input that has changed since, or that failed, is explained again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regard.errors import InputError, Misuse
from regard.report.index.entries import IndexEntry
from regard.version import __version__
from regard.zoo import in_zoo

JOURNAL, PAGE = "index.json", "index.html"
FORMAT = "regard-index-1"
WHOLE = 1 << 20  # bytes: of larger files of a model only the beginning, the end and the length are looked at
SECONDS = 2.0  # at least, between two writes of the journal
Options = dict[str, Any]


@dataclass
class Journal:
    """The entries of a run, by the folder of each input, and the options that they were made with.

    known: those of an earlier run. entries: those of this one, in the order of the inputs.
    """

    out: Path
    options: Options
    known: dict[str, IndexEntry] = field(default_factory=dict)
    entries: dict[str, IndexEntry] = field(default_factory=dict)
    _next: float = 0.0

    @classmethod
    def begun(cls, out: Path, options: Options, resume: bool) -> Journal:
        """A new one, or that of an earlier run where that is to go on.

        Raises InputError for a journal that cannot be read, Misuse where the earlier run had other options: it names them.
        """
        earlier = _read(out / JOURNAL) if resume else None
        if earlier is None:
            return cls(out, options)
        options_then, known = earlier
        _check_same(options_then, options)
        return cls(out, options, known)

    def done(self, folder: str, stamp: str) -> IndexEntry | None:
        """The entry of an input that an earlier run has explained, if it is the same and its files are there."""
        entry = self.known.get(folder)
        if entry is None or entry.stamp != stamp or entry.error or not (self.out / folder / entry.page).exists():
            return None
        return entry

    def add(self, folder: str, entry: IndexEntry) -> None:
        """Put down that an input is done; the file is written now and then."""
        self.entries[folder] = entry
        if time.monotonic() >= self._next:
            self.write()

    @property
    def all(self) -> list[IndexEntry]:
        """All entries, those that an earlier run knew and that this one has not come to last."""
        return [*(self.entries | {k: e for k, e in self.known.items() if k not in self.entries}).values()]

    def complete(self) -> None:
        """All inputs were gone through: what an earlier run knew beside them is forgotten."""
        self.known = {}
        self.write(complete=True)

    def write(self, complete: bool = False) -> None:
        """Write the file."""
        from regard.explanation.writing import write_atomically

        started = time.monotonic()
        known = {k: e for k, e in self.known.items() if k not in self.entries}
        every = [{"key": k} | e.as_dict() for k, e in (self.entries | known).items()]
        made = {"format": FORMAT, "complete": complete, "options": self.options, "inputs": every}
        write_atomically(self.out / JOURNAL, json.dumps(made, indent=1).encode())
        self._next = time.monotonic() + max(SECONDS, 20 * (time.monotonic() - started))


def _read(path: Path) -> tuple[Options, dict[str, IndexEntry]] | None:
    """The options and the entries of an earlier run; None where there was none."""
    try:
        made = json.loads(path.read_bytes())
        if made["format"] != FORMAT:
            raise ValueError(f"format {made['format']!r}")
        entries = {str(e.pop("key")): IndexEntry.from_dict(e) for e in made["inputs"]}
        if not all(_stays_inside(key, entry) for key, entry in entries.items()):
            raise ValueError("it leads out of its folder")
        return dict(made["options"]), entries
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise InputError(f"{path} is not the index of an earlier run ({e}); give another folder with --out") from e


def _stays_inside(key: str, entry: IndexEntry) -> bool:
    """Whether an entry names nothing but files of its own folder, and that folder is in the index's."""
    names = [name for name in (key, entry.folder, entry.page, entry.thumbnail) if name]
    return entry.folder in ("", key) and not any("/" in n or "\\" in n or n in (".", "..") for n in names)


def _check_same(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise Misuse where a run has other options than the one that it is to go on with."""
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    differ = [f"{name} was {_said(then.get(name))} and is {_said(now.get(name))}" for name in names]
    if differ:
        raise Misuse(
            f"--resume goes on with the same model and options, and {'; '.join(differ)}; run it as it was, or leave --resume "
            "out to begin anew"
        )


def _said(value: Any) -> str:
    if value is None:
        return "not given"
    return (
        str(value)
        if isinstance(value, bool | int | float)
        else repr(value if isinstance(value, str) else json.dumps(value))
    )


def model_stamp(folder: str) -> str:
    """What tells a model's folder from another: the names, lengths and contents of its files; "" for a name on the hub."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        return ""
    digest = hashlib.sha256()
    for file in sorted(f for f in path.iterdir() if f.is_file() and f.name[0] != "."):
        size = file.stat().st_size
        digest.update(json.dumps([file.name, size]).encode())
        for part in _ends(file, size):
            digest.update(part)
    return digest.hexdigest()[:16]


def _ends(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb") as opened:
        yield opened.read(WHOLE)
        if size > WHOLE:
            opened.seek(max(WHOLE, size - WHOLE))
            yield opened.read(WHOLE)


ASIDE = frozenset({"inputs", "chat", "out", "resume", "open", "quiet", "details", "debug", "memory_budget"})
"""Options that change nothing of what is explained."""


def kept_of(model: str, options: Mapping[str, Any]) -> Options:
    """The options of a run as its journal keeps them, by the names that the command line has for them."""
    data = {"json", "csv"}
    given = {k: bool(v) if k in data else stamped(v) for k, v in options.items() if k not in ASIDE}
    named = {f"--{k.replace('_', '-')}": v for k, v in given.items() if v not in (None, False, [], ())}
    return named | {"the model's content": model_stamp(in_zoo(model)), "Regard": __version__}


def stamped(said: Any) -> Any:
    """An option as the journal keeps it: of a file that it names, also what tells its content."""
    if isinstance(said, list | tuple):
        return [stamped(one) for one in said]
    if not isinstance(said, str | Path):
        return said
    words = str(said)
    for name in (words, words.partition(":")[2]):
        try:
            if name and Path(name).is_file():
                return f"{words} ({hashlib.sha256(Path(name).read_bytes()).hexdigest()[:12]})"
        except (OSError, ValueError):  # too long, or with a zero byte: words
            continue
    return words


__all__ = ["JOURNAL", "PAGE", "Journal", "kept_of", "model_stamp", "stamped"]
