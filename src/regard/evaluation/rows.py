"""Rows put together by a key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from regard.evaluation.protocols.protocol import Row

K = TypeVar("K")


def grouped(rows: Iterable[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    """Rows by a key, in the order of their first."""
    out: dict[K, list[Row]] = {}
    for row in rows:
        out.setdefault(key(row), []).append(row)
    return out


__all__ = ["grouped"]
