"""Models of texts: encoders, decoders, and both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers as T

from support.sweep.base import (
    BART,
    DECODER,
    DS,
    GQA,
    KV,
    MHA,
    ONE,
    SEQ2SEQ,
    T5,
    TEXT,
    TX,
    L,
    S,
    at,
    cls,
    ended,
    last,
    picture,
    pool,
    row,
    words,
)
from support.tiny import ids

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
