"""Explanations as one self-contained page, and as a static fragment for notebooks.

The page asks the network for nothing and runs from file://.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from regard.errors import Misuse
from regard.explanation.explanation import Explanation
from regard.explanation.names import object_name
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.answer import answers, because, folded, in_short, verdict_of
from regard.report.causal import causal_of
from regard.report.colour import DARK, LIGHT, OPACITY
from regard.report.explanation.compared import bars_of, compared_of
from regard.report.explanation.pairs import pairs_of
from regard.report.explanation.token_links import token_links
from regard.report.guided import GuidedPicture, GuidedText, guided_of
from regard.report.guided.drawn import TITLES, guide_on
from regard.report.guided.view import SHARE
from regard.report.page import (
    COLOURS,
    STAGE,
    cells_of,
    corner,
    pieces,
    safe_json,
    scale,
    stages_of,
    still,
    templates,
    thumbnail,
    uri_of,
)
from regard.report.receipt import accounts, lines
from regard.report.view import ChartView, PictureView, SampleView, Section, TextView, sections, view_of


def write_page(explanations: Sequence[Explanation], path: str | os.PathLike[str], title: str | None = None) -> Path:
    """Write all explanations as one page, one section a raw input, with switches for methods and targets.

    Raises Misuse where there is nothing to show, or a package of `regard[viz]` is missing.
    """
    return write_atomically(path, page(explanations, title).encode("utf-8", "replace"))


def page(
    explanations: Sequence[Explanation],
    title: str | None = None,
    where: Literal["page", "testing", "framed"] = "page",
) -> str:
    """The page as text; see `write_page`.

    where: a page of its own; or one that can stand in a frame, too ("framed"), where it leaves out what stands beside the frame
    and tells how high it is; or such a page whose maps are still being tested ("testing").
    """
    need("viz")
    if not explanations:
        raise Misuse("there is no explanation to show")
    found = sections(explanations)
    title = title or (f"Explanation of {found[0].name}" if len(found) == 1 else f"Explanations of {len(found)} inputs")
    shown = [_section(s, f"s{i}", where) for i, s in enumerate(found)]
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
            framed=where != "page",
        )
    )


def fragment(exp: Explanation) -> str:
    """Static HTML of all samples, for notebooks: no script, its own paper, nothing that reaches outside of it."""
    need("viz")
    samples = [_fragment(view_of(exp, i)) for i in range(exp.samples)]
    return str(templates().get_template("fragment.html.j2").render(samples=samples, colours=COLOURS))


def _section(section: Section, key: str, where: str) -> dict[str, Any]:
    """What the template and the script need of one raw input."""
    rows = [token_links(v) for v in section.views]  # first: what it costs stands on the receipts
    views = [_view(v, f"{key}v{i}", where) for i, v in enumerate(section.views)]
    stages = stages_of((p for view in section.views for p in view.panels), key)
    objects = _objects(section)
    return {
        "id": key,
        "name": section.name,
        "views": views,
        "stages": stages,
        "compared": compared_of(section.views),
        "headline": in_short(section.views),
        "thumbnail": next((thumbnail(p) for p in section.views[0].panels if isinstance(p, PictureView)), ""),
        "answers": answers(section.views),
        "objects": [o | {"place": corner(o["box"], stages[0])} for o in objects],
        "clicks": any(rows),
        "pairs": any(v.exp.of_pairs for v in section.views),
        "methods": list(dict.fromkeys(v.method for v in section.views)),
        "targets": list(dict.fromkeys(v.target for v in section.views)),
        "data": {
            "id": key,
            "views": [
                {k: v[k] for k in ("id", "method", "target", "maps")}
                | {"links": found, "pairs": v["pairs"] and {k: v["pairs"][k] for k in ("limit", "clipped")}}
                for v, found in zip(views, rows, strict=True)
            ],
            "stages": [{k: s[k] for k in STAGE} for s in stages],
            "objects": [{k: o[k] for k in ("target", "box")} for o in objects],
        },
    }


def _objects(section: Section) -> list[dict[str, Any]]:
    """The found objects that the targets of a section are, each once."""
    found = {v.target: v.exp.found for v in section.views if v.exp.found is not None}
    return [{"target": target, "name": object_name(f), "box": [*map(float, f.box)]} for target, f in found.items()]


def _view(view: SampleView, key: str, where: str = "page") -> dict[str, Any]:
    pictures = [p for p in view.panels if isinstance(p, PictureView)]
    return {
        "id": key,
        "method": view.method,
        "target": view.target,
        "guided": _guided(view),
        "pairs": pairs_of(view),
        "verdict": (verdict := verdict_of(view.exp, view.sample, where)),
        "because": because(view, verdict),
        "folded": folded(view.exp, view.target),
        "causal": (tested := causal_of(view.exp, view.sample)),
        "receipt": [line for line in lines(view.exp, view.sample) if not tested or line.name != "causal test"],
        "accounts": accounts(view.exp.receipt, view.sample),
        "scales": [(p, scale(p.scale)) for p in pictures],
        "stills": [{"name": p.name, "uri": thumbnail(p)} for p in pictures],
        "texts": [_text(p) for p in view.panels if isinstance(p, TextView)],
        "charts": [_chart(p) for p in view.panels if isinstance(p, ChartView)],
        "listed": [_chart(p) for p in view.listed],
        "maps": {p.stream: cells_of(p) for p in pictures},
    }


def _guided(view: SampleView) -> dict[str, Any] | None:
    """The guide beside the maps without and with it."""
    found = guided_of(view)
    if found is None:
        return None
    return {
        "sentence": found.sentence,
        "pictures": [_guided_picture(p) for p in found.pictures],
        "texts": [_guided_text(t) for t in found.texts],
    }


def _guided_picture(view: GuidedPicture) -> list[dict[str, Any]]:
    panels = (view.guide, view.without, view.guided)
    first = still(view.guide)["uri"] if view.region is None else uri_of(guide_on(view))
    uris = [first, *(still(p)["uri"] for p in panels[1:])]
    scales = [None if view.region is not None else scale(SHARE), *(scale(p.scale) for p in panels[1:])]
    return [{"title": t, "name": view.name, "uri": u, "scale": s} for t, u, s in zip(TITLES, uris, scales, strict=True)]


def _guided_text(view: GuidedText) -> list[dict[str, Any]]:
    shown = [(view.guide, SHARE), view.without, view.guided]
    every: list[dict[str, Any]] = []
    for title, (runs, one) in zip(TITLES, shown, strict=True):
        made = pieces([(p.text, p.score, False, "", ()) for p in runs], one)
        first = title == TITLES[0]
        lined = [p | {"line": first and i in view.lines} for i, p in enumerate(made)]
        bar = None if first and view.lines else scale(one)
        every.append({"title": title, "name": view.name, "pieces": lined, "scale": bar})
    return every


def _fragment(view: SampleView) -> dict[str, Any]:
    shown = _view(view, "")
    pictures = [p for p in view.panels if isinstance(p, PictureView)]
    fits = None if view.exp.compared is None else bars_of(view.exp.compared, [view])
    return shown | {"pictures": [still(p) for p in pictures], "fits": fits}


def _text(panel: TextView) -> dict[str, Any]:
    return {
        "stream": panel.stream,
        "called": panel.name,
        "name": panel.text.name,
        "words": pieces([(p.text, p.score, False, "", p.tokens) for p in panel.words], panel.word_scale),
        "tokens": pieces([(p.text, p.score, p.special, p.note, p.tokens) for p in panel.tokens], panel.token_scale),
        "word_scale": scale(panel.word_scale),
        "token_scale": scale(panel.token_scale),
    }


def _chart(panel: ChartView) -> dict[str, Any]:
    tokens = pieces([(str(i), s, False, "", ()) for i, s in enumerate(panel.scores)], panel.scale)
    return {"name": panel.name, "tokens": tokens, "scale": scale(panel.scale)}
