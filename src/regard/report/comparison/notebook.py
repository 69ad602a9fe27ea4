"""A `Comparison` in a notebook: of each sample the figure of all maps, and the table of what they account for."""

from __future__ import annotations

import base64
import io

from regard.evaluation.compare import Comparison
from regard.explanation.tables import as_html
from regard.report.comparison.html import HEAD, table
from regard.report.comparison.png import plot
from regard.report.view import input_name

SAMPLES = 4
"""As many samples are drawn; of more, the first of them."""


def fragment(c: Comparison) -> str:
    """Static HTML: pictures and tables, no script. Raises Misuse where a package of `regard[viz]` is missing."""
    return "".join(_figure(c, i) + _table(c, i) for i in range(min(c.batch, SAMPLES)))


def _figure(c: Comparison, sample: int) -> str:
    buffer = io.BytesIO()
    plot(c, None, sample).savefig(buffer, format="png", metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img style="max-width:100%" alt="maps by method and site" src="data:image/png;base64,{data}">'


def _table(c: Comparison, sample: int) -> str:
    of = f"{input_name(c.explanations[0], sample)}; of {c.batch} samples the first {SAMPLES} are shown"
    caption = of if c.batch > SAMPLES else input_name(c.explanations[0], sample)
    return as_html((HEAD[0], *HEAD[4:]), [[row[0], *row[4:]] for row in table(c, sample)], caption)


__all__ = ["fragment"]
