"""How much memory may be taken at a time."""

from __future__ import annotations

import re

from regard.errors import Misuse

MEMORY_BUDGET = 1 << 30
"""The most that may be held at a time, in bytes, where the user does not say: runs side by side, rebuilt rows."""

UNITS = {"": 1, "B": 1, "K": 1 << 10, "KB": 1 << 10, "M": 1 << 20, "MB": 1 << 20, "G": 1 << 30, "GB": 1 << 30}

MOST = 2.0**60
"""More bytes than any memory has."""


def budget_of(said: int | float | str | None) -> int:
    """Bytes of a memory budget: a number of bytes, "512MB" or "2 GB", None for the usual one. Raises Misuse otherwise.

    >>> budget_of("1.5GB")
    1610612736
    """
    if said is None:
        return MEMORY_BUDGET
    number, unit = (said, "") if isinstance(said, int | float) else _number_and_unit(said)
    if isinstance(said, bool) or unit not in UNITS or not 0 < number < MOST:
        raise Misuse(
            f'memory_budget must be a positive number of bytes, or like "512MB" or "2GB"; not {repr(said)[:40]}'
        )
    return int(number * UNITS[unit])


def _number_and_unit(said: str) -> tuple[float, str]:
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([kmg]?i?b?)", said.strip().lower())
    return (float(found[1]), found[2].replace("i", "").upper()) if found else (0.0, "")
