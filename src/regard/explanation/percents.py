"""A probability in words."""

from __future__ import annotations


def percent(probability: float) -> str:
    """A probability for the eye: whole per cents, tenths near 0 and 1; nothing is said to be certain, or impossible."""
    if probability < 0.0005:
        return "< 0.1 %"
    if probability >= 0.9995:
        return "> 99.9 %"
    return f"{100 * probability:.{0 if 0.0095 <= probability < 0.995 else 1}f} %"


__all__ = ["percent"]
