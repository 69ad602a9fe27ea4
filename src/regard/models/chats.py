"""Chats: a list of messages to the text that the model reads, by the template that came with its tokenizer.

A model that writes is shown the turn that it is to write; one that scores what is there (a reward model, a classifier, a
verifier) reads the messages and nothing more. Whoever wants it otherwise says so beside the messages, as datasets of chats
do: {"messages": [...], "tools": [...], "continue_final_message": True}.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from regard.errors import InputError

Messages = Sequence[Mapping[str, Any]]
HOW = ("add_generation_prompt", "continue_final_message", "chat_template")
OURS = ("conversation", "messages", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict")


@dataclass(frozen=True)
class Chat:
    """A rendered chat: the whole `text`, and the character spans in it that users wrote; the rest is the template's.

    messages: the role of each message, and the span of all that it says.
    """

    text: str
    contents: list[tuple[int, int]]
    notes: list[str] = field(default_factory=list)
    messages: list[tuple[str, int, int]] = field(default_factory=list)

    def written(self, start: int, end: int) -> bool:
        """Whether some of these characters were written by a user."""
        return any(a < end and start < b for a, b in self.contents)


def can_write(model: nn.Module) -> bool:
    """Whether a model has a `generate` of its own that works."""
    can: Any = getattr(model, "can_generate", None)
    return callable(getattr(model, "generate", None)) and (can is None or bool(can()))


def is_chat(raw: Any) -> bool:
    """Whether a raw input is a list of messages {"role": ..., "content": ...}, or a dict that holds one as "messages"."""
    messages = raw.get("messages") if isinstance(raw, Mapping) else raw
    return (
        isinstance(messages, list) and bool(messages) and all(isinstance(m, Mapping) and "role" in m for m in messages)
    )


def messages_of(chat: Any) -> list[dict[str, Any]]:
    """The messages of a chat, whichever way it was given."""
    return [dict(m) for m in (chat["messages"] if isinstance(chat, Mapping) else chat)]


def with_messages(chat: Any, messages: Messages) -> Any:
    """The chat with other messages, and all that was said beside them."""
    return {**chat, "messages": list(messages)} if isinstance(chat, Mapping) else list(messages)


def render(owner: Any, chat: Any, writes: bool) -> Chat:
    """Write messages out by the template of a tokenizer or processor.

    A chat for a model that `writes` ends where it is to answer, or, if the last message is the assistant's own, where that
    is to go on. Tools and whatever else a template takes are given beside the messages.

    Raises InputError where there is no template, no words in the chat, or the template refuses it.
    """
    if not getattr(owner, "chat_template", None) and not (isinstance(chat, Mapping) and chat.get("chat_template")):
        raise InputError(f"{type(owner).__name__} has no chat template; give the prompt as a text")
    messages, options = messages_of(chat), _options(owner, chat)
    if not any(part.strip() for n, m in enumerate(messages) for part in parts_of(m, n)):
        raise InputError("the chat is empty; give at least one message with some words")
    notes: list[str] = []
    if any(how in options for how in HOW[:2]) or not writes:
        text = _rendered(owner, messages, options)
    elif messages[-1]["role"] != "assistant":
        text = _rendered(owner, messages, {**options, "add_generation_prompt": True})
    else:
        text, note = _prefilled(owner, messages, options)
        notes.append(note)
    said = [(n, *span) for n, span in _contents(text, messages)]
    spans = {n: [span for m, *span in said if m == n] for n, *_ in said}
    whole = [(str(messages[n]["role"]), parts[0][0], parts[-1][1]) for n, parts in spans.items()]
    return Chat(text, sorted([*((a, b) for _, a, b in said), *_tools(text, options)]), notes, whole)


def _options(owner: Any, chat: Any) -> dict[str, Any]:
    """What is said beside the messages. Raises InputError for what the template would pass over in silence."""
    if not isinstance(chat, Mapping):
        return {}
    said = {k: v for k, v in chat.items() if k not in ("messages", "chat_template_kwargs")}
    said |= chat.get("chat_template_kwargs") or {}
    options = {str(k): v for k, v in said.items() if v is not None and v != []}
    template = str(options.get("chat_template", owner.chat_template))
    for name in options:
        if name in OURS or (name not in HOW and name not in template):
            raise InputError(
                f"the chat template of {type(owner).__name__} does not read {name!r}; leave it out of the chat"
            )
    return options


def _rendered(owner: Any, messages: Messages, options: Mapping[str, Any]) -> str:
    try:
        return str(owner.apply_chat_template([dict(m) for m in messages], tokenize=False, **options))
    except Exception as e:  # templates are programs, and raise what they like
        raise InputError(f"the chat template refuses these messages: {(str(e).splitlines() or [''])[0]}") from e


def _prefilled(owner: Any, messages: Messages, options: Mapping[str, Any]) -> tuple[str, str]:
    """A chat that ends with the assistant's turn: up to the end of what it has said, if only the turn's end is cut off so.

    Where a template asks for more after the last message (a guard's verdict on it), its own text is what the model is to read.
    """
    whole = _rendered(owner, messages, options)
    try:
        cut = _rendered(owner, messages, {**options, "continue_final_message": True})
    except InputError:
        cut = whole
    left = whole.removeprefix(cut)
    for token in getattr(owner, "tokenizer", owner).all_special_tokens:
        left = left.replace(str(token), "")
    if cut != whole and whole.startswith(cut) and not any(c.isalnum() for c in left):
        return (
            cut,
            "the chat ends with the assistant's turn, which the model continues (continue_final_message=True)",
        )
    return (
        whole,
        "the chat ends with the assistant's turn: it is read as its template writes it, without a generation prompt",
    )


def parts_of(message: Mapping[str, Any], number: int = 0) -> list[str]:
    """The texts of one message; its content is a text, or a list of parts of which some are texts."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return [content or ""]
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        raise InputError(
            f"the content of message {number} is of type {type(content).__name__}; give a str, or a list of parts such as "
            '{"type": "text", "text": ...}'
        )
    return [str(part.get("text") or "") for part in content if part.get("type", "text") == "text"]


def _contents(text: str, messages: Messages) -> Iterator[tuple[int, tuple[int, int]]]:
    """The number of each message and where its parts stand in the rendered text, in order; a template may strip them."""
    at = 0
    for number, message in enumerate(messages):
        role = str(message["role"])
        headed = text.find(role, at)
        for part in filter(None, (p.strip() for p in [*_thought(message), *parts_of(message), *_called(message)])):
            found = text.find(part, headed + len(role)) if headed >= 0 else -1
            found = found if found >= 0 else text.find(part, at)
            if found >= 0:
                at = headed = found + len(part)
                role = ""
                yield number, (found, at)


def _thought(message: Mapping[str, Any]) -> list[str]:
    """What an assistant thought before it answered, under whichever of its names."""
    found = (message.get(name) for name in ("reasoning_content", "reasoning", "thinking"))
    return [said for said in found if isinstance(said, str)][:1]


def _called(message: Mapping[str, Any]) -> Iterator[str]:
    """The names and arguments of the tools that a message calls, as templates write them."""
    for call in message.get("tool_calls") or ():
        function = call.get("function", call) if isinstance(call, Mapping) else {}
        yield str(function.get("name") or "")
        arguments = function.get("arguments") or ""
        yield arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _tools(text: str, options: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Where the tools and documents that were given stand in the rendered text, as JSON or as texts."""
    for tool in options.get("tools") or ():
        if callable(tool):
            from transformers.utils import get_json_schema

            tool = get_json_schema(tool)
        function = tool.get("function", tool) if isinstance(tool, Mapping) else tool
        written = (json.dumps(t, ensure_ascii=False, indent=i) for t in (tool, function) for i in (None, 4, 2))
        yield from _first(text, written)
    for document in options.get("documents") or ():
        for value in document.values():
            yield from _first(text, [str(value)])


def _first(text: str, written: Iterator[str] | list[str]) -> Iterator[tuple[int, int]]:
    """Where the first of these spellings that is there stands."""
    found = next(((text.find(w), len(w)) for w in written if w and w in text), None)
    if found is not None:
        yield found[0], sum(found)
