"""`regard attention-vs-posthoc`: the inputs that its arguments stand for, and the files that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import regard
from regard.cli.inputs import Pair, existing, headline, is_table, read_input
from regard.cli.options import chosen
from regard.cli.rewriting import pictures_in
from regard.errors import InputError, Misuse

NUMBERS = "agreement.csv"


def check_numbers(top: float, seed: int) -> None:
    """Refuse numbers that cannot be, before a model is loaded."""
    if not 0 < top <= 0.5:
        raise Misuse(
            f"--top is the share of the units that counts as the highest, above 0 and at most 0.5, not {top:g}"
        )
    if seed < 0:
        raise Misuse(f"--seed is a whole number from 0 on, not {seed}")


def listed(attention: Sequence[str] | None, posthoc: Sequence[str] | None) -> dict[str, list[str]]:
    """The methods that are asked for, one by one or with commas between them; the usual ones where none are."""
    asked = {"attention": attention, "posthoc": posthoc}
    found = {kind: chosen(",".join(names)) for kind, names in asked.items() if names is not None}
    table: Any = regard.methods()
    for row in table:
        if row.name in found.get("attention", ()) and "maps" not in row.needs:
            raise Misuse(f"method {row.name!r} reads no attention map; name it with --posthoc")
    return found


def expanded(values: Sequence[str], lines: bool) -> list[str]:
    """The arguments, with folders as the pictures in them. Raises InputError for a folder without any, for a table, and with
    --lines for what is no file."""
    out: list[str] = []
    for value in values:
        if is_table(value):
            existing(value)
            raise InputError(
                f"{value} is a table, which is not read here; save its texts as a text file, one a line, and give that with "
                "--lines"
            )
        if lines:
            existing(value)
        out += [str(p) for p in pictures_in(value)] if _is_folder(value) else [value]
    return out


def _is_folder(value: str) -> bool:
    try:
        return value not in ("", "-") and Path(value).is_dir()
    except (OSError, ValueError):  # too long, or with a zero byte: a text
        return False


def read_all(pair: Pair, values: Sequence[str], lines: bool) -> tuple[list[Any], list[str], dict[str, Any]]:
    """The inputs as the reader takes them, what they are called, and options for the reader.

    A picture or a sound is a path still: each is opened when its turn comes.
    """
    if lines and pair.kind != "text":
        raise Misuse(f"--lines is for models that read texts, and this one reads {pair.kind}s as INPUT")
    texts = [(line, headline(line)) for value in values for line in _lines(value)] if lines else []
    found = [pair.joined(*text) for text in texts] if lines else [pair.read(value) for value in values]
    raws, names, more = zip(*found, strict=True)
    return list(raws), list(names), more[0]


def _lines(file: str) -> list[str]:
    """The lines of a text file that hold something. Raises InputError where it is a chat."""
    text, _ = read_input(file, "text")
    if not isinstance(text, str):
        raise InputError(f"{file} is a chat; --lines takes a text file, every line of which is an input")
    return [line.strip() for line in text.splitlines() if line.strip()]


def render_posthoc(found: Sequence[Any], work: Path) -> list[str]:
    """The page, and every number as CSV."""
    from regard.report.posthoc.html import numbers

    found[0].to_html(work / "report.html")
    (work / NUMBERS).write_text(numbers(found[0]), encoding="utf-8", errors="replace")
    return ["report.html", NUMBERS]


__all__ = ["NUMBERS", "check_numbers", "expanded", "listed", "read_all", "render_posthoc"]
