"""The language of ``zoo/llama-facts``: little stories, and questions about them whose answer has one known source.

Four kinds of prompts, all of single words and stops:

- *recall-what*: ``anna has the lamp . bob has the coin . what has anna ?`` lamp;
- *recall-who*: the same, asked the other way round: ``who has the coin ?`` bob, so that the source stands before the word
  it is found by;
- *copy*: ``copy : red blue green ; red blue`` green;
- *chain*: ``anna gives the key to bob . bob gives the key to carl . who has the key ?`` carl, other things being handed
  about in between.

**The known source** of an answer is the one token of the prompt that is the answer word. A story is drawn so that it
holds that word once, and all its words are drawn at random, so what the answer is can be known from that token alone;
every other token can at most tell that this is the one. The evidence is the statement that the source stands in; in
copying the source and the item before it.

Pairs of words that a fact joins (a name and a thing, two colours in a row) are split by a hash: one in eight is never
joined in training, and every test prompt asks for such a pair.

Drawing uses ``random.Random.random`` alone, the one method of it that Python promises to keep: a seed gives the same
prompts everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")
Link = tuple[str, str]


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of ``text``."""
    return tuple(text.split())


BOS, EOS, PAD, UNKNOWN = "<bos>", "<eos>", "<pad>", "<unk>"
FUNCTION = ("has", "the", ".", "who", "what", "?", "copy", ":", ";", "gives", "to")
NAMES = words_of("""anna bob carl dora emil fred gina hugo ida jack kate leo mia nora otto paul quinn rosa sam tina ulla vera
walt xena yuri zoe alan beth cora dean ella finn greta hans iris jane kurt lena mark nina oscar petra ralph sara tom uma
victor wendy adam clara david eva felix helen ivan julia karl linda max olga""")  # fmt: skip
THINGS = words_of("""lamp coin book ring key map rope drum flute bell knife fork spoon plate cup hat coat shoe glove scarf
brush comb mirror candle clock watch pen pencil stamp letter flag kite ball doll dice card stone shell feather leaf rose
apple pear plum lemon nut egg bread cheese cake honey needle thread button hammer nail saw torch whistle
medal""")  # fmt: skip
COLOURS = words_of("""red blue green yellow black white grey brown pink orange purple violet gold silver cyan magenta beige
ivory amber indigo crimson scarlet turquoise olive maroon navy teal coral copper mint""")  # fmt: skip
VOCABULARY = (PAD, BOS, EOS, UNKNOWN, *FUNCTION, *NAMES, *THINGS, *COLOURS)


@dataclass(frozen=True)
class Fact:
    """A prompt and its one right answer.

    Positions are those of tokens: 0 is ``<bos>``, word i of the prompt is token i + 1. ``source``: the token that is
    the answer word. ``evidence``: the tokens of the statements that the answer follows from, the source among them.
    ``distractor``: a wrong answer of the same sort that stands in the prompt too (in a chain: an earlier owner).
    """

    kind: str
    prompt: str
    answer: str
    source: int
    evidence: tuple[int, ...]
    distractor: str


@dataclass(frozen=True)
class Question:
    """A question about a story: its words, the answer, and where in the story's words (from 0) the answer comes from.

    ``links``: the pairs of words whose joining the answer follows from. ``asked``: whether test prompts may ask it.
    """

    words: tuple[str, ...]
    answer: str
    source: int
    evidence: tuple[int, ...]
    distractor: str
    links: tuple[Link, ...]
    asked: bool = True


@dataclass(frozen=True)
class Story:
    """A story's words, every pair of words that it joins, and the questions that it answers."""

    kind: str
    words: tuple[str, ...]
    links: tuple[Link, ...]
    questions: tuple[Question, ...]


class Draw:
    """Seeded choices, the same on every Python."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def below(self, count: int) -> int:
        """Return a whole number 0 .. count - 1."""
        return int(self._random() * count)

    def between(self, low: int, high: int) -> int:
        """Return a whole number low .. high."""
        return low + self.below(high - low + 1)

    def some(self, pool: Sequence[T], count: int) -> list[T]:
        """Return ``count`` different members of ``pool`` in random order."""
        left = list(pool)
        return [left.pop(self.below(len(left))) for _ in range(count)]

    def mixed(self, items: Sequence[T]) -> list[T]:
        """Return ``items`` in random order."""
        return self.some(items, len(items))

    def one(self, pool: Sequence[T]) -> T:
        """Return one member of ``pool``."""
        return pool[self.below(len(pool))]


@cache
def held_out(link: Link) -> bool:
    """Whether a pair of words is kept from training: one in eight, by a hash of the two."""
    return blake2b(" ".join(link).encode(), digest_size=1).digest()[0] % 8 == 0


# --- stories --------------------------------------------------------------------------------------------------------


def told(sentences: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """Return the words of ``sentences`` one after the other, and the positions of each sentence's words."""
    words = tuple(word for sentence in sentences for word in sentence)
    ends = [sum(map(len, sentences[: i + 1])) for i in range(len(sentences))]
    return words, [tuple(range(end - len(s), end)) for s, end in zip(sentences, ends, strict=True)]


def another(draw: Draw, pool: Sequence[str], answer: str) -> str:
    """Return a member of ``pool`` that is not the answer."""
    return draw.one([word for word in pool if word != answer])


def recall(draw: Draw, form: str) -> Story:
    """Draw 3 to 6 owners and their things; test prompts ask "what" an owner has, or "who" has a thing."""
    count = draw.between(3, 6)
    names, things = draw.some(NAMES, count), draw.some(THINGS, count)
    words, at = told([(name, "has", "the", thing, ".") for name, thing in zip(names, things, strict=True)])
    questions = []
    for name, thing, place in zip(names, things, at, strict=True):
        links = ((name, thing),)
        for asked, answer, source, pool in (
            (("what", "has", name, "?"), thing, place[3], things),
            (("who", "has", "the", thing, "?"), name, place[0], names),
        ):
            other = another(draw, pool, answer)
            questions.append(Question(asked, answer, source, place, other, links, asked=asked[0] == form))
    return Story(f"recall-{form}", words, tuple(zip(names, things, strict=True)), tuple(questions))


def copy(draw: Draw) -> Story:
    """Draw 4 to 9 colours; question i shows the first i of them again and asks for the next."""
    colours = draw.some(COLOURS, draw.between(4, 9))
    words = ("copy", ":", *colours, ";")
    questions = []
    for i, colour in enumerate(colours):
        before = tuple(colours[:i])
        evidence = (i + 1, i + 2) if i else (i + 2,)
        links = ((before[-1], colour),) if i else ()
        questions.append(Question(before, colour, i + 2, evidence, another(draw, colours, colour), links, asked=i > 0))
    return Story("copy", words, tuple(pairwise(colours)), tuple(questions))


def chain(draw: Draw) -> Story:
    """Draw 2 or 3 things that are handed on, 5 times at most, each among people of its own; who has one in the end?

    Test prompts ask for things that changed hands at least twice, so that an earlier owner stands in the way.
    """
    hands = draw.one([(2, 1), (3, 1), (2, 2), (2, 1, 1), (3, 2), (3, 1, 1), (2, 2, 1)])
    things, people = draw.some(THINGS, len(hands)), draw.some(NAMES, sum(hands) + len(hands))
    owners = {thing: [people.pop() for _ in range(n + 1)] for thing, n in zip(things, hands, strict=True)}
    order = draw.mixed([thing for thing, n in zip(things, hands, strict=True) for _ in range(n)])
    steps = [(thing, order[:i].count(thing)) for i, thing in enumerate(order)]
    words, at = told([(owners[t][i], "gives", "the", t, "to", owners[t][i + 1], ".") for t, i in steps])
    questions = []
    for thing, those in owners.items():
        place = at[steps.index((thing, len(those) - 2))]
        links = ((those[-1], thing),)
        who = ("who", "has", "the", thing, "?")
        questions.append(Question(who, those[-1], place[5], place, those[-2], links, asked=len(those) > 2))
    return Story("chain", words, tuple((p, t) for t, those in owners.items() for p in those), tuple(questions))


KINDS: dict[str, Callable[[Draw], Story]] = {
    "recall-what": lambda draw: recall(draw, "what"),
    "recall-who": lambda draw: recall(draw, "who"),
    "copy": copy,
    "chain": chain,
}


# --- what is made of them -------------------------------------------------------------------------------------------


def training_story(kind: str, draw: Draw) -> Story:
    """Return a story that joins no pair of words that is held out, whether asked for or not."""
    while True:
        story = KINDS[kind](draw)
        if not any(map(held_out, story.links)):
            return story


def unseen_fact(kind: str, draw: Draw) -> Fact:
    """Return a prompt whose answer follows from pairs of words that are all held out of training."""
    while True:
        story = KINDS[kind](draw)
        questions = [q for q in story.questions if q.asked and all(map(held_out, q.links))]
        if questions:
            return fact(story, draw.one(questions))


def fact(story: Story, question: Question) -> Fact:
    """Return the prompt that tells ``story`` and asks ``question``, with positions of tokens."""
    prompt = " ".join(story.words + question.words)
    evidence = tuple(sorted(i + 1 for i in question.evidence))
    return Fact(story.kind, prompt, question.answer, question.source + 1, evidence, question.distractor)


def facts(count: int, seed: int) -> list[Fact]:
    """Return ``count`` prompts of unseen pairs, no two the same, the kinds in turn."""
    draw, found = Draw(seed), dict[str, Fact]()
    kinds = list(KINDS)
    while len(found) < count:
        made = unseen_fact(kinds[len(found) % len(kinds)], draw)
        found.setdefault(made.prompt, made)
    return list(found.values())


def redirected(asked: Fact, draw: Draw) -> Fact:
    """Return the same prompt with another word of the same sort, one that it does not hold, in the place of its source.

    That word is now the answer: a model that answers from the source follows it.
    """
    words = asked.prompt.split()
    (pool,) = [pool for pool in (NAMES, THINGS, COLOURS) if asked.answer in pool]
    word = draw.one([w for w in pool if w not in words])
    words[asked.source - 1] = word
    return replace(asked, prompt=" ".join(words), answer=word)


def training_row(kind: str, draw: Draw, length: int) -> tuple[list[str], list[int]]:
    """Return a row of at most ``length`` words, ``<bos>`` to ``<eos>``, and the positions of the answers in it.

    A story is told once and then asked about several times, in random order: each answer is one more thing to learn
    from. No pair is asked about twice, for then the first answer would give away the second. A list is copied to its end.
    """
    story = training_story(kind, draw)
    row, answers, known = [BOS, *story.words], list[int](), set[Link]()
    for question in story.questions if kind == "copy" else draw.mixed(story.questions):
        asked, stop = ((), ()) if kind == "copy" else (question.words, (".",))
        if known & set(question.links) or len(row) + len(asked) + 2 > length:
            continue
        known |= set(question.links)
        answers.append(len(row) + len(asked))
        row += [*asked, question.answer, *stop]
    return [*row[: answers[-1] + 1], EOS], answers
