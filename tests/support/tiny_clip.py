"""A tiny pair of a picture tower and a text tower."""

import pytest
import torch

from support import families

transformers = pytest.importorskip("transformers")


def clip(image_size=32):
    tower = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    text = tower | {
        "vocab_size": 40,
        "max_position_embeddings": 8,
        "eos_token_id": 39,
        "bos_token_id": 1,
        "pad_token_id": 0,
    }
    config = transformers.CLIPConfig(
        text_config=text, vision_config=tower | {"image_size": image_size, "patch_size": 8}, projection_dim=8
    )
    return families.strong(transformers.CLIPModel(config))


def inputs(pictures: int, texts: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(2, 39, (3, 6), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = 39
    return {"input_ids": ids[:texts], "pixel_values": families.noise(3, 3, 32, 32, seed=2)[:pictures]}
