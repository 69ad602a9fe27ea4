"""Phrases of a text that a reader made, as its tokens: what is known of words is said in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from regard.errors import Misuse
from regard.explanation.raw_inputs import Reading, Text


def phrases_in(reading: Reading, pairs: Any, stream: str | None = None) -> Any:
    """Pairs (phrase, what it means) as (token numbers, what it means, name), a list for each text.

    A phrase is given in words, whose occurrences all count, or by numbers of tokens, which are named by what they stand for.
    What is no such pair goes on as it is, for the probe to refuse.

    Raises Misuse where the text does not hold the words, or where it is not clear which text is meant.
    """
    texts = {name: [r for r in raws if isinstance(r, Text)] for name, raws in reading.raw.items()}
    texts = {name: some for name, some in texts.items() if some and stream in (None, name)}
    if len(texts) != 1:
        said = "no text was read" if not texts else "several texts were read"
        raise Misuse(f"{said}, so that pairs= names no phrases; say query_stream=, of {', '.join(reading.raw)}")
    (found,) = texts.values()
    lists = [pairs] if len(found) == 1 else pairs
    if not _listed(lists) or len(lists) != len(found) or not all(map(_listed, lists)):
        each = "" if len(found) == 1 else f", one such list for each of {len(found)} texts"
        raise Misuse(f"pairs is a list of (phrase, regions){each}")
    return [[_named(text, pair) for pair in own] for text, own in zip(found, lists, strict=True)]


def _listed(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str)


def _named(text: Text, pair: Any) -> Any:
    """One pair, with the phrase by its tokens and its name."""
    if not _listed(pair) or len(pair) != 2:
        return pair
    phrase, means = pair
    if isinstance(phrase, str):
        return tokens_of(text, phrase), means, phrase
    numbers = [phrase] if isinstance(phrase, int) else phrase
    there = isinstance(numbers, list | tuple) and all(isinstance(n, int) and 0 <= n < len(text.tokens) for n in numbers)
    return (phrase, means, " ".join(text.tokens[n] for n in numbers)) if there else pair


def tokens_of(text: Text, phrase: str) -> list[int]:
    """The tokens of every occurrence of a phrase, as whole words where it is found so; in any case.

    Raises Misuse where the text does not hold it.
    """
    spelt = r"\s+".join(map(re.escape, phrase.split()))
    whole = [m.span() for m in re.finditer(rf"(?<!\w){spelt}(?!\w)", text.text, re.IGNORECASE)] if spelt else []
    spans = whole or ([m.span() for m in re.finditer(spelt, text.text, re.IGNORECASE)] if spelt else [])
    tokens = [
        i for i, (a, b) in enumerate(text.offsets) if b > a and any(a < end and b > start for start, end in spans)
    ]
    if not tokens:
        raise Misuse(f"the text does not hold the words {phrase!r}: {text.text[:80]!r}")
    return tokens


__all__ = ["phrases_in", "tokens_of"]
