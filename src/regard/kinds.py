"""Whether values are of the kind that an annotation names: the options of methods, and what files hold.

Options are checked in one place, before the model runs; a file before anything is made of it.
"""

from __future__ import annotations

import functools
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from regard.errors import Misuse


@dataclass(frozen=True)
class Within:
    """A count is a whole number from `least` to `most`: more would take for ever, or all the memory there is."""

    least: int = 1
    most: int = 100_000


Count = Annotated[int, Within()]
"""How many runs, samples or tokens."""
Nodes = Annotated[int, Within(most=2000)]
"""How many nodes of a quadrature."""

WORDS: dict[Any, str] = {
    bool: "True or False",
    float: "a number",
    int: "a whole number",
    str: "a word",
    type(None): "None",
}


@functools.cache
def kinds_of(function: Any) -> dict[str, Any]:
    """The kind of each argument of a function, or field of a class, as annotated; nothing of what cannot be found out."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # of a registered function, names that only its editor knows
        return {}


def check_kind(name: str, value: Any, kind: Any) -> None:
    """Raise Misuse for a value that is not of its kind. Kinds that are no plain values check themselves."""
    if not fits(value, kind):
        raise Misuse(f"{name} is {_said(kind)}, not {reprlib.repr(value)}")


def plain(value: Any) -> Any:
    """A single number of numpy or torch as Python's own; all else as it is."""
    single = hasattr(value, "item") and getattr(value, "ndim", None) == 0
    return value.item() if single else value


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind: a plain type, a range, a tensor of a shape, one of several, or a sequence of these.

    What is none of these is of any kind.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        ranges = [p for p in parts[1:] if isinstance(p, Within)]
        return fits(value, parts[0]) and all(r.least <= value <= r.most for r in ranges)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin in (Sequence, list):
        return isinstance(value, list | tuple) and all(fits(one, parts[0]) for one in value)
    if origin is tuple and parts[-1] is not ...:
        same_length = isinstance(value, list | tuple) and len(value) == len(parts)
        return same_length and all(map(fits, value, parts))
    if origin is tuple:
        return isinstance(value, list | tuple) and all(fits(one, parts[0]) for one in value)
    if origin in (Mapping, dict):
        return isinstance(value, Mapping) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if kind is Any:
        return True
    if hasattr(kind, "array_type"):  # an array of jaxtyping, which is not imported for it
        return isinstance(value, kind)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # NaN is no number
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _said(kind: Any) -> str:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        (within,) = (p for p in parts[1:] if isinstance(p, Within))
        return f"a whole number from {within.least} to {within.most}"
    if origin in (typing.Union, types.UnionType):
        *most, last = dict.fromkeys(_said(part) for part in parts if not (part is int and float in parts))
        return f"{', '.join(most)} or {last}" if most else last
    if origin in (Sequence, list):
        return f"a list, each {_said(parts[0])}"
    return WORDS.get(kind) or f"a {getattr(kind, '__name__', kind)}"


__all__ = ["Count", "Nodes", "Within", "check_kind", "fits", "kinds_of", "plain"]
