"""The bundled scenes of ``zoo/vlm-scenes``, what there is to say of them, and which item each written word speaks of."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from safetensors.torch import load_file
from torch import Tensor

from regard.zoo.caption_data import quarters

WORD = re.compile(r"<\w+>|\w+|[^\w\s]+")
ROWS, COLUMNS = ("top", "bottom"), ("left", "right")


class FalseCaption(NamedTuple):
    """A caption with one false word: ``text``; ``word``, which of its words, from 0; ``kind``: "item", "colour" or "place"."""

    text: str
    word: int
    kind: str


@dataclass(frozen=True)
class SpokenWord:
    """A word of an answer, and what is known of it.

    ``kind``: "item", "colour", "place" or "other". Of the first three: ``true``, whether it is true of the item spoken of;
    ``there``, whether it is true of any item of the scene; both None for other words. ``cell``: the quarter of the item spoken
    of, -1 where none is. ``region`` bool (80, 80): the pixels of that item, None where none is spoken of and for other words.
    """

    text: str
    kind: str
    true: bool | None = None
    there: bool | None = None
    cell: int = -1
    region: Bool[Tensor, "80 80"] | None = None


@dataclass(frozen=True)
class Answers:
    """Scenes of one to four items, and requests, each with its one right answer and the items that this is about.

    Of the scenes: ``images`` uint8 (s, 80, 80, 3), RGB; of the item in each quarter (top left, top right, bottom left,
    bottom right): ``masks`` bool (s, 4, 80, 80), its pixels; ``items``, ``colours`` int64 (s, 4), its class and its colour,
    as numbered by ``item_names`` and ``colour_names``, -1 in an empty quarter. No two items of a scene have both in common.

    Of the answers: ``prompts``, what is asked; ``texts``, the right answers; ``kinds``: "caption" (all items in reading
    order), "what" (is at a place), "colour" (of an item), "where" (an item is), "is" (there such an item); ``scene`` int64
    (a,), the scene; ``named`` bool (a, 4), the items that the answer is about: none for "no" and "nothing"; ``twins``: of
    every caption three that are false in one word, a class or a colour that no item of the scene has, or a place where no
    such item is; none of other answers.
    """

    images: UInt8[Tensor, "s 80 80 3"]
    masks: Bool[Tensor, "s 4 80 80"]
    items: Int64[Tensor, "s 4"]
    colours: Int64[Tensor, "s 4"]
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    twins: tuple[tuple[FalseCaption, ...], ...]
    scene: Int64[Tensor, " a"]
    named: Bool[Tensor, "a 4"]
    item_names: tuple[str, ...]
    colour_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of answers."""
        return len(self.texts)

    @property
    def count(self) -> Int64[Tensor, " s"]:
        """int64 (s,): how many items each scene shows."""
        return (self.items >= 0).sum(1)

    def of_kind(self, kind: str) -> Tensor:
        """bool (a,): the answers of ``kind``."""
        return torch.tensor([k == kind for k in self.kinds])

    def regions(self) -> Bool[Tensor, "a 80 80"]:
        """Return the pixels of the items that each answer is about."""
        return (self.masks[self.scene] & self.named[:, :, None, None]).any(1)

    def select(self, rows: Tensor) -> Answers:
        """Return the answers at ``rows``, indices or a bool mask (a,), about the same scenes."""
        kept = torch.arange(len(self))[rows].tolist()
        prompts, texts, kinds = (tuple(x[i] for i in kept) for x in (self.prompts, self.texts, self.kinds))
        return replace(
            self,
            prompts=prompts,
            texts=texts,
            kinds=kinds,
            twins=tuple(self.twins[i] for i in kept),
            scene=self.scene[rows],
            named=self.named[rows],
        )

    def words(self, row: int, text: str | None = None) -> tuple[SpokenWord, ...]:
        """Return what is known of each word of ``text``, written in answer to the request at ``row``; by default of the true
        answer.

        Each part of a caption, up to a comma, speaks of the item at the place that it names; where it names none, or there
        is no item there, of the item whose turn it is in reading order, the second part of the second item. The answer to a
        question speaks of the item that is asked for. A text is cut as the tokenizer cuts it: one word, one token.
        """
        scene = int(self.scene[row])
        items, colours = self.items[scene].tolist(), self.colours[scene].tolist()
        names = [
            (self.item_names[k], self.colour_names[t]) if k >= 0 else None for k, t in zip(items, colours, strict=True)
        ]
        written = WORD.findall((self.texts[row] if text is None else text).lower())
        if self.kinds[row] == "caption":
            cells = spoken_of(written, [c for c in range(4) if names[c]], {*self.item_names, *self.colour_names})
        else:
            asked = self.named[row].nonzero()[:, 0].tolist()
            cells = [asked[0] if asked else -1] * len(written)
        return tuple(self._word(word, cell, names, scene) for word, cell in zip(written, cells, strict=True))

    def _word(self, word: str, cell: int, names: Sequence[tuple[str, str] | None], scene: int) -> SpokenWord:
        """What is known of a word that speaks of the item in ``cell``; ``names`` are those of the scene's items."""
        kind = self._kind(word)
        if kind == "other":
            return SpokenWord(word, kind)
        fits = [told is not None and word in (*told, ROWS[c // 2], COLUMNS[c % 2]) for c, told in enumerate(names)]
        return SpokenWord(
            word, kind, cell >= 0 and fits[cell], any(fits), cell, self.masks[scene, cell] if cell >= 0 else None
        )

    def _kind(self, word: str) -> str:
        """What sort of word it is."""
        sorts = {"item": self.item_names, "colour": self.colour_names, "place": ROWS + COLUMNS}
        return next((kind for kind, known in sorts.items() if word in known), "other")


def spoken_of(words: Sequence[str], full: Sequence[int], names: set[str]) -> list[int]:
    """Return the quarter of the item that each word of a caption speaks of, -1 for none.

    Args:
        words: the caption's words; commas and stops end a part.
        full: the quarters that hold an item, in reading order.
        names: the words for items and colours; a part with none of them and with no place is not counted.
    """
    cells: list[int] = []
    parts = 0
    for part in _parts(words):
        row, column = (next((w for w in part if w in sides), None) for sides in (ROWS, COLUMNS))
        cell = 2 * ROWS.index(row) + COLUMNS.index(column) if row and column else -1
        if cell not in full:
            cell = full[parts] if parts < len(full) else -1
        cells += [cell] * len(part)
        parts += bool(row or column or names & {*part})
    return cells


def _parts(words: Sequence[str]) -> list[list[str]]:
    """Cut words after each comma and stop."""
    parts: list[list[str]] = [[]]
    for word in words:
        parts[-1].append(word)
        if word in (",", "."):
            parts.append([])
    return parts


def read_answers(folder: Path) -> Answers:
    """Read the bundled scenes and answers. All masks of a scene are stored as one, as bits: each item keeps to its quarter."""
    data = load_file(folder / "answers.safetensors")
    rows = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    taken = torch.from_numpy(np.unpackbits(data.pop("mask_bits").numpy(), axis=-1)).bool()
    prompts, texts, kinds = (tuple(a[key] for a in rows["answers"]) for key in ("prompt", "text", "kind"))
    return Answers(
        masks=taken[:, None] & quarters(taken.shape[1], taken.shape[2]),
        prompts=prompts,
        texts=texts,
        kinds=kinds,
        twins=tuple(tuple(FalseCaption(**twin) for twin in a.get("twins", ())) for a in rows["answers"]),
        item_names=tuple(rows["items"]),
        colour_names=tuple(rows["colours"]),
        **data,
    )
