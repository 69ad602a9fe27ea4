"""The bundled scenes of ``zoo/vit-scenes``, each with the exact mask of its item."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Scenes:
    """Bundled scenes with exact masks, single-item scenes first.

    ``images``: uint8 (n, 64, 64, 3), RGB. ``masks``: bool (n, 2, 64, 64), the pixels of the first and of the second
    item; the second is empty in a single-item scene. ``labels``: int64 (n, 2), the items' classes as the model numbers
    them; the second is -1 in a single-item scene. ``names``: the classes' names in that order.
    """

    images: Tensor
    masks: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.images)

    @property
    def single(self) -> Tensor:
        """bool (n,): the scenes of one item alone."""
        return self.labels[:, 1] < 0

    def select(self, rows: Tensor) -> Scenes:
        """Return the scenes at ``rows``, indices or a bool mask (n,)."""
        return Scenes(self.images[rows], self.masks[rows], self.labels[rows], self.names)


def read_scenes(folder: Path) -> Scenes:
    """Read the bundled scenes; their masks are stored as bits."""
    data = load_file(folder / "scenes.safetensors")
    classes = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))["names"]
    masks = torch.from_numpy(np.unpackbits(data["mask_bits"].numpy(), axis=-1)).bool()
    return Scenes(data["images"], masks, data["labels"], tuple(classes))
