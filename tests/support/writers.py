"""Tiny random models that write text, saved with a real tokenizer or processor: what the tests of generations share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as T
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXTS = ["who has the key ? what is in the picture ? a cat sits on the mat . user assistant system"] * 3
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
SPECIAL = ["<|turn|>", "<|end|>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
IDS = {"vocab_size": 400, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**IDS, **SMALL, "num_key_value_heads": 2, "max_position_embeddings": 96, "initializer_range": 0.3}
VISION = {**SMALL, "hidden_size": 16, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
SIZE = {"height": 16, "width": 16}


def tokenizer(**more: Any) -> Any:
    """Byte-level, so that every text can be read and written; 400 ids at most."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", *SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "additional_special_tokens": SPECIAL}
    return T.PreTrainedTokenizerFast(tokenizer_object=made, **names, **more)


def _text(model: Any) -> tuple[Any, Any]:
    return model, tokenizer(chat_template=CHAT)


def llama() -> tuple[Any, Any]:
    return _text(T.LlamaForCausalLM(T.LlamaConfig(**LLAMA)))


def qwen2() -> tuple[Any, Any]:
    return _text(T.Qwen2ForCausalLM(T.Qwen2Config(**LLAMA)))


def gpt2() -> tuple[Any, Any]:
    config = T.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=48, initializer_range=0.3, **IDS)
    return _text(T.GPT2LMHeadModel(config))


def t5() -> tuple[Any, Any]:
    start = {"decoder_start_token_id": 1}
    config = T.T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, **IDS, **start)
    model = T.T5ForConditionalGeneration(config)
    return _text(model)


def bart() -> tuple[Any, Any]:
    heads = {f"{s}_{w}": n for s in ("encoder", "decoder") for w, n in (("layers", 2), ("attention_heads", 4))}
    width = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 48}
    config = T.BartConfig(**heads, **width, **IDS, decoder_start_token_id=2, forced_eos_token_id=None, init_std=0.3)
    return _text(T.BartForConditionalGeneration(config))


def llava() -> tuple[Any, Any]:
    read = tokenizer()
    place = read.convert_tokens_to_ids("<image>")
    both = {"text_config": T.LlamaConfig(**LLAMA), "vision_config": T.CLIPVisionConfig(**VISION)}
    model = T.LlavaForConditionalGeneration(T.LlavaConfig(**both, image_token_index=place, vision_feature_layer=-1))
    pictures = T.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=SIZE)
    places = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return model, T.LlavaProcessor(pictures, read, **places, image_token="<image>", chat_template=CHAT)


def paligemma() -> tuple[Any, Any]:
    """Its prompt is read in both directions, what it writes is not."""
    read = tokenizer()
    read.image_token, read.image_token_id = "<image>", read.convert_tokens_to_ids("<image>")
    config = T.PaliGemmaConfig(
        text_config=T.GemmaConfig(**LLAMA),
        vision_config=T.SiglipVisionConfig(**VISION, vision_use_head=False),
        image_token_index=read.image_token_id,
        projection_dim=32,
    )
    pictures = T.SiglipImageProcessorPil(size=SIZE)
    pictures.image_seq_length = 16
    return T.PaliGemmaForConditionalGeneration(config), T.PaliGemmaProcessor(pictures, read)


def idefics3() -> tuple[Any, Any]:
    """Four patches make one place of the picture."""
    read = tokenizer()
    place = read.convert_tokens_to_ids("<image>")
    config = T.Idefics3Config(
        text_config=T.LlamaConfig(**LLAMA), vision_config=VISION, scale_factor=2, image_token_id=place
    )
    edge = {"longest_edge": 16}
    pictures = T.Idefics3ImageProcessorPil(do_image_splitting=False, size=edge, max_image_size=edge)
    return T.Idefics3ForConditionalGeneration(config), T.Idefics3Processor(pictures, read, image_seq_len=4)


WRITERS = {f.__name__: f for f in (llama, qwen2, gpt2, t5, bart, llava, paligemma, idefics3)}
BESIDE, SEEING = ("t5", "bart"), ("llava", "paligemma", "idefics3")


def save(name: str, folder: Path) -> Path:
    """Build a model with fixed weights and save it with its tokenizer or processor."""
    state = torch.get_rng_state()
    torch.manual_seed(3)
    model, processor = WRITERS[name]()
    torch.set_rng_state(state)
    if name == "t5":  # its own initialisation leaves all outputs as good as equal
        for p in model.parameters():
            p.data.mul_(3) if p.ndim > 1 else None
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
