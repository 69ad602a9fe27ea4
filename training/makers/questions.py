"""Questions about the scenes of ``crowds``, each with its answer and the regions that the answer must rest on.

Six kinds:

- *item*: ``what is the red item ?`` bag. Only where one item alone is red;
- *place*: ``what is at the top left ?`` bag;
- *colour*: ``what colour is the bag ?`` red. Only where there is one bag;
- *side*: ``on which side is the bag ?`` left; ``at which height is the bag ?`` top;
- *count*: ``how many bags are there ?``, ``how many red items are there ?``, ``how many items are there ?`` two;
- *relation*: ``what is left of the bag ?`` coat (right of, above, below). The item beside it in the same row or column.

The **evidence** of an answer are the items it cannot be known without: the one asked for; all that are counted; in a
relation both, the one named and the one beside it. The **source** is the part of the evidence that the answer is read off:
in a relation the one beside it alone, otherwise all of the evidence.

An *absent* question asks, in the same words, for a class of which the scene shows no item and no fragment. It has no
answer, and the model was never taught one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from regard.zoo.fact_data import Draw, words_of
from training.makers.crowds import CELLS, TINTS

PAD, CLS, SEP, UNKNOWN = "[PAD]", "[CLS]", "[SEP]", "[UNK]"
ITEMS = ("shirt", "trouser", "dress", "coat", "sandal", "sneaker", "bag", "boot")
"""One word for each class of scenes.FASHION, in its order."""
MANY = ("shirts", "trousers", "dresses", "coats", "sandals", "sneakers", "bags", "boots")
NUMBERS = ("one", "two", "three", "four")
SIDES = ("left", "right", "top", "bottom")
BESIDE = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
"""Where the answer lies, seen from the item that is named: rows down, columns to the right."""
ANSWERS = (*ITEMS, *TINTS, *SIDES, *NUMBERS)
FUNCTION = words_of("? what is the item at colour on which side height how many are there items of above below")
VOCABULARY = (PAD, CLS, SEP, UNKNOWN, *FUNCTION, *ITEMS, *MANY, *TINTS, *SIDES)
KINDS = ("item", "place", "colour", "side", "count", "relation")


@dataclass(frozen=True)
class Question:
    """A question about a scene of four cells: its words, its answer ("" if there is none), and cells 0..3 that hold the
    ``evidence`` and the ``source``. ``asked``: the position, from 0, of the word that names what is asked for; -1 if all
    items are.
    """

    kind: str
    words: tuple[str, ...]
    answer: str
    evidence: tuple[int, ...]
    source: tuple[int, ...]
    asked: int


@dataclass(frozen=True)
class Sight:
    """What a scene shows: the class and the tint of the item in each of the four cells, -1 where there is none."""

    classes: tuple[int, ...]
    tints: tuple[int, ...]

    @property
    def full(self) -> list[int]:
        """The cells that hold an item."""
        return [cell for cell in range(4) if self.classes[cell] >= 0]

    def alone(self, values: Sequence[int]) -> list[int]:
        """Return the cells whose item's value, among ``values`` (4), is no other item's."""
        return [cell for cell in self.full if values.count(values[cell]) == 1]


def about(kind: str, text: str, word: str, answer: str, cells: Sequence[int]) -> Question:
    """Return the question ``text`` with ``word`` at its brace, that rests on all of ``cells``."""
    words = tuple(text.format(word).split())
    return Question(kind, words, answer, tuple(cells), tuple(cells), text.split().index("{}") if word else -1)


def item_questions(sight: Sight) -> list[Question]:
    """Ask what has a colour that one item alone has."""
    return [
        about("item", "what is the {} item ?", TINTS[sight.tints[c]], ITEMS[sight.classes[c]], [c])
        for c in sight.alone(sight.tints)
    ]


def place_questions(sight: Sight) -> list[Question]:
    """Ask what is where; the asked word is the first of the two that name the cell."""
    asked = [("what is at the {} " + CELLS[c].split()[1] + " ?", CELLS[c].split()[0], c) for c in sight.full]
    return [about("place", text, word, ITEMS[sight.classes[c]], [c]) for text, word, c in asked]


def colour_questions(sight: Sight) -> list[Question]:
    """Ask for the colour of an item that is the only one of its class."""
    return [
        about("colour", "what colour is the {} ?", ITEMS[sight.classes[c]], TINTS[sight.tints[c]], [c])
        for c in sight.alone(sight.classes)
    ]


def side_questions(sight: Sight) -> list[Question]:
    """Ask on which side, and at which height, the only item of its class is."""
    found = []
    for c in sight.alone(sight.classes):
        height, side = CELLS[c].split()
        for text, answer in (("on which side is the {} ?", side), ("at which height is the {} ?", height)):
            found.append(about("side", text, ITEMS[sight.classes[c]], answer, [c]))
    return found


def count_questions(sight: Sight) -> list[Question]:
    """Ask how many there are of a class, of a colour, and in all."""
    found = [about("count", "how many items are there ?", "", NUMBERS[len(sight.full) - 1], sight.full)]
    for values, text, names in (
        (sight.classes, "how many {} are there ?", MANY),
        (sight.tints, "how many {} items are there ?", TINTS),
    ):
        for value in sorted({values[c] for c in sight.full}):
            cells = [c for c in sight.full if values[c] == value]
            found.append(about("count", text, names[value], NUMBERS[len(cells) - 1], cells))
    return found


def relation_questions(sight: Sight) -> list[Question]:
    """Ask what is beside the only item of its class, in its row or its column."""
    found = []
    for cell in sight.alone(sight.classes):
        for words, (down, right) in BESIDE.items():
            row, column = cell // 2 + down, cell % 2 + right
            other = 2 * row + column
            if 0 <= row < 2 and 0 <= column < 2 and sight.classes[other] >= 0:
                q = about("relation", f"what is {words} the {{}} ?", ITEMS[sight.classes[cell]], "", [cell])
                answer = ITEMS[sight.classes[other]]
                found.append(Question("relation", q.words, answer, (cell, other), (other,), q.asked))
    return found


ASK = {
    "item": item_questions,
    "place": place_questions,
    "colour": colour_questions,
    "side": side_questions,
    "count": count_questions,
    "relation": relation_questions,
}


def absent_questions(missing: Sequence[int]) -> list[Question]:
    """Ask for the colour and the side of what a scene does not show: items of the classes ``missing``."""
    return [
        about(kind, text, ITEMS[k], "", [])
        for k in missing
        for kind, text in (("colour", "what colour is the {} ?"), ("side", "on which side is the {} ?"))
    ]


def balanced_count(questions: Sequence[Question], draw: Draw) -> Question:
    """Return a count question, every answer that the scene allows as likely: most counts are "one"."""
    answer = draw.one(sorted({q.answer for q in questions}))
    return draw.one([q for q in questions if q.answer == answer])


def ask(sight: Sight, kind: str, draw: Draw) -> Question | None:
    """Return a random question of ``kind``, or None if the scene allows none."""
    questions = ASK[kind](sight)
    if not questions:
        return None
    return balanced_count(questions, draw) if kind == "count" else draw.one(questions)
