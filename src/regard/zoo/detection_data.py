"""The bundled scenes of ``zoo/detr-scenes``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """Scenes of two to four items, with the box and the exact mask of each.

    ``images``: uint8 (n, 80, 80, 3), RGB. ``labels``: int64 (n, 4), the items' classes as the model numbers them, -1 after
    the last item of a scene. ``boxes``: float (n, 4, 4), tight around the masks, (left, top, right, bottom) as fractions
    of the picture. ``masks``: bool (n, 4, 80, 80), the pixels of each item. ``names``: the classes' names in order.
    """

    images: UInt8[Tensor, "n 80 80 3"]
    labels: Int64[Tensor, "n 4"]
    boxes: Float[Tensor, "n 4 4"]
    masks: Bool[Tensor, "n 4 80 80"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.images)

    def select(self, rows: Tensor) -> Detections:
        """Return the scenes at ``rows``, indices or a bool mask (n,)."""
        return Detections(self.images[rows], self.labels[rows], self.boxes[rows], self.masks[rows], self.names)


def read_detections(folder: Path) -> Detections:
    """Read the bundled scenes."""
    data = load_file(folder / "scenes.safetensors")
    names = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))["names"]
    masks = torch.from_numpy(np.unpackbits(data["mask_bits"].numpy(), axis=-1)).bool()
    return Detections(data["images"], data["labels"], data["boxes"], masks, tuple(names))
