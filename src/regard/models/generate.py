"""What a model writes on from a prompt, by its own `generate`, or an answer that is there already; and the inputs of one pass
over both.

Where the writing begins is read off what `generate` gives back: after the prompt, or, beside an encoder, after what the
decoder was made to begin with (its start token, a task, a language, the first words of the answer).
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from regard.errors import InputError, Misuse, ModelError
from regard.explanation.raw_inputs import Reading, Text
from regard.kinds import Count, check_kind
from regard.models.alignment import names_of, spans_of, special_ids
from regard.models.chats import can_write as can_write
from regard.models.texts import check_whole, longest, pad_id, plain_words, spaced, trim

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
UNREAD = ("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states")
TEMPLATES = (
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "enable_thinking",
    "chat_template",
)
COUNT = 20  # tokens, where nobody says how many


@dataclass(frozen=True)
class Written:
    """`reading`: the prompt with all that was written; `stream`, `start`: where in it the first new token stands."""

    reading: Reading
    stream: str
    start: int
    ids: list[int]

    @property
    def text(self) -> Text:
        """The text of the stream: what it began with, and what was written."""
        found = self.reading.raw[self.stream][0]
        assert isinstance(found, Text)
        return found


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
    model: nn.Module, tokenizer: Any, reading: Reading, count: int | None, options: dict[str, Any], seed: int
) -> Written:
    """Let the model write at most `count` tokens. Whoever calls keeps the random states.

    Raises ModelError for a model that cannot, Misuse for options that `generate` refuses, InputError for too long a prompt.
    """
    ids, stream, start = _generated(model, tokenizer, reading, count, options, seed)
    return _joined(model, tokenizer, reading, ids, stream, start)


def already(
    model: nn.Module, tokenizer: Any, reading: Reading, answer: Any, options: dict[str, Any], seed: int
) -> Written:
    """An answer that is there, a text or ids, as if the model had written it: after all that its `generate` begins with."""
    ids, stream, start = _generated(model, tokenizer, reading, 1, options, seed)
    given = answer_ids(model, tokenizer, answer, reading.raw.get(stream), ids[0, :start].tolist(), stream)
    _check_room(tokenizer, model, start, len(given))
    full = torch.cat([ids[:, :start], torch.tensor([given], device=ids.device)], 1)
    return _joined(model, tokenizer, reading, full, stream, start)


def _generated(
    model: nn.Module, tokenizer: Any, reading: Reading, count: int | None, options: dict[str, Any], seed: int
) -> tuple[Tensor, str, int]:
    """The ids (1, tokens) that `generate` gives back, the stream they are of, and where in them its own begin."""
    name, options = type(model).__name__, dict(options)
    if not can_write(model):
        raise ModelError(
            f"{name} cannot write: it has no generate(); give a causal, a sequence-to-sequence or a vision-language model"
        )
    beside = bool(getattr(model.config, "is_encoder_decoder", False))
    prompt = {k: v for k, v in reading.inputs.items() if not k.startswith("decoder_")}
    begun = _begun_with(model, reading, options) if beside else []
    config, rest = _settings(model, tokenizer, count, options)
    forced = (
        [config.forced_bos_token_id] if beside and len(begun) == 1 and config.forced_bos_token_id is not None else []
    )
    if forced:  # a language to translate into, say: it is not the model that chose it
        config.max_new_tokens += 1
    if begun and begun != [start_of(model)]:
        prompt["decoder_input_ids"] = torch.tensor([begun], device=_device(reading))
    read = prompt["input_ids"][0].tolist() if "input_ids" in prompt else []
    length = len(begun) or len(read)
    _check_room(tokenizer, model, length, config.max_new_tokens)
    _stop_at_strings(tokenizer, config, rest, length + len(forced))
    _seed(model, seed)
    with silent(), torch.no_grad(), _one_sentence(name):
        made = model.generate(**prompt, generation_config=config, **rest, **_all_of_it(model))  # type: ignore[operator]
    ids: Tensor = made if isinstance(made, Tensor) else made.sequences
    found = ids[0].tolist()
    start = (
        _after([*begun, *forced] or found[:1], found) if beside else _begun(read, found, set(tokenizer.all_special_ids))
    )
    if start is None:
        raise ModelError(f"{name}.generate does not return the prompt before what it wrote")
    start = _put_first(tokenizer, model, found, start) if beside else start
    return ids, "decoder_input_ids" if beside else "input_ids", start


def _joined(model: nn.Module, tokenizer: Any, reading: Reading, ids: Tensor, stream: str, start: int) -> Written:
    """The reading, grown by what was written."""
    prompt = {k: v for k, v in reading.inputs.items() if not k.startswith("decoder_")}
    length = prompt["input_ids"].shape[1] if "input_ids" in prompt else 0
    beside = stream == "decoder_input_ids"
    grown = prompt | {stream: ids} if beside else _grown(model, _cut(prompt, ids[:, :start], length), ids)
    every = [int(i) for i in ids[0]]
    before = (
        begun_text(tokenizer, every[:start]) if beside else reading.raw[stream][0] if stream in reading.raw else None
    )
    text = _continued(tokenizer, before, every, start)
    special = reading.special | {stream: torch.tensor([text.special], device=ids.device)}
    new = replace(reading, inputs=grown, raw={**reading.raw, stream: [text]}, special=special)
    return Written(new, stream, start, every[start:])


@contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    """What `generate` raises over its options, as Misuse."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, NotImplementedError) as e:
        said = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise Misuse(f"{name}.generate refuses this: {said}") from e


def _device(reading: Reading) -> torch.device:
    return next(t.device for t in reading.inputs.values())


# -- what a decoder begins with, and answers that are there already ---------------------------------------------------


def _begun_with(model: nn.Module, reading: Reading, options: dict[str, Any]) -> list[int]:
    """What the decoder beside an encoder has before it writes: the user's own ids, else what was read, else its start."""
    given = options.pop("decoder_input_ids", None)
    mask = options.pop("decoder_attention_mask", None)
    if mask is not None and not bool(torch.as_tensor(mask).all()):
        raise Misuse("decoder_attention_mask leaves tokens out; give decoder_input_ids without padding")
    if given is not None:
        return begin(model, checked_ids(model, given, "decoder_input_ids"))
    return [int(i) for i in reading.inputs["decoder_input_ids"][0]] if "decoder_input_ids" in reading.inputs else []


def begin(model: nn.Module, ids: list[int]) -> list[int]:
    """What a decoder reads of ids that it is to begin with: after its start token, as `generate` has it.

    Document readers (Donut) and Whisper begin with tokens of the task, and with no other.
    """
    config: Any = model.config
    kinds = f"{type(model).__name__} {config.model_type} {getattr(getattr(config, 'encoder', None), 'model_type', '')}".lower()
    start = start_of(model)
    own = start is None or "donut" in kinds or "whisper" in kinds or ids[:1] == [start]
    return ids if own else [cast(int, start), *ids]


def begins_with(model: nn.Module, tokenizer: Any, text: Any) -> list[int]:
    """The ids that a decoder beside an encoder begins with: its start token, or a text that it is to go on from."""
    if text is None:
        return [cast(int, start_of(model))]
    if not isinstance(text, str) or not text.strip():
        raise InputError("what the model is to begin with must be a text with at least one word, or be left out")
    check_whole(text, "what the model is to begin with")
    return begin(model, checked_ids(model, tokenizer(text, add_special_tokens=False)["input_ids"], "the text"))


def begun_text(tokenizer: Any, ids: list[int]) -> Text:
    """What a decoder begins with, as a text."""
    return _continued(tokenizer, Text("", [], [], [], [], "output"), ids, 0)


def checked_ids(model: nn.Module, given: Any, what: str) -> list[int]:
    """One sequence of token ids: a tensor (tokens,) or (1, tokens), or a list. Raises InputError for anything else."""
    try:
        ids = torch.as_tensor(given)
        ids = ids.long() if ids.numel() == 0 else ids
    except (TypeError, ValueError, RuntimeError) as e:
        raise InputError(f"{what} must be a text, or the ids of one text; it is a {type(given).__name__}") from e
    if (
        ids.is_floating_point()
        or ids.dtype == torch.bool
        or ids.ndim not in (1, 2)
        or (ids.ndim == 2 and len(ids) != 1)
    ):
        raise InputError(
            f"{what} must be the ids of one text, whole numbers (tokens,); it is {ids.dtype} {tuple(ids.shape)}"
        )
    config: Any = model.config
    of_text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    known = getattr(config, "tgt_vocab_size", None) or getattr(of_text, "vocab_size", None)
    flat = [int(i) for i in ids.flatten()]
    if not flat:
        raise InputError(f"{what} is empty; give at least one token")
    if known is not None and not all(0 <= i < known for i in flat):
        bad = next(i for i in flat if not 0 <= i < known)
        raise InputError(f"{what} has the id {bad}, but {type(model).__name__} knows {known} tokens, numbered from 0")
    return flat


def answer_ids(model: nn.Module, tokenizer: Any, answer: Any, prompt: Any, begun: list[int], stream: str) -> list[int]:
    """The ids of an answer after a prompt. Ids that repeat the prompt, as `generate` gives them back, lose it."""
    if not isinstance(answer, str):
        ids = checked_ids(model, answer, "the answer")
        return ids[len(begun) :] if ids[: len(begun)] == begun and len(ids) > len(begun) else ids
    if not answer.strip():
        raise InputError("the answer is empty; give at least one word")
    check_whole(answer, "the answer")
    if stream == "decoder_input_ids":
        return checked_ids(model, tokenizer(text_target=answer, add_special_tokens=False)["input_ids"], "the answer")
    text = prompt[0] if prompt else Text("", [], [], [], [])
    apart = spaced(text.text, answer)
    ways = [answer, f" {answer}"] if text.special[-1:] == [True] else [f" {answer}" if apart else answer]
    for said in ways:
        for before in (text.text, *text.text.split()[-1:]):  # places of pictures are written out: after the last word
            found = _after_text(tokenizer, before, said)
            if found is not None and (before != text.text or begun[-len(found[0]) :] == found[0]):
                return checked_ids(model, found[1], "the answer")
    return checked_ids(model, spans_of(tokenizer, answer)[0], "the answer")


def _after_text(tokenizer: Any, before: str, said: str) -> tuple[list[int], list[int]] | None:
    """The ids of a text and of what goes on from it; None where a token would belong to both."""
    alone = spans_of(tokenizer, before)[0]
    ids, spans = spans_of(tokenizer, before + said)
    if not alone or spans is None or ids[: len(alone)] != alone or len(ids) == len(alone):
        return None
    places = [trim(before + said, *span) for span in spans]
    if any(b > len(before) for _, b in places[: len(alone)]) or any(
        b > 0 and a < len(before) for a, b in places[len(alone) :]
    ):
        return None
    return alone, ids[len(alone) :]


def _after(begun: list[int], ids: list[int]) -> int | None:
    """How many of the ids that a model gave back are what its decoder began with, behind a start token at most."""
    ends = [start + len(begun) for start in (0, 1) if ids[start : start + len(begun)] == begun]
    return ends[0] if ends else None


def _all_of_it(model: nn.Module) -> dict[str, Any]:
    """What lets a `generate` that gives back only what it wrote (Whisper's) give back all that its decoder read."""
    named = inspect.signature(cast(Any, model.generate)).parameters
    return {"force_unique_generate_call": True} if "force_unique_generate_call" in named else {}


def _put_first(tokenizer: Any, model: nn.Module, ids: list[int], start: int) -> int:
    """Where a decoder's own writing begins, of such a `generate`, which puts a language and a task behind the start token."""
    if not _all_of_it(model):
        return start
    ends = cast(Any, model.generation_config).eos_token_id
    put = special_ids(tokenizer) - set(ends if isinstance(ends, list) else [ends])
    return next((n for n, i in enumerate(ids) if n >= start and i not in put), len(ids))


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
            f"the prompt has {length} tokens and {count} more are asked for, but {type(model).__name__} takes {limit}; {said}"
        )


def _settings(
    model: nn.Module, tokenizer: Any, count: int | None, options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """How to write: the model's generation config, what the user's says, the options; and what is no part of a config.

    Greedy unless the user says otherwise: what a checkpoint would draw by is left out.
    """
    given: Any = options.pop("generation_config", None)
    said = {} if given is None else {k: v for k, v in given.to_dict().items() if v is not None and k[0] != "_"}
    said = {k: v for k, v in (said | options).items() if k not in (*UNREAD, "transformers_version")}
    _check_options(said)
    config: Any = copy.deepcopy(model.generation_config)
    draws = bool(said.get("do_sample", False))
    for name in SAMPLING if not draws else ():
        if hasattr(config, name) and name not in said:
            setattr(config, name, None)
    config.max_length = None
    count = said.get("max_new_tokens", COUNT) if count is None else count
    check_kind("max_new_tokens", count, Count)
    plain = {"num_beams": 1, "do_sample": draws, "num_return_sequences": 1}
    rest: dict[str, Any] = config.update(**plain | said | {"max_new_tokens": count})
    config.return_dict_in_generate = False
    if config.pad_token_id is None:
        config.pad_token_id = pad_id(tokenizer)
    return config, rest


def _stop_at_strings(tokenizer: Any, config: Any, rest: dict[str, Any], length: int) -> None:
    """Let the writing end with any of the config's stop strings, which Transformers cannot do with every tokenizer."""
    strings = getattr(config, "stop_strings", None)
    if not strings:
        return
    wanted = [strings] if isinstance(strings, str) else list(strings)

    def ended(ids: Tensor, _scores: Any, **_more: Any) -> Tensor:
        said = [_decoded(tokenizer, row[length:].tolist()) for row in ids]
        return torch.tensor([any(s in text for s in wanted) for text in said], device=ids.device)

    config.stop_strings = None
    rest.pop("tokenizer", None)
    rest["stopping_criteria"] = [*(rest.get("stopping_criteria") or ()), ended]


def _check_options(said: dict[str, Any]) -> None:
    """Refuse options that cannot do here what they do in `generate`, each with its reason."""
    if "max_length" in said:
        raise Misuse("max_length counts the prompt as well; say how much to write with max_new_tokens")
    if (several := said.get("num_return_sequences", 1)) != 1:
        raise Misuse(
            f"one text is written and explained at a time, not num_return_sequences={several}; for other draws, ask again "
            "with seed=1, seed=2, ..."
        )
    for name in TEMPLATES:
        if name in said:
            raise Misuse(f"{name} is for the chat's template: give {{'messages': [...], {name!r}: ...}} as the prompt")
    for name in ("text", "answer", "against", "generated_text", "labels"):
        if name in said:
            raise Misuse(
                f"{name} is not an option here; to explain an existing answer, use explain_writing(prompt, answer)"
            )


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
