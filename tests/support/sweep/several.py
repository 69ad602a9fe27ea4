"""Models of several inputs, and detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers as T
from torch import Tensor

from support.sweep.base import (
    BART,
    CLIP_TEXT,
    CROSS,
    DECODER,
    DETECTION,
    DUAL,
    GQA,
    IM,
    KV,
    MASK,
    ONE,
    SPECIAL,
    TX,
    VIDEO,
    VLM,
    L,
    S,
    at,
    both,
    cls,
    last,
    picture,
    pool,
    resnet,
    row,
    with_image,
    words,
)
from support.sweep.senses import SWIN
from support.sweep.texts import BART32, LOCAL, PLAIN, T5GEMMA
from support.tiny import ids, noise

# -- dual encoders ----------------------------------------------------------------------------------------------------


def dual(name: str, prefix: str, config: Any, born: str, **more: Any) -> None:
    """Two layers of text, two of vision; how well each picture goes with its text."""
    usual = {"calls": 4, "streams": {"input_ids": 6, born: 1, "pixel_values": 16}, "grids": {"pixel_values": (4, 4)}}
    diagonal = lambda out: out["logits_per_image"].diagonal()  # noqa: E731
    inputs = more.pop("inputs", None) or both()
    row(name, DUAL, prefix + "Model", config, inputs, more.pop("target", diagonal), **usual | more)


EOS = {"eos_token_id": 39, "bos_token_id": 1}

unmasked = {k: v for k, v in both().items() if k != "attention_mask"}

TWO = {"text_config": CLIP_TEXT, "vision_config": {**S, **IM}}

ENDED = {**TWO, "text_config": {**CLIP_TEXT, **EOS}, "projection_dim": 8}

dual("clip", "CLIP", ENDED, "class_embedding", core=True)

dual("metaclip2", "MetaClip2", ENDED, "class_embedding")

dual("siglip", "Siglip", TWO, "probe", calls=5, inputs=unmasked)

dual(
    "altclip", "AltCLIP", {**ENDED, "text_config": {**S, **TX, "project_dim": 8, "pad_token_id": 1}}, "class_embedding"
)

dual("chinese-clip", "ChineseCLIP", {**ENDED, "text_config": {**S, **TX}}, "class_embedding")

dual("owlvit", "OwlViT", {**TWO, "projection_dim": 16}, "class_embedding")

row("xclip", VIDEO, "XCLIPModel", {
    "text_config": {**CLIP_TEXT, "eos_token_id": 39}, "vision_config": {
        **S, **IM, "mit_hidden_size": 16, "mit_intermediate_size": 24, "mit_num_hidden_layers": 1,
        "mit_num_attention_heads": 2, "num_frames": 2},
    "projection_dim": 16, "prompt_layers": 1, "prompt_num_attention_heads": 2}, both() | picture(2, 2, 3, 16, 16),
    lambda out: out["logits_per_video"].diagonal(), calls=8,
    refused="a token stands at several places", why="the prompts of all samples look at every film")  # fmt: skip

# -- co-attention and cross-attention ---------------------------------------------------------------------------------

BLIP_TEXT = {**CLIP_TEXT, **SPECIAL, "encoder_hidden_size": 16, "projection_dim": 8, "sep_token_id": 2}

BLIP = {"text_config": BLIP_TEXT, "vision_config": {**S, **IM}, "projection_dim": 8, "image_text_hidden_size": 8}

row("lxmert", CROSS, "LxmertForQuestionAnswering", {
    "vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "l_layers": 1, "x_layers": 2,
    "r_layers": 1, "visual_feat_dim": 8, "visual_pos_dim": 4, "num_qa_labels": 3},
    words() | {"visual_feats": noise(2, 4, 8), "visual_pos": noise(2, 4, 4)}, at("question_answering_score", 1),
    calls=10, streams={**ONE, "visual_feats": 4}, core=True, dead={
        7: "the last layer's vision is not read", 9: "the last layer's vision is not read"})  # fmt: skip

row("visualbert", CROSS, "VisualBertModel", {**S, **TX, "visual_embedding_dim": 8},
    words() | {"visual_embeds": noise(2, 4, 8)}, pool, streams={**ONE, "visual_embeds": 4})  # fmt: skip

row("vilt", CROSS, "ViltForQuestionAnswering", {**L, **TX, **IM}, both(), cls,
    streams={**ONE, "cls_token": 1, "pixel_values": 16}, grids={"pixel_values": (4, 4)}, core=True)  # fmt: skip

row("flava", CROSS, "FlavaModel", {
    "text_config": {**S, **TX}, "image_config": {**S, **IM}, "multimodal_config": S, "projection_dim": 8,
    "hidden_size": 16}, both(), lambda out: out["multimodal_output"]["last_hidden_state"][:, 0, 1], calls=6,
    streams={"embeddings.cls_token": 1, "pixel_values": 16, **ONE, "multimodal_model.cls_token": 1},
    grids={"pixel_values": (4, 4)})  # fmt: skip

row("blip-retrieval", CROSS, "BlipForImageTextRetrieval", BLIP, both(), at("itm_score", 1), prefix="Blip", calls=6,
    streams={**ONE, "class_embedding": 1, "pixel_values": 16}, grids={"pixel_values": (4, 4)}, core=True)  # fmt: skip

row("blip-caption", CROSS, "BlipForConditionalGeneration", BLIP, both(), last, calls=6,
    streams={**ONE, "class_embedding": 1, "pixel_values": 16}, grids={"pixel_values": (4, 4)})  # fmt: skip

row("git", VLM, "GitForCausalLM", lambda: T.GitConfig(vision_config={**S, **IM}, **S, **TX), both(), last,
    calls=4, streams={**ONE, "class_embedding": 1, "pixel_values": 16}, grids={"pixel_values": (4, 4)})  # fmt: skip

TOWERS = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "share_link_tower_layers": False,
    "text_config": {**S, **TX, "hidden_size": 64, "pad_token_id": 1},
    "vision_config": {"hidden_size": 64, "num_hidden_layers": 2, **IM},
}  # fmt: skip

TOWERS_SEEN = {
    "calls": 12,
    "streams": {**ONE, "class_embedding": 1, "pixel_values": 16},
    "grids": {"pixel_values": (4, 4)},
}

row("bridgetower", CROSS, "BridgeTowerModel", TOWERS, both(),
    lambda out: out["pooler_output"][:, 1] + out["pooler_output"][:, 65], **TOWERS_SEEN)  # fmt: skip

row("perceiver-text", CROSS, "PerceiverForSequenceClassification", {
    "num_latents": 3, "d_latents": 16, "d_model": 16, "num_blocks": 1, "num_self_attends_per_block": 2,
    "num_self_attention_heads": 2, "num_cross_attention_heads": 2, "vocab_size": 40, "max_position_embeddings": 6,
    "num_labels": 3, "qk_channels": 16, "v_channels": 16}, {"inputs": ids(2, 6), "attention_mask": MASK}, cls,
    calls=4, streams={"inputs": 6, "latents": 3, "output_position_encodings.position_embeddings": 1})  # fmt: skip

row("decision-transformer", DECODER, "DecisionTransformerModel", {
    "state_dim": 4, "act_dim": 2, "hidden_size": 16, "n_layer": 2, "n_head": 2, "max_ep_len": 16, "vocab_size": 1},
    {"states": noise(2, 3, 4), "actions": noise(2, 3, 2), "rewards": noise(2, 3, 1), "returns_to_go": noise(2, 3, 1),
     "timesteps": torch.arange(3)[None].expand(2, 3), "attention_mask": torch.ones(2, 3).long()},
    at("action_preds", -1, 0), streams={"returns_to_go": 3, "states": 3, "actions": 3, "rewards": 3})  # fmt: skip

# -- detection --------------------------------------------------------------------------------------------------------

DETR = {**{k: v for k, v in BART.items() if k != "vocab_size"}, "encoder_layers": 1, "num_queries": 3, "num_labels": 3,
        "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}  # fmt: skip


def detector(name: str, prefix: str, d_model: int = 16, **more: Any) -> None:
    """A picture of 32x48 in 4x6 cells, one encoder call, two decoder layers of self and cross; the second object query."""
    usual = {
        "calls": 5,
        "streams": {"pixel_values": 24, "query_position_embeddings": 3},
        "grids": {"pixel_values": (4, 6)},
    }
    make = lambda: getattr(T, prefix + "Config")(**{**DETR, "d_model": d_model}, backbone_config=resnet())  # noqa: E731
    row(name, DETECTION, prefix + "ForObjectDetection", make, picture(2, 3, 32, 48), at("logits", 1, 0), **usual | more)


detector("detr", "Detr", core=True, inexact="scores of some hundreds", mixes="a ResNet before attention")

detector("conditional-detr", "ConditionalDetr", inexact="scores of some hundreds", mixes="a ResNet before attention")

detector("table-transformer", "TableTransformer", mixes="a ResNet before attention")

detector("dab-detr", "DabDetr", std=0.1, streams={"pixel_values": 24, "query_refpoint_embeddings": 3},
         mixes="a ResNet before attention")  # fmt: skip

detector("deformable-detr", "DeformableDetr", d_model=32, refused="grid_sample",
         why="deformable attention samples between the tokens")  # fmt: skip

row("yolos", DETECTION, "YolosForObjectDetection", {
    **L, "image_size": [16, 16], "patch_size": 4, "num_detection_tokens": 3}, picture(), at("logits", 1, 0),
    streams={"cls_token": 1, "pixel_values": 16, "detection_tokens": 3}, grids={"pixel_values": (4, 4)}, core=True)  # fmt: skip

row("owlvit-detection", DETECTION, "OwlViTForObjectDetection", {**TWO, "projection_dim": 16}, both(), at("logits", 3, 0),
    calls=4, streams={**ONE, "class_embedding": 1, "pixel_values": 16}, grids={"pixel_values": (4, 4)})  # fmt: skip

row("clipseg", DETECTION, "CLIPSegForImageSegmentation", {
    **ENDED, "extract_layers": [0, 1], "reduce_dim": 8, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16}, both(), lambda out: out["logits"].flatten(1)[:, 3], calls=6,
    dead=dict.fromkeys(range(4), "CLIP runs under torch.no_grad()"), twin="CLIP runs under torch.no_grad()",
    streams={**ONE, "class_embedding": 1, "pixel_values": 16}, grids={"pixel_values": (4, 4)})  # fmt: skip

row("maskformer", DETECTION, "MaskFormerForInstanceSegmentation", lambda: T.MaskFormerConfig(
    fpn_feature_size=32, mask_feature_size=32, num_labels=3, decoder_config=T.DetrConfig(**{**DETR, "d_model": 32}),
    backbone_config=T.SwinConfig(**{**SWIN, "image_size": 32, "depths": [1] * 4, "num_heads": [2] * 4},
                                 out_features=[f"stage{i}" for i in range(1, 5)])),
    picture(2, 3, 64, 64), at("class_queries_logits", 1, 0), calls=8,
    streams={"pixel_values": 1024, "queries_embedder": 3}, grids={"pixel_values": (32, 32)})  # fmt: skip

# -- vision-language --------------------------------------------------------------------------------------------------

PATCHES = {"pixel_values": (4, 4)}


def vlm(name: str, prefix: str, config: Any, prompt: tuple[int, int, int], **more: Any) -> None:
    """Two layers of vision, two of language; the picture's features fill places of the prompt."""
    inputs = with_image(*prompt) | (more.pop("inputs", None) or picture())
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    usual = {"calls": 4, "grids": PATCHES, "streams": {"input_ids": sum(prompt), "pixel_values": 16}}
    row(name, VLM, prefix + "ForConditionalGeneration", config, inputs, last, **usual | more)


LLAMA_CLIP = lambda: {"text_config": T.LlamaConfig(**KV), "vision_config": T.CLIPVisionConfig(**S, **IM)}  # noqa: E731

vlm("llava", "Llava", lambda: T.LlavaConfig(**LLAMA_CLIP(), image_token_index=39, vision_feature_layer=-1), (2, 16, 3),
    streams={"input_ids": 21, "class_embedding": 1, "pixel_values": 16}, core=True)  # fmt: skip

vlm("vip-llava", "VipLlava", lambda: T.VipLlavaConfig(
    **LLAMA_CLIP(), image_token_index=39, vision_feature_layers=[-1, -2]), (2, 16, 3),
    streams={"input_ids": 21, "class_embedding": 1, "pixel_values": 16})  # fmt: skip

vlm("paligemma", "PaliGemma", lambda: T.PaliGemmaConfig(
    text_config=T.GemmaConfig(**KV), vision_config=T.SiglipVisionConfig(**S, **IM, vision_use_head=False),
    image_token_index=39, projection_dim=16), (0, 16, 3))  # fmt: skip

vlm("gemma3-vision", "Gemma3", lambda: T.Gemma3Config(
    text_config=T.Gemma3TextConfig(**KV, **LOCAL, query_pre_attn_scalar=8), mm_tokens_per_image=4, image_token_index=39,
    vision_config=T.SiglipVisionConfig(**S, **IM, vision_use_head=False)), (2, 4, 3))  # fmt: skip

vlm("idefics3", "Idefics3", lambda: T.Idefics3Config(
    text_config=T.LlamaConfig(**KV), vision_config={**S, **IM}, scale_factor=2, image_token_id=39), (2, 4, 3),
    inputs=picture(2, 1, 3, 16, 16), core=True)  # fmt: skip

vlm("smolvlm", "SmolVLM", lambda: T.SmolVLMConfig(
    text_config=T.LlamaConfig(**KV), vision_config={**S, **IM}, scale_factor=2, image_token_id=39), (2, 4, 3),
    inputs=picture(2, 1, 3, 16, 16))  # fmt: skip

vlm("internvl", "InternVL", lambda: T.InternVLConfig(
    text_config=T.Qwen2Config(**GQA), vision_config=T.InternVLVisionConfig(**S, image_size=[16, 16], patch_size=[4, 4]),
    image_token_id=39, downsample_ratio=0.5), (2, 4, 3),
    streams={"input_ids": 9, "cls_token": 1, "pixel_values": 16})  # fmt: skip

vlm("blip-2", "Blip2", {
    "vision_config": {**S, **IM}, "qformer_config": {**S, "vocab_size": 40, "encoder_hidden_size": 16,
                                                    "cross_attention_frequency": 1},
    "text_config": {"model_type": "opt", **PLAIN, "word_embed_proj_dim": 16, "ffn_dim": 24,
                    "max_position_embeddings": 32}, "num_query_tokens": 3, "image_token_index": 39}, (0, 3, 3), calls=8,
    streams={"input_ids": 6, "class_embedding": 1, "pixel_values": 16, "query_tokens": 3}, core=True)  # fmt: skip

QWEN_VISION = {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4,
               "spatial_merge_size": 2, "temporal_patch_size": 1, "in_channels": 3}  # fmt: skip

PLACES = {"image_token_id": 39, "vision_start_token_id": 3, "vision_end_token_id": 4}

MROPE = {**GQA, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}


def packed(*prompts: tuple[int, ...]) -> dict[str, Tensor]:
    """Prompts with pictures of 4x4 patches, merged 2x2 (1: a picture, 0: a word); the patches of all in one row."""
    places = torch.tensor([[place for p in prompt for place in ([1] * 4 if p else [0])] for prompt in prompts])
    pictures = sum(map(sum, prompts))
    return {
        "input_ids": torch.where(places == 1, 39, ids(*places.shape, high=38)),
        "attention_mask": torch.ones_like(places),
        "pixel_values": noise(16 * pictures, 48),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * pictures),
        "mm_token_type_ids": places,
    }


def qwen(name: str, prefix: str, vision: Mapping[str, Any], *prompts: tuple[int, ...], **more: Any) -> None:
    """Two layers of vision, a call for each picture; two of language."""
    config = lambda: getattr(T, prefix + "Config")(text_config=MROPE, vision_config=vision, **PLACES)  # noqa: E731
    inputs, pictures = packed(*prompts), sum(map(sum, prompts))
    usual = {
        "calls": 2 * pictures + 2,
        "streams": {"input_ids": inputs["input_ids"].shape[1], "pixel_values": 16 * pictures},
    }
    row(name, VLM, prefix + "ForConditionalGeneration", config, inputs, last, **usual | more)


qwen("qwen2-vl", "Qwen2VL", QWEN_VISION, (0, 0, 1, 0, 0, 0), (0, 0, 1, 0, 0, 0), core=True)

qwen("qwen2-vl-pictures", "Qwen2VL", QWEN_VISION, (0, 1, 0, 1, 0), (0, 0, 0, 1, 0, 0, 0, 0))

vlm("llava-pictures", "Llava", lambda: T.LlavaConfig(
    **LLAMA_CLIP(), image_token_index=39, vision_feature_layer=-1), (2, 32, 3), inputs=picture(3, 3, 16, 16) | {
        "input_ids": torch.tensor([[39] * 32 + [7, 8], [9] * 15 + [39] * 16 + [7, 8, 9]])}, grids={},
    streams={"input_ids": 34, "class_embedding": 1, "pixel_values": 48})  # fmt: skip

qwen("qwen2-5-vl", "Qwen2_5_VL", {
    "depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 16, "patch_size": 4,
    "spatial_merge_size": 2, "temporal_patch_size": 1, "in_channels": 3, "window_size": 8,
    "fullatt_block_indexes": [1]}, (0, 0, 1, 0, 0, 0), (0, 0, 1, 0, 0, 0), calls=12)  # fmt: skip

row("qwen3-vl", VLM, "Qwen3VLForConditionalGeneration", lambda: T.Qwen3VLConfig(
    text_config={**MROPE, "head_dim": 8}, vision_config={
        "depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 16, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 1, "in_channels": 3, "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0]}, **PLACES), packed((0, 0, 1, 0, 0, 0), (0, 0, 1, 0, 0, 0)), last, calls=6,
    streams={"input_ids": 9, "pixel_values": 32}, core=True)  # fmt: skip

row("glm4v", VLM, "Glm4vForConditionalGeneration", lambda: T.Glm4vConfig(
    text_config={**MROPE, "head_dim": 8}, vision_config={
        "depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 16, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 1, "in_channels": 3, "image_size": 16},
    image_token_id=39, image_start_token_id=3, image_end_token_id=4), packed((0, 0, 1, 0, 0, 0), (0, 0, 1, 0, 0, 0)),
    last, calls=6, streams={"input_ids": 9, "pixel_values": 32})  # fmt: skip

SIGLIP = lambda: T.SiglipVisionConfig(**S, **IM, vision_use_head=False)  # noqa: E731

vlm("idefics2", "Idefics2", lambda: T.Idefics2Config(
    text_config=T.MistralConfig(**KV), vision_config={**S, **IM}, perceiver_config={
        "hidden_size": 16, "resampler_n_latents": 3, "resampler_depth": 1, "resampler_n_heads": 2,
        "resampler_head_dim": 8, "num_key_value_heads": 1}, image_token_id=39), (2, 3, 3), calls=5,
    inputs=picture(2, 1, 3, 16, 16), streams={"input_ids": 8, "pixel_values": 16, "latents": 3})  # fmt: skip

row("mllama", VLM, "MllamaForConditionalGeneration", lambda: T.MllamaConfig(
    vision_config={
        "hidden_size": 16, "num_hidden_layers": 1, "num_global_layers": 1, "attention_heads": 2,
        "intermediate_size": 24, **IM, "max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]],
        "intermediate_layers_indices": [0], "vision_output_dim": 32},
    text_config={**KV, "cross_attention_layers": [1]}, image_token_index=39), words() | {
        "pixel_values": noise(2, 1, 1, 3, 16, 16), "aspect_ratio_ids": torch.ones(2, 1).long(),
        "aspect_ratio_mask": torch.ones(2, 1, 1).long(), "cross_attention_mask": torch.ones(2, 6, 1, 1).long()},
    last, calls=4, streams={**ONE, "class_embedding": 1, "pixel_values": 16}, grids=PATCHES,
    dead=dict.fromkeys((0, 1, 3), "the gates of cross-attention begin at zero"))  # fmt: skip

vlm("mistral3", "Mistral3", lambda: T.Mistral3Config(
    text_config=T.MistralConfig(**KV), vision_config=T.PixtralVisionConfig(**S, **IM), image_token_index=39,
    vision_feature_layer=-1, spatial_merge_size=2), (2, 4, 3),
    inputs=picture() | {"image_sizes": torch.tensor([[16, 16]] * 2)}, core=True)  # fmt: skip

vlm("aya-vision", "AyaVision", lambda: T.AyaVisionConfig(
    text_config=T.Cohere2Config(**KV, **LOCAL), vision_config=SIGLIP(), image_token_index=39, downsample_factor=2,
    vision_feature_layer=-1, vision_feature_select_strategy="full"), (2, 4, 3))  # fmt: skip

vlm("cohere2-vision", "Cohere2Vision", lambda: T.Cohere2VisionConfig(
    text_config=T.Cohere2Config(**KV, **LOCAL), vision_config=SIGLIP(), image_token_id=39, downsample_factor=2,
    alignment_intermediate_size=32), (2, 4, 3))  # fmt: skip

TILES = {
    "inputs": picture(2, 2, 3, 16, 16) | {"image_sizes": torch.tensor([[16, 16]] * 2)},
    "grids": {"pixel_values": (2, 4, 4)},
}

vlm("llava-next", "LlavaNext", lambda: T.LlavaNextConfig(
    **LLAMA_CLIP(), image_token_index=39, vision_feature_layer=-1, image_grid_pinpoints=[[16, 16]]), (2, 36, 3), **TILES,
    streams={"input_ids": 41, "class_embedding": 1, "pixel_values": 32, "image_newline": 1})  # fmt: skip

vlm("llava-onevision", "LlavaOnevision", lambda: T.LlavaOnevisionConfig(
    text_config=T.Qwen2Config(**GQA), vision_config=SIGLIP(), image_token_index=39, vision_feature_layer=-1,
    image_grid_pinpoints=[[16, 16]], vision_aspect_ratio="anyres_max_9"), (2, 36, 3), **TILES,
    streams={"input_ids": 41, "pixel_values": 32, "image_newline": 1})  # fmt: skip

vlm("video-llava", "VideoLlava", lambda: T.VideoLlavaConfig(
    **LLAMA_CLIP(), image_token_index=39, video_token_index=38, vision_feature_layer=-1), (2, 16, 3),
    inputs={"pixel_values_images": noise(2, 3, 16, 16)}, grids={"pixel_values_images": (4, 4)},
    streams={"input_ids": 21, "image_tower.embeddings.class_embedding": 1, "pixel_values_images": 16})  # fmt: skip

vlm("paligemma2", "PaliGemma", lambda: T.PaliGemmaConfig(
    text_config=T.Gemma2Config(**T5GEMMA), vision_config=SIGLIP(), image_token_index=39, projection_dim=16),
    (0, 16, 3))  # fmt: skip

vlm("deepseek-vl", "DeepseekVL", lambda: T.DeepseekVLConfig(
    text_config=T.LlamaConfig(**KV), vision_config=SIGLIP(), image_token_id=39), (2, 16, 3))  # fmt: skip

vlm("janus", "Janus", lambda: T.JanusConfig(
    text_config=T.LlamaConfig(**KV), vision_config={**S, **IM, "projection_dim": 16}, image_token_id=39,
    vq_config={"embed_dim": 8, "num_embeddings": 8, "base_channels": 32, "channel_multiplier": [1, 1], "num_patches": 4,
               "image_token_embed_dim": 8}), (2, 16, 3))  # fmt: skip

vlm("instructblip", "InstructBlip", {
    "vision_config": {**S, **IM}, "qformer_config": {**S, "vocab_size": 40, "encoder_hidden_size": 16,
                                                    "cross_attention_frequency": 1},
    "text_config": {"model_type": "opt", **PLAIN, "word_embed_proj_dim": 16, "ffn_dim": 24,
                    "max_position_embeddings": 32}, "num_query_tokens": 3, "image_token_index": 39}, (0, 3, 3), calls=8,
    inputs=picture() | {"qformer_input_ids": ids(2, 4, seed=8)}, streams={
        "input_ids": 6, "class_embedding": 1, "pixel_values": 16, "query_tokens": 3, "qformer_input_ids": 4})  # fmt: skip

row("kosmos-2", VLM, "Kosmos2ForConditionalGeneration", lambda: T.Kosmos2Config(
    text_config={"vocab_size": 40, "embed_dim": 16, "layers": 2, "ffn_dim": 24, "attention_heads": 2,
                 "max_position_embeddings": 32}, vision_config={**S, **IM}, latent_query_num=3), picture() | {
        "input_ids": ids(2, 8), "image_embeds_position_mask": torch.tensor([[0, 1, 1, 1, 0, 0, 0, 0]] * 2),
        "attention_mask": torch.ones(2, 8).long()}, last, calls=5, grids=PATCHES,
    streams={"input_ids": 8, "class_embedding": 1, "pixel_values": 16, "latent_query": 3})  # fmt: skip

row("florence2", VLM, "Florence2ForConditionalGeneration", lambda: T.Florence2Config(
    text_config={"model_type": "bart", **BART32}, image_token_id=39, vision_config={
        "depths": [1, 1], "patch_size": [3, 3], "patch_stride": [2, 2], "patch_padding": [1, 1],
        "patch_prenorm": [False, True], "embed_dim": [8, 8], "num_heads": [2, 2], "num_groups": [2, 2],
        "window_size": 4, "projection_dim": 16, "max_position_embeddings": 16}),
    with_image(0, 17, 3) | picture() | {"decoder_input_ids": ids(2, 4, seed=5)}, last,
    refused="weighs channels", why="DaViT's channel attention: queries and keys are channels over all tokens")  # fmt: skip

SEEN = {"calls": 6, "streams": {"pixel_values": 16, "cls_token": 1, "decoder_input_ids": 4}, "grids": PATCHES}

row("trocr", VLM, "VisionEncoderDecoderModel", lambda: T.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
    T.ViTConfig(**S, **IM), T.TrOCRConfig(
        vocab_size=40, d_model=16, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=24,
        max_position_embeddings=32, cross_attention_hidden_size=16)),
    picture() | {"decoder_input_ids": ids(2, 4)}, last, **SEEN)  # fmt: skip

row("nougat", VLM, "VisionEncoderDecoderModel", lambda: T.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
    T.DonutSwinConfig(**{**SWIN, "num_labels": 2}), T.MBartConfig(**BART32, is_decoder=True, add_cross_attention=True)),
    picture() | {"decoder_input_ids": ids(2, 4)}, last, calls=7, grids={"pixel_values": (8, 8)},
    streams={"pixel_values": 64, "decoder_input_ids": 4})  # fmt: skip

row("blip-vqa", CROSS, "BlipForQuestionAnswering", BLIP, {
    **{k: v[:1] for k, v in both().items()}, "labels": ids(1, 3, seed=8), "decoder_input_ids": ids(1, 3, seed=8)},
    lambda out: -out["loss"].reshape(1), prefix="Blip", calls=10, grids=PATCHES,
    streams={**ONE, "class_embedding": 1, "pixel_values": 16, "decoder_input_ids": 3})  # fmt: skip

row("qwen2-audio", VLM, "Qwen2AudioForConditionalGeneration", lambda: T.Qwen2AudioConfig(
    audio_config={"num_mel_bins": 4, "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2,
                  "encoder_ffn_dim": 24, "max_source_positions": 8},
    text_config=T.Qwen2Config(**GQA), audio_token_index=39), with_image(2, 4, 3) | {
        "input_features": noise(2, 4, 16), "feature_attention_mask": torch.ones(2, 16).long()}, last, calls=4,
    mixes="convolutions before attention", streams={"input_ids": 9, "input_features": 8})  # fmt: skip
