"""Models of pictures, videos and sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers as T

from support.family import Read
from support.sweep.base import AUDIO, BART, IM, SPECIAL, VIDEO, VISION, L, S, at, cls, last, picture, pool, row
from support.sweep.texts import GPT
from support.tiny import ids, noise

# -- vision -----------------------------------------------------------------------------------------------------------


def vision(name: str, model: str, config: Any, born: Mapping[str, int] | None = None, *, grid: tuple[int, int] = (4, 4),
           inputs: Any = None, target: Read = cls, group: str = VISION, **more: Any) -> None:  # fmt: skip
    """Two layers over a picture of 4x4 patches and the tokens `born` from parameters."""
    streams = {**({"cls_token": 1} if born is None else born), "pixel_values": grid[0] * grid[1]}
    more = {"streams": streams, "grids": {"pixel_values": grid}, **more}
    row(name, group, model, config, inputs or picture(), target, **more)


SWIN = {
    "image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4,
    "num_labels": 3,
}  # fmt: skip

MAE = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
       "decoder_intermediate_size": 24}  # fmt: skip

PYRAMID = {"hidden_sizes": [8, 8], "depths": [1, 1], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2],
           "strides": [2, 2], "num_encoder_blocks": 2, "num_labels": 3}  # fmt: skip

vision("vit", "ViTForImageClassification", {**L, **IM}, core=True)

vision("vit-rectangle", "ViTForImageClassification", {**L, "image_size": (8, 16), "patch_size": (2, 4)},
       inputs=picture(2, 3, 8, 16))  # fmt: skip

vision("vit-interpolated", "ViTForImageClassification", {**L, **IM}, grid=(6, 4),
       inputs=picture(2, 3, 24, 16) | {"interpolate_pos_encoding": True})  # fmt: skip

vision("deit", "DeiTForImageClassification", {**L, **IM}, {"cls_token": 1, "distillation_token": 1})

vision("deit-teacher", "DeiTForImageClassificationWithTeacher", {**L, **IM}, {"cls_token": 1, "distillation_token": 1})

vision("beit", "BeitForImageClassification", {**L, **IM, "use_relative_position_bias": True})

vision(
    "data2vec-vision", "Data2VecVisionForImageClassification", {**L, **IM, "use_shared_relative_position_bias": True}
)

vision("dinov2", "Dinov2ForImageClassification", {**L, **IM})

vision("dinov2-registers", "Dinov2WithRegistersForImageClassification", {**L, **IM, "num_register_tokens": 3},
       {"cls_token": 1, "register_tokens": 3}, core=True)  # fmt: skip

vision("dinov3", "DINOv3ViTModel", {**S, **IM, "num_register_tokens": 2}, {"cls_token": 1, "register_tokens": 2},
       target=pool)  # fmt: skip

vision("ijepa", "IJepaForImageClassification", {**L, **IM}, {})

vision("vit-msn", "ViTMSNForImageClassification", {**L, **IM})

vision("clip-vision", "CLIPVisionModelWithProjection", {**S, **IM, "projection_dim": 6}, {"class_embedding": 1},
       target=at("image_embeds", 1), prefix="CLIPVision")  # fmt: skip

vision("siglip-vision", "SiglipVisionModel", {**S, **IM}, {"probe": 1}, calls=3, target=at("pooler_output", 1))

vision("vit-mae", "ViTMAEForPreTraining", {**S, **IM, **MAE}, inputs=picture() | {"noise": noise(2, 16)},
       target=at("logits", 3, 1), calls=3,
       streams={"cls_token": 1, "mask_token": 1, "pixel_values": 16, "noise": 16})  # fmt: skip

vision("vit-mae-deep", "ViTMAEForPreTraining", {**S, **IM, **MAE, "decoder_num_hidden_layers": 2},
       inputs=picture() | {"noise": noise(2, 16)}, target=at("logits", 3, 1), calls=4,
       streams={"cls_token": 1, "mask_token": 1, "pixel_values": 16, "noise": 16})  # fmt: skip

vision("beit-masked", "BeitForMaskedImageModeling", {**S, **IM, "vocab_size": 20, "use_mask_token": True},
       inputs=picture() | {"bool_masked_pos": torch.arange(16)[None].expand(2, 16) < 5}, target=at("logits", 2, 1))  # fmt: skip

vision("swin", "SwinForImageClassification", SWIN, {}, grid=(8, 8), calls=3, core=True)

vision("swinv2", "Swinv2ForImageClassification", SWIN, {}, grid=(8, 8), calls=3)

vision("vitdet", "VitDetModel", {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, **IM, "window_size": 2,
    "window_block_indices": [0], "use_relative_position_embeddings": True, "mlp_ratio": 2}, {},
    target=at("last_hidden_state", 1, 2, 1))  # fmt: skip

vision("sam-vision", "SamVisionModel", {
    "hidden_size": 16, "output_channels": 8, "num_hidden_layers": 2, "num_attention_heads": 2, **IM, "window_size": 2,
    "global_attn_indexes": [1], "mlp_dim": 24, "mlp_ratio": 2.0}, {}, target=at("last_hidden_state", 1, 2, 1),
    inexact="a learned mask: torch takes another kernel where it needs a gradient")  # fmt: skip

vision("mobilevit", "MobileViTForImageClassification", {
    "image_size": 128, "hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8] * 7,
    "num_attention_heads": 2, "num_labels": 3}, {}, inputs=picture(2, 3, 128, 128), grid=(16, 16), calls=9,
    std=0.6, mixes="convolutions before attention")  # fmt: skip

vision("levit", "LevitForImageClassification", {
    "image_size": 64, "hidden_sizes": [16, 16, 16], "num_attention_heads": [2] * 3, "depths": [1] * 3,
    "key_dim": [4] * 3, "mlp_ratio": [2] * 3, "attention_ratio": [2] * 3, "num_labels": 3}, {},
    inputs=picture(2, 3, 64, 64), calls=5, mixes="convolutions before attention")  # fmt: skip

vision("segformer", "SegformerForImageClassification", {
    **PYRAMID, "sr_ratios": [2, 1], "patch_sizes": [3, 3]}, {}, grid=(8, 8))  # fmt: skip

vision("pvt-v2", "PvtV2ForImageClassification", {
    **PYRAMID, "image_size": 16, "sr_ratios": [2, 1], "patch_sizes": [3, 3]}, {}, grid=(8, 8))  # fmt: skip

vision("pvt", "PvtForImageClassification", {
    "image_size": 32, "num_labels": 3, "hidden_sizes": [8] * 4, "depths": [1] * 4, "patch_sizes": [4, 2, 2, 2],
    "strides": [4, 2, 2, 2], "sequence_reduction_ratios": [2, 1, 1, 1], "num_attention_heads": [1, 2, 2, 2],
    "mlp_ratios": [2] * 4, "num_encoder_blocks": 4}, {}, inputs=picture(2, 3, 32, 32), grid=(8, 8), calls=4,
    streams={"cls_token": 1, "pixel_values": 64})  # fmt: skip

vision("cvt", "CvtForImageClassification", {
    "num_channels": 3, "patch_sizes": [3] * 3, "patch_stride": [2] * 3, "patch_padding": [1] * 3, "embed_dim": [8] * 3,
    "num_heads": [1, 2, 2], "depth": [1, 2, 3], "mlp_ratio": [2.0] * 3, "attention_drop_rate": [0.0] * 3,
    "drop_rate": [0.0] * 3, "drop_path_rate": [0.0] * 3, "qkv_bias": [True] * 3, "cls_token": [False, False, True],
    "qkv_projection_method": ["dw_bn"] * 3, "kernel_qkv": [3] * 3, "padding_kv": [1] * 3, "stride_kv": [2] * 3,
    "padding_q": [1] * 3, "stride_q": [1] * 3, "num_labels": 3}, inputs=picture(2, 3, 32, 32), grid=(16, 16),
    calls=6)  # fmt: skip

vision("hiera", "HieraForImageClassification", {
    "embed_dim": 8, "image_size": [32, 32], "patch_kernel": [7, 7], "patch_stride": [4, 4], "patch_padding": [3, 3],
    "depths": [1, 1], "num_heads": [1, 2], "mlp_ratio": 2.0, "embed_dim_multiplier": 2.0, "num_query_pool": 1,
    "query_stride": [2, 2], "masked_unit_size": [4, 4], "masked_unit_attention": [True, False], "num_labels": 3}, {},
    inputs=picture(2, 3, 32, 32), refused="max", core=True,
    why="queries are pooled by a maximum: which token won depends on the input")  # fmt: skip

vision("dpt", "DPTForDepthEstimation", {
    **S, "num_hidden_layers": 4, "image_size": 32, "patch_size": 8, "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [4] * 4, "fusion_hidden_size": 4, "reassemble_factors": [4, 2, 1, 0.5]}, calls=4,
    inputs=picture(2, 3, 32, 32), target=lambda out: out["predicted_depth"].flatten(1)[:, 3])  # fmt: skip

vision("groupvit-vision", "GroupViTVisionModel", {
    **S, **IM, "depths": [1, 1], "num_group_tokens": [4, 0], "num_output_groups": [4, 2]}, {},
    target=at("pooler_output", 1), calls=4, streams={"group_token": 4, "pixel_values": 16},
    twin="the twin takes the softmax itself, which is over the groups")  # fmt: skip

vision("siglip2-vision", "Siglip2VisionModel", {**S, "num_patches": 16, "patch_size": 4}, {"probe": 1}, inputs={
    "pixel_values": noise(2, 16, 48), "pixel_attention_mask": torch.ones(2, 16).long(),
    "spatial_shapes": torch.tensor([[4, 4]] * 2)}, target=at("pooler_output", 1), calls=3, grids={})  # fmt: skip

vision("aimv2", "Aimv2VisionModel", {**S, **IM, "use_head": False}, {}, target=pool)

vision("mlcd", "MLCDVisionModel", {**S, **IM}, {"class_embedding": 1}, target=at("pooler_output", 1))

vision("depth-anything", "DepthAnythingForDepthEstimation", lambda: T.DepthAnythingConfig(
    backbone_config=T.Dinov2Config(**S, **IM, out_features=["stage1", "stage2"], reshape_hidden_states=False),
    reassemble_hidden_size=16, patch_size=4, neck_hidden_sizes=[4, 4], fusion_hidden_size=4,
    reassemble_factors=[1, 0.5], head_hidden_size=4), target=lambda out: out["predicted_depth"].flatten(1)[:, 3])  # fmt: skip

vision(
    "donut-swin", "DonutSwinModel", {**SWIN, "num_labels": 2}, {}, grid=(8, 8), target=at("pooler_output", 1), calls=3
)

vision("glpn", "GLPNForDepthEstimation", {
    **PYRAMID, "sr_ratios": [2, 1], "patch_sizes": [3, 3], "decoder_hidden_size": 8}, {}, grid=(8, 8),
    target=lambda out: out["predicted_depth"].flatten(1)[:, 3])  # fmt: skip

vision("swin2sr", "Swin2SRForImageSuperResolution", {
    "image_size": 16, "patch_size": 1, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4,
    "upscale": 2}, {}, inputs=picture(2, 3, 8, 8), grid=(8, 8), mixes="a convolution before attention",
    target=lambda out: out["reconstruction"].flatten(1)[:, 3])  # fmt: skip

vision("eomt", "EomtForUniversalSegmentation", {
    **S, **IM, "num_queries": 3, "num_blocks": 1, "num_register_tokens": 2, "num_labels": 3, "num_upscale_blocks": 1},
    {"cls_token": 1, "register_tokens": 2, "query": 3}, target=at("class_queries_logits", 1, 0))  # fmt: skip

vision("imagegpt", "ImageGPTForImageClassification", {**GPT, "num_labels": 3}, {}, inputs={"input_ids": ids(2, 9)},
       streams={"input_ids": 9}, grids={})  # fmt: skip

vision("pixtral-vision", "PixtralVisionModel", {**S, **IM}, {}, inputs=picture() | {
    "image_sizes": torch.tensor([[16, 16]] * 2)},
    target=lambda out: out["last_hidden_state"].reshape(2, 16, 16)[:, 0, 1])  # fmt: skip

vision("poolformer", "PoolFormerForImageClassification", {
    "num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 8], "patch_sizes": [3, 3], "strides": [2, 2],
    "padding": [1, 1], "num_labels": 3}, {}, refused="no attention call", why="pooling, no attention")  # fmt: skip

vision("swiftformer", "SwiftFormerForImageClassification", {
    "image_size": 32, "depths": [1] * 4, "embed_dims": [8] * 4, "num_labels": 3}, {}, inputs=picture(2, 3, 32, 32),
    refused="no attention call", why="additive attention without a softmax over pairs")  # fmt: skip

vision("focalnet", "FocalNetForImageClassification", {
    "image_size": 16, "embed_dim": 8, "depths": [1, 1], "hidden_sizes": [8, 16], "num_labels": 3}, {},
    refused="no attention call", why="focal modulation, no attention")  # fmt: skip

# -- video, audio -----------------------------------------------------------------------------------------------------

CLIP8 = {"image_size": 8, "num_frames": 4}

video8 = {"pixel_values": noise(2, 4, 3, 8, 8)}

vision("vivit", "VivitForVideoClassification", {**L, **CLIP8, "tubelet_size": [2, 4, 4]}, group=VIDEO, inputs=video8,
       grid=(2, 4), grids={"pixel_values": (2, 2, 2)}, core=True)  # fmt: skip

vision("videomae", "VideoMAEForVideoClassification", {**L, **CLIP8, "patch_size": 4, "tubelet_size": 2}, {}, group=VIDEO,
       inputs=video8, grid=(2, 4), grids={"pixel_values": (2, 2, 2)})  # fmt: skip

vision("timesformer", "TimesformerForVideoClassification", {**L, "image_size": 8, "patch_size": 4, "num_frames": 2},
       group=VIDEO, inputs=picture(2, 2, 3, 8, 8), grid=(2, 4), grids={"pixel_values": (2, 2, 2)}, calls=4,
       core=True)  # fmt: skip

JEPA = {"patch_size": 4, "crop_size": 8, "frames_per_clip": 4, "tubelet_size": 2, "hidden_size": 24,
        "num_attention_heads": 2, "num_hidden_layers": 2, "mlp_ratio": 1.0, "pred_hidden_size": 24,
        "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 1}  # fmt: skip

JEPA_VIDEO = noise(2, 4, 3, 8, 8)

vision("vjepa2", "VJEPA2Model", JEPA, group=VIDEO, target=pool, streams={"pixel_values_videos": 8},
       grids={"pixel_values_videos": (2, 2, 2)},
       inputs={"pixel_values_videos": JEPA_VIDEO, "skip_predictor": True})  # fmt: skip

vision("vjepa2-predicted", "VJEPA2Model", JEPA, {}, group=VIDEO, calls=3, inputs={"pixel_values_videos": JEPA_VIDEO},
       target=pool, streams={"pixel_values_videos": 8, "mask_tokens": 1}, grids={"pixel_values_videos": (2, 2, 2)},
       dead={2: "the target reads the encoder"})  # fmt: skip

CONV = {"conv_dim": (8, 8), "conv_stride": (4, 2), "conv_kernel": (4, 2), "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 2}  # fmt: skip

WAVE = {**L, **CONV, "vocab_size": 20, "classifier_proj_size": 8}

wave = {"input_values": noise(2, 64)}

HEARD = {"streams": {"input_values": 8}}  # 64 samples / 4 / 2

for name, prefix in (("wav2vec2", "Wav2Vec2"), ("wavlm", "WavLM"), ("hubert", "Hubert"), ("unispeech", "UniSpeech"),
                     ("unispeech-sat", "UniSpeechSat"), ("data2vec-audio", "Data2VecAudio"), ("sew", "SEW")):  # fmt: skip
    row(name, AUDIO, prefix + "ForSequenceClassification", WAVE, wave, cls, **HEARD, core=name == "wav2vec2",
        **({"refused": "add of different tokens", "why": "frames are averaged in pairs"} if name == "sew" else {}))  # fmt: skip

row("ast", AUDIO, "ASTForAudioClassification", {
    **L, "max_length": 16, "num_mel_bins": 8, "patch_size": 4, "frequency_stride": 4, "time_stride": 4},
    {"input_values": noise(2, 16, 8)}, cls,
    streams={"cls_token": 1, "distillation_token": 1, "input_values": 8}, grids={"input_values": (4, 2)})  # fmt: skip

row("whisper", AUDIO, "WhisperForConditionalGeneration", {
    **BART, **SPECIAL, "num_mel_bins": 4, "max_source_positions": 6, "max_target_positions": 16,
    "decoder_start_token_id": 1}, {"input_features": noise(2, 4, 12), "decoder_input_ids": ids(2, 5)}, last, calls=6,
    streams={"input_features": 6, "decoder_input_ids": 5}, core=True)  # fmt: skip

row("speecht5", AUDIO, "SpeechT5ForSpeechToText", {
    **CONV, "vocab_size": 40, "hidden_size": 16,
    **{f"{p}_{k}": v for p in ("encoder", "decoder") for k, v in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 24))}},
    wave | {"decoder_input_ids": ids(2, 4)}, last, calls=3, streams={"input_values": 8, "decoder_input_ids": 4})  # fmt: skip

row("patchtst", AUDIO, "PatchTSTForClassification", {
    "num_input_channels": 2, "num_targets": 3, "context_length": 16, "patch_length": 4, "patch_stride": 4, "d_model": 16,
    "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24, "use_cls_token": True},
    {"past_values": noise(2, 16, 2)}, at("prediction_logits", 1),
    streams={"cls_token": 1, "past_values": 8})  # fmt: skip
