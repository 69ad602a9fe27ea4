"""Readers of a picture and a prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers as T
from PIL import Image

import regard
from support.tiny import strong
from support.writers import IDS, LLAMA, SIZE, VISION, tokenizer

torch.set_num_threads(1)

PICTURE = Image.fromarray(np.random.RandomState(0).randint(0, 255, (20, 28, 3), dtype=np.uint8))

PROMPT = "what is in the picture ?"


def blip2(language: str) -> Any:
    """Three queries look at the picture and stand before the text, whose places the processor writes by itself."""
    read = tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    if language == "opt":
        width = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48}
        text: Any = T.OPTConfig(num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=96, **width, **IDS)
    else:
        text = T.T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=1, **IDS)
    config = T.Blip2Config(
        vision_config=T.Blip2VisionConfig(**small, image_size=16, patch_size=4).to_dict(),
        qformer_config=T.Blip2QFormerConfig(
            vocab_size=400, encoder_hidden_size=16, cross_attention_frequency=1, **small
        ).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=3,
        image_token_id=read.convert_tokens_to_ids("<image>"),
        image_token_index=read.convert_tokens_to_ids("<image>"),
    )
    processor = T.Blip2Processor(T.BlipImageProcessorPil(size=SIZE), read, num_query_tokens=3)
    return regard.load(strong(T.Blip2ForConditionalGeneration(config)), processor=processor)


def tiled(kind: str) -> Any:
    """A picture as four tiles and a small one of all of it."""
    read = tokenizer()
    text = T.LlamaConfig(**{**LLAMA, "max_position_embeddings": 200, "num_hidden_layers": 1})
    vision = {**VISION, "num_hidden_layers": 1}
    place = read.convert_tokens_to_ids("<image>")
    config = getattr(T, f"{kind}Config")(text_config=text, vision_config=vision, scale_factor=2, image_token_id=place)
    edge = {"longest_edge": 16}
    pictures = T.Idefics3ImageProcessorPil(do_image_splitting=True, size={"longest_edge": 32}, max_image_size=edge)
    model = getattr(T, f"{kind}ForConditionalGeneration")(config)
    return regard.load(strong(model), processor=T.Idefics3Processor(pictures, read, image_seq_len=4))
