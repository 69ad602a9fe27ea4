"""What is explained: a scalar y for each sample, read from the model's output (formulas.md section 1)."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.errors import Misuse, TargetError, nearest
from regard.head import ORDINARY, Head, check_activation, head_of

Output = str | int | Callable[[Any], Tensor] | None
"""Where a model's output has the scores: the name of a field or its number, or a function: output -> (batch, class)."""

Classes = Any
"""An int (Python's, numpy's, or a tensor without axes), an integer (batch,) tensor or array, or None; see `_whole`."""


@dataclass(frozen=True)
class Value:
    """y (batch,), in the graph; and, where y belongs to a class, the class explained and the class predicted.

    rival: the class that it is contrasted with.
    shared: samples read rows of one another (several pictures and one text), so that each needs a gradient of its own.
    among: the scores of all classes where that of y is read, and the head that they are of; None: as the model has it.
    """

    y: Float[Tensor, " batch"]
    explained: Int[Tensor, " batch"] | None = None
    predicted: Int[Tensor, " batch"] | None = None
    shared: bool = False
    rival: Int[Tensor, " batch"] | None = None
    among: tuple[Float[Tensor, "batch class"], Head | None] | None = None


@dataclass(frozen=True)
class Target:
    """A scalar y per sample. Make one with the class methods; `label` is its name on receipts and pages.

    If `c` is None, the predicted class is explained, and the receipt says so. `output` names the field of the model's
    output that holds the scores (default: `logits`, or the output itself if it is a tensor), or is a function that makes them
    of the output. A class may be an int or a (batch,) tensor, one class per sample. `classes` says what the class numbers
    count: "class", "token" or "text".
    `contrasted` gives the contrast of a class with the best other one at the same place, `likelihood` its probability there.
    `made`: the class method that it was made with and its arguments, where a file can hold them.
    `apart` gives the target of some samples alone, where the target holds something for each.
    """

    label: str
    read: Callable[[Any, Mapping[str, Any]], Value]
    remade: Callable[..., Target] | None = dataclasses.field(default=None, repr=False)
    halves: tuple[Target, Target] | None = dataclasses.field(default=None, repr=False)
    headed: Callable[[nn.Module, Any], Target] | None = dataclasses.field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    classes: str = "class"
    contrasted: Callable[[Tensor], Target] | None = dataclasses.field(default=None, repr=False)
    likelihood: Callable[[Tensor], Target] | None = dataclasses.field(default=None, repr=False)
    made: tuple[str, dict[str, Any]] | None = dataclasses.field(default=None, repr=False)
    apart: Callable[[slice], Target] | None = dataclasses.field(default=None, repr=False)

    def at(self, classes: Tensor, rival: Tensor | None = None) -> Target:
        """The same target with its classes fixed (one per sample), for runs in which others may be predicted."""
        if self.remade is None:
            return self
        return self.remade(classes) if rival is None else self.remade(classes, rival)

    def of_samples(self, own: slice) -> Target:
        """The target of some samples of the batch alone."""
        return self if self.apart is None else replace(self.apart(own), label=self.label, notes=self.notes)

    def named(self, label: str, *notes: str) -> Target:
        """The same target under another name, with further notes."""
        headed = self.headed and (lambda model, out: self.on(model, out).named(label, *notes))
        return replace(self, label=label, notes=self.notes + notes, headed=headed)

    def on(self, model: nn.Module, output: Any) -> Target:
        """The same target, knowing what the scores of this model mean, which gave `output` with its graph (see head.py)."""
        return self if self.headed is None else self.headed(model, output)

    def value(self, output: Any, inputs: Mapping[str, Any]) -> Value:
        """y and its classes. Raises TargetError if the output has no such value."""
        return self.read(output, inputs)

    @classmethod
    def logit(cls, c: Classes = None, position: Classes = None, output: Output = None) -> Target:
        """The logit of a class; `position` names the token if the model scores every token.

        For a regression, or a head with one output, it is the score.
        """
        return _scored(cls, "logit", _class(c), _whole(position, "position"), output)

    @classmethod
    def ranked(cls, rank: Any, output: Output = None) -> Target:
        """The logit of the class that has the highest logit but for `rank` others: 0 is the predicted class, 1 the runner-up.

        Raises Misuse for a rank that is no whole number from 0 on, TargetError where there are no more classes than that.
        """
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0:
            raise Misuse(f"a rank is a whole number from 0 on (0: the predicted class), not {rank!r}")
        return _scored(cls, "logit", None, None, output, rank=rank)

    @classmethod
    def probability(
        cls,
        c: Classes = None,
        position: Classes = None,
        output: Output = None,
        activation: str | None = None,
    ) -> Target:
        """The probability of a class: by softmax, or by sigmoid if the head is multi-label or has one output.

        `activation`: "softmax" or "sigmoid", if the model does not say it. Raises TargetError for a regression.
        """
        return _scored(cls, "probability", _class(c), _whole(position, "position"), output, activation)

    @classmethod
    def log_probability(
        cls,
        c: Classes = None,
        position: Classes = None,
        output: Output = None,
        activation: str | None = None,
    ) -> Target:
        """The log of the probability of a class (see `probability`)."""
        return _scored(cls, "log-probability", _class(c), _whole(position, "position"), output, activation)

    @classmethod
    def contrast(cls, c: Classes = None, d: Classes = None, position: Classes = None, output: Output = None) -> Target:
        """y_c − y_d: what speaks for class c rather than class d. If `d` is None, the best of all other classes."""
        c, d, position = _class(c), _class(d), _whole(position, "position")

        def read(out: Any, inputs: Mapping[str, Any]) -> Value:
            logits = _picked(scores(out, output), position, inputs, out)
            if logits.ndim == 2 and logits.shape[-1] == 1:
                raise TargetError("the head has one output, so there is no other class to contrast it with")
            first = _of_class(logits, c, None, inputs)
            others = logits if d is not None or first.explained is None else _without(logits, first.explained)
            second = _of_class(others, d, None, inputs)
            return _among(replace(first, y=first.y - second.y, rival=second.explained), logits, None)

        rival = "the best other class" if d is None else _name(d)

        def remade(k: Tensor, other: Tensor | None = None) -> Target:
            return cls.contrast(k, d if other is None else other, position, output)

        halves = (cls.logit(c, position, output), cls.logit(d, position, output))
        made = cls(f"contrast {_name(c)} - {rival}", read, remade, halves)
        return replace(
            made,
            contrasted=lambda k: cls.contrast(k, None, position, output),
            likelihood=lambda k: _scored(cls, "probability", k, position, output),
            made=_in_a_file("contrast", {"c": c, "d": d, "position": position, "output": output}),
            apart=_cut(lambda k, other, at: cls.contrast(k, other, at, output), c, d, position),
        )

    @classmethod
    def similarity(cls, text: Classes = None) -> Target:
        """Cosine of each picture with text number `text`; else with its paired text (equal counts) or the best text."""
        text = _whole(text, "text")

        def read(out: Any, _inputs: Mapping[str, Any]) -> Value:
            image, words = field(out, "image_embeds"), field(out, "text_embeds")
            cosines = torch.nn.functional.normalize(image, dim=-1) @ torch.nn.functional.normalize(words, dim=-1).T
            best = cosines.detach().argmax(-1)
            paired = torch.arange(len(image), device=image.device)
            chosen = paired if len(image) == len(words) else best
            which = chosen if text is None else _classes(text, image, "text")
            _in_range(which, cosines.shape[-1], "text")
            shared = cosines.numel() > 1 and not (len(image) == len(words) and torch.equal(which, paired))
            return Value(cosines.gather(1, which[:, None])[:, 0], which, best, shared)

        label = "similarity" if text is None else f"similarity with text {text}"
        apart = _cut(cls.similarity, text)
        return cls(label, read, cls.similarity, classes="text", made=("similarity", {"text": text}), apart=apart)

    @classmethod
    def next_token(cls, id: Classes = None, position: Classes = -1) -> Target:
        """The logit of a next token after `position`; -1 is the last token that is not padding (see `row_at`)."""
        id, position = _whole(id, "token id"), _whole(-1 if position is None else position, "position")

        def read(out: Any, inputs: Mapping[str, Any]) -> Value:
            given = _picked(scores(out, None), position, inputs, out)
            return _among(_of_class(given, id, None, inputs, out), given)

        where = "" if isinstance(position, int) and position == -1 else f" after {_tokens(position)}"
        token = "the predicted one" if id is None else _name(id).replace("class", "token")
        made = cls(f"next token: {token}{where}", read, lambda k: cls.next_token(k, position), classes="token")
        return replace(
            made,
            contrasted=lambda k: cls.contrast(k, None, position),
            likelihood=lambda k: _scored(cls, "probability", k, position, None),
            made=("next_token", {"id": id, "position": position}),
            apart=_cut(cls.next_token, id, position),
        )

    @classmethod
    def detection(cls, query: Classes, c: Classes = None) -> Target:
        """The logit of a class at an object query (the predicted class is the best one that is not "no object").

        `query` may be a (batch,) tensor, one query per sample.
        """
        return _detection(cls, _whole(query, "object query", needed=True), _class(c))

    @classmethod
    def span(cls, start: Classes, end: Classes) -> Target:
        """start_logits[start] + end_logits[end] of a question-answering head; each an int, or one per sample."""
        start, end = (_whole(v, "token", needed=True) for v in (start, end))

        def read(out: Any, _inputs: Mapping[str, Any]) -> Value:
            first, last = field(out, "start_logits"), field(out, "end_logits")
            at, to = (_classes(v, first, "token") for v in (start, end))
            _in_range(torch.stack([at, to]), first.shape[-1], "token")
            return Value(first.gather(1, at[:, None])[:, 0] + last.gather(1, to[:, None])[:, 0])

        given = {"start": start, "end": end}
        label = f"span {_name(start, '')}-{_name(end, '')}"
        return cls(label, read, made=("span", given), apart=_cut(cls.span, start, end))

    @classmethod
    def region(cls, mask: Any, c: Classes = None, output: Output = None) -> Target:
        """The mean logit of a class over a region of a dense output: mask (height, width), or one per sample."""
        c, mask = _class(c), _mask_of(mask)

        def read(out: Any, inputs: Mapping[str, Any]) -> Value:
            logits = scores(out, output)
            if (
                logits.ndim != 4
                or logits.shape[-2:] != mask.shape[-2:]
                or mask.shape[:-2] not in ((), logits.shape[:1])
            ):
                raise TargetError(
                    f"a region of shape {tuple(mask.shape)} needs logits (batch, class, height, width) of that size; "
                    f"the model gave {tuple(logits.shape)}"
                )
            weight = mask.to(logits).expand(len(logits), *mask.shape[-2:])[:, None]
            return _of_class((logits * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-12), c, None, inputs)

        label, each = _label("region's logit", c, None), mask if mask.ndim == 3 else None
        apart = _cut(lambda k, own: cls.region(mask if own is None else own, k, output), c, each)
        return cls(label, read, lambda k: cls.region(mask, k, output), apart=apart)

    @classmethod
    def of(cls, function: Any, label: str = "custom") -> Target:
        """Any function: output -> (batch,)."""
        if not callable(function):
            raise TargetError(f"Target.of takes a function of the model's output, not {_said(function)}")
        return cls(str(label), lambda out, _inputs: Value(one_a_sample(function(out), label)))

    @classmethod
    def make(cls, what: Any) -> Target:
        """A Target from what `explain` takes: None, an int, a (batch,) tensor, a Target or a callable."""
        if isinstance(what, cls):
            return what
        if callable(what) and not isinstance(what, Tensor):
            return cls.of(what, getattr(what, "__name__", "custom"))
        if isinstance(what, str):
            raise Misuse(f"target {what!r} is a label, and only a reader knows labels: use regard.load(...).explain")
        if what is None or hasattr(what, "__index__"):
            return cls.logit(what)
        raise Misuse(f"a target is None, an int, a (batch,) tensor, a Target or a callable; not {_said(what)}")


KINDS: dict[str, Callable[..., Target]] = {
    "logit": Target.logit,
    "ranked": Target.ranked,
    "probability": Target.probability,
    "log_probability": Target.log_probability,
    "contrast": Target.contrast,
    "similarity": Target.similarity,
    "next_token": Target.next_token,
    "detection": Target.detection,
    "span": Target.span,
}
"""The class methods whose arguments a file can hold."""


def made_again(kind: str, given: Mapping[str, Any]) -> Target:
    """The target that `Target.made` tells of, as a file has it. Raises UnknownName for a kind that there is not."""
    if kind not in KINDS:
        raise nearest(kind, KINDS, "kind of target")
    return KINDS[kind](**given)


Made = type[Target]


def _in_a_file(kind: str, given: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """How a target was made, where a file can hold it: not with a function."""
    return None if callable(given.get("output")) else (kind, given)


def _scored(
    cls: Made,
    kind: str,
    c: int | Tensor | None,
    position: int | Tensor | None,
    output: Output,
    activation: str | None = None,
    head: Head = ORDINARY,
    rank: int = 0,
) -> Target:
    """A class's logit, probability or log-probability at a head; of no class that of a rank."""
    check_activation(activation)

    def read(out: Any, inputs: Mapping[str, Any]) -> Value:
        given = _picked(scores(out, output), position, inputs, out)  # first: there may be many rows of many classes
        made = given if kind == "logit" else head.probability(given, log=kind == "log-probability")
        return _among(_of_class(made, c, None, inputs, out, head, rank), given, head)

    def headed(model: nn.Module, out: Any) -> Target:
        return _scored(
            cls, kind, c, position, output, activation, head_of(model, scores(out, output), activation), rank
        )

    def remade(classes: Tensor) -> Target:
        return _scored(cls, kind, classes, position, output, activation, head)

    label = _label(head.word(kind), c, position, head, rank)
    made = cls(label, read, remade, headed=headed, notes=head.notes(kind))
    given = {"c": c, "position": position, "output": output} | ({} if kind == "logit" else {"activation": activation})
    return replace(
        made,
        contrasted=lambda k: cls.contrast(k, None, position, output),
        likelihood=None
        if kind == "probability"
        else lambda k: _scored(cls, "probability", k, position, output, activation),
        made=_in_a_file("ranked", {"rank": rank, "output": output})
        if rank
        else _in_a_file(kind.replace("-", "_"), given),
        apart=_cut(lambda k, at: _scored(cls, kind, k, at, output, activation, head, rank), c, position),
    )


def _detection(cls: Made, query: Any, c: Any, background: bool = True, likely: bool = False) -> Target:
    """A class at an object query. `background`: the last score is that of "no object". `likely`: its probability."""

    def read(out: Any, inputs: Mapping[str, Any]) -> Value:
        logits = scores(out, None)
        if logits.ndim != 3:
            raise TargetError(f"a detection needs logits (batch, query, class); the model gave {tuple(logits.shape)}")
        queries = _classes(query, logits, "object query")
        _in_range(queries, logits.shape[1], "object query")
        at = logits[torch.arange(len(logits), device=logits.device), queries]
        if likely:
            at = at.softmax(-1) if background else at.sigmoid()
        known = (at[:, :-1] if background else at).detach().argmax(-1) if c is None else c
        return _of_class(at, known, None, inputs)

    def headed(model: nn.Module, out: Any) -> Target:
        count = getattr(getattr(model, "config", None), "num_labels", None)
        return _detection(cls, query, c, scores(out, None).shape[-1] != count, likely)

    which = f"query {query}" if isinstance(query, int) else f"queries {_name(query, '')}"
    label = f"{which}, {_label('logit', c, None)}"
    return cls(
        label,
        read,
        lambda classes: _detection(cls, query, classes, background, likely),
        headed=headed,
        likelihood=None if likely else lambda k: _detection(cls, query, k, background, True),
        made=None if likely else ("detection", {"query": query, "c": c}),
        apart=_cut(lambda q, k: _detection(cls, q, k, background, likely), query, c),
    )


def _cut(make: Callable[..., Target], *given: Any) -> Callable[[slice], Target] | None:
    """What makes the target of some samples alone, where some of what it was made of holds something for each of them."""
    if not any(isinstance(v, Tensor) and v.ndim for v in given):
        return None
    return lambda own: make(*(v[own] if isinstance(v, Tensor) and v.ndim else v for v in given))


def one_a_sample(y: Any, label: str) -> Tensor:
    """y, if it is one float a sample."""
    if not isinstance(y, Tensor) or y.ndim != 1 or not y.is_floating_point():
        what = f"{str(y.dtype).removeprefix('torch.')} {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise TargetError(f"target {label!r} must give one number per sample, a float (batch,) tensor; it gave {what}")
    return y


def _class(c: Any) -> int | Tensor | None:
    """A class as it was given, checked; its name is the business of a reader."""
    if isinstance(c, str):
        raise Misuse(f"class {c!r} is a label, and only a reader knows labels: use its number, reader.label({c!r})")
    found: int | Tensor | None = _whole(c, "class")
    return found


def _whole(value: Any, what: str, *, needed: bool = False) -> Any:
    """A whole number as an int (Python's, numpy's, a tensor without axes), or one per sample as a (batch,) tensor, or None.

    Raises TargetError for anything else.
    """
    if value is None and not needed:
        return None
    if isinstance(value, Tensor) or hasattr(value, "__array_interface__"):
        return _whole_tensor(value, what)
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TargetError(
            f"{_an(what)} is a whole number, or one per sample in an integer (batch,) tensor; not {_said(value)}"
        )
    if abs(number) >= 1 << 62:
        raise TargetError(f"{what} {number:.3g} is out of range")
    return number


def _whole_tensor(value: Any, what: str) -> int | Tensor:
    tensor = value if isinstance(value, Tensor) else torch.from_numpy(value) if value.ndim else None
    if tensor is None:  # numpy's number, or array without axes
        return int(_whole(value.item(), what))
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool or tensor.ndim > 1:
        raise TargetError(
            f"{_an(what)} is a whole number, or one per sample in an integer (batch,) tensor; not {_said(tensor)}"
        )
    if tensor.is_meta:
        raise TargetError(f"{_an(what)} on the meta device has no value; give one with a value")
    return tensor.detach() if tensor.ndim else int(tensor)


def _mask_of(mask: Any) -> Tensor:
    """A region's mask as a tensor. Raises TargetError for what is none."""
    tensor = torch.from_numpy(mask) if hasattr(mask, "__array_interface__") and mask.ndim else mask
    if not isinstance(tensor, Tensor) or tensor.ndim not in (2, 3) or tensor.is_complex() or tensor.is_meta:
        raise TargetError(f"a region is a mask (height, width), or one per sample; not {_said(mask)}")
    if not bool((tensor != 0).flatten(-2).any(-1).all()):
        raise TargetError("a region's mask is empty: nothing lies in it")
    return tensor


def _said(value: Any) -> str:
    """What was given, in a few words."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, str | int | float):
        return repr(value)[:40]
    return type(value).__name__


def _an(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"


def _label(
    kind: str, c: int | Tensor | None, position: int | Tensor | None, head: Head = ORDINARY, rank: int = 0
) -> str:
    where = "" if position is None else f" at {_tokens(position)}"
    if head.one:
        return kind + where
    if head.kind == "score" and not head.made and isinstance(c, int):
        return f"{kind} number {c}{where}"
    if c is None and rank:
        return f"{kind} of the {'runner-up' if rank == 1 else f'{_ordinal(rank + 1)} likeliest class'}{where}"
    return f"{kind} of {head.likeliest if c is None else _name(c)}{where}"


def _ordinal(n: int) -> str:
    return f"{n}{'th' if 10 < n % 100 < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def _name(c: int | Tensor | None, one: str = "class ", several: str = "classes ") -> str:
    """Numbers in words: `class 3`, `classes 1, 2, 3`."""
    if c is None:
        return "the predicted class"
    return f"{one}{c}" if isinstance(c, int) else f"{one and several}{', '.join(str(i) for i in c.tolist()[:8])}"


def _tokens(position: int | Tensor | None) -> str:
    return _name(position, "token ", "tokens ")


def field(output: Any, name: str) -> Tensor:
    """A tensor field of a model's output. Raises TargetError listing the fields there are."""
    value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
    if not isinstance(value, Tensor):
        raise TargetError(f"the model's output has no `{name}`; {_fields(output)}")
    return value


def _fields(output: Any) -> str:
    if isinstance(output, Mapping):
        shapes = [f"{k} {tuple(v.shape)}" for k, v in output.items() if isinstance(v, Tensor)]
        return f"its fields are: {', '.join(shapes)}. Name one with Target.logit(c, output=...)"
    if isinstance(output, Sequence):
        shapes = [f"{i} {tuple(v.shape)}" for i, v in enumerate(output) if isinstance(v, Tensor)]
        return f"it is a tuple of: {', '.join(shapes)}. Name one with Target.logit(c, output=0)"
    return f"it is a {type(output).__name__}. Use Target.of(function)"


def scores(output: Any, name: Output) -> Tensor:
    """The tensor of scores: the output itself, its `logits`, the field that the user names, or what a function makes of it."""
    if callable(name):
        made = name(output)
        if not isinstance(made, Tensor):
            raise TargetError(f"the function that output= names must give scores (batch, class); it gave {_said(made)}")
        return made
    if isinstance(output, Tensor):
        return output
    if isinstance(name, int):
        several = output.to_tuple() if hasattr(output, "to_tuple") else output
        value = several[name] if isinstance(several, Sequence) and -len(several) <= name < len(several) else None
        if isinstance(value, Tensor):
            return value
        raise TargetError(f"the model's output has no tensor number {name}; {_fields(output)}")
    return field(output, "logits" if name is None else str(name))


def _of_class(
    logits: Tensor,
    c: int | Tensor | None,
    position: int | Tensor | None,
    inputs: Mapping[str, Any],
    output: Any = None,
    head: Head = ORDINARY,
    rank: int = 0,
) -> Value:
    """The value of a class, or of that of a rank, in (batch, class) or, at a position, (batch, token, class)."""
    logits = _picked(logits, position, inputs, output)
    if logits.ndim != 2:
        raise TargetError(
            f"the scores are {tuple(logits.shape)}, not (batch, class): say which token with Target.next_token(id) or "
            "Target.logit(c, position=...), which region with Target.region(mask, c), or give a function"
        )
    count = logits.shape[-1]
    if c is None and head.kind == "score" and count > 1:
        raise TargetError(
            f"a regression with {count} outputs predicts no class; say which output, from 0 to {count - 1}"
        )
    predicted = logits.detach().argmax(-1)
    explained = _of_rank(logits, rank) if c is None else _classes(c, logits)
    _in_range(explained, count, "class")
    y = logits.gather(1, explained[:, None])[:, 0]
    if head.no_class:
        return Value(y)
    return Value(y, explained, None if head.several or head.one else predicted)


def _of_rank(given: Tensor, rank: int) -> Tensor:
    """The class of each sample that so many others are ahead of, in scores (batch, class); the first of equal ones is ahead."""
    if not rank:
        return given.detach().argmax(-1)
    if rank >= (count := given.shape[-1]):
        raise TargetError(
            f"no class has rank {rank}: the model tells {count} {'class' if count == 1 else 'classes'} apart"
        )
    return given.detach().argsort(dim=-1, descending=True, stable=True)[:, rank]


def _among(value: Value, given: Tensor, head: Head | None = ORDINARY) -> Value:
    """The value, with the scores of all classes that it was read among, where these are of classes."""
    return value if value.explained is None else replace(value, among=(given, head))


def _picked(logits: Tensor, position: int | Tensor | None, inputs: Mapping[str, Any], output: Any) -> Tensor:
    """Scores (batch, class): those at a position, where there is a token axis to pick one from."""
    if logits.ndim == 1:
        logits = logits[:, None]
    if position is None:
        return logits
    if logits.ndim != 3:
        raise TargetError(
            f"these scores are {tuple(logits.shape)}: they have no token axis, so no position can be chosen"
        )
    return logits[torch.arange(len(logits)), row_at(position, logits, inputs, output).to(logits.device)]


def _without(logits: Float[Tensor, "batch classes"], classes: Int[Tensor, " batch"]) -> Float[Tensor, "batch classes"]:
    """Scores with one class a sample put out of the running."""
    return logits.scatter(-1, classes[:, None], -torch.inf)


def _classes(c: int | Tensor, logits: Tensor, what: str = "class") -> Tensor:
    if isinstance(c, int):
        return torch.full((len(logits),), c, device=logits.device)
    if c.shape != (len(logits),):
        raise TargetError(
            f"one {what} per sample is needed: {len(logits)} samples, but a tensor of shape {tuple(c.shape)}"
        )
    return c.to(logits.device, torch.int64)


def _in_range(index: Tensor, count: int, what: str) -> None:
    if bool(((index < 0) | (index >= count)).any()):
        raise TargetError(f"{what} {int(index[(index < 0) | (index >= count)][0])} is out of range: there are {count}")


def row_at(
    position: int | Tensor, scores: Tensor, inputs: Mapping[str, Any], output: Any = None
) -> Int[Tensor, " batch"]:
    """The row of some scores (batch, row, ...) that stands for a position (an int, or one per sample), one per sample.

    From 0 on, a position is a token's number in the sequence that the scores belong to, padding included. Negative ones
    count back from the last token that is not padding, on whichever side that stands. Where `logits_to_keep` kept only
    some rows, positions still count all tokens. Rows beyond the tokens of the mask (a picture) stand before them.
    """
    real, kept = _sequence(scores, inputs, output)
    length = real.shape[1]
    wanted_at = _classes(position, real, "position")[:, None]
    _in_range(wanted_at.clamp(min=0), length, "token")
    from_end = real.flip(1).cumsum(1).flip(1)
    wanted = real & torch.where(wanted_at < 0, from_end == -wanted_at, torch.arange(length) == wanted_at)
    if not bool((there := wanted.any(1)).all()):
        sample = int((~there).nonzero()[0])
        asked = int(wanted_at[sample])
        if asked < 0:
            raise TargetError(
                f"token {asked} is out of range: there are {int(real.sum(1).amin())} that are not padding"
            )
        raise TargetError(f"token {asked} of sample {sample} is padding; negative positions skip padding")
    at = wanted.int().argmax(1)
    found = at[:, None] == kept
    if not bool(found.any(1).all()):
        raise TargetError(f"the scores of token {int(at[0])} were not kept: the inputs have logits_to_keep")
    return found.int().argmax(1)


def _sequence(scores: Tensor, inputs: Mapping[str, Any], output: Any) -> tuple[Tensor, Tensor]:
    """Which tokens of the scores' sequence are real, bool (batch, length), and the positions of the rows (row,)."""
    batch, rows = scores.shape[:2]
    mask, ids = _mask(inputs, output)
    keep = inputs.get("logits_to_keep")
    some = keep is not None and (isinstance(keep, Tensor) or keep > 0)
    length = ids.shape[1] if some and isinstance(ids, Tensor) and ids.ndim > 1 else rows
    real = torch.ones(batch, length, dtype=torch.bool)
    if isinstance(mask, Tensor) and mask.ndim == 2 and len(mask) == batch and mask.shape[1] <= length:
        real[:, length - mask.shape[1] :] = mask.cpu() != 0
    return real, keep.cpu() if some and isinstance(keep, Tensor) else torch.arange(length - rows, length)


def _mask(inputs: Mapping[str, Any], output: Any) -> tuple[Any, Any]:
    """The mask and the tokens of the stack that scores come from: a decoder's, where there is an encoder beside it."""
    if any(name.startswith("decoder_") for name in inputs):
        return inputs.get("decoder_attention_mask"), inputs.get("decoder_input_ids")
    labels = inputs.get("labels")
    if isinstance(labels, Tensor) and getattr(output, "encoder_last_hidden_state", None) is not None:
        return labels != -100, labels  # the decoder reads them, shifted by one
    return inputs.get("attention_mask"), inputs.get("input_ids")
