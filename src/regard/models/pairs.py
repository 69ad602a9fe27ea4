"""A picture and a text for one model: a question, a caption, or a prompt that has places for the picture.

One processor holds what reads the two. Where it has a chat template or a token for pictures, it writes their places
into the text; where it has none, picture and text are streams side by side.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from regard.errors import InputError
from regard.explanation.raw_inputs import Text
from regard.models.alignment import laid, names_of, spans_of, special_ids
from regard.models.chats import Chat, can_write, is_chat, messages_of, render, with_messages
from regard.models.generate import silent
from regard.models.pictures import names_picture
from regard.models.texts import as_words, check_whole, plain_words, trim

LEFT_OUT = ("labels",)  # what some processors add for training
PICTURES, UNREAD = ("image", "image_url", "input_image"), ("video", "video_url", "audio", "input_audio", "audio_url")


@dataclass(frozen=True)
class Wants:
    """What a model takes of a (picture, text): whether each must be there, and whether it reads texts at all.

    begins: the text is no prompt, but what the model's decoder begins with: a task, a question, the first words.
    """

    picture: bool
    text: bool
    words: bool = True
    begins: bool = False


def wants(model: nn.Module, processor: Any) -> Wants:
    """By the processor, where it writes pictures into a prompt; else by what the model's forward asks for.

    A model that writes begins a caption without a text, one that answers or matches needs both.
    """
    if _places_itself(processor):
        return Wants(picture=True, text=False)
    if getattr(processor, "chat_template", None) or getattr(processor, "image_token", None):
        return Wants(picture=False, text=True)
    ids = inspect.signature(model.forward).parameters.get("input_ids")
    if ids is None:
        beside = "decoder_input_ids" in inspect.signature(model.forward).parameters and can_write(model)
        return Wants(picture=True, text=False, words=beside, begins=beside)
    return Wants(picture=True, text=ids.default is ids.empty or not can_write(model))


def _places_itself(processor: Any) -> bool:
    """Whether a processor puts the places of pictures before any text by itself: as many as there are queries (BLIP-2)."""
    return getattr(processor, "num_query_tokens", None) is not None


def split(raw: Any, wanted: Wants, name: str) -> tuple[list[Any], Any]:
    """The pictures and the prompt (a text, a chat, a list of texts or None) of one raw input.

    It is (picture, text), ([pictures], text), or one alone. A str alone is a text, or the path of a picture where the model
    needs no text. In a chat the pictures are told from their places: those that it names, by "image", "url", "path" or
    "base64", and the given ones for the others.
    Raises InputError where what the model needs is missing.
    """
    pictures, prompt = _parts(raw, wanted)
    if is_chat(prompt):
        pictures, prompt = _placed(pictures, prompt)
    both = f"{name} reads (picture, text)"
    if prompt is not None and not wanted.words:
        raise InputError(f"{name} reads pictures and takes no text; give the picture alone")
    if wanted.picture and not pictures:
        raise InputError(f"no picture was given; {both if wanted.text else f'{name} reads a picture'}")
    if wanted.text and prompt is None:
        raise InputError(f"no text was given beside the picture; {both}")
    return pictures, prompt


def _parts(raw: Any, wanted: Wants) -> tuple[list[Any], Any]:
    if isinstance(raw, tuple) and len(raw) == 2:
        given, prompt = raw
        pictures = list(given) if isinstance(given, list) and not is_chat(given) else [given]
        return [p for p in pictures if p is not None], prompt if prompt != "" or wanted.text else None
    if is_chat(raw):
        return [], raw
    if isinstance(raw, str) and wanted.text:
        if called := names_picture(raw):
            raise InputError(f"{raw!r} {called}, not a text; give (picture, text)")
        return [], raw
    return [raw], None


def _placed(given: list[Any], chat: Any) -> tuple[list[Any], Any]:
    """The pictures of a chat in the order of their places, and the chat with the places alone.

    Where a chat has no place for the pictures that are given beside it, they come before the first user's words.
    """
    left, found, messages = list(given), [], messages_of(chat)
    for number, message in enumerate(messages):
        if not isinstance(message.get("content"), list):
            continue
        parts: list[Any] = []
        for part in message["content"]:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind in UNREAD:
                raise InputError(f"message {number} holds a part of type {kind!r}; only pictures and texts are read")
            if kind not in PICTURES:
                parts.append(part)
                continue
            source = _source(part)
            if source is None and not left:
                raise InputError(
                    f"message {number} has a place for a picture, but none is given for it: name it in the message "
                    '({"type": "image", "path": "cat.png"}), or give (picture, chat)'
                )
            found.append(left.pop(0) if source is None else source)
            parts.append({"type": "image"})
        message["content"] = parts
    if left and found:
        raise InputError(f"the chat has places for {len(found)} pictures, and {len(left)} more are given beside it")
    if left:
        first = next((m for m in messages if m.get("role") == "user"), None)
        if first is None:
            raise InputError("the chat has no user's turn to put the picture into")
        said = first.get("content") or []
        said = [{"type": "text", "text": said}] if isinstance(said, str) else said
        first["content"] = [{"type": "image"}] * len(left) + said
    return found + left, with_messages(chat, messages)


def _source(part: Mapping[str, Any]) -> Any:
    """What a chat's part names as its picture, by the key of Transformers or of OpenAI; None for a place alone."""
    found = next((part[k] for k in ("image", "url", "path", "image_url") if part.get(k) is not None), None)
    if found is None and part.get("base64") is not None:
        return f"data:;base64,{part['base64']}"
    return found.get("url") if isinstance(found, Mapping) else found


def prompt_of(model: nn.Module, processor: Any, prompt: Any, pictures: int) -> Chat | str | None:
    """The prompt as the processor takes it, with a place for each picture: by its chat template where it has one.

    A text that spells special tokens was rendered already, and is taken as it is.
    """
    place = str(getattr(processor, "image_token", "") or "")
    if is_chat(prompt):
        return render(processor, prompt, can_write(model))
    if prompt is None:  # a caption is to be written, from the picture alone
        return "" if _places_itself(processor) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError("the prompt is empty; give at least one word beside the picture")
    if _places_itself(processor):
        return prompt.replace(place, "").strip()
    places = prompt.count(place) if place else 0
    if places and places != pictures:
        raise InputError(f"the prompt needs one {place} per picture: it has {places} for {pictures}")
    tokenizer = processor.tokenizer
    if places or any(str(t) in prompt for t in tokenizer.all_special_tokens if t != tokenizer.unk_token):
        return prompt
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}] * pictures + [{"type": "text", "text": prompt}]
        return render(processor, [{"role": "user", "content": content}], can_write(model))
    return place * pictures + prompt


def padding(model: nn.Module) -> dict[str, Any]:
    """How the processor is to pad a text: to all its places for a tower that reads the last of them, as SigLIP's does."""
    config: Any = getattr(model, "config", None)
    if "siglip" not in str(getattr(config, "model_type", "")):
        return {}
    return {
        "padding": "max_length",
        "max_length": config.get_text_config().max_position_embeddings,
        "truncation": False,
    }


def read_pair(
    processor: Any, prompt: Chat | str | None, images: Sequence[Any], options: Mapping[str, Any] = MappingProxyType({})
) -> tuple[dict[str, Tensor], Text | None, list[str]]:
    """Run the processor; return its tensors, the text, if there is one, with the character span of every token, and notes.

    `options` go to the processor. The places of pictures, and all that the processor or a template wrote, are special; they
    stand for no characters where the prompt has none for them. Raises InputError for what the processor refuses.
    """
    text, notes = (prompt.text, list(prompt.notes)) if isinstance(prompt, Chat) else (prompt, [])
    more: dict[str, Any] = {"images": list(images)} if images else {}
    more |= {} if text is None else {"text": text, **options}
    check_whole(text or "", "the text")
    bos = str(processor.tokenizer.bos_token or "\0")
    if text is not None and text.startswith(bos):
        more["add_special_tokens"] = False
        if not isinstance(prompt, Chat):
            notes.append(f"{bos!r} is in the text already and was not added again")
    try:
        with silent():  # a text that is too long is our own error
            made = processor(return_tensors="pt", **more)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as e:
        said = (str(e).splitlines() or [type(e).__name__])[0]
        raise InputError(f"{type(processor).__name__} cannot take this picture and prompt: {said}") from e
    tensors = {k: v for k, v in made.items() if isinstance(v, Tensor) and k not in LEFT_OUT}
    if prompt is None:
        return tensors, None, notes
    return tensors, text_of(processor.tokenizer, prompt, tensors["input_ids"][0].tolist()), notes


def text_of(tokenizer: Any, prompt: Chat | str, ids: list[int]) -> Text:
    """The prompt as a `Text`: spans of the tokens that it makes alone, laid along the ids that the processor made."""
    text = prompt.text if isinstance(prompt, Chat) else prompt
    alone, spans = spans_of(tokenizer, text)
    known, names, places = special_ids(tokenizer), names_of(tokenizer, ids), laid(alone, ids)
    if spans is None:  # the tokens do as words
        text, offsets = as_words(names, [i in known for i in ids])
        return Text(text, names, offsets, [o for o in offsets if o[1]], [i in known for i in ids], "prompt")
    offsets = [(0, 0) if p is None else trim(text, *spans[p]) for p in places]
    users = [
        prompt.written(*o) if isinstance(prompt, Chat) else p is not None for o, p in zip(offsets, places, strict=True)
    ]
    special = [i in known or not mine for i, mine in zip(ids, users, strict=True)]
    hidden = [span for i, span in zip(ids, offsets, strict=True) if i in known]
    messages = prompt.messages if isinstance(prompt, Chat) else []
    return Text(text, names, offsets, plain_words(text, hidden), special, "prompt", messages)
