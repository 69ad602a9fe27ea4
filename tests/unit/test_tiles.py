"""Pictures through Transformers' own processors that cut them, into tiles or blocks: the map lies where the picture is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as T
from torch import Tensor

import regard
from support.writers import CHAT, LLAMA, SIZE, VISION, tokenizer

pytestmark = pytest.mark.skipif(not hasattr(T, "Qwen2VLImageProcessorPil"), reason="a release without these processors")
LONG = LLAMA | {"vocab_size": 420, "max_position_embeddings": 400}


def llava_next() -> tuple[Any, Any]:
    """The whole picture at the size of a tile, then tiles, padded to a grid that the picture fits in."""
    read = tokenizer()
    pins = [[16, 32], [32, 16], [32, 32]]
    config = T.LlavaNextConfig(
        text_config=T.LlamaConfig(**LONG),
        vision_config=T.CLIPVisionConfig(**VISION),
        image_token_index=read.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        image_grid_pinpoints=pins,
    )
    pictures = T.LlavaNextImageProcessorPil(size={"shortest_edge": 16}, crop_size=SIZE, image_grid_pinpoints=pins)
    how = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = T.LlavaNextProcessor(pictures, read, **how, image_token="<image>", chat_template=CHAT)
    return T.LlavaNextForConditionalGeneration(config), processor


def idefics3() -> tuple[Any, Any]:
    """Tiles, then the whole picture at the size of one."""
    read = tokenizer()
    places = [f"<row_{i}_col_{j}>" for i in (1, 2, 3) for j in (1, 2, 3)]
    read.add_special_tokens({"additional_special_tokens": places})
    config = T.Idefics3Config(
        text_config=T.LlamaConfig(**LONG),
        vision_config=VISION,
        scale_factor=2,
        image_token_id=read.convert_tokens_to_ids("<image>"),
    )
    edges = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    pictures = T.Idefics3ImageProcessorPil(do_image_splitting=True, **edges)
    processor = T.Idefics3Processor(pictures, read, image_seq_len=4, chat_template=CHAT)
    return T.Idefics3ForConditionalGeneration(config), processor


class Qwen2VL(T.Qwen2VLProcessor):
    """Without the processor of videos, which needs torchvision."""

    def __init__(self, image_processor: Any, read: Any) -> None:
        self.image_processor, self.tokenizer, self.video_processor = image_processor, read, None
        self.image_token, self.video_token, self.chat_template = "<image>", "<fake_token_around_image>", CHAT
        self.image_token_id, self.video_token_id = (
            read.convert_tokens_to_ids(t) for t in (self.image_token, self.video_token)
        )


def qwen2_vl() -> tuple[Any, Any]:
    """Patches in one row, in blocks of 2 x 2 that are merged."""
    read = tokenizer()
    ids = read.convert_tokens_to_ids
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    names = {"vision_start_token_id": ids("<global-img>"), "vision_end_token_id": ids("<end_of_utterance>")}
    config = T.Qwen2VLConfig(
        text_config=LONG | {"rope_parameters": rope},
        vision_config=vision,
        image_token_id=ids("<image>"),
        video_token_id=ids("<fake_token_around_image>"),
        **names,
    )
    edges = {"shortest_edge": 64, "longest_edge": 4096}
    pictures = T.Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, size=edges)
    return T.Qwen2VLForConditionalGeneration(config), Qwen2VL(pictures, read)


def changed(before: Tensor, after: Tensor, grid: tuple[int, ...]) -> Tensor:
    """(1, token): how much of each token's own pixels is another."""
    difference = (before - after).abs()
    if difference.ndim == 2:  # a row for each token
        return difference.amax(1)[None]
    rows, columns = grid[-2:]
    cells = (
        difference[0].amax(1).unflatten(-1, (columns, -1)).unflatten(1, (rows, -1))
    )  # tile, row, pixel, column, pixel
    return cells.amax((2, 4)).flatten()[None]


CASES = [
    (llava_next, (64, 64), (5, 4, 4)),
    (llava_next, (40, 64), (5, 4, 4)),
    (idefics3, (64, 64), (5, 4, 4)),
    (idefics3, (32, 64), (3, 4, 4)),
    (qwen2_vl, (32, 48), (8, 12)),
]


@pytest.mark.parametrize(("make", "size", "grid"), CASES, ids=lambda v: getattr(v, "__name__", None))
def test_a_spot_of_the_picture_is_a_spot_of_the_map(make, size, grid, tmp_path) -> None:
    """One pixel is changed: the tokens made of it lie there on the original, be it in tiles, in blocks or in padding."""
    torch.manual_seed(0)
    model, processor = make()
    if make is qwen2_vl:  # which cannot be saved without its processor of videos
        reader = regard.load(model.eval(), processor=processor)
    else:
        for part in (model.eval(), processor):
            part.save_pretrained(tmp_path)
        reader = regard.load(tmp_path)
    pixels = np.random.RandomState(0).randint(0, 255, (*size, 3)).astype(np.uint8)
    exp = reader.explain((pixels, "what is it ?"), method="gradient")
    assert exp.grid == {"pixel_values": grid}
    assert exp.scores["pixel_values"].any()
    assert not any("could not be found" in note for note in exp.receipt.notes)
    before = reader.read((pixels, "what is it ?")).inputs["pixel_values"]
    for y, x in ((2, 5), (size[0] - 3, 4), (6, size[1] - 4)):
        other = pixels.copy()
        other[y, x] = 255 - other[y, x]
        after = reader.read((other, "what is it ?")).inputs["pixel_values"]
        exp.scores["pixel_values"] = changed(before, after, grid)
        (shown,) = exp.on_original()
        row, column = divmod(int(shown.argmax()), size[1])
        assert abs(row - y) <= 6, (y, x)
        assert abs(column - x) <= 6, (y, x)
        assert float(shown[max(0, y - 10) : y + 11, max(0, x - 10) : x + 11].sum()) > 0.7 * float(shown.sum())
