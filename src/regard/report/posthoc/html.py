"""A `PosthocAgreement` as one self-contained page. Nothing from the network; all text escaped; no script."""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

from regard.evaluation.posthoc_agreement import KINDS, PosthocAgreement, ShownInput, counted, spelled, whole
from regard.evaluation.rank_agreement import METRICS
from regard.evaluation.statistics import Interval
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.comparison.html import drawn, original, panels_of
from regard.report.page import COLOURS, templates
from regard.report.view import csv_cell, view_of

TITLE = "Attention against post-hoc maps"
DEEPEST = 0.75
"""The opacity of a cell whose number is 1: what is written in it stays readable."""
REASONS = 20
"""The most inputs that are listed as left out, and of methods that failed."""
WIDE, HIGH = 200.0, 22.0
"""The size of a strip, in its own units."""


def write_page(of: PosthocAgreement, path: str | os.PathLike[str]) -> Path:
    """Write the page. Raises Misuse where a package of `regard[viz]` or `regard[eval]` is missing."""
    return write_atomically(path, page(of).encode("utf-8", "replace"))


def page(of: PosthocAgreement) -> str:
    """The page as text; see `write_page`."""
    need("viz")
    template = templates().get_template("posthoc.html.j2")
    found = template.render(
        title=TITLE,
        about=_about(of),
        summary=_summary(of),
        main=_matrix(of, "kendall"),
        more=[_matrix(of, name) for name in METRICS if name != "kendall"],
        strips=_strips(of),
        shown=[_shown(one, of, i, len(of.shown)) for i, one in enumerate(of.shown)],
        facts=_facts(of),
        left_out=_left_out(of),
        colours=COLOURS,
        opacity=1,
    )
    return str(found)


def numbers(of: PosthocAgreement) -> str:
    """Every number as CSV: `PosthocAgreement.records`; an empty cell where it is undefined."""
    buffer, rows = io.StringIO(), of.records()
    writer = csv.DictWriter(buffer, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _written(v) for k, v in row.items()} for row in rows)
    return buffer.getvalue()


def _written(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value if isinstance(value, int) else csv_cell(str(value))


# -- what it is of, and what was found --------------------------------------------------------------------------------------


def _about(of: PosthocAgreement) -> dict[str, str]:
    """What the first lines say."""
    unit = Counter(i.unit for i in of.inputs).most_common(1)[0][0]
    sizes = sorted(i.units for i in of.inputs)
    many = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
    units = {"patch": "patches"}.get(unit, f"{unit}s")
    return {"counted": counted(len(of.inputs), len(of.missing)), "model": of.model, "many": many, "units": units}


def _summary(of: PosthocAgreement) -> list[dict[str, Any]]:
    """Each kind of map with each, as a bar between −1 and 1 with its interval: the yardsticks beside what was asked."""
    pairs = [("attention", "posthoc"), ("posthoc", "posthoc"), ("attention", "attention"), ("floor", "posthoc")]
    rows = [(f"{KINDS[a]} with {KINDS[b]}", of.between(a, b)) for a, b in pairs]
    return [
        {"name": name, "mean": whole(found), "strip": _strip([], found)}
        for name, found in rows
        if not math.isnan(found.value)
    ]


def _facts(of: PosthocAgreement) -> list[tuple[str, str, str]]:
    opposed = of.between("attention", "posthoc", "sign_disagreement")
    floor = of.between("floor", "posthoc", "sign_disagreement")
    shared = of.between("attention", "posthoc", "overlap")
    top = f"of the highest {100 * of.top:g} % of units, at least one, the share"
    facts = [
        (
            "top-k overlap",
            whole(shared),
            f"{top} that an attention and a post-hoc map both have; chance {spelled(of.chance)}",
        )
    ]
    if not math.isnan(opposed.value):
        said = (
            f"share of attention’s highest units that signed post-hoc maps score below 0; of random ones {whole(floor)}"
        )
        facts.append(("sign disagreement", whole(opposed), said))
    sizes, others = (of.between(kind, "posthoc", "kendall_of_sizes") for kind in ("attention", "posthoc"))
    beside = "" if math.isnan(others.value) else f"; post-hoc with post-hoc {whole(others)}"
    facts.append(("τ-b of sizes", whole(sizes), f"attention with post-hoc, scores without their signs{beside}"))
    targets = Counter(i.target for i in of.inputs).most_common(3)
    facts.append(("target", "; ".join(name for name, _ in targets), "what the maps explain"))
    own = [f"{m.title}: {', '.join(f'{k}={v}' for k, v in m.options.items())}" for m in of.methods if m.options]
    facts += [("options", "; ".join(own), "")] if own else []
    return [*facts, ("seed", str(of.seed), "of random, and of methods that draw")]


# -- tables -----------------------------------------------------------------------------------------------------------------


def _matrix(of: PosthocAgreement, metric: str) -> dict[str, Any]:
    """Every two methods: a row is the first map, a column the second; random is a row alone."""
    columns = [m for m in of.methods if m.kind != "floor"]
    row_of, known = METRICS[metric], _intervals(of, metric)
    rows = [
        {"name": m.title, "kind": m.kind, "cells": [_cell(of, known, m.title, c.title, metric) for c in columns]}
        for m in of.methods
    ]
    return {
        "called": row_of.called,
        "about": row_of.about + (f"; chance {spelled(of.chance)}" if metric.startswith("overlap") else ""),
        "head": [{"name": c.title, "kind": c.kind} for c in columns],
        "rows": _borders(rows),
        "first": sum(c.kind == "attention" for c in columns),
    }


def _intervals(of: PosthocAgreement, metric: str) -> dict[tuple[str, str], Interval]:
    """The interval of every two methods; once for both orders where these are the same."""
    found: dict[tuple[str, str], Interval] = {}
    titles = [m.title for m in of.methods]
    for a, b in itertools.permutations(titles, 2):
        other = found.get((b, a)) if METRICS[metric].symmetric else None
        found[a, b] = of.interval(a, b, metric) if other is None else other
    return found


def _borders(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where a kind begins below another."""
    return [row | {"begins": i > 0 and row["kind"] != rows[i - 1]["kind"]} for i, row in enumerate(rows)]


def _cell(
    of: PosthocAgreement, intervals: dict[tuple[str, str], Interval], first: str, second: str, metric: str
) -> dict[str, Any]:
    if first == second:
        return {"text": "", "interval": "", "alpha": "0", "hue": "for", "title": ""}
    found, missing = intervals[first, second], of.undefined(first, second, metric)
    known = len(of.inputs) - missing
    if math.isnan(found.value):
        return {"text": "–", "interval": "", "alpha": "0", "hue": "for", "title": f"undefined on all {missing}"}
    against = found.value < 0 or metric == "sign_disagreement"
    return {
        "text": spelled(found.value),
        "interval": f"{spelled(found.low)} … {spelled(found.high)}" + (f", n = {known}" if missing else ""),
        "alpha": f"{DEEPEST * min(1.0, abs(found.value)):.3f}",
        "hue": "against" if against else "for",
        "title": f"{first} with {second}, mean of {known}" + (f"; undefined on {missing}" if missing else ""),
    }


# -- single inputs ----------------------------------------------------------------------------------------------------------


def _strips(of: PosthocAgreement) -> dict[str, Any]:
    """Kendall's τ-b of every input, one strip a pair of an attention and a post-hoc map; random below."""
    columns = of.of_kind("posthoc")
    rows = [
        {"name": name, "cells": [_strip(of.values(name, c).tolist(), of.interval(name, c)) for c in columns]}
        for name in [*of.of_kind("attention"), *of.of_kind("floor")]
    ]
    return {"head": columns, "rows": rows}


def _strip(values: list[float], mean: Interval) -> dict[str, Any]:
    """A strip from −1 to 1: a line an input (a path, so that thousands stay light), the mean, and its interval."""
    known = [v for v in values if not math.isnan(v)]
    lines = " ".join(f"M{_across(v):.1f} 4V{HIGH - 4:.0f}" for v in known)
    if math.isnan(mean.value):
        return {"lines": "", "said": "undefined"}
    low, middle, high = (_across(v) for v in (mean.low, mean.value, mean.high))
    said = f"mean {whole(mean)}" + (
        f"; {len(known)} inputs from {spelled(min(known))} to {spelled(max(known))}" if known else ""
    )
    return {
        "lines": lines,
        "low": f"{low:.1f}",
        "span": f"{max(high - low, 0.8):.1f}",
        "middle": f"{middle:.1f}",
        "said": said,
    }


def _across(value: float) -> float:
    return WIDE * (value + 1) / 2


# -- maps side by side ------------------------------------------------------------------------------------------------------


def _shown(one: ShownInput, of: PosthocAgreement, i: int, count: int) -> dict[str, Any]:
    """One input with all its maps, each on a scale of its own."""
    exps = [(m, one.maps[m.title]) for m in of.methods if m.title in one.maps]
    which = "" if count == 1 else "least" if i == 0 else "most"
    compared = one.compared
    named = compared.label and compared.label not in compared.target
    return {
        "name": one.name,
        "which": which,
        "agreement": spelled(one.agreement),
        "target": f"{compared.target} ({compared.label})" if named else compared.target,
        "original": original(view_of(exps[0][1])) if exps else "",
        "maps": [{"name": m.title, "kind": KINDS[m.kind], "panels": _panels(e)} for m, e in exps],
    }


def _panels(exp: Any) -> list[dict[str, Any]]:
    found, _ = panels_of(exp, 0)
    return [drawn(p, len(found) > 1) for p in found]


def _left_out(of: PosthocAgreement) -> dict[str, Any]:
    """The inputs that were left out, and the methods that failed on an input, the first of each with its reason."""
    single = [one for one in of.left_out if one.method]
    return {
        "inputs": of.missing[:REASONS],
        "more": max(0, len(of.missing) - REASONS),
        "methods": single[:REASONS],
        "more_methods": max(0, len(single) - REASONS),
    }


__all__ = ["numbers", "page", "write_page"]
