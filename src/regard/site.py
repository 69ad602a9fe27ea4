"""Where a map lives, and where its baseline is put (METHODS.md section 1)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """A place in the model. Every method of this version has its own natural site (see `regard.methods()`)."""

    label: str
    calls: tuple[int, ...] | None = None

    @classmethod
    def input(cls) -> Site:
        """Float inputs; word embeddings for ids."""
        return cls("input")

    @classmethod
    def attention(cls, c: int) -> Site:
        """A of call c."""
        return cls(f"attention[{c}]", (c,))
