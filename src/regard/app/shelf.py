"""The models that can be chosen, each loaded once, and what each of them reads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import regard
from regard import zoo
from regard.errors import ModelError, nearest

FIRST = "zoo/vit-scenes"
"""What is shown first where no model was given."""


@dataclass(frozen=True)
class Needs:
    """What a model reads, as the fields of the page are called; "" for what it does not read.

    picture: whether it reads one. boxes: whether it reads regions of it. lines: whether the text is several, one a line.
    """

    picture: bool = False
    text: str = ""
    second: str = ""
    boxes: bool = False
    lines: bool = False


class Shelf:
    """The models by name: those that were given, then the zoo's."""

    def __init__(self, given: Sequence[str] = ()) -> None:
        self.names = list(dict.fromkeys([*given, FIRST, *zoo.names()]))
        self._readers: dict[str, Any] = {}
        self._blocks: dict[str, int] = {}
        self._lock = threading.Lock()

    def reader(self, name: str) -> Any:
        """The reader of a model, loaded when it is first asked for. Raises UnknownName for one that is not on the shelf."""
        if name not in self.names:
            raise nearest(name, self.names, "model")
        with self._lock:
            if name not in self._readers:
                load: Any = regard.load
                self._readers[name] = load(name)
            return self._readers[name]

    def needs(self, name: str) -> Needs:
        """What a model reads. Raises ModelError for one that reads what the page has no field for."""
        return needs_of(self.reader(name))

    def alike(self, name: str) -> list[str]:
        """The other models that read the same."""
        wanted = self.needs(name)
        return [other for other in self.names if other != name and self._needs(other) == wanted]

    def _needs(self, name: str) -> Needs | None:
        try:
            return self.needs(name)
        except regard.RegardError:
            return None

    def blocks(self, name: str, raw: Any, more: dict[str, Any]) -> int:
        """How many blocks a model has, counted once, in a run on a raw input."""
        if name not in self._blocks:
            self._blocks[name] = len(self.reader(name).inspect(raw, **more).blocks)
        return self._blocks[name]

    def blocks_seen(self, name: str) -> int:
        """How many blocks were counted; 0 before."""
        return self._blocks.get(name, 0)


def needs_of(reader: Any) -> Needs:
    """What a reader reads."""
    from regard.models.default_targets import compares

    if reader.kind == "image":
        return Needs(picture=True)
    if reader.kind == "text":
        return Needs(text="Text", second="Question" if reader.answers else "")
    if reader.kind == "embedding":
        return Needs(text="Text", second="Text to compare it with")
    if reader.kind == "regions-text":
        return Needs(picture=True, text="Question", boxes=True)
    if reader.kind == "image-text" and compares(reader.model):
        return Needs(picture=True, text="Texts to compare it with, one a line", lines=True)
    if reader.kind == "image-text":
        return Needs(picture=True, text="Prompt")
    name = type(reader.model).__name__
    raise ModelError(f"{name} reads sound, and this page takes pictures and texts; explain it with regard explain")


__all__ = ["Needs", "Shelf", "needs_of"]
