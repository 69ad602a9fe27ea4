"""Known tokens: does the largest score lie on a token that the answer is known to rest on? One row an example.

Of several with the largest score, each has an equal share in the hit: a map that is flat gets what chance gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from regard.errors import Misuse, nearest
from regard.evaluation.examples import Example, KnownSource, checked
from regard.evaluation.protocols.protocol import EXPLAINED, ExampleMaps, Protocol, Row
from regard.evaluation.protocols.segmentation import average_precision

SIGNS = ("signed", "absolute")


@dataclass(frozen=True)
class KnownTokens(Protocol):
    """Whose map, and what of its scores counts.

    Attributes:
        explained: "true" or "predicted" class. sign: "signed" scores as they are, or "absolute", by their size.
    """

    kind: ClassVar[str] = "known-tokens"
    question: ClassVar[str] = "Does the largest score lie on a token that the answer is known to rest on?"
    better: ClassVar[Mapping[str, int]] = {"top": 1, "ap": 1}
    headlines: ClassVar[tuple[str, ...]] = ("top",)
    known_answer: ClassVar[bool] = True
    meanings: ClassVar[Mapping[str, str]] = {
        "top": "how often the token with the largest score is one that the answer rests on",
        "ap": "average precision of these tokens in the order of the map",
    }

    explained: str = "true"
    sign: str = "signed"

    def __post_init__(self) -> None:
        for value, of, what in ((self.explained, EXPLAINED, "class to explain"), (self.sign, SIGNS, "sign")):
            if value not in of:
                raise nearest(value, of, what)

    @property
    def name(self) -> str:
        """The full name."""
        return "/".join([self.kind, "top-1", self.sign, self.explained])

    def run(self, maps: ExampleMaps, example: Example) -> list[Row]:
        """Where the map of one example has its top. Raises Misuse where no token is known."""
        if example.known is None:
            raise Misuse(f"of example {example.name} no token is known that its answer rests on")
        explanation, explained = maps.of(example, self.explained)
        scores = checked(explanation.scores[example.known.stream][0], "map")
        values = found_among(scores.abs() if self.sign == "absolute" else scores, example.known)
        return self.rows(example.name, values, label=example.label, explained=explained)


def found_among(scores: Float[Tensor, " token"], known: KnownSource) -> dict[str, float]:
    """The known tokens' share in the top of those that compete, their average precision, and what chance gives."""
    if len(scores) != len(known.source):
        raise Misuse(f"the map has {len(scores)} scores, and {len(known.source)} tokens are known of")
    own, truth = scores[known.competing], known.source[known.competing]
    if not bool(truth.any()):
        raise Misuse("none of the tokens that compete is one that the answer rests on")
    top: Bool[Tensor, " token"] = own == own.max()
    return {
        "top": float((top & truth).sum() / top.sum()),
        "ap": average_precision(own, truth),
        "chance": float(truth.double().mean()),
        "competing": float(len(own)),
    }


__all__ = ["KnownTokens", "found_among"]
