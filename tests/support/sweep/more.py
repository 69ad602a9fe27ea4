"""More of detection and audio; torch's own modules, and attention written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers as T
from torch import Tensor

from support.family import Read
from support.sweep.base import (
    AUDIO,
    BART,
    DETECTION,
    DUAL,
    HANDMADE,
    IM,
    ONE,
    SPECIAL,
    TX,
    L,
    S,
    at,
    both,
    cls,
    ended,
    last,
    picture,
    resnet,
    row,
)
from support.sweep.senses import HEARD, SWIN, WAVE, wave
from support.sweep.several import PATCHES, TWO
from support.sweep.texts import BART32, seq2seq
from support.tiny import ids, noise

# -- more of detection and audio --------------------------------------------------------------------------------------

DEFORMABLE = {"refused": "grid_sample", "why": "deformable attention samples between the tokens"}

REAL_TIME = {
    "encoder_hidden_dim": 16, "encoder_in_channels": [8], "feat_strides": [8], "encoder_layers": 1,
    "encoder_ffn_dim": 24, "encoder_attention_heads": 2, "encode_proj_layers": [0], "d_model": 16, "num_queries": 3,
    "decoder_in_channels": [16], "decoder_ffn_dim": 24, "num_feature_levels": 1, "decoder_layers": 2,
    "decoder_attention_heads": 2, "num_labels": 3, "num_denoising": 0}  # fmt: skip

row("rt-detr", DETECTION, "RTDetrForObjectDetection", lambda: T.RTDetrConfig(
    backbone_config=resnet(), **REAL_TIME, decoder_n_points=2), picture(2, 3, 32, 32), at("logits", 1, 0),
    **DEFORMABLE)  # fmt: skip

row("d-fine", DETECTION, "DFineForObjectDetection", lambda: T.DFineConfig(
    backbone_config=resnet(), **REAL_TIME, decoder_n_points=[2]), picture(2, 3, 32, 32), at("logits", 1, 0),
    **DEFORMABLE)  # fmt: skip

row("grounding-dino", DETECTION, "GroundingDinoForObjectDetection", lambda: T.GroundingDinoConfig(
    backbone_config=resnet(), text_config={"model_type": "bert", **S, **TX}, d_model=32, encoder_layers=1,
    encoder_attention_heads=2, encoder_ffn_dim=24, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=24,
    num_queries=3, num_feature_levels=1, max_text_len=8), both(), at("logits", 1, 0), **DEFORMABLE)  # fmt: skip

row("mask2former", DETECTION, "Mask2FormerForUniversalSegmentation", lambda: T.Mask2FormerConfig(
    backbone_config=T.SwinConfig(**{**SWIN, "image_size": 32, "depths": [1] * 4, "num_heads": [2] * 4},
                                 out_features=[f"stage{i}" for i in range(1, 5)]),
    feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=24, encoder_layers=1, decoder_layers=2,
    num_attention_heads=2, dim_feedforward=24, num_queries=3, num_labels=3), picture(2, 3, 64, 64),
    at("class_queries_logits", 1, 0), **DEFORMABLE)  # fmt: skip

row("owlv2-detection", DETECTION, "Owlv2ForObjectDetection", {**TWO, "projection_dim": 16}, both(), at("logits", 3, 0),
    calls=4, streams={**ONE, "class_embedding": 1, "pixel_values": 16}, grids=PATCHES)  # fmt: skip

row("moonshine", AUDIO, "MoonshineForConditionalGeneration", {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2, **SPECIAL,
    "decoder_start_token_id": 1}, {"input_values": noise(2, 2000), "decoder_input_ids": ids(2, 4)}, last, calls=6,
    streams={"input_values": 3, "decoder_input_ids": 4})  # fmt: skip

CONFORMER = {"inexact": "convolutions take another kernel where a gradient is needed", "mixes": "convolutions"}

row("parakeet", AUDIO, "ParakeetForCTC", lambda: T.ParakeetCTCConfig(vocab_size=20, encoder_config={
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "subsampling_conv_channels": 4, "num_mel_bins": 16, "conv_kernel_size": 3, "subsampling_factor": 4}),
    {"input_features": noise(2, 32, 16)}, at("logits", 0, 1), streams={"input_features": 32}, grids={"input_features": (8, 4)},
    **CONFORMER)  # fmt: skip

row("wav2vec2-conformer", AUDIO, "Wav2Vec2ConformerForSequenceClassification", {
    **WAVE, "conv_depthwise_kernel_size": 3}, wave, cls, **HEARD, **CONFORMER)  # fmt: skip

row("wav2vec2-bert", AUDIO, "Wav2Vec2BertForSequenceClassification", {
    **L, "feature_projection_input_dim": 8, "classifier_proj_size": 8, "conv_depthwise_kernel_size": 3,
    "vocab_size": 20}, {"input_features": noise(2, 8, 8)}, cls, streams={"input_features": 8}, **CONFORMER)  # fmt: skip

row("speech-to-text", AUDIO, "Speech2TextForConditionalGeneration", {
    **BART, "input_feat_per_channel": 8, "conv_channels": 8, "num_conv_layers": 1, "conv_kernel_sizes": [3],
    "max_source_positions": 16, "max_target_positions": 16},
    {"input_features": noise(2, 12, 8), "decoder_input_ids": ids(2, 4)}, last, calls=6, mixes="a convolution",
    streams={"input_features": 6, "decoder_input_ids": 4})  # fmt: skip

row("sew-d", AUDIO, "SEWDForSequenceClassification", WAVE, wave, cls, refused="add of different tokens",
    why="frames are averaged in pairs")  # fmt: skip

seq2seq("seamless-m4t-text", "SeamlessM4T", {
    **{k: v for k, v in BART32.items() if k != "d_model"}, "hidden_size": 16}, "ForTextToText")  # fmt: skip

row("timesfm", AUDIO, "TimesFmModelForPrediction", {
    "patch_length": 4, "context_length": 16, "horizon_length": 4, "hidden_size": 16, "intermediate_size": 16,
    "head_dim": 8, "num_hidden_layers": 2, "num_attention_heads": 2}, {"past_values": noise(2, 16)},
    lambda out: out["mean_predictions"][:, 0], prefix="TimesFm", streams={"past_values": 4})  # fmt: skip

row("vision-text-dual", DUAL, "VisionTextDualEncoderModel",
    lambda: T.VisionTextDualEncoderConfig.from_vision_text_configs(T.ViTConfig(**S, **IM), T.BertConfig(**S, **TX)),
    both(), lambda out: out["logits_per_image"].diagonal(), calls=4,
    streams={**ONE, "cls_token": 1, "pixel_values": 16}, grids=PATCHES)  # fmt: skip

row("clap", DUAL, "ClapModel", {
    "text_config": {**S, **TX, "pad_token_id": 1}, "projection_dim": 8, "audio_config": {
        "patch_size": 4, "patch_stride": [4, 4], "spec_size": 32, "num_mel_bins": 8, "depths": [1, 1],
        "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "window_size": 4, "hidden_size": 16,
        "num_classes": 3}}, {"input_ids": ended(), "input_features": noise(2, 1, 32, 8),
                             "is_longer": torch.zeros(2, 1).bool()},
    lambda out: out["logits_per_audio"].diagonal(), calls=4, streams={**ONE, "input_features": 64},
    grids={"input_features": (32, 2)}, mixes="the spectrogram is resampled before its patches are cut")  # fmt: skip

# -- torch's own modules, and attention by hand -----------------------------------------------------------------------


def hand(name: str, model: str, inputs: Mapping[str, Tensor] | None = None, target: Read = cls, **more: Any) -> None:
    """Two layers over five tokens of features; the first row is read."""
    config = more.pop("config", None)
    row(
        name, HANDMADE, model, lambda: config, inputs or {"x": noise(2, 5, 16)}, target, **{"streams": {"x": 5}, **more}
    )


HIDDEN = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])

first = lambda out: out[:, 0, 1]  # noqa: E731

FAST = {"inexact": "torch's plain run takes a fast path", "std": 0.15}

hand("torch-encoder", "TorchEncoder", {"src": noise(2, 5, 16), "src_key_padding_mask": HIDDEN}, first,
     streams={"src": 5}, core=True, **FAST)  # fmt: skip

hand("torch-encoder-pre-norm", "TorchEncoder", {"src": noise(2, 5, 16)}, first, streams={"src": 5}, config=True, **FAST)

hand("torch-decoder", "TorchDecoder", {
    "tgt": noise(2, 4, 16), "memory": noise(2, 5, 16, seed=3), "tgt_mask": torch.ones(4, 4).triu(1).bool()},
    lambda out: out[:, -1, 1], streams={"tgt": 4, "memory": 5}, calls=4, core=True, **FAST)  # fmt: skip

hand("torch-transformer", "TorchTransformer", {"src": noise(2, 5, 16), "tgt": noise(2, 4, 16, seed=3)}, first,
     streams={"src": 5, "tgt": 4}, calls=6, **FAST)  # fmt: skip

hand("torch-attention", "TorchAttention", {
    "query": noise(2, 3, 16), "key": noise(2, 5, 16, seed=3), "value": noise(2, 5, 16, seed=4)},
    lambda out: out[0][:, 0, 1], streams={"query": 3, "key": 5, "value": 5}, calls=1, core=True)  # fmt: skip

hand("torch-tokens-first", "TokensFirst", {"src": noise(5, 2, 16)}, lambda out: out[0, :, 1],
     refused="several samples", why="axis 0 must be samples (batch_first)", core=True)  # fmt: skip

hand("written-out", "Layers")

hand("einsum", "Einsum", core=True, twin="the twin reads maps as (query, key); here they are (key, query)")

hand("talking-heads", "TalkingHeads", core=True, twin="the twin takes the softmax itself, before heads are mixed")

hand("attention-sinks", "Sinks", core=True)

hand("softmax-by-hand", "ByHand", core=True, twin="the twin looks for a softmax")

hand("slot-attention", "Slots", target=first, streams={"x": 5, "slots": 3}, core=True,
     twin="the twin takes the softmax itself, which is over the slots")  # fmt: skip

hand("clip-pooling", "ClipPool", {"x": noise(2, 4, 16)}, lambda out: out[:, 1],
     streams={"x": 4, "class_embedding": 1}, core=True)  # fmt: skip

hand("content-and-position", "ContentAndPosition", core=True)

hand("sigmoid-attention", "Sigmoid", refused="no softmax", why="weights that do not sum to 1", core=True)

hand("retention", "Retention", refused="no softmax", why="weights that do not sum to 1, and may be negative", core=True)
