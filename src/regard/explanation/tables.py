"""Tables of results in plain text and as HTML for notebooks; nothing heavy is imported here."""

from __future__ import annotations

import html
import textwrap
import unicodedata
from collections.abc import Sequence

WIDTH = 80
"""Columns of what is printed, at most."""
GAP = "  "
STYLE = (
    "border-collapse:collapse;background:#fff;color:#1b1d22;font:14px/1.45 system-ui,sans-serif",
    "text-align:left;vertical-align:top;padding:.25em 1.2em .25em .5em;border-top:1px solid #d5d8de;overflow-wrap:anywhere",
)
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def one_line(text: str, most: int = WIDTH) -> str:
    """Untrusted text in one line: white space is one space, control and direction characters are �, and the end is cut."""
    line = "".join("�" if unicodedata.category(c) in UNSEEN else c for c in " ".join(text.split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def in_columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Rows with their cells one under the other; the columns of those numbers are flush on the right."""
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(max(map(len, rows), default=0))]
    return [
        GAP.join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]


def beside(name: str, value: str, indent: int = 16, width: int = WIDTH) -> str:
    """A name and what is said of it, in as many lines as it takes."""
    first = name.ljust(indent - 1) + " "
    return textwrap.fill(
        " ".join(value.split()), width, initial_indent=first, subsequent_indent=" " * indent, break_on_hyphens=False
    )


def as_html(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table for a notebook, on its own paper; every text is escaped."""
    table, cell = STYLE

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f'<{tag} style="{cell}">{html.escape(str(c))}</{tag}>' for c in cells) + "</tr>"

    said = f'<caption style="text-align:left;color:#565b65">{html.escape(caption)}</caption>' if caption else ""
    top = f"<thead>{line('th', head)}</thead>" if head else ""
    body = "".join(line("td", row) for row in rows)
    return f'<div style="overflow-x:auto"><table style="{table}">{said}{top}<tbody>{body}</tbody></table></div>'


__all__ = ["WIDTH", "as_html", "beside", "in_columns", "one_line"]
