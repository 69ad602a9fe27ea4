"""The bundled scenes and captions of ``zoo/clip-scenes``."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Captions:
    """Scenes of one to four items, and captions of them, each with the items that it is about and with a false twin.

    Of the scenes: ``images`` uint8 (s, 80, 80, 3), RGB; of the item in each quarter (top left, top right, bottom left,
    bottom right): ``masks`` bool (s, 4, 80, 80), its pixels; ``items``, ``colours`` int64 (s, 4), its class and its colour,
    as numbered by ``item_names`` and ``colour_names``, -1 in an empty quarter. No two items of a scene have both in common.

    Of the captions: ``texts``; ``twins``, texts that differ in one thing and are false of the scene; ``kinds``, which say
    what that is: "item", "colour", "place", "pair" (the colours of two items swapped), "relation" (turned round), "list" (of
    all items, the colours of two swapped); ``scene`` int64 (c,), the scene that the caption is true of; ``named`` bool (c, 4),
    the items that it is about, and it is true of no others.
    """

    images: UInt8[Tensor, "s 80 80 3"]
    masks: Bool[Tensor, "s 4 80 80"]
    items: Int64[Tensor, "s 4"]
    colours: Int64[Tensor, "s 4"]
    texts: tuple[str, ...]
    twins: tuple[str, ...]
    kinds: tuple[str, ...]
    scene: Int64[Tensor, " c"]
    named: Bool[Tensor, "c 4"]
    item_names: tuple[str, ...]
    colour_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of captions."""
        return len(self.texts)

    @property
    def count(self) -> Int64[Tensor, " s"]:
        """int64 (s,): how many items each scene shows."""
        return (self.items >= 0).sum(1)

    @property
    def prompts(self) -> tuple[str, ...]:
        """A caption for each class: "a shirt", "a trouser", ..."""
        return tuple(f"a {name}" for name in self.item_names)

    def of_kind(self, kind: str) -> Tensor:
        """bool (c,): the captions of ``kind``."""
        return torch.tensor([k == kind for k in self.kinds])

    def regions(self) -> Bool[Tensor, "c 80 80"]:
        """Return the pixels of the items that each caption is about: what its map should point at."""
        return (self.masks[self.scene] & self.named[:, :, None, None]).any(1)

    def select(self, rows: Tensor) -> Captions:
        """Return the captions at ``rows``, indices or a bool mask (c,), of the same scenes."""
        kept = torch.arange(len(self))[rows].tolist()
        texts, twins, kinds = (tuple(x[i] for i in kept) for x in (self.texts, self.twins, self.kinds))
        return replace(self, texts=texts, twins=twins, kinds=kinds, scene=self.scene[rows], named=self.named[rows])

    def redirections(self) -> Int64[Tensor, "pairs 2"]:
        """Return pairs of captions (rows) of one scene and one kind that are each about one item, and not about the same."""
        alone = self.named.sum(1) == 1
        same = (self.scene[:, None] == self.scene) & (alone[:, None] & alone)
        kind = torch.tensor([sorted(set(self.kinds)).index(k) for k in self.kinds])
        other = (self.named[:, None] & self.named).sum(2) == 0
        return (same & other & (kind[:, None] == kind)).triu(1).nonzero()


def read_captions(folder: Path) -> Captions:
    """Read the bundled scenes and captions. All masks of a scene are stored as one, as bits: each item keeps to its quarter."""
    data = load_file(folder / "captions.safetensors")
    rows = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    taken = torch.from_numpy(np.unpackbits(data.pop("mask_bits").numpy(), axis=-1)).bool()
    texts, twins, kinds = (tuple(c[key] for c in rows["captions"]) for key in ("text", "twin", "kind"))
    return Captions(
        masks=taken[:, None] & quarters(taken.shape[1], taken.shape[2]),
        texts=texts,
        twins=twins,
        kinds=kinds,
        item_names=tuple(rows["items"]),
        colour_names=tuple(rows["colours"]),
        **data,
    )


def quarters(height: int, width: int) -> Bool[Tensor, "4 height width"]:
    """The pixels of the quarters of a picture: top left, top right, bottom left, bottom right."""
    below, right = torch.arange(height)[:, None] >= height // 2, torch.arange(width) >= width // 2
    return torch.stack([(below == bool(row)) & (right == bool(column)) for row in range(2) for column in range(2)])
