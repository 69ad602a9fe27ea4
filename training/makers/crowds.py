"""Scenes of two to four tinted items, for ``zoo/lxmert-scenes`` and ``zoo/detr-scenes``; of one to four for a CLIP.

The canvas is cut into four cells; an item stands anywhere in its cell, whole and unblended, so its mask and the tight
box around it are exact. Six clutter boxes join the items': four hold a *fragment* (a small inner crop of an item of a class
that is not in the scene, in any tint), two hold nothing but ground. Clutter is placed after the items, where none of
their pixels is. Built from the parts of ``scenes``; everything is drawn from one ``torch.Generator``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from training.makers.scenes import Items, Recipe, backgrounds, crops, lift, place, sizes, uniform, whole

CELLS = ("top left", "top right", "bottom left", "bottom right")
TINTS = ("red", "yellow", "green", "cyan", "blue", "pink")
"""The colours of items, 60 degrees of hue apart from red on."""

FRAGMENTS, GROUNDS, TRIES = 4, 2, 32
RECIPE = Recipe(double=(0.30, 0.425), fragment=(0.10, 0.17), canvas=(80, 80))
"""``double`` is the height range of items: 24 to 34 of 80 pixels, in cells of 40."""


@dataclass(frozen=True)
class Crowd:
    """Scenes: ``images`` uint8 (b, height, width, 3); of the item in each cell, in the order of CELLS: ``masks`` bool
    (b, 4, height, width), ``boxes`` (b, 4, 4), ``classes`` and ``tints`` int64 (b, 4); an empty cell has an empty mask, a
    zero box and -1. ``clutter`` (b, 6, 4): boxes of fragments and ground; ``strangers`` int64 (b, 2): the fragments'
    classes. Boxes are (left, top, right, bottom) in pixels, right and bottom exclusive.
    """

    images: Tensor
    masks: Tensor
    boxes: Tensor
    classes: Tensor
    tints: Tensor
    clutter: Tensor
    strangers: Tensor

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.images)

    def select(self, rows: Tensor) -> Crowd:
        """Return the scenes at ``rows``, indices or a bool mask (b,)."""
        return replace(self, **{name: value[rows] for name, value in vars(self).items()})


def draw_palette(count: int, kinds: int, gen: torch.Generator) -> Tensor:
    """Return four of ``kinds`` for each scene, (count, 4), from 1 to 4 different ones, so that some repeat."""
    palette = torch.rand(count, kinds, generator=gen).argsort(dim=1)[:, :4]
    variety = torch.tensor([1, 2, 3, 4, 4])[torch.randint(5, (count,), generator=gen)]
    mixed = (torch.rand(count, 4, generator=gen) * variety[:, None]).long()
    distinct = torch.arange(4).expand(count, 4)
    return palette.gather(1, torch.where(variety[:, None] == 4, distinct, mixed))


def draw_cells(count: int, gen: torch.Generator, fewest: int = 2, most: int = 4) -> Tensor:
    """Return which cells hold an item, bool (count, 4): ``fewest`` to ``most`` of them, every number as often."""
    number = torch.randint(fewest, most + 1, (count, 1), generator=gen)
    return torch.rand(count, 4, generator=gen).argsort(dim=1).argsort(dim=1) < number


def hues(tints: Tensor, gen: torch.Generator) -> Tensor:
    """Return RGB 0..1 (n, 3) for ``tints`` (n,), each up to 12 degrees beside its hue, saturated and bright."""
    count = len(tints)
    hue = tints[:, None] + uniform((count, 1), -0.2, 0.2, gen)
    saturation, value = uniform((count, 1), 0.65, 0.95, gen), uniform((count, 1), 0.85, 1.0, gen)
    k = (torch.tensor([5.0, 3.0, 1.0]) + hue) % 6
    return value * (1 - saturation * torch.minimum(k, 4 - k).clamp(0, 1))


def paint(pictures: Tensor, shades: Tensor, mask: Tensor, colour: Tensor) -> Tensor:
    """Paint ``shades`` (b, height, width) in ``colour`` (b, 3) over ``pictures`` (b, 3, height, width) at ``mask``."""
    return torch.where(mask[:, None], colour[:, :, None, None] * (0.2 + 0.8 * shades[:, None]), pictures)


def tight_boxes(masks: Tensor) -> Tensor:
    """Return the tight box (..., 4) = (left, top, right, bottom) of each mask (..., height, width); zeros if empty."""
    sides = []
    for along in (-2, -1):  # columns, then rows
        line = masks.any(along)
        length = line.shape[-1]
        first = line.float().argmax(-1)
        last = length - line.flip(-1).float().argmax(-1)
        sides.append(torch.stack([first, last], -1) * line.any(-1, keepdim=True))
    return torch.stack([sides[0], sides[1]], -1).flatten(-2).float()  # (left, top), (right, bottom)


def covered(taken: Tensor, boxes: Tensor) -> Tensor:
    """Return how many pixels of ``taken`` (b, height, width) lie in each of ``boxes`` (b, n, 4), by an integral image."""
    table = F.pad(taken.float().cumsum(1).cumsum(2), (1, 0, 1, 0))
    left, top, right, bottom = boxes.long().unbind(-1)
    row = torch.arange(len(taken))[:, None]
    inside: Tensor = (
        table[row, bottom, right] - table[row, top, right] - table[row, bottom, left] + table[row, top, left]
    )
    return inside


def filled(boxes: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Return the pixels of each box of ``boxes`` (b, 4), bool (b, height, width)."""
    y, x = torch.arange(canvas[0])[:, None], torch.arange(canvas[1])
    left, top, right, bottom = boxes.T[:, :, None, None]
    inside: Tensor = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    return inside


def free_place(taken: Tensor, size: Tensor, gen: torch.Generator) -> Tensor:
    """Return boxes (b, 4) = (top, left, height, width) of ``size`` (b, 2): of 32 tries the one that covers the least."""
    count, (height, width) = len(taken), taken.shape[1:]
    room = torch.tensor([[0, 0, height, width]]).float().expand(count * TRIES, 4)
    tries = place(size.repeat_interleave(TRIES, 0), room, gen).view(count, TRIES, 4)
    return tries[torch.arange(count), covered(taken, corners(tries)).argmin(1)]


def corners(boxes: Tensor) -> Tensor:
    """Turn (top, left, height, width) into (left, top, right, bottom), (..., 4)."""
    top, left, height, width = boxes.unbind(-1)
    return torch.stack([left, top, left + width, top + height], -1)


def strange(classes: Tensor, kinds: int, gen: torch.Generator) -> Tensor:
    """Return two different classes that are not in ``classes`` (b, 4), int64 (b, 2)."""
    present = F.one_hot(classes + 1, kinds + 1)[:, :, 1:].any(dim=1)
    return (torch.rand(len(classes), kinds, generator=gen) + present).argsort(dim=1)[:, :2]


def make_crowd(
    items: Items, count: int, gen: torch.Generator, recipe: Recipe = RECIPE, fewest: int = 2, most: int = 4
) -> Crowd:
    """Make ``count`` scenes of ``fewest`` to ``most`` items each."""
    height, width = recipe.canvas
    here = draw_cells(count, gen, fewest, most)
    classes = draw_palette(count, len(items.names), gen).where(here, torch.tensor(-1))
    tints = draw_palette(count, len(TINTS), gen).where(here, torch.tensor(-1))
    room = torch.tensor([[y, x, height // 2, width // 2] for y in (0, height // 2) for x in (0, width // 2)]).float()
    many = 4 * count
    box = place(sizes(many, recipe.double, recipe, gen), room.repeat(count, 1), gen)
    item = items.draw(classes.flatten().clamp(min=0), gen)
    shades, masks = (x.view(count, 4, height, width) for x in lift(item, box, whole(many, gen), recipe.canvas))
    masks = masks & here[:, :, None, None]
    strangers = strange(classes, len(items.names), gen)
    pictures, clutter = add_clutter(backgrounds(count, recipe, gen), items, masks.any(1), strangers, recipe, gen)
    for cell in range(4):
        pictures = paint(pictures, shades[:, cell], masks[:, cell], hues(tints[:, cell].clamp(min=0), gen))
    images = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return Crowd(images, masks, tight_boxes(masks), classes, tints, clutter, strangers)


def add_clutter(
    pictures: Tensor, items: Items, taken: Tensor, strangers: Tensor, recipe: Recipe, gen: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Paint fragments of ``strangers`` where nothing is ``taken``; return the pictures and the clutter boxes (b, 6, 4)."""
    count, boxes = len(pictures), []
    for i in range(FRAGMENTS + GROUNDS):
        box = free_place(taken, sizes(count, recipe.fragment, recipe, gen), gen)
        boxes.append(corners(box))
        taken = taken | filled(boxes[-1], recipe.canvas)
        if i < FRAGMENTS:
            shades, mask = lift(items.draw(strangers[:, i % 2], gen), box, crops(count, gen), recipe.canvas)
            colour = hues(torch.randint(len(TINTS), (count,), generator=gen), gen)
            pictures = paint(pictures, shades, mask, colour)
    return pictures, torch.stack(boxes, 1)


@dataclass(frozen=True)
class Regions:
    """What a detector would hand on of each scene: 8 boxes in random order, all items and clutter to fill up.

    ``boxes`` (b, 8, 4): fractions of the picture. ``classes``, ``tints`` int64 (b, 8): -1 for clutter. ``cells`` int64
    (b, 8): the cell of an item, -1 for clutter.
    """

    boxes: Tensor
    classes: Tensor
    tints: Tensor
    cells: Tensor


def regions(crowd: Crowd, gen: torch.Generator, count: int = 8) -> Regions:
    """Choose and shuffle ``count`` boxes of each scene."""
    here, none = crowd.classes >= 0, torch.full(crowd.clutter.shape[:2], -1)
    spare = torch.arange(none.shape[1]) >= count - here.sum(1, keepdim=True)
    left_out = torch.cat([~here, spare], 1)
    pick = (torch.rand(left_out.shape, generator=gen) + left_out).argsort(1)[:, :count]
    height, width = crowd.images.shape[1:3]
    boxes = torch.cat([crowd.boxes, crowd.clutter], 1) / torch.tensor([width, height, width, height])
    cells = torch.cat([torch.arange(4).expand(len(crowd), 4), none], 1)
    classes, tints = torch.cat([crowd.classes, none], 1), torch.cat([crowd.tints, none], 1)
    chosen = boxes.gather(1, pick[:, :, None].expand(-1, -1, 4))
    return Regions(chosen, classes.gather(1, pick), tints.gather(1, pick), cells.gather(1, pick))
