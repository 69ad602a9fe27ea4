"""The map lies on the original picture where the object is: not square, resized and cropped, the object off the centre."""

from pathlib import Path

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


class BrightestOfFlat(nn.Module):
    """The same of rows of patches, as SigLIP 2 is given them: padded at the end, with the shape of each picture beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.ones(1, 1, 1))
        self.patches, self.head = nn.Linear(192, 1, bias=False), nn.Linear(1, 2)
        nn.init.constant_(self.patches.weight, 1 / 192)

    def forward(self, pixel_values: Tensor, pixel_attention_mask: Tensor, spatial_shapes: Tensor) -> Tensor:
        assert spatial_shapes.prod(1).tolist() == pixel_attention_mask.sum(1).tolist()
        tokens = self.patches(pixel_values)
        query = self.cls_token.expand(len(tokens), -1, -1)
        scores = 20 * query @ tokens.transpose(1, 2)
        scores = scores.masked_fill(pixel_attention_mask[:, None] == 0, -1e9)
        return self.head(torch.softmax(scores, -1) @ tokens)[:, 0]


@pytest.mark.parametrize(("height", "width"), [(210, 330), (330, 210), (96, 400)])
def test_rows_of_patches_lie_where_their_shape_says(height: int, width: int, tmp_path: Path) -> None:
    from transformers import Siglip2ImageProcessorPil

    top, left, size = height // 3, width // 4, 36
    pixels = np.full((height, width, 3), 20, np.uint8)
    pixels[top : top + size, left : left + size] = 250
    patches = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=80)
    reader = regard.load(BrightestOfFlat().eval(), processor=patches)
    exp = reader.explain([Image.fromarray(pixels)] * 2, target=0, method="raw_attention")
    rows, columns = exp.grid["pixel_values"]
    assert rows * columns < 80 == exp.scores["pixel_values"].shape[1]
    for drawn in exp.on_original():
        assert drawn.shape == (height, width)
        y, x = divmod(int(drawn.argmax()), width)
        assert top <= y < top + size
        assert left <= x < left + size
    assert exp.place_of("pixel_values", columns + 1) == {"row": 1, "column": 1}
    exp.save(tmp_path / "map.safetensors")
    again = regard.Explanation.load(tmp_path / "map.safetensors")
    torch.testing.assert_close(again.on_original(), exp.on_original())


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
