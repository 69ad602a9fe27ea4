"""What is asked of a model that says something of every token, in words: the next word, a masked word, a word's tag, where an
answer stands.

A reader knows the text that was read and the tokenizer that cut it; here the words become a target, with names on its label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from regard.errors import InputError, Misuse, TargetError, UnknownName
from regard.explanation.raw_inputs import Reading, Text
from regard.models.chats import can_write
from regard.models.default_targets import Wanted
from regard.models.texts import alone, check_whole
from regard.target import Target, Value, field, scores

Kind = Literal["", "next", "mask", "tags", "span"]
LONGEST = 30  # tokens of an answer
OUTSIDE = "O"
MARKS = ("Ġ", "▁", "##")  # with which tokenizers name pieces that begin, or go on with, a word


def kind_of(model: nn.Module, kind: str) -> Kind:
    """What a model says of tokens; "" for one that says something of the whole."""
    name = type(model).__name__
    if kind == "text":
        for ending, found in (
            ("ForMaskedLM", "mask"),
            ("ForTokenClassification", "tags"),
            ("ForQuestionAnswering", "span"),
        ):
            if name.endswith(ending):
                return found  # type: ignore[return-value]
    return "next" if kind in ("text", "image-text", "sound") and can_write(model) else ""


@dataclass(frozen=True)
class TokenTarget:
    """A target, or what makes targets of the model's output; and what to say of the words that were asked for."""

    target: Any = None
    found: Callable[[Any], list[Target]] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenTargets:
    """A text (or a batch of them) that was read, and who reads it.

    Attributes:
        stream: the text that the scores belong to. label: a class's number by its name. passages: where the second of two
            texts begins, one a sample.
    """

    kind: Kind
    model: nn.Module
    tokenizer: Any
    reading: Reading
    stream: str
    labels: Sequence[str]
    label: Callable[[str], int]
    passages: Sequence[int] = ()

    @property
    def texts(self) -> list[Text]:
        """The texts, one a sample."""
        return [t for t in self.reading.raw.get(self.stream, ()) if isinstance(t, Text)]

    def of(self, target: Any, against: Any = None, token: Any = None) -> TokenTarget:
        """A target of what was asked for: a word or a number, another one to tell it from, and a token that says where."""
        if not isinstance(target, str | None) and (isinstance(target, bool) or not hasattr(target, "__index__")):
            if against is not None or token is not None:
                raise Misuse(
                    "against= and token= go with a word or a number as the target; say it in the Target itself"
                )
            return TokenTarget(target)
        return {"next": self._next, "mask": self._mask, "tags": self._tag, "span": self._span}[self.kind](
            target, against, token
        )

    # -- words ----------------------------------------------------------------------------------------------------------

    def _next(self, target: Any, against: Any, token: Any) -> TokenTarget:
        at, where, lefts = self._after(token)
        return self._word("next token", where and f" after {where}", at, target, against, lefts)

    def _mask(self, target: Any, against: Any, token: Any) -> TokenTarget:
        at, where, lefts = self._masked(token)
        return self._word("token", f" at {where}", at, target, against, lefts)

    def _after(self, token: Any) -> tuple[Any, str, list[str]]:
        """Where a next token is asked for, what that place is called, and what stands before it in each text."""
        if token is None:
            return -1, "", [t.text for t in self.texts] or [""]
        at, where = self._place(token)
        lefts = [t.text[: t.offsets[p][1]] for t, p in zip(self.texts, _each(at, self.texts), strict=True)]
        if len(self.texts) == 1:
            at -= len(self.texts[0].tokens)  # rows of a picture may stand before those of the text
        return at, where, lefts

    def _masked(self, token: Any) -> tuple[Any, str, list[str]]:
        """Where a masked token is asked for, what that place is called, and what stands before it in each text."""
        at, where = self._place(token) if token is not None else (self._masks(), self.tokenizer.mask_token)
        lefts = [
            t.text[: max([b for _, b in t.offsets[:p]], default=0)]
            for t, p in zip(self.texts, _each(at, self.texts), strict=True)
        ]
        return at, where, lefts

    def rival(self, said: str, token: Any) -> tuple[Any, str]:
        """The class (one, or one a sample) that a word or a tag names to be contrasted with, and what it is called."""
        if self.kind == "tags":
            return self.label(said), said
        _, _, lefts = self._after(token) if self.kind == "next" else self._masked(token)
        ids, name, _ = self._spelt(said, lefts)
        return ids, name

    def _masks(self) -> Any:
        """The masked token of every text. Raises Misuse where there is none, or more than one."""
        found: list[int] = []
        for ids in self._ids():
            at = [i for i, id in enumerate(ids) if id == self.tokenizer.mask_token_id]
            if len(at) != 1:
                said = f"has {len(at)} of them, tokens {', '.join(map(str, at))}" if at else "has none"
                name, mask = type(self.model).__name__, self.tokenizer.mask_token
                raise Misuse(f"{name} fills in {mask}, and the text {said}; say which token is asked for with token=")
            found += at
        return _joined(found)

    def _word(self, what: str, where: str, at: Any, target: Any, against: Any, lefts: Sequence[str]) -> TokenTarget:
        """The logit of a word at a place, or how much more it is than that of another one."""
        if target is None and against is None:
            return TokenTarget(Target.next_token(None, at).named(f"{what}{where}: the predicted one"))
        first, name, notes = self._spelt(target, lefts)
        if against is None:
            return TokenTarget(Target.next_token(first, at).named(f"{what}{where}: {name}"), notes=notes)
        second, rival, more = self._spelt(against, lefts)
        if first is not None and torch.equal(torch.as_tensor(first), torch.as_tensor(second)):
            raise Misuse(f"{target!r} and {against!r} begin with the same token, so this target cannot tell them apart")
        made = Target.contrast(first, second, at)
        return TokenTarget(made.named(f"{what}{where}: {name} rather than {rival}"), notes=notes + more)

    def _spelt(self, word: Any, lefts: Sequence[str]) -> tuple[Any, str, tuple[str, ...]]:
        """The id of a word's first token (one a sample, after its own text), its name, and a note where it has several."""
        if word is None:
            return None, "the predicted one", ()
        if not isinstance(word, str):
            return word, repr(self.name(int(word))), ()
        every = [self._ids_of(word, left) for left in lefts]
        first = [ids[0] for ids in every]
        if len(longest := max(every, key=len)) == 1:
            return _joined(first), repr(word.strip()), ()
        pieces = [self.name(i) for i in longest]
        note = (
            f"{word.strip()!r} is {len(pieces)} tokens ({', '.join(map(repr, pieces))}): the first of them is explained"
        )
        return _joined(first), f"{pieces[0]!r}, the first token of {word.strip()!r}", (note,)

    def _ids_of(self, word: str, left: str) -> list[int]:
        """A word's tokens, as the tokenizer writes it on after a text. Raises UnknownName for one that it does not know."""
        if not word.strip():
            raise Misuse("the target word is empty")
        named = word in self.tokenizer.get_vocab() and (
            word.startswith(MARKS) or word in self.tokenizer.all_special_tokens
        )
        if named:
            return [int(self.tokenizer.convert_tokens_to_ids(word))]
        glued = (
            not left or left[-1].isspace() or word[0].isspace() or not word[0].isalnum() or alone(left[-1] + word[0])
        )
        special = any(left.endswith(t) for t in self.tokenizer.all_special_tokens)
        before, after = self._cut(left), self._cut(left + ("" if glued or special else " ") + word)
        ids = after[len(before) :] if after[: len(before)] == before else self._cut(word.strip())
        if not ids or (self.tokenizer.unk_token_id in ids and word.strip() != self.tokenizer.unk_token):
            if word.strip().isdecimal():
                return [int(word)]
            raise UnknownName(
                f"{type(self.tokenizer).__name__} has no token for {word.strip()!r}; ask for another word"
            )
        return ids

    def _cut(self, text: str) -> list[int]:
        check_whole(text, "the word that is asked for")
        beside = self.stream.startswith("decoder_")
        given: dict[str, Any] = {"text_target": text} if beside else {"text": text}
        return list(self.tokenizer(**given, add_special_tokens=False, verbose=False)["input_ids"]) if text else []

    def name(self, id: int) -> str:
        """What a token spells, or is called where it spells nothing."""
        if not 0 <= id < len(self.tokenizer):
            return f"token {id}"
        spelt = str(self.tokenizer.decode([id])).strip()
        return spelt or str(self.tokenizer.convert_ids_to_tokens(id))

    # -- tags -----------------------------------------------------------------------------------------------------------

    def _tag(self, target: Any, against: Any, token: Any) -> TokenTarget:
        wanted, rival = (self.label(t) if isinstance(t, str) else t for t in (target, against))
        if token is not None:
            at, where = self._place(token)
            return TokenTarget(self._tagged(wanted, rival, at, where))
        if len(self.texts) > 1:
            raise InputError(
                f"{type(self.model).__name__} finds different words in every text: give them one by one, or pass token="
            )
        if target is None and OUTSIDE not in self.labels:
            name = type(self.model).__name__
            raise Misuse(f"{name} gives every token a class: say which token with token=, a word or a number")
        return TokenTarget(found=lambda output: self._entities(output, wanted, rival))

    def _tagged(self, c: Any, d: Any, at: Any, where: str) -> Target:
        names = ["the predicted class" if i is None else repr(self._called(int(i))) for i in (c, d)]
        if d is None:
            return Target.logit(c, at).named(f"logit of {names[0]} at {where}")
        return Target.contrast(c, d, at).named(f"{names[0]} rather than {names[1]} at {where}")

    def _called(self, c: int) -> str:
        return self.labels[c] if 0 <= c < len(self.labels) else f"class {c}"

    def _entities(self, output: Any, wanted: int | None, rival: int | None) -> list[Target]:
        """One target for each run of tokens that the model gives a tag to: that tag, at the first of them."""
        text = self.texts[0]
        tags = scores(output, None)[0].detach().argmax(-1).tolist()
        names = [OUTSIDE if special else self._called(tag) for tag, special in zip(tags, text.special, strict=False)]
        begins = [i for i, name in enumerate(names) if name != OUTSIDE and not _goes_on(names, i)]
        kept = [i for i in begins if wanted is None or tags[i] == wanted]
        if not kept:
            return [self._nearest(scores(output, None)[0].detach(), wanted, rival)]
        ends = [next((j for j in range(i + 1, len(names)) if not _goes_on(names, j)), len(names)) for i in kept]
        words = [repr(self._characters(text, i, end)) for i, end in zip(kept, ends, strict=True)]
        return [self._tagged(tags[i], rival, i, word) for i, word in zip(kept, words, strict=True)]

    def _nearest(self, logits: Tensor, wanted: int | None, rival: int | None) -> Target:
        """Where the model finds no such tag: the token that comes nearest to it, and a note."""
        text = self.texts[0]
        among = [c for c in range(logits.shape[-1]) if (self._called(c) != OUTSIDE if wanted is None else c == wanted)]
        behind = (logits - logits.max(-1, keepdim=True).values)[:, among]
        behind[torch.tensor(text.special, device=logits.device)] = -torch.inf
        at, which = divmod(int(behind.argmax()), len(among))
        tag, word = self._called(among[which]), repr(self._characters(text, at, at + 1))
        said = f"no token but {OUTSIDE!r}" if wanted is None else f"no {tag!r}"
        note = f"the model finds {said} in this text; {tag!r} comes closest at {word}, which is explained"
        made = self._tagged(among[which], rival, at, word)
        return made.named(made.label, note)

    # -- answers --------------------------------------------------------------------------------------------------------

    def _span(self, target: Any, against: Any, token: Any) -> TokenTarget:
        if token is not None or not isinstance(target, str | None) or not isinstance(against, str | None):
            raise Misuse("give the answer in its own words, as they stand in the text, or leave it to the model")
        wanted, rival = (
            None if t is None else [self._places(t, n) for n in range(len(self.texts))] for t in (target, against)
        )

        def on(_model: nn.Module, output: Any) -> Target:
            words, made = self._answer(output, wanted)
            label = f"start and end of the answer{'s' * (len(words) > 1)} {', '.join(words)}"
            if rival is None:
                return made.named(label)
            others, less = self._answer(output, rival)
            return _less(made, less, f"{label} rather than {', '.join(others)}")

        return TokenTarget(Target("the answer", lambda out, inputs: on(self.model, out).value(out, inputs), headed=on))

    def _answer(self, output: Any, among: Sequence[Sequence[tuple[int, int]]] | None) -> tuple[list[str], Target]:
        """The best answer of the places given for each text, or of all in the passage: in words, and its start and end."""
        first, last = field(output, "start_logits").detach(), field(output, "end_logits").detach()
        pairs = [self._best(first[n], last[n], n, None if among is None else among[n]) for n in range(len(self.texts))]
        at, to = torch.tensor(pairs, device=first.device).unbind(1)
        spelt = [repr(self._characters(t, a, b + 1)) for t, (a, b) in zip(self.texts, pairs, strict=True)]
        notes = _no_answer(first[0], last[0], *pairs[0]) if among is None and len(pairs) == 1 else ()
        return spelt[:1] if len(set(spelt)) == 1 else spelt[:4], replace(Target.span(at, to), notes=notes)

    def _best(self, first: Tensor, last: Tensor, n: int, among: Sequence[tuple[int, int]] | None) -> tuple[int, int]:
        """The span with the greatest sum: of those given, or of all in the passage."""
        if among is not None:
            return max(among, key=lambda s: float(first[s[0]] + last[s[1]]))
        text = self.texts[n]
        inside = [not s and a >= self.passages[n] for s, (a, _) in zip(text.special, text.offsets, strict=True)]
        if not any(inside):
            raise TargetError("nothing is left of the text in which the answer stands; make it shorter")
        there = torch.tensor(inside, device=first.device)
        short = (there[:, None] & there).triu().tril(LONGEST - 1)
        sums = (first[:, None] + last).float().masked_fill(~short, -torch.inf)
        start, end = divmod(int(sums.argmax()), len(first))
        return start, end

    def _places(self, answer: str, n: int) -> list[tuple[int, int]]:
        """Where an answer stands in a passage: first and last token, for each time. Raises Misuse where it does not."""
        text, said = self.texts[n], answer.strip()
        found, at = [], text.text.find(said, self.passages[n]) if said else -1
        while at >= 0:
            tokens = [i for i, (a, b) in enumerate(text.offsets) if a < at + len(said) and b > at and b > a]
            found += [(tokens[0], tokens[-1])] if tokens else []
            at = text.text.find(said, at + 1)
        if not found:
            raise Misuse(f"the text does not hold {answer!r}; an answer is some words of the text, as they stand there")
        return found

    # -- places ---------------------------------------------------------------------------------------------------------

    def _ids(self) -> list[list[int]]:
        found: list[list[int]] = self.reading.inputs[self.stream].tolist()
        return found

    def _place(self, token: Any) -> tuple[Any, str]:
        """The position of a token in every text, which is named by a word (of which it is the first token) or a number."""
        if isinstance(token, bool) or not (isinstance(token, str) or hasattr(token, "__index__")):
            raise Misuse(f"a token is named by a word of the text or by its number, not by {token!r}")
        if isinstance(token, str) and any(token.strip() in t.text for t in self.texts):
            return _joined([self._first_of(token, t) for t in self.texts]), repr(token.strip())
        if isinstance(token, str) and not token.strip().lstrip("-").isdecimal():
            raise UnknownName(f"the text does not hold {token!r}; name a word of it, or a token's number")
        number = int(token)
        length = min(len(t.tokens) for t in self.texts)
        if not -length <= number < length:
            raise TargetError(f"there is no token {number}; the text has {length}, numbered from 0")
        at = number % length if len(self.texts) == 1 else number
        return at, f"token {at}" if len(self.texts) > 1 else repr(
            self._characters(self.texts[0], at, at + 1)
        ) + f" (token {at})"

    def _first_of(self, word: str, text: Text) -> int:
        """The first token of a word's first place in a text, whole words before parts of one."""
        said = word.strip()
        whole = [a for a, b in text.words if text.text[a:b] == said]
        at = whole[0] if whole else text.text.find(said)
        tokens = [i for i, (a, b) in enumerate(text.offsets) if a < at + len(said) and b > at and b > a]
        if at < 0 or not tokens:
            raise UnknownName(f"{text.name} does not hold {word!r}; name a word of it, or a token's number")
        return tokens[0]

    def _characters(self, text: Text, start: int, end: int) -> str:
        """What tokens spell."""
        spans = [o for o in text.offsets[start:end] if o[1] > o[0]]
        return text.text[spans[0][0] : spans[-1][1]] if spans else text.tokens[start]


def _goes_on(names: Sequence[str], i: int) -> bool:
    """Whether a tag goes on with that of the token before it: I-PER after B-PER, and PER after PER."""
    before = names[i - 1] if i else OUTSIDE
    (mark, _, kind), (_, _, last) = _parts(names[i]), _parts(before)
    return OUTSIDE not in (before, names[i]) and kind == last and mark not in ("B", "S", "U")


def _parts(name: str) -> tuple[str, str, str]:
    mark, dash, kind = name.partition("-")
    return (mark, dash, kind) if dash and len(mark) == 1 else ("", "", name)


def _no_answer(first: Tensor, last: Tensor, start: int, end: int) -> tuple[str, ...]:
    """A note where the first token, by which such models say that there is no answer, has a greater sum."""
    if not bool(first[0] + last[0] > first[start] + last[end]):
        return ()
    return ("the first token scores higher than this answer: a model that was trained to abstain finds no answer here",)


def _less(a: Target, b: Target, label: str) -> Target:
    """One answer's target less another's."""

    def read(out: Any, inputs: Mapping[str, Any]) -> Value:
        return Value(a.value(out, inputs).y - b.value(out, inputs).y)

    return Target(label, read, halves=(a, b), notes=a.notes)


def _each(at: Any, texts: Sequence[Text]) -> list[int]:
    """A position for each text."""
    return at.tolist() if isinstance(at, Tensor) else [int(at)] * len(texts)


def _joined(found: Sequence[int]) -> Any:
    """One number, or one a sample where these differ."""
    return found[0] if len(set(found)) == 1 else torch.tensor(found)


def names_in(explanations: Sequence[Any], asking: TokenTargets) -> None:
    """Give explanations the names of the tokens that they are about."""
    for exp in explanations:
        ids: set[int] = set()
        for found in (exp.receipt.explained, exp.receipt.predicted):
            ids |= set() if found is None else set(found.tolist())
        ids |= set() if exp.likely is None else set(exp.likely.classes.flatten().tolist())
        exp.names = {i: repr(asking.name(i)) for i in sorted(ids)}


def of_words(asking: TokenTargets, reading: Reading, target: Any, against: Any, token: Any) -> Wanted:
    """What is to be explained, of one or several targets that are named in words."""
    made = [asking.of(t, against, token) for t in (target if isinstance(target, list) else [target])]
    notes = tuple(dict.fromkeys(note for one in made for note in one.notes))
    searches = [one.found for one in made if one.found is not None]
    if not searches:
        targets = [one.target for one in made]
        return Wanted(reading, targets if isinstance(target, list) else targets[0], notes=notes)
    if len(searches) < len(made):
        raise Misuse("a tag that is to be found cannot be combined with other targets; say which token with token=")
    return Wanted(reading, find=lambda output: [t for search in searches for t in search(output)], notes=notes)


def single(asking: TokenTargets, target: Any) -> Any:
    """One target. Raises Misuse where the model's output would say what the targets are."""
    made = asking.of(target)
    if made.found is not None:
        raise Misuse("say which token is asked for: Target.logit(class, position=token)")
    return made.target


def first(found: Any) -> Any:
    """Of explanations of several targets, by several methods, those of the first target."""
    return [e for e in found if e.target == found[0].target] if isinstance(found, list) and found else found


def passages(model: nn.Module, raw: Any) -> list[int]:
    """Where the text begins in which an answer is to be found, after the question."""
    raws = raw if isinstance(raw, list) else [raw]
    if not all(isinstance(r, tuple) and len(r) == 2 for r in raws):
        name = type(model).__name__
        raise InputError(f"{name} finds the answer to a question in a text: give (question, text)")
    return [len(question) + 1 for question, _ in raws]


__all__ = ["TokenTarget", "TokenTargets", "first", "kind_of", "names_in", "of_words", "passages", "single"]
