"""Tiny random models of a hundred Hugging Face families, and what is known of each from its architecture.

`FAMILIES`: explained. `REFUSED`: no map can be right, the error says why. `OPEN`: ours to mend, shown as such in the docs.
Calls, streams and grids are written down from the configuration (layers, patches, query tokens), not from what we recorded.
"""

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

OUTSIDE: dict[str, set[str]] = {
    name: set(mixers)
    for mixers, names in {
        ("conv2d",): ("swin2sr", "sam-vision", "mobilevit", "levit", "segformer", "pvt-v2", "cvt"),
        ("conv1d",): ("data2vec-audio", "deberta-v2", "whisper", "lfm2", "wav2vec2-bert", "qwen2-audio",
                      "speech-to-text"),
        ("group_norm", "conv1d"): ("wav2vec2", "wavlm", "hubert", "unispeech", "unispeech-sat", "speecht5", "moonshine",
                                   "wav2vec2-conformer"),  # the first layer of the feature extractor: over time
        ("conv2d", "max_pool2d"): ("detr", "conditional-detr", "table-transformer", "dab-detr"),
        ("conv2d", "interpolate"): ("dpt", "depth-anything", "glpn"),
        ("conv2d", "interpolate", "group_norm"): ("maskformer",),  # the pixel decoder
        ("sum",): ("patchtst",),  # the series is brought to mean 0 and variance 1
        ("sum", "min"): ("timesfm",),  # the same, of the first patch that is not padding
        ("mul", "add"): ("clipseg",),  # FiLM: words over patches
        ("conv2d", "conv1d"): ("parakeet",),
        ("interpolate",): ("clap",),  # the spectrogram
        ("linear",): ("groupvit-vision",),  # a mixer over group tokens
        ("conv1d", "matmul"): ("convbert",),
        ("conv1d", "mul of different tokens"): ("jamba", "recurrent-gemma"),
    }.items()
    for name in names
}  # fmt: skip
"""Operations outside attention that mix tokens, by the models' papers: the receipt tells of them, and of no others."""

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
    made = getattr(handmade, model, None) or getattr(T, model)
    family = Family(name, group, model, lambda: made(configured()), inputs, target, **more)
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


# -- text encoders ----------------------------------------------------------------------------------------------------


def encoder(name: str, prefix: str, config: Mapping[str, Any] | None = None, *, mask: bool = True, **more: Any) -> None:
    """A classifier of six tokens with two layers, one call each."""
    config = {**L, **TX, **(config or {})} if more.pop("usual", True) else dict(config or {})
    kind = more.pop("model", prefix + "ForSequenceClassification")
    more = {"streams": ONE, **more}
    row(
        name,
        TEXT,
        kind,
        config,
        more.pop("inputs", None) or words(mask),
        more.pop("target", cls),
        prefix=prefix,
        **more,
    )


RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 8}
encoder("bert", "Bert", core=True)
encoder("roberta", "Roberta", {"pad_token_id": 1})
encoder("xlm-roberta", "XLMRoberta", {"pad_token_id": 1})
encoder("xlm-roberta-xl", "XLMRobertaXL", {"pad_token_id": 1})
encoder("camembert", "Camembert", {"pad_token_id": 1})
encoder("albert", "Albert", {"embedding_size": 8})
encoder("electra", "Electra", {"embedding_size": 8})
encoder("distilbert", "DistilBert", {
    **TX, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "num_labels": 3}, usual=False)  # fmt: skip
encoder("deberta", "Deberta", RELATIVE)
encoder("deberta-v2", "DebertaV2", {**RELATIVE, "position_buckets": 4, "conv_kernel_size": 3}, core=True)
encoder("mpnet", "MPNet")
encoder("funnel", "Funnel", {
    "vocab_size": 40, "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 16, "n_head": 2, "d_head": 8,
    "d_inner": 24, "num_labels": 3}, usual=False)  # fmt: skip
encoder("big-bird-full", "BigBird", {"attention_type": "original_full"})
encoder(
    "modernbert", "ModernBert", {"pad_token_id": 0, "local_attention": 4, "global_attn_every_n_layers": 2}, core=True
)
encoder("roformer", "RoFormer")
encoder("xlm", "XLM", {
    "vocab_size": 40, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "num_labels": 3,
    "max_position_embeddings": 32}, usual=False)  # fmt: skip
encoder("flaubert", "Flaubert", {
    "vocab_size": 40, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "num_labels": 3,
    "max_position_embeddings": 32}, usual=False)  # fmt: skip
encoder("xlnet", "XLNet", {
    "vocab_size": 40, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24, "num_labels": 3}, usual=False)  # fmt: skip
encoder("convbert", "ConvBert", {"embedding_size": 8, "head_ratio": 1, "conv_kernel_size": 3},
        twin="the twin takes the softmax of its convolution's kernel for a map, too")  # fmt: skip
encoder("squeezebert", "SqueezeBert", {"embedding_size": 16} | {
    f"{k}_groups": 1 for k in ("q", "k", "v", "post_attention", "intermediate", "output")})  # fmt: skip
encoder("mobilebert", "MobileBert", {"embedding_size": 8, "intra_bottleneck_size": 8, "true_hidden_size": 8}, core=True)
encoder("esm", "Esm", {"pad_token_id": 1, "mask_token_id": 4, "position_embedding_type": "rotary"})
encoder("ibert", "IBert")
encoder("rembert", "RemBert", {"input_embedding_size": 8, "output_embedding_size": 8})
encoder("megatron-bert", "MegatronBert")
encoder("ernie", "Ernie")
encoder("nomic-like-t5-encoder", "T5", T5, usual=False, model="T5EncoderModel", target=at("last_hidden_state", 1, 5))
encoder("data2vec-text", "Data2VecText", {"pad_token_id": 1})
encoder("layoutlm", "LayoutLM", {"max_2d_position_embeddings": 64}, inputs=words() | {
    "bbox": ids(2, 6, 4, high=30).sort(-1).values})  # fmt: skip
encoder("eurobert", "EuroBert", {"num_key_value_heads": 1, "pad_token_id": 0})
encoder("nomic-bert", "NomicBert", {"pad_token_id": 0})
encoder("xmod", "Xmod", {"pad_token_id": 1, "languages": ["en_XX"], "default_language": "en_XX"})
encoder("roberta-prelayernorm", "RobertaPreLayerNorm", {"pad_token_id": 1})
encoder("splinter", "Splinter", model="SplinterModel", target=pool)
encoder("luke", "Luke", {"pad_token_id": 1, "entity_vocab_size": 10, "entity_emb_size": 8})
encoder("bert-generation", "BertGeneration", {"pad_token_id": 0}, model="BertGenerationEncoder", target=pool)
encoder("jina-v3", "JinaEmbeddingsV3", {"pad_token_id": 1})
encoder("markuplm", "MarkupLM", {"pad_token_id": 0, "max_depth": 4, "xpath_unit_hidden_size": 4})
encoder("yoso", "Yoso", {"use_expectation": True, "pad_token_id": 0}, refused="no softmax",
        why="weights are chances of a hash collision")  # fmt: skip
encoder("mra", "Mra", {"block_per_row": 2, "pad_token_id": 0}, refused="no attention call",
        why="multi-resolution blocks, weighed without a softmax")  # fmt: skip
BOXES = {"bbox": ids(2, 6, 4, high=30).sort(-1).values}
encoder("layoutlmv3", "LayoutLMv3", {
    "max_2d_position_embeddings": 64, "coordinate_size": 2, "shape_size": 4, "input_size": 16, "patch_size": 4,
    "visual_embed": True, "pad_token_id": 1}, inputs={**words(mask=False), **picture(), **BOXES},
    streams={**ONE, "pixel_values": 16, "cls_token": 1}, grids={"pixel_values": (4, 4)})  # fmt: skip
encoder("longformer", "Longformer", {"attention_window": 4}, inputs={"input_ids": ids(2, 8)},
    refused="as_strided", why="windows that overlap in memory (as_strided) are not followed")  # fmt: skip
encoder("big-bird-sparse", "BigBird", {
    "max_position_embeddings": 128, "attention_type": "block_sparse", "block_size": 2, "num_random_blocks": 1},
    inputs={"input_ids": ids(2, 32)}, calls=10,
    refused="in several parts", why="block-sparse: one map is multiplied in slices, no call each")  # fmt: skip
encoder("nystromformer", "Nystromformer", {
    "num_landmarks": 2, "segment_means_seq_len": 6, "conv_kernel_size": 3}, mask=False,
    refused="mean", why="landmarks: queries and keys are means of several tokens")  # fmt: skip
encoder("fnet", "FNet", {
    **TX, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "num_labels": 3}, usual=False, mask=False,
    refused="no attention call", why="Fourier transforms, no attention", core=True)  # fmt: skip
encoder("canine", "Canine", {
    "max_position_embeddings": 32, "num_hash_buckets": 16, "num_hash_functions": 2, "downsampling_rate": 2,
    "local_transformer_stride": 4}, inputs={"input_ids": ids(2, 8), "attention_mask": torch.ones(2, 8).long()},
    refused="conv1d", why="characters are merged by a strided convolution")  # fmt: skip
encoder("reformer", "Reformer", {
    **TX, "attention_head_size": 8, "attn_layers": ["local", "lsh"], "axial_pos_embds": False, "hidden_size": 16,
    "num_attention_heads": 2, "feed_forward_size": 24, "num_labels": 3, "local_attn_chunk_length": 2,
    "lsh_attn_chunk_length": 2, "num_buckets": 2, "is_decoder": False}, usual=False, mask=False,
    refused="a token stands at several places",
    why="each head sorts the tokens by hashes of its own, so that no row of a call is one token's")  # fmt: skip

# -- decoders ---------------------------------------------------------------------------------------------------------


def decoder(name: str, stem: str, config: Mapping[str, Any], kind: str = "ForCausalLM", **more: Any) -> None:
    """Six tokens, two layers, the last token's logit."""
    inputs = more.pop("inputs", None) or words(more.pop("mask", True))
    row(name, DECODER, stem + kind, config, inputs, last, **{"streams": ONE, **more})


GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 40}
PLAIN = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LOCAL = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
decoder("gpt2", "GPT2", GPT, "LMHeadModel", core=True, prefix="GPT2")
decoder("llama", "Llama", KV, core=True)
decoder("mistral", "Mistral", {**KV, "sliding_window": 3}, core=True)
decoder("mixtral", "Mixtral", {**KV, "num_local_experts": 4, "num_experts_per_tok": 2})
decoder("gemma", "Gemma", KV)
decoder("gemma2", "Gemma2", {**KV, "query_pre_attn_scalar": 8, "sliding_window": 3})
decoder("gemma2-soft-cap", "Gemma2", {
    **KV, "query_pre_attn_scalar": 8, "sliding_window": 3, "attn_implementation": "eager",
    "attn_logit_softcapping": 1.0}, core=True)  # fmt: skip
decoder("gemma3", "Gemma3", {**KV, **LOCAL, "query_pre_attn_scalar": 8}, prefix="Gemma3Text")
decoder("qwen2", "Qwen2", GQA)
decoder("qwen2-moe", "Qwen2Moe", {**GQA, **MOE, "shared_expert_intermediate_size": 8})
decoder("qwen3", "Qwen3", KV)
decoder("qwen3-moe", "Qwen3Moe", {**KV, **MOE}, core=True)
decoder("gpt-neox", "GPTNeoX", MHA)
decoder("gpt-j", "GPTJ", {**GPT, "rotary_dim": 4})
decoder("gpt-neo", "GPTNeo", {
    "vocab_size": 40, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "window_size": 3,
    "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 32})  # fmt: skip
decoder("gpt-bigcode", "GPTBigCode", GPT)
decoder("opt", "OPT", {**PLAIN, "word_embed_proj_dim": 16, "ffn_dim": 24, "max_position_embeddings": 32})
decoder("bloom", "Bloom", {"vocab_size": 40, "hidden_size": 16, "n_layer": 2, "n_head": 2}, core=True)
decoder("falcon", "Falcon", PLAIN)
decoder("falcon-alibi", "Falcon", {**PLAIN, "alibi": True})
decoder("mpt", "Mpt", {"vocab_size": 40, "d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 32})
decoder("phi", "Phi", MHA)
decoder("phi3", "Phi3", GQA)
decoder("phi4-mini", "Phi3", {**GQA, "rope_parameters": {
    "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}})  # fmt: skip
decoder("stablelm", "StableLm", GQA)
decoder("starcoder2", "Starcoder2", GQA)
decoder("olmo", "Olmo", GQA)
decoder("olmo2", "Olmo2", GQA)
decoder("cohere", "Cohere", GQA)
decoder("granite", "Granite", GQA)
decoder("glm4", "Glm4", KV)
decoder("gpt-oss", "GptOss", {**KV, **LOCAL, "num_local_experts": 2, "num_experts_per_tok": 1}, core=True)
decoder("llama4", "Llama4", {
    **KV, "num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 24, "attention_chunk_size": 4},
    prefix="Llama4Text")  # fmt: skip
decoder("biogpt", "BioGpt", {**S, **TX})
decoder("codegen", "CodeGen", {**GPT, "n_embd": 32, "n_head": 4, "rotary_dim": 4})
decoder("xglm", "XGLM", {
    "vocab_size": 40, "d_model": 16, "ffn_dim": 24, "num_layers": 2, "attention_heads": 2,
    "max_position_embeddings": 32})  # fmt: skip
decoder("deepseek-v2", "DeepseekV2", DS)
decoder("deepseek-v3", "DeepseekV3", DS, core=True)
decoder("olmo3", "Olmo3", {**GQA, "sliding_window": 3})
decoder("olmoe", "Olmoe", {**GQA, **MOE})
decoder("dbrx", "Dbrx", {
    "d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 32, "vocab_size": 40,
    "attn_config": {"kv_n_heads": 1, "clip_qkv": 8, "rope_theta": 1e4},
    "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2}})  # fmt: skip
decoder("gemma3n", "Gemma3n", {
    **KV, **LOCAL, "vocab_size_per_layer_input": 40, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
    "laurel_rank": 4, "altup_num_inputs": 2}, prefix="Gemma3nText")  # fmt: skip
decoder("gemma4", "Gemma4", {
    **KV, **LOCAL, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 40, "num_global_key_value_heads": 1,
    "global_head_dim": 8, "num_kv_shared_layers": 0}, prefix="Gemma4Text")  # fmt: skip
decoder("cohere2", "Cohere2", {**GQA, **LOCAL})
decoder("granitemoe", "GraniteMoe", {**GQA, "num_local_experts": 4, "num_experts_per_tok": 2})
decoder("nemotron", "Nemotron", GQA)
decoder("smollm3", "SmolLM3", GQA)
decoder("exaone4", "Exaone4", {**GQA, **LOCAL})
decoder("ernie4-5", "Ernie4_5", KV)
decoder("helium", "Helium", KV)
decoder("persimmon", "Persimmon", MHA)
decoder("openai-gpt", "OpenAIGPT", GPT, "LMHeadModel", prefix="OpenAIGPT")
decoder("ctrl", "CTRL", {**GPT, "dff": 24}, "LMHeadModel", prefix="CTRL")
decoder("bitnet", "BitNet", GQA)
decoder("arcee", "Arcee", KV)
decoder("apertus", "Apertus", KV)
decoder("seed-oss", "SeedOss", KV)
decoder("phimoe", "Phimoe", {**GQA, "num_local_experts": 4, "num_experts_per_tok": 2})
decoder(
    "diffllama",
    "DiffLlama",
    {**KV, "num_attention_heads": 4, "num_key_value_heads": 2},
    calls=4,
    heads=((0, 1), (2, 3)),
)
decoder("ministral", "Ministral", {**KV, **LOCAL})
decoder("nanochat", "NanoChat", KV)
decoder("glm", "Glm", KV)
decoder("glm4-moe", "Glm4Moe", {**DS, **KV})
decoder("minicpm3", "MiniCPM3", DS)
decoder("modernbert-decoder", "ModernBertDecoder", {
    **MHA, "local_attention": 4, "global_attn_every_n_layers": 2})  # fmt: skip
decoder("lfm2", "Lfm2", {**GQA, "layer_types": ["conv", "full_attention"]}, calls=1, mixes="a short convolution")
decoder("recurrent-gemma", "RecurrentGemma", {
    **GQA, "block_types": ["recurrent", "attention"], "attention_window_size": 4, "lru_width": 16}, calls=1,
    mixes="a recurrent layer before attention")  # fmt: skip
NO_SOFTMAX = {"refused": "no softmax", "why": "linear attention or a state space: weights without a softmax"}
SSM = {"mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 4, "mamba_d_head": 8}
decoder("qwen3-next", "Qwen3Next", {
    **KV, **MOE, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
    "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 8}, **NO_SOFTMAX)  # fmt: skip
decoder("bamba", "Bamba", {**GQA, **SSM, "attn_layer_indices": [1], "mamba_n_heads": 4}, **NO_SOFTMAX)
decoder("falcon-h1", "FalconH1", {**KV, **SSM, "mamba_d_ssm": 16, "mamba_n_heads": 2}, **NO_SOFTMAX)
decoder("minimax", "MiniMax", {
    **KV, "num_local_experts": 2, "num_experts_per_tok": 1, "layer_types": ["linear_attention", "full_attention"],
    "block_size": 4}, **NO_SOFTMAX)  # fmt: skip
decoder("mamba2", "Mamba2", {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "num_heads": 4, "head_dim": 8,
    "n_groups": 1, "chunk_size": 4}, **NO_SOFTMAX)  # fmt: skip
decoder("rwkv", "Rwkv", {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16,
    "intermediate_size": 24}, mask=False, refused="no attention call", why="a recurrent network, no attention")  # fmt: skip
decoder("mamba", "Mamba", {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}, mask=False,
    refused="no attention call", why="a state space, no attention")  # fmt: skip
decoder("jamba", "Jamba", {
    **GQA, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4,
    }, calls=1, mixes="a Mamba layer before attention")  # fmt: skip

# -- encoder-decoders -------------------------------------------------------------------------------------------------


def seq2seq(name: str, stem: str, config: Any, kind: str = "ForConditionalGeneration", **more: Any) -> None:
    """Two encoder calls; in the decoder's two layers one self and one cross call each."""
    inputs = words() | {"decoder_input_ids": ids(2, 4, seed=5)}
    usual = {"calls": 6, "streams": {**ONE, "decoder_input_ids": 4}}
    row(name, SEQ2SEQ, stem + kind, config, more.pop("inputs", inputs), more.pop("target", last), **usual | more)


BART32 = {**BART, "max_position_embeddings": 32}
SAME_IDS = {"streams": ONE, "target": cls, "inputs": {"input_ids": ended()}}
LABELS = {"inputs": words() | {"labels": ids(2, 4, seed=9)}, "streams": {**ONE, "labels": 4}}
seq2seq("t5", "T5", T5, core=True)
seq2seq("t5-labels", "T5", T5, **LABELS)
seq2seq("mt5", "MT5", T5)
seq2seq("mt5-classifier", "MT5", {**T5, "num_labels": 3, "eos_token_id": 39}, "ForSequenceClassification", **SAME_IDS)
seq2seq("umt5", "UMT5", T5)
seq2seq("bart", "Bart", BART32, core=True)
seq2seq("bart-labels", "Bart", BART32, **LABELS, core=True)
seq2seq(
    "bart-classifier", "Bart", {**BART32, "num_labels": 3, "eos_token_id": 39}, "ForSequenceClassification", **SAME_IDS
)
seq2seq("mbart", "MBart", BART32)
seq2seq("pegasus", "Pegasus", BART32)
seq2seq("marian", "Marian", {**BART32, "pad_token_id": 0, "decoder_start_token_id": 0}, "MTModel", prefix="Marian")
seq2seq("m2m-100", "M2M100", BART32)
seq2seq("blenderbot", "Blenderbot", BART32)
seq2seq("prophetnet", "ProphetNet", {
    "vocab_size": 40, "hidden_size": 16, "encoder_ffn_dim": 24, "num_encoder_layers": 1,
    "num_encoder_attention_heads": 2, "decoder_ffn_dim": 24, "num_decoder_layers": 1, "num_decoder_attention_heads": 2,
    "ngram": 2, "num_buckets": 4, "relative_max_distance": 8, "max_position_embeddings": 32}, calls=4,
    streams={**ONE, "decoder_input_ids": 4, "decoder.position_embeddings": 32},
    dead={1: "the last layer's main stream is not read"})  # fmt: skip
seq2seq("switch-transformers", "SwitchTransformers", {
    **T5, "num_experts": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
    "num_decoder_layers": 2}, twin="the twin takes the router's softmax for a map, too")  # fmt: skip
seq2seq("longt5-local", "LongT5", {**T5, "local_radius": 2, "encoder_attention_type": "local"})
seq2seq("longt5-global", "LongT5", {
    **T5, "local_radius": 2, "global_block_size": 2, "encoder_attention_type": "transient-global"})  # fmt: skip
seq2seq("fsmt", "FSMT", {
    **{k: v for k, v in BART32.items() if k != "vocab_size"}, "langs": ["a", "b"], "src_vocab_size": 40,
    "tgt_vocab_size": 40})  # fmt: skip
seq2seq("nllb-moe", "NllbMoe", {
    **BART32, "num_experts": 2, "encoder_sparse_step": 2, "decoder_sparse_step": 2, "expert_capacity": 64})  # fmt: skip
seq2seq("mvp", "Mvp", BART32)
seq2seq("plbart", "PLBart", BART32)
seq2seq("bigbird-pegasus", "BigBirdPegasus", {**BART32, "attention_type": "original_full"})
seq2seq("pegasus-x", "PegasusX", {**BART32, "num_global_tokens": 2, "block_size": 4}, refused="in several parts",
        why="one map over global and local keys is multiplied in slices, no call each")  # fmt: skip
T5GEMMA = {**KV, **LOCAL, "query_pre_attn_scalar": 8}
seq2seq("t5gemma", "T5Gemma", lambda: T.T5GemmaConfig(
    encoder=T5GEMMA, decoder={**T5GEMMA, "cross_attention_hidden_size": 16, "is_decoder": True}, vocab_size=40))  # fmt: skip
seq2seq("encoder-decoder", "EncoderDecoder", lambda: T.EncoderDecoderConfig.from_encoder_decoder_configs(
    T.BertConfig(**S, **TX), T.BertConfig(**S, **TX, is_decoder=True, add_cross_attention=True)), "Model")  # fmt: skip
seq2seq("led", "LED", {**BART, "attention_window": 4}, refused="as_strided",
    why="windows that overlap in memory (as_strided) are not followed")  # fmt: skip

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
