"""Our own example sentences and the words that their sentiment rests on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sentence:
    """A sentence, its label ("negative" or "positive"), and the words, as written in it, that decide the label."""

    text: str
    label: str
    words: tuple[str, ...]


def read_sentences(path: Path) -> list[Sentence]:
    """Read sentences from a JSON list of objects with ``text``, ``label`` and ``words``."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Sentence(row["text"], row["label"], tuple(row["words"])) for row in rows]
