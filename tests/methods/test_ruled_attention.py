"""Attention written in many ways under rules of the backward pass: each is the same as one literal attention, in double."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.attribution.backward import rule_set
from regard.recording import record
from support import rules_twin
from support.rules_twin import RULES, attend
from support.spellings import SPELLINGS, WIDTH, Whole, heads
from support.tiny import noise, strong

SETS = ("attnlrp", "cp_lrp", "gim")
SCALE = (WIDTH // 3) ** -0.5
CAUSAL = torch.ones(5, 5).tril().bool()
BIAS = torch.linspace(-1, 1, 25).view(5, 5).double()

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class Spelling:
    """(batch, head, token, width) each. literal: what `attend` is told; kept: of q, k and v, what depends on the input."""

    attention: Attention
    literal: Callable[[Tensor, Tensor, Tensor], dict[str, Any]] = lambda _q, _k, _v: {}
    depends: str = "qkv"


def by_hand(q: Tensor, k: Tensor, v: Tensor, detach: bool = False) -> Tensor:
    S = q @ k.mT * SCALE
    top = S.max(-1, keepdim=True)[0]
    e = torch.exp(S - (top.detach() if detach else top))
    return (e / e.sum(-1, keepdim=True)) @ v


def in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    S = q @ k.mT
    S *= SCALE
    S += BIAS
    S.masked_fill_(~CAUSAL, -torch.inf)
    return F.softmax(S, -1) @ v


def with_sink(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    S = torch.cat([q @ k.mT * SCALE, torch.full((*q.shape[:-1], 1), 0.3).to(q)], -1)
    return torch.softmax(S - S.max(-1, keepdim=True).values, -1)[..., :-1] @ v


def head_by_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.stack([(q[:, h] @ k[:, h].mT * SCALE).softmax(-1) @ v[:, h] for h in range(q.shape[1])], 1)


def own_bias(q: Tensor) -> Tensor:
    """A bias for each pair that depends on the input."""
    return q.sum(-1)[..., None] * torch.linspace(-1, 1, 5).to(q)


causal = lambda _q, _k, _v: {"bias": torch.zeros(5, 5).double().masked_fill(~CAUSAL, -torch.inf)}  # noqa: E731
biased = lambda _q, _k, _v: {"bias": BIAS}  # noqa: E731
SPELLED: dict[str, Spelling] = {
    "matmul": Spelling(lambda q, k, v: (q @ k.mT * SCALE).softmax(-1) @ v),
    "scaled before": Spelling(lambda q, k, v: torch.softmax((q * SCALE) @ k.transpose(-1, -2), dim=-1).matmul(v)),
    "divided": Spelling(lambda q, k, v: F.softmax(q @ k.mT / math.sqrt(WIDTH // 3), dim=-1, dtype=torch.float64) @ v),
    "einsum": Spelling(lambda q, k, v: torch.einsum(
        "bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).mul(SCALE).softmax(-1), v)),
    "bmm": Spelling(lambda q, k, v: torch.bmm(
        torch.bmm(q.flatten(0, 1) * SCALE, k.flatten(0, 1).mT).softmax(-1), v.flatten(0, 1)).view_as(q)),
    "baddbmm": Spelling(lambda q, k, v: (torch.baddbmm(BIAS.expand(6, 5, 5), q.flatten(0, 1), k.flatten(0, 1).mT, alpha=SCALE)
                                         .softmax(-1) @ v.flatten(0, 1)).view_as(q), biased),
    "softmax by hand": Spelling(by_hand),
    "softmax by hand, its maximum detached": Spelling(lambda q, k, v: by_hand(q, k, v, detach=True)),
    "in place": Spelling(in_place, lambda _q, _k, _v: {"bias": BIAS.masked_fill(~CAUSAL, -torch.inf)}),
    "sink": Spelling(with_sink, lambda _q, _k, _v: {"sink": torch.full((1, 1, 1, 1), 0.3).double()}),
    "soft cap": Spelling(lambda q, k, v: (2 * torch.tanh(q @ k.mT * SCALE / 2)).softmax(-1) @ v,
                         lambda _q, _k, _v: {"cap": 2.0}),
    "head by head": Spelling(head_by_head),
    "dropped out": Spelling(lambda q, k, v: F.dropout((q @ k.mT * SCALE).softmax(-1), 0.5, training=False) @ v),
    "a bias of the input": Spelling(lambda q, k, v: (q @ k.mT * SCALE + own_bias(q)).softmax(-1) @ v,
                                    lambda q, _k, _v: {"bias": own_bias(q)}),
    "sdpa": Spelling(lambda q, k, v: F.scaled_dot_product_attention(q, k, v)),
    "sdpa by name": Spelling(lambda q, k, v: F.scaled_dot_product_attention(key=k, value=v, query=q)),
    "sdpa causal": Spelling(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, None, 0.0, True), causal),
    "sdpa of a mask": Spelling(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, CAUSAL), causal),
    "sdpa of a bias": Spelling(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=BIAS), biased),
    "sdpa of a bias of the input": Spelling(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, own_bias(q)),
                                            lambda q, _k, _v: {"bias": own_bias(q)}),
    "sdpa, grouped heads": Spelling(lambda q, k, v: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True),
                                    lambda _q, _k, _v: {"grouped": True}),
    "sdpa, queries of parameters": Spelling(lambda q, k, v: F.scaled_dot_product_attention(q, k, v), depends="kv"),
    "queries of parameters": Spelling(lambda q, k, v: (q @ k.mT * SCALE).softmax(-1) @ v, depends="kv"),
    "sdpa, values of parameters": Spelling(lambda q, k, v: F.scaled_dot_product_attention(q, k, v), depends="qk"),
    "sdpa, one tensor": Spelling(lambda q, _k, _v: F.scaled_dot_product_attention(q, q, q), lambda q, _k, _v: {"one": True}),
    "one tensor": Spelling(lambda q, _k, _v: (q @ q.mT * SCALE).softmax(-1) @ q, lambda q, _k, _v: {"one": True}),
}  # fmt: skip


class Attends(nn.Module):
    """Tokens that look at tokens; what does not depend on the input is made of a parameter."""

    def __init__(self, spelling: Spelling, rules: rules_twin.Rules | None) -> None:
        super().__init__()
        self.spelling, self.rules = spelling, rules
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.learned = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        learned = self.learned.expand(len(x), -1, -1)
        made = [getattr(self, name)(x if name in self.spelling.depends else learned) for name in "qkv"]
        q, k, v = (heads(t) for t in made)
        O = self.spelling.attention(q, k, v) if self.rules is None else self.literally(self.rules, q, k, v)
        return self.head(O.transpose(1, 2).flatten(2)[:, 1])

    def literally(self, rules: rules_twin.Rules, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        told = self.spelling.literal(q, k, v)
        if told.pop("one", False):
            k = v = q
        if told.pop("grouped", False):
            k, v = (torch.stack([t[:, 0]] * 3, 1) for t in (k, v))
        return attend(rules, q, k, v, scale=SCALE, **told)


def assert_near(found: Tensor, expected: Tensor) -> None:
    """To 1e-8 of the largest: an activation has a guard of 1e-10 beside scores, which may be small."""
    assert float((found - expected).abs().max()) <= 1e-8 * float(expected.abs().max())


@pytest.mark.parametrize("name", SPELLED)
def test_attention_in_any_spelling_equals_the_literal_one(name: str) -> None:
    torch.manual_seed(1)
    x = noise(2, 5, WIDTH).double()
    model = Attends(SPELLED[name], None).double().eval()
    for rules in SETS:
        twin = Attends(SPELLED[name], RULES[rules]).double().eval()
        twin.load_state_dict(model.state_dict())
        leaf = x.clone().requires_grad_()
        y = twin.requires_grad_(False)(leaf)[:, 1].sum()
        expected = torch.autograd.grad(y, leaf)[0] if y.requires_grad else torch.zeros_like(x)
        recording = record(model, x, rules=rule_set(rules), strict=False)
        found = recording.gradients(recording.output[:, 1]).inputs["input"]
        assert torch.equal(recording.output, model(x))
        assert_near(found, expected)
        assert recording.plain == [], rules


@pytest.mark.parametrize(
    "spelling", [pytest.param(s, marks=[] if i % 4 == 0 else pytest.mark.long) for i, s in enumerate(SPELLINGS)]
)
def test_layers_in_any_spelling_have_the_same_relevance(spelling: type[nn.Module]) -> None:
    torch.manual_seed(0)
    plain = strong(Whole()).double()
    other = spelling().double().eval()
    other.load_state_dict(plain.state_dict())
    x = noise(2, 5, WIDTH).double()
    for rules in SETS:
        found = []
        for model in (plain, other):
            recording = record(model, x, rules=rule_set(rules))
            found.append(recording.gradients(recording.output[:, 1]).inputs["input"])
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


class Stacked(nn.Module):
    """nn.TransformerEncoder, and the same written out."""

    def __init__(self, rules: rules_twin.Rules | None, **how: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 3, 16, dropout=0.0, batch_first=True, **how)
        self.rules, self.encoder = rules, nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.rules is None:
            return self.head(self.encoder(x)[:, 0])
        for layer in self.encoder.layers:
            x = self.block(self.rules, layer, x)
        return self.head(x[:, 0])

    def block(self, rules: rules_twin.Rules, layer: Any, x: Tensor) -> Tensor:
        norms = [
            lambda t, n=n: rules_twin.layer_norm(rules, t, n.weight, n.bias, n.eps) for n in (layer.norm1, layer.norm2)
        ]
        mix = lambda t: rules_twin.of_torch_attention(rules)(layer.self_attn, t, t, t)[0]  # noqa: E731
        widen = lambda t: layer.linear2(rules_twin.activation(rules, layer.activation, layer.linear1(t)))  # noqa: E731
        for norm, part in zip(norms, (mix, widen), strict=True):
            x = x + part(norm(x)) if layer.norm_first else norm(x + part(x))
        return x


@pytest.mark.parametrize("how", [{}, {"norm_first": True, "activation": "gelu"}], ids=["post-norm", "pre-norm"])
def test_torchs_own_encoder(how: dict[str, Any]) -> None:
    x = noise(2, 5, WIDTH).double()
    model = strong(Stacked(None, **how)).double()
    for rules in SETS:
        twin = Stacked(RULES[rules], **how).double().eval()
        twin.load_state_dict(model.state_dict())
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(twin.requires_grad_(False)(leaf)[:, 1].sum(), leaf)
        recording = record(model, x, rules=rule_set(rules))
        found = recording.gradients(recording.output[:, 1]).inputs["input"]
        assert_near(found, expected)
