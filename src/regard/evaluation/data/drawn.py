"""A data set in an order that is drawn, its classes left aside: what a question without labels is put to."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import nn

from regard.evaluation.data.dataset import DataSet
from regard.evaluation.examples import Example


class NoLabels(Mapping[str, Any]):
    """Whatever a class is called, it has no number."""

    def __getitem__(self, name: str) -> Any:
        return None

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@dataclass(kw_only=True)
class Drawn(DataSet):
    """Another data set's examples in the order that a seed draws, so that the first of them stand for all: folders are in the
    order of their classes."""

    kind: ClassVar[str] = "drawn"
    of: DataSet
    seed: int = 0
    order: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.order = np.random.default_rng(self.seed).permutation(len(self.of)).tolist()
        self.of = copy.copy(self.of)
        self.of.labels = NoLabels()

    @property
    def source(self) -> str:
        """As the data set says."""
        return self.of.source

    def __len__(self) -> int:
        return len(self.of)

    def name_of(self, number: int) -> str:
        """As the data set says."""
        return self.of.name_of(self.order[number])

    def read(self, reader: Any, number: int) -> Example:
        """One example."""
        return self.of.read(reader, self.order[number])

    def model_of(self, reader: Any) -> nn.Module:
        """As the data set says."""
        return self.of.model_of(reader)

    @property
    def labelled(self) -> bool:
        """Classes are left aside."""
        return False

    def digest(self) -> str:
        """Of the data set."""
        return self.of.digest()

    def choices(self) -> dict[str, Any]:
        """Of the data set, and the seed."""
        return {**self.of.choices(), "kind": self.of.kind, "drawn": self.seed}


__all__ = ["Drawn"]
