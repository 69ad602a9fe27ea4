"""What there is to say of the scenes of ``crowds``: requests in words, each with its one right answer, for ``zoo/vlm-scenes``.

Five kinds:

- *caption*: ``describe the picture``: ``a red sandal at the top left , a blue bag at the bottom right .`` All items, in reading
  order;
- *what*: ``what is at the top left ?`` ``a red sandal .`` or ``nothing .``;
- *colour*: ``what colour is the bag ?`` ``red .`` Only where there is one bag;
- *where*: ``where is the red bag ?`` ``top left .`` Only where there is one red bag;
- *is*: ``is there a red bag ?`` ``yes .`` or ``no .``

A **twin** of a caption has another word in one place: the class or the colour of an item, of which the scene has none, or the
row or the column, so that the scene has no such item there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from regard.zoo.fact_data import Draw, words_of
from training.makers.captions import COLUMNS, ROWS, Mention
from training.makers.crowds import CELLS, TINTS
from training.makers.questions import ITEMS, Sight

PAD, UNKNOWN, BOS, EOS = "<pad>", "<unk>", "<bos>", "<eos>"
IMAGE, USER, ASSISTANT = "<image>", "<user>", "<assistant>"
SPECIAL = (PAD, UNKNOWN, BOS, EOS, IMAGE, USER, ASSISTANT)
FUNCTION = words_of("a at the , . ? describe picture what is where there colour nothing yes no")
VOCABULARY = (*SPECIAL, *FUNCTION, *ROWS, *COLUMNS, *ITEMS, *TINTS)
KINDS = ("caption", "what", "colour", "where", "is")
DESCRIBE = "describe the picture"


@dataclass(frozen=True)
class Answer:
    """A request, its right answer, and the cells of the items that the answer is about, none where it is about none."""

    kind: str
    prompt: str
    text: str
    cells: tuple[int, ...]


@dataclass(frozen=True)
class Twin:
    """A false caption: its words, the place of the false one among them, from 0, and its kind: item, colour or place."""

    kind: str
    text: str
    word: int


def mentions(sight: Sight) -> list[Mention]:
    """Speak of every item by its class, its colour and its place, in reading order."""
    return [Mention(sight.classes[c], sight.tints[c], c // 2, c % 2) for c in sight.full]


def sentence(said: Sequence[Mention]) -> str:
    """Return the words of a caption."""
    return " , ".join(m.text for m in said) + " ."


def captions(sight: Sight) -> list[Answer]:
    """Describe all of a scene: there is one way."""
    return [Answer("caption", DESCRIBE, sentence(mentions(sight)), tuple(sight.full))]


def named(sight: Sight, cell: int) -> str:
    """Return the colour and the class of the item in a cell."""
    return f"{TINTS[sight.tints[cell]]} {ITEMS[sight.classes[cell]]}"


def pairs(sight: Sight) -> list[tuple[int, int]]:
    """Return the class and the colour of the item in each cell."""
    return list(zip(sight.classes, sight.tints, strict=True))


def contents(sight: Sight) -> list[Answer]:
    """Ask what is in each cell, also in empty ones."""
    shown = [(c, f"a {named(sight, c)} .", (c,)) if c in sight.full else (c, "nothing .", ()) for c in range(4)]
    return [Answer("what", f"what is at the {CELLS[c]} ?", text, cells) for c, text, cells in shown]


def colours(sight: Sight) -> list[Answer]:
    """Ask for the colour of each item that is the only one of its class."""
    return [
        Answer("colour", f"what colour is the {ITEMS[sight.classes[c]]} ?", f"{TINTS[sight.tints[c]]} .", (c,))
        for c in sight.alone(sight.classes)
    ]


def places(sight: Sight) -> list[Answer]:
    """Ask for the place of each item that is the only one of its class and colour."""
    both = pairs(sight)
    alone = [c for c in sight.full if both.count(both[c]) == 1]
    return [Answer("where", f"where is the {named(sight, c)} ?", f"{CELLS[c]} .", (c,)) for c in alone]


def absent(sight: Sight, draw: Draw) -> tuple[int, int]:
    """Return a class and a colour that no item has together; two times in three each of them is some item's, if it can be."""
    shown = {(sight.classes[c], sight.tints[c]) for c in sight.full}
    far = [(k, t) for k in range(len(ITEMS)) for t in range(len(TINTS)) if (k, t) not in shown]
    near = [(k, t) for k, t in far if k in sight.classes and t in sight.tints]
    return draw.one(near if near and draw.below(3) else far)


def are_there(sight: Sight, draw: Draw) -> list[Answer]:
    """Ask whether there is an item of a class and a colour: each that there is, and as many that there are not."""
    both = pairs(sight)
    found = []
    for c in sight.full:
        same = tuple(d for d in sight.full if both[d] == both[c])
        item, tint = absent(sight, draw)
        found += [
            Answer("is", f"is there a {named(sight, c)} ?", "yes .", same),
            Answer("is", f"is there a {TINTS[tint]} {ITEMS[item]} ?", "no .", ()),
        ]
    return found


MAKE: dict[str, Callable[[Sight], list[Answer]]] = {
    "caption": captions,
    "what": contents,
    "colour": colours,
    "where": places,
}


def answers(sight: Sight, kind: str, draw: Draw) -> list[Answer]:
    """Return all requests of ``kind`` that a scene allows, with their answers."""
    return are_there(sight, draw) if kind == "is" else MAKE[kind](sight)


def ask(sight: Sight, kind: str, draw: Draw) -> Answer | None:
    """Return a request of ``kind`` with its answer, or None if the scene allows none.

    What is in an empty cell is asked one time in four, if there is one.
    """
    found = answers(sight, kind, draw)
    if kind == "what" and len(sight.full) < 4:
        shown = bool(draw.below(4))
        found = [answer for answer in found if bool(answer.cells) == shown]
    return draw.one(found) if found else None


def all_answers(sight: Sight, draw: Draw) -> list[Answer]:
    """Return all that can be asked, each once."""
    return list(dict.fromkeys(answer for kind in KINDS for answer in answers(sight, kind, draw)))


def twins(sight: Sight, draw: Draw) -> list[Twin]:
    """Return the caption of a scene with another class, with another colour, and with an item at another place."""
    return [item_twin(sight, draw), colour_twin(sight, draw), *place_twins(sight, draw)]


def item_twin(sight: Sight, draw: Draw) -> Twin:
    """Give one item a class that the scene does not show."""
    i = draw.below(len(sight.full))
    return twin("item", sight, i, item=draw.one([k for k in range(len(ITEMS)) if k not in sight.classes]))


def colour_twin(sight: Sight, draw: Draw) -> Twin:
    """Give one item a colour that the scene does not show."""
    i = draw.below(len(sight.full))
    return twin("colour", sight, i, tint=draw.one([t for t in range(len(TINTS)) if t not in sight.tints]))


def place_twins(sight: Sight, draw: Draw) -> list[Twin]:
    """Give one item the other row or the other column: where there is nothing, if it can be; never where its like is."""
    both = pairs(sight)
    moves = [(i, cell, beside) for i, cell in enumerate(sight.full) for beside in (cell ^ 1, cell ^ 2)]
    moves = [move for move in moves if both[move[1]] != both[move[2]]]
    moves = [move for move in moves if move[2] not in sight.full] or moves
    if not moves:
        return []
    i, _, cell = draw.one(moves)
    return [twin("place", sight, i, row=cell // 2, column=cell % 2)]


def twin(kind: str, sight: Sight, i: int, **other: int) -> Twin:
    """Return the caption of a scene with its mention ``i`` changed."""
    said = mentions(sight)
    told = sentence([*said[:i], replace(said[i], **other), *said[i + 1 :]])
    words = zip(sentence(said).split(), told.split(), strict=True)
    return Twin(kind, told, [own == false for own, false in words].index(False))
