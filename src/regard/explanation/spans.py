"""Parts of a text that scores are added up over: words, sentences, paragraphs, lines, messages of a chat, or a user's own.

A token counts for the part that holds its first character that is no white space (so a token that lies across a border
counts where it begins); a token of white space alone counts where it stands. What belongs to no part is kept as `elsewhere`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from regard.errors import InputError, Misuse, nearest
from regard.explanation.raw_inputs import Text

Span = tuple[int, int]
# A mark that ends a sentence, what closes after it, and white space; in scripts without spaces the mark alone; a blank line.
_SENTENCE = re.compile(r"[.!?…]+[\"'”’»)\]]*\s+|[。！？]+[」』”]*\s*|\s*\n\s*\n\s*")
_PARAGRAPH = re.compile(r"\s*\n\s*\n\s*")
_LINE = re.compile(r"\n")
ENDS = {"sentence": _SENTENCE, "paragraph": _PARAGRAPH, "line": _LINE}
KINDS = ("word", *ENDS, "message")


class Group(NamedTuple):
    """A part of a text: what it is called ("" where nobody named it), its characters, the sum of its tokens' scores."""

    name: str
    text: str
    start: int
    end: int
    score: float


class Groups(list[Group]):
    """The parts of one text in order, and the score of all tokens that are in none of them (special ones, and gaps)."""

    def __init__(self, groups: Iterable[Group], elsewhere: float) -> None:
        super().__init__(groups)
        self.elsewhere = elsewhere

    def __repr__(self) -> str:
        return f"Groups({list(self)!r}, elsewhere={self.elsewhere!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Groups, (list(self), self.elsewhere)


def grouped(text: Text, scores: Sequence[float], by: Any) -> Groups:
    """Sums of token scores over the parts of a text. Spans that overlap each count what they hold.

    by: a name of KINDS, a dict from names to spans (start, end) of characters (or lists of spans), or a list of spans.
    Raises UnknownName for an unknown kind, Misuse for what is no span of this text.
    """
    named = spans_of(text, by)
    begins = sorted((a, s) for (a, b), s in zip(text.offsets, scores, strict=False) if b > a)
    at = [a for a, _ in begins]

    def total(spans: Iterable[Span]) -> float:
        return sum(s for a, b in spans for _, s in begins[bisect_left(at, a) : bisect_left(at, b)])

    groups = [
        Group(name, " … ".join(text.text[a:b] for a, b in spans), spans[0][0], spans[-1][1], total(spans))
        for name, spans in named
    ]
    return Groups(groups, sum(scores) - total(union([span for _, spans in named for span in spans])))


def spans_of(text: Text, by: Any) -> list[tuple[str, list[Span]]]:
    """The parts that are asked for: a name and the spans of each."""
    if isinstance(by, str):
        return _kind(text, by)
    if isinstance(by, Mapping):
        return [(str(name), _checked(spans, text, str(name))) for name, spans in by.items()]
    if isinstance(by, Sequence):
        return [("", _checked(span, text, f"number {i}")) for i, span in enumerate(by)]
    raise Misuse(
        f"grouped takes {', '.join(map(repr, KINDS))}, a dict of names and spans (start, end), or a list of spans; "
        f"not {type(by).__name__}"
    )


def _kind(text: Text, kind: str) -> list[tuple[str, list[Span]]]:
    if kind not in KINDS:
        raise nearest(kind, KINDS, "part of a text")
    if kind == "word":
        return [("", [span]) for span in text.words]
    if kind == "message":
        if not text.messages:
            raise InputError(f"{text.name} is no chat, so it has no messages; give the reader a list of messages")
        return [(role, [(a, b)]) for role, a, b in text.messages]
    return [("", [span]) for span in split(text.text, kind)]


def split(text: str, kind: str) -> list[Span]:
    """The spans of a text's sentences, paragraphs or lines: all of its characters, each part with what follows up to the next.

    A sentence ends at . ! ? … and white space, at 。！？ or at a blank line (abbreviations are not known: "Mr. Smith" is two).

    >>> [("Two, or 2.5? Yes!\\n\\nNo. "[a:b]) for a, b in split("Two, or 2.5? Yes!\\n\\nNo. ", "sentence")]
    ['Two, or 2.5? ', 'Yes!\\n\\n', 'No. ']
    """
    ends = [*(m.end() for m in ENDS[kind].finditer(text)), len(text)]
    spans = [(a, b) for a, b in zip([0, *ends], ends) if b > a]
    joined: list[Span] = []
    for a, b in spans:
        if joined and not text[a:b].strip() and kind != "line":
            joined[-1] = (joined[-1][0], b)  # white space alone is no part
        else:
            joined.append((a, b))
    return joined


def _checked(given: Any, text: Text, name: str) -> list[Span]:
    """One span, or a list of them, in order. Raises Misuse for what lies outside of the text, or is no span."""
    several = given if isinstance(given, Sequence) and given and not _is_number(given[0]) else [given]
    spans = []
    for span in several:
        if not isinstance(span, Sequence) or len(span) != 2 or not all(_is_number(n) for n in span):
            raise Misuse(f"span {name} must be (start, end), two numbers of characters; not {span!r}")
        start, end = int(span[0]), int(span[1])
        if not 0 <= start < end <= len(text.text):
            raise Misuse(
                f"span {name} ({start}, {end}) is not in {text.name}, which has {len(text.text)} characters, or it is empty"
            )
        spans.append((start, end))
    return sorted(spans)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and hasattr(value, "__index__")


def union(spans: list[Span]) -> list[Span]:
    """Spans that overlap, joined; in order."""
    out: list[Span] = []
    for a, b in sorted(spans):
        if out and a <= out[-1][1]:
            out[-1] = (out[-1][0], max(b, out[-1][1]))
        else:
            out.append((a, b))
    return out
