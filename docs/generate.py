"""Rewrite what is generated in docs/reference.md: the tables of methods and of protocols.

python docs/generate.py
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import regard
from regard.evaluation import PROTOCOLS

PAGE = Path(__file__).parent / "reference.md"
BEGIN = "<!-- {}: begin (rewritten by python docs/generate.py) -->"
END = "<!-- {}: end -->"
SIGNS = {1: "↑", -1: "↓"}


def methods() -> str:
    """The methods as a Markdown table, those that are registered from outside left out."""
    head = ("name", "what it is", "options", "cost", "site", "baseline", "decomposes", "paper")
    rows = [
        (
            f"`{m.name}`",
            m.summary,
            ", ".join(f"`{name}={default!r}`" for name, default in m.options.items()) or "none",
            m.passes,
            m.site,
            m.baseline,
            "yes" if m.decomposes else "no",
            m.paper,
        )
        for m in regard.methods()
        if m.function.__module__.startswith("regard.")
    ]
    return table(head, rows)


def protocols() -> str:
    """The protocols as a Markdown table; an arrow says which way a metric is better."""
    rows = [
        (
            f"`{name}`",
            of.kind,
            of.question,
            ", ".join(f"`{m}` {SIGNS[d]}" for m, d in of.better.items()) or "by the order",
        )
        for name, of in PROTOCOLS.items()
    ]
    return table(("class", "kind", "what is asked", "metrics that can be better or worse"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def rewritten(page: str) -> str:
    """The page with its tables brought up to date."""
    for name, made in (("methods", methods()), ("protocols", protocols())):
        before, rest = page.split(BEGIN.format(name))
        _, after = rest.split(END.format(name))
        page = f"{before}{BEGIN.format(name)}\n\n{made}\n\n{END.format(name)}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
