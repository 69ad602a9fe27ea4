"""Rewrite what is generated in docs/reference.md: the table of methods, from `regard.methods()`.

python docs/generate.py
"""

from __future__ import annotations

from pathlib import Path

import regard

PAGE = Path(__file__).parent / "reference.md"
BEGIN = "<!-- methods: begin (rewritten by python docs/generate.py) -->"
END = "<!-- methods: end -->"


def table() -> str:
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
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def rewritten(page: str) -> str:
    """The page with its table brought up to date."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
