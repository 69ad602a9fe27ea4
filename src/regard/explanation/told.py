"""What tells one class from another: two pictures on one canvas, and the maps of both classes and of their difference on it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from regard.explanation import display
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Picture

SEEN = ("first", "second", "composite")
"""What `probabilities` are of, in order."""
Box = tuple[float, float, float, float]


@dataclass
class Told:
    """A picture of class c beside one of class e, explained together by one method.

    Attributes:
        c, e: the names of the classes. method: the method's name.
        first, second: the pictures. composite: both on one canvas of the model's input size.
        places: where each lies on the canvas (left, top, right, bottom), in pixels of `composite`; within: the second was
            blended into a region of the first one, which fills the canvas.
        alone: y_c on the first picture alone, unguided.
        of_c, of_e: y_c and y_e on the composite. difference: y_c − y_e on the composite. against: y_e − y_c, where the method
            tells evidence against a class from none by no sign; else None.
        on_first: y_c and y_e of the composite, on the first picture's own tokens.
        guided: y_c − y_e on the first picture's own tokens: what `Reader.explain` gives.
        probabilities: of c and e, (3, 2): on the first picture alone, on the second alone, on the composite.
        predicted: what the model takes each of the three for.
    """

    c: str
    e: str
    method: str
    first: Picture
    second: Picture
    composite: Picture
    places: tuple[Box, Box]
    within: bool
    alone: Explanation = field(repr=False)
    of_c: Explanation = field(repr=False)
    of_e: Explanation = field(repr=False)
    difference: Explanation = field(repr=False)
    against: Explanation | None = field(repr=False)
    guided: Explanation = field(repr=False)
    on_first: tuple[Explanation, Explanation] = field(repr=False)
    probabilities: Float[Tensor, "picture class"]
    predicted: tuple[str, str, str]

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw pictures and maps with matplotlib (needs `regard[viz]`); return the Figure, write it if `path`."""
        return display.plot_told(self, path)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page (needs `regard[viz]`)."""
        return display.write_told(self, path)

    def __str__(self) -> str:
        rows = zip(SEEN, self.predicted, self.probabilities.tolist(), strict=True)
        lines = [
            f"{where}: taken for {p}; {self.c} {100 * a:.3g} %, {self.e} {100 * b:.3g} %" for where, p, (a, b) in rows
        ]
        return "\n".join([f"what tells {self.c} ({self.first.name}) from {self.e} ({self.second.name})", *lines])


__all__ = ["SEEN", "Told"]
