"""What the classifier learns from: the Stanford Sentiment Treebank where it is there, else a language of our own.

A text knows its label (1 positive, 0 negative, ½ neither), whether it is a whole sentence, and what each of its words says
alone: more than 0 for it, less than 0 against it, 0 neither. In the treebank people have said so, of every phrase; in the
language of our own it is so by construction.
"""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from regard.errors import InputError

SPLITS = ("train", "dev", "test")
ESCAPES = {"-lrb-": "(", "-rrb-": ")", "``": '"', "''": '"', "`": "'"}


class Labelled(NamedTuple):
    """Words in lower case, with their label and each word's own sign."""

    words: tuple[str, ...]
    label: float
    whole: bool
    signs: tuple[float, ...]


class Corpus(NamedTuple):
    """What to train on, what is held out, what to report; what it is, where words' signs are from, and what place means."""

    name: str
    train: list[Labelled]
    dev: list[Labelled]
    test: list[Labelled]
    about: str
    signs: str
    places: str = ""


# -- the treebank ------------------------------------------------------------------------------------------------------


def read_treebank(folder: Path) -> Corpus:
    """The Stanford Sentiment Treebank (Socher et al., 2013) from {train,dev,test}.trees.txt.gz, or the same unzipped.

    Train: every phrase once. Dev and test: the whole sentences that are not neutral, 872 and 1821 (SST-2).
    Raises InputError for a file that is missing or holds no trees, or no such sentences.
    """
    train, dev, test = (read_trees(folder, split) for split in SPLITS)
    unique = {(p.words, p.label): p for p in train}
    dev, test = ([p for p in part if p.whole and p.label != 0.5] for part in (dev, test))
    for split, part in (("dev", dev), ("test", test)):
        if not part:
            raise InputError(f"{folder} has no {split} sentence that is positive or negative")
    about = "Stanford Sentiment Treebank (Socher et al., 2013): film reviews, with a label for every phrase"
    return Corpus("SST-2", [*unique.values()], dev, test, about, "as people labelled each word alone")


def read_trees(folder: Path, split: str) -> list[Labelled]:
    """All phrases of one split, those of a tree after one another, the sentence last."""
    path = next((p for end in (".gz", "") if (p := folder / f"{split}.trees.txt{end}").is_file()), None)
    if path is None:
        raise InputError(f"{folder} has no {split}.trees.txt.gz; --data takes the folder of the treebank's files")
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            found = [phrase for tree in lines for phrase in phrases(tree)]
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise InputError(f"{path} cannot be read: {e}") from e
    if not found:
        raise InputError(f"{path} holds no trees such as (3 (2 very) (3 good))")
    return found


def phrases(tree: str) -> Iterator[Labelled]:
    """Every phrase of one tree `(label (label word) (label word))`, inner ones first; labels 0 to 4, 2 is neutral."""
    starts: list[tuple[int, int]] = []
    words: list[str] = []
    signs: list[float] = []
    for label, word, close in re.findall(r"\((\d) |([^\s()]+)|(\))", tree):
        if label:
            starts.append((int(label), len(words)))
        elif word and starts:
            said = word.replace("\\/", "/").replace("\\*", "*").lower()
            words.append(ESCAPES.get(said, said))
            signs.append(float(starts[-1][0] - 2))
        elif close and starts:
            label_of, start = starts.pop()
            side = 0.5 + 0.5 * ((label_of > 2) - (label_of < 2))
            yield Labelled(tuple(words[start:]), side, not starts, tuple(signs[start:]))


# -- a language of our own ---------------------------------------------------------------------------------------------

GOOD = {
    "lovely": 1,
    "warm": 1,
    "witty": 1,
    "clever": 1,
    "fresh": 1,
    "tender": 1,
    "brilliant": 2,
    "superb": 2,
    "stunning": 2,
}
BAD = {"dull": 1, "weak": 1, "clumsy": 1, "stale": 1, "noisy": 1, "hollow": 1, "dreadful": 2, "awful": 2, "tedious": 2}
STRENGTH = {**GOOD, **{word: -size for word, size in BAD.items()}}
NOUNS = ("story", "music", "acting", "ending", "script", "plot", "cast", "camera", "humour", "film")
VERBS = ("is", "was", "seems", "feels")
PLAIN = ("long", "short", "french", "recent", "blue", "early")
JOINTS = (",", "and", "but", "while")
OPENING = 2
"""How many times as much the opening clause counts as each of the others."""


def language(seed: int = 0, train: int = 4000, dev: int = 500, test: int = 1000) -> Corpus:
    """Film reviews of a small language: clauses such as `the music is lovely`, joined by commas, and, but, while.

    A review is positive where its strengths sum to more than 0, and the opening clause counts twice: what a word says has a
    sign, and where it stands has a weight. Joints say nothing, so `but` turns nothing round.
    """
    draw = random.Random(seed)
    learnt, held, tested = ([_review(draw) for _ in range(count)] for count in (train, dev, test))
    about = "a small language of film reviews, made by code: clauses with words of known sign, the opening counts twice"
    places = " In this language the opening clause, the first four words, counts twice."
    return Corpus("our own language", learnt, held, tested, about, "by construction", places)


def _review(draw: random.Random) -> Labelled:
    while True:
        words: list[str] = []
        total = 0
        for number in range(draw.randint(2, 5)):
            adjective = draw.choice([*STRENGTH, *PLAIN, *PLAIN])
            words += [draw.choice(JOINTS)] if number else []
            words += ["the", draw.choice(NOUNS), draw.choice(VERBS), adjective]
            total += STRENGTH.get(adjective, 0) * (1 if number else OPENING)
        if total:
            return Labelled(tuple(words), float(total > 0), True, tuple(float(STRENGTH.get(w, 0)) for w in words))


def vocabulary(texts: Sequence[Labelled], least: int = 1) -> list[str]:
    """The words that occur at least so often, in alphabetical order."""
    counts: dict[str, int] = {}
    for text in texts:
        for word in text.words:
            counts[word] = counts.get(word, 0) + 1
    return sorted(word for word, count in counts.items() if count >= least)


__all__ = ["Corpus", "Labelled", "language", "read_treebank", "vocabulary"]
