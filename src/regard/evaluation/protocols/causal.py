"""Protocol 8, the causal test: does the target fall farther without what a map puts highest than without as much by chance?

The k units that score highest are taken away (formulas.md section 12), and k others by chance, so many times; the rank of the
map among these is one number of one example. It needs no label: the ranks of many examples together say whether a method is
better than chance on this model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from regard.api.causal_rank import RankedInput, mid_rank
from regard.errors import Misuse, nearest
from regard.evaluation.examples import Example
from regard.evaluation.protocols.protocol import EXPLAINED, ExampleMaps, Protocol, Row
from regard.explanation.causal_test import LEAST, MOST, UNITS, HowTested


@dataclass(frozen=True)
class Causal(Protocol):
    """How a map ranks among random choices when its highest units are taken away.

    Attributes:
        explained: "predicted" or "true" class. share: of the units that is taken away; at least so many that there are 50
            choices. random: how many random choices. unit: "token" for the model's own tokens also where words are known.
        stream: whose units; None: the picture's, else the longest text's.
    """

    kind: ClassVar[str] = "causal"
    question: ClassVar[str] = (
        "Does the target fall farther without the map's highest units than without as many by chance?"
    )
    better: ClassVar[Mapping[str, int]] = {"rank": 1}
    headlines: ClassVar[tuple[str, ...]] = ("rank",)
    meanings: ClassVar[Mapping[str, str]] = {
        "rank": "share of random choices without which the target falls less than without the map's highest units"
    }

    explained: str = "predicted"
    share: float = 0.1
    random: int = 9
    unit: str | None = None
    stream: str | None = None

    def __post_init__(self) -> None:
        if self.explained not in EXPLAINED:
            raise nearest(self.explained, EXPLAINED, "class to explain")
        if not 0 < self.share <= 0.5:
            raise Misuse(
                f"share is the part of the units that is taken away, above 0 and at most 0.5, not {self.share!r}"
            )
        if isinstance(self.random, bool) or not isinstance(self.random, int) or not 1 <= self.random <= MOST:
            raise Misuse(f"random is a whole number from 1 to {MOST}, not {self.random!r}")
        if self.unit is not None and self.unit not in UNITS:
            raise nearest(str(self.unit), UNITS, "unit of a causal test")

    @property
    def name(self) -> str:
        """The full name."""
        more = [f"{k}={v}" for k, v in (("unit", self.unit), ("stream", self.stream)) if v is not None]
        return "/".join([self.kind, "removal", self.explained, f"share={self.share:g}", f"random={self.random}", *more])

    def run(self, maps: ExampleMaps, example: Example) -> list[Row]:
        """The rank of one example's map. Methods share the example's run and its random choices."""
        explanation, explained = maps.of(example, self.explained)
        key = (self, example.name, explained)
        if key not in maps.kept:
            wanted = torch.tensor([explained])
            maps.kept[key] = RankedInput.of(maps.model, example.reading, wanted, maps.memory_budget)
        asked = HowTested(self.share, self.random, stream=self.stream, unit=self.unit, seed=maps.seed)
        test = maps.kept[key].rank(explanation, asked)
        if test.highest is None:
            raise Misuse(f"{test.units_called} are too few to test; at least {LEAST} are needed")
        values = {
            "rank": mid_rank(test, maps.kept[key].eps),
            "as_far": float(test.highest.as_far),
            "p_value": test.highest.p_value,
            "drop": test.highest.change,
            "random_median": test.highest.random_median,
            "taken": float(test.k),
            "units": float(test.units),
        }
        return self.rows(example.name, values, label=example.label, explained=explained)


__all__ = ["Causal"]
