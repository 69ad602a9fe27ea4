"""Each head's own map on one self-contained page: a row a layer, a column a head, a small map each.

As in `explanation.html`: nothing from the network, all text escaped. There is no script: every map is a small picture.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regard.explanation.head_maps import HeadLayer, HeadMaps
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.colour import OPACITY, Array, number
from regard.report.page import COLOURS, templates, uri_of
from regard.report.receipt import at
from regard.report.view import ChartView, Panel, PictureView, TextView, input_name, plain, target_of, view_of

SIDE = 96  # pixels of the picture under a map
NAMED = 3  # of the strongest tokens of a map
MEANING = {
    "raw_attention": "Where each head looks from the tokens that the target reads: how its attention is shared out.",
    "gae": "What each head's attention brings that speaks for the target, from the tokens that it reads: the positive part of "
    "attention times its gradient.",
}


def write_page(heads: HeadMaps, path: str | os.PathLike[str]) -> Path:
    """Write all samples as one page. Raises Misuse where a package of `regard[viz]` is missing."""
    return write_atomically(path, page(heads).encode("utf-8", "replace"))


def page(heads: HeadMaps) -> str:
    """The page as text; see `write_page`."""
    need("viz")
    samples = [_sample(heads, i) for i in range(heads.explanation.batch)]
    title = f"Heads: {', '.join(s['name'] for s in samples[:3])}"
    template = templates().get_template("heads.html.j2")
    method = heads.explanation.method
    return str(
        template.render(
            title=title, samples=samples, colours=COLOURS, opacity=OPACITY, method=method, lead=MEANING[method]
        )
    )


def plain_table(heads: HeadMaps) -> str:
    """A line a layer: how much its heads' maps hold, and which holds most."""
    out = []
    for i in range(heads.explanation.batch):
        rows = [("layer", "heads", "strongest head", "holds", "all heads", "module")]
        for layer in heads.layers:
            held = [_held(_panels(heads, layer, head, i)) for head in range(layer.heads)]
            most = max(range(len(held)), key=held.__getitem__)
            rows.append(
                (str(layer.index), str(len(held)), str(most), number(held[most]), number(sum(held)), layer.name)
            )
        widths = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
        out += [*([f"sample {i}"] if heads.explanation.batch > 1 else []), *lines, ""]
    return plain("\n".join(out[:-1]), keep="\n")


def _panels(heads: HeadMaps, layer: HeadLayer, head: int, sample: int) -> list[Panel]:
    """One head's map as pictures and texts; streams of a few tokens, as of a class token, where there is nothing else."""
    alone = {s: m[:, head] for s, m in layer.maps.items()}
    view = view_of(dataclasses.replace(heads.explanation, scores=alone, found=None), sample)
    return [*(view.panels or view.listed)]


def _held(panels: Sequence[Panel]) -> float:
    """How much of a map lies on patches, words and regions: special tokens are left out."""
    return sum(value for panel in panels for value, _ in _spots(panel))


def _sample(heads: HeadMaps, i: int) -> dict[str, Any]:
    """What the template needs of one sample."""
    exp = heads.explanation
    drawn = [[_panels(heads, layer, head, i) for head in range(layer.heads)] for layer in heads.layers]
    held = [[_held(panels) for panels in row] for row in drawn]
    most, layer, head = max((amount, -n, -m) for n, row in enumerate(held) for m, amount in enumerate(row))
    said = f"Head {-head} of layer {heads.layers[-layer].index} holds most, {number(most)}."
    return {
        "id": f"s{i}",
        "name": input_name(exp, i),
        "target": target_of(exp, i),
        "value": number(at(exp.receipt.target_value, i)),
        "told": said if most > 0 else "No head's map reaches the tokens of the inputs.",
        "columns": list(range(max(len(row) for row in drawn))),
        "rows": [
            {
                "index": la.index,
                "module": la.name,
                "cells": [_cell(la.index, n, panels, most, i) for n, panels in enumerate(row)],
            }
            for la, row in zip(heads.layers, drawn, strict=True)
        ],
        "under": [{"key": _under(i, n), "uri": _seen(p)} for n, p in enumerate(drawn[0][0]) if _is_picture(p)],
    }


def _cell(layer: int, head: int, panels: Sequence[Panel], most: float, i: int) -> dict[str, Any]:
    """One head: its small maps, how much they hold, and its strongest tokens."""
    held, texts = _held(panels), any(isinstance(p, TextView) for p in panels)
    strongest = sorted((s for p in panels for s in _spots(p) if s[0] > 0), reverse=True)[:NAMED]
    said = ", ".join(f"{name} {number(value)}" for value, name in strongest) or "nothing"
    return {
        "held": f"{held:.2g}",
        "share": 100 * max(held, 0.0) / most if most > 0 else 0.0,
        "empty": not strongest,
        "title": f"layer {layer}, head {head}: {said}",
        "named": strongest[0][1] if strongest and texts else "",
        "maps": [_map(panel, _under(i, n)) for n, panel in enumerate(panels)],
    }


def _under(sample: int, panel: int) -> str:
    """The style of the picture that lies under a panel's maps."""
    return f"s{sample}p{panel}"


def _is_picture(panel: Panel) -> bool:
    """Whether a picture lies under a map."""
    return isinstance(panel, PictureView) and panel.picture is not None and not panel.regions


def _map(panel: Panel, key: str) -> dict[str, Any]:
    """A small picture of a map: one pixel a cell, or a word."""
    if isinstance(panel, PictureView) and not panel.regions:
        rows, columns = panel.cells.shape
        over = key if _is_picture(panel) else ""
        return {"uri": uri_of(panel.scale.rgba(panel.cells)), "ratio": columns / rows, "under": over, "strip": False}
    values = [value for value, _ in _spots(panel)]
    scale = panel.best[1] if isinstance(panel, TextView) else panel.scale
    return {"uri": uri_of(scale.rgba(np.array(values)[None])), "ratio": 0.0, "under": "", "strip": True}


def _spots(panel: Panel) -> list[tuple[float, str]]:
    """Every scored place of a panel: its score, and what it is called."""
    if isinstance(panel, TextView):
        return [(p.score, p.text) for p in panel.best[0] if p.score is not None and not p.special]
    if isinstance(panel, ChartView):
        return [(score, f"token {n}") for n, score in enumerate(panel.scores)]
    if panel.regions:
        return [(float(v), f"region {n + 1}") for n, v in enumerate(panel.cells.ravel())]
    return [(float(v), f"row {r + 1}, column {c + 1}") for (r, c), v in np.ndenumerate(panel.cells) if math.isfinite(v)]


def _seen(panel: Panel) -> str:
    """What of a picture lies under its map, grey and small."""
    from PIL import Image

    assert isinstance(panel, PictureView)
    assert panel.picture is not None
    pixels: Array = panel.picture.pixels.cpu().numpy()
    left, top, right, bottom = (round(v) for v in panel.raster.box(panel.picture.box))
    box = (left, top, max(left + 1, right), max(top + 1, bottom))
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("L").crop(box)
    image = image.resize((SIDE, max(1, round(SIDE * image.height / image.width))), Image.Resampling.LANCZOS)
    return uri_of(np.asarray(image))


__all__ = ["page", "plain_table", "write_page"]
