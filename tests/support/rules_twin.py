"""Rules of the backward pass once more, literally: formulas.md section 11 written module by module, and none of our code.

`literal(model, rules)` is a copy of a model whose norms, activations, gated MLPs, routers and attentions are formulas in which
what is constant is detached and what is halved is written as half. Plain autograd of it is the gradient that the rules ask for.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GUARD = 1e-10
FUNCTIONAL = [(F, "gelu"), (F, "relu"), (F, "silu"), (torch, "tanh"), (torch, "relu")]
"""Activations that models call as functions."""
VOCABULARY = 40
"""Rows of a table of words in tests/support/sweep; other tables are of positions and types."""


@dataclass(frozen=True)
class Rules:
    """One row of the table of formulas.md section 11."""

    attention: str
    activation: bool
    constant_gates: bool
    ruled: bool = True


RULES = {
    "plain": Rules("plain", activation=False, constant_gates=False, ruled=False),
    "attnlrp": Rules("halves", activation=True, constant_gates=False),
    "cp_lrp": Rules("constant", activation=True, constant_gates=True),
    "gim": Rules("warmer", activation=False, constant_gates=False),
}


def share(t: Tensor, part: float) -> Tensor:
    """t, of whose gradient a part comes back."""
    return part * t + ((1 - part) * t).detach()


# -- the formulas -----------------------------------------------------------------------------------------------------


def over(rules: Rules, x: Tensor, divisor: Tensor) -> Tensor:
    """x over a divisor that is a constant."""
    return x / (divisor.detach() if rules.ruled else divisor)


def rms_norm(rules: Rules, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return over(rules, x, (x * x).mean(-1, keepdim=True).add(eps).sqrt()) * weight


def layer_norm(rules: Rules, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    out = over(rules, centred, (centred * centred).mean(-1, keepdim=True).add(eps).sqrt())
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def activation(rules: Rules, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f of x; where activations are ruled, its gradient is that of the line through 0 and f(x)."""
    y = f(x)
    if not rules.activation:
        return y
    line = x * (y / (x + GUARD)).detach()
    return line + (y - line).detach()


def product(rules: Rules, a: Tensor, b: Tensor) -> Tensor:
    """Neither is a gate."""
    return share(a, 0.5) * share(b, 0.5) if rules.ruled else a * b


def gated(rules: Rules, gate: Tensor, x: Tensor) -> Tensor:
    """An activation made the gate."""
    return gate.detach() * x if rules.constant_gates else product(rules, gate, x)


class Warmer(torch.autograd.Function):
    """softmax(S), whose backward pass is A_T ⊙ (G − Σ A_T G), A_T = softmax(S/2)."""

    @staticmethod
    def forward(ctx: Any, S: Tensor) -> Tensor:
        ctx.save_for_backward(S)
        return S.softmax(-1)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Tensor:
        A = (ctx.saved_tensors[0] / 2).softmax(-1)
        return A * (G - (A * G).sum(-1, keepdim=True))


def attend(
    rules: Rules,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    bias: Tensor | float = 0.0,
    cap: float | None = None,
    sink: Tensor | None = None,
) -> Tensor:
    """softmax(scale q kᵀ + bias) v of (..., token, width), products by halves where both operands depend on the inputs."""
    if rules.attention in ("halves", "warmer") and q.requires_grad and k.requires_grad:
        q, k = share(q, 0.5), share(k, 0.5)
    S = (q @ k.transpose(-1, -2)) * scale
    if cap is not None:
        S = cap * activation(rules, torch.tanh, S / cap)
    S = S + bias
    if sink is not None:
        S = torch.cat([S, sink.expand(*S.shape[:-1], 1)], -1)
    A = Warmer.apply(S) if rules.attention == "warmer" else S.softmax(-1)
    A = A[..., : k.shape[-2]]
    if rules.attention == "constant":
        A = A.detach()
    elif rules.attention != "plain" and A.requires_grad and v.requires_grad:
        A, v = share(A, 0.5), share(v, 0.5)
    return A @ v


# -- the modules ------------------------------------------------------------------------------------------------------

Forward = Callable[..., Any]


def of_rms(rules: Rules) -> Forward:
    def forward(self: Any, x: Tensor) -> Tensor:
        weight = 1 + self.weight if type(self).__name__.startswith("Gemma") else self.weight
        return rms_norm(rules, x, weight, eps_of(self))

    return forward


def of_layer_norm(rules: Rules) -> Forward:
    return lambda self, x: layer_norm(
        rules, x, getattr(self, "weight", None), getattr(self, "bias", None), eps_of(self)
    )


def eps_of(module: Any) -> float:
    return float(next(e for e in (getattr(module, n, None) for n in ("variance_epsilon", "eps")) if e is not None))


def of_activation(rules: Rules, f: Callable[[Tensor], Tensor]) -> Forward:
    return lambda _self, x: activation(rules, f, x)


def of_gated_mlp(rules: Rules) -> Forward:
    return lambda self, x: self.down_proj(gated(rules, self.act_fn(self.gate_proj(x)), self.up_proj(x)))


def of_joined_mlp(rules: Rules) -> Forward:
    """Gate and value by one map."""

    def forward(self: Any, x: Tensor) -> Tensor:
        gate, value = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(gated(rules, self.activation_fn(gate), value))

    return forward


def of_t5_mlp(rules: Rules) -> Forward:
    return lambda self, x: self.wo(gated(rules, self.act(self.wi_0(x)), self.wi_1(x)))


def of_experts(rules: Rules, router_is_activation: bool) -> Forward:
    """Token by token and expert by expert."""

    def forward(self: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        rows = []
        for token, experts, shares in zip(hidden, index, weights, strict=True):
            out = torch.zeros_like(token)
            for e, w in zip(experts.tolist(), shares, strict=True):
                gate, up = (self.gate_up_proj[e] @ token).chunk(2)
                made = self.down_proj[e] @ gated(rules, self.act_fn(gate), up)
                out = out + (gated if router_is_activation else product)(rules, w.expand_as(made), made)
            rows.append(out)
        return torch.stack(rows)

    return forward


def mixtral_router(self: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits = hidden @ self.weight.T
    index = logits.topk(self.top_k, -1)[1]
    chosen = logits.softmax(-1).gather(1, index)
    return logits, chosen / chosen.sum(-1, keepdim=True), index


def deepseek_router(self: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One group, and a correction that is 0."""
    assert self.num_group == 1
    assert not self.e_score_correction_bias.any()
    logits = hidden.reshape(-1, self.hidden_dim) @ self.weight.T
    scores = logits.sigmoid()
    index = scores.topk(self.top_k, -1)[1]
    chosen = scores.gather(1, index)
    return logits, chosen / chosen.sum(-1, keepdim=True) * self.routed_scaling_factor, index


def of_torch_attention(rules: Rules) -> Forward:
    """nn.MultiheadAttention, samples first."""

    def forward(self: Any, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> tuple[Tensor, None]:
        at = (x @ w.T + b for x, w, b in zip((query, key, value), *self_parts(self), strict=True))
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in at)
        O = attend(rules, q, k, v, scale=q.shape[-1] ** -0.5)
        return self.out_proj(O.transpose(1, 2).flatten(2)), None

    return forward


def self_parts(attention: Any) -> tuple[Any, Any]:
    return attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)


def of_siglip(rules: Rules) -> Forward:
    """Pairs of a text and a picture, one by one."""

    def forward(self: Any, input_ids: Tensor, pixel_values: Tensor, **_: Any) -> dict[str, Tensor]:
        texts = self.text_model(input_ids=input_ids).pooler_output
        pictures = self.vision_model(pixel_values=pixel_values).pooler_output
        texts, pictures = (over(rules, x, (x * x).sum(-1, keepdim=True).sqrt()) for x in (texts, pictures))
        pairs = torch.stack([torch.stack([product(rules, t, p).sum() for p in pictures]) for t in texts])
        logits = pairs * self.logit_scale.exp() + self.logit_bias
        return {"logits_per_text": logits, "logits_per_image": logits.T}

    return forward


def replaced(module: nn.Module, rules: Rules) -> Forward | None:
    """The literal forward of a module; None for one that only adds, moves and multiplies by constants."""
    name, home = type(module).__name__, type(module).__module__
    if name.endswith(("RMSNorm", "T5LayerNorm")):
        return of_rms(rules)
    if isinstance(module, nn.LayerNorm) or name in ("CohereLayerNorm", "Cohere2LayerNorm"):
        return of_layer_norm(rules)
    if home == "transformers.activations" or isinstance(module, nn.ReLU | nn.SiLU | nn.GELU | nn.Tanh):
        return of_activation(rules, module.forward)
    if isinstance(module, nn.MultiheadAttention):
        return of_torch_attention(rules)
    if all(hasattr(module, part) for part in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return of_gated_mlp(rules)
    if all(hasattr(module, part) for part in ("gate_up_proj", "down_proj", "activation_fn")):
        return of_joined_mlp(rules)
    if name.endswith("DenseGatedActDense"):
        return of_t5_mlp(rules)
    others: Mapping[str, Forward] = {
        "MixtralExperts": of_experts(rules, router_is_activation=False),
        "DeepseekV3Experts": of_experts(rules, router_is_activation=True),
        "MixtralTopKRouter": mixtral_router,
        "DeepseekV3TopkRouter": deepseek_router,
        "SiglipModel": of_siglip(rules),
    }
    return others.get(name)


def literal(model: nn.Module, rules: Rules) -> nn.Module:
    """A copy of a model, written out; parameters are constants."""
    model = copy.deepcopy(model).requires_grad_(False)
    for module in model.modules():
        forward = replaced(module, rules)
        if forward is not None:
            module.forward = types.MethodType(forward, module)  # type: ignore[method-assign]
    return model


def interface(rules: Rules) -> Callable[..., Any]:
    """Attention as Transformers' models call it."""

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None,
        position_bias: Tensor | None = None, softcap: float | None = None, s_aux: Tensor | None = None, **_: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        each = query.shape[1] // key.shape[1]
        key, value = (torch.stack([t[:, h // each] for h in range(query.shape[1])], 1) for t in (key, value))
        bias = (0.0 if attention_mask is None else attention_mask) + (0.0 if position_bias is None else position_bias)
        sink = None if s_aux is None else s_aux.reshape(1, -1, 1, 1)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        O = attend(rules, query, key, value, scale=scale, bias=bias, cap=softcap, sink=sink)
        return O.transpose(1, 2).contiguous(), None

    return attention


# -- running ----------------------------------------------------------------------------------------------------------


@contextmanager
def in_double() -> Iterator[None]:
    """Models that compute something in single precision of their own accord do so in double."""
    saved = torch.get_default_dtype()
    with mock.patch.object(torch, "float32", torch.float64), mock.patch.object(Tensor, "float", Tensor.double):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(saved)


def doubled(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}


def gradients(
    model: nn.Module, inputs: Mapping[str, Tensor], target: Callable[[Any], Tensor], rules: Rules
) -> tuple[Tensor, list[Tensor]]:
    """y, and its gradient at the pictures and the like by name, then at the word embeddings as they are looked up."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register("literal", interface(rules))
    AttentionMaskInterface.register("literal", eager_mask)
    model = literal(model, rules)
    model.set_attn_implementation("literal")
    given = {k: v.clone().requires_grad_() if v.is_floating_point() else v for k, v in inputs.items()}
    words: list[Tensor] = []
    look_up = F.embedding

    def embedding(ids: Tensor, table: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = look_up(ids, table, *args, **kwargs)
        if len(table) == VOCABULARY:
            words.append(out.requires_grad_())
        return out

    def written(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, *a, **k: activation(rules, lambda t: f(t, *a, **k), x)

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(F, "embedding", embedding))
        for home, name in FUNCTIONAL:
            patches.enter_context(mock.patch.object(home, name, written(getattr(home, name))))
        y = target(model(**given))
        leaves = [t for t in given.values() if t.is_floating_point()] + words
        found = torch.autograd.grad(y.sum(), leaves, allow_unused=True)
    return y.detach(), [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found, strict=True)]
