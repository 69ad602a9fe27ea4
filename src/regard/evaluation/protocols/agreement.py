"""Agreement: do the maps of two methods put the same units first?

Neither is the truth. Methods that are both better than chance and order units alike say one thing; where they do not, what a
map shows is the method's doing as much as the model's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from regard.errors import nearest
from regard.evaluation.examples import Example, checked, stream_of
from regard.evaluation.protocols.protocol import EXPLAINED, ChosenMaps, Protocol, Row
from regard.evaluation.protocols.sanity import Scores, similarity
from regard.explanation.explanation import Explanation

WITH = "with "


@dataclass(frozen=True)
class MapAgreement(Protocol):
    """Spearman's ρ of a map with the map of each method before it: a metric "with NAME" each. Special tokens are left out."""

    kind: ClassVar[str] = "agreement"
    question: ClassVar[str] = "Do the maps of two methods put the same units first?"

    explained: str = "predicted"

    def __post_init__(self) -> None:
        if self.explained not in EXPLAINED:
            raise nearest(self.explained, EXPLAINED, "class to explain")

    @property
    def name(self) -> str:
        """The full name."""
        return f"{self.kind}/spearman/{self.explained}"

    def run(self, maps: ChosenMaps, example: Example) -> list[Row]:
        """How alike one example's map is to those before it."""
        explanation, explained = maps.of(example, self.explained)
        own = content_scores(explanation, example)
        known = maps.kept.setdefault((self, example.name, explained), {})
        values = {f"{WITH}{title}": similarity(other, own) for title, other in known.items()}
        known[maps.choice.title] = own
        return self.rows(example.name, values or {"first": 1.0}, label=example.label, explained=explained)


def content_scores(explanation: Explanation, example: Example) -> Scores:
    """The scores of the stream that is judged, special tokens left out."""
    name = stream_of(explanation, inputs=example.reading.inputs)
    scores = checked(explanation.scores[name][0], "map")
    special = example.reading.special.get(name)
    if special is None or special.shape[-1] != len(scores):
        return scores
    return scores[~special[0].bool().cpu()]


__all__ = ["WITH", "MapAgreement", "content_scores"]
