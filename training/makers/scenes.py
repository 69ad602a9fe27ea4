"""Scenes with a known answer: items of clothing on a cluttered ground, each with its exact mask.

A scene is a procedural background (colour gradient, stripes, blobs, noise), some *fragments* (small crops of items of
classes that are not in the scene) as distractors, and one or two whole items on top. Nothing is painted over an item
and an item is painted without blending, so ``mask`` is exactly the set of pixels the item owns: whatever a classifier
knows about the class, it knows from there. The recipe follows the synthetic-benchmark idea of Kim et al. 2018 (TCAV,
section 4) and Yang & Kim 2019 (BAM): paste objects on unrelated scenes, so that the relevant pixels are known.

Everything is batched and drawn from one explicit ``torch.Generator``: same generator state, same scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

FASHION = {
    0: "T-shirt",
    1: "Trouser",
    3: "Dress",
    4: "Coat",
    5: "Sandal",
    7: "Sneaker",
    8: "Bag",
    9: "Ankle boot",
}
"""Fashion-MNIST classes in use, by their original label. Pullover and Shirt stay out: at this size they are coats."""


@dataclass(frozen=True)
class Items:
    """Grey items on a zero ground, grouped by class.

    ``images``: uint8 (n, h, w), sorted by class. ``starts``, ``counts``: int64 (classes,), the run of each class.
    ``names``: the class names, in label order.
    """

    images: Tensor
    starts: Tensor
    counts: Tensor
    names: tuple[str, ...]

    @classmethod
    def of(cls, images: Tensor, labels: Tensor, names: Sequence[str]) -> Items:
        """Group ``images`` (uint8 (n, h, w)) by ``labels`` (int64 (n,), 0 .. len(names) - 1, every class present)."""
        counts = torch.bincount(labels, minlength=len(names))
        if len(counts) != len(names) or bool((counts == 0).any()):
            raise ValueError(f"every one of the {len(names)} classes needs at least one item, got {counts.tolist()}")
        order = torch.argsort(labels, stable=True)
        return cls(images[order], counts.cumsum(0) - counts, counts, tuple(names))

    def draw(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Return one random item of each class in ``classes`` (int64 (b,)) as floats 0..1, (b, h, w)."""
        pick = (torch.rand(len(classes), generator=generator) * self.counts[classes]).long()
        return self.images[self.starts[classes] + pick].float() / 255


def load_items(path: Path) -> Items:
    """Read the FASHION classes from ``path``: npz with uint8 ``images`` (n, 28, 28) and ``labels`` (n,), 0..9."""
    with np.load(path, allow_pickle=False) as data:
        images, labels = torch.from_numpy(data["images"]), torch.from_numpy(data["labels"]).long()
    lookup = torch.full((10,), -1)
    lookup[list(FASHION)] = torch.arange(len(FASHION))
    new = lookup[labels]
    return Items.of(images[new >= 0], new[new >= 0], list(FASHION.values()))


@dataclass(frozen=True)
class Recipe:
    """What scenes look like. Sizes are fractions of the canvas' shorter side.

    ``single``, ``double``: height range of an item in one-item and two-item scenes (double at most 0.5).
    ``aspect``: width / height range of an item. ``clutter``: strength of the background's texture, 0..1.
    ``fragments``: most distractors in a scene; ``fragment``: their size range. ``canvas``: (height, width) in pixels.
    """

    single: tuple[float, float] = (0.45, 0.72)
    double: tuple[float, float] = (0.38, 0.50)
    aspect: tuple[float, float] = (0.8, 1.25)
    clutter: float = 0.5
    fragments: int = 3
    fragment: tuple[float, float] = (0.10, 0.17)
    canvas: tuple[int, int] = (64, 64)

    def eased(self, ease: float) -> Recipe:
        """Return an easier recipe: ``ease`` 1 is large items on a plain ground, 0 is this recipe."""
        low, high = self.single
        return replace(
            self,
            single=(low + ease * (high - low), high + ease * 0.15),
            clutter=self.clutter * (1 - ease),
            fragments=round(self.fragments * (1 - ease)),
        )


@dataclass(frozen=True)
class Batch:
    """Scenes: ``images`` uint8 (b, height, width, 3), ``masks`` bool (b, 2, height, width), ``labels`` int64 (b, 2).

    In a single-item scene the second label is -1 and the second mask is empty.
    """

    images: Tensor
    masks: Tensor
    labels: Tensor


def uniform(shape: Sequence[int], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return float32 numbers of ``shape``, uniform in [low, high)."""
    return low + (high - low) * torch.rand(*shape, generator=generator)


def colours(count: int, saturation: tuple[float, float], value: tuple[float, float], gen: torch.Generator) -> Tensor:
    """Return random colours (count, 3), RGB 0..1, of any hue and the given saturation and value ranges."""
    hue, s, v = (uniform((count, 1), *r, gen) for r in ((0.0, 6.0), saturation, value))
    k = (torch.tensor([5.0, 3.0, 1.0]) + hue) % 6  # the closed form of HSV -> RGB
    return v * (1 - s * torch.minimum(k, 4 - k).clamp(0, 1))


def waves(count: int, canvas: tuple[int, int], cycles: tuple[float, float], gen: torch.Generator) -> Tensor:
    """Return plane waves -1..1, (count, 1, height, width), of any direction and ``cycles`` per canvas."""
    height, width = canvas
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None, :]
    angle, phase = uniform((2, count, 1, 1, 1), 0.0, 2 * torch.pi, gen)
    f = uniform((count, 1, 1, 1), *cycles, gen)
    return torch.sin(2 * torch.pi * f * (x * torch.cos(angle) + y * torch.sin(angle)) + phase)


def backgrounds(count: int, recipe: Recipe, gen: torch.Generator) -> Tensor:
    """Return backgrounds (count, 3, height, width), RGB 0..1: a gradient of two colours plus the recipe's clutter."""
    first, second = (colours(count, (0.1, 0.8), (0.05, 0.6), gen)[:, :, None, None] for _ in range(2))
    ground = torch.lerp(first, second, 0.5 + 0.5 * waves(count, recipe.canvas, (0.1, 0.5), gen))
    stripes = waves(count, recipe.canvas, (2.0, 8.0), gen) * uniform((count, 3, 1, 1), -0.2, 0.2, gen)
    blobs = F.interpolate(torch.randn(count, 3, 6, 6, generator=gen), recipe.canvas, mode="bilinear") * 0.2
    noise = torch.randn(count, 1, *recipe.canvas, generator=gen) * 0.06
    on = (torch.rand(3, count, 1, 1, 1, generator=gen) < torch.tensor([0.6, 0.6, 0.8]).view(3, 1, 1, 1, 1)).float()
    return (ground + recipe.clutter * (on[0] * stripes + on[1] * blobs + on[2] * noise)).clamp(0, 0.85)


def place(size: Tensor, room: Tensor, gen: torch.Generator) -> Tensor:
    """Return boxes (b, 4) = (top, left, height, width), whole pixels: ``size`` (b, 2) somewhere in ``room`` (b, 4)."""
    size = torch.minimum(size.round(), room[:, 2:])
    corner = room[:, :2] + (torch.rand(len(size), 2, generator=gen) * (room[:, 2:] - size + 1)).floor()
    return torch.cat([corner, size], dim=1)


def sizes(count: int, heights: tuple[float, float], recipe: Recipe, gen: torch.Generator) -> Tensor:
    """Return item sizes (count, 2) = (height, width) in pixels, heights as fractions of the canvas' shorter side."""
    height = uniform((count,), *heights, gen) * min(recipe.canvas)
    return torch.stack([height, height * uniform((count,), *recipe.aspect, gen)], dim=1)


def halves(count: int, canvas: tuple[int, int], gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return two rooms (count, 4) each, that split the canvas side by side or one above the other, in random order."""
    height, width = canvas
    beside = torch.tensor([[0, 0, height, width // 2], [0, width // 2, height, width - width // 2]])
    stacked = torch.tensor([[0, 0, height // 2, width], [height // 2, 0, height - height // 2, width]])
    upright = torch.rand(count, generator=gen) < 0.5
    rooms = torch.where(upright[:, None, None], beside, stacked).float()
    swap = torch.rand(count, 1, generator=gen) < 0.5
    return torch.where(swap, rooms[:, 1], rooms[:, 0]), torch.where(swap, rooms[:, 0], rooms[:, 1])


def lift(items: Tensor, boxes: Tensor, windows: Tensor, canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize each item's window onto its box of an empty canvas.

    ``items`` (b, h, w) 0..1; ``boxes`` (b, 4) in canvas pixels; ``windows`` (b, 4) as fractions of the item; both
    (top, left, height, width), a negative window width mirrors. Returns shades (b, height, width), bilinear, and the
    mask, bool (b, height, width): the pixels in the box whose nearest item pixel is greater than zero.
    """
    axes = []
    for axis, length in enumerate(canvas):
        inside = (torch.arange(length) + 0.5 - boxes[:, axis, None]) / boxes[:, axis + 2, None]
        source = windows[:, axis, None] + inside * windows[:, axis + 2, None]
        axes.append((2 * source - 1).masked_fill((inside <= 0) | (inside >= 1), 2.0))  # 2: outside, reads zero
    v, u = axes
    grid = torch.stack([u[:, None, :].expand(-1, canvas[0], -1), v[:, :, None].expand(-1, -1, canvas[1])], dim=3)
    shades = F.grid_sample(items[:, None], grid, mode="bilinear", align_corners=False)[:, 0]
    owned = F.grid_sample((items > 0).float()[:, None], grid, mode="nearest", align_corners=False)[:, 0]
    return shades, owned > 0.5


def paint(pictures: Tensor, shades: Tensor, mask: Tensor, gen: torch.Generator) -> Tensor:
    """Paint tinted ``shades`` (b, height, width) over ``pictures`` (b, 3, height, width) where ``mask`` says so."""
    tint = colours(len(pictures), (0.0, 0.7), (0.8, 1.0), gen)[:, :, None, None]
    return torch.where(mask[:, None], tint * (0.2 + 0.8 * shades[:, None]), pictures)


def whole(count: int, gen: torch.Generator) -> Tensor:
    """Return windows (count, 4) that show the whole item, mirrored left to right half of the time."""
    mirrored = torch.rand(count, generator=gen) < 0.5
    return torch.where(mirrored[:, None], torch.tensor([0.0, 1.0, 1.0, -1.0]), torch.tensor([0.0, 0.0, 1.0, 1.0]))


def crops(count: int, gen: torch.Generator) -> Tensor:
    """Return windows (count, 4) that show a small inner part, 0.25 to 0.35 of the item's side."""
    side = uniform((count, 1), 0.25, 0.35, gen)
    corner = 0.2 + torch.rand(count, 2, generator=gen) * (0.6 - side)
    return torch.cat([corner, side, side], dim=1)


def add_fragments(pictures: Tensor, items: Items, classes: Tensor, recipe: Recipe, gen: torch.Generator) -> Tensor:
    """Paint up to one fragment for each column of ``classes`` (b, fragments) on ``pictures``, at random places."""
    count = len(pictures)
    room = torch.tensor([[0, 0, *recipe.canvas]]).float().expand(count, 4)
    for column in classes.T:
        box = place(sizes(count, recipe.fragment, recipe, gen), room, gen)
        shades, mask = lift(items.draw(column, gen), box, crops(count, gen), recipe.canvas)
        shown = torch.rand(count, 1, 1, generator=gen) < 0.7
        pictures = paint(pictures, shades, mask & shown, gen)
    return pictures


def draw_labels(two: Tensor, kinds: int, gen: torch.Generator) -> Tensor:
    """Return random labels (b, 2), two different classes of ``kinds``; the second is -1 where ``two`` (b,) is False."""
    labels = torch.rand(len(two), kinds, generator=gen).argsort(dim=1)[:, :2]
    return torch.where(two[:, None] | torch.tensor([True, False]), labels, -1)


def absent(labels: Tensor, kinds: int, gen: torch.Generator) -> Tensor:
    """Return ``kinds`` - 2 different classes that are not in ``labels`` (b, 2), in random order, (b, kinds - 2)."""
    rank = torch.rand(len(labels), kinds, generator=gen)
    present = F.one_hot(labels + 1, kinds + 1)[:, :, 1:].any(dim=1)
    return (rank + present).argsort(dim=1)[:, : kinds - 2]


def make(items: Items, labels: Tensor, recipe: Recipe, gen: torch.Generator) -> Batch:
    """Make one scene for each row of ``labels``, int64 (b, 2): the classes of its items, second -1 for one item alone.

    Items of a scene never overlap; fragments come from classes that are not in the scene.
    """
    count, two = len(labels), labels[:, 1] >= 0
    pictures = backgrounds(count, recipe, gen)
    strangers = absent(labels, len(items.names), gen)[:, : recipe.fragments]
    pictures = add_fragments(pictures, items, strangers, recipe, gen)
    all_room = torch.tensor([[0, 0, *recipe.canvas]]).float().expand(count, 4)
    rooms = halves(count, recipe.canvas, gen)
    masks = []
    for slot in (0, 1):
        room = torch.where(two[:, None], rooms[slot], all_room)
        single, double = sizes(count, recipe.single, recipe, gen), sizes(count, recipe.double, recipe, gen)
        box = place(torch.where(two[:, None], double, single), room, gen)
        item = items.draw(labels[:, slot].clamp(min=0), gen)
        shades, mask = lift(item, box, whole(count, gen), recipe.canvas)
        masks.append(mask & (labels[:, slot] >= 0)[:, None, None])
        pictures = paint(pictures, shades, masks[-1], gen)
    images = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return Batch(images, torch.stack(masks, dim=1), labels)


def single_item(items: Items, count: int, recipe: Recipe, gen: torch.Generator) -> Batch:
    """Make ``count`` scenes of one item each, classes uniform."""
    return make(items, draw_labels(torch.zeros(count, dtype=torch.bool), len(items.names), gen), recipe, gen)


def two_item(items: Items, count: int, recipe: Recipe, gen: torch.Generator) -> Batch:
    """Make ``count`` scenes of two items of different classes each, pairs uniform."""
    return make(items, draw_labels(torch.ones(count, dtype=torch.bool), len(items.names), gen), recipe, gen)
