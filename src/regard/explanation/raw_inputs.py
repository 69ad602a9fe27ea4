"""What a reader was given, and what it made of it: pictures, texts and sounds, beside the tensors that the model takes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from jaxtyping import Float, UInt8
from torch import Tensor

from regard.explanation.boxes import Box


@dataclass(frozen=True)
class Picture:
    """A raw picture: RGB `pixels`, and the `box` (left, top, right, bottom; in its pixels) that the model saw of it.

    `regions`: the boxes that the tokens stand for, one each, where they are no grid. `tiles`: the boxes of the tiles that the
    model saw it as, where it is cut into such (the whole of it, small, among them); each has a grid of tokens.
    """

    pixels: UInt8[Tensor, "height width 3"]
    box: tuple[float, float, float, float]
    name: str = "picture"
    regions: tuple[Box, ...] = ()
    tiles: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True)
class Text:
    """A raw text, and how it was cut.

    `offsets` are the character spans of the model's tokens (0, 0 for tokens that stand for no characters), `words` the
    character spans of whole words, `special` marks tokens that the tokenizer added (CLS, SEP, ...). `messages`: of a chat, the
    role of each message and the span of what it says.
    """

    text: str
    tokens: list[str]
    offsets: list[tuple[int, int]]
    words: list[tuple[int, int]]
    special: list[bool]
    name: str = "text"
    messages: list[tuple[str, int, int]] = field(default_factory=list)

    @cached_property
    def word_of(self) -> list[int | None]:
        """For each token the number of the word that holds its first character; None for tokens of no word."""
        order = sorted(range(len(self.words)), key=lambda w: self.words[w])
        begins = [self.words[w][0] for w in order]
        at = [bisect_right(begins, a) - 1 if b > a else -1 for a, b in self.offsets]
        return [
            order[i] if i >= 0 and a < self.words[order[i]][1] else None
            for i, (a, _) in zip(at, self.offsets, strict=True)
        ]


@dataclass(frozen=True)
class Sound:
    """A raw sound: the `samples` of one channel that the model heard, `rate` of them a second, and what its tokens stand for.

    `window`: how many seconds the tokens cover, silence that was added at the end included. `hop`: seconds from one to the
    next, where the model says so. `bands`: of how many bands of pitch each time has tokens, the lowest first.
    """

    samples: Float[Tensor, " time"]
    rate: int
    window: float
    hop: float | None = None
    bands: int = 1
    name: str = "sound"

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate

    def step(self, count: int) -> float:
        """Seconds from one token to the next, of so many tokens: as the model says, if that fits, else equal parts."""
        along = max(1, count // self.bands)
        fits = self.hop is not None and abs(self.window / self.hop - along) < 2
        return self.hop if fits and self.hop is not None else self.window / along

    def times(self, count: int) -> list[tuple[float, float]]:
        """From when to when each of so many tokens stands, in seconds."""
        step = self.step(count)
        return [(i // self.bands * step, (i // self.bands + 1) * step) for i in range(count)]


Raw = Picture | Text | Sound


@dataclass
class Reading:
    """What a reader made of raw pictures and texts: the model's keyword tensors, and what the tensors no longer say.

    Attributes:
        inputs: keyword tensors, as the model's forward takes them.
        raw: stream name -> one `Picture`, `Text` or `Sound` per sample.
        special: stream name -> bool (batch, tokens), True for tokens that the tokenizer added (CLS, SEP, padding).
        labels: class names in index order. mean, std: the picture processor's normalisation, one value a channel.
        prompts: of what a model wrote, text stream -> how many tokens of it were there before.
        templates: where a picture is compared with texts, of how many of them each class is made; else 0.
    """

    inputs: dict[str, Tensor]
    raw: dict[str, Sequence[Raw]] = field(default_factory=dict)
    special: dict[str, Tensor] = field(default_factory=dict)
    labels: list[str] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    prompts: dict[str, int] = field(default_factory=dict)
    templates: int = 0


class Word(NamedTuple):
    """A whole word of a text, its character span, and the sum of its tokens' scores."""

    text: str
    start: int
    end: int
    score: float


def words_of(text: Text, scores: Sequence[float]) -> list[Word]:
    """Sum token scores over whole words: a token belongs to the word that holds its first character."""
    sums = [0.0] * len(text.words)
    for word, score in zip(text.word_of, scores, strict=False):
        if word is not None:
            sums[word] += score
    return [Word(text.text[a:b], a, b, s) for (a, b), s in zip(text.words, sums, strict=True)]
