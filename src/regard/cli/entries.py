"""Named things with what is said of each, at any width: lines end between words, and no word is cut."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence

NARROW = 60
"""Below so many columns a name has a line of its own."""
USUAL = 100
WIDEST = 120


def width() -> int:
    """Columns of the terminal; 100 where nobody says."""
    return max(1, shutil.get_terminal_size((USUAL, 24)).columns)


def entries(named: Sequence[tuple[str, Sequence[str]]], columns: int) -> Iterable[str]:
    """Each name with its paragraphs beside it, or in narrow terminals below it."""
    beside = columns >= NARROW
    indent = max((len(name) for name, _ in named), default=0) + 2 if beside else 2
    for name, paragraphs in named:
        said = [line for p in paragraphs for line in _wrapped(p, min(columns, WIDEST) - indent)]
        first = (name.ljust(indent) + said.pop(0)).rstrip() if beside and said else name
        yield "\n".join([first, *(" " * indent + line for line in said)])


def _wrapped(text: str, room: int) -> list[str]:
    return textwrap.wrap(text, max(1, room), break_long_words=False, break_on_hyphens=False)


__all__ = ["entries", "width"]
