"""The names of a model's classes, and the class that a name stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from regard.errors import TargetError, UnknownName, nearest


def labels_of(model: nn.Module) -> list[str]:
    """Return the class names of a model's config in index order; [] where it has none, or only the default ones of a
    model that does not classify.
    """
    names = getattr(getattr(model, "config", None), "id2label", None)
    if not names:
        return []
    by_index = {int(index): str(name) for index, name in names.items()}
    labels = [by_index.get(i, f"LABEL_{i}") for i in range(max(by_index) + 1)]
    default = all(label == f"LABEL_{i}" for i, label in enumerate(labels))
    return [] if default and "Classif" not in type(model).__name__ else labels


def class_of(name: str, labels: Sequence[str], model: nn.Module) -> int:
    """The number of the class that a name stands for; `model` is who lacks names, where there are none.

    A label matches as it is written, else in any case, else by one of its synonyms between commas ("tabby cat" for
    "tabby, tabby cat"), else as a class number in digits.

    Raises TargetError for a name that several classes bear and for a number out of range, UnknownName for others.
    """
    wanted = name.strip().casefold()
    matches = (
        lambda label: label == name,
        lambda label: label.strip().casefold() == wanted,
        lambda label: wanted in [part.strip().casefold() for part in label.split(",")],
    )
    for match in matches:
        found = [i for i, label in enumerate(labels) if match(label)]
        if len(found) > 1:
            numbers = ", ".join(map(str, found))
            raise TargetError(f"label {name!r} stands for several classes: {numbers}; give one of these numbers")
        if found:
            return found[0]
    if wanted.isdecimal():
        return _in_range(int(wanted), labels)
    if not labels:
        raise UnknownName(f"unknown label {name!r}; {type(model).__name__} names no classes, give a number")
    raise nearest(name, labels, "label")


def _in_range(number: int, labels: Sequence[str]) -> int:
    if labels and number >= len(labels):
        raise TargetError(f"there is no class {number}; the model has {len(labels)}, numbered from 0")
    return number


def called(c: Any, labels: Sequence[str]) -> str:
    """What a class is called in a sentence: its label in quotes, its number where it has none, or the predicted one."""
    known = dict(enumerate(labels))
    return "the predicted class" if c is None else repr(known[c]) if c in known else f"class {c}"
