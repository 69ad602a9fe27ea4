"""Tables whose fields a character separates, as files of raw inputs are."""

from __future__ import annotations

SEPARATED = (".csv", ".tsv")
"""The endings of such files."""


def delimiter_of(head: str) -> str:
    """What separates the fields of a table with this first line: what stands there most often, of comma, tab and semicolon.

    >>> delimiter_of("id,text"), delimiter_of("id;text"), delimiter_of("name, first\\ttext\\tlabel"), delimiter_of("text")
    (',', ';', '\\t', ',')
    """
    return max(",\t;", key=head.count)


__all__ = ["SEPARATED", "delimiter_of"]
