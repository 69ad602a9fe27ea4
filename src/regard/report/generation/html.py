"""A `Generation` as one self-contained page, as a static fragment for notebooks, and as a figure.

As in `html`: nothing from the network, all text escaped, numbers as JSON that HTML cannot read. Scores are carried as
thousandths of the largest of their row.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from regard.errors import Misuse
from regard.explanation.explanation import Explanation
from regard.explanation.generation import Generation
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.answer import folded, verdict_of
from regard.report.causal import causal_of
from regard.report.colour import DARK, LIGHT, OPACITY, Array
from regard.report.generation.view import GenerationView, TextUnit, WrittenRow, view
from regard.report.page import COLOURS, STAGE, pieces, safe_json, scale, stage, still, templates
from regard.report.receipt import ReceiptLine, lines, percent
from regard.report.view import PictureView

FINE = 1000  # steps from 0 to the largest score of a row
SPANS = 20_000  # of a fragment at most; the page shows all


def write_page(generations: Sequence[Generation], path: str | os.PathLike[str], title: str | None = None) -> Path:
    """Write all generations as one page, one section each. Raises Misuse where there is none, or no `regard[viz]`."""
    return write_atomically(path, page(generations, title).encode("utf-8", "replace"))


def page(generations: Sequence[Generation], title: str | None = None) -> str:
    """The page as text; see `write_page`."""
    need("viz")
    if not generations:
        raise Misuse("there is no generation to show")
    shown = [_section(g, f"s{i}") for i, g in enumerate(generations)]
    data = [s.pop("data") for s in shown]
    return str(
        templates()
        .get_template("generation.html.j2")
        .render(
            title=title or "What each written token rests on",
            generations=shown,
            data=safe_json({"generations": data, "colours": COLOURS, "light": LIGHT, "dark": DARK}),
            opacity=OPACITY,
            colours=COLOURS,
        )
    )


def fragment(g: Generation) -> str:
    """Static HTML for notebooks: one fold a token written, the first open; no script."""
    need("viz")
    v = view(g)
    most = max(1, SPANS // max(1, len(v.coloured("words"))))
    shown = [_fold(g, v, i) for i in range(min(len(g), most))]
    left = len(g) - len(shown)
    return str(templates().get_template("generation_fragment.html.j2").render(rows=shown, left=left, colours=COLOURS))


def _section(g: Generation, key: str) -> dict[str, Any]:
    """What the template and the script need of one generation."""
    v = view(g)
    receipts = [lines(e) for e in g]
    shared = [line for line in receipts[0] if len(g) > 1 and all(line in r for r in receipts)]
    first = {p.stream: p for p in reversed(v.rows[0].pictures)}
    stages = [stage(p, f"{key}p{i}") for i, p in enumerate(reversed(first.values()))]
    names = [_shown(u)[0] for u in v.written.units["tokens"] if u.tokens and u.tokens[0] >= v.first]
    return {
        "id": key,
        "name": shorten(g.prompt, 160, placeholder=" …") or v.written.name,
        "stages": stages,
        "read": [{"name": p.name, "units": {by: _units(p.units[by], v, 0, by) for by in p.units}} for p in v.read],
        "written": {"name": v.written.name, "units": _tokens(v)},
        "rows": [_row(r, g[i], i, names[i], receipts[i], shared, causal_of(g[i])) for i, r in enumerate(v.rows)],
        "shared": shared,
        "data": {
            "id": key,
            "rows": [_numbers(r) for r in v.rows],
            "stages": [{k: s[k] for k in STAGE} for s in stages],
        },
    }


def _row(
    row: WrittenRow,
    exp: Explanation,
    number: int,
    name: str,
    receipt: Sequence[ReceiptLine],
    shared: Sequence[ReceiptLine],
    tested: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "number": number,
        "name": name,
        "shares": [(n, percent(round(s, 3))) for n, s in row.shares],
        "scales": {by: scale(s) for by, s in row.scales.items()},
        "verdict": verdict_of(exp),
        "folded": folded(exp, exp.target),
        "causal": tested,
        "receipt": [line for line in receipt if line not in shared and not (tested and line.name == "causal test")],
    }


def _numbers(row: WrittenRow) -> dict[str, Any]:
    """A row's scores for the script."""
    q, top = _steps(row.scores)
    return {
        "q": q,
        "top": top,
        "limits": {by: s.limit for by, s in row.scales.items()},
        "signed": any(s.signed for s in row.scales.values()),
        "most": row.most,
        "maps": {p.stream: _map(p) for p in row.pictures},
    }


def _steps(scores: Array) -> tuple[list[int], float]:
    """Scores as whole numbers up to FINE, and the magnitude that FINE stands for."""
    top = float(np.abs(scores).max()) if scores.size else 0.0
    return np.rint(scores.ravel() / top * FINE).astype(int).tolist() if top else [0] * scores.size, top


def _map(panel: PictureView) -> dict[str, Any]:
    rows, columns = panel.cells.shape
    q, top = _steps(panel.cells)
    limit = panel.scale.limit / top * FINE if top else 0.0
    return {"rows": rows, "columns": columns, "cells": q, "limit": limit, "signed": panel.scale.signed}


def _units(units: Sequence[TextUnit], v: GenerationView, i: int, by: str) -> list[dict[str, Any]]:
    """Units as they are drawn for the i-th token written."""
    shown = [_shown(u) for u in units]
    sums = [float(v.rows[i].scores[u.tokens].sum()) if u.tokens else None for u in units]
    runs = [(text, s, u.special, u.note, u.tokens) for (text, _), s, u in zip(shown, sums, units, strict=True)]
    made = pieces(runs, v.rows[i].scales[by])
    for unit, piece, (_, after) in zip(units, made, shown, strict=True):
        if not unit.tokens:
            piece["text"] = unit.text
        else:
            piece |= {"tokens": piece["at"], "after": after, "number": None}
    return made


def _tokens(v: GenerationView, i: int = 0) -> list[dict[str, Any]]:
    """The text that was written; each token written has its number."""
    units = v.written.units["tokens"]
    out = _units(units, v, i, "words")
    for unit, made in zip(units, out, strict=True):
        if unit.tokens and unit.tokens[0] >= v.first:
            made["number"] = unit.tokens[0] - v.first
    return out


def _shown(unit: TextUnit) -> tuple[str, str]:
    """A unit's text as it is drawn, and the line ends that follow it: white space is shown by a sign."""
    if unit.text.strip():
        return unit.text, ""
    return ("↵", "\n" * unit.text.count("\n")) if "\n" in unit.text else ("␣", "")


def _fold(g: Generation, v: GenerationView, i: int) -> dict[str, Any]:
    """One token written with all that was before it, as drawn in a notebook."""
    before = [u for u in v.written.units["tokens"] if not u.tokens or u.tokens[0] < v.first + i]
    last = max((n for n, u in enumerate(before) if u.tokens), default=-1)
    parts = [_units(p.units["words"], v, i, "words") for p in v.read]
    written = next(u for u in v.written.units["tokens"] if u.tokens and v.first + i in u.tokens)
    return {
        "name": _shown(written)[0],
        "parts": [*parts, _units(before[: last + 1], v, i, "words")],
        "scale": scale(v.rows[i].scales["words"]),
        "shares": [(n, percent(round(s, 3))) for n, s in v.rows[i].shares],
        "pictures": [still(p) for p in v.rows[i].pictures],
        "receipt": lines(g[i]),
    }
