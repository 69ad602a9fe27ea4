"""Tiny random models of pictures and texts, and detectors, in folders as `save_pretrained` leaves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as T

from support.tiny import strong

PIECES = ["what", "is", "the", "cat", "##s", "on", "mat", "a", "picture", "of", "two", "red", "?", "left"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
VOCABULARY = len(SPECIAL + PIECES)
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
PATCHES = {"image_size": 16, "patch_size": 4}
WORDS = {"vocab_size": VOCABULARY, "max_position_embeddings": 20}
ENDS = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
SIZE = {"height": 16, "width": 16}
ANSWERS = {0: "one", 1: "two", 2: "red"}


def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(SPECIAL + PIECES)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names |= {"mask_token": "[MASK]", "bos_token": "[DEC]"}
    return T.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=20, **names)


def pixels(kind: str, **settings: Any) -> Any:
    """An image processor that reads with Pillow alone; the first releases of transformers 5 call it by the plain name."""
    names = (f"{kind}ImageProcessorPil", f"{kind}ImageProcessor")
    return next(getattr(T, n) for n in names if hasattr(T, n))(**settings)


def blip(head: str) -> tuple[Any, Any]:
    text = {**SMALL, **WORDS, "encoder_hidden_size": 16, "projection_dim": 8}
    text |= {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = T.BlipConfig(
        text_config=text, vision_config={**SMALL, **PATCHES}, projection_dim=8, image_text_hidden_size=8
    )
    return getattr(T, head)(config), T.BlipProcessor(pixels("Blip", size=SIZE), tokenizer())


def vilt(head: str) -> tuple[Any, Any]:
    config = T.ViltConfig(**SMALL, **PATCHES, **WORDS, id2label=ANSWERS)
    reads = pixels("Vilt", size={"shortest_edge": 16}, size_divisor=4)
    return getattr(T, head)(config), T.ViltProcessor(reads, tokenizer())


def clip(_: str) -> tuple[Any, Any]:
    config = T.CLIPConfig(text_config={**SMALL, **WORDS, **ENDS}, vision_config={**SMALL, **PATCHES}, projection_dim=8)
    reads = pixels("CLIP", size={"shortest_edge": 16}, crop_size=SIZE)
    return T.CLIPModel(config), T.CLIPProcessor(reads, tokenizer())


def siglip(_: str) -> tuple[Any, Any]:
    """Its text tower reads the last of all its positions, so that a text is padded to them."""
    text = {**SMALL, **WORDS, "projection_size": 16, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    config = T.SiglipConfig(text_config=text, vision_config={**SMALL, **PATCHES})
    return T.SiglipModel(config), T.SiglipProcessor(pixels("Siglip", size=SIZE), tokenizer())


def trocr(_: str) -> tuple[Any, Any]:
    decoder = {"d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 24}
    config = T.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        T.ViTConfig(**SMALL, **PATCHES), T.TrOCRConfig(**decoder, **WORDS, **ENDS)
    )
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    model = T.VisionEncoderDecoderModel(config)
    model.generation_config.decoder_start_token_id = 2
    return model, T.TrOCRProcessor(pixels("ViT", size=SIZE), tokenizer())


def detr(head: str) -> tuple[Any, Any]:
    backbone = T.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "num_queries": 3}
    small |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    config = getattr(T, head.replace("ForObjectDetection", "Config"))(
        **small, use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, backbone_config=backbone
    )
    config.id2label = ANSWERS
    return getattr(T, head)(config), pixels("Detr", size=SIZE, do_pad=False)


def yolos(_: str) -> tuple[Any, Any]:
    config = T.YolosConfig(**SMALL, image_size=[16, 16], patch_size=4, num_detection_tokens=3, id2label=ANSWERS)
    return T.YolosForObjectDetection(config), pixels("Yolos", size=SIZE, do_pad=False)


def lxmert(_: str) -> tuple[Any, Any]:
    small = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    layers = {"l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 8, "num_qa_labels": 3}
    config = T.LxmertConfig(**small, **layers, max_position_embeddings=20, id2label=ANSWERS)
    return T.LxmertForQuestionAnswering(config), tokenizer()


FOLDERS: dict[str, tuple[Callable[[str], tuple[Any, Any]], str]] = {
    "vilt-vqa": (vilt, "ViltForQuestionAnswering"),
    "vilt-match": (vilt, "ViltForImageAndTextRetrieval"),
    "blip-vqa": (blip, "BlipForQuestionAnswering"),
    "blip-match": (blip, "BlipForImageTextRetrieval"),
    "blip-caption": (blip, "BlipForConditionalGeneration"),
    "clip": (clip, ""),
    "siglip": (siglip, ""),
    "trocr": (trocr, ""),
    "lxmert": (lxmert, ""),
    "detr": (detr, "DetrForObjectDetection"),
    "conditional-detr": (detr, "ConditionalDetrForObjectDetection"),
    "yolos": (yolos, ""),
}


def save(name: str, folder: Path) -> Path:
    """Make the model and what reads for it, and save both."""
    make, head = FOLDERS[name]
    torch.manual_seed(0)
    model, processor = make(head)
    strong(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
