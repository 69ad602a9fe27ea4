"""Documents with human rationales, from a folder of ERASER jsonl files (DeYoung et al. 2020).

One object a line, plain or gzipped: `text` (tokens are `text.split()`, one sentence a line), `label`, and `rationales`, spans
[start, end) of tokens; `id` where there is one. Precision-like scores compare within a split only: ERASER annotated the test
split of "movies" exhaustively, and train and val not. Some of its spans are empty; they mark nothing, and are left out.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.errors import InputError

Span = tuple[int, int]
ENDINGS = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class Document:
    """A document, its label, and the spans [start, end) of `words` that a person took for the reason.

    `words` are the spans of characters of the text's tokens, as it was tokenized for the annotators.
    """

    name: str
    text: str
    label: int | None
    words: tuple[Span, ...]
    evidence: tuple[Span, ...]

    @property
    def is_evidence(self) -> list[bool]:
        """For every word, whether it is part of a rationale."""
        marked = [False] * len(self.words)
        for start, end in self.evidence:
            marked[start:end] = [True] * (end - start)
        return marked


def read_eraser(
    folder: str | os.PathLike[str], split: str = "test", labels: dict[Any, int] | None = None
) -> list[Document]:
    """The documents of one split. `labels` numbers classes that the file names by words ({"NEG": 0, "POS": 1}).

    Raises InputError, one sentence that says which line of which file, for what is missing or broken.
    """
    file = split_of(Path(folder), split)
    return [document(line, f"{file.name}, line {n}", labels) for n, line in enumerate(_lines(file), 1) if line.strip()]


def split_of(home: Path, split: str) -> Path:
    """The file of a split. Raises InputError where there is none."""
    if not home.is_dir():
        raise InputError(f"there is no folder {home}; give the folder that holds ERASER's jsonl files")
    found = [home / f"{split}{ending}" for ending in ENDINGS if (home / f"{split}{ending}").is_file()]
    if not found:
        there = sorted(p.name for p in home.iterdir() if p.name.endswith(ENDINGS)) or ["no jsonl file at all"]
        raise InputError(
            f"{home} has no split {split!r} ({split}.jsonl or {split}.jsonl.gz); it has {', '.join(there)}"
        )
    return found[0]


def _lines(path: Path) -> list[str]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8").split("\n")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as e:
        raise InputError(f"{path} cannot be read: {(str(e).splitlines() or [type(e).__name__])[0]}") from e


def document(line: str, where: str, labels: dict[Any, int] | None = None) -> Document:
    """One line of a file."""
    try:
        row = json.loads(line)
        text, label = row["text"], row["label"]
        spans = tuple((int(a), int(b)) for a, b in row["rationales"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as e:
        raise InputError(
            f"{where} is no ERASER document (text, label, rationales as [start, end] pairs): {type(e).__name__}: {e}"
        ) from e
    words = word_spans(text) if isinstance(text, str) else ()
    if not words:
        raise InputError(f"{where} has no text")
    if wrong := [s for s in spans if not 0 <= s[0] <= s[1] <= len(words)]:
        raise InputError(f"{where}: the rationale {list(wrong[0])} does not lie within its {len(words)} tokens")
    return Document(
        str(row.get("id", where)), text, _number(label, labels, where), words, tuple(s for s in spans if s[0] < s[1])
    )


def _number(label: Any, labels: dict[Any, int] | None, where: str) -> int:
    if labels is not None and not isinstance(label, list | dict) and label in labels:
        return labels[label]
    if labels is None and isinstance(label, int):
        return label
    if isinstance(label, list | dict):
        raise InputError(f"{where} has a {type(label).__name__} for a label; a label is a name or a number")
    raise InputError(f"{where} has the label {label!r}; give labels={{{label!r}: number, ...}} for every class")


def word_spans(text: str) -> tuple[Span, ...]:
    """The spans of characters of `text.split()`.

    >>> word_spans("a bc\\n d")
    ((0, 1), (2, 4), (6, 7))
    """
    spans, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        spans.append((at, at + len(word)))
        at += len(word)
    return tuple(spans)


__all__ = ["Document", "document", "read_eraser", "split_of", "word_spans"]
