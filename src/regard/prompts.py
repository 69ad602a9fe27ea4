"""Classes that a picture is compared with, in words: names, and the templates that each is put into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regard.errors import InputError

SLOT = "{}"
AS_IT_IS = (SLOT,)


@dataclass(frozen=True)
class Prompts:
    """Classes by their names, and the templates that each name is put into: stands beside a picture, in the place of texts.

    Raises InputError for what are no names or no templates.
    """

    labels: Sequence[str]
    templates: Sequence[str] = AS_IT_IS

    def __post_init__(self) -> None:
        _check_each(self.labels, "text" if self.templates == AS_IT_IS else "label")
        _check_each(self.templates, "template")
        for number, template in enumerate(self.templates):
            if template.count(SLOT) != 1:
                raise InputError(
                    f"template {number} ({template!r}) has {template.count(SLOT) or 'no'} places for the label; write "
                    f"{SLOT} once where it goes, as in 'a photo of a {SLOT}.'"
                )

    @property
    def texts(self) -> list[str]:
        """All texts, those of a class side by side."""
        return [template.replace(SLOT, label) for label in self.labels for template in self.templates]


def _check_each(given: Any, word: str) -> None:
    """Raises InputError for what is no list of different texts."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InputError(f"{word}s are given in a list; not {type(given).__name__}")
    if not given:
        needed = f"such as 'a photo of a {SLOT}.'" if word == "template" else "that the picture is to be compared with"
        raise InputError(f"the list of {word}s is empty; give the {word}s {needed}")
    first: dict[str, int] = {}
    for number, text in enumerate(given):
        if not isinstance(text, str):
            raise InputError(f"{word} {number} is not a text but {type(text).__name__}")
        if not text.strip():
            raise InputError(f"{word} {number} is empty; give it at least one word")
        if text in first:
            raise InputError(f"{word}s {first[text]} and {number} are the same ({text!r}); give each once")
        first[text] = number


__all__ = ["AS_IT_IS", "SLOT", "Prompts"]
