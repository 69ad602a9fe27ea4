"""What there is to draw of one rewritten picture: both pictures, their difference, four maps, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.errors import Misuse
from regard.explanation.raw_inputs import Picture
from regard.explanation.rewriting import Rewriting, shown
from regard.report.colour import Array, ColourScale, scale_of
from regard.report.view import PictureView

BEYOND = 0.45
"""How much of a pixel that may not change is seen in the drawn difference."""


@dataclass(frozen=True)
class RewritingView:
    """One picture of a rewriting.

    maps: of the old and of the new class, each before and after on one scale; none where there are no maps. difference: drawn
    `factor` times larger than it is.
    """

    found: Rewriting
    sample: int
    before: Picture
    after: Picture
    difference: Array
    factor: float
    maps: list[tuple[str, ColourScale, list[PictureView]]]

    @property
    def name(self) -> str:
        """What the picture is called."""
        return self.before.name

    @property
    def was(self) -> str:
        """The old class."""
        return self.found.label(self.found.was[self.sample])

    @property
    def to(self) -> str:
        """The new class."""
        return self.found.label(self.found.to[self.sample])

    @property
    def kept(self) -> str:
        """The class that was to stay, or ""."""
        return "" if self.found.keep is None else self.found.label(self.found.keep[self.sample])

    @property
    def success(self) -> bool:
        """Whether it has the new class."""
        return bool(self.found.success[self.sample])

    @property
    def allowed(self) -> float:
        """The share of pixels that may change."""
        within = self.found.within
        return 1.0 if within is None else float(within[self.sample].float().mean())

    def chance(self, c: str, before: bool) -> float:
        """The probability of the old ("was") or new ("to") class, before or after."""
        rows = self.found.probabilities_before if before else self.found.probabilities
        return float(rows[self.sample, int(getattr(self.found, c)[self.sample])])

    @property
    def size(self) -> str:
        """How large the change is, in words."""
        size, of = self.found.linf[self.sample], self.found
        if (of.low, of.high) == (0, 1):
            return f"{round(255 * float(size), 2):g} of 255 levels"
        return shown(size, of)


def view_of(found: Rewriting, sample: int = 0) -> RewritingView:
    """What there is to draw. Raises Misuse for a sample that is not there."""
    if not 0 <= sample < found.batch:
        raise Misuse(f"sample {sample} does not exist; the rewriting holds {found.batch}, counted from 0")
    before, after = found.shown(sample)
    drawn, factor = found.difference(sample)
    difference = drawn.numpy()
    if found.within is not None:
        difference = hatched(difference, found.within[sample].numpy())
    return RewritingView(found, sample, before, after, difference, factor, _maps(found, sample, before, after))


def _maps(
    found: Rewriting, sample: int, before: Picture, after: Picture
) -> list[tuple[str, ColourScale, list[PictureView]]]:
    """Rows of maps: of each class before and after, on one scale."""
    if found.maps is None:
        return []
    cells = found.maps[sample].float().numpy()
    rows = []
    for i, c in enumerate((found.was, found.to)):
        two = cells[[i, 2 + i]]
        scale = scale_of(two, False)
        views = [PictureView(found.stream, m, scale, p) for m, p in zip(two, (before, after), strict=True)]
        rows.append((found.label(c[sample]), scale, views))
    return rows


def hatched(pixels: Array, inside: Array) -> Array:
    """A picture darkened and hatched where nothing may change."""
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    step = max(6, max(pixels.shape) // 24)
    stripe = np.where((x + y) % step < step / 3, 40.0, 20.0)[..., None]
    veiled = BEYOND * pixels + (1 - BEYOND) * stripe
    return np.where(inside[..., None], pixels, np.rint(veiled)).astype(np.uint8)
