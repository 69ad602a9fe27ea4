"""Write the table of mutants of verify.md from tests/support/mutants.py: `python docs/mutants.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "verify.md"
sys.path.insert(0, str(ROOT / "tests"))

from support.mutants import MUTANTS  # noqa: E402

BEGIN, END = "<!-- mutants: begin -->\n", "<!-- mutants: end -->"


def table() -> str:
    """One row a mutant."""
    found = {"verify": "`verify`", "twin": "a twin"}
    rows = [f"| {name} | {m.wrong} | {found[m.found]} |" for name, m in MUTANTS.items()]
    by = [sum(m.found == f for m in MUTANTS.values()) for f in found]
    head = f"{len(MUTANTS)} mutants: {by[0]} are found by `verify`, {by[1]} by a twin.\n"
    return "\n".join([head, "| mutant | what is wrong | found by |", "|---|---|---|", *rows])


def rewritten(page: str) -> str:
    """The page with the table as it is now."""
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    new, count = re.subn(pattern, lambda _: BEGIN + table() + "\n" + END, page, flags=re.S)
    assert count == 1
    return new


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
