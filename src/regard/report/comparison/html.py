"""A `Comparison` as one self-contained page, and its table in plain text.

All maps are drawn in; the page's script only sorts the table. As in `html`, it asks the network for nothing, and Jinja2 escapes
every text, label and file name.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import Misuse
from regard.evaluation.compare import Comparison, formula
from regard.explanation.explanation import Explanation
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.answer import in_short
from regard.report.colour import LIGHT, OPACITY, Array, ColourScale, number, veil
from regard.report.drawing import SHARP, resized, veiled
from regard.report.look import Look, limited, scale_of_panel, shared, with_scale
from regard.report.page import COLOURS, piece, templates
from regard.report.receipt import at, lines, percent
from regard.report.view import (
    ChartView,
    Panel,
    PictureView,
    SampleView,
    TextPiece,
    TextView,
    enlarged,
    input_name,
    listed,
    view_of,
)

SIDE = 320  # pixels, the longest side of a map on the page
COLOURED = {"colours": COLOURS, "opacity": OPACITY}
CLOSE = 0.01  # a relative error that counts as adding up
SHARED = Look(scale="shared")
Shown = dict[int, tuple[list[Panel], list[str]]]
"""Of a map, by the identity of its explanation: its panels, and what is listed beside them."""
HEAD = ("method", "a", "baseline it implies", "quadrature", "site", "baseline", "Σa", "T", "ε", "ε/|T|", "passes")


def write_page(comparison: Comparison, path: str | os.PathLike[str], title: str | None = None) -> Path:
    """Write the page: a section for each sample. Raises Misuse where a package of `regard[viz]` is missing."""
    return write_atomically(path, page(comparison, title).encode("utf-8", "replace"))


def page(comparison: Comparison, title: str | None = None) -> str:
    """The page as text; see `write_page`."""
    need("viz")
    every = [_section(comparison, i) for i in range(comparison.batch)]
    title = title or f"Methods compared: {every[0]['name'] if len(every) == 1 else f'{len(every)} inputs'}"
    template = templates().get_template("comparison.html.j2")
    return str(template.render(title=title, sections=every, sites=comparison.sites, head=HEAD, **COLOURED))


# -- what there is to show --------------------------------------------------------------------------------------------


def accounts(exp: Explanation, sample: int) -> str:
    """ε/|T| in per cent, or `undefined`; float32 leaves nothing to say below a hundredth of a per cent."""
    value = at(exp.receipt.relative_error, sample)
    return "< 0.01 %" if value is not None and value < 1e-4 else percent(value)


def maps(c: Comparison) -> list[tuple[str, list[tuple[str, Explanation | None]]]]:
    """The grid, row by row: a method, and its explanation at each site of the columns (None: the method does not take it)."""
    inside = [m for m in c.methods if any((m, s) in c.grid for s in c.sites)]
    return [(m, [(s, c.grid.get((m, s))) for s in c.sites]) for m in inside]


def panels_of(exp: Explanation, sample: int) -> tuple[list[Panel], list[str]]:
    """What to draw of a map, and what to list beside it: short streams, special tokens of a text shown by its words.

    Where all of a map is rounding (below 1e-6 of max(1, |y|)), its scale is empty: colours would make something of nothing.
    """
    view = view_of(exp, sample)
    y = abs(at(exp.receipt.target_value, sample) or 0.0)
    beside = [listed(p) for p in view.listed]
    beside += [f"{t.text} {number(t.score)}" for p in view.panels if isinstance(p, TextView) for t in _special(p)]
    return [_settled(p, 1e-6 * max(1.0, y)) for p in view.panels], beside


def shown(c: Comparison, sample: int, look: Look = SHARED) -> Shown:
    """What to draw of every map: the maps of one method share a scale where their scores are in one unit, the target's.

    Those of different methods never do: most are in units of their own, and the largest numbers would leave the others pale.
    """
    of = {id(e): panels_of(e, sample) for e in c.explanations}
    if look.scale == "shared":
        for method in c.methods:
            row = [e for s in c.sites if (e := c.grid.get((method, s))) and e.receipt.attribution_target is not None]
            of |= _together([of[id(e)] for e in row], [id(e) for e in row])
    return {k: ([_looked(p, look) for p in panels], beside) for k, (panels, beside) in of.items()}


def _looked(panel: Panel, look: Look) -> Panel:
    scale = scale_of_panel(panel)
    if isinstance(look.scale, float) and scale.limit:
        scale = limited(scale, look.scale)
    return with_scale(panel, look.coloured(scale))


def _together(row: Sequence[tuple[list[Panel], list[str]]], keys: Sequence[int]) -> Shown:
    """Maps with one scale for the panels of each stream; one that is all rounding keeps its empty scale."""
    streams: dict[str, list[Panel]] = {}
    for panel in (p for panels, _ in row for p in panels if scale_of_panel(p).limit):
        streams.setdefault(panel.stream, []).append(panel)
    scales = {stream: shared(panels) for stream, panels in streams.items()}
    return {
        key: ([with_scale(p, scales[p.stream]) if scale_of_panel(p).limit else p for p in panels], beside)
        for key, (panels, beside) in zip(keys, row, strict=True)
    }


def _special(panel: TextView) -> list[TextPiece]:
    """Special tokens that have a share, the first few of them; of a text that is shown by its words."""
    return [t for t in panel.tokens if t.special and t.score][:4] if panel.words else []


def _settled(panel: Panel, least: float) -> Panel:
    scale = scale_of_panel(panel)
    if scale.limit == 0 or scale.top >= least:
        return panel
    empty = dataclasses.replace(scale, limit=0.0, note=f"all scores are rounding, below {number(scale.top)}")
    return with_scale(panel, empty)


def numbers(exp: Explanation, sample: int) -> list[str]:
    """The last columns of the table: site, baseline, Σa, T, ε, ε/|T|, passes."""
    r = exp.receipt
    values = (r.attribution_sum, r.attribution_target, r.attribution_error)
    return [r.site, r.baseline, *(number(at(v, sample)) for v in values), accounts(exp, sample), str(r.passes)]


def table(c: Comparison, sample: int = 0) -> list[list[str]]:
    """The unification table with this input's numbers, one row a map; see `HEAD`."""
    if not 0 <= sample < c.batch:
        raise Misuse(f"sample {sample} does not exist; the comparison holds {c.batch}, counted from 0")
    return [[e.method, *formula(e), *numbers(e, sample)] for e in c.explanations]


def plain_table(c: Comparison, sample: int = 0) -> str:
    """The table without formulas, as text."""
    every = [[row[0], *row[4:]] for row in [list(HEAD), *table(c, sample)]]
    widths = [max(len(row[i]) for row in every) for i in range(len(every[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in every)


def small(panel: PictureView) -> Array:
    """The map over its picture, uint8 (height, width, 3), about `SIDE` large."""
    if panel.picture is None:
        times = max(1, SIDE // max(panel.cells.shape))
        return np.kron(panel.scale.over(panel.cells, LIGHT), np.ones((times, times, 1), dtype=np.uint8))
    return veiled(panel, SIDE / SHARP)


def ends(scale: ColourScale) -> tuple[str, str]:
    """The numbers at both ends of a scale."""
    ticks = scale.ticks()
    return ticks[0][1], ticks[-1][1]


# -- for the template -------------------------------------------------------------------------------------------------


def _section(c: Comparison, sample: int) -> dict[str, Any]:
    key, first, of = f"s{sample}", c.explanations[0], shown(c, sample)
    cells = iter([_cell(e, sample, f"{key}m{i}", of[id(e)]) for i, e in enumerate(c.explanations)])
    rows = [
        {
            "method": method,
            "formula": formula(next(e for _, e in found if e is not None)),
            "cells": [(site, None if e is None else next(cells)) for site, e in found],
        }
        for method, found in maps(c)
    ]
    return {
        "id": key,
        "name": input_name(first, sample),
        "original": original(view_of(first, sample)),
        "target": lines(first, sample)[0],
        "rows": rows,
        "own": [{"method": e.method, "cell": next(cells)} for e in c.own.values()],
        "table": _grouped(c, sample, key),
        "summary": _summary(c, sample),
        "headline": in_short([view_of(first, sample)]),
        "notes": _notes(c),
    }


def _notes(c: Comparison) -> list[str]:
    """Each note once: of which maps it speaks, or of all."""
    of: dict[str, list[str]] = {}
    for e in c.explanations:
        for note in dict.fromkeys(e.receipt.notes):
            of.setdefault(note, []).append(f"{e.method} at {e.receipt.site}")
    return [n if len(maps) == len(c.explanations) else f"{', '.join(maps)}: {n}" for n, maps in of.items()]


def _grouped(c: Comparison, sample: int, key: str) -> list[dict[str, Any]]:
    """The table's rows, those of one method together."""
    groups: list[dict[str, Any]] = []
    for i, exp in enumerate(c.explanations):
        if not groups or groups[-1]["method"] != exp.method:
            groups.append({"method": exp.method, "formula": formula(exp), "rows": []})
        groups[-1]["rows"].append((f"{key}m{i}", numbers(exp, sample), _plain(exp, sample)))
    return groups


def _plain(exp: Explanation, sample: int) -> list[float | None]:
    """The numbers of the last columns, to sort by; None where there is none."""
    r = exp.receipt
    values = [at(v, sample) for v in (r.attribution_sum, r.attribution_target, r.attribution_error, r.relative_error)]
    return [None if v is None or not math.isfinite(v) else v for v in [*values, float(r.passes)]]


def _summary(c: Comparison, sample: int) -> str:
    """How far the maps add up, in a sentence: the best and the worst of them, and how many leave out at most a hundredth."""
    errors = [(e, at(e.receipt.relative_error, sample)) for e in c.explanations]
    known = sorted(
        ((v, i, e) for i, (e, v) in enumerate(errors) if v is not None and math.isfinite(v)), key=lambda k: k[:2]
    )
    count = f"{len(errors)} {'map' if len(errors) == 1 else 'maps'}"
    if not known:
        return f"{count}; ε/|T| is undefined for all of them."
    (_, _, best), (_, _, worst) = known[0], known[-1]
    close = sum(v <= CLOSE for v, _, _ in known)

    def said(e: Explanation) -> str:
        return f"{accounts(e, sample)} ({e.method} at {e.receipt.site})"

    if len(known) == 1:
        return f"{count}; ε/|T| is known of one: {said(best)}."
    adds = f"{close} of {len(known)} {'accounts' if close == 1 else 'account'} for T to within 1 %"
    return f"{count}; ε/|T| from {said(best)} to {said(worst)}; {adds}."


def _cell(exp: Explanation, sample: int, key: str, found: tuple[list[Panel], list[str]]) -> dict[str, Any]:
    panels, beside = found
    error = at(exp.receipt.relative_error, sample)
    return {
        "id": key,
        "site": exp.receipt.site,
        "about": f"{exp.method} at {exp.receipt.site}",
        "panels": [drawn(p, len(panels) > 1) for p in panels],
        "listed": beside,
        "ratio": accounts(exp, sample),
        "known": error is not None and not math.isnan(error),
    }


def drawn(panel: Panel, several: bool) -> dict[str, Any]:
    """A panel for a template: a picture with its map drawn in, or coloured pieces of text, with its scale."""
    scale = panel.best[1] if isinstance(panel, TextView) else panel.scale
    made: dict[str, Any] = {"stream": panel.name if several else "", "uri": "", "pieces": [], "tokens": False}
    made["scale"] = {"ends": ends(scale), "signed": scale.signed, "empty": scale.limit == 0, "note": scale.note}
    if isinstance(panel, PictureView):
        return made | {"uri": _jpeg(small(panel))}
    if isinstance(panel, ChartView):
        return made | {"pieces": [piece(str(i), s, scale) for i, s in enumerate(panel.scores)], "tokens": True}
    pieces = [piece(p.text, p.score, scale, p.special, p.note) for p in panel.best[0]]
    return made | {"pieces": pieces, "tokens": not panel.words}


def original(view: SampleView) -> str:
    """The first picture as it is, where there is one."""
    found = [p.picture for p in view.panels if isinstance(p, PictureView) and p.picture is not None]
    if not found:
        return ""
    first = resized(enlarged(found[0]), SIDE)
    return _jpeg(veil(first.pixels.cpu().numpy(), first.box))


def _jpeg(pixels: Array) -> str:
    """A picture as a data: address; colours as sharp as the rest."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="jpeg", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


__all__ = [
    "HEAD",
    "accounts",
    "drawn",
    "maps",
    "numbers",
    "original",
    "page",
    "panels_of",
    "plain_table",
    "shown",
    "table",
    "write_page",
]
