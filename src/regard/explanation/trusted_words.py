"""Which of the words that a model wrote rest on what it was shown: the result of `Reader.words_to_trust`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from regard.explanation.export import defined
from regard.explanation.generation import Generation


class TrustedWord(NamedTuple):
    """A word, the share of its relevance that the shown streams have, and its log-probability as it was read and read again."""

    text: str
    share: float
    read: float
    reread: float

    @property
    def change(self) -> float:
        """By how much its log-probability rises when what it rests on is attended to more."""
        return self.reread - self.read


@dataclass(frozen=True)
class TrustedWords:
    """Words that a model wrote, or that were given, each with what it rests on.

    Attributes:
        words: whole words, in order. streams: what was shown: the streams whose share is counted.
        share: of each token written, Σ|R| on `streams` over Σ|R| on all that came before it; 0 where it rests on nothing.
        read, reread: its log-probability, and that of a run in which every token that it can look back at is attended to
            w = 1 + R / max|R| times as much. passes: forward passes that took, beside those of the generation.
        generation: the explanations that this rests on.
    """

    words: list[TrustedWord]
    streams: tuple[str, ...]
    share: Float[Tensor, " new"] = field(repr=False)
    read: Float[Tensor, " new"] = field(repr=False)
    reread: Float[Tensor, " new"] = field(repr=False)
    passes: int
    generation: Generation = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The words and what they rest on as plain Python values."""
        rows = [w._asdict() | {"change": w.change} for w in self.words]
        made = {
            "text": self.generation.text,
            "method": self.generation.method,
            "streams": [*self.streams],
            "words": rows,
        }
        found: dict[str, Any] = defined(made)
        return found

    def __str__(self) -> str:
        width = max([len("word"), *(len(w.text) for w in self.words)])
        shown = " and ".join(self.streams)
        head = f"{'word':{width}}  {'on ' + shown:>{len(shown) + 3}}  log-probability  read again"
        rows = [
            f"{w.text:{width}}  {100 * w.share:{len(shown) + 1}.0f} %  {w.read:15.2f}  {w.change:+10.2f}"
            for w in self.words
        ]
        return "\n".join([head, *rows])
