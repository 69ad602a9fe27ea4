"""Chats: a list of messages to the text that the model reads, by the template that came with its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regard.errors import InputError


@dataclass(frozen=True)
class Chat:
    """A rendered chat: the whole `text`, and the character spans in it that users wrote; the rest is the template's."""

    text: str
    contents: list[tuple[int, int]]

    def written(self, start: int, end: int) -> bool:
        """Whether some of these characters were written by a user."""
        return any(a < end and start < b for a, b in self.contents)


def is_chat(raw: Any) -> bool:
    """Whether a raw input is a list of messages, {"role": ..., "content": ...} each."""
    return isinstance(raw, list) and bool(raw) and all(isinstance(m, Mapping) and "role" in m for m in raw)


def render(owner: Any, messages: Sequence[Mapping[str, Any]]) -> Chat:
    """Write messages out by the template of a tokenizer or processor, up to where the model is to answer.

    Raises InputError where there is no template, no words in the chat, or the template refuses it.
    """
    if not getattr(owner, "chat_template", None):
        raise InputError(f"{type(owner).__name__} has no chat template; give the prompt as a text")
    if not any(part.strip() for m in messages for part in _parts(m)):
        raise InputError("the chat is empty; give at least one message with some words")
    try:
        text = str(owner.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
    except Exception as e:  # templates are programs, and raise what they like
        raise InputError(f"the chat template refuses these messages: {(str(e).splitlines() or [''])[0]}") from e
    return Chat(text, list(_contents(text, messages)))


def _parts(message: Mapping[str, Any]) -> list[str]:
    """The texts of one message; its content is a text, or a list of parts of which some are texts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return [content]
    return [str(part.get("text", "")) for part in content if part.get("type", "text") == "text"]


def _contents(text: str, messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int]]:
    """Where the messages stand in the rendered text, in order; a template may strip them."""
    at = 0
    for message in messages:
        role = str(message["role"])
        headed = text.find(role, at)
        for part in filter(None, (p.strip() for p in _parts(message))):
            found = text.find(part, headed + len(role)) if headed >= 0 else -1
            found = found if found >= 0 else text.find(part, at)
            if found >= 0:
                at = headed = found + len(part)
                role = ""
                yield found, at
