"""How large a change may be: a number, a fraction in words, or what is usual."""

from __future__ import annotations

import math
import reprlib
from typing import Any

from regard.errors import Misuse

BUDGETS = {"linf": 4 / 255, "l2": 0.5}
"""The budget where none is given, as a share of the range of pixels."""


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


def checked_budget(budget: Any) -> float:
    """A budget as it was given. Raises Misuse for one that is no size greater than 0."""
    budget = budget_in(budget) if isinstance(budget, str) else budget
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not math.isfinite(budget) or budget <= 0:
        raise Misuse(f"budget= is a size greater than 0, such as 2/255; not {reprlib.repr(budget)}")
    return float(budget)
