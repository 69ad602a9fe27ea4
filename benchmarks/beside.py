"""What is explained beside other packages: random models of five families, and the relevance of their word embeddings."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import regard

Score = Callable[[Any], Tensor]
VOCABULARY = 100


@dataclass(frozen=True)
class Family:
    """A family that LXT has: its code's name in Transformers, its model's, and what its sizes are called."""

    code: str
    model: str
    config: str
    sizes: Callable[[int, int], dict[str, Any]]
    score: Score

    @property
    def module(self) -> types.ModuleType:
        """Transformers' code of it."""
        return importlib.import_module(f"transformers.models.{self.code}.modeling_{self.code}")

    def make(self, layers: int, width: int, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """A random model, or one of these weights."""
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, self.config)(vocab_size=VOCABULARY, **self.sizes(layers, width))
        model: nn.Module = getattr(self.module, self.model)(config).eval()
        if state is None:
            lively(model)
        else:
            model.load_state_dict(dict(state))
        return model


def last_token(out: Any) -> Tensor:
    """The logit of token 7 after the last one."""
    return out.logits[:, -1, 7]


def first_class(out: Any) -> Tensor:
    return out.logits[:, 1]


def decoder(layers: int, width: int) -> dict[str, Any]:
    return {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": width // 4, "intermediate_size": 2 * width + 8, "max_position_embeddings": 1024, "pad_token_id": 0,
    }  # fmt: skip


def gemma(layers: int, width: int) -> dict[str, Any]:
    """Windows of four tokens in every other layer."""
    kinds = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)]
    return decoder(layers, width) | {"sliding_window": 4, "sliding_window_pattern": 2, "layer_types": kinds}


def bert(layers: int, width: int) -> dict[str, Any]:
    return {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 4 * width,
        "max_position_embeddings": 1024, "num_labels": 3,
    }  # fmt: skip


def gpt2(layers: int, width: int) -> dict[str, Any]:
    return {"n_embd": width, "n_layer": layers, "n_head": 4, "n_positions": 1024}


FAMILIES = {
    "Llama": Family("llama", "LlamaForCausalLM", "LlamaConfig", decoder, last_token),
    "Qwen3": Family("qwen3", "Qwen3ForCausalLM", "Qwen3Config", decoder, last_token),
    "Gemma 3": Family("gemma3", "Gemma3ForCausalLM", "Gemma3TextConfig", gemma, last_token),
    "BERT": Family("bert", "BertForSequenceClassification", "BertConfig", bert, first_class),
    "GPT-2": Family("gpt2", "GPT2LMHeadModel", "GPT2Config", gpt2, last_token),
}


def lively(model: nn.Module) -> None:
    """Weights with which no rule is without effect: matrices that keep sizes as they are, vectors that are not 0 or 1."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * p.shape[-1] ** -0.5 if p.ndim >= 2 else p + 0.2 * torch.randn_like(p))


def ids_of(samples: int, tokens: int) -> Tensor:
    return torch.randint(1, VOCABULARY, (samples, tokens), generator=torch.Generator().manual_seed(1))


def input_x_gradient(model: Any, ids: Tensor, score: Score) -> Tensor:
    """x ⊙ ∂y/∂x of the word embeddings, summed per token (b, n): the floor, and under LXT's patches the relevance."""
    x = model.get_input_embeddings()(ids).detach().requires_grad_()
    (g,) = torch.autograd.grad(score(model(inputs_embeds=x)).sum(), x)
    return (x * g).sum(-1).detach()


def ours(model: nn.Module, ids: Tensor, score: Score, method: str) -> Tensor:
    explained: Any = regard.explain(model, {"input_ids": ids}, score, method=method)
    return explained.scores["input_ids"]


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference of a from b, as a share of b's largest."""
    return float((a - b).abs().max() / b.abs().max())
