"""What `repr` and `print` say of an explanation: one line, and a table of the tokens that score highest. Nothing is run."""

from __future__ import annotations

import math
from typing import Any

from regard.explanation.counts import quantity
from regard.explanation.tables import WIDTH, beside, in_columns, one_line

SAMPLES = 4
"""As many samples as are printed; of more, the first of them."""
TOKENS = 8
LONGEST = 24  # characters of a token's text


def short(exp: Any) -> str:
    """One line: what was explained by what, of how many samples, in which streams."""
    sizes = [f"{name} {_size(exp, name)}" for name in exp.scores]
    count = quantity(exp.samples, "sample")
    target = repr(one_line(str(exp.target), 48))
    return one_line(f"Explanation({exp.method!r}, {target}, {count}: {', '.join(sizes)})", 2 * WIDTH)


def _size(exp: Any, stream: str) -> str:
    grid = exp.grid.get(stream)
    return "×".join(map(str, grid)) if isinstance(grid, tuple) else str(exp.scores[stream].shape[1])


def table(exp: Any) -> str:
    """A heading, and of each sample its target and the tokens of largest magnitude; at most `WIDTH` columns."""
    rows, shown = exp.to_rows(), min(exp.samples, SAMPLES)
    parts = [one_line(f"{exp.method}: {exp.target}")]
    for sample in range(shown):
        own = rows if exp.compared is not None else [r for r in rows if r["sample"] == sample]
        parts += ["", *_sample(exp, sample, own)]
    if exp.samples > shown:
        parts += ["", f"and {exp.samples - shown} more samples: exp[{shown}] to exp[{exp.samples - 1}]"]
    return "\n".join([*parts, "", *_receipt(exp)])


def _sample(exp: Any, sample: int, rows: list[dict[str, Any]]) -> list[str]:
    names = [raw[sample].name for raw in exp.inputs.values() if sample < len(raw)]
    called = f"sample {sample}" + (f", {' + '.join(dict.fromkeys(names))}" if names else "")
    y = exp.receipt.target_value
    value = (
        f"{called}: the target is {number(float(y[min(sample, len(y) - 1)]))}{_class(exp, sample)}"
        if len(y)
        else called
    )
    best = [r for r in sorted(rows, key=lambda r: -abs(r["score"]))[:TOKENS] if r["score"]]
    head = f"strongest tokens ({len(best)} of {len(rows)})"
    lines = in_columns([[head, "stream", "score"], *(_cells(r) for r in best)], right=(2,))
    return [one_line(value), *(line[:WIDTH] for line in lines)]


def _class(exp: Any, sample: int) -> str:
    """The name of the class that is explained, where the target does not say it."""
    explained = exp.receipt.explained
    if explained is None or not explained.numel():
        return ""
    index = int(explained.flatten()[min(sample, explained.numel() - 1)])
    labels = dict(enumerate(exp.labels or [])) | exp.names
    return "" if index not in labels or labels[index] in exp.target else f" ({labels[index]})"


def _cells(row: dict[str, Any]) -> list[str]:
    if row["token"] is not None:
        token = one_line(str(row["token"]), LONGEST) or "(white space)"
    elif row["row"] is not None:
        token = f"row {row['row']}, column {row['column']}"
    else:
        token = f"token {row['number']}"
    return [token, one_line(row["stream"], LONGEST), number(row["score"])]


def _receipt(exp: Any) -> list[str]:
    r = exp.receipt
    lines = [beside("site", r.site), beside("baseline", r.baseline), beside("read-out", r.readout)]
    return [*lines, *(beside("note", note) for note in r.notes)]


def number(value: float) -> str:
    """Three digits that count."""
    return "undefined" if math.isnan(value) else f"{value:.3g}"


__all__ = ["number", "short", "table"]
