"""The index of many inputs as a page, and what it says of each. No script; small pictures lie beside it as files.

Names, texts and labels are untrusted: Jinja2 escapes them, and links lead into the index's own folder alone.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch

from regard.explanation.explanation import Explanation
from regard.explanation.generation import Generation
from regard.explanation.raw_inputs import Text
from regard.explanation.writing import write_atomically
from regard.report import need
from regard.report.colour import number, veil
from regard.report.figure import blend
from regard.report.index.entries import IndexEntry
from regard.report.page import COLOURS, templates
from regard.report.view import class_of, pictures_of, plain, target_of

SIDE = 256  # pixels, the longest side of a small picture
WORDS = 180  # characters of a text
TARGETS = 6  # as many are listed
PREDICTED = 12  # as many different predictions are counted


def described(found: Sequence[Any]) -> dict[str, Any]:
    """The words, the prediction and the targets of what was found of one input: explanations, or what was written."""
    if isinstance(found[0], Generation):
        g = found[0]
        whole = () if g.whole is None else (_value(g.whole, g.whole.target),)
        return {"words": _cut(g.prompt), "prediction": _cut(g.text), "targets": whole}
    first: Explanation = found[0]
    prediction = _prediction(found)
    targets = dict.fromkeys(_target(exp, i, prediction) for exp in found for i in range(exp.samples))
    shown = [*targets][:TARGETS] + [f"and {len(targets) - TARGETS} more"] * (len(targets) > TARGETS)
    likely = None if first.found is not None else first.prediction
    share = likely[0][0].percent if likely is not None and len(likely) and likely[0] else ""
    return {"words": _words(first), "prediction": prediction, "share": share, "targets": tuple(shown)}


def _target(exp: Explanation, sample: int, prediction: str) -> str:
    """A target with its value; the predicted class is not named again."""
    said = target_of(exp, sample)
    again = bool(prediction) and "the predicted class" in said
    return _value(exp, said.removesuffix(f" ({prediction})") if again else said)


def _value(exp: Explanation, target: str) -> str:
    return plain(f"{target} = {number(float(exp.receipt.target_value[0]))}")


def _words(exp: Explanation) -> str:
    """The first words of a text that is the input, and no picture beside it."""
    if pictures_of(exp):
        return ""
    return next((_cut(raw[0].text) for raw in exp.inputs.values() if raw and isinstance(raw[0], Text)), "")


def _prediction(found: Sequence[Explanation]) -> str:
    first = found[0]
    if first.found is not None:
        return plain(", ".join(dict.fromkeys(e.found.label for e in found if e.found is not None)))
    if first.compared is not None:
        return plain(first.compared.names[first.compared.order[0]])
    return plain(class_of(first, first.receipt.predicted, 0) or "")


def _cut(text: str) -> str:
    line = plain(" ".join(text.split()))
    return line if len(line) <= WORDS else line[:WORDS].rsplit(" ", 1)[0] + " …"


def thumbnail(found: Sequence[Any]) -> bytes | None:
    """The first picture with its map drawn in, small, as PNG; None where there is no picture."""
    from PIL import Image

    exp = (found[0].whole or found[0][0]) if isinstance(found[0], Generation) else _of_prediction(found)
    panel = next((p for p in pictures_of(exp) if p.picture is not None), None)
    if panel is None or panel.picture is None:
        return None
    image = Image.fromarray(np.ascontiguousarray(veil(blend(panel), panel.picture.box)))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


def _of_prediction(found: Sequence[Explanation]) -> Explanation:
    """The explanation of what the model predicts, where there is one among several; else the first."""
    known = [e for e in found if e.receipt.explained is not None and e.receipt.predicted is not None]
    return next((e for e in known if torch.equal(e.receipt.explained, e.receipt.predicted)), found[0])  # type: ignore[arg-type]


def write_index(entries: Sequence[IndexEntry], total: int, about: str, path: str | os.PathLike[str]) -> Path:
    """Write the index of so many inputs, of which `entries` are done; `about`: by what model and method they were explained.

    Raises Misuse where a package of `regard[viz]` is missing.
    """
    return write_atomically(path, page(entries, total, about).encode("utf-8", "replace"))


def page(entries: Sequence[IndexEntry], total: int, about: str) -> str:
    """The index as text; see `write_index`."""
    need("viz")
    done = [e for e in entries if not e.error]
    counted = Counter(e.prediction for e in done if e.prediction).most_common()
    few = 1 < len(counted) <= PREDICTED or (len(counted) == 1 and len(done) > 1)
    return str(
        templates()
        .get_template("index.html.j2")
        .render(
            title=f"Explanations of {total} inputs",
            about=plain(about),
            total=total,
            done=[_shown(e) for e in done],
            failed=[(plain(e.name), plain(e.error)) for e in entries if e.error],
            counted=[(plain(name), count) for name, count in counted] if few else [],
            pictures=any(e.thumbnail for e in done),
            colours=COLOURS,
            opacity=0,
        )
    )


def _shown(entry: IndexEntry) -> dict[str, Any]:
    at = quote(entry.folder)
    return {
        "name": plain(entry.name),
        "link": f"{at}/{quote(entry.page)}" if entry.page else "",
        "thumbnail": f"{at}/{quote(entry.thumbnail)}" if entry.thumbnail else "",
        "words": plain(entry.words),
        "prediction": plain(entry.prediction),
        "share": plain(entry.share),
        "targets": [plain(t) for t in entry.targets],
    }


__all__ = ["described", "page", "thumbnail", "write_index"]
