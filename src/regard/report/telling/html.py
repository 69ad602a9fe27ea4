"""What tells two classes apart as one self-contained page: pictures, canvas, maps, probabilities."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regard.errors import Misuse
from regard.explanation.percents import percent as chance
from regard.explanation.told import Told
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.page import COLOURS, scale, still, templates, uri_of
from regard.report.receipt import lines
from regard.report.telling.view import Named, ToldView, view_of
from regard.report.view import enlarged


def write_page(found: Sequence[Told], path: str | os.PathLike[str]) -> Path:
    """Write the page. Raises Misuse where a package of `regard[viz]` is missing, or there is nothing to show."""
    return write_atomically(path, page(found).encode("utf-8", "replace"))


def page(found: Sequence[Told]) -> str:
    """The page as text; see `write_page`."""
    need("viz")
    if not found:
        raise Misuse("there is nothing to show")
    shown = [_section(view_of(t), f"s{i}") for i, t in enumerate(found)]
    first = found[0]
    title = (
        f"What tells {first.c} from {first.e}" if len(found) == 1 else f"What tells classes apart: {len(found)} maps"
    )
    template = templates().get_template("telling.html.j2")
    return str(template.render(title=title, sections=shown, colours=COLOURS, opacity=1))


def _section(view: ToldView, key: str) -> dict[str, Any]:
    told = view.told
    return {
        "id": key,
        "method": told.method,
        "c": told.c,
        "e": told.e,
        "first": told.first.name,
        "second": told.second.name,
        "within": told.within,
        "shares": [None if s is None else percent(s) for s in view.shares],
        "weak": any(s is not None and s < 0.5 for s in view.shares),
        "signed": told.against is None,
        "pictures": [
            {
                "name": name,
                "uri": uri_of(enlarged(p).pixels.cpu().numpy()),
                "predicted": label,
                "chances": [chance(v) for v in row],
                "widths": [f"{100 * v:.1f}" for v in row],
            }
            for (name, p), label, row in zip(view.pictures, told.predicted, told.probabilities.tolist(), strict=True)
        ],
        "canvas": [_map(m) for m in view.canvas],
        "scale": scale(view.scale),
        "own": [_map(m) | {"scale": scale(m.panel.scale)} for m in view.own],
        "receipt": lines(told.guided),
    }


def _map(m: Named) -> dict[str, Any]:
    return {"title": m.title, "uri": still(m.panel)["uri"]}


def percent(value: float) -> str:
    """A share in per cent."""
    if 0.005 <= value < 0.995:
        return f"{100 * value:.0f} %"
    return f"{100 * value:.2g} %" if value < 0.5 else f"{100 * value:.4g} %"


__all__ = ["page", "percent", "write_page"]
