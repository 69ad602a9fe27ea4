"""What steers the attention of a guided map: a contrast, a region, words, a map, another picture (formulas.md section 4).

Data alone; `api/guiding.py` makes of it one number for each token.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.errors import InputError, Misuse

SPELLINGS = (
    "contrast",
    "contrast:LABEL",
    "box:LEFT,TOP,RIGHT,BOTTOM",
    "words:SOME WORDS",
    "picture:FILE",
    "MASK.png",
    "POLYGON.json",
    "MAP.safetensors",
)
SAY = "a guide is " + ", ".join(repr(s) for s in SPELLINGS) + ", a Guide, a map, a Target, or an Explanation"
SAVED = ".safetensors"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True, eq=False)
class Second:
    """A picture of a second class, that class (a name, a number, or None: what the model takes it for), and where it goes:
    `within` a box (left, top, right, bottom) of the first picture, or beside it."""

    picture: Any
    target: Any = None
    within: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, eq=False)
class Guide:
    """What the gradients of attention are steered by. Make one with the class methods.

    kind: "contrast", "target", "box", "polygon", "mask", "words", "map" or "picture"; value: what it is of. `label` is its name
    on receipts and pages.
    """

    kind: str
    value: Any = None
    label: str = ""

    @property
    def internal(self) -> bool:
        """Whether it comes from the model itself, by a gradient of another target."""
        return self.kind in ("contrast", "target")

    @classmethod
    def contrast(cls, against: Any = None) -> Guide:
        """Internal: what speaks for the explained class, and not for another (its number or name; None: the best other)."""
        return cls("contrast", against, "contrast" if against is None else f"contrast with {against}")

    @classmethod
    def target(cls, target: Any) -> Guide:
        """Internal: the map of another target, such as `Target.contrast(c, d)`."""
        return cls("target", target, f"map of {getattr(target, 'label', target)}")

    @classmethod
    def box(cls, left: float, top: float, right: float, bottom: float) -> Guide:
        """External: a box of the picture, in its pixels (of the tensor's, where no reader made it)."""
        corners = _box((left, top, right, bottom))
        return cls("box", corners, "box " + ", ".join(f"{v:g}" for v in corners))

    @classmethod
    def polygon(cls, *corners: Sequence[tuple[float, float]]) -> Guide:
        """External: one or several outlines, each the (x, y) of its corners in pixels; the inside counts."""
        try:
            made = [[(float(x), float(y)) for x, y in outline] for outline in corners]
        except (TypeError, ValueError):
            raise Misuse(
                "a polygon is one or several outlines, each a list of its corners (x, y), such as [(0, 0), (8, 0), (8, 8)]"
            ) from None
        if not made or any(len(outline) < 3 for outline in made):
            raise Misuse("a polygon has three corners or more, (x, y) each")
        if not all(math.isfinite(v) for outline in made for corner in outline for v in corner):
            raise Misuse("the corners of a polygon are finite numbers")
        return cls("polygon", made, f"polygon of {sum(map(len, made))} corners")

    @classmethod
    def mask(cls, mask: Any, label: str = "mask") -> Guide:
        """External: where the picture counts: an array or tensor (height, width) of it, or a picture (its path, or a PIL image)
        that is not black there."""
        return cls("mask", mask, label)

    @classmethod
    def words(cls, *phrases: str) -> Guide:
        """External: words of the text, as they stand in it; every occurrence counts."""
        if not phrases or not all(isinstance(p, str) and p.strip() for p in phrases):
            raise Misuse("give the words that guide, as they stand in the text")
        return cls("words", phrases, "words " + ", ".join(repr(p) for p in phrases))

    @classmethod
    def map(cls, values: Any, label: str = "given map") -> Guide:
        """External: a number for each token: a tensor (tokens,), (batch, tokens) or (rows, columns), or a dict of these by
        stream (of a picture, also one for each of its pixels); or an Explanation."""
        return cls("map", values, label)

    @classmethod
    def saved(cls, path: str | os.PathLike[str]) -> Guide:
        """The map of an explanation that was saved; it is read when it is used."""
        return cls("map", Path(path), f"map {Path(path).name}")

    @classmethod
    def picture(cls, picture: Any, target: Any = None, within: Sequence[float] | None = None, label: str = "") -> Guide:
        """A picture of a second class, which is put beside the one explained (see `Reader.explain`).

        target: that class, its name or number; None: what the model takes the second picture for. within: a box (left, top,
        right, bottom) in pixels of the explained picture, into which the second one is blended instead.
        """
        named = Path(picture).name if isinstance(picture, str | os.PathLike) else "given"
        return cls(
            "picture",
            Second(picture, target, None if within is None else _box(within)),
            label or f"a second picture, {named}",
        )

    @classmethod
    def make(cls, what: Any) -> Guide | None:
        """A Guide from what `guide=` takes."""
        if what is None or isinstance(what, cls):
            return what
        if isinstance(what, str):
            return cls.parse(what)
        if isinstance(what, os.PathLike):
            return cls._of_file(os.fspath(what))
        if hasattr(what, "scores"):
            return cls.map(what, f"{getattr(what, 'method', 'a map')} of {getattr(what, 'target', '')}".strip())
        if hasattr(what, "value") and hasattr(what, "label"):
            return cls.target(what)
        if isinstance(what, tuple) and len(what) == 4 and all(isinstance(v, int | float) for v in what):
            return cls.box(*what)
        if isinstance(what, Mapping) or hasattr(what, "shape"):
            return cls.map(what)
        raise Misuse(f"{SAY}; not {type(what).__name__}")

    @classmethod
    def parse(cls, words: str) -> Guide:
        """A Guide from words, as the command line has them."""
        kind, colon, rest = words.partition(":")
        if words == "contrast" or (kind == "contrast" and rest):
            return cls.contrast(rest or None)
        if kind == "box" and colon:
            try:
                left, top, right, bottom = (float(v) for v in rest.split(","))
            except ValueError:
                raise Misuse(f"a box is box:LEFT,TOP,RIGHT,BOTTOM in pixels, not {words!r}") from None
            return cls.box(left, top, right, bottom)
        if kind == "words" and rest:
            return cls.words(rest)
        if kind == "picture" and rest:
            return cls.picture(_there(rest))
        return cls._of_file(words)

    @classmethod
    def _of_file(cls, path: str) -> Guide:
        """A mask (a picture), a polygon (JSON: one list of [x, y], or several), or the map of a saved explanation."""
        ending = Path(path).suffix.lower()
        if ending not in (*PICTURES, ".json", SAVED):
            raise Misuse(f"{path!r} is no guide: {SAY}")
        _there(path)
        if ending == SAVED:
            return cls.saved(path)
        if ending != ".json":
            return cls.mask(path, f"mask {Path(path).name}")
        return cls.polygon(*_outlines(path))


def _there(path: str) -> str:
    """The path of a file. Raises InputError where there is none."""
    if not Path(path).is_file():
        raise InputError(f"no such file: {path}")
    return path


def _box(corners: Any) -> tuple[float, float, float, float]:
    """A box. Raises Misuse for what is none."""
    try:
        left, top, right, bottom = (float(v) for v in corners)
    except (TypeError, ValueError):
        left = top = right = bottom = math.nan
    if not all(map(math.isfinite, (left, top, right, bottom))) or right <= left or bottom <= top:
        raise Misuse(f"a box is left, top, right, bottom with left < right and top < bottom, not {corners}")
    return left, top, right, bottom


def _outlines(path: str) -> list[list[tuple[float, float]]]:
    """The outlines of a JSON file. Raises InputError for one that holds none."""
    import json

    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        found = [found] if found and not isinstance(found[0][0], list) else found
        return [[(float(x), float(y)) for x, y in outline] for outline in found]
    except (ValueError, TypeError, IndexError, KeyError, OSError) as e:
        raise InputError(f"{path} holds no polygon: a list of [x, y], or a list of such lists, is needed") from e


__all__ = ["PICTURES", "SAY", "SPELLINGS", "Guide", "Second"]
