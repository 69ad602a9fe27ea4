"""Explanations as one self-contained page, and as a static fragment for notebooks.

The page asks the network for nothing and runs from file://. Texts, labels and file names are untrusted: Jinja2 escapes
all of them, and the numbers that the page's script reads are JSON with every character escaped that HTML could read.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import Misuse
from regard.explanation.explanation import Explanation, Picture, write_atomically
from regard.report import need
from regard.report.colour import AGAINST, DARK, FOR, LIGHT, OPACITY, Array, Scale, inks, number, veil
from regard.report.explanation.png import blend
from regard.report.explanation.receipt import accounts, lines
from regard.report.explanation.token_links import looks
from regard.report.explanation.view import ChartView, PictureView, Section, TextView, View, sections, view_of

LONGEST = 1200  # pixels, the longest side of an embedded picture
COLOURS = {"for": FOR, "against": AGAINST}
Run = tuple[str, float | None, bool, str, Sequence[int]]  # text, score, whether special, note, its tokens
STAGE = ("id", "stream", "width", "height", "box", "cells", "regions")  # what the script needs of a stage


def write_page(explanations: Sequence[Explanation], path: str | os.PathLike[str], title: str | None = None) -> Path:
    """Write all explanations as one page, one section a raw input, with switches for methods and targets.

    Raises Misuse where there is nothing to show, or a package of `regard[viz]` is missing.
    """
    return write_atomically(path, page(explanations, title).encode("utf-8", "replace"))


def page(explanations: Sequence[Explanation], title: str | None = None) -> str:
    """The page as text; see `write_page`."""
    need("viz")
    if not explanations:
        raise Misuse("there is no explanation to show")
    found = sections(explanations)
    title = title or (f"Explanation of {found[0].name}" if len(found) == 1 else f"Explanations of {len(found)} inputs")
    shown = [_section(s, f"s{i}") for i, s in enumerate(found)]
    data = [s.pop("data") for s in shown]

    return str(
        templates()
        .get_template("explanation.html.j2")
        .render(
            title=title,
            sections=shown,
            data=safe_json({"sections": data, "colours": COLOURS, "light": LIGHT, "dark": DARK}),
            opacity=OPACITY,
            colours=COLOURS,
        )
    )


def fragment(exp: Explanation) -> str:
    """Static HTML of all samples, for notebooks: no script, its own paper, nothing that reaches outside of it."""
    need("viz")
    samples = [_fragment(view_of(exp, i)) for i in range(exp.batch)]
    return str(templates().get_template("fragment.html.j2").render(samples=samples, colours=COLOURS))


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
    return environment


def _section(section: Section, key: str) -> dict[str, Any]:
    """What the template and the script need of one raw input."""
    rows = [looks(v) for v in section.views]  # first: what it costs stands on the receipts
    views = [_view(v, f"{key}v{i}") for i, v in enumerate(section.views)]
    stages = _stages(section, key)
    objects = _objects(section)
    return {
        "id": key,
        "name": section.name,
        "views": views,
        "stages": stages,
        "objects": [o | {"place": _percent(o["box"], stages[0])} for o in objects],
        "clicks": any(rows),
        "methods": list(dict.fromkeys(v.method for v in section.views)),
        "targets": list(dict.fromkeys(v.target for v in section.views)),
        "data": {
            "id": key,
            "views": [
                {k: v[k] for k in ("id", "method", "target", "maps")} | {"looks": found}
                for v, found in zip(views, rows, strict=True)
            ],
            "stages": [{k: s[k] for k in STAGE} for s in stages],
            "objects": [{k: o[k] for k in ("target", "box")} for o in objects],
        },
    }


def _objects(section: Section) -> list[dict[str, Any]]:
    """The found objects that the targets of a section are, each once."""
    found = {v.target: v.exp.found for v in section.views if v.exp.found is not None}
    return [
        {"target": target, "name": f"{f.label} {f.sure}", "box": [*map(float, f.box)]} for target, f in found.items()
    ]


def _percent(box: Sequence[float], stage: dict[str, Any]) -> dict[str, float]:
    """Where the upper left corner of a box is on its stage, in percent."""
    return {"left": 100 * max(box[0], 0) / stage["width"], "top": 100 * max(box[1], 0) / stage["height"]}


def _view(view: View, key: str) -> dict[str, Any]:
    pictures = [p for p in view.panels if isinstance(p, PictureView)]
    return {
        "id": key,
        "method": view.method,
        "target": view.target,
        "receipt": lines(view.exp, view.sample),
        "accounts": accounts(view.exp.receipt, view.sample),
        "scales": [(p.stream, scale(p.scale)) for p in pictures],
        "texts": [_text(p) for p in view.panels if isinstance(p, TextView)],
        "charts": [_chart(p) for p in view.panels if isinstance(p, ChartView)],
        "listed": [_chart(p) for p in view.listed],
        "maps": {p.stream: _map(p) for p in pictures},
    }


def _fragment(view: View) -> dict[str, Any]:
    shown = _view(view, "")
    pictures = [p for p in view.panels if isinstance(p, PictureView)]
    return shown | {"pictures": [still(p) for p in pictures]}


def still(panel: PictureView) -> dict[str, Any]:
    """A picture with its map drawn in, for where no script runs."""
    if panel.picture is None:
        enlarged = np.kron(panel.scale.over(panel.cells, LIGHT), np.ones((16, 16, 1), dtype=np.uint8))
        return {"stream": panel.stream, "name": panel.stream, "uri": _uri(enlarged), "original": None}
    original = panel.picture.pixels.cpu().numpy()
    map_ = _uri(veil(blend(panel), panel.picture.box))
    return {"stream": panel.stream, "name": panel.picture.name, "uri": map_, "original": _uri(original)}


def _stages(section: Section, key: str) -> list[dict[str, Any]]:
    """Every picture stream of a section once, however many views draw on it."""
    first: dict[str, PictureView] = {}
    for view in section.views:
        for panel in view.panels:
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
        return {"id": key, "stream": panel.stream, "name": panel.stream, "uri": "", "whole": True} | size
    height, width = panel.picture.pixels.shape[:2]
    regions = [[*map(float, b)] for b in panel.regions]
    return {
        "id": key,
        "stream": panel.stream,
        "name": panel.picture.name,
        "uri": _uri(panel.picture.pixels.cpu().numpy()),
        "width": width,
        "height": height,
        "box": [float(v) for v in panel.picture.box],
        "cells": [float(v) for v in panel.raster.box(panel.picture.box)],
        "regions": regions,
        "tags": [_percent(b, {"width": width, "height": height}) for b in regions],
        "whole": _whole(panel.picture),
        "small": max(width, height) < 200,
    }


def _whole(picture: Picture) -> bool:
    """Whether the model saw all of the picture."""
    height, width = picture.pixels.shape[:2]
    left, top, right, bottom = picture.box
    return left <= 0 and top <= 0 and right >= width and bottom >= height


def _map(panel: PictureView) -> dict[str, Any]:
    rows, columns = panel.cells.shape
    cells = [_rounded(v) for v in panel.cells.ravel().tolist()]
    return {"rows": rows, "columns": columns, "cells": cells, "limit": panel.scale.limit, "signed": panel.scale.signed}


def _text(panel: TextView) -> dict[str, Any]:
    return {
        "stream": panel.stream,
        "name": panel.text.name,
        "words": pieces([(p.text, p.score, False, "", p.tokens) for p in panel.words], panel.word_scale),
        "tokens": pieces([(p.text, p.score, p.special, p.note, p.tokens) for p in panel.tokens], panel.token_scale),
        "word_scale": scale(panel.word_scale),
        "token_scale": scale(panel.token_scale),
    }


def _chart(panel: ChartView) -> dict[str, Any]:
    tokens = pieces([(str(i), s, False, "", ()) for i, s in enumerate(panel.scores)], panel.scale)
    return {"stream": panel.stream, "tokens": tokens, "scale": scale(panel.scale)}


def piece(
    text: str, score: float | None, scale: Scale, special: bool = False, note: str = "", at: Sequence[int] = ()
) -> dict[str, Any]:
    """A coloured run of text: which hue, how opaque, and the readable ink on light and on dark paper; `at`: its tokens."""
    return pieces([(text, score, special, note, at)], scale)[0]


def pieces(runs: Sequence[Run], scale: Scale) -> list[dict[str, Any]]:
    """Many runs of text as `piece` has them, coloured at once: a long prompt has thousands."""
    known = [score for _, score, *_ in runs if score is not None]
    units = scale.unit(known).tolist()
    looks = zip(known, units, inks(scale.over(known, LIGHT)), inks(scale.over(known, DARK)), strict=True)
    return [
        {"text": text, "score": None} if score is None else _coloured(text, special, note, at, *next(looks))
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
        "ink": light,
        "dark": dark,
        "special": special,
        "note": note if note != text else "",
        "at": " ".join(map(str, at)),
    }


def scale(shown: Scale) -> dict[str, Any]:
    """The drawn scale: its numbers with their places in percent."""
    low = -shown.limit if shown.signed else 0.0
    span = shown.limit - low
    ticks = [(100 * (v - low) / span if span else 0.0, label) for v, label in shown.ticks()]
    return {"ticks": ticks, "signed": shown.signed, "note": shown.note, "empty": shown.limit == 0}


def _uri(pixels: Array) -> str:
    """A picture as a data: address, no larger than `LONGEST`: PNG where small, JPEG where that is much shorter."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
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
