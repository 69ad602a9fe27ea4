"""What a section of a probe's page is made of: sentences, and tables whose cells may have a bar or a colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from regard.report.colour import number


class ProbeCell(NamedTuple):
    """A cell of a table: its text; how long its bar is (0 to 1; negative: in the colour of what speaks against); how deep its
    colour is (0 to 1); whether it is marked by a frame."""

    text: str
    bar: float | None = None
    depth: float | None = None
    framed: bool = False


@dataclass(frozen=True)
class ProbeTable:
    """A table: `matrix` where its cells are colours, with the numbers in their titles."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[ProbeCell]]
    matrix: bool = False


class ProbePicture(NamedTuple):
    """A picture with numbered boxes (left, top, width, height), in its pixels."""

    name: str
    uri: str
    size: tuple[int, int]
    boxes: list[tuple[float, float, float, float]]


@dataclass(frozen=True)
class ProbeSection:
    """One probe on a page: what it found in a sentence, in tables and pictures, and what it can tell."""

    title: str
    told: str
    tables: Sequence[ProbeTable] = ()
    facts: Sequence[tuple[str, str, str]] = ()
    meaning: Sequence[str] = field(default_factory=tuple)
    pictures: Sequence[ProbePicture] = ()


def bar(value: float, limit: float = 1.0) -> ProbeCell:
    """A number with a bar that is full at the limit."""
    if math.isnan(value):
        return ProbeCell("–")
    if math.isinf(value):
        return ProbeCell("∞" if value > 0 else "−∞")
    return ProbeCell(number(value), max(-1.0, min(1.0, value / limit)) if limit else 0.0)


def shade(value: float, limit: float = 1.0) -> ProbeCell:
    """A number that is never far from 0 as a colour, which is full at the limit."""
    if math.isnan(value):
        return ProbeCell("–")
    return ProbeCell(f"{value:.2f}", None, min(1.0, abs(value) / limit) if limit else 0.0)


def percent(value: float) -> str:
    """A share in words."""
    return "–" if math.isnan(value) else f"{100 * value:.0f} %"


def sample_name(names: Sequence[str], i: int) -> str:
    """What a sample is called."""
    return names[i] if i < len(names) else f"sample {i}"
