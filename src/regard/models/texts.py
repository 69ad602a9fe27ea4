"""Raw texts to padded tensors, with the character span of every token and of every whole word."""

from __future__ import annotations

import inspect
import itertools
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from regard.errors import InputError, ModelError
from regard.explanation.raw_inputs import Text
from regard.models.alignment import begun, names_of, spans_of, special_ids
from regard.models.chats import Chat, can_write, is_chat, render

# Scripts that put no spaces between words: an ideograph or a kana stands alone; of Thai, Lao, Khmer and Burmese a consonant
# with the vowels around it.
_ALONE = (
    "[\u3005-\u3007\u3040-\u30ff\u3105-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d"
    "\U00020000-\U0003ffff]"
)
_MARK = "\u0300"
_BEFORE, _AFTER = (
    "[\u0e40-\u0e44\u0ec0-\u0ec4]",
    "[\u0e2f\u0e30\u0e32\u0e33\u0e45\u0e46\u0eaf\u0eb0\u0eb2\u0eb3\u0eb5\u0ec6]",
)
_SYLLABLE = (
    rf"{_BEFORE}?[\u0e01-\u0e2e\u0e81-\u0eae\u0edc-\u0edf\u1000-\u102a\u103f\u1780-\u17b3]{_MARK}*(?:{_AFTER}{_MARK}*)*"
)
_LETTER = rf"(?:(?!{_ALONE}|{_SYLLABLE})\w{_MARK}*)"
_WORD = re.compile(rf"{_ALONE}{_MARK}*|{_SYLLABLE}|{_LETTER}+(?:(?:['’\-]|(?<=\d)[.,](?=\d)){_LETTER}+)*|\S{_MARK}*")
_HALF = re.compile("[\ud800-\udfff]")
_FLAGS, _TONES = range(0x1F1E6, 0x1F200), range(0x1F3FB, 0x1F400)


@dataclass(frozen=True)
class TextBatch:
    """What the tokenizer made of a batch: keyword tensors and `special`, all (batch, tokens), the texts, and notes."""

    inputs: dict[str, Tensor]
    texts: list[Text]
    special: Bool[Tensor, "batch tokens"]
    notes: list[str]


@dataclass(frozen=True)
class Two:
    """Two texts that a model reads together: a premise and a hypothesis, a question and where its answer stands."""

    first: str
    second: str

    @property
    def text(self) -> str:
        """Both, a line each."""
        return f"{self.first}\n{self.second}"


def words(text: str) -> list[tuple[int, int]]:
    """Split a text into the character spans of whole words, as a reader sees them.

    "don't", "well-made" and "3.5" are one word each, "movie," is two, a run of one punctuation mark ("...") is one.
    What combines belongs to what it stands on: accents, the skin tone of an emoji, both letters of a flag. Every character
    that is no white space belongs to exactly one word.

    >>> [("Don't stop, 3.5 stars..."[a:b]) for a, b in words("Don't stop, 3.5 stars...")]
    ["Don't", 'stop', ',', '3.5', 'stars', '...']
    """
    found: list[tuple[int, int]] = []
    last = ""
    for start, end in (m.span() for m in _WORD.finditer(_combined(text))):
        word = text[start:end]
        symbol = not any(c.isalnum() for c in word)
        if symbol and word == last and found[-1][1] == start:  # one more of a run
            found[-1] = (found[-1][0], end)
            continue
        found.append((start, end))
        last = word if symbol else ""
    return found


def alone(characters: str) -> bool:
    """Whether some characters are of a script that puts no spaces between words."""
    return re.search(_ALONE, characters) is not None


def _combined(text: str) -> str:
    """The text with one mark for each character that belongs to the one before it."""
    out: list[str] = []
    for i, c in enumerate(text):
        kind, last = unicodedata.category(c), text[i - 1] if i else ""
        half = ord(c) in _FLAGS and last and ord(last) in _FLAGS and out[-1] != _MARK
        tied = last == "\u200d" and kind in ("So", "Sk", "Sm", "Po")  # a heart on fire, a woman at a computer
        tied = tied or last in ("\u17d2", "\u1039")  # a consonant that is written below the last one
        out.append(_MARK if kind[0] == "M" or kind == "Cf" or ord(c) in _TONES or half or tied else c)
    return "".join(out)


def spaced(before: str, after: str) -> bool:
    """Whether a text that goes on from another one lacks the space between them."""
    alone = re.compile(rf"{_ALONE}|{_SYLLABLE}")
    if not before or before[-1].isspace() or not after[:1].isalnum():
        return False
    return not alone.match(before[-1]) and not alone.match(after)


def read_texts(tokenizer: Any, model: nn.Module, raw: Sequence[Any], truncate: bool = False) -> TextBatch:
    """Tokenize texts, and pad them to the longest on the tokenizer's own side; the tokenizer is left as found.

    A text may be a chat, a list of messages: the tokenizer's template writes it out. It may be a pair of texts, (str, str).
    `Text.tokens`, `.offsets` and `.special` have the padded length; padding has offsets (0, 0) and is special. Offsets
    start at the token's first character that is no white space. A tokenizer without padding token pads with its
    end-of-text token; the attention mask says which tokens are real.

    Where a text spells the special tokens that the tokenizer puts around it, they are not put there twice.

    Raises InputError for a text that is empty, makes no tokens, or is longer than the model takes (unless `truncate`,
    which cuts it and says so in `notes`).
    """
    limit = longest(tokenizer, model)
    rows, notes = [], []
    read = [_given(tokenizer, model, text, number) for number, text in enumerate(raw)]
    for number, text in enumerate(read):
        check_whole(_text(text), f"text {number}")
        row = _encode(tokenizer, text)
        if limit is not None and len(row) > limit:
            said = f"text {number} has {len(row)} tokens, but {type(model).__name__} takes at most {limit}"
            if not truncate:
                raise InputError(f"{said}; split it, or pass truncate=True to read its beginning only")
            row = _encode(tokenizer, text, limit)
            notes.append(f"{said}: only its first {len(row)} tokens were read")
        if all(row.added):
            raise InputError(f"text {number} makes no tokens with this tokenizer: {_text(text)[:40]!r}")
        check_known(tokenizer, model, row.values["input_ids"])
        notes += [note if len(read) == 1 else f"text {number}: {note}" for note in row.notes]
        rows.append(row)
    return _pad(tokenizer, model, rows, notes)


def check_known(tokenizer: Any, model: nn.Module, ids: Sequence[int]) -> None:
    """Refuse ids that the model has no embedding for: its tokenizer is another one's, or has grown without it."""
    of: Any = getattr(model, "get_input_embeddings", None)
    try:
        table = of() if callable(of) else None
    except (NotImplementedError, AttributeError):
        return
    worst = max(ids, default=0)
    if isinstance(table, nn.Embedding) and worst >= table.num_embeddings:
        (name,) = names_of(tokenizer, [worst])
        raise InputError(
            f"{type(tokenizer).__name__} made token {worst} ({name!r}), but {type(model).__name__} knows "
            f"{table.num_embeddings}, numbered from 0: give the model's own tokenizer, or call "
            "model.resize_token_embeddings(len(tokenizer))"
        )


def longest(tokenizer: Any, model: nn.Module) -> int | None:
    """Return how many tokens the model takes, special ones included; None where neither it nor its tokenizer says.

    RoBERTa and its kin count positions from `padding_idx + 1`, so they take that many tokens fewer than positions.
    """
    limits = []
    said = getattr(tokenizer, "model_max_length", None)
    if said is not None and 0 < said < 10**9:
        limits.append(int(said))
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - _first_position(model))
    return min(limits) if limits else None


def pad_id(tokenizer: Any) -> int | None:
    """Return the id to pad with: the tokenizer's own, else its end-of-text token, else None."""
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return None if found is None else int(found)


def _first_position(model: nn.Module) -> int:
    """Return the position of the first token: above 0 in models that give the padding a position of its own.

    What counts positions past the padding's keeps that as `padding_idx` (LXMERT does not, and counts from 0).
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            owner = model.get_submodule(name.rpartition(".")[0])
            return module.padding_idx + 1 if hasattr(owner, "padding_idx") else 0
    return 0


def _given(tokenizer: Any, model: nn.Module, text: Any, number: int) -> str | Chat | Two:
    """What was given as one text, checked."""
    if is_chat(text):
        return render(tokenizer, text, can_write(model))
    if isinstance(text, tuple) and len(text) == 2:
        for part in text:
            _check(part, number)
        return Two(*text)
    _check(text, number)
    return str(text)


def _check(text: Any, number: int) -> None:
    if isinstance(text, Mapping):
        raise InputError(f'text {number} is a dict; a chat is a list of messages {{"role": ..., "content": ...}}')
    if not isinstance(text, str):
        raise InputError(
            f"text {number} is of type {type(text).__name__}; give a str, a pair (str, str), or a list of them"
        )
    if not text.strip():
        raise InputError(f"text {number} is empty; give at least one word")


def check_whole(text: str, what: str) -> None:
    """Raise InputError for a text with half a character in it (a surrogate alone), which no tokenizer takes."""
    found = _HALF.search(text)
    if found is not None:
        raise InputError(
            f"{what} is no valid text: character {found.start()} is half of one (a lone surrogate); was it read in another "
            "encoding than it was written in?"
        )


def _text(read: str | Chat | Two) -> str:
    return read if isinstance(read, str) else read.text


@dataclass
class EncodedText:
    """One text as the model takes it: lists of one value a token, what is known of each token, and what to say of it.

    added: the tokenizer put it there. special: that, or it was written as a special token, or a chat's template wrote it.
    """

    values: dict[str, list[Any]]
    text: str
    offsets: list[tuple[int, int]]
    words: list[tuple[int, int]]
    added: list[bool]
    special: list[bool]
    notes: list[str]
    messages: list[tuple[str, int, int]]

    def __len__(self) -> int:
        return len(self.added)


def _encode(tokenizer: Any, read: str | Chat | Two, limit: int | None = None) -> EncodedText:
    """Encode one text, or two that go together, without padding, cut to `limit` tokens if given.

    Of a chat, whose template writes the special tokens itself, all is special that the template wrote. What was cut off is no
    part of the text; of two texts, and of a chat, it holds no words.
    """
    text, notes = _text(read), list(read.notes) if isinstance(read, Chat) else []
    values, offsets, added = _tokens(tokenizer, read, limit)
    if keep := _not_twice(values["input_ids"], added):
        doubled = tokenizer.convert_ids_to_tokens([i for n, i in enumerate(values["input_ids"]) if n not in keep])
        notes.append(f"{_listed(doubled)} is in the text already and was not added again")
        values = {key: [row[n] for n in keep] for key, row in values.items()}
        offsets, added = None if offsets is None else [offsets[n] for n in keep], [added[n] for n in keep]
    ids, known = values["input_ids"], special_ids(tokenizer)
    if offsets is None:
        notes.append(
            f"{type(tokenizer).__name__} does not say which characters its tokens stand for, and they could not be found: "
            "each token is shown as a word of its own"
        )
        text, offsets = as_words(names_of(tokenizer, ids), added)
        spelt = [i in known for i in ids]
        cut = [span for span, s in zip(offsets, spelt, strict=True) if not s and span[1]]
    else:
        text = text if limit is None or not isinstance(read, str) else text[: max((b for _, b in offsets), default=0)]
        offsets = [trim(text, a, b) for a, b in offsets]
        spelt = [
            i in known or (isinstance(read, Chat) and not read.written(*o)) for i, o in zip(ids, offsets, strict=True)
        ]
        cut = plain_words(text, [o for i, o in zip(ids, offsets, strict=True) if i in known])
        cut = cut if limit is None or isinstance(read, str) else _with_tokens(cut, offsets)
    if not isinstance(read, Chat):
        typed = [i for i, a in zip(ids, added, strict=True) if i in known and not a and i != tokenizer.mask_token_id]
        if typed:
            notes.append(
                f"the text spells out special tokens, which are read as such: {_listed(tokenizer.convert_ids_to_tokens(typed))}"
            )
    messages = read.messages if isinstance(read, Chat) and text == read.text else []
    return EncodedText(
        values, text, offsets, cut, added, [a or s for a, s in zip(added, spelt, strict=True)], notes, messages
    )


def _tokens(
    tokenizer: Any, read: str | Chat | Two, limit: int | None
) -> tuple[dict[str, list[Any]], list[tuple[int, int]] | None, list[bool]]:
    """What the tokenizer makes of a text; each token's characters, if they are known; and what it put there itself.

    The second of two texts has its characters counted from the end of the first, and a line end.
    """
    given = (read.first, read.second) if isinstance(read, Two) else (_text(read),)
    more: dict[str, Any] = {} if limit is None else {"truncation": True, "max_length": limit}
    more |= {"add_special_tokens": False} if isinstance(read, Chat) else {}
    fast = getattr(tokenizer, "is_fast", False)
    more |= {"return_offsets_mapping": True, "return_special_tokens_mask": True} if fast else {}
    with _as_found(tokenizer):
        try:
            made = tokenizer(*given, verbose=False, **more)
        except TypeError as e:
            said = f"{type(tokenizer).__name__} cannot be called like the tokenizers of Transformers ({e})"
            raise ModelError(f"{said}; make the tensors yourself and use regard.explain(model, inputs)") from e
        parts = [] if fast else [spans_of(tokenizer, part) for part in given]
    values = {key: list(row) for key, row in made.items()}
    values.setdefault("attention_mask", [1] * len(values["input_ids"]))
    if fast:
        after = [(len(given[0]) + 1) * (number == 1) for number in made.sequence_ids()]
        offsets = [(int(a) + n, int(b) + n) for (a, b), n in zip(values.pop("offset_mapping"), after, strict=True)]
        return values, offsets, [bool(s) for s in values.pop("special_tokens_mask")]
    places = begun([ids for ids, _ in parts], values["input_ids"])
    spans: list[tuple[int, int]] | None = []
    for n, (_, found) in enumerate(parts):
        shift = (len(given[0]) + 1) * n
        spans = None if spans is None or found is None else [*spans, *((a + shift, b + shift) for a, b in found)]
    offsets_of = None if spans is None else [(0, 0) if p is None else spans[p] for p in places]
    return values, offsets_of, [p is None for p in places]


def _not_twice(ids: list[int], added: list[bool]) -> list[int]:
    """The tokens to keep where a text spells the special tokens that the tokenizer puts around it; none where it does not."""
    if all(added):
        return []
    front, back = added.index(False), added[::-1].index(False)
    own = ids[front : len(ids) - back]
    first = front if front and own[:front] == ids[:front] else 0
    last = back if back and own[-back:] == ids[len(ids) - back :] else 0
    return [] if not first and not last else list(range(first, len(ids) - last))


def _listed(tokens: Sequence[str]) -> str:
    """Tokens, each once, in quotation marks."""
    return ", ".join(dict.fromkeys(repr(str(t)) for t in tokens))


def as_words(names: list[str], added: list[bool]) -> tuple[str, list[tuple[int, int]]]:
    """A text of the names of tokens that were written, and where each stands in it."""
    shown = [name.removeprefix("▁").removesuffix("</w>") for name in names]
    ends = list(itertools.accumulate((len(s) + 1) * (not a) for s, a in zip(shown, added, strict=True)))
    text = " ".join(s for s, a in zip(shown, added, strict=True) if not a)
    return text, [(0, 0) if a else (e - 1 - len(s), e - 1) for s, e, a in zip(shown, ends, added, strict=True)]


def plain_words(text: str, hidden: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans of whole words, without the characters that stand for special tokens (`<|user|>`)."""
    shown = list(text)
    for start, end in hidden:
        shown[start:end] = " " * (end - start)
    return words("".join(shown))


def _with_tokens(spans: list[tuple[int, int]], offsets: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The words in which a token begins."""
    begins = sorted(a for a, b in offsets if b > a)
    return [(a, b) for a, b in spans if bisect_left(begins, a) < bisect_left(begins, b)]


@contextmanager
def _as_found(tokenizer: Any) -> Iterator[None]:
    """Put the truncation and padding of a tokenizer back, which every call of it sets anew."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    truncation, padding = getattr(backend, "truncation", None), getattr(backend, "padding", None)
    try:
        yield
    finally:
        if backend is not None and backend.truncation != truncation:
            backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
        if backend is not None and backend.padding != padding:
            backend.no_padding() if padding is None else backend.enable_padding(**padding)


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Let a token's span begin after the white space that byte-level and SentencePiece tokens carry in front."""
    first = start
    while first < end and text[first].isspace():
        first += 1
    return (first, end) if first < end else (start, end)


def _pad(tokenizer: Any, model: nn.Module, rows: Sequence[EncodedText], notes: list[str]) -> TextBatch:
    """Pad rows to one length: on the tokenizer's side, with its padding token."""
    filler = {
        "input_ids": pad_id(tokenizer) or 0,  # masked anyway
        "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
    }
    length, left = max(len(row) for row in rows), tokenizer.padding_side == "left"

    def padded(values: list[Any], fill: Any) -> list[Any]:
        padding = [fill] * (length - len(values))
        return padding + values if left else values + padding

    inputs = {key: torch.tensor([padded(r.values[key], filler.get(key, 0)) for r in rows]) for key in rows[0].values}
    special = [padded(row.special, True) for row in rows]
    texts = [
        Text(
            text=row.text,
            tokens=names_of(tokenizer, ids),
            offsets=padded(row.offsets, (0, 0)),
            words=row.words,
            special=special[number],
            name=f"text {number}",
            messages=row.messages,
        )
        for number, (row, ids) in enumerate(zip(rows, inputs["input_ids"].tolist(), strict=True))
    ]
    return TextBatch(inputs | _positions(model, inputs["attention_mask"]), texts, torch.tensor(special), notes)


def _positions(model: nn.Module, mask: Tensor) -> dict[str, Tensor]:
    """Count positions from the first real token where padding stands on the left, as a single text would have them."""
    padded_left = bool((mask[:, 0] == 0).any())
    if not padded_left or _first_position(model) or "position_ids" not in inspect.signature(model.forward).parameters:
        return {}
    return {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
