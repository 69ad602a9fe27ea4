"""Captions of the scenes of ``crowds``, true ones and ones that are false by little, for ``zoo/clip-scenes``.

A caption mentions one to four items: each by its class, its colour or both, some with their place. Four kinds:

- *item*: ``a bag``, ``a red bag``, ``a red item``;
- *place*: ``a bag on the left``, ``a red bag at the top``, ``a coat at the bottom right``;
- *list*: ``a red sandal and a blue bag``, ``a coat , a red bag and a green boot``;
- *relation*: ``a red sandal left of a bag`` (right of, above, below). Left of means in the left half, with the other one in
  the right half, whatever their heights; above likewise.

A caption is **true** of a scene where its mentions can be given to different items so that each fits and the relation holds;
nothing is said of the other items. Scenes and captions are both symbols, so ``truths`` tells of any caption whether it is
true of any scene.

What ``twisted`` makes of a caption differs in one thing: the colours of two items are swapped, a class, a colour or a place
is another one, or the relation is turned round.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regard.zoo.fact_data import Draw, words_of
from training.makers.crowds import TINTS
from training.makers.questions import ITEMS, Sight

PAD, UNKNOWN, BOS, EOS = "<pad>", "<unk>", "<bos>", "<eos>"
ROWS, COLUMNS = ("top", "bottom"), ("left", "right")
RELATIONS = ("left of", "right of", "above", "below")
VOCABULARY = (
    PAD,
    UNKNOWN,
    BOS,
    EOS,
    *words_of("a item on at the of and , above below"),
    *ROWS,
    *COLUMNS,
    *ITEMS,
    *TINTS,
)
KINDS = ("item", "place", "list", "relation")
ORDERS = tuple(itertools.permutations(range(4)))
"""All ways to give the four cells to four mentions."""


@dataclass(frozen=True)
class Mention:
    """An item as a caption speaks of it: class, tint, row and column, -1 where nothing is said."""

    item: int = -1
    tint: int = -1
    row: int = -1
    column: int = -1

    @property
    def text(self) -> str:
        """The words."""
        colour = f"{TINTS[self.tint]} " if self.tint >= 0 else ""
        return f"a {colour}{ITEMS[self.item] if self.item >= 0 else 'item'}{self.place}"

    @property
    def place(self) -> str:
        """The words for the place, with a space in front."""
        if self.row < 0:
            return f" on the {COLUMNS[self.column]}" if self.column >= 0 else ""
        return f" at the {ROWS[self.row]}" + (f" {COLUMNS[self.column]}" if self.column >= 0 else "")


@dataclass(frozen=True)
class Caption:
    """What is said of a scene: ``mentions``, one to four; how the first stands to the second, as RELATIONS numbers it."""

    mentions: tuple[Mention, ...]
    relation: int = -1

    @property
    def text(self) -> str:
        """The words."""
        said = [mention.text for mention in self.mentions]
        if self.relation >= 0:
            return f"{said[0]} {RELATIONS[self.relation]} {said[1]}"
        return " and ".join([" , ".join(said[:-1]), said[-1]] if len(said) > 1 else said)


def seen_at(sight: Sight, cell: int, draw: Draw, place: bool = False) -> Mention:
    """Speak of the item in a cell: by its class and its colour two times in three, else by its class alone."""
    tint = sight.tints[cell] if draw.below(3) else -1
    row, column = ((cell // 2, cell % 2), (cell // 2, -1), (-1, cell % 2))[draw.below(3)] if place else (-1, -1)
    return Mention(sight.classes[cell], tint, row, column)


def item_caption(sight: Sight, draw: Draw) -> Caption:
    """Mention one item, one time in eight by its colour alone."""
    cell = draw.one(sight.full)
    return Caption((seen_at(sight, cell, draw) if draw.below(8) else Mention(tint=sight.tints[cell]),))


def place_caption(sight: Sight, draw: Draw) -> Caption:
    """Mention one item and its place."""
    return Caption((seen_at(sight, draw.one(sight.full), draw, place=True),))


def list_caption(sight: Sight, draw: Draw) -> Caption:
    """Mention two items or more, half of the time both with their colours and nothing else."""
    count = draw.between(2, len(sight.full)) if draw.below(2) else 2
    cells = draw.some(sight.full, count)
    if count == 2 and draw.below(2):
        return Caption(tuple(Mention(sight.classes[c], sight.tints[c]) for c in cells))
    return Caption(tuple(seen_at(sight, c, draw) for c in cells))


def relation_caption(sight: Sight, draw: Draw) -> Caption:
    """Mention two items and how the first stands to the second."""
    first, second = draw.some(sight.full, 2)
    apart = [r for r in range(4) if HOLDS[r][first][second]]
    return Caption((seen_at(sight, first, draw), seen_at(sight, second, draw)), draw.one(apart))


def _holds(relation: int, first: int, second: int) -> bool:
    """Whether cell ``first`` stands in ``relation`` to cell ``second``."""
    along = [cell % 2 if relation < 2 else cell // 2 for cell in (first, second)]
    return (along[0] < along[1]) if relation % 2 == 0 else (along[0] > along[1])


HOLDS = tuple(tuple(tuple(_holds(r, a, b) for b in range(4)) for a in range(4)) for r in range(4))
"""``HOLDS[relation][first][second]``, of two cells."""
MAKE: dict[str, Callable[[Sight, Draw], Caption]] = {
    "item": item_caption,
    "place": place_caption,
    "list": list_caption,
    "relation": relation_caption,
}


def describe(sight: Sight, kind: str, draw: Draw) -> Caption:
    """Return a caption of ``kind`` that is true of a scene; of one item alone no list and no relation."""
    alone = {"list": "item", "relation": "place"} if len(sight.full) == 1 else {}
    return MAKE[alone.get(kind, kind)](sight, draw)


def other(value: int, seen: Sequence[int], kinds: int, draw: Draw) -> int:
    """Return another value: half of the time one of ``seen``, if there is one, else any of ``kinds``."""
    near = sorted({v for v in seen if v >= 0} - {value})
    return draw.one(near if near and draw.below(2) else [v for v in range(kinds) if v != value])


def twists(caption: Caption) -> list[tuple[str, int]]:
    """Return what can be twisted, each with the number of the mention it is about (0 where it is about two).

    A place comes twice as often as a class or a colour, a relation or a swap of colours as often as all others together.
    """
    said = list(enumerate(caption.mentions))
    found = [("class", i) for i, m in said if m.item >= 0] + [("colour", i) for i, m in said if m.tint >= 0]
    found += [("place", i) for i, m in said if m.row >= 0 or m.column >= 0] * 2
    for what, there in (("relation", caption.relation >= 0), ("swap", swappable(caption))):
        found += [(what, 0)] * len(found) if there else []
    return found


def swappable(caption: Caption) -> bool:
    """Whether the first two mentions name classes and colours, and differ in both."""
    if len(caption.mentions) < 2:
        return False
    first, second = caption.mentions[:2]
    named = min(first.tint, second.tint, first.item, second.item) >= 0
    return named and first.tint != second.tint and first.item != second.item


def swapped(caption: Caption) -> Caption:
    """Return the caption with the colours of its first two items exchanged."""
    first, second = caption.mentions[:2]
    both = (replace(first, tint=second.tint), replace(second, tint=first.tint))
    return replace(caption, mentions=both + caption.mentions[2:])


def turned(caption: Caption) -> Caption:
    """Return the caption with its relation turned round: left of for right of, above for below."""
    return replace(caption, relation=caption.relation ^ 1)


def moved(mention: Mention, draw: Draw) -> Mention:
    """Return a mention with the opposite row or the opposite column, of those that it names."""
    if mention.row >= 0 and (mention.column < 0 or draw.below(2)):
        return replace(mention, row=1 - mention.row)
    return replace(mention, column=1 - mention.column)


def twisted(caption: Caption, sight: Sight, draw: Draw) -> Caption:
    """Return the caption changed in one thing; it is nearly always false of the scene, see ``truths``."""
    what, i = draw.one(twists(caption))
    if what in ("swap", "relation"):
        return swapped(caption) if what == "swap" else turned(caption)
    m = caption.mentions[i]
    if what == "class":
        m = replace(m, item=other(m.item, sight.classes, len(ITEMS), draw))
    elif what == "colour":
        m = replace(m, tint=other(m.tint, sight.tints, len(TINTS), draw))
    else:
        m = moved(m, draw)
    return replace(caption, mentions=(*caption.mentions[:i], m, *caption.mentions[i + 1 :]))


def _shown(sights: Sequence[Sight]) -> Tensor:
    """What scenes show, int64 (4, scenes, cells): classes, tints, rows and columns."""
    cells = torch.arange(4).expand(len(sights), 4)
    classes, tints = torch.tensor([[s.classes, s.tints] for s in sights]).unbind(1)
    return torch.stack([classes, tints, cells // 2, cells % 2])


def _said(captions: Sequence[Caption]) -> Tensor:
    """What captions say, int64 (4, captions, mentions): classes, tints, rows and columns; -1 where nothing is said."""
    rows = [
        [(m.item, m.tint, m.row, m.column) for m in c.mentions] + [(-1,) * 4] * (4 - len(c.mentions)) for c in captions
    ]
    return torch.tensor(rows).permute(2, 0, 1)


GIVEN = torch.stack([torch.eye(4)[list(order)] for order in ORDERS], 2)
"""Which mention gets which cell in each of ORDERS, 0 or 1, (mentions, cells, orders)."""
KEPT = torch.tensor([[r < 0 or HOLDS[r][o[0]][o[1]] for o in ORDERS] for r in range(-1, len(RELATIONS))])
"""Whether each relation holds in each of ORDERS, bool (1 + relations, orders); in the first row none is asked for."""


def truths(sights: Sequence[Sight], captions: Sequence[Caption]) -> Tensor:
    """Return of which scenes each caption is true, bool (scenes, captions)."""
    shown, said = _shown(sights)[:, :, None, None, :], _said(captions)[:, None, :, :, None]
    fits = ((said == shown) | (said < 0)).all(0)  # (scenes, captions, mentions, cells)
    fits &= (shown[0] >= 0) | (said < 0).all(0)
    number = fits.flatten(2).float() @ GIVEN.flatten(0, 1)  # how many mentions fit, (scenes, captions, orders)
    return ((number == 4) & KEPT[[c.relation + 1 for c in captions]]).any(2)


@dataclass(frozen=True)
class Twins:
    """A caption that is true of a scene, one that is false by little, and the cells of the items that the first mentions.

    The first is true of these items alone. Kinds: *item*, where the other class is not in the scene; *colour*, where the other
    colour is that of another item if it can be; *place*; *pair*, two items and their colours, which are swapped; *relation*,
    which is turned round; *list*, all of three or four items, where the colours of two are swapped.
    """

    kind: str
    caption: Caption
    twin: Caption
    cells: tuple[int, ...]


def item_twins(sight: Sight, draw: Draw) -> list[Twins]:
    """Each class that one item alone has, against one that none has."""
    missing = [k for k in range(len(ITEMS)) if k not in sight.classes]
    rows = [(c, Mention(sight.classes[c])) for c in sight.alone(sight.classes)]
    return [Twins("item", Caption((m,)), Caption((Mention(draw.one(missing)),)), (c,)) for c, m in rows]


def colour_twins(sight: Sight, draw: Draw) -> list[Twins]:
    """Each item by class and colour, against its class in the colour of another item, or in any other."""
    found = []
    for c in sight.full:
        own, k = sight.tints[c], sight.classes[c]
        taken = {sight.tints[d] for d in sight.full if sight.classes[d] == k}
        near = sorted({sight.tints[d] for d in sight.full} - taken)
        tint = draw.one(near or [t for t in range(len(TINTS)) if t not in taken])
        found.append(Twins("colour", Caption((Mention(k, own),)), Caption((Mention(k, tint),)), (c,)))
    return found


def place_twins(sight: Sight, draw: Draw) -> list[Twins]:
    """Each item by class and place, against the place beside."""
    rows = [(c, Mention(sight.classes[c], -1, c // 2, c % 2)) for c in sight.full]
    return [Twins("place", Caption((m,)), Caption((moved(m, draw),)), (c,)) for c, m in rows]


def couples(sight: Sight, draw: Draw) -> list[tuple[tuple[int, ...], tuple[Mention, ...]]]:
    """Return every two items in random order: their cells, and mentions of them with their colours."""
    cells = [tuple(draw.mixed(both)) for both in itertools.combinations(sight.full, 2)]
    return [(both, tuple(Mention(sight.classes[c], sight.tints[c]) for c in both)) for both in cells]


def pair_twins(sight: Sight, draw: Draw) -> list[Twins]:
    """Every two items that differ in class and in colour, against their colours swapped."""
    pairs = [(cells, Caption(both)) for cells, both in couples(sight, draw)]
    return [Twins("pair", caption, swapped(caption), cells) for cells, caption in pairs if swappable(caption)]


def relation_twins(sight: Sight, draw: Draw) -> list[Twins]:
    """Every two items and how the first stands to the second, against the opposite."""
    found = []
    for cells, both in couples(sight, draw):
        relation = draw.one([r for r in range(len(RELATIONS)) if HOLDS[r][cells[0]][cells[1]]])
        caption = Caption(both, relation)
        found.append(Twins("relation", caption, turned(caption), cells))
    return found


def list_twins(sight: Sight, draw: Draw) -> list[Twins]:
    """All items of a scene of three or four, against the colours of the first two swapped."""
    cells = tuple(draw.mixed(sight.full))
    caption = Caption(tuple(Mention(sight.classes[c], sight.tints[c]) for c in cells))
    return [Twins("list", caption, swapped(caption), cells)] if len(cells) > 2 and swappable(caption) else []


TWIN_KINDS = ("item", "colour", "place", "pair", "relation", "list")
TWINS = (item_twins, colour_twins, place_twins, pair_twins, relation_twins, list_twins)


def twins(sight: Sight, draw: Draw) -> list[Twins]:
    """Return captions of a scene with their twins, of each item, of every two and of all; none whose twin is true."""
    found = [both for make in TWINS for both in make(sight, draw)]
    true = truths([sight], [both.twin for both in found])[0].tolist()
    return [both for both, wrong in zip(found, true, strict=True) if not wrong]
