"""What is asked of a model of pictures and texts when no target is named, and where its output has the scores.

Its output need not have `logits`. A matching model is asked how well the two fit, not for the likelier of yes and no.
A model that answers in words writes its answer first; then the loss of that answer, which is all that its forward gives, is
explained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import InputError, TargetError
from regard.explanation.raw_inputs import Reading, Text
from regard.models.alignment import names_of
from regard.models.chats import can_write
from regard.models.texts import check_whole, plain_words, trim
from regard.recording.random_state import rng_kept
from regard.recording.refusals import refuse
from regard.target import Target, field

SCORES = {"LxmertForQuestionAnswering": "question_answering_score", "BlipForImageTextRetrieval": "itm_score"}
MATCH = {"BlipForImageTextRetrieval": 1, "ViltForImageAndTextRetrieval": 0}
WRITES = ("BlipForQuestionAnswering",)
MOST = 20  # tokens of an answer
ANSWER = "answer"  # what its text is called


@dataclass(frozen=True)
class Wanted:
    """What is to be explained of a reading: a target, a list of them, or what finds them in the model's output (`find`)."""

    reading: Reading
    target: Any = None
    find: Callable[[Any], list[Any]] | None = None
    notes: tuple[str, ...] = ()


def _known(model: nn.Module, table: Any) -> str | None:
    """The name in a table that a model's class, or one that it was derived from, bears."""
    return next((c.__name__ for c in type(model).__mro__ if c.__name__ in table), None)


def answers_in_words(model: nn.Module) -> bool:
    """Whether a model's answer is a text, of which its forward gives the loss alone."""
    return _known(model, WRITES) is not None


def compares(model: nn.Module) -> bool:
    """Whether a model of pictures and texts compares any number of the ones with any number of the others."""
    return hasattr(model, "logit_scale") and not can_write(model)


def target_of(model: nn.Module, c: int | None, pair: bool) -> Any:
    """A class, or None, as a target of this model. `pair`: it reads pictures and texts."""
    name = _known(model, SCORES)
    match = _known(model, MATCH)
    output = None if name is None else SCORES[name]
    if c is None and match is not None:
        return Target.of(lambda out: field(out, output or "logits")[:, MATCH[match]], "match of picture and text")
    if c is None and pair and compares(model):
        return Target.similarity()
    return Target.logit(c, output=output) if output is not None else c


def contrast_of(model: nn.Module, c: int | None, d: int | None) -> Target:
    """How much more of one class there is than of another."""
    name = _known(model, SCORES)
    return Target.contrast(c, d, output=None if name is None else SCORES[name])


def answered(model: nn.Module, tokenizer: Any, reading: Reading, answer: str | None) -> Wanted:
    """The reading with an answer, the model's own where none is given, and minus its loss as the target.

    y = -loss is the mean log-likelihood of the answer's tokens, but for the smoothing of labels that the model's loss has.
    """
    name = type(model).__name__
    config: Any = model.config
    if answer is None:
        refuse(model, False)
        with torch.no_grad(), rng_kept(model):
            prompt = {k: reading.inputs[k] for k in ("input_ids", "pixel_values", "attention_mask")}
            most = min(MOST, config.text_config.max_position_embeddings - 1)
            ids = model.generate(**prompt, max_new_tokens=most, do_sample=False, num_beams=1)[0].tolist()  # type: ignore[operator]
    else:
        check_whole(answer, "the answer")
        own = tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
        if not own:
            raise InputError("the answer is empty; give at least one word, or none for the model's own")
        ids = [model.decoder_start_token_id, *own, config.text_config.sep_token_id]
        if len(ids) > (most := config.text_config.max_position_embeddings):
            raise InputError(f"the answer has {len(ids)} tokens, but {name} takes at most {most}; shorten it")
    if len(ids) < 2:
        raise TargetError(f"{name} gave no answer; name one with target=")
    text = _text(tokenizer, ids)
    tokens = torch.tensor([ids], device=reading.inputs["input_ids"].device)
    more: dict[str, Tensor] = {"labels": tokens, "decoder_input_ids": tokens}
    special = {"decoder_input_ids": torch.tensor([text.special], device=tokens.device)}
    target = Target.of(lambda out: -field(out, "loss").reshape(1), label=f"minus the loss of the answer {text.text!r}")
    full = dataclasses.replace(
        reading,
        inputs=reading.inputs | more,
        raw={**reading.raw, "decoder_input_ids": [text]},
        special=reading.special | special,
    )
    return Wanted(full, target)


def _text(tokenizer: Any, ids: list[int]) -> Text:
    """An answer's ids as a text, each token's characters one after the other."""
    known = set(tokenizer.all_special_ids) | {ids[0]}
    text, spans = "", []
    for i in range(len(ids)):
        said = tokenizer.decode([t for t in ids[: i + 1] if t not in known], skip_special_tokens=True)
        spans.append((0, 0) if ids[i] in known else trim(said, len(text), len(said)))
        text = said
    return Text(text, names_of(tokenizer, ids), spans, plain_words(text, []), [i in known for i in ids], ANSWER)
