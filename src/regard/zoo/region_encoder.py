"""What turns the boxes of a picture into the vectors that ``zoo/lxmert-scenes`` reads."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

CROP, FEATURES = 24, 64
REGIONS = "regions.safetensors"
"""The file of a model's folder that holds its weights."""


class RegionEncoder(nn.Module):
    """Turns the crop of a box into a vector, as a detector does for LXMERT: three convolutions and a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 48, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(48 * (CROP // 8) ** 2, FEATURES),
        )

    def forward(
        self, images: UInt8[Tensor, "scenes height width 3"], boxes: Float[Tensor, "scenes regions 4"]
    ) -> Float[Tensor, "scenes regions features"]:
        """Return the features of each box; boxes are (left, top, right, bottom) as fractions of the picture."""
        return self.layers(crops(images, boxes).flatten(0, 1)).unflatten(0, boxes.shape[:2])  # type: ignore[no-any-return]


def crops(
    images: UInt8[Tensor, "scenes height width 3"], boxes: Float[Tensor, "scenes regions 4"]
) -> Float[Tensor, "scenes regions 3 crop crop"]:
    """Resize the pixels of each box to 24 x 24 (bilinear), -1..1."""
    scenes, regions = boxes.shape[:2]
    steps = (torch.arange(CROP) + 0.5) / CROP
    left, top, right, bottom = boxes.unsqueeze(-1).unbind(2)
    x, y = left + (right - left) * steps, top + (bottom - top) * steps  # (scenes, regions, crop)
    grid = torch.stack([x[:, :, None, :].expand(-1, -1, CROP, -1), y[:, :, :, None].expand(-1, -1, -1, CROP)], -1)
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    seen = F.grid_sample(pixels, 2 * grid.flatten(1, 2) - 1, padding_mode="border", align_corners=False)
    return seen.view(scenes, 3, regions, CROP, CROP).transpose(1, 2)


def region_encoder(folder: Path) -> RegionEncoder:
    """Return the encoder that turns boxes into the model's region features."""
    encoder = RegionEncoder()
    encoder.load_state_dict(load_file(folder / REGIONS))
    return encoder.eval()
