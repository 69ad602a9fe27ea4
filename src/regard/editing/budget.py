"""A budget in words."""

from __future__ import annotations

import math

from regard.errors import Misuse


def budget_in(words: str) -> float:
    """A number, or a fraction such as 2/255. Raises Misuse for other words, and for what is no size greater than 0."""
    top, _, bottom = words.partition("/")
    try:
        found = float(top) / (float(bottom) if bottom else 1.0)
    except (ValueError, ZeroDivisionError):
        found = math.nan
    if not math.isfinite(found) or found <= 0:
        raise Misuse(f"budget {words!r} is no size greater than 0; give a number or a fraction, such as 2/255")
    return found
