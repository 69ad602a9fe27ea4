"""What is explained: a scalar y for each sample, read from the model's output (METHODS.md section 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.errors import Misuse, TargetError

Classes = int | Tensor | None


@dataclass(frozen=True)
class Value:
    """y (batch,), in the graph; and, where y belongs to a class, the class explained and the class predicted.

    rival: the class that it is told from, in a contrast.
    shared: samples read rows of one another (several pictures and one text), so that each needs a gradient of its own.
    """

    y: Float[Tensor, " batch"]
    explained: Int[Tensor, " batch"] | None = None
    predicted: Int[Tensor, " batch"] | None = None
    shared: bool = False
    rival: Int[Tensor, " batch"] | None = None


@dataclass(frozen=True)
class Target:
    """A scalar y per sample. Make one with the class methods; `label` is its name on receipts and pages.

    Where `c` is None the predicted class is explained, and the receipt says so. `output` names the field of the model's
    output that holds the scores (default: `logits`, or the output itself where it is a tensor). A class may be an int
    or a (batch,) tensor, one class a sample.
    """

    label: str
    read: Callable[[Any, Mapping[str, Any]], Value]
    remade: Callable[..., Target] | None = dataclasses.field(default=None, repr=False)
    halves: tuple[Target, Target] | None = dataclasses.field(default=None, repr=False)

    def at(self, classes: Tensor, rival: Tensor | None = None) -> Target:
        """The same target with its classes fixed (one a sample), for runs in which others may be predicted."""
        if self.remade is None:
            return self
        return self.remade(classes) if rival is None else self.remade(classes, rival)

    def value(self, output: Any, inputs: Mapping[str, Any]) -> Value:
        """y and its classes. Raises TargetError where the output has no such value."""
        return self.read(output, inputs)

    @classmethod
    def logit(cls, c: Classes = None, position: int | None = None, output: str | int | None = None) -> Target:
        """The logit of a class; `position` picks the token where the model scores every token."""

        def read(out: Any, inputs: Mapping[str, Any]) -> Value:
            return _of_class(scores(out, output), c, position, inputs, out)

        return cls(_label("logit", c, position), read, lambda k: cls.logit(k, position, output))

    @classmethod
    def probability(cls, c: Classes = None, position: int | None = None, output: str | int | None = None) -> Target:
        """The softmax probability of a class."""

        def read(out: Any, inputs: Mapping[str, Any]) -> Value:
            return _of_class(scores(out, output).softmax(-1), c, position, inputs, out)

        return cls(_label("probability", c, position), read, lambda k: cls.probability(k, position, output))

    @classmethod
    def log_probability(cls, c: Classes = None, position: int | None = None, output: str | int | None = None) -> Target:
        """The log of the softmax probability of a class."""

        def read(out: Any, inputs: Mapping[str, Any]) -> Value:
            return _of_class(scores(out, output).log_softmax(-1), c, position, inputs, out)

        return cls(_label("log-probability", c, position), read, lambda k: cls.log_probability(k, position, output))

    @classmethod
    def contrast(
        cls, c: Classes = None, d: Classes = None, position: int | None = None, output: str | int | None = None
    ) -> Target:
        """y_c − y_d: what tells class c from class d. Where `d` is None, from the best of all others."""

        def read(out: Any, inputs: Mapping[str, Any]) -> Value:
            logits = _picked(scores(out, output), position, inputs, out)
            first = _of_class(logits, c, None, inputs)
            others = logits if d is not None or first.explained is None else _without(logits, first.explained)
            second = _of_class(others, d, None, inputs)
            return replace(first, y=first.y - second.y, rival=second.explained)

        rival = "the best other class" if d is None else _name(d)

        def remade(k: Tensor, other: Tensor | None = None) -> Target:
            return cls.contrast(k, d if other is None else other, position, output)

        halves = (cls.logit(c, position, output), cls.logit(d, position, output))
        return cls(f"contrast {_name(c)} - {rival}", read, remade, halves)

    @classmethod
    def similarity(cls, text: int | Tensor | None = None) -> Target:
        """Cosine of each picture with text number `text`; else with its paired text (equal counts) or the best text."""

        def read(out: Any, inputs: Mapping[str, Any]) -> Value:
            image, words = field(out, "image_embeds"), field(out, "text_embeds")
            cosines = torch.nn.functional.normalize(image, dim=-1) @ torch.nn.functional.normalize(words, dim=-1).T
            best = cosines.detach().argmax(-1)
            paired = torch.arange(len(image), device=image.device)
            chosen = paired if len(image) == len(words) else best
            which = chosen if text is None else torch.full_like(best, text) if isinstance(text, int) else text
            _in_range(which, cosines.shape[-1], "text")
            shared = cosines.numel() > 1 and not (len(image) == len(words) and torch.equal(which, paired))
            return Value(cosines.gather(1, which[:, None])[:, 0], which, best, shared)

        return cls("similarity" if text is None else f"similarity with text {text}", read, cls.similarity)

    @classmethod
    def next_token(cls, id: Classes = None, position: int = -1) -> Target:
        """The logit of a next token after `position`; -1 is the last token that is not padding (see `row_at`)."""

        def read(out: Any, inputs: Mapping[str, Any]) -> Value:
            return _of_class(scores(out, None), id, position, inputs, out)

        where = "" if position == -1 else f" after token {position}"
        token = "the predicted one" if id is None else _name(id).replace("class", "token")
        return cls(f"next token: {token}{where}", read, lambda k: cls.next_token(k, position))

    @classmethod
    def detection(cls, query: int | Tensor, c: Classes = None) -> Target:
        """The logit of a class at an object query (the predicted class is the best one that is not "no object").

        `query` may be a (batch,) tensor, one query a sample.
        """

        def read(out: Any, inputs: Mapping[str, Any]) -> Value:
            logits = scores(out, None)
            if logits.ndim != 3:
                raise TargetError(
                    f"a detection needs logits (batch, query, class); the model gave {tuple(logits.shape)}"
                )
            queries = _classes(query, logits, "object query")
            _in_range(queries, logits.shape[1], "object query")
            at = logits[torch.arange(len(logits), device=logits.device), queries]
            known = at[:, :-1].detach().argmax(-1) if c is None else c
            return _of_class(at, known, None, inputs)

        which = f"query {query}" if isinstance(query, int) else f"queries {', '.join(map(str, query.tolist()[:8]))}"
        return cls(f"{which}, {_label('logit', c, None)}", read, lambda k: cls.detection(query, k))

    @classmethod
    def span(cls, start: int, end: int) -> Target:
        """start_logits[start] + end_logits[end] of a question-answering head."""

        def read(out: Any, inputs: Mapping[str, Any]) -> Value:
            first, last = field(out, "start_logits"), field(out, "end_logits")
            _in_range(torch.tensor([start, end]), first.shape[-1], "token")
            return Value(first[:, start] + last[:, end])

        return cls(f"span {start}-{end}", read)

    @classmethod
    def region(cls, mask: Tensor, c: Classes = None, output: str | int | None = None) -> Target:
        """The mean logit of a class over a region of a dense output: mask (height, width), or one a sample."""

        def read(out: Any, inputs: Mapping[str, Any]) -> Value:
            logits = scores(out, output)
            if logits.ndim != 4 or logits.shape[-2:] != mask.shape[-2:]:
                raise TargetError(
                    f"a region of shape {tuple(mask.shape)} needs logits (batch, class, height, width) of that size; "
                    f"the model gave {tuple(logits.shape)}"
                )
            weight = mask.to(logits).expand(len(logits), *mask.shape[-2:])[:, None]
            return _of_class((logits * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-12), c, None, inputs)

        return cls(_label("region's logit", c, None), read, lambda k: cls.region(mask, k, output))

    @classmethod
    def of(cls, function: Callable[[Any], Tensor], label: str = "custom") -> Target:
        """Any function: output -> (batch,)."""
        return cls(label, lambda out, inputs: Value(one_a_sample(function(out), label)))

    @classmethod
    def make(cls, what: Any) -> Target:
        """A Target from what `explain` takes: None, an int, a (batch,) tensor, a Target or a callable."""
        if isinstance(what, cls):
            return what
        if what is None or (isinstance(what, int) and not isinstance(what, bool)):
            return cls.logit(what)
        if isinstance(what, Tensor) and not what.is_floating_point() and what.ndim <= 1:
            return cls.logit(int(what) if what.ndim == 0 else what)
        if callable(what):
            return cls.of(what, getattr(what, "__name__", "custom"))
        if isinstance(what, str):
            raise Misuse(f"target {what!r} is a label's name, which only a reader knows: use regard.load(...).explain")
        raise Misuse(f"a target is None, an int, a (batch,) tensor, a Target or a callable; not {type(what).__name__}")


def one_a_sample(y: Any, label: str) -> Tensor:
    """y, if it is one float a sample."""
    if not isinstance(y, Tensor) or y.ndim != 1 or not y.is_floating_point():
        what = f"{str(y.dtype).removeprefix('torch.')} {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise TargetError(f"target {label!r} must give one number a sample, a float (batch,) tensor; it gave {what}")
    return y


def _label(kind: str, c: Classes, position: int | None) -> str:
    return f"{kind} of {_name(c)}" + ("" if position is None else f" at token {position}")


def _name(c: Classes) -> str:
    if isinstance(c, str):
        raise Misuse(f"class {c!r} is a label's name, which only a reader knows: use its number, reader.label({c!r})")
    if c is None:
        return "the predicted class"
    return f"class {c}" if isinstance(c, int) else f"classes {', '.join(str(i) for i in c.tolist()[:8])}"


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


def scores(output: Any, name: str | int | None) -> Tensor:
    """The tensor of scores: the output itself, its `logits`, or the field that the user names."""
    if isinstance(output, Tensor):
        return output
    if isinstance(name, int):
        value = output.to_tuple()[name] if hasattr(output, "to_tuple") else output[name]
        if isinstance(value, Tensor):
            return value
    return field(output, "logits" if name is None else str(name))


def _of_class(logits: Tensor, c: Classes, position: int | None, inputs: Mapping[str, Any], output: Any = None) -> Value:
    """The value of a class in (batch, class) or, at a position, (batch, token, class)."""
    logits = _picked(logits, position, inputs, output)
    if logits.ndim != 2:
        raise TargetError(
            f"the scores are {tuple(logits.shape)}, not (batch, class): say which token with Target.next_token(id) or "
            "Target.logit(c, position=...), which region with Target.region(mask, c), or give a function"
        )
    predicted = logits.detach().argmax(-1)
    explained = predicted if c is None else _classes(c, logits)
    _in_range(explained, logits.shape[-1], "class")
    return Value(logits.gather(1, explained[:, None])[:, 0], explained, predicted)


def _picked(logits: Tensor, position: int | None, inputs: Mapping[str, Any], output: Any) -> Tensor:
    """Scores (batch, class): those at a position, where there is a token axis to pick one from."""
    if logits.ndim == 1:
        logits = logits[:, None]
    if position is None:
        return logits
    if logits.ndim != 3:
        raise TargetError(
            f"these scores are {tuple(logits.shape)}: they have no token axis, so no position can be picked"
        )
    return logits[torch.arange(len(logits)), row_at(position, logits, inputs, output).to(logits.device)]


def _without(logits: Float[Tensor, "batch classes"], classes: Int[Tensor, " batch"]) -> Float[Tensor, "batch classes"]:
    """Scores with one class a sample put out of the running."""
    return logits.scatter(-1, classes[:, None], -torch.inf)


def _classes(c: int | Tensor, logits: Tensor, what: str = "class") -> Tensor:
    if isinstance(c, int):
        return torch.full((len(logits),), c, device=logits.device)
    if c.shape != (len(logits),):
        raise TargetError(f"one {what} a sample is needed: {len(logits)} samples, but {tuple(c.shape)} of them")
    return c.to(logits.device, torch.int64)


def _in_range(index: Tensor, count: int, what: str) -> None:
    if bool(((index < 0) | (index >= count)).any()):
        raise TargetError(f"{what} {int(index[(index < 0) | (index >= count)][0])} is out of range: there are {count}")


def row_at(position: int, scores: Tensor, inputs: Mapping[str, Any], output: Any = None) -> Int[Tensor, " batch"]:
    """The row of some scores (batch, row, ...) that stands for a position, one a sample.

    From 0 on, a position is a token's number in the sequence that the scores belong to, padding included. Negative ones
    count back from the last token that is not padding, on whichever side that stands. Where `logits_to_keep` kept only
    some rows, positions still count all tokens. Rows beyond the tokens of the mask (a picture) stand before them.
    """
    real, kept = _sequence(scores, inputs, output)
    length = real.shape[1]
    if position < 0:
        wanted = real & (real.flip(1).cumsum(1).flip(1) == -position)
        if not bool(wanted.any(1).all()):
            short = int(real.sum(1).amin())
            raise TargetError(f"token {position} is out of range: there are {short} that are not padding")
    else:
        _in_range(torch.tensor([position]), length, "token")
        wanted = real & (torch.arange(length) == position)
        if not bool(wanted.any(1).all()):
            sample = int((~wanted.any(1)).nonzero()[0])
            raise TargetError(f"token {position} of sample {sample} is padding; negative positions leave padding out")
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
