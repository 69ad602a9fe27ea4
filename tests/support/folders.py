"""Folders as `save_pretrained` writes them: tiny random models with their tokenizers and image processors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}

NAMES = {0: "cat, house cat", 1: "Dog", 2: "7"}

# ---------------------------------------------------------------- folders


def size(height: int, width: int | None = None) -> dict[str, int]:
    return {"height": height, "width": width or height}


def pillow_processor(kind: str) -> str:
    """The class that reads pictures with Pillow alone; the first releases of transformers 5 call it by the plain name."""
    names = (f"{kind}ImageProcessorPil", f"{kind}ImageProcessor")
    return next(n for n in names if hasattr(transformers, n))


def image_parts(name: str):
    """Config, model class and image processor of a tiny image classifier that takes 32 x 32 pixels."""
    t = transformers
    common = {
        **SMALL,
        "image_size": 32,
        "patch_size": 8,
        "id2label": NAMES,
        "label2id": {v: k for k, v in NAMES.items()},
    }
    swin = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
    crop = {"crop_size": size(32), "do_center_crop": True}
    return {
        "vit": (t.ViTConfig(**common), pillow_processor("ViT"), {"size": size(32)}),
        "deit": (t.DeiTConfig(**common), pillow_processor("DeiT"), {"size": size(36), **crop}),
        "beit": (t.BeitConfig(**common), pillow_processor("Beit"), {"size": size(36), **crop}),
        "dinov2": (t.Dinov2Config(**common), pillow_processor("Bit"), {"size": {"shortest_edge": 36}, **crop}),
        "swin": (t.SwinConfig(**swin, id2label=NAMES), pillow_processor("ViT"), {"size": size(32)}),
    }[name]


def wordpiece(**kw):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = ["the", "movie", "love", "##ly", "don", "'", "t", ",", ".", "great", "a", "##n", "of", "mind", "##s"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(special + pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **names, **kw)


def byte_level(trim: bool, **kw):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a lovely movie that moves the mind"] * 3, trainer)
    if trim:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", **kw)


def text_parts(name: str):
    t = transformers
    vocabulary = {"vocab_size": 320, "id2label": {0: "negative", 1: "positive"}}
    distil = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 20}
    roberta = {"max_position_embeddings": 22, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    gpt2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 30, "eos_token_id": 2, "bos_token_id": 0}
    bpe = byte_level(trim=True, pad_token="<pad>", bos_token="<s>", cls_token="<s>", sep_token="</s>")
    return {
        "bert": (t.BertConfig(**SMALL, **vocabulary, max_position_embeddings=20), wordpiece()),
        "distilbert": (t.DistilBertConfig(**distil, **vocabulary), wordpiece()),
        "roberta": (t.RobertaConfig(**SMALL, **vocabulary, **roberta), bpe),
        "gpt2": (t.GPT2Config(**gpt2, **vocabulary), byte_level(trim=False)),
    }[name]


def picture(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    x = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    return Image.fromarray(x).convert(mode)


# ---------------------------------------------------------------- geometry


def image_processor(name: str):
    kind, settings = {
        "vit": ("ViT", {"size": size(32)}),
        "clip": ("CLIP", {"size": {"shortest_edge": 224}, "crop_size": size(224)}),
        "deit": ("DeiT", {"size": size(256), "crop_size": size(224)}),
        "beit": ("Beit", {"size": size(36), "crop_size": size(32), "do_center_crop": True}),
        "dinov2": ("Bit", {"size": {"shortest_edge": 256}, "crop_size": size(224)}),
        "padded": ("Bit", {"size": {"shortest_edge": 180}, "crop_size": size(224)}),
        "convnext": ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
    }[name]
    return getattr(transformers, pillow_processor(kind))(**settings)
