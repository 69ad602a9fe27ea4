"""Long documents in windows: whole sentences, as many as the model takes, nothing read twice, nothing cut unsaid."""

from __future__ import annotations

import copy
import typing
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.errors import InputError
from regard.evaluation.data.eraser import Document, Span
from regard.explanation.raw_inputs import Reading, Text
from regard.models.texts import longest, trim


class ReaderOfTexts(typing.Protocol):
    """What is needed of a reader (`regard.load`)."""

    model: nn.Module
    processor: Any
    stream: str

    def read(self, inputs: Any) -> Reading:
        """Tensors of texts."""

    def explain(self, inputs: Any, target: Any = ..., method: Any = ..., **options: Any) -> Any:
        """Maps of texts."""


@dataclass(frozen=True)
class Window:
    """Words [first, last) of a document, and their text."""

    first: int
    last: int
    text: str


def windows_of(reader: ReaderOfTexts, document: Document, limit: int | None = None) -> list[Window]:
    """The document in windows of at most `limit` tokens, special ones included (None: what the model takes).

    A sentence (a line) that does not fit is cut between words. Raises InputError for a word that fits in no window.
    """
    most = longest(reader.processor, reader.model) if limit is None else limit
    if most is None:
        return [_window(document, 0, len(document.words))]
    sizes = _sizes(reader, document)
    extra = len(reader.processor("", verbose=False)["input_ids"])
    if max(sizes) + extra > most:
        longest_word = document.text[slice(*document.words[sizes.index(max(sizes))])]
        raise InputError(
            f"{document.name}: the word {longest_word[:30]!r} alone makes more tokens than a window's {most}"
        )
    cuts: list[int] = [0]
    used = extra
    for start, end in _sentences(document):
        whole = sum(sizes[start:end])
        if used + whole > most and start > cuts[-1]:
            cuts.append(start)
            used = extra
        for word in range(start, end):
            if used + sizes[word] > most:
                cuts.append(word)
                used = extra
            used += sizes[word]
    return [_window(document, a, b) for a, b in zip(cuts, [*cuts[1:], len(document.words)], strict=True)]


def _window(document: Document, first: int, last: int) -> Window:
    return Window(first, last, document.text[document.words[first][0] : document.words[last - 1][1]])


def _sizes(reader: ReaderOfTexts, document: Document) -> list[int]:
    """How many tokens each word makes, counted on the whole document."""
    tokenizer = copy.deepcopy(reader.processor)  # a call sets truncation and padding of the one that it is given
    encoded = tokenizer(document.text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
    owners = owners_of([trim(document.text, int(a), int(b)) for a, b in encoded["offset_mapping"]], document.words)
    sizes = [0] * len(document.words)
    for owner in owners:
        if owner is not None:
            sizes[owner] += 1
    return sizes


def _sentences(document: Document) -> list[Span]:
    """Words of each line."""
    starts = [0]
    for i, ((_, end), (start, _)) in enumerate(zip(document.words, document.words[1:], strict=False), 1):
        if "\n" in document.text[end:start]:
            starts.append(i)
    return list(zip(starts, [*starts[1:], len(document.words)], strict=True))


def owners_of(offsets: Sequence[Span], words: Sequence[Span]) -> list[int | None]:
    """The word that each token belongs to, by its first character; None for a token that stands for no characters."""
    starts = [start for start, _ in words]
    out: list[int | None] = []
    for start, end in offsets:
        at = bisect_right(starts, start) - 1
        out.append(at if end > start and at >= 0 and start < words[at][1] else None)
    return out


def word_scores(scores: Float[Tensor, " token"], text: Text, words: Sequence[Span]) -> Float[Tensor, " word"]:
    """The largest score of each word's pieces. A word that made no token has 0, as has what the model never saw."""
    out = torch.full((len(words),), -torch.inf)
    for owner, score, special in zip(owners_of(text.offsets, words), scores.tolist(), text.special, strict=True):
        if owner is not None and not special:
            out[owner] = max(float(out[owner]), score)
    return out.masked_fill(out == -torch.inf, 0.0)


__all__ = ["ReaderOfTexts", "Window", "owners_of", "windows_of", "word_scores"]
