"""Tiny models that write, with a template for chats."""

from __future__ import annotations

from typing import Any

import torch
import transformers as T
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

import regard
from support.tiny import strong

torch.set_num_threads(1)

WORDS = ["is", "it", "hot", "?", "yes", "no", ".", "very", "le", "chat", "dort", "the", "cat", "sleeps"]
WORDS += ["safe", "unsafe", "verdict", "JSON"]

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]

CHATML = (
    "{% if tools %}<|system|> {{ tools | tojson }} <|end|> {% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% if enable_thinking is defined %}very {% endif %}{% endif %}"
)

GUARD = "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <|end|> {% endfor %}verdict safe or unsafe : "

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}

USER = {"role": "user", "content": "is it hot ?"}

ANSWER = {"role": "assistant", "content": "yes ."}


def tokenizer(template: str | None = CHATML, around: str = "$A") -> Any:
    """Whole words; `around`: what it puts around a text of its own accord."""
    known = [*SPECIAL, *WORDS]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single=around, special_tokens=[("<s>", 2), ("</s>", 3)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    out = T.PreTrainedTokenizerFast(tokenizer_object=made, **names, extra_special_tokens=SPECIAL[4:])
    out.chat_template = template
    return out


def llama(head: str = "LlamaForCausalLM", **more: Any) -> nn.Module:
    config = T.LlamaConfig(vocab_size=len(SPECIAL + WORDS), pad_token_id=0, eos_token_id=None, **SMALL, **more)
    return strong(getattr(T, head)(config))


class Verifier(nn.Module):
    """A head of one's own on a decoder, as people train them: the score of the last token."""

    def __init__(self) -> None:
        super().__init__()
        self.body = llama("LlamaModel")
        self.score = nn.Linear(16, 1)

    def forward(self, input_ids, attention_mask=None):
        return self.score(self.body(input_ids, attention_mask).last_hidden_state[:, -1])


def writer(template: str = CHATML) -> Any:
    return regard.load(llama(), processor=tokenizer(template))


def shown(reader: Any, chat: Any) -> str:
    return reader.read(chat).raw["input_ids"][0].text


# -- what a decoder begins with ---------------------------------------------------------------------------------------


def t5(**more: Any) -> Any:
    small = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = T.T5Config(vocab_size=len(SPECIAL + WORDS), decoder_start_token_id=0, eos_token_id=None, **small)
    model = strong(T.T5ForConditionalGeneration(config))
    model.generation_config.update(**more)
    return regard.load(model, processor=tokenizer())


def bart() -> Any:
    heads = {f"{s}_{w}": n for s in ("encoder", "decoder") for w, n in (("layers", 1), ("attention_heads", 2))}
    width = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 40}
    ends = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    config = T.BartConfig(vocab_size=len(SPECIAL + WORDS), forced_eos_token_id=None, **heads, **width, **ends)
    return regard.load(strong(T.BartForConditionalGeneration(config)), processor=tokenizer())


def donut(folder_name: str = "donut-swin") -> Any:
    """A reader of documents: an encoder of pictures, and a decoder that is told its task."""
    if folder_name == "donut-swin":
        small = {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 2}
        encoder = T.DonutSwinConfig(**small)
    else:
        encoder = T.ViTConfig(image_size=16, patch_size=4, **SMALL)
    width = {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
    decoder = T.TrOCRConfig(vocab_size=len(SPECIAL + WORDS), max_position_embeddings=30, **width)
    config = T.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id = config.pad_token_id = 0
    model = T.VisionEncoderDecoderModel(config)
    model.generation_config.update(decoder_start_token_id=0, eos_token_id=None)
    pictures = T.ViTImageProcessorPil(size={"height": 16, "width": 16})
    return regard.load(strong(model), processor=T.TrOCRProcessor(pictures, tokenizer()))


def plain(reader: Any, g: Any, **more: Any) -> list[int]:
    """What the model itself writes from the same, made by hand."""
    inputs = {k: v for k, v in reader.read(more.pop("raw", "the cat sleeps")).inputs.items() if "decoder" not in k}
    return reader.model.generate(**inputs, **more, do_sample=False, num_beams=1)[0].tolist()
