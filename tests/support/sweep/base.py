"""What rows of the sweep are made of: groups, inputs, read-outs and configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers as T
from torch import Tensor

from support import handmade
from support.family import Family, Read, Refusal
from support.tiny import ids, noise

TEXT, DECODER, SEQ2SEQ = "text encoder", "decoder", "encoder-decoder"

VISION, VIDEO, AUDIO = "vision", "video", "audio"

DUAL, CROSS = "dual encoder", "co-attention and cross-attention"

DETECTION, VLM = "detection", "vision-language"

HANDMADE = "torch and hand-made"

GROUPS = (TEXT, DECODER, SEQ2SEQ, VISION, VIDEO, AUDIO, DUAL, CROSS, DETECTION, VLM, HANDMADE)

FAMILIES: dict[str, Family] = {}

REFUSED: dict[str, Refusal] = {}

OPEN: dict[str, Refusal] = {}


def row(
    name: str, group: str, model: str, config: Any, inputs: Mapping[str, Tensor], target: Read, **more: Any
) -> None:
    """Add a family; `config`: a function, or the keywords of the configuration class that the model's name begins with.

    `model`: a class of handmade.py or of transformers.
    """
    says, why, is_open = more.pop("refused", ""), more.pop("why", ""), more.pop("open", "")
    prefix = more.pop("prefix", None) or model.rsplit("For", 1)[0].removesuffix("Model")
    configured = config if callable(config) else (lambda: getattr(T, prefix + "Config")(**config))

    def make() -> Any:  # a class of transformers is imported by its first test: all of them take seconds
        made = getattr(handmade, model, None) or getattr(T, model)
        return made(configured())

    family = Family(name, group, model, make, inputs, target, **more)
    assert name not in {**FAMILIES, **REFUSED, **OPEN}, name
    if says:
        REFUSED[name] = Refusal(family, says, why)
    elif is_open:
        OPEN[name] = Refusal(family, "", is_open)
    else:
        FAMILIES[name] = family


# -- what is read -----------------------------------------------------------------------------------------------------


def at(name: str, *index: Any) -> Read:
    """out[name][:, *index]"""
    return lambda out: out[name][(slice(None), *index)]


cls, last = at("logits", 1), at("logits", -1, 7)

pool = at("last_hidden_state", 0, 1)

# -- inputs -----------------------------------------------------------------------------------------------------------

MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])


def words(mask: bool = True) -> dict[str, Tensor]:
    """Six tokens; the second sample is padded at its end."""
    return {"input_ids": ids(2, 6)} | ({"attention_mask": MASK} if mask else {})


def ended(n: int = 6) -> Tensor:
    """Ids that end in 39, the end of text."""
    return torch.cat([ids(2, n - 1, high=38), torch.full((2, 1), 39)], 1)


def picture(*shape: int) -> dict[str, Tensor]:
    return {"pixel_values": noise(*(shape or (2, 3, 16, 16)))}


def both() -> dict[str, Tensor]:
    return {"input_ids": ended(), "attention_mask": torch.ones(2, 6).long(), **picture()}


def with_image(before: int, image: int, after: int) -> dict[str, Tensor]:
    """A prompt with `image` places (39) that the picture's features fill."""
    prompt = torch.cat([ids(2, before, high=38), torch.full((2, image), 39), ids(2, after, high=38, seed=4)], 1)
    return {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}


# -- configurations ---------------------------------------------------------------------------------------------------

S = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}

L = {**S, "num_labels": 3}

TX = {"vocab_size": 40, "max_position_embeddings": 32}

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

MHA = {**S, **TX, **SPECIAL}

GQA = {**MHA, "num_key_value_heads": 1}

KV = {**GQA, "head_dim": 8}

IM = {"image_size": 16, "patch_size": 4}

HALF = {
    f"{p}_{k}": v
    for p in ("encoder", "decoder")
    for k, v in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 24))
}  # fmt: skip

BART = {"vocab_size": 40, "d_model": 16, **HALF}

T5 = {
    "vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2,
    "pad_token_id": 0, "decoder_start_token_id": 0,
}  # fmt: skip

CLIP_TEXT = {**S, "vocab_size": 40, "max_position_embeddings": 16}

DS = {
    **MHA, "num_key_value_heads": 2, "moe_intermediate_size": 8, "n_routed_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8,
    "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 6,
}  # fmt: skip

ONE = {"input_ids": 6}


def resnet() -> Any:
    return T.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], out_features=["stage2"], layer_type="basic"
    )
