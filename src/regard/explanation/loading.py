"""What a saved file holds: every field checked before anything is made of it, fields of newer versions told of."""

from __future__ import annotations

import dataclasses
import math
import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from torch import Tensor

from regard.errors import InputError
from regard.explanation.boxes import Box
from regard.kinds import fits, kinds_of

T = TypeVar("T")
_unknown: ContextVar[list[str]] = ContextVar("unknown")
MOST = 6  # unknown fields that are named


class Damaged(ValueError):
    """A field of a file is not as it should be."""


@contextmanager
def loading(path: str | os.PathLike[str]) -> Iterator[list[str]]:
    """Raise InputError for what is not in a file as it should be. Gives the names of fields that this version does not know."""
    before = _unknown.set([])
    try:
        yield _unknown.get()
    except Damaged as e:
        raise InputError(f"{path} is damaged: {e}") from e
    except (
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        ValueError,
        OverflowError,
        RuntimeError,
        RecursionError,
    ) as e:
        if isinstance(e, InputError):
            raise
        reason = (str(e).splitlines() or [""])[0][:200]
        raise InputError(f"{path} is damaged: a field is missing or wrong ({type(e).__name__}: {reason})") from e
    finally:
        _unknown.reset(before)


def newer(unknown: Sequence[str]) -> list[str]:
    """A note on fields that were let pass; none where there are none."""
    if not unknown:
        return []
    names = ", ".join(reprlib.repr(name) for name in dict.fromkeys(unknown[:MOST]))
    more = f" and {len(unknown) - MOST} more" if len(unknown) > MOST else ""
    return [f"the file was saved by a newer version of Regard, and what only that knows was left out: {names}{more}"]


def of_file(cls: type[T], values: Mapping[str, Any], **made: Any) -> T:
    """A dataclass of a file's values, and of what was made of them: each field of its kind, unknown ones left out and told of.

    Raises Damaged for a field that is missing or of another kind.
    """
    if not isinstance(values, Mapping):
        raise Damaged(f"what should be a {cls.__name__} is {reprlib.repr(values)}")
    fields = {f.name: f for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    known = {k: v for k, v in values.items() if k in fields and k[0] != "_"}
    known |= {k: v for k, v in made.items() if k in fields}
    _unknown.get([]).extend(k for k in {**values, **made} if k not in known)
    for name, f in fields.items():
        needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if needed and name not in known:
            raise Damaged(f"{name} is missing")
    annotated: Any = cls
    kinds = kinds_of(annotated)
    for name, value in known.items():
        check(name, value, kinds.get(name, Any))
    return cls(**known)


def check(name: str, value: Any, kind: Any) -> None:
    """Raise Damaged for a value that is not of its kind; NaN stands for a number that is undefined."""
    undefined = isinstance(value, float) and math.isnan(value) and fits(0.5, kind)
    if not fits(value, kind) and not undefined:
        shape = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}" if isinstance(value, Tensor) else None
        raise Damaged(f"{name} is {shape or reprlib.repr(value)}")


def finite(name: str, value: Tensor) -> Tensor:
    """The tensor. Raises Damaged where it holds NaN or infinity."""
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise Damaged(f"{name} holds what is no number")
    return value


def box(values: Any) -> Box:
    """A box of finite numbers."""
    numbers = [float(v) for v in values]
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise Damaged(f"a box is {reprlib.repr(values)}")
    return Box(*numbers)


def spans(values: Any, length: int) -> list[tuple[int, int]]:
    """Spans of characters within a text."""
    found = [(int(a), int(b)) for a, b in values]
    if any(not 0 <= a <= b <= length for a, b in found):
        raise Damaged(f"a span of characters is not within its text of {length}")
    return found


__all__ = [
    "Damaged",
    "box",
    "check",
    "finite",
    "loading",
    "newer",
    "of_file",
    "spans",
]
