"""Which characters of a text each of its tokens stands for, also of tokenizers that do not say, and what tokens are called.

Fast tokenizers have offsets. Those written in Python or with SentencePiece have none: what each token spells (its own name
without the marks of word ends, else what decoding adds to the text with each token) is laid along the text, in a plain
spelling that forgets case, composed characters, white space and, where need be, accents. Spans are given only if the pieces
join to the whole text, in one way; else there are none, and a token has to do as a word of its own.
"""

from __future__ import annotations

import difflib
import html
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Span = tuple[int, int]
AHEAD = 6  # tokens that may still change what is decoded: the bytes of a character, the parts of "&apos;"
STARTS, ENDS = ("▁", "Ġ", "##"), ("</w>", "@@")
SAME = str.maketrans("“”„‟«»‘’‚‛–—‒―‐‑、。", '""""""\'\'\'\'------,.')


@dataclass(frozen=True)
class Piece:
    """What `count` tokens spell together; None: an unknown one, which stands for some characters."""

    text: str | None
    count: int = 1


def spans_of(tokenizer: Any, text: str) -> tuple[list[int], list[Span] | None]:
    """The ids of a text without any special token that is not written in it, and each one's characters, if they are known."""
    if getattr(tokenizer, "is_fast", False):
        made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(made["input_ids"]), [(int(a), int(b)) for a, b in made["offset_mapping"]]
    ids = [int(i) for i in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
    ways = (_named(tokenizer, text, ids), _decoded(tokenizer, ids))
    return ids, next((found for way in ways if (found := joined(text, list(way))) is not None), None)


def laid(part: Sequence[int], ids: Sequence[int]) -> list[int | None]:
    """For each of the ids that a model is given, which of a text's own it is; None for what its processor put there."""
    out: list[int | None] = [None] * len(ids)
    for a, b, length in difflib.SequenceMatcher(None, part, ids, autojunk=False).get_matching_blocks():
        out[b : b + length] = range(a, a + length)
    return out


def begun(parts: Sequence[Sequence[int]], ids: Sequence[int]) -> list[int | None]:
    """The same of texts that follow one another, whole or cut at their ends; their ids are counted on from text to text."""
    out: list[int | None] = [None] * len(ids)
    at = count = 0
    for part in parts:
        runs = [_run(part, ids[start:]) for start in range(at, len(ids))]
        length = max(runs, default=0)
        if length:
            start = at + runs.index(length)
            out[start : start + length] = range(count, count + length)
            at = start + length
        count += len(part)
    return out


def _run(part: Sequence[int], ids: Sequence[int]) -> int:
    """How many ids two lists have in common at their beginning."""
    return next((n for n, (a, b) in enumerate(zip(part, ids, strict=False)) if a != b), min(len(part), len(ids)))


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of special tokens. That of the unknown word stands for what was written, unless it is also one of the others."""
    unknown = tokenizer.unk_token
    others = {str(t) for name, t in tokenizer.special_tokens_map.items() if name != "unk_token"}
    known = {int(i) for i in tokenizer.all_special_ids}
    return known if unknown is None or str(unknown) in others else known - {tokenizer.unk_token_id}


# -- laying pieces along a text ---------------------------------------------------------------------------------------


def joined(text: str, pieces: Sequence[Piece]) -> list[Span] | None:
    """The characters of each token, if the pieces join to the text, in one way; None if not."""
    for marks in (True, False):
        chars, at = _plain(text, marks)
        said = [None if p.text is None else _plain(p.text, marks)[0] for p in pieces]
        places = _placed(chars, said)
        if places is not None:
            spans = [_span(a, b, at, len(text)) for a, b in places]
            return [span for span, piece in zip(spans, pieces, strict=True) for _ in range(piece.count)]
    return None


def _span(a: int, b: int, at: Sequence[int], length: int) -> Span:
    """Where in the text some of its plain characters stand; for none of them, the white space that is there, if any."""
    if b > a:
        return at[a], at[b - 1] + 1
    start, stop = at[a - 1] + 1 if a else 0, at[a] if a < len(at) else length
    return (start, stop) if stop > start else (0, 0)


def _plain(text: str, marks: bool) -> tuple[str, list[int]]:
    """A text's characters in a plain spelling, and where in the text each of them comes from."""
    chars, at = [], []
    for i, character in enumerate(text):
        for c in unicodedata.normalize("NFKD", character.translate(SAME)).casefold():
            kind = unicodedata.category(c)
            if not c.isspace() and kind not in ("Cc", "Cf") and (marks or kind[0] != "M"):
                chars.append(c)
                at.append(i)
    return "".join(chars), at


def _placed(chars: str, said: Sequence[str | None]) -> list[Span] | None:
    """Where each piece stands in the characters; None where they are not all of them, or unknown ones leave it open."""
    if None not in said:
        ends = list(itertools.accumulate(len(s or "") for s in said))
        fits = "".join(s or "" for s in said) == chars
        return list(zip([0, *ends[:-1]], ends, strict=True)) if fits and ends else None
    first = _leftmost(chars, said)
    mirrored = _leftmost(chars[::-1], [s if s is None else s[::-1] for s in reversed(said)])
    last = None if mirrored is None else [(len(chars) - b, len(chars) - a) for a, b in reversed(mirrored)]
    return first if first == last else None


def _leftmost(chars: str, said: Sequence[str | None]) -> list[Span] | None:
    """Pieces from left to right, each run of known ones as early as it can be; an unknown one has a character at least."""
    runs = [(known, list(run)) for known, run in itertools.groupby(said, lambda s: s is not None)]
    out: list[Span] = []
    at = 0
    for n, (known, run) in enumerate(runs):
        if not known:
            continue
        text = "".join(s or "" for s in run)
        gap = len(runs[n - 1][1]) if n else 0
        last = n == len(runs) - 1
        start = chars.find(text, at + gap) if not last else len(chars) - len(text)
        if start < at + gap or (not gap and start != at) or not chars.startswith(text, start):
            return None
        out += _shared(at, start, gap)
        for s in run:
            out.append((start, start + len(s or "")))
            start = out[-1][1]
        at = start
    left = len(runs[-1][1]) if runs and not runs[-1][0] else 0
    if len(chars) - at < left or (not left and at != len(chars)):
        return None
    return out + _shared(at, len(chars), left)


def _shared(start: int, stop: int, count: int) -> list[Span]:
    """What several unknown tokens stand for: one after the other, the last for all that is left."""
    return [(start + i, stop if i == count - 1 else start + i + 1) for i in range(count)]


# -- what tokens spell ------------------------------------------------------------------------------------------------


def _named(tokenizer: Any, text: str, ids: list[int]) -> Iterator[Piece]:
    """What tokens spell by their own names; whole words where those end in a mark, as Moses may write parts of them in code."""
    names = [str(t) for t in tokenizer.tokenize(text)]
    if tokenizer.convert_tokens_to_ids(names) != ids:
        names = [str(t) for t in tokenizer.convert_ids_to_tokens(ids)]
    ended, word = any(name.endswith("</w>") for name in names), list[str]()
    for name in names:
        if name == tokenizer.unk_token:
            yield from _word(word)
            yield Piece(None)
            word = []
        elif not ended:
            yield Piece(_bare(name))
        else:
            word.append(_bare(name))
            if name.endswith("</w>"):
                yield from _word(word)
                word = []
    yield from _word(word)


def _word(parts: list[str]) -> list[Piece]:
    """The parts of a word, each by itself unless Moses wrote "&apos;" or "@-@" for one of its characters."""
    whole = "".join(parts)
    said = "-" if whole == "@-@" else html.unescape(whole)
    return [Piece(p) for p in parts] if said == whole else [Piece(said, len(parts))]


def _bare(name: str) -> str:
    """A token's name without the marks of where words begin or end."""
    for mark in STARTS:
        name = name[len(mark) :] if name.startswith(mark) else name
    for mark in ENDS:
        name = name[: -len(mark)] if name.endswith(mark) else name
    return name


def _decoded(tokenizer: Any, ids: list[int]) -> Iterator[Piece]:
    """What each token, or several that make a character together, adds to the text that is decoded."""

    def said(start: int, stop: int) -> str:
        return str(tokenizer.decode(ids[start:stop], clean_up_tokenization_spaces=False))

    before = done = 0
    for i in range(1, len(ids) + 1):
        old, new = said(before, done), said(before, i)
        settled = all(said(before, j).startswith(new) for j in range(i + 1, min(i + AHEAD, len(ids)) + 1))
        if settled and len(new) > len(old) and new.startswith(old):
            yield Piece(None if done == i - 1 and ids[done] == tokenizer.unk_token_id else new[len(old) :], i - done)
            before, done = done, i
    if done < len(ids):
        yield Piece("", len(ids) - done)


# -- what tokens are called -------------------------------------------------------------------------------------------


def names_of(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What tokens are called. Names that spell bytes are read: " café", not "ĠcafÃ©"; parts of characters: "<0xC3>"."""
    names = [f"<{i}>" if t is None else str(t) for i, t in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)]
    added = getattr(tokenizer, "added_tokens_decoder", {})
    if hasattr(tokenizer, "_utf_vocab_size"):  # ByT5, Perceiver: a token is a byte
        return [f"<0x{ord(n):02X}>" if len(n) == 1 and 127 < ord(n) < 256 else n for n in names]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not any("ByteLevel" in repr(getattr(backend, part, None)) for part in ("decoder", "pre_tokenizer")):
        return names
    return [name if i in added else _read(name) for i, name in zip(ids, names, strict=True)]


def _read(name: str) -> str:
    """A name in which each character stands for a byte."""
    if not all(c in BYTES for c in name):
        return name
    data = bytes(BYTES[c] for c in name)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(chr(b) if b < 128 else f"<0x{b:02X}>" for b in data)


def _bytes() -> dict[str, int]:
    """The characters that byte-level tokenizers write for bytes: those of Latin-1 that can be seen, and others for the rest."""
    seen = [b for b in range(256) if chr(b).isprintable() and not chr(b).isspace()]
    hidden = [b for b in range(256) if b not in seen]
    return {chr(b): b for b in seen} | {chr(256 + n): b for n, b in enumerate(hidden)}


BYTES = _bytes()
