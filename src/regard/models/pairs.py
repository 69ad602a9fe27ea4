"""A picture with a prompt, for vision-language models: one processor writes the picture's places into the text."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from regard.errors import InputError
from regard.explanation import Text
from regard.models.chats import Chat, is_chat, render
from regard.models.texts import plain_words, trim

LEFT_OUT = ("labels",)  # what some processors add for training


def split(raw: Any) -> tuple[list[Any], Any]:
    """The pictures and the prompt (a text, or a chat) of one raw input: (picture, text), ([pictures], text), or a text."""
    if isinstance(raw, tuple) and len(raw) == 2:
        pictures, prompt = raw
        return list(pictures) if isinstance(pictures, list) else [pictures], prompt
    if is_chat(raw):
        return _pictures_of(raw), raw
    if isinstance(raw, str):
        return [], raw
    raise InputError(f"this model reads (picture, text), or a text; not {type(raw).__name__}")


def prompt_of(processor: Any, prompt: Any, pictures: int) -> Chat | str:
    """The prompt as the processor takes it, with a place for each picture: by its chat template where it has one."""
    place = str(getattr(processor, "image_token", "") or "")
    if is_chat(prompt):
        return render(processor, prompt)
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError("the prompt is empty; give at least one word beside the picture")
    if place and place in prompt:
        return prompt
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}] * pictures + [{"type": "text", "text": prompt}]
        return render(processor, [{"role": "user", "content": content}])
    return place * pictures + prompt


def read_pair(processor: Any, prompt: Chat | str, images: Sequence[Any]) -> tuple[dict[str, Tensor], Text]:
    """Run the processor; return its tensors, and the text with the character span of every token.

    The places of pictures, and all that the processor or a template wrote, are special; they stand for no characters where
    the prompt has none for them. Raises InputError for what the processor refuses.
    """
    text = prompt.text if isinstance(prompt, Chat) else prompt
    more: dict[str, Any] = {"images": list(images)} if images else {}
    begins = isinstance(prompt, Chat) and text.startswith(str(processor.tokenizer.bos_token or "\0"))
    try:
        made = processor(text=text, return_tensors="pt", **more, **({"add_special_tokens": False} if begins else {}))
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as e:
        said = (str(e).splitlines() or [type(e).__name__])[0]
        raise InputError(f"{type(processor).__name__} cannot take this picture and prompt: {said}") from e
    tensors = {k: v for k, v in made.items() if isinstance(v, Tensor) and k not in LEFT_OUT}
    return tensors, _text(processor.tokenizer, prompt, tensors["input_ids"][0].tolist())


def _text(tokenizer: Any, prompt: Chat | str, ids: list[int]) -> Text:
    """The prompt as a `Text`: spans of the tokens that it makes alone, laid along the ids that the processor made."""
    text = prompt.text if isinstance(prompt, Chat) else prompt
    alone = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    known = set(tokenizer.all_special_ids)
    offsets, special = [(0, 0)] * len(ids), [True] * len(ids)
    for a, b, length in difflib.SequenceMatcher(None, alone["input_ids"], ids, autojunk=False).get_matching_blocks():
        for i in range(length):
            start, end = trim(text, *alone["offset_mapping"][a + i])
            offsets[b + i] = (start, end)
            users = prompt.written(start, end) if isinstance(prompt, Chat) else True
            special[b + i] = ids[b + i] in known or not users
    hidden = [span for i, span in zip(ids, offsets, strict=True) if i in known]
    tokens = [str(t) for t in tokenizer.convert_ids_to_tokens(ids)]
    return Text(text, tokens, offsets, plain_words(text, hidden), special, "prompt")


def _pictures_of(chat: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The pictures that a chat's messages carry."""
    parts = [p for m in chat if isinstance(m.get("content"), list) for p in m["content"]]
    found = [next((p[k] for k in ("image", "path") if k in p), None) for p in parts if p.get("type") == "image"]
    return [picture for picture in found if picture is not None]
