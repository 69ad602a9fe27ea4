"""What is asked on the page, and what is answered: for each of at most two panes its explanations, or a sentence why not."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import regard
from regard.app.limits import Limits
from regard.app.shelf import Needs, Shelf
from regard.errors import InputError, RegardError
from regard.preferred import AUTO
from regard.target import Target

ALONE, METHODS, MODELS = "one map", "two methods", "two models"
MOST = 100
"""Boxes that are read."""


@dataclass(frozen=True)
class Wish:
    """All fields of the page. target, site: "" for the model's own prediction, the method's own site. beside: one of three.

    Two are the same where all fields are, and the picture is the same object.
    """

    model: str
    picture: Any = field(default=None, compare=False)
    text: str = ""
    second: str = ""
    boxes: str = ""
    target: str = ""
    method: str = AUTO
    site: str = ""
    beside: str = ALONE
    other_method: str = "rollout"
    other_model: str = ""
    number: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "number", id(self.picture))

    def panes(self) -> Iterator[tuple[str, str]]:
        """The model and the method of each pane."""
        yield self.model, self.method
        if self.beside == METHODS:
            yield self.model, self.other_method
        elif self.beside == MODELS:
            yield self.other_model, self.method


@dataclass
class Pane:
    """A model and a method, and what came of them: explanations, or why there are none.

    classes: what can be asked for. runners_up: what explains the next likeliest classes, when there is time for it.
    """

    model: str
    method: str
    found: list[Any] = field(default_factory=list)
    refused: str = ""
    classes: Sequence[str] = ()
    runners_up: Callable[[], list[Any]] | None = None

    @property
    def title(self) -> str:
        """What tells it from the other."""
        return f"{self.model} · {self.found[0].method if self.found else self.method}"


def answer(shelf: Shelf, wish: Wish, limits: Limits) -> list[Pane]:
    """Explain what is asked for, untested; a pane that cannot be filled says why in one sentence."""
    return [_filled(Pane(model, method), shelf, wish, limits) for model, method in wish.panes()]


def test(panes: Sequence[Pane], limits: Limits) -> None:
    """Add the maps of the runners-up to all panes, and test every map, as many as there is time for."""
    end = time.perf_counter() + limits.seconds
    for pane in panes:
        more, pane.runners_up = pane.runners_up, None
        with contextlib.suppress(RegardError):  # what is shown is right without them
            pane.found += more() if more else []
    for exp in (exp for pane in panes for exp in pane.found):
        exp.test_unasked(max(0.0, end - time.perf_counter()))


def _filled(pane: Pane, shelf: Shelf, wish: Wish, limits: Limits) -> Pane:
    try:
        reader = shelf.reader(pane.model)
        raw, more = read(wish, shelf.needs(pane.model), limits)
        how = {"method": pane.method, "site": _site(pane.method, wish), "target": wish.target.strip() or None}
        made = reader.explain(raw, **how, **more)
        pane.found = list(made) if isinstance(made, list) else [made]
        pane.classes = classes_of(reader, pane.found)
        if reader.classifies and how["target"] is None:
            ranked = [Target.ranked(rank) for rank in range(1, len(pane.found[0].prediction[0]))]
            pane.runners_up = lambda: reader.explain(raw, **(how | {"target": ranked}), **more)
        if sites_of(pane.method):
            shelf.blocks(pane.model, raw, more)
    except RegardError as e:
        pane.refused = in_fields(str(e))
    except MemoryError:
        pane.refused = "there is not enough memory for this: give a smaller picture or a shorter text"
    except Exception as e:  # a visitor sees no traceback; who started the app does
        traceback.print_exc(file=sys.stderr)
        pane.refused = f"this went wrong in a way that nobody foresaw ({type(e).__name__}); the terminal says where"
    return pane


def read(wish: Wish, needs: Needs, limits: Limits) -> tuple[Any, dict[str, Any]]:
    """The raw input that the fields hold, and options for the reader. Raises InputError for what is missing or too long."""
    if needs.picture and wish.picture is None:
        raise InputError("there is no picture yet: drop one, or choose an example")
    what = "the list of texts" if needs.lines else f"the {_called(needs.text)}"
    text = limits.checked_text(wish.text, what) if needs.text else ""
    if needs.second:
        second = limits.checked_text(wish.second, f"the {_called(needs.second)}")
        return ((second, text) if needs.second == "Question" else (text, second)), {}
    if not needs.picture:
        return text, {}
    if needs.boxes:
        return (wish.picture, text), {"regions": boxes_in(wish.boxes)}
    if needs.lines:
        return (wish.picture, [line.strip() for line in text.splitlines() if line.strip()]), {}
    return ((wish.picture, text) if needs.text else wish.picture), {}


def _called(field: str) -> str:
    """What a field is called in a sentence."""
    return field.partition(",")[0].partition(" to ")[0].lower()


def boxes_in(text: str) -> list[list[float]]:
    """Boxes, one a line: left, top, right, bottom, as fractions of the picture. Raises InputError for other lines."""
    lines = [line for line in text.replace(",", " ").splitlines() if line.strip()]
    if not lines or len(lines) > MOST:
        many = f"{len(lines)} boxes are too many, at most {MOST} are read" if lines else "there are no boxes yet"
        raise InputError(f"{many}: give one a line, or choose an example")
    try:
        boxes = [[float(v) for v in line.split()] for line in lines]
    except ValueError:
        boxes = []
    wrong = next((i for i, b in enumerate(boxes, 1) if len(b) != 4), 0)
    if wrong or not boxes:
        said = (
            f"line {wrong} of the boxes has {len(boxes[wrong - 1])} numbers" if wrong else "the boxes are not numbers"
        )
        raise InputError(f"{said}: each line is left, top, right, bottom, as fractions of the picture")
    return boxes


def _site(method: str, wish: Wish) -> str | None:
    """The site that is asked for, where the method takes one."""
    return wish.site.strip() or None if sites_of(method) else None


def sites_of(method: str, blocks: int = 0) -> list[str]:
    """The sites that a method can be asked for, in words; none where it has its own alone."""
    kinds = next((row.sites for row in regard.methods().rows if row.name == method), ())
    found: list[str] = [k for k in ("input", "embeddings") if k in kinds]
    found += [f"block[{i}]" for i in range(blocks)] if "block" in kinds else []
    return found + (["attention:all"] if "attention" in kinds else [])


def classes_of(reader: Any, found: Sequence[Any]) -> list[str]:
    """What can be asked for by its name: the model's classes; where it has none, what it finds likeliest here."""
    compared = next((e.compared for e in found if e.compared is not None), None)
    if compared is not None:
        return list(compared.names)
    likely = found[0].prediction if found else None
    if likely is not None and found[0].receipt.classes != "class":
        return [c.label for c in likely[0]]
    return list(reader.labels)


def in_fields(message: str) -> str:
    """An error in the words of the page, which has fields where Python has arguments.

    >>> in_fields("text 0 has 302 tokens, but at most 64 are taken; split it, or pass truncate=True to read its beginning only")
    'the text has 302 tokens, but at most 64 are taken; shorten it'
    """
    for said, shown in SAID:
        message = message.replace(said, shown)
    return message


SAID = (
    ("split it, or pass truncate=True to read its beginning only", "shorten it"),
    (
        "give regions=boxes, one (left, top, right, bottom) each, as fractions of the picture",
        "give its boxes, one a line",
    ),
    ("; give a lower threshold", ""),
    ("text 0 ", "the text "),
)
"""What errors say to those who call from Python, and what it is called here."""


__all__ = ["ALONE", "METHODS", "MODELS", "Pane", "Wish", "answer", "boxes_in", "classes_of", "read", "sites_of", "test"]
