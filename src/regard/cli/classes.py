"""The classes that a picture is compared with: a file of labels, and the templates that each is put into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regard.cli.inputs import text_of_file
from regard.errors import InputError, Misuse
from regard.prompts import SLOT, Prompts

LARGEST = 1 << 20  # bytes of a file of labels
MOST = 1000  # labels that are compared in one run
EACH = 8  # where no target is named, so many classes are explained each; of more, the likeliest alone


def prompts_of(labels: Path | None, templates: Sequence[str] | None, texts: Sequence[str] | None) -> Prompts | None:
    """The classes that are asked for with --labels and --template. Raises Misuse for what does not go together."""
    if labels is None:
        if templates:
            raise Misuse("--template is what labels are put into; give a file of them with --labels")
        return None
    if texts:
        raise Misuse("--text gives whole texts, and --labels the names of classes; leave one out")
    return Prompts(_labels_in(labels), list(templates) if templates else [SLOT])


def _labels_in(path: Path) -> list[str]:
    """One label a line; blank lines are passed over. Raises InputError for a file that holds no labels."""
    text = text_of_file(str(path), LARGEST, "one label a line")
    first: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        label = line.strip()
        if label in first:
            raise InputError(
                f"{path} names {label!r} twice, in lines {first[label]} and {number}; give each label once"
            )
        if label:
            first[label] = number
    if len(first) > MOST:
        raise InputError(f"{path} holds {len(first)} labels, and at most {MOST} are compared in one run; shorten it")
    return [*first]


__all__ = ["EACH", "prompts_of"]
