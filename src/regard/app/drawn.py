"""What the page is made of besides its fields, as HTML: maps in frames, refusals, examples, the place to drop a picture.

A map is the report's own page. It stands in a frame that is cut off from everything else (`sandbox`, no origin): what a label
or a text may hold reaches nothing. All that is untrusted is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from regard.app.answering import Pane
from regard.app.examples import ExampleInput
from regard.app.limits import Limits, megabytes
from regard.report.explanation.html import page
from regard.report.page import uri_of

THUMBNAIL = 96


def pane(shown: Pane, testing: bool = False, beside: bool = False) -> str:
    """One pane: its maps as a page in a frame, with a button that saves it; or why there is none. beside: it is one of two."""
    title = f"<h2>{escape(shown.title)}</h2>" if beside else ""
    if shown.refused:
        return f'<section class="pane">{title}<p class="refused" role="alert">{escape(_sentence(shown.refused))}</p></section>'
    made = page(shown.found, _title(shown), "testing" if testing else "framed")
    return (
        f'<section class="pane">{title}'
        f'<iframe title="{escape(f"What the prediction rests on: {shown.title}")}" sandbox="allow-scripts allow-downloads" '
        f'srcdoc="{escape(made)}"></iframe>'
        f'<p class="after"><button type="button" class="save" data-name="{escape(_title(shown))}"{" disabled" * testing}>'
        "Save as a page</button></p></section>"
    )


def _title(shown: Pane) -> str:
    """The heading of a saved page, and the name of its file."""
    from regard.report.view import sections

    return f"{sections(shown.found)[0].name[:60]}: {shown.title}"


def _sentence(said: str) -> str:
    """A message with a full stop, in one line; with a capital where it begins with a word, which the name of a file is not."""
    line = " ".join(said.split())
    begins = line.partition(" ")[0].isalpha()
    return (line[:1].upper() + line[1:] if begins else line) + ("" if line[-1:] in ".!?…" else ".")


def choices(examples: Sequence[ExampleInput], chosen: int | None = 0) -> str:
    """The examples as buttons: pictures small, texts by their beginning. chosen: the one that is shown."""
    return "".join(_choice(i, e, i == chosen) for i, e in enumerate(examples))


def _choice(number: int, example: ExampleInput, chosen: bool) -> str:
    name, which = escape(example.name), f'data-example="{number}" aria-pressed="{str(chosen).lower()}"'
    if example.picture is None:
        return f'<button type="button" class="words" {which}><span>{name}</span></button>'
    uri = uri_of(np.asarray(example.picture.convert("RGB")), THUMBNAIL)
    said = f"<span>{name}</span>" if example.text else ""
    kind = "both" if example.text else "alone"
    return (
        f'<button type="button" class="{kind}" {which} aria-label="{name}" title="{name}">'
        f'<img src="{uri}" alt="">{said}</button>'
    )


def drop(limits: Limits) -> str:
    """The place to drop a picture on, or to choose one from."""
    most = f"at most {megabytes(limits.bytes)} MB and {limits.pixels / 1e6:g} million pixels"
    return (
        '<label class="drop"><input type="file" accept="image/*" aria-label="Choose a picture">'
        "<span class='mouse'><b>Drop a picture anywhere</b>, paste it, or <u>choose one</u></span>"
        f"<span class='touch'><u>Choose a picture</u> of your own</span><small>{most}</small>"
        '<span class="said" role="alert"></span></label>'
    )


def too_large(limits: Limits) -> dict[str, Any]:
    """What the browser is told, so that it need not send what would be refused."""
    return {"most": limits.bytes, "most_said": f"{megabytes(limits.bytes)} MB"}


__all__ = ["choices", "drop", "pane", "too_large"]
