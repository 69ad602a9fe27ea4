"""What `same_maps.py` explains: tiny random models of many families, made here, and the zoo with samples of its own.

`CASES[name]()` makes a `Case`. Weights and inputs are drawn from fixed seeds, two samples each; texts are padded at their
end. A family is here for what its run does (object queries, windows, tokens that merge, ids that are shifted, grouped heads,
a picture inside a prompt), not for its fame.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # of this tree, whichever tree's library is asked

import torch
import torch.nn.functional as F
import transformers as T
from torch import Tensor, nn

import regard
from regard import Target, zoo
from support import tiny
from support.tiny import noise, strong

Targets = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """A model, its inputs, what is explained of it, further targets, and further calls, each by its name."""

    model: nn.Module
    inputs: Any
    target: Any = None
    targets: Targets = field(default_factory=dict)
    more: Mapping[str, Callable[[], Any]] = field(default_factory=dict)


CASES: dict[str, Callable[[], Case]] = {}

# -- weights and inputs -----------------------------------------------------------------------------------------------


ids = partial(tiny.ids, high=38)


MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
WORDS = {"input_ids": ids(2, 6), "attention_mask": MASK}
PICTURE = {"pixel_values": noise(2, 3, 16, 16)}
ENDED = torch.cat([ids(2, 5), torch.full((2, 1), 39)], 1)
BOTH = {"input_ids": ENDED, "attention_mask": torch.ones(2, 6).long(), **PICTURE}
UNMASKED = {"input_ids": ENDED, **PICTURE}
ANSWER = {"decoder_input_ids": ids(2, 4, seed=5)}

# -- what is explained ------------------------------------------------------------------------------------------------

CLASSES: Targets = {
    "logit, predicted": None,
    "logit, one a sample": torch.tensor([0, 2]),
    "probability": Target.probability(1),
    "log-probability": Target.log_probability(2),
    "contrast": Target.contrast(1, 0),
    "contrast with the best other": Target.contrast(),
}
TOKENS: Targets = {
    "next token, predicted": Target.next_token(),
    "next token, at 2": Target.next_token(7, position=2),
    "probability": Target.probability(7, position=-1),
    "contrast": Target.contrast(7, 8, position=-1),
}
OBJECTS: Targets = {"detection, predicted": Target.detection(0), "detection": Target.detection(2, 0)}
PAIRS: Targets = {"similarity": Target.similarity(), "similarity with text 1": Target.similarity(1)}
SPANS: Targets = {"span": Target.span(1, 3)}
REGIONS: Targets = {"region": Target.region((torch.arange(64) % 3 == 0).view(8, 8), 1)}


def at(name: str, *index: Any) -> Target:
    """out[name][:, *index]"""
    return Target.of(lambda out: out[name][(slice(None), *index)], name)


FIRST = at("last_hidden_state", 0, 1)

# -- families ---------------------------------------------------------------------------------------------------------

S = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
L = {**S, "num_labels": 3}
TX = {"vocab_size": 40, "max_position_embeddings": 32}
TEXT = {**L, **TX}
IM = {"image_size": 16, "patch_size": 4}
LM = {**S, **TX, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BART = {
    "vocab_size": 40, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}  # fmt: skip
T5 = {
    "vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "pad_token_id": 0,
    "decoder_start_token_id": 0}  # fmt: skip
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 40}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4,
        "num_labels": 3}  # fmt: skip
CLIP_TEXT = {**S, "vocab_size": 40, "max_position_embeddings": 16}
CLIP = {"text_config": {**CLIP_TEXT, "eos_token_id": 39, "bos_token_id": 1}, "vision_config": {**S, **IM}}
BLIP = {
    "text_config": {**CLIP_TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2,
                    "encoder_hidden_size": 16, "projection_dim": 8},
    "vision_config": {**S, **IM}, "projection_dim": 8, "image_text_hidden_size": 8}  # fmt: skip
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 8}
SPEECH = {"conv_dim": (8, 8), "conv_stride": (4, 2), "conv_kernel": (4, 2), "num_conv_pos_embeddings": 4,
          "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 2}  # fmt: skip
PYRAMID = {"hidden_sizes": [8, 8], "depths": [1, 1], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2],
           "strides": [2, 2], "num_encoder_blocks": 2, "num_labels": 3, "sr_ratios": [2, 1],
           "patch_sizes": [3, 3]}  # fmt: skip
MAE = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
       "decoder_intermediate_size": 24}  # fmt: skip


def resnet() -> Any:
    return T.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], out_features=["stage2"], layer_type="basic"
    )


def detr() -> dict[str, Any]:
    kept = {k: v for k, v in BART.items() if k != "vocab_size"}
    return {**kept, "encoder_layers": 1, "num_queries": 3, "num_labels": 3, "backbone": None, "use_timm_backbone": False,
            "use_pretrained_backbone": False, "backbone_config": resnet()}  # fmt: skip


def llava() -> Any:
    return T.LlavaConfig(
        text_config=T.LlamaConfig(**LM, num_key_value_heads=1, head_dim=8),
        vision_config=T.CLIPVisionConfig(**S, **IM),
        image_token_index=39,
        vision_feature_layer=-1,
    )


def with_picture() -> dict[str, Tensor]:
    """A prompt with 16 places that the picture's features fill."""
    prompt = torch.cat([ids(2, 2), torch.full((2, 16), 39), ids(2, 3, seed=4)], 1)
    return {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), **PICTURE}


def family(name: str, model: str, config: Any, inputs: Any, target: Any = 1, targets: Targets | None = None) -> None:
    """Add one of Transformers' models; `config`: the keywords of its configuration, or a function that makes one."""

    def make() -> Case:
        made = getattr(T, model)
        configured = config() if callable(config) else made.config_class(**config)
        return Case(strong(made(configured)), inputs, target, targets or {})

    CASES[name] = make


def classifiers() -> None:
    text, picture = "ForSequenceClassification", "ForImageClassification"
    family("bert", "Bert" + text, TEXT, WORDS, 1, CLASSES)
    family("roberta", "Roberta" + text, {**TEXT, "pad_token_id": 1}, WORDS)
    family("albert", "Albert" + text, {**TEXT, "embedding_size": 8}, WORDS)
    family("electra", "Electra" + text, {**TEXT, "embedding_size": 8}, WORDS)
    family("distilbert", "DistilBert" + text, {
        **TX, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "num_labels": 3}, WORDS)  # fmt: skip
    family("deberta", "Deberta" + text, {**TEXT, **RELATIVE}, WORDS)
    family("deberta-v2", "DebertaV2" + text, {**TEXT, **RELATIVE, "position_buckets": 4, "conv_kernel_size": 3}, WORDS)
    family("bert-answers", "BertForQuestionAnswering", {**S, **TX}, WORDS, Target.span(0, 2), SPANS)
    family("vit", "ViT" + picture, {**L, **IM}, PICTURE, 1, CLASSES)
    family("deit", "DeiT" + picture, {**L, **IM}, PICTURE)
    family("swin", "Swin" + picture, SWIN, PICTURE, 1, CLASSES)
    family("dinov2", "Dinov2WithRegisters" + picture, {**L, **IM, "num_register_tokens": 3}, PICTURE)
    family("mae", "ViTMAEForPreTraining", {**S, **IM, **MAE}, PICTURE | {"noise": noise(2, 16)}, at("logits", 3, 1))
    family("segformer", "Segformer" + picture, PYRAMID, PICTURE)
    family("segformer-dense", "SegformerForSemanticSegmentation", {**PYRAMID, "decoder_hidden_size": 8}, PICTURE,
           at("logits", 1, 2, 3), REGIONS)  # fmt: skip
    family("vivit", "VivitForVideoClassification", {
        **L, "image_size": 8, "num_frames": 4, "tubelet_size": [2, 4, 4]}, {
            "pixel_values": noise(2, 4, 3, 8, 8)})  # fmt: skip
    family("wav2vec2", "Wav2Vec2" + text, {**L, **SPEECH, "vocab_size": 20, "classifier_proj_size": 8}, {
        "input_values": noise(2, 64)})  # fmt: skip


def writers() -> None:
    causal, conditional = "ForCausalLM", "ForConditionalGeneration"
    last, answer = Target.next_token(7), WORDS | ANSWER
    family("gpt2", "GPT2LMHeadModel", GPT, WORDS, last, TOKENS)
    family("llama", "Llama" + causal, {**LM, "num_key_value_heads": 1, "head_dim": 8}, WORDS, last, TOKENS)
    family("mistral", "Mistral" + causal, {**LM, "num_key_value_heads": 1, "sliding_window": 3}, WORDS, last)
    family("qwen2", "Qwen2" + causal, {**LM, "num_key_value_heads": 1}, WORDS, last)
    family("t5", "T5" + conditional, T5, answer, last, TOKENS)
    family("bart", "Bart" + conditional, {**BART, "max_position_embeddings": 32}, answer, last)
    family("bart-classifier", "BartForSequenceClassification", {
        **BART, "max_position_embeddings": 32, "num_labels": 3, "eos_token_id": 39}, {"input_ids": ENDED})  # fmt: skip
    family("whisper", "Whisper" + conditional, {
        **BART, "num_mel_bins": 4, "max_source_positions": 6, "max_target_positions": 16, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}, {
            "input_features": noise(2, 4, 12), **ANSWER}, last)  # fmt: skip
    family("llava", "Llava" + conditional, llava, with_picture(), last, TOKENS)


def several_streams() -> None:
    regions = WORDS | {"visual_feats": noise(2, 4, 8), "visual_pos": noise(2, 4, 4).abs()}
    family("lxmert", "LxmertForQuestionAnswering", {
        "vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "l_layers": 1,
        "x_layers": 2, "r_layers": 1, "visual_feat_dim": 8, "visual_pos_dim": 4, "num_qa_labels": 3}, regions,
        Target.logit(1, output="question_answering_score"), {
            "contrast": Target.contrast(1, 0, output="question_answering_score")})  # fmt: skip
    family("vilt", "ViltForQuestionAnswering", {**L, **TX, **IM}, BOTH, 1, CLASSES)
    family("visualbert", "VisualBertModel", {**S, **TX, "visual_embedding_dim": 8},
           WORDS | {"visual_embeds": noise(2, 4, 8)}, FIRST)  # fmt: skip
    family("clip", "CLIPModel", {**CLIP, "projection_dim": 8}, BOTH, Target.similarity(), PAIRS)
    family("siglip", "SiglipModel", {"text_config": CLIP_TEXT, "vision_config": {**S, **IM}}, UNMASKED,
           Target.similarity(), PAIRS)  # fmt: skip
    family("blip", "BlipForImageTextRetrieval", BLIP, BOTH, at("itm_score", 1))
    family("blip-caption", "BlipForConditionalGeneration", BLIP, BOTH, Target.next_token(7))
    family("detr", "DetrForObjectDetection", lambda: T.DetrConfig(**detr()), {"pixel_values": noise(2, 3, 32, 48)},
           Target.detection(1, 0), OBJECTS)  # fmt: skip
    family("yolos", "YolosForObjectDetection", {**L, "image_size": [16, 16], "patch_size": 4, "num_detection_tokens": 3},
           PICTURE, Target.detection(1, 0), OBJECTS)  # fmt: skip
    family("perceiver", "PerceiverForSequenceClassification", {
        "num_latents": 3, "d_latents": 16, "d_model": 16, "num_blocks": 1, "num_self_attends_per_block": 2,
        "num_self_attention_heads": 2, "num_cross_attention_heads": 2, "vocab_size": 40, "max_position_embeddings": 6,
        "num_labels": 3, "qk_channels": 16, "v_channels": 16}, {
            "inputs": ids(2, 6), "attention_mask": MASK})  # fmt: skip


classifiers()
writers()
several_streams()

# -- no library -------------------------------------------------------------------------------------------------------


class TorchEncoder(nn.Module):
    """nn.TransformerEncoder over features, its own fast path and all, and a head on the first row."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, src: Tensor, hidden: Tensor) -> Tensor:
        """Logits (batch, 3)."""
        return self.head(self.encoder(src, src_key_padding_mask=hidden)[:, 0])


class WrittenOut(nn.Module):
    """Two residual layers of attention by matrix products and a softmax, and a head on the first row."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 48) for _ in range(2))
        self.outs = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, 3)."""
        for layer, out in zip(self.layers, self.outs, strict=True):
            q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in layer(x).chunk(3, -1))
            x = F.layer_norm(x + out(self.attention(q, k, v).transpose(1, 2).flatten(2)), (16,))
        return self.head(x[:, 0])

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What one layer reads, by heads."""
        return torch.softmax(q @ k.transpose(-1, -2) * 8**-0.5, -1) @ v


class Einsum(WrittenOut):
    """The same by einsum, with the keys on the left."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What one layer reads, by heads."""
        weights = torch.softmax(torch.einsum("bhmd,bhnd->bhmn", k, q) * 8**-0.5, 2)
        return torch.einsum("bhmn,bhmd->bhnd", weights, v)


def by_hand(make: Callable[[], nn.Module], inputs: Any, std: float = 0.3) -> Callable[[], Case]:
    return lambda: Case(strong(make(), std), inputs, 1, CLASSES)


HIDDEN = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
CASES["torch-encoder"] = by_hand(TorchEncoder, {"src": noise(2, 5, 16), "hidden": HIDDEN}, std=0.15)
CASES["written-out"] = by_hand(WrittenOut, noise(2, 5, 16))
CASES["einsum"] = by_hand(Einsum, noise(2, 5, 16))

# -- the zoo ----------------------------------------------------------------------------------------------------------


def zoo_vit() -> Case:
    reader, scenes = regard.load("zoo/vit-scenes"), zoo.scenes()
    raw, labels = list(scenes.images[:2]), scenes.labels[:2, 0]
    path, IG = zoo.demo_scene(), {"method": "integrated_gradients", "steps": 4}
    more = {
        "reader, a file": lambda: reader.explain(path),
        "reader, a label": lambda: reader.explain(path, reader.labels[0], against=reader.labels[1]),
        "reader, black": lambda: reader.explain(raw, baseline="black", **IG),
        "reader, white": lambda: reader.explain(raw, baseline="white", **IG),
        "reader, blur": lambda: reader.explain(raw, baseline="blur:8", **IG),
        "reader, a block": lambda: reader.explain(raw, baseline="zero:local", site="block[1]", **IG),
    }
    return Case(reader.model, dict(reader.read(raw).inputs), labels, CLASSES, more)


def zoo_bert() -> Case:
    reader, sentences = regard.load("zoo/bert-sentiment"), [s.text for s in zoo.sentences()[:3]]
    more = {
        f"reader, {baseline}": lambda baseline=baseline: reader.explain(
            sentences, reader.labels[0], "integrated_gradients", baseline=baseline, steps=4
        )
        for baseline in ("zero", "mask", "pad")
    }
    targets = {"predicted": None, "probability": Target.probability(0), "contrast": Target.contrast(1, 0)}
    return Case(reader.model, dict(reader.read(sentences).inputs), 1, targets, more)


def zoo_llama() -> Case:
    reader, facts = regard.load("zoo/llama-facts"), zoo.facts(3)
    prompts, (one, *_) = [f.prompt for f in facts], facts
    more = {
        "reader, a word": lambda: reader.explain(one.prompt, one.answer, against=one.distractor),
        "generation": lambda: reader.explain_generation(one.prompt, 2),
        "generation, contrast": lambda: reader.explain_generation(one.prompt, 2, "input_x_gradient", "contrast"),
        "writing": lambda: reader.explain_writing(one.prompt, one.answer, method="taylor"),
        "writing, against": lambda: reader.explain_writing(one.prompt, one.answer, one.distractor).whole,
    }
    targets = {name: target for name, target in TOKENS.items() if name != "next token, at 2"}  # padding, in one of them
    return Case(reader.model, dict(reader.read(prompts).inputs), Target.next_token(), targets, more)


def zoo_lxmert() -> Case:
    reader, questions = regard.load("zoo/lxmert-scenes"), zoo.questions()
    texts = list(questions.texts[:3])
    words = T.AutoTokenizer.from_pretrained(zoo.folder("zoo/lxmert-scenes"))(
        texts, padding=True, return_tensors="pt", return_token_type_ids=False
    )
    seen = {name: t[:3] for name, t in questions.inputs().items()}
    scene = int(questions.scene[0])
    asked, boxes = (questions.images[scene], texts[0]), questions.boxes[scene]
    more = {
        "reader": lambda: reader.explain(asked, regions=boxes),
        "reader, heterogenous": lambda: reader.explain(asked, None, "heterogenous", regions=boxes),
    }
    output = "question_answering_score"
    targets = {"probability": Target.probability(output=output), "contrast": Target.contrast(output=output)}
    return Case(reader.model, {**words, **seen}, Target.logit(output=output), targets, more)


def zoo_detr() -> Case:
    reader, raw = regard.load("zoo/detr-scenes"), list(zoo.detections().images[:2])
    inputs = dict(reader.read(raw).inputs)
    with torch.no_grad():
        likeliest = reader.model(**inputs).logits[..., :-1].amax(-1).argmax(-1)
    more = {
        "reader": lambda: reader.explain(raw[0]),
        "reader, odam": lambda: reader.explain(raw[0], None, "odam", threshold=0.3),
    }
    return Case(reader.model, inputs, Target.detection(likeliest), OBJECTS, more)


CASES |= {
    "zoo-vit": zoo_vit,
    "zoo-bert": zoo_bert,
    "zoo-llama": zoo_llama,
    "zoo-lxmert": zoo_lxmert,
    "zoo-detr": zoo_detr,
}
