"""A number of things in words."""

from __future__ import annotations

PLURALS = {"patch": "patches", "pass": "passes"}


def quantity(count: int, unit: str) -> str:
    """So many units.

    >>> quantity(1, "patch"), quantity(64, "patch"), quantity(0, "word")
    ('1 patch', '64 patches', '0 words')
    """
    return f"{count} {unit if count == 1 else PLURALS.get(unit, unit + 's')}"


__all__ = ["quantity"]
