"""A name with its options in words, as methods and protocols are given: "corrected_attention(sign=signed)"."""

from __future__ import annotations

import json
import re
from typing import Any

from regard.errors import Misuse

CALLED = re.compile(r"\s*([\w\-]+)\s*(?:\((.*)\))?\s*", re.S)


def parts_of(words: str) -> list[str]:
    """Parts between commas that stand in no brackets.

    >>> parts_of("gae, revised_ig(site=block[1], steps=2),")
    ['gae', 'revised_ig(site=block[1], steps=2)']
    """
    parts, depth = [""], 0
    for letter in words:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [p.strip() for p in parts if p.strip()]


def called(words: str) -> tuple[str, dict[str, Any]]:
    """A name and its options; numbers, lists, true, false and null are read as such.

    Raises Misuse for words of another form.

    >>> called("perturbation(unit=token, steps=[0.1, 0.2])")
    ('perturbation', {'unit': 'token', 'steps': [0.1, 0.2]})
    """
    found = CALLED.fullmatch(words)
    if found is None:
        raise Misuse(f"{words!r} is not understood; give NAME, or NAME(OPTION=VALUE, ...)")
    options: dict[str, Any] = {}
    for one in parts_of(found[2] or ""):
        name, equals, value = (part.strip() for part in one.partition("="))
        if not name or not equals or not value or name in options:
            raise Misuse(f"{one!r} in {words!r} is not understood; give each option once, as OPTION=VALUE")
        options[name] = value_of(value)
    return found[1], options


def value_of(said: str) -> Any:
    """What JSON makes of words; what is no JSON is taken as it is.

    >>> value_of("2"), value_of("true"), value_of("drop")
    (2, True, 'drop')
    """
    try:
        return json.loads(said)
    except ValueError:
        return said


__all__ = ["called", "parts_of", "value_of"]
