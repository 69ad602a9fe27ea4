"""Who looks at whom, for a page: which places of a picture each word looks at, and which words each place."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from regard.errors import Misuse
from regard.report.view import PictureView, SampleView, TextView

MOST = 600  # tokens of a stream: beyond it a page would be large, and its rows take long
Rows = list[list[float | None]]


def token_links(view: SampleView) -> dict[str, dict[str, Rows]]:
    """Query stream -> key stream -> rows of `Explanation.between`, one a query token, between texts and pictures.

    Directions that nothing is seen in (a picture that reads no text) are left out, and so are methods that follow no paths.
    """
    texts = [p.stream for p in view.panels if isinstance(p, TextView)]
    pictures = [p.stream for p in view.panels if isinstance(p, PictureView)]
    out: dict[str, dict[str, Rows]] = {}
    for text in texts:
        for picture in pictures:
            for query, key in ((text, picture), (picture, text)):
                rows = _rows(view, query, key)
                if rows is not None and bool(rows.any()):
                    out.setdefault(query, {})[key] = [_rounded(r) for r in rows.tolist()]
    return out


def _rows(view: SampleView, query: str, key: str) -> Tensor | None:
    if max(view.exp.scores[s].shape[1] for s in (query, key)) > MOST:
        return None
    try:
        return view.exp.between(query, key)[view.sample]
    except Misuse:
        return None


def _rounded(row: Sequence[float]) -> list[float | None]:
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in row]
