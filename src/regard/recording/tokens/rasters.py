"""Pictures of any size that are cut into patches before the forward: how rows of patches lie on the pictures' grids.

Qwen-VL's family is given all patches of all pictures in one row, and `image_grid_thw`: frames, rows and columns of each. The
patches that will be merged stand side by side, block by block. SigLIP 2 (NaFlex) is given a row of patches for each picture,
padded at its end, and `spatial_shapes`: rows and columns of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

Grid = tuple[int, ...]
GRIDS = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}


def merge_size(config: Any) -> int:
    """How many patches are merged along each side, by a model's config."""
    for at in (getattr(config, "vision_config", None), config):
        size = getattr(at, "spatial_merge_size", None)
        if isinstance(size, int) and size > 0:
            return size
    return 1


def grids(name: str, count: int, inputs: Mapping[str, Any], merge: int) -> list[Grid] | None:
    """The grid of each picture of an input, (rows, columns) or (frames, rows, columns); None where none is told."""
    entry = name.rpartition(".")[2]
    told = inputs.get(name.replace(entry, GRIDS[entry])) if entry in GRIDS else None
    if not isinstance(told, Tensor) or told.ndim != 2 or told.shape[1] != 3 or int(told.prod(1).sum()) != count:
        return None
    every = [(int(t), int(h), int(w)) for t, h, w in told.tolist()]
    if any(h % merge or w % merge for _, h, w in every):
        return None
    return [(h, w) if t == 1 else (t, h, w) for t, h, w in every]


def flat_grid(name: str, count: int, inputs: Mapping[str, Any]) -> Grid | None:
    """Rows and columns of pictures that stand in rows of patches, each padded to the same number: SigLIP 2's `spatial_shapes`.

    None where none are told, or the pictures of a batch have different ones.
    """
    told = inputs.get(name.replace("pixel_values", "spatial_shapes")) if name.endswith("pixel_values") else None
    if not isinstance(told, Tensor) or told.ndim != 2 or told.shape[1] != 2 or not bool((told == told[0]).all()):
        return None
    rows, columns = (int(n) for n in told[0])
    return (rows, columns) if 0 < rows * columns <= count else None


def order(every: list[Grid], merge: int) -> Int[Tensor, " token"]:
    """The token at each place of the grids, picture by picture and row by row."""
    found, first = [], 0
    for grid in every:
        t, h, w = grid if len(grid) == 3 else (1, *grid)
        tokens = torch.arange(t * h * w).view(t, h // merge, w // merge, merge, merge) + first
        found.append(tokens.transpose(2, 3).flatten())
        first += t * h * w
    return torch.cat(found)


__all__ = ["flat_grid", "grids", "merge_size", "order"]
