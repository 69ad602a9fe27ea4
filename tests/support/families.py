"""Tiny random models of many families, and what is known of each from its paper and not from our code.

`CASES[name]()` builds a `Case`: the model, its inputs, a target, the streams, and the *structure* that the twins need: the
joint state (streams side by side) and, call by call, which of its rows look at which. Weights are drawn large enough that
attention is far from uniform and gradients are far from zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.tiny import ids, noise, strong

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

BATCH = 2
CLASSES = 3


@dataclass
class Case:
    """A model and what is known about it.

    Attributes:
        joint: (stream, tokens) side by side: the joint state. A stream with a dot-less name that is in `born` comes from a
            parameter. steps: calls that act in turn; the calls of one step, (query streams, key streams) each, read the
            same old state. final: streams among whose rows the read-out is (the query streams of the last call).
        row: the row of `final` that is read, one a sample, or None where several rows are, by the norm of dO.
        hidden: stream -> bool (batch, tokens), padding.
        embeddings: id stream -> the module whose output is its word embeddings.
        kernel_exact: whether the issue demands bit-identical outputs.
    """

    model: nn.Module
    inputs: Any
    target: Callable[[Any], Tensor]
    joint: list[tuple[str, int]]
    steps: list[list[tuple[tuple[str, ...], tuple[str, ...]]]]
    final: tuple[str, ...]
    row: Sequence[int] | None
    grid: dict[str, tuple[int, int]] = field(default_factory=dict)
    born: tuple[str, ...] = ()
    hidden: dict[str, Tensor] = field(default_factory=dict)
    embeddings: dict[str, nn.Module] = field(default_factory=dict)
    bit_identical: bool = False
    permuted: bool = False

    @property
    def streams(self) -> dict[str, int]:
        return dict(self.joint)

    @property
    def calls(self) -> int:
        return sum(len(s) for s in self.steps)


def logit(c: int) -> Callable[[Any], Tensor]:
    return lambda out: (out if isinstance(out, Tensor) else out["logits"])[:, c]


SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_labels": CLASSES,
}
IMAGE: dict[str, Any] = {"image_size": 16, "patch_size": 4}


def alone(name: tuple[str, ...], calls: int) -> list[list[tuple[tuple[str, ...], tuple[str, ...]]]]:
    """A single state that looks at itself, call after call."""
    return [[(name, name)]] * calls


# -- pictures ---------------------------------------------------------------------------------------------------------


def picture_case(
    model: nn.Module,
    born: Sequence[tuple[str, int]],
    *,
    row: int | None = 0,
    grid: tuple[int, int] = (4, 4),
    **more: Any,
) -> Case:
    joint = [*born, ("pixel_values", grid[0] * grid[1])]
    names = tuple(n for n, _ in joint)
    return Case(
        strong(model),
        {"pixel_values": noise(BATCH, 3, 4 * grid[0], 4 * grid[1])},
        logit(1),
        joint,
        alone(names, 2),
        names,
        None if row is None else [row] * BATCH,
        grid={"pixel_values": grid},
        born=tuple(n for n, _ in born),
        **more,
    )


def vit() -> Case:
    config = transformers.ViTConfig(**SMALL, **IMAGE)
    return picture_case(transformers.ViTForImageClassification(config), [("cls_token", 1)], bit_identical=True)


def vit_wide() -> Case:
    """A picture that is no square."""
    config = transformers.ViTConfig(**SMALL, image_size=(8, 20), patch_size=4)
    model = transformers.ViTForImageClassification(config)
    return picture_case(model, [("cls_token", 1)], grid=(2, 5), bit_identical=True)


def deit() -> Case:
    config = transformers.DeiTConfig(**SMALL, **IMAGE)
    born = [("cls_token", 1), ("distillation_token", 1)]
    return picture_case(transformers.DeiTForImageClassification(config), born)


def beit() -> Case:
    config = transformers.BeitConfig(**SMALL, **IMAGE, layer_scale_init_value=1.0, use_relative_position_bias=True)
    return picture_case(transformers.BeitForImageClassification(config), [("cls_token", 1)], row=None)


def dinov2() -> Case:
    config = transformers.Dinov2WithRegistersConfig(**SMALL, **IMAGE, num_register_tokens=3)
    model = transformers.Dinov2WithRegistersForImageClassification(config)
    return picture_case(model, [("cls_token", 1), ("register_tokens", 3)], row=None)


def clip_vision() -> Case:
    config = transformers.CLIPVisionConfig(**SMALL, **IMAGE, projection_dim=6)
    case = picture_case(
        transformers.CLIPVisionModelWithProjection(config), [("class_embedding", 1)], bit_identical=True
    )
    case.target = lambda out: out["image_embeds"][:, 1]
    return case


def swin() -> Case:
    """Windows, a shift, merging between the stages; the twin simulates them with indices (test_twins.py)."""
    config = transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[2, 2], window_size=4, num_labels=CLASSES
    )
    model = strong(transformers.SwinForImageClassification(config))
    stream = ("pixel_values",)
    return Case(
        model,
        {"pixel_values": noise(BATCH, 3, 16, 16)},
        logit(1),
        [("pixel_values", 64)],
        alone(stream, 3),
        stream,
        None,
        grid={"pixel_values": (8, 8)},
        bit_identical=True,
    )


# -- texts ------------------------------------------------------------------------------------------------------------


def text_case(model: nn.Module, *, mask: Tensor | None, row: Sequence[int], length: int = 6, **more: Any) -> Case:
    model = strong(model)
    inputs = {"input_ids": ids(BATCH, length)}
    hidden = {}
    if mask is not None:
        inputs["attention_mask"] = mask
        inputs["input_ids"] = inputs["input_ids"].masked_fill(mask == 0, int(model.config.pad_token_id or 0))
        hidden = {"input_ids": mask == 0}
    stream = ("input_ids",)
    return Case(
        model,
        inputs,
        more.pop("target", logit(1)),
        [("input_ids", length)],
        alone(stream, 2),
        stream,
        row,
        hidden=hidden,
        embeddings={"input_ids": more.pop("embeddings", None) or model.get_input_embeddings()},
        **more,
    )


def right(length: int = 6, real: int = 4) -> Tensor:
    """The second sample is padded at its end."""
    return (torch.arange(length) < torch.tensor([[length], [real]])).long()


def left(length: int = 6, real: int = 4) -> Tensor:
    return right(length, real).flip(1)


TEXT: dict[str, Any] = {"vocab_size": 40, "max_position_embeddings": 16}


def bert() -> Case:
    config = transformers.BertConfig(**SMALL, **TEXT)
    return text_case(transformers.BertForSequenceClassification(config), mask=right(), row=[0, 0], bit_identical=True)


def bert_full() -> Case:
    """No mask given, nothing padded."""
    config = transformers.BertConfig(**SMALL, **TEXT)
    return text_case(transformers.BertForSequenceClassification(config), mask=None, row=[0, 0], bit_identical=True)


def roberta() -> Case:
    config = transformers.RobertaConfig(**SMALL, **TEXT, pad_token_id=1)
    return text_case(transformers.RobertaForSequenceClassification(config), mask=right(), row=[0, 0])


def distilbert() -> Case:
    config = transformers.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=24, num_labels=CLASSES, **TEXT)
    return text_case(transformers.DistilBertForSequenceClassification(config), mask=right(), row=[0, 0])


def gpt2_config() -> Any:
    return transformers.GPT2Config(
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=16,
        vocab_size=40,
        num_labels=CLASSES,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def gpt2() -> Case:
    """Sequence classification reads the last token that is not padding."""
    model = transformers.GPT2ForSequenceClassification(gpt2_config())
    return text_case(model, mask=right(), row=[5, 3], target=logit(2), bit_identical=True)


def gpt2_left() -> Case:
    """Language model, padded at the front."""
    model = transformers.GPT2LMHeadModel(gpt2_config())
    read = lambda out: out["logits"][:, -1, 7]  # noqa: E731
    case = text_case(model, mask=left(), row=[5, 5], target=read, bit_identical=True)
    case.inputs["position_ids"] = (left().cumsum(1) - 1).clamp(min=0)
    return case


def llama() -> Case:
    """Four query heads share two key heads."""
    config = transformers.LlamaConfig(
        **(SMALL | {"num_attention_heads": 4}), **TEXT, num_key_value_heads=2, pad_token_id=0
    )
    model = transformers.LlamaForCausalLM(config)
    return text_case(model, mask=right(), row=[2, 2], target=lambda out: out["logits"][:, 2, 9], bit_identical=True)


# -- several streams --------------------------------------------------------------------------------------------------


def t5() -> Case:
    config = transformers.T5Config(
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        vocab_size=40,
        decoder_start_token_id=0,
    )
    model = strong(transformers.T5ForConditionalGeneration(config))
    mask = right(5, 3)
    inputs = {
        "input_ids": ids(BATCH, 5).masked_fill(mask == 0, 0),
        "attention_mask": mask,
        "decoder_input_ids": ids(BATCH, 3, seed=3),
    }
    source, answer = ("input_ids",), ("decoder_input_ids",)
    return Case(
        model,
        inputs,
        lambda out: out["logits"][:, 1, 7],
        [("input_ids", 5), ("decoder_input_ids", 3)],
        [[(source, source)]] * 2 + [[(answer, answer)], [(answer, source)]] * 2,
        answer,
        [1, 1],
        hidden={"input_ids": mask == 0},
        embeddings={"input_ids": model.encoder.embed_tokens, "decoder_input_ids": model.decoder.embed_tokens},
    )


def t5_encoder() -> Case:
    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, vocab_size=40)
    model = transformers.T5EncoderModel(config)
    embeddings = model.encoder.embed_tokens
    read = lambda out: out["last_hidden_state"][:, 1, 5]  # noqa: E731
    return text_case(model, mask=right(), row=[1, 1], target=read, embeddings=embeddings)


def lxmert() -> Case:
    """Two language and one vision layer, then two cross layers: both directions, then both selves."""
    config = transformers.LxmertConfig(
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=24,
        vocab_size=40,
        l_layers=2,
        r_layers=1,
        x_layers=2,
        num_qa_labels=CLASSES,
        visual_feat_dim=8,
        max_position_embeddings=16,
    )
    model = strong(transformers.LxmertForQuestionAnswering(config))
    mask = right(5, 3)
    inputs = {
        "input_ids": ids(BATCH, 5).masked_fill(mask == 0, 0),
        "attention_mask": mask,
        "visual_feats": noise(BATCH, 4, 8),
        "visual_pos": noise(BATCH, 4, 4, seed=5).abs(),
    }
    words, boxes = ("input_ids",), ("visual_feats",)
    cross = [[(words, boxes), (boxes, words)], [(words, words), (boxes, boxes)]]
    return Case(
        model,
        inputs,
        lambda out: out["question_answering_score"][:, 1],
        [("input_ids", 5), ("visual_feats", 4)],
        [[(words, words)], [(words, words)], [(boxes, boxes)], *cross, *cross],
        words,
        [0, 0],
        hidden={"input_ids": mask == 0},
        embeddings={"input_ids": model.get_input_embeddings()},
    )


def vilt() -> Case:
    """One state of words, CLS and patches; the patches come in a random order that the model draws."""
    config = transformers.ViltConfig(
        **SMALL, **IMAGE, vocab_size=40, max_position_embeddings=16, modality_type_vocab_size=2
    )
    model = strong(transformers.ViltForQuestionAnswering(config))
    mask = right(5, 3)
    inputs = {
        "input_ids": ids(BATCH, 5).masked_fill(mask == 0, 0),
        "attention_mask": mask,
        "pixel_values": noise(BATCH, 3, 16, 16),
        "pixel_mask": torch.ones(BATCH, 16, 16, dtype=torch.long),
    }
    joint = [("input_ids", 5), ("cls_token", 1), ("pixel_values", 16)]
    names = tuple(n for n, _ in joint)
    return Case(
        model,
        inputs,
        logit(1),
        joint,
        alone(names, 2),
        names,
        [0, 0],
        grid={"pixel_values": (4, 4)},
        born=("cls_token",),
        hidden={"input_ids": mask == 0},
        embeddings={"input_ids": model.get_input_embeddings()},
        permuted=True,
    )


# -- no library -------------------------------------------------------------------------------------------------------


class EncoderClassifier(nn.Module):
    """nn.TransformerEncoder over features, with a CLS of its own."""

    def __init__(self, width: int = 16, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, 2, 24, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        x = torch.cat([self.cls.expand(len(features), -1, -1), features], 1)
        if not self.batch_first:
            return self.head(self.encoder(x.transpose(0, 1))[0])
        return self.head(self.encoder(x)[:, 0])


def torch_encoder(batch_first: bool = True) -> Case:
    return Case(
        strong(EncoderClassifier(batch_first=batch_first)),
        noise(BATCH, 5, 16),
        logit(1),
        [("cls", 1), ("input", 5)],
        alone(("cls", "input"), 2),
        ("cls", "input"),
        [0, 0],
        born=("cls",),
    )


def torch_encoder_sequence_first() -> Case:
    return torch_encoder(batch_first=False)


LAYOUTS = ("heads", "bmm", "einsum", "sdpa", "sequence_first")


class Fours(nn.Module):
    """Batch, tokens, heads and head size are all 4; attention written by hand in one of several layouts."""

    def __init__(self, layout: str, depth: int = 2) -> None:
        super().__init__()
        self.layout = layout
        self.qkv = nn.ModuleList(nn.Linear(16, 48) for _ in range(depth))
        self.mix = nn.ModuleList(nn.Linear(16, 16) for _ in range(depth))
        self.mha = nn.ModuleList(
            nn.MultiheadAttention(16, 4) for _ in range(depth if layout == "sequence_first" else 0)
        )
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for i, (qkv, mix) in enumerate(zip(self.qkv, self.mix, strict=True)):
            if self.layout == "sequence_first":
                y = x.transpose(0, 1)
                o = self.mha[i](y, y, y, need_weights=False)[0].transpose(0, 1)
            else:
                o = getattr(self, "_" + self.layout)(*qkv(x).chunk(3, -1))
            x = nn.functional.layer_norm(x + mix(o).tanh(), (16,))
        return self.head(x[:, 2])

    def _heads(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.view(4, 4, 4, 4).transpose(1, 2) for t in (q, k, v))
        a = torch.softmax(q @ k.transpose(-1, -2) / 2, -1)
        return (a @ v).transpose(1, 2).reshape(4, 4, 16)

    def _sdpa(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.view(4, 4, 4, 4).transpose(1, 2) for t in (q, k, v))
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(4, 4, 16)

    def _bmm(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.reshape(4, 4, 4, 4).permute(0, 2, 1, 3).reshape(16, 4, 4) for t in (q, k, v))
        a = torch.bmm(q / 2, k.transpose(1, 2)).softmax(dim=-1)
        return torch.bmm(a, v).view(4, 4, 4, 4).permute(0, 2, 1, 3).reshape(4, 4, 16)

    def _einsum(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.reshape(4, 4, 4, 4) for t in (q, k, v))
        a = nn.functional.softmax(torch.einsum("bnhd,bmhd->bhnm", q, k) / 2, dim=-1)
        return torch.einsum("bhnm,bmhd->bnhd", a, v).reshape(4, 4, 16)


def fours(layout: str = "heads") -> Case:
    return Case(
        strong(Fours(layout)),
        noise(4, 4, 16),
        logit(1),
        [("input", 4)],
        alone(("input",), 2),
        ("input",),
        [2] * 4,
    )


PADDED_WITH_WORDS = ("input_ids", "attention_mask", "position_ids")


def single(case: Case, b: int) -> tuple[Any, dict[str, Tensor]]:
    """Sample b alone, without its padding; and stream -> the tokens that stay."""
    kept = {name: torch.arange(count) for name, count in case.joint}
    if isinstance(case.inputs, Tensor):
        return case.inputs[b : b + 1], kept
    inputs = {k: v[b : b + 1] for k, v in case.inputs.items()}
    for name, hidden in case.hidden.items():
        kept[name] = (~hidden[b]).nonzero()[:, 0]
        inputs |= {k: inputs[k][:, kept[name]] for k in PADDED_WITH_WORDS if k in inputs}
    return inputs, kept


CASES: Mapping[str, Callable[[], Case]] = {
    "vit": vit,
    "vit_wide": vit_wide,
    "deit": deit,
    "beit": beit,
    "dinov2": dinov2,
    "clip_vision": clip_vision,
    "swin": swin,
    "bert": bert,
    "bert_full": bert_full,
    "roberta": roberta,
    "distilbert": distilbert,
    "gpt2": gpt2,
    "gpt2_left": gpt2_left,
    "llama": llama,
    "t5": t5,
    "t5_encoder": t5_encoder,
    "lxmert": lxmert,
    "vilt": vilt,
    "torch_encoder": torch_encoder,
    "torch_encoder_sequence_first": torch_encoder_sequence_first,
    **{f"fours_{layout}": (lambda layout=layout: fours(layout)) for layout in LAYOUTS},
}
