"""An attention transfer as one self-contained page: a layer large with arrows over its pictures and words, all layers small.

As in `explanation.html`: nothing from the network, all text escaped, numbers as JSON that HTML cannot read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regard.explanation.transfer import Transfer
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.colour import DARK, LIGHT, OPACITY, number
from regard.report.page import COLOURS, STAGE, cells_of, pieces, safe_json, scale, stages_of, templates
from regard.report.receipt import at
from regard.report.transfer.view import Arrow, LayerView, RunningView, Spot, TransferView, unit, view_of_transfer
from regard.report.view import PictureView, input_name

STRIP = 200  # cells of a small text at most; beyond that neighbours are put together


def write_page(transfer: Transfer, path: str | os.PathLike[str], layer: int | None = None) -> Path:
    """Write all samples and layers as one page. Raises Misuse where a package of `regard[viz]` is missing."""
    return write_atomically(path, page(transfer, layer).encode("utf-8", "replace"))


def page(transfer: Transfer, layer: int | None = None) -> str:
    """The page as text; see `write_page`."""
    need("viz")
    views = [view_of_transfer(transfer, i, layer) for i in range(transfer.explanation.batch)]
    shown = [_sample(view, f"s{i}") for i, view in enumerate(views)]
    data = [s.pop("data") for s in shown]
    return str(
        templates()
        .get_template("transfer.html.j2")
        .render(
            title=f"Attention transfer: {', '.join(s['name'] for s in shown[:3])}",
            samples=shown,
            data=safe_json({"samples": data, "colours": COLOURS, "light": LIGHT, "dark": DARK}),
            opacity=OPACITY,
            colours=COLOURS,
        )
    )


def _sample(view: TransferView, key: str) -> dict[str, Any]:
    """What the template and the script need of one sample."""
    stages, running = stages_of((p for layer in view.layers for p in layer.panels), key), _running(view, key)
    ids = {s["stream"]: s["id"] for s in [*stages, *running]}
    return {
        "id": key,
        "name": input_name(view.exp, view.sample),
        "target": view.target,
        "value": number(at(view.exp.receipt.target_value, view.sample)),
        "stages": stages,
        "running": running,
        "large": view.large,
        "scale": scale(view.scale),
        "layers": [_layer(layer, view) for layer in view.layers],
        "checks": view.checks,
        "unit": unit(view),
        "passes": view.exp.receipt.passes,
        "data": {
            "id": key,
            "large": view.large,
            "stages": [{k: s[k] for k in STAGE} for s in stages],
            "limit": view.scale.limit,
            "layers": [_drawn(layer, ids) for layer in view.layers],
        },
    }


def _running(view: TransferView, key: str) -> list[dict[str, Any]]:
    """Every text of a sample once, as the large layer colours it; the script colours it anew for others."""
    first: dict[str, RunningView] = {}
    for layer in [view.layers[view.large], *view.layers]:
        for panel in layer.panels:
            if isinstance(panel, RunningView):
                first.setdefault(panel.stream, panel)
    return [_text(p, view, f"{key}t{i}") for i, p in enumerate(first.values())]


def _text(panel: RunningView, view: TransferView, key: str) -> dict[str, Any]:
    runs = [(p.text, p.score, p.special, "" if panel.text else p.note, p.tokens) for p in panel.pieces]
    about = {"id": key, "stream": panel.stream, "name": panel.name, "text": panel.text, "single": panel.single}
    return about | {"pieces": pieces(runs, view.scale)}


def _layer(layer: LayerView, view: TransferView) -> dict[str, Any]:
    return {
        "index": layer.index,
        "module": layer.module,
        "looks": layer.looks,
        "amount": number(layer.amount),
        "sentence": layer.sentence,
        "ends": layer.ends,
        "pictures": [p.stream for p in layer.panels if isinstance(p, PictureView)],
        "strips": [_strip(p, view) for p in layer.panels if isinstance(p, RunningView)],
        "arrows": [{"loser": a.loser, "gainer": a.gainer, "amount": number(a.amount)} for a in layer.arrows],
    }


def _strip(panel: RunningView, view: TransferView) -> dict[str, Any]:
    """A text as small coloured cells; of a long one a cell is the strongest of its neighbours. A single token has its name."""
    scores = [p.score or 0.0 for p in panel.scored]
    each = -(-len(scores) // STRIP) if scores else 1
    strongest = [max(scores[i : i + each], key=abs) for i in range(0, len(scores), each)]
    units = view.scale.unit(strongest).tolist()
    cells = [{"hue": "against" if u < 0 else "for", "alpha": f"{abs(u):.3f}"} for u in units]
    return {"cells": cells, "name": panel.scored[0].text if panel.single else ""}


def _drawn(layer: LayerView, ids: dict[str, str]) -> dict[str, Any]:
    """The numbers of a layer for the script: its maps by picture, its scores by text, its arrows from place to place."""
    maps = {p.stream: cells_of(p) for p in layer.panels if isinstance(p, PictureView)}
    texts = {ids[p.stream]: [_short(q.score) for q in p.scored] for p in layer.panels if isinstance(p, RunningView)}
    return {"maps": maps, "texts": texts, "arrows": [_ends(a, layer, ids) for a in layer.arrows]}


def _short(score: float | None) -> float | None:
    return float(f"{score:.4g}") if score is not None and math.isfinite(score) else None


def _ends(arrow: Arrow, layer: LayerView, ids: dict[str, str]) -> dict[str, Any]:
    strength = round(arrow.amount / layer.arrows[0].amount, 4)
    return {"from": _place(arrow.begins, layer, ids), "to": _place(arrow.ends, layer, ids), "strength": strength}


def _place(spot: Spot | None, layer: LayerView, ids: dict[str, str]) -> Sequence[Any] | None:
    """A place for the script: a picture's id with x and y in its pixels, or a text's id with the number of a scored piece."""
    if spot is None:
        return None
    panel, x, y = layer.panels[spot[0]], spot[1], spot[2]
    if isinstance(panel, PictureView):
        return ids[panel.stream], round(x, 3), round(y, 3)
    return ids[panel.stream], sum(p.score is not None for p in panel.pieces[: int(x)])
