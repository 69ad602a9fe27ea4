"""What there is to draw of a `Generation`: its texts cut into units, and what each token written rests on.

A unit is what one colour stands for: a whole word of the prompt (or one of its tokens), a token written, a special token, the
places of a picture together. Its score is the sum of its tokens' scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from regard.explanation.explanation import Explanation
from regard.explanation.generation import Generation
from regard.explanation.raw_inputs import Text
from regard.report.colour import Array, ColourScale, number, scale_of
from regard.report.view import PictureView, SoundView, pictures_of

MOST = 3  # of the strongest units that are named


@dataclass
class TextUnit:
    """A run of text; `tokens` are columns of `Generation.scores`, none for what lies between units."""

    text: str
    tokens: list[int] = field(default_factory=list)
    special: bool = False
    note: str = ""


@dataclass(frozen=True)
class TextPart:
    """A text: one that was read (its units by word and by token), or the one that was written (by token)."""

    name: str
    stream: str
    units: dict[str, list[TextUnit]]


@dataclass(frozen=True)
class WrittenRow:
    """What one token written rests on: a score for each column, its scale by words and by tokens, its pictures."""

    scores: Array
    scales: dict[str, ColourScale]
    pictures: list[PictureView]
    shares: list[tuple[str, float]]
    most: dict[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class GenerationView:
    """All parts and rows. `first`: the column of the first token written."""

    read: list[TextPart]
    written: TextPart
    first: int
    rows: list[WrittenRow]

    def coloured(self, by: str) -> list[TextUnit]:
        """All units that have a score, prompt and writing."""
        units = [u for p in self.read for u in p.units[by]] + self.written.units["tokens"]
        return [u for u in units if u.tokens]


def view(g: Generation) -> GenerationView:
    """Cut the texts into units and each row into what the page shows."""
    read: list[TextPart] = []
    column = 0
    for stream, text in g.texts.items():
        if stream != g.stream:
            read.append(_read(stream, "What it read", text, len(text.tokens), column))
            column += len(text.tokens)
    text = g.texts[g.stream]
    if g.start and (len(g.texts) == 1 or not all(text.special[: g.start])):
        name = "Prompt" if len(g.texts) == 1 else "Begun with"
        read.append(_read(g.stream, name, text, g.start, column))
        begin = 0
    else:
        begin = g.start
    ahead = [TextUnit(t, [column + i], True) for i, t in enumerate(text.tokens[:begin])]
    first = column + g.start
    written = TextPart(
        "Written", g.stream, {"tokens": ahead + _token_units(text, g.start, len(text.tokens), first, apart=True)}
    )
    shell = GenerationView(read, written, first, [])
    scores = g.scores.detach().cpu().float().numpy()
    sums = {by: _sums(shell.coloured(by), scores) for by in ("words", "tokens")}
    kinds = _kinds(shell, scores.shape[1])
    rows = [_row(e, shell, i, scores[i], {by: s[i] for by, s in sums.items()}, kinds) for i, e in enumerate(g)]
    return GenerationView(read, written, first, rows)


def _sums(units: Sequence[TextUnit], scores: Array) -> Array:
    """Scores of units for every row (rows, units), of those of columns (rows, columns)."""
    owner = np.full(scores.shape[1], len(units))
    for n, unit in enumerate(units):
        owner[unit.tokens] = n
    sums = np.zeros((len(units) + 1, len(scores)))
    np.add.at(sums, owner, scores.T.astype(np.float64))
    return sums[:-1].T


def _kinds(shell: GenerationView, columns: int) -> Array:
    """What each column is of: -1 a special token, 0, 1, ... a text that was read, the number of these one that was written."""
    kinds = np.full(columns, len(shell.read))
    for n, part in enumerate(shell.read):
        kinds[[c for u in part.units["tokens"] for c in u.tokens]] = n
    kinds[[c for u in shell.coloured("tokens") if u.special for c in u.tokens]] = -1
    return kinds


def _read(stream: str, name: str, text: Text, count: int, column: int) -> TextPart:
    return TextPart(
        name, stream, {"words": _word_units(text, count, column), "tokens": _token_units(text, 0, count, column)}
    )


def _token_units(text: Text, start: int, stop: int, column: int, apart: bool = False) -> list[TextUnit]:
    """One unit a token, with what lies between; a run of one special token (the places of a picture) is one unit.

    apart: not in a text that was written, where each is explained by itself.
    """
    return _units(text, range(start, stop), column, [None] * stop, apart)


def _word_units(text: Text, count: int, column: int) -> list[TextUnit]:
    """One unit a word; tokens of no word (special ones, line ends) have units of their own."""
    return _units(text, range(count), column, text.word_of[:count])


def _units(
    text: Text, tokens: Sequence[int], column: int, words: Sequence[int | None], apart: bool = False
) -> list[TextUnit]:
    units: list[TextUnit] = []
    at = max((b for a, b in text.offsets[: tokens[0]] if b > a), default=0) if tokens else 0
    last: int | None = None
    for n, i in enumerate(tokens):
        word, name, special = words[i], text.tokens[i], text.special[i]
        start, end = text.words[word] if word is not None else text.offsets[i]
        joined = bool(units) and word is not None and word == last
        repeated = (
            bool(units) and special and units[-1].special and units[-1].note == name and word is None and not apart
        )
        last = word
        if joined or repeated:
            units[-1].tokens.append(column + n)
            units[-1].text = units[-1].text if joined else f"{name} × {len(units[-1].tokens)}"
            at = max(at, end)
            continue
        if end > at and start > at:
            units.append(TextUnit(text.text[at:start]))
        spelt = text.text[max(start, at) : end] if end > at else ""
        units.append(TextUnit(spelt or (text.text[start:end] if end > start else name), [column + n], special, name))
        at = max(at, end)
    rest = text.text[at:] if tokens and tokens[-1] == len(text.tokens) - 1 else ""
    return [*units, TextUnit(rest)] if rest else units


def _row(
    exp: Explanation, shell: GenerationView, i: int, scores: Array, sums: dict[str, Array], kinds: Array
) -> WrittenRow:
    here = shell.first + i
    scales, most = {}, {}
    for by, of_units in sums.items():
        units = shell.coloured(by)
        ahead = np.array([u.tokens[0] < here for u in units], dtype=bool)
        plain = np.flatnonzero(ahead & ~np.array([u.special for u in units], dtype=bool))
        scales[by] = scale_of(of_units[plain] if of_units[plain].any() else of_units[ahead], exp.signed)
        best = plain[np.argsort(-of_units[plain], kind="stable")[:MOST]]
        most[by] = [(units[u].text.strip() or "line end", number(of_units[u])) for u in best if of_units[u] > 0]
    pictures = pictures_of(exp)
    return WrittenRow(scores, scales, pictures, _shares(shell, here, scores, kinds, pictures), most)


def _shares(
    shell: GenerationView, here: int, scores: Array, kinds: Array, pictures: Sequence[PictureView]
) -> list[tuple[str, float]]:
    """How much of the map's magnitude lies on the pictures, on each text, on what was written before, on special tokens."""
    size = np.abs(scores)
    seen = "sound" if any(isinstance(p, SoundView) for p in pictures) else "picture"
    parts = [(seen, float(sum(np.abs(p.cells).sum() for p in pictures)))] if pictures else []
    parts += [(part.name.lower(), float(size[kinds == n].sum())) for n, part in enumerate(shell.read)]
    parts.append(("written before", float(size[:here][kinds[:here] == len(shell.read)].sum())))
    parts.append(("special tokens", float(size[kinds == -1].sum())))
    total = sum(share for _, share in parts)
    return [(name, share / total) for name, share in parts if share]
