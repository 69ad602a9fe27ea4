"""Raw texts to padded tensors, with the character span of every token and of every whole word."""

from __future__ import annotations

import inspect
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from regard.errors import InputError, ModelError
from regard.explanation import Text
from regard.models.chats import Chat, is_chat, render

# CJK ideographs and kana stand alone: those scripts put no spaces between words.
_ALONE = "[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_MARK = "\u0300"
_LETTER = rf"(?:(?!{_ALONE})\w{_MARK}*)"
_WORD = re.compile(rf"{_ALONE}{_MARK}*|{_LETTER}+(?:(?:['’\-]|(?<=\d)[.,](?=\d)){_LETTER}+)*|(\S)(?:\1|{_MARK})*")


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
    Combining marks belong to their letter. Every character that is no white space belongs to exactly one word.

    >>> [("Don't stop, 3.5 stars..."[a:b]) for a, b in words("Don't stop, 3.5 stars...")]
    ["Don't", 'stop', ',', '3.5', 'stars', '...']
    """
    plain = "".join(_MARK if unicodedata.category(c)[0] == "M" or c == "\u200d" else c for c in text)
    return [m.span() for m in _WORD.finditer(plain)]


def read_texts(tokenizer: Any, model: nn.Module, raw: Sequence[Any], truncate: bool = False) -> TextBatch:
    """Tokenize texts, and pad them to the longest on the tokenizer's own side; the tokenizer is left as found.

    A text may be a chat, a list of messages: the tokenizer's template writes it out. It may be a pair of texts, (str, str).
    `Text.tokens`, `.offsets` and `.special` have the padded length; padding has offsets (0, 0) and is special. Offsets
    start at the token's first character that is no white space. A tokenizer without padding token pads with its
    end-of-text token; the attention mask says which tokens are real.

    Raises InputError for a text that is empty, makes no tokens, or is longer than the model takes (unless `truncate`,
    which cuts it and says so in `notes`), ModelError for a tokenizer that cannot tell where its tokens stand.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} does not tell which characters its tokens stand for; give a fast tokenizer"
        )
    limit = longest(tokenizer, model)
    rows, notes = [], []
    read = [_given(tokenizer, text, number) for number, text in enumerate(raw)]
    for number, text in enumerate(read):
        row = _encode(tokenizer, text)
        length = len(row["input_ids"])
        if limit is not None and length > limit:
            said = f"text {number} makes {length} tokens, and {type(model).__name__} takes {limit}"
            if not truncate:
                raise InputError(f"{said}; split it, or pass truncate=True to read its beginning only")
            row = _encode(tokenizer, text, limit)
            notes.append(f"{said}: only its first {len(row['input_ids'])} tokens were read")
        if all(row["special_tokens_mask"]):
            raise InputError(f"text {number} makes no tokens with this tokenizer: {_text(text)[:40]!r}")
        rows.append(row)
    return _pad(tokenizer, model, read, rows, notes)


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


def _given(tokenizer: Any, text: Any, number: int) -> str | Chat | Two:
    """What was given as one text, checked."""
    if is_chat(text):
        return render(tokenizer, text)
    if isinstance(text, tuple) and len(text) == 2:
        for part in text:
            _check(part, number)
        return Two(*text)
    _check(text, number)
    return str(text)


def _check(text: Any, number: int) -> None:
    if not isinstance(text, str):
        raise InputError(f"text {number} is a {type(text).__name__}; give a str, a pair (str, str), or a list of them")
    if not text.strip():
        raise InputError(f"text {number} is empty; give at least one word")


def _text(read: str | Chat | Two) -> str:
    return read if isinstance(read, str) else read.text


def _encode(tokenizer: Any, read: str | Chat | Two, limit: int | None = None) -> dict[str, list[Any]]:
    """Encode one text, or two that go together, without padding, cut to `limit` tokens if given.

    Of a chat, whose template writes the special tokens itself, all is special that the template wrote.
    """
    text = _text(read)
    given = (read.first, read.second) if isinstance(read, Two) else (text,)
    with _as_found(tokenizer):
        more: dict[str, Any] = {} if limit is None else {"truncation": True, "max_length": limit}
        more |= {"add_special_tokens": False} if isinstance(read, Chat) else {}
        made = tokenizer(*given, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False, **more)
    row = {key: list(values) for key, values in made.items()}
    row.setdefault("attention_mask", [1] * len(row["input_ids"]))
    if isinstance(read, Two):  # the second text's characters are counted from its own beginning
        after = [(len(read.first) + 1) * (number == 1) for number in made.sequence_ids()]
        row["offset_mapping"] = [(a + n, b + n) for (a, b), n in zip(row["offset_mapping"], after, strict=True)]
    row["offset_mapping"] = [trim(text, int(a), int(b)) for a, b in row["offset_mapping"]]
    if isinstance(read, Chat):
        known = set(tokenizer.all_special_ids)
        pairs = zip(row["input_ids"], row["offset_mapping"], strict=True)
        row["special_tokens_mask"] = [int(i in known or not read.written(*span)) for i, span in pairs]
    return row


def plain_words(text: str, hidden: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans of whole words, without the characters that stand for special tokens (`<|user|>`)."""
    shown = list(text)
    for start, end in hidden:
        shown[start:end] = " " * (end - start)
    return words("".join(shown))


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


def _pad(
    tokenizer: Any,
    model: nn.Module,
    raw: Sequence[str | Chat | Two],
    rows: list[dict[str, list[Any]]],
    notes: list[str],
) -> TextBatch:
    """Pad rows to one length: on the tokenizer's side, with its padding token."""
    filler: dict[str, Any] = {
        "input_ids": pad_id(tokenizer) or 0,  # masked anyway
        "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
        "special_tokens_mask": 1,
        "offset_mapping": (0, 0),
    }
    length = max(len(row["input_ids"]) for row in rows)
    left = tokenizer.padding_side == "left"
    for row in rows:
        for key, values in row.items():
            padding = [filler.get(key, 0)] * (length - len(values))
            row[key] = padding + values if left else values + padding
    special = torch.tensor([row["special_tokens_mask"] for row in rows]).bool()
    texts = [
        Text(
            text=_text(text),
            tokens=[str(t) for t in tokenizer.convert_ids_to_tokens(row["input_ids"])],
            offsets=row["offset_mapping"],
            words=plain_words(text.text, _special_spans(tokenizer, row))
            if isinstance(text, Chat)
            else words(_text(text)),
            special=[bool(s) for s in row["special_tokens_mask"]],
            name=f"text {number}",
        )
        for number, (text, row) in enumerate(zip(raw, rows, strict=True))
    ]
    spans = ("special_tokens_mask", "offset_mapping")
    inputs = {key: torch.tensor([row[key] for row in rows]) for key in rows[0] if key not in spans}
    return TextBatch(inputs | _positions(model, inputs["attention_mask"]), texts, special, notes)


def _special_spans(tokenizer: Any, row: dict[str, list[Any]]) -> list[tuple[int, int]]:
    """Where a chat's text spells special tokens."""
    known = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return [span for i, span in zip(row["input_ids"], row["offset_mapping"], strict=True) if i in known]


def _positions(model: nn.Module, mask: Tensor) -> dict[str, Tensor]:
    """Count positions from the first real token where padding stands on the left, as a single text would have them."""
    padded_left = bool((mask[:, 0] == 0).any())
    if not padded_left or _first_position(model) or "position_ids" not in inspect.signature(model.forward).parameters:
        return {}
    return {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
