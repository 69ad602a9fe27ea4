"""A rewriting as one self-contained page: both pictures, what was changed, what the model rests on, what it took."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from regard.explanation.rewriting import Rewriting, shown
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.colour import number
from regard.report.page import COLOURS, scale, still, templates, uri_of
from regard.report.rewriting.view import RewritingView, view_of

MOST = 5  # classes that are listed
SMALL = 200  # pixels: a picture of a shorter side is drawn pixel by pixel


def write_page(found: Rewriting, path: str | os.PathLike[str]) -> Path:
    """Write the page. Raises Misuse where a package of `regard[viz]` is missing."""
    return write_atomically(path, page(found).encode("utf-8", "replace"))


def page(found: Rewriting) -> str:
    """The page as text; see `write_page`."""
    need("viz")
    views = [_section(view_of(found, i), f"s{i}") for i in range(found.batch)]
    done = "Rewritten" if bool(found.success.any()) else "Not rewritten"
    title = f"{done}: {views[0]['name']}" if found.batch == 1 else f"{done}: {found.batch} pictures"
    template = templates().get_template("rewriting.html.j2")
    return str(template.render(title=title, sections=views, colours=COLOURS, opacity=1))


def _section(view: RewritingView, key: str) -> dict[str, Any]:
    """What the template needs of one picture."""
    height, width = view.before.pixels.shape[:2]
    return {
        "id": key,
        "name": view.name,
        "success": view.success,
        "was": view.was,
        "to": view.to,
        "kept": view.kept,
        "size": view.size,
        "before": _side(view, True),
        "after": _side(view, False),
        "first": view.found.label(view.found.predicted[view.sample]),
        "difference": {"uri": uri_of(view.difference), "factor": number(view.factor)},
        "allowed": None if view.found.within is None else share(view.allowed),
        "pixelated": min(height, width) < SMALL,
        "file": bool(view.found.after),
        "part": tuple(view.before.box) != (0, 0, width, height),
        "maps": [
            {"name": n, "scale": scale(s), "stills": [still(p)["uri"] for p in panels]} for n, s, panels in view.maps
        ],
        "classes": _classes(view),
        "facts": facts(view),
    }


def _side(view: RewritingView, before: bool) -> dict[str, str]:
    """One of the two pictures, with the probabilities of the old and of the new class."""
    picture = view.before if before else view.after
    chances = {c: share(view.chance(c, before)) for c in ("was", "to")}
    return {"uri": uri_of(picture.pixels.cpu().numpy()), **chances}


def share(value: float) -> str:
    """A share in per cent."""
    if 0.005 <= value < 0.995 or value in (0, 1):
        return f"{100 * value:.0f} %"
    return f"{100 * value:.2g} %" if value < 0.5 else f"{100 * value:.1f} %"


def _classes(view: RewritingView) -> list[dict[str, Any]]:
    """The likeliest classes before and after, with those that were asked for."""
    found, i = view.found, view.sample
    before, after = found.probabilities_before[i], found.probabilities[i]
    some = {int(found.was[i]), int(found.to[i]), *([] if found.keep is None else [int(found.keep[i])])}
    for rows in (before, after):
        some |= set(rows.topk(min(3, len(rows))).indices.tolist())
    order = sorted(some, key=lambda c: (-float(after[c]), c))
    listed = [c for n, c in enumerate(order) if n < MOST or c in (int(found.was[i]), int(found.to[i]))]
    return [
        {
            "name": found.label(c),
            "cells": [{"text": share(float(p[c])), "width": f"{100 * float(p[c]):.1f}"} for p in (before, after)],
        }
        for c in listed
    ]


def facts(view: RewritingView) -> list[dict[str, str]]:
    """What it took, line by line."""
    found, i = view.found, view.sample
    norm = "L∞, the largest change of a pixel" if found.norm == "linf" else "L2, the length of all changes together"
    budget = shown(found.budget, found) if found.norm == "linf" else number(found.budget)
    how = "; the smallest that was found to suffice" if found.minimal else "; the surest change within it"
    length = "of all changes, pixels from 0 to 1 (L2)" if found.high == 1 else "of all changes (L2)"
    rows = [
        ("budget", budget + how, norm),
        ("largest change", shown(found.linf[i], found), "of a pixel's channel (L∞)"),
        ("length", number(float(found.l2[i])), length),
        ("PSNR", _decibels(float(found.psnr[i])), "peak signal-to-noise ratio; from about 40 dB on few people see it"),
    ]
    if found.ssim is not None:
        rows.append(("SSIM", f"{float(found.ssim[i]):.4f}", "structural similarity; 1 is the same picture"))
    rows.append(("queries", str(int(found.queries[i])), "how often the model was asked, a forward and a gradient each"))
    if found.within is not None:
        rows.append(("allowed", f"{share(view.allowed)} of the pixels", "the others are exactly as they were"))
    rows += [("note", note, "") for note in found.notes]
    return [{"name": name, "value": value, "meaning": meaning} for name, value, meaning in rows]


def _decibels(value: float) -> str:
    return "infinite: nothing was changed" if math.isinf(value) else f"{value:.1f} dB"


__all__ = ["facts", "page", "share", "write_page"]
