"""What a picture was compared with, and how well each class fits: the model's own scores and its own probabilities of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regard.explanation.loading import Damaged, of_file


@dataclass(frozen=True)
class ComparedClasses:
    """The classes that a picture was compared with (CLIP, SigLIP): in the order in which they were given.

    Attributes:
        names: what the classes are called: a class of one text by that text.
        scores: the logit of each. probabilities: by `activation`, "softmax" over these classes or the "sigmoid" of each, as the
            model's own practice is; None where there is none (one class alone has no softmax).
        templates: of how many texts each class is made.
    """

    names: tuple[str, ...]
    scores: tuple[float, ...]
    probabilities: tuple[float, ...] | None
    activation: str
    templates: int = 1

    def texts_of(self, c: int) -> range:
        """The numbers of a class's texts."""
        return range(c * self.templates, (c + 1) * self.templates)

    @property
    def order(self) -> list[int]:
        """The numbers of the classes, the one that fits best first."""
        return sorted(range(len(self.names)), key=lambda c: -self.scores[c])

    def as_dict(self) -> dict[str, Any]:
        """For a file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> ComparedClasses | None:
        """The inverse of `as_dict`; None of None."""
        if values is None:
            return None
        lists: dict[str, Any] = {
            k: tuple(v) if isinstance(v, Sequence) and k != "activation" else v for k, v in values.items()
        }
        made = of_file(cls, lists)
        known = {len(made.names), len(made.scores), *([] if made.probabilities is None else [len(made.probabilities)])}
        if len(known) != 1 or not made.names or made.templates < 1:
            raise Damaged("the classes that were compared, and how well they fit, are not as many")
        return made


__all__ = ["ComparedClasses"]
