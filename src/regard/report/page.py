"""What pages are made of: templates, coloured text, scales, pictures as data, JSON that a script can hold.

Texts, labels and file names are untrusted: Jinja2 escapes all of them, and the numbers that a page's script reads are JSON
with every character escaped that HTML could read.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from regard.explanation.counts import quantity
from regard.explanation.raw_inputs import Picture
from regard.report.colour import AGAINST, DARK, FOR, LIGHT, Array, ColourScale, number, text_colours, veil
from regard.report.drawing import resized
from regard.report.figure import blend
from regard.report.view import PictureView

LONGEST = 1200  # pixels, the longest side of an embedded picture
THUMBNAIL = 480  # of one of several pictures side by side
COLOURS = {"for": FOR, "against": AGAINST}
ScoredText = tuple[str, float | None, bool, str, Sequence[int]]  # text, score, whether special, note, its tokens
STAGE = (
    "id",
    "stream",
    "called",
    "name",
    "width",
    "height",
    "box",
    "cells",
    "regions",
)  # what the script needs of a stage


@lru_cache(maxsize=1)
def templates() -> Any:
    """The environment of all templates here: everything is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("regard", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.globals["quantity"] = quantity
    return environment


def corner(box: Sequence[float], stage: dict[str, Any]) -> dict[str, float]:
    """Where the upper left corner of a box is on its stage, in percent."""
    return {"left": 100 * max(box[0], 0) / stage["width"], "top": 100 * max(box[1], 0) / stage["height"]}


def still(panel: PictureView) -> dict[str, Any]:
    """A picture with its map drawn in, for where no script runs."""
    if panel.picture is None:
        enlarged = np.kron(panel.scale.over(panel.cells, LIGHT), np.ones((16, 16, 1), dtype=np.uint8))
        return {"name": panel.name, "uri": uri_of(enlarged), "original": None}
    original = panel.picture.pixels.cpu().numpy()
    return {"name": panel.picture.name, "uri": uri_of(_blended(panel, LONGEST)), "original": uri_of(original)}


def thumbnail(panel: PictureView) -> str:
    """A picture with its map drawn in, small."""
    if panel.picture is None:
        return str(still(panel)["uri"])
    return uri_of(_blended(panel, THUMBNAIL), THUMBNAIL)


def _blended(panel: PictureView, side: int) -> Array:
    """A picture with its map drawn in, greyed where the model did not look; drawn at no more than so many pixels a side."""
    assert panel.picture is not None
    fit = replace(panel, picture=resized(panel.picture, side))
    assert fit.picture is not None
    return veil(blend(fit), fit.picture.box)


def stages_of(panels: Iterable[Any], key: str) -> list[dict[str, Any]]:
    """Every picture stream among some panels once, however many views or layers draw on it."""
    first: dict[str, PictureView] = {}
    for panel in panels:
        if isinstance(panel, PictureView):
            first.setdefault(panel.stream, panel)
    return [stage(p, f"{key}p{i}") for i, p in enumerate(first.values())]


def stage(panel: PictureView, key: str) -> dict[str, Any]:
    """A picture as the page lays it under its maps."""
    rows, columns = panel.cells.shape
    if panel.picture is None:
        size = {
            "width": columns,
            "height": rows,
            "box": [0.0, 0.0, float(columns), float(rows)],
            "cells": [0.0, 0.0, float(columns), float(rows)],
            "regions": [],
            "tags": [],
        }
        about = {"id": key, "stream": panel.stream, "called": panel.name, "name": panel.name}
        return about | {"uri": "", "whole": True} | size
    height, width = panel.picture.pixels.shape[:2]
    regions = [[*map(float, b)] for b in panel.regions]
    return {
        "id": key,
        "stream": panel.stream,
        "called": panel.name,
        "name": panel.picture.name,
        "uri": uri_of(panel.picture.pixels.cpu().numpy()),
        "width": width,
        "height": height,
        "box": [float(v) for v in panel.picture.box],
        "cells": [float(v) for v in panel.raster.box(panel.picture.box)],
        "regions": regions,
        "tags": [corner(b, {"width": width, "height": height}) for b in regions],
        "whole": _whole(panel.picture),
        "small": max(width, height) < 200,
    }


def _whole(picture: Picture) -> bool:
    """Whether the model saw all of the picture."""
    height, width = picture.pixels.shape[:2]
    left, top, right, bottom = picture.box
    return left <= 0 and top <= 0 and right >= width and bottom >= height


def cells_of(panel: PictureView) -> dict[str, Any]:
    """The map of a picture for the script: its cells row by row, and the limit of its scale."""
    rows, columns = panel.cells.shape
    cells = [_rounded(v) for v in panel.cells.ravel().tolist()]
    return {"rows": rows, "columns": columns, "cells": cells, "limit": panel.scale.limit, "signed": panel.scale.signed}


def piece(
    text: str, score: float | None, scale: ColourScale, special: bool = False, note: str = "", at: Sequence[int] = ()
) -> dict[str, Any]:
    """A coloured run of text: which hue, how opaque, its colour on light and on dark paper; `at`: its tokens."""
    return pieces([(text, score, special, note, at)], scale)[0]


def pieces(runs: Sequence[ScoredText], scale: ColourScale) -> list[dict[str, Any]]:
    """Many runs of text as `piece` has them, coloured at once: a long prompt has thousands."""
    known = [score for _, score, *_ in runs if score is not None]
    units = scale.unit(known).tolist()
    coloured = zip(
        known, units, text_colours(scale.over(known, LIGHT)), text_colours(scale.over(known, DARK)), strict=True
    )
    return [
        {"text": text, "score": None} if score is None else _coloured(text, special, note, at, *next(coloured))
        for text, score, special, note, at in runs
    ]


def _coloured(
    text: str, special: bool, note: str, at: Sequence[int], score: float, unit: float, light: str, dark: str
) -> dict[str, Any]:
    return {
        "text": text,
        "score": number(score),
        "hue": "against" if unit < 0 else "for",
        "alpha": f"{abs(unit):.3f}",
        "light": light,
        "dark": dark,
        "special": special,
        "note": note if note != text else "",
        "at": " ".join(map(str, at)),
    }


def scale(shown: ColourScale) -> dict[str, Any]:
    """The drawn scale: its numbers with their places in percent."""
    low = -shown.limit if shown.signed else 0.0
    span = shown.limit - low
    ticks = [(100 * (v - low) / span if span else 0.0, label) for v, label in shown.ticks()]
    return {"ticks": ticks, "signed": shown.signed, "note": shown.note, "empty": shown.limit == 0}


def uri_of(pixels: Array, longest: int = LONGEST) -> str:
    """A picture as a data: address, no larger than `longest`: PNG where small, JPEG where that is much shorter."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    kind = "png" if image.width * image.height <= 300_000 else "jpeg"
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **({"quality": 90} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def safe_json(value: object) -> Any:
    """JSON that can stand inside a script element: no `<`, `>`, `&`, no line separators, nothing beyond ASCII."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
