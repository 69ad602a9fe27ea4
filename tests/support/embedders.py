"""Tiny models without a head, whose pooled states are embeddings of texts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import regard
from support.folders import SMALL, text_parts, wordpiece
from support.tiny import strong
from support.writers import tokenizer as byte_level

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

PAIR = ("the lovely movie", "a great mind")


def head(name: str, **more):
    """A tiny BERT with a head, and its tokenizer."""
    config, tokenizer = text_parts("bert")
    config.update(more)
    return strong(getattr(transformers, name)(config)), tokenizer


def modes(model: nn.Module) -> list[bool]:
    return [m.training for m in model.modules()]


def same(a: regard.Explanation, b: regard.Explanation) -> None:
    assert a.scores.keys() == b.scores.keys()
    assert all(torch.equal(a.scores[s], b.scores[s]) for s in a.scores)
    assert torch.equal(a.receipt.target_value, b.receipt.target_value)


# ---------------------------------------------------------------- embedding models


def llama() -> tuple[nn.Module, object]:
    tokenizer = byte_level()
    config = transformers.LlamaConfig(**{**SMALL, "num_hidden_layers": 2}, vocab_size=400)
    return strong(transformers.LlamaModel(config)), tokenizer


def bert() -> tuple[nn.Module, object]:
    return head("BertModel", num_hidden_layers=2)


def t5() -> tuple[nn.Module, object]:
    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, vocab_size=40)
    return strong(transformers.T5EncoderModel(config)), wordpiece()


@torch.no_grad()
def vector(model: nn.Module, tokenizer, text: str, pooling: str) -> Tensor:
    """One text's vector, made by hand."""
    states = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state[0]
    later = torch.arange(1.0, len(states) + 1)
    return {
        "mean": states.mean(0),
        "cls": states[0],
        "last": states[-1],
        "max": states.amax(0),
        "mean_sqrt_len": states.sum(0) / len(states) ** 0.5,
        "weighted_mean": (states * later[:, None]).sum(0) / later.sum(),
    }[pooling]
