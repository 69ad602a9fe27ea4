"""Tiny models of one tower and of two, with all that a twin of their last attentions needs to know of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support import families

transformers = pytest.importorskip("transformers")

from transformers.models.clip import modeling_clip  # noqa: E402
from transformers.models.siglip import modeling_siglip  # noqa: E402
from transformers.models.vit import modeling_vit  # noqa: E402

TOWER = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = TOWER | {
    "vocab_size": 40,
    "max_position_embeddings": 8,
    "eos_token_id": 39,
    "bos_token_id": 1,
    "pad_token_id": 0,
}
PICTURE = TOWER | {"image_size": 32, "patch_size": 8}


@dataclass
class Tower:
    """One side of a model: its stream, its attentions among all that the model runs, the row that is read in each sample, the
    tokens that have a score, and the first of the keys that is one of the stream's tokens."""

    stream: str
    calls: Sequence[int]
    row: Tensor
    keep: Tensor
    first: int = 0


@dataclass
class Case:
    """A model with what its twin needs. single: the modules of the last attention of each tower."""

    model: nn.Module
    module: Any
    inputs: dict[str, Tensor]
    y: Callable[[Any], Tensor]
    towers: list[Tower]
    single: Callable[[int], list[nn.Module]]


def pictures(count: int) -> Tensor:
    return families.noise(count, 3, 32, 32, seed=2).double()


def of_clip() -> Case:
    """Two pictures, each with a text of its own length."""
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=PICTURE, projection_dim=8)
    torch.manual_seed(0)
    model = families.strong(transformers.CLIPModel(config)).double()
    ids = torch.tensor([[1, 5, 9, 22, 7, 39], [1, 30, 12, 39, 0, 0]])
    given = {"input_ids": ids, "attention_mask": (ids > 0).long(), "pixel_values": pictures(2)}
    words = (ids > 1) & (ids < 39)
    patches = torch.ones(2, 17, dtype=torch.bool)
    patches[:, 0] = False
    towers = [
        Tower("pixel_values", [2, 1, 0], torch.zeros(2, dtype=torch.long), patches, 1),
        Tower("input_ids", [5, 4, 3], torch.tensor([5, 3]), words),
    ]
    last = (model.vision_model.encoder.layers, model.text_model.encoder.layers)
    return Case(
        model, modeling_clip, given, lambda out: out.logits_per_image.diagonal(), towers,
        lambda n: [layer.self_attn for layers in last for layer in layers[-n:]],
    )  # fmt: skip


def of_siglip() -> Case:
    """The picture's tower ends in a head that asks all patches; the text's reads its last position."""
    text = TOWER | {"vocab_size": 40, "max_position_embeddings": 6, "projection_size": 16, "pad_token_id": 0}
    config = transformers.SiglipConfig(
        text_config=text | {"bos_token_id": None, "eos_token_id": None}, vision_config=PICTURE
    )
    torch.manual_seed(0)
    model = families.strong(transformers.SiglipModel(config)).double()
    ids = torch.tensor([[5, 9, 22, 7, 31, 2], [6, 30, 12, 17, 3, 8]])
    words = torch.ones(2, 6, dtype=torch.bool)
    words[:, -1] = False  # the position that is read
    none = torch.zeros(2, dtype=torch.long)
    towers = [
        Tower("pixel_values", [3], none, torch.ones(2, 16, dtype=torch.bool)),
        Tower("input_ids", [6, 5, 4], none + 5, words),
    ]
    return Case(
        model, modeling_siglip, {"input_ids": ids, "pixel_values": pictures(2)}, lambda out: out.logits_per_image.diagonal(),
        towers, lambda n: [model.vision_model.head.attention, *(m.self_attn for m in model.text_model.encoder.layers[-n:])],
    )  # fmt: skip


def of_vit() -> Case:
    """A classifier."""
    torch.manual_seed(0)
    model = families.strong(
        transformers.ViTForImageClassification(transformers.ViTConfig(**PICTURE, num_labels=3))
    ).double()
    patches = torch.ones(2, 17, dtype=torch.bool)
    patches[:, 0] = False
    tower = Tower("pixel_values", [2, 1, 0], torch.zeros(2, dtype=torch.long), patches, 1)
    return Case(model, modeling_vit, {"pixel_values": pictures(2)}, lambda out: out.logits[:, 1], [tower], lambda n: [])
