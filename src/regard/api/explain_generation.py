"""Explain what a model writes on from a prompt, or an answer that is there already: each token written is a target.

The model writes with its own `generate`; then one pass over the prompt and all that was written ("teacher-forced") has, at
every position, the scores that the next token was chosen by. Each token written is a target of that one pass
(`Target.next_token`), so that a model that looks only back gives it zero at its own and all later tokens.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regard.api.explain import explain_reading
from regard.attribution.table import method as method_row
from regard.errors import Misuse, nearest
from regard.explanation.causal_test import LateTest
from regard.explanation.explanation import Explanation
from regard.explanation.generation import AGAINST, Generation, begins
from regard.explanation.raw_inputs import Reading, Text
from regard.explanation.receipt import Measured, Receipt
from regard.explanation.token_rows import TokenRows
from regard.explanation.transfer import LateTransfer
from regard.models.alignment import names_of
from regard.models.generate import Written, already, write
from regard.recording.interrupted import left_as_found
from regard.recording.random_state import rng_kept
from regard.recording.refusals import refuse
from regard.target import Target, Value
from regard.written import TARGETS


@dataclass(frozen=True)
class How:
    """How to explain what was written: the method with its options, what of each token, and what `regard.explain` takes.

    given: it was not the model that wrote it.
    """

    method: str
    target: str
    options: dict[str, Any]
    given: bool = False

    @classmethod
    def taken(cls, method: str, target: str, options: dict[str, Any], given: bool = False) -> How:
        """Take out of `options` what is for the explanation; the rest is for `generate`."""
        if target not in TARGETS:
            raise nearest(str(target), TARGETS, "target of a generation")
        if not isinstance(method, str):
            raise Misuse("a generation is explained by one method at a time; give its name")
        names = (*method_row(method).options, "baseline", "site", "measure", "streams", "memory_budget")
        return cls(method, target, {k: options.pop(k) for k in names if k in options}, given)


@left_as_found
def explain_generation(
    model: nn.Module,
    tokenizer: Any,
    reading: Reading,
    notes: Sequence[str] = (),
    max_new_tokens: int | None = None,
    method: str = "gae",
    target: str = "logit",
    *,
    seed: int = 0,
    **options: Any,
) -> Generation:
    """Let a model write on from a prompt that a reader read, and explain every token; see `Reader.explain_generation`."""
    how = How.taken(method, target, options)
    refuse(model, False)
    with rng_kept(model):
        written = write(model, tokenizer, reading, max_new_tokens, options, seed)
    targets = targets_of(target, written)
    found = explained(model, tokenizer, written, targets, how, notes, seed)
    return Generation(found, written.ids, written.stream, written.start, method, target)


@left_as_found
def explain_writing(
    model: nn.Module,
    tokenizer: Any,
    reading: Reading,
    notes: Sequence[str],
    answer: Any,
    against: Any = None,
    method: str = "gae",
    target: str = "logit",
    *,
    seed: int = 0,
    **options: Any,
) -> Generation:
    """Explain an answer that is there already, token by token and as a whole; see `Reader.explain_writing`."""
    how = How.taken(method, target, options, given=True)
    refuse(model, False)
    with rng_kept(model):
        written = already(model, tokenizer, reading, answer, options, seed)
        other = None if against is None else already(model, tokenizer, reading, against, options, seed)
    if other is None:
        targets = targets_of(target, written)
        *found, whole = explained(model, tokenizer, written, [*targets, _sum(written)], how, notes, seed)
        return Generation(found, written.ids, written.stream, written.start, method, target, whole)
    if other.ids == written.ids:
        raise Misuse("the answer and the one that it is told from are the same; give another one")
    kind = "contrast" if len(other.ids) == len(written.ids) else "log_probability"
    targets = targets_of(kind, written) if kind != "contrast" else _rivals(written, other)
    *found, whole = explained(model, tokenizer, written, [*targets, _sum(written)], how, notes, seed)
    if kind == "contrast":
        found = _filled(found, written, other)
    if kind == "contrast" and other.ids[:-1] == written.ids[:-1]:  # one pass reads both
        whole = _renamed(found[-1], f"{_sum(written).label} less {_sum(other).label}")
    else:
        (second,) = explained(model, tokenizer, other, [_sum(other)], how, notes, seed)
        whole = less(whole, second, written.stream, written.start)
    return Generation(found, written.ids, written.stream, written.start, method, kind, whole)


def explained(
    model: nn.Module,
    tokenizer: Any,
    written: Written,
    targets: list[Target],
    how: How,
    notes: Sequence[str],
    seed: int,
) -> list[Explanation]:
    """Several targets of one pass over a prompt and what was written after it."""
    inputs: dict[str, Any] = dict(written.reading.inputs)
    all_read = "scores" in method_row(how.method).needs
    if not all_read and "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = len(written.ids) + 1  # the prompt's own scores are not asked for
    prompts = {written.stream: written.start}
    reading = dataclasses.replace(written.reading, inputs=inputs, prompts=prompts)
    found = explain_reading(model, reading, targets, how.method, seed=seed, **how.options)
    assert isinstance(found, list)
    for explanation in found:
        explanation.receipt.notes += [*notes, *_unlike(explanation.receipt, tokenizer, how.given)]
    return found


def _target(kind: str, text: Text, start: int, i: int, ids: Sequence[int]) -> Target:
    """The i-th token written, read where the token before it stands; positions from the end hold in every model."""
    id, position = ids[i], i - len(ids) - 1
    made = {
        "logit": lambda: Target.next_token(id, position),
        "log_probability": lambda: Target.log_probability(id, position),
        "contrast": lambda: Target.contrast(id, None, position),
    }[kind]()
    rival = ", less the best other one" if kind == "contrast" else ""
    what = "logit" if kind == "contrast" else kind.replace("_", "-")
    name = _name(text, start + i)
    label = f"{what} of {name} (token {id}, number {i + 1} written){rival}"
    return dataclasses.replace(made, label=label, headed=None, classes="token")  # the head is an ordinary one


def _name(text: Text, at: int) -> str:
    """A token as it stands in the text, in quotation marks."""
    a, b = text.offsets[at]
    return repr(text.text[a:b] if b > a else text.tokens[at])


def targets_of(kind: str, written: Written) -> list[Target]:
    """Each token written, as a target of one pass over all of them."""
    return [_target(kind, written.text, written.start, i, written.ids) for i in range(len(written.ids))]


def _rivals(written: Written, other: Written) -> list[Target]:
    """Each token of an answer against that in its place in another one, where they differ, after the answer's own tokens.

    The difference of their log-probabilities is that of their logits.
    """
    count = len(written.ids)
    return [
        dataclasses.replace(
            Target.contrast(a, b, i - count - 1), label=_against(written, other, i), headed=None, classes="token"
        )
        for i, (a, b) in enumerate(zip(written.ids, other.ids, strict=True))
        if a != b
    ]


def _against(written: Written, other: Written, i: int) -> str:
    mine, theirs = (_name(w.text, w.start + i) for w in (written, other))
    return f"log-probability of {mine} less that of {theirs} (number {i + 1})"


def _filled(found: Sequence[Explanation], written: Written, other: Written) -> list[Explanation]:
    """One explanation a token: where both answers have the same one nothing tells them apart, and all is zero."""
    left = iter(found)
    return [
        next(left) if a != b else _nothing(found[0], _against(written, other, i))
        for i, (a, b) in enumerate(zip(written.ids, other.ids, strict=True))
    ]


def _nothing(like: Explanation, label: str) -> Explanation:
    """An explanation of 0, which rests on nothing."""
    none, receipt = torch.zeros_like(like.receipt.target_value), like.receipt
    receipt = dataclasses.replace(
        receipt,
        target=label,
        target_value=none,
        attribution_sum=torch.zeros_like(receipt.attribution_sum),
        explained=None,
        predicted=None,
        notes=["both answers have this token here: it does not tell them apart"],
        _measured=None,
        _measure=lambda: _unmoved(like.receipt),
    )
    return dataclasses.replace(
        like,
        target=label,
        scores={s: torch.zeros_like(x) for s, x in like.scores.items()},
        receipt=receipt,
        _token_rows=TokenRows(
            refused="both answers have this token, so nothing is explained here and no token looks at another"
        ),
        _transfer=LateTransfer(refused="both answers have this token, so nothing is explained here and nothing moves"),
        late_test=LateTest(refused="both answers have this token, so nothing is explained here that could be tested"),
    )


def _unmoved(receipt: Receipt) -> Measured:
    """What is measured of a target that is 0 whatever is read, in the run of another one."""
    found = receipt.measure()
    none = None if found.attribution_target is None else torch.zeros_like(found.attribution_target)
    return Measured(found.output_difference, none, none)


def _renamed(explanation: Explanation, target: str) -> Explanation:
    """The same under another name of its target."""
    receipt = dataclasses.replace(explanation.receipt, target=target)
    return dataclasses.replace(explanation, target=target, receipt=receipt)


def _sum(written: Written) -> Target:
    """The log-probability of all that was written: the sum over its tokens."""
    ids = written.ids
    parts = [Target.log_probability(id, i - len(ids) - 1) for i, id in enumerate(ids)]

    def read(out: Any, inputs: Mapping[str, Any]) -> Value:
        return Value(torch.stack([part.value(out, inputs).y for part in parts]).sum(0))

    count = f"{len(ids)} token{'s' * (len(ids) != 1)}"
    answer = answer_of(written.text, written.start)
    said = answer.text.strip() or " ".join(answer.tokens)
    return Target(f"log-probability of {said!r} ({count})", read)


def answer_of(text: Text, start: int) -> Text:
    """What was written, as a text of its own."""
    cut = begins(text, start)
    words = [(a - cut, b - cut) for a, b in text.words if a >= cut]
    offsets = [(a - cut, b - cut) if b > a else (0, 0) for a, b in text.offsets[start:]]
    return Text(text.text[cut:], text.tokens[start:], offsets, words, text.special[start:], AGAINST)


def less(one: Explanation, other: Explanation, stream: str, start: int) -> Explanation:
    """What tells one answer from another: the map of the one less that of the other.

    y is the difference of their log-probabilities, each read after its own tokens. The tokens before `start` are those of
    both; the other's own are a stream by themselves, "against".
    """
    scores = {s: x - other.scores[s] for s, x in one.scores.items() if s != stream}
    mine, theirs = one.scores[stream], other.scores[stream]
    scores[stream] = torch.cat([mine[:, :start] - theirs[:, :start], mine[:, start:]], 1)
    text = other.inputs[stream][0]
    assert isinstance(text, Text)
    label = f"{one.target} less {other.target}"
    a, b = one.receipt, other.receipt
    receipt = dataclasses.replace(
        a,
        target=label,
        target_value=a.target_value - b.target_value,
        attribution_sum=a.attribution_sum - b.attribution_sum,
        passes=a.passes + b.passes,
        seconds=a.seconds + b.seconds,
        notes=[*dict.fromkeys([*a.notes, *b.notes]), "the map is that of the one answer less that of the other"],
        _measured=None,
        _measure=lambda: _both(a, b),
    )
    return dataclasses.replace(
        one,
        target=label,
        scores={s: scores[s] for s in one.scores} | {AGAINST: -theirs[:, start:]},
        receipt=receipt,
        inputs={**one.inputs, AGAINST: [answer_of(text, start)]},
        signed=True,
        _token_rows=TokenRows(
            refused="each answer was read in a pass of its own; ask one of them which tokens look at which"
        ),
        _transfer=LateTransfer(
            refused="each answer was read in a pass of its own; ask one of them how attention is transferred"
        ),
        late_test=LateTest(refused="each answer was read in a pass of its own; test one of them"),
    )


def _both(a: Receipt, b: Receipt) -> Measured:
    """What is measured of a difference: that of the one less that of the other."""
    before = a.passes + b.passes
    first, second = a.measure(), b.measure()
    differences = [d for d in (first.output_difference, second.output_difference) if d is not None]

    def lacking(x: Tensor | None, y: Tensor | None) -> Tensor | None:
        return None if x is None or y is None else x - y

    return Measured(
        max(differences) if len(differences) == 2 else None,
        lacking(first.baseline_value, second.baseline_value),
        lacking(first.attribution_target, second.attribution_target),
        a.passes + b.passes - before,
    )


def _unlike(receipt: Receipt, tokenizer: Any, given: bool) -> list[str]:
    """A note where the token that was written is not the one that this pass finds the most likely."""
    if receipt.explained is None or receipt.predicted is None or torch.equal(receipt.explained, receipt.predicted):
        return []
    best = int(receipt.predicted[0])
    (name,) = names_of(tokenizer, [best])
    said = f"the most likely token here is {name!r} ({best}), not the one "
    if given:
        return [f"{said}that the answer has"]
    return [f"{said}that was written: that was drawn or forced, or the two are as good as equal"]
