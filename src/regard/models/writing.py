"""What a model writes on from a prompt, by its own `generate`; and the inputs of one pass over prompt and writing."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import InputError, Misuse, ModelError
from regard.explanation import Reading, Text
from regard.models.alignment import names_of
from regard.models.chats import can_write as can_write
from regard.models.texts import longest, pad_id, plain_words, trim

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
OURS = ("max_length", "max_new_tokens", "return_dict_in_generate", "num_return_sequences", "generation_config")


@dataclass(frozen=True)
class Written:
    """`reading`: the prompt with all that was written; `stream`, `start`: where in it the first new token stands."""

    reading: Reading
    stream: str
    start: int
    ids: list[int]


def start_of(model: nn.Module) -> int | None:
    """The id that the decoder of an encoder-decoder begins with; None for other models."""
    config: Any = getattr(model, "config", None)
    if not getattr(config, "is_encoder_decoder", False) or not can_write(model):
        return None
    for owner in (getattr(model, "generation_config", None), config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            found = getattr(owner, name, None)
            if isinstance(found, int):
                return found
    return None


def write(
    model: nn.Module, tokenizer: Any, reading: Reading, count: int, options: dict[str, Any], seed: int
) -> Written:
    """Let the model write at most `count` tokens. Whoever calls keeps the random states.

    Raises ModelError for a model that cannot, Misuse for options that `generate` refuses, InputError for too long a prompt.
    """
    name = type(model).__name__
    if not can_write(model):
        raise ModelError(
            f"{name} cannot write: it has no generate(); give a causal, a sequence-to-sequence or a vision-language model"
        )
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise Misuse(f"max_new_tokens must be a whole number of at least 1, not {count!r}")
    for option in OURS:
        if option in options:
            raise Misuse(f"{option} cannot be given here; say how much to write with max_new_tokens")
    beside = bool(getattr(model.config, "is_encoder_decoder", False))
    prompt = {k: v for k, v in reading.inputs.items() if not k.startswith("decoder_")}
    read = prompt["input_ids"][0].tolist() if "input_ids" in prompt else []
    _check_room(tokenizer, model, 1 if beside else len(read), count)
    config, rest = _settings(model, tokenizer, count, options)
    _seed(model, seed)
    try:
        with silent(), torch.no_grad():
            made = model.generate(**prompt, generation_config=config, **rest)  # type: ignore[operator]
    except (ValueError, TypeError) as e:
        raise Misuse(f"{name}.generate refuses this: {(str(e).splitlines() or [''])[0]}") from e
    ids: Tensor = made if isinstance(made, Tensor) else made.sequences
    stream = "decoder_input_ids" if beside else "input_ids"
    start = 1 if beside else _begun(read, ids[0].tolist(), set(tokenizer.all_special_ids))
    if start is None:
        raise ModelError(f"{name}.generate does not give back the prompt before what it wrote")
    grown = prompt | {stream: ids} if beside else _grown(model, _cut(prompt, ids[:, :start], len(read)), ids)
    new = [int(i) for i in ids[0, start:]]
    text = _continued(tokenizer, reading.raw[stream][0] if stream in reading.raw else None, ids[0].tolist(), start)
    special = reading.special | {stream: torch.tensor([text.special], device=ids.device)}
    return Written(
        replace(reading, inputs=grown, raw={**reading.raw, stream: [text]}, special=special), stream, start, new
    )


def _begun(read: list[int], ids: list[int], special: set[int]) -> int | None:
    """How many of the ids that a model gave back are the prompt; None where it does not begin them.

    A captioner's own `generate` may put its start token in the place of the prompt's, or before it, and leave out the
    special token that closes the prompt.
    """
    if not read or ids[: len(read)] == read:
        return len(read) or 1
    content = [i for i in read if i not in special]
    ends = [start + len(content) for start in (0, 1) if ids[start : start + len(content)] == content]
    return next((end for end in ends if end), None)


def _cut(prompt: dict[str, Tensor], ids: Tensor, length: int) -> dict[str, Tensor]:
    """The prompt as it was given back: what goes along with its tokens is as long as they are."""
    along = {k: v[:, : ids.shape[1]] if length and v.shape == (1, length) else v for k, v in prompt.items()}
    return along | {"input_ids": ids}


def _check_room(tokenizer: Any, model: nn.Module, length: int, count: int) -> None:
    limit = longest(tokenizer, model)
    if limit is not None and length + count > limit:
        room = max(limit - length, 0)
        said = f"ask for at most {room}" if room else "shorten it"
        raise InputError(
            f"the prompt makes {length} tokens and {count} more are asked for, but {type(model).__name__} takes {limit}; {said}"
        )


def _settings(model: nn.Module, tokenizer: Any, count: int, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model's generation config with the options, greedy unless they say otherwise; and what is no part of it."""
    config: Any = copy.deepcopy(model.generation_config)
    draws = bool(options.get("do_sample", False))
    if not draws:
        for name in SAMPLING:
            if hasattr(config, name) and name not in options:
                setattr(config, name, None)
    config.max_length = None
    rest: dict[str, Any] = config.update(**{"num_beams": 1, "do_sample": draws, "max_new_tokens": count} | options)
    config.return_dict_in_generate = False
    config.num_return_sequences = 1
    if config.pad_token_id is None:
        config.pad_token_id = pad_id(tokenizer)
    return config, rest


def _seed(model: nn.Module, seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    for device in {p.device for p in model.parameters() if p.device.type == "cuda"}:
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def silent() -> Iterator[None]:
    """Keep what Transformers logs about settings and lengths off the screen; errors stay."""
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _grown(model: nn.Module, prompt: dict[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
    """Inputs of a pass over all ids: what goes along with the tokens grows as the model itself lets it grow."""
    length, count = prompt["input_ids"].shape[1], ids.shape[1] - prompt["input_ids"].shape[1]
    along: dict[str, Any] = dict(prompt)
    grow: Any = getattr(model, "_update_model_kwargs_for_generation", None)
    for _ in range(count if callable(grow) else 0):
        along["cache_position"] = torch.arange(length)  # older versions ask for it
        along = grow({}, along)
    out = {k: along[k] for k in prompt} | {"input_ids": ids}
    for key, value in out.items():
        if key != "input_ids" and value.shape == (1, length):
            out[key] = torch.cat([value, value[:, -1:].expand(-1, count)], 1)
    return out


def _continued(tokenizer: Any, before: Any, ids: list[int], start: int) -> Text:
    """The text of all tokens: the prompt as it was read, and what was written after it, with the spans of its tokens."""
    known = set(tokenizer.all_special_ids)
    names = names_of(tokenizer, ids)
    if not isinstance(before, Text) or len(before.tokens) < start:
        before = Text("", names[:start], [(0, 0)] * start, [], [True] * start)
    text, spans = _spans(tokenizer, ids, start, before.text)
    return Text(
        text,
        names,
        before.offsets[:start] + [(0, 0) if i in known else span for i, span in zip(ids[start:], spans, strict=True)],
        before.words + plain_words(text, [(0, len(before.text))]),
        before.special[:start] + [i in known for i in ids[start:]],
        before.name,
        before.messages,
    )


def _spans(tokenizer: Any, ids: list[int], start: int, before: str) -> tuple[str, list[tuple[int, int]]]:
    """The text with what the tokens from `start` on spell, and their spans in it.

    What a token spells is what it adds to the text so far. One that only makes a character together with later ones
    (part of its bytes) shares their span.
    """
    said = [_decoded(tokenizer, ids[:n]) for n in range(start, len(ids) + 1)]
    text, spans, last, waiting = before, [], said[0], 0
    for n, now in enumerate(said[1:], 1):
        waiting += 1
        if not all(later.startswith(now) for later in said[n + 1 : n + 4]):
            continue  # a character has four bytes at most
        piece = now[_shared(now, last) :]
        spans += [trim(text + piece, len(text), len(text + piece))] * waiting
        text, last, waiting = text + piece, now, 0
    return text, spans


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _shared(a: str, b: str) -> int:
    """How many characters two texts have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
