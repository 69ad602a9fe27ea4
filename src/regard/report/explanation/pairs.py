"""What words and patches do together, for pages and the terminal: every word with every patch, and the strongest pairs.

The table holds what `Explanation.between` gives of a method that finds interactions: what a pair adds to the similarity beyond
what its two sides add by themselves, negative where the two together add less. A word of several tokens has the sum of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from regard.explanation.names import patch_name
from regard.report.colour import Array, ColourScale, number, scale_of
from regard.report.page import pieces, scale, thumbnail
from regard.report.view import PictureView, SampleView, TextPiece, TextView

STRONGEST = 8  # pairs that are named
WORDS = 12  # words that are drawn one by one, the strongest
TIGHT = 1e-12


class WordPatch(NamedTuple):
    """A word and a patch, and what they do together, with its standard error. word: its number in its table; text: its name."""

    word: int
    text: str
    row: int
    column: int
    value: float
    error: float

    @property
    def said(self) -> str:
        """The value with its sign, and the error where other draws could have given another value."""
        return signed(self.value) + (f" ± {number(self.error)}" if self.error > 0 else "")


@dataclass(frozen=True)
class PairTable:
    """Every word of a text with every patch of a picture. words: its scored pieces. values, errors: (word, patch)."""

    picture: PictureView
    words: Sequence[TextPiece]
    values: Array
    errors: Array

    @property
    def scale(self) -> ColourScale:
        """One scale for all words, so that a weak word looks weak."""
        return scale_of(self.values, True)

    def strongest(self, count: int = STRONGEST) -> list[WordPatch]:
        """The pairs of largest magnitude, in order of it; those that do nothing are left out."""
        columns = self.picture.cells.shape[1]
        flat = np.abs(self.values).ravel()
        order = [int(i) for i in np.argsort(-flat, kind="stable")[:count] if flat[i] > TIGHT]
        found = []
        for word, patch in (divmod(i, self.values.shape[1]) for i in order):
            row, column = divmod(patch, columns)
            numbers = (float(self.values[word, patch]), float(self.errors[word, patch]))
            found.append(WordPatch(word, self.called(word), row, column, *numbers))
        return found

    def called(self, word: int) -> str:
        """A word in quotes, with its number where the text has it several times."""
        text = self.words[word].text.strip()
        several = sum(w.text.strip() == text for w in self.words) > 1
        return f"“{text}” (word {word + 1})" if several else f"“{text}”"

    def drawn(self, most: int = WORDS) -> list[int]:
        """The words to draw one by one, in their order: those that do most together with patches."""
        size = np.abs(self.values).sum(1)
        return sorted(int(i) for i in np.argsort(-size, kind="stable")[:most] if size[i] > TIGHT)


def tables_of(view: SampleView) -> list[PairTable]:
    """The tables of a view, one for each text and picture; none where its method finds no interactions."""
    if not view.exp.of_pairs:
        return []
    texts = [p for p in view.panels if isinstance(p, TextView)]
    pictures = [p for p in view.panels if isinstance(p, PictureView) and p.stream in view.exp.scores and not p.regions]
    return [t for text in texts for picture in pictures if (t := _table(view, text, picture)) is not None]


def _table(view: SampleView, text: TextView, picture: PictureView) -> PairTable | None:
    order, streams = view.exp.raster(picture.stream).order, (text.stream, picture.stream)
    both = [m(*streams)[view.sample].cpu().numpy() for m in (view.exp.between, view.exp.between_errors)]
    words = [p for p in text.best[0] if p.score is not None and not p.special]
    if not words or both[0].shape[1] != picture.cells.size:
        return None
    values, errors = (
        np.stack([(rows if order is None else rows[:, list(order)])[list(p.tokens)].sum(0) for p in words])
        for rows in both
    )  # tokens have equal parts of their word's
    return PairTable(picture, words, values, errors)


def where(row: int, column: int, shape: tuple[int, ...]) -> str:
    """A patch's place in plain words: "upper right", "middle", ..."""
    down, across = (("upper", "", "lower")[_third(row, shape[0])], ("left", "", "right")[_third(column, shape[1])])
    return " ".join(part for part in (down, across) if part) or "middle"


def _third(at: int, of: int) -> int:
    return min(2, int(3 * (at + 0.5) / of))


def place_of(pair: WordPatch, shape: tuple[int, ...]) -> str:
    """A pair's patch, with where that is."""
    return f"{patch_name(pair.row, pair.column)}, {where(pair.row, pair.column, shape)}"


def pairs_of(view: SampleView) -> dict[str, Any] | None:
    """What the page shows of a view's pairs without a script: the strongest of them, and a picture for each word."""
    tables = tables_of(view)
    if not tables:
        return None
    table = tables[0]
    shape, shared = table.picture.cells.shape, table.scale
    own = scale_of([w.score for w in table.words if w.score is not None], True)
    drawn = table.drawn()
    return {
        "rows": [_row(table, pair) for pair in table.strongest()],
        "scale": scale(shared),
        "limit": shared.limit,
        "clipped": shared.clipped,
        "still": thumbnail(table.picture),
        "words": [
            {
                "uri": thumbnail(replace(table.picture, cells=table.values[i].reshape(shape), scale=shared)),
                "called": table.called(i),
                "piece": pieces([(table.words[i].text, table.words[i].score, False, "", table.words[i].tokens)], own),
            }
            for i in drawn
        ],
        "left": len(table.words) - len(drawn),
    }


def _row(table: PairTable, pair: WordPatch) -> dict[str, Any]:
    """A pair as the page lists it, with what its script needs to show it."""
    shape = table.picture.cells.shape
    return {
        "word": pair.text,
        "patch": place_of(pair, shape),
        "value": pair.said,
        "hue": "against" if pair.value < 0 else "for",
        "at": " ".join(map(str, table.words[pair.word].tokens)),
        "place": pair.row * shape[1] + pair.column,
    }


def signed(value: float) -> str:
    """A number with its sign."""
    return f"+{number(value)}" if value > 0 else number(value)


__all__ = ["PairTable", "pairs_of", "place_of", "signed", "tables_of", "where"]
