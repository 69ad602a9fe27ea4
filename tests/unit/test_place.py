"""The map lies on the original picture where the object is: not square, resized and cropped, the object off the centre."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import regard

pytest.importorskip("transformers")


class BrightestPatch(nn.Module):
    """One attention from a parameter to 8 x 8 patches, sharply at the brightest: its map is known from the pixels alone."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.ones(1, 1, 1))
        self.patches = nn.Conv2d(3, 1, 8, 8, bias=False)
        nn.init.constant_(self.patches.weight, 1 / 192)
        self.head = nn.Linear(1, 2)

    def forward(self, pixel_values: Tensor) -> Tensor:
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
        query = self.cls_token.expand(len(tokens), -1, -1)
        scores = 20 * query @ tokens.transpose(1, 2)
        return self.head(torch.softmax(scores, -1) @ tokens)[:, 0]


def processor(**settings):
    from transformers import CLIPImageProcessor

    same = {"do_convert_rgb": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    return CLIPImageProcessor(**same, **settings)


SETTINGS = {
    "crop": {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}},
    "crop, tall": {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}},
    "squeeze": {"size": {"height": 64, "width": 64}, "do_center_crop": False},
    "not square": {"size": {"height": 48, "width": 80}, "do_center_crop": False},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_map_is_where_the_object_is(name: str) -> None:
    height, width = (330, 210) if name == "crop, tall" else (210, 330)
    top, left, size = 66, 88, 36
    pixels = np.full((height, width, 3), 20, np.uint8)
    pixels[top : top + size, left : left + size] = 250
    reader = regard.load(BrightestPatch().eval(), processor=processor(**SETTINGS[name]))
    exp = reader.explain(Image.fromarray(pixels), target=0, method="raw_attention")
    (drawn,) = exp.on_original()
    assert drawn.shape == (height, width)
    y, x = divmod(int(drawn.argmax()), width)
    assert top <= y < top + size
    assert left <= x < left + size
    weights = drawn / drawn.sum()
    centre = (weights.sum(1) @ torch.arange(height).float(), weights.sum(0) @ torch.arange(width).float())
    cell = 8 * min(height, width) / 64
    assert abs(float(centre[0]) - (top + size / 2)) < cell
    assert abs(float(centre[1]) - (left + size / 2)) < cell


def test_nothing_is_drawn_outside_of_the_crop() -> None:
    pixels = np.full((100, 300, 3), 200, np.uint8)
    crop = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    exp = regard.load(BrightestPatch().eval(), processor=processor(**crop)).explain(
        Image.fromarray(pixels), target=0, method="raw_attention"
    )
    (drawn,) = exp.on_original()
    assert (drawn[:, :99] == 0).all()
    assert (drawn[:, 201:] == 0).all()
    assert (drawn[:, 101:199] > 0).all()
