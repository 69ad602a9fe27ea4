"""Rewrite what is generated: the tables of methods and of protocols in docs/reference.md, the methods of README.md.

python docs/generate.py
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import regard
from regard.attribution.method import Method
from regard.evaluation import PROTOCOLS

REFERENCE = Path(__file__).parent / "reference.md"
README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- {}: begin (rewritten by python docs/generate.py) -->"
END = "<!-- {}: end -->"
SIGNS = {1: "↑", -1: "↓"}


def methods() -> str:
    """The methods as a Markdown table."""
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
        for m in ours()
    ]
    return table(head, rows)


def methods_in_short() -> str:
    """The same for the README: what each is, and what its receipt measures."""
    head = ("name", "what it is", "site", "measured against", "paper")
    rows = [(f"`{m.name}`", m.summary, m.site, m.baseline, m.paper) for m in ours()]
    return table(head, rows)


def ours() -> list[Method]:
    """The methods of the package, those that are registered from outside left out."""
    return [m for m in regard.methods() if m.function.__module__.startswith("regard.")]


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


def rewritten(page: str, tables: Mapping[str, str]) -> str:
    """A page with its tables brought up to date."""
    for name, made in tables.items():
        before, rest = page.split(BEGIN.format(name))
        _, after = rest.split(END.format(name))
        page = f"{before}{BEGIN.format(name)}\n\n{made}\n\n{END.format(name)}{after}"
    return page


def pages() -> dict[Path, str]:
    """Every page that has generated tables, as it should be."""
    tables = {REFERENCE: {"methods": methods(), "protocols": protocols()}, README: {"methods": methods_in_short()}}
    return {path: rewritten(path.read_text(encoding="utf-8"), made) for path, made in tables.items()}


if __name__ == "__main__":
    for path, page in pages().items():
        path.write_text(page, encoding="utf-8")
