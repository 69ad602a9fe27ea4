"""What an index says of each input: a small picture or its first words, what the model predicts, what was explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class IndexEntry:
    """One input of many.

    Attributes:
        name: what it is called. stamp: what tells it from other inputs. folder: its own, in the index's; "" where it failed.
        page: its page, thumbnail: its small picture, in that folder; "" where there is none. words: the first of its text.
        prediction: what the model predicts; share: with which probability, in words. targets: what was explained, each with
            its value. error: why it failed.
    """

    name: str
    stamp: str
    folder: str = ""
    page: str = ""
    thumbnail: str = ""
    words: str = ""
    prediction: str = ""
    share: str = ""
    targets: tuple[str, ...] = ()
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For a file: what is empty is left out."""
        made = dataclasses.asdict(self) | {"targets": list(self.targets)}
        return {k: v for k, v in made.items() if v}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> IndexEntry:
        """The inverse of `as_dict`. Raises TypeError for other values."""
        if not all(isinstance(v, str) for k, v in values.items() if k != "targets"):
            raise TypeError("an entry of an index is made of texts")
        return cls(**(dict(values) | {"targets": tuple(map(str, values.get("targets", ())))}))


__all__ = ["IndexEntry"]
