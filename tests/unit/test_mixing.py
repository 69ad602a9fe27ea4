"""Beside an attention that is seen: what else weighs tokens is followed, refused, or named on the receipt with its module."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.errors import ModelError, TrailLost
from support.tiny import noise, strong

WIDTH, TOKENS = 8, 6


class Beside(nn.Module):
    """An attention, then something else, then an attention; the first row is read. `mixer` first of all: `early`."""

    def __init__(self, mixer: nn.Module, early: bool = False, pooled: bool = False) -> None:
        super().__init__()
        self.mixer, self.early, self.pooled = mixer, early, pooled
        self.qkv, self.head = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2)), nn.Linear(WIDTH, 3)

    def attention(self, layer: int, x: Tensor) -> Tensor:
        q, k, v = self.qkv[layer](x).chunk(3, -1)
        return x + (q @ k.mT / 3).softmax(-1) @ v

    def forward(self, x: Tensor) -> Tensor:
        if self.pooled:
            return self.head(self.mixer(self.attention(1, self.attention(0, x))))
        x = self.mixer(x) if self.early else self.mixer(self.attention(0, x))
        return self.head(self.attention(1, x)[:, 0])


class Mixer(nn.Module):
    """What a test does, with a few layers at hand."""

    def __init__(self, does: Callable[[Mixer, Tensor], Tensor]) -> None:
        super().__init__()
        self.does = does
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.score, self.positions = nn.Linear(WIDTH, 1), nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.keys, self.values = nn.Parameter(torch.randn(5, WIDTH)), nn.Parameter(torch.randn(5, WIDTH))
        self.query, self.decay = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.zeros(WIDTH))
        self.tokens, self.gru = nn.Linear(TOKENS, TOKENS), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.window = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.does(self, x)


def vector_attention(m: Mixer, x: Tensor) -> Tensor:
    """Weights for each channel (Point Transformer)."""
    a = m.k(m.q(x)[:, :, None] - m.k(x)[:, None] + m.positions[:, None] - m.positions).softmax(2)
    return x + (a * m.v(x)[:, None]).sum(2)


def neighbours(m: Mixer, x: Tensor) -> Tensor:
    """The same over the three nearest tokens."""
    near = torch.cdist(x, x).topk(3, largest=False).indices
    batch = torch.arange(len(x))[:, None, None]
    a = m.q(m.q(x)[:, :, None] - m.k(x)[batch, near]).softmax(2)
    return x + torch.einsum("bijc,bijc->bic", a, m.v(x)[batch, near])


def pooled_by_gate(m: Mixer, x: Tensor) -> Tensor:
    """Attention-based multiple instance learning."""
    a = m.score(torch.tanh(m.q(x)) * torch.sigmoid(m.k(x))).transpose(1, 2).softmax(-1)
    return (a @ x).squeeze(1)


def external(m: Mixer, x: Tensor) -> Tensor:
    """External attention: over learned keys, brought to sum 1 over tokens first."""
    a = (x @ m.keys.T).softmax(1)
    return x + (a / (1e-9 + a.sum(-1, keepdim=True))) @ m.values


def linear_attention(m: Mixer, x: Tensor) -> Tensor:
    q, k = F.elu(m.q(x)) + 1, F.elu(m.k(x)) + 1
    return x + q @ (k.mT @ m.v(x)) / (q * k.sum(1, keepdim=True)).sum(-1, keepdim=True)


def efficient_attention(m: Mixer, x: Tensor) -> Tensor:
    context = torch.einsum("bnd,bne->bde", m.k(x).softmax(1), m.v(x))
    return x + torch.einsum("bnd,bde->bne", m.q(x).softmax(-1), context)


class Kernel(torch.autograd.Function):
    """Stands for one that is started from Triton or a library's own code: nothing of it is seen but its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(np.flip(x.detach().numpy(), 1).copy())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.flip(1)


def attention_by_vmap(m: Mixer, x: Tensor) -> Tensor:
    def of_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).softmax(-1) @ v

    return x + torch.vmap(of_one)(m.q(x), m.k(x), m.v(x))


MIXERS: dict[str, tuple[Callable[[Mixer, Tensor], Tensor], str]] = {
    "vector attention": (vector_attention, "sum in mixer"),
    "vector attention of neighbours": (neighbours, "einsum in mixer"),
    "a gated sum": (lambda m, x: x + pooled_by_gate(m, x)[:, None], "softmax in mixer, matmul in mixer"),
    "gates": (lambda m, x: x * (m.score(x).sigmoid() * x).sum(1, keepdim=True).tanh(), "sum in mixer"),
    "a learned query": (lambda m, x: x + (x @ m.query).softmax(1)[:, None] @ x, "softmax in mixer, matmul in mixer"),
    "external attention over tokens": (external, "softmax in mixer"),
    "linear attention": (linear_attention, "sum in mixer, matmul in mixer"),
    "efficient attention": (efficient_attention, "softmax in mixer, einsum in mixer"),
    "Fourier": (lambda m, x: x + torch.fft.fft2(x).real, "fft_fft2 in mixer"),
    "Fourier, one axis at a time": (lambda m, x: x + torch.fft.fft(torch.fft.fft(x), dim=1).real, "fft_fft in mixer"),
    "filters": (lambda m, x: x + torch.fft.irfft(torch.fft.rfft(x, dim=1) * m.decay, TOKENS, 1), "fft_rfft in mixer"),
    "a linear layer over tokens": (lambda m, x: x + m.tokens(x.mT).mT, "linear in mixer.tokens"),
    "a convolution over tokens": (lambda m, x: x + m.window(x.mT).mT, "conv1d in mixer.window"),
    "a window's maximum": (lambda m, x: x + F.max_pool1d(x.mT, 3, 1, 1).mT, "max_pool1d in mixer"),
    "a running sum": (lambda m, x: x + x.cumsum(1), "cumsum in mixer"),
    "a recurrence": (lambda m, x: x + m.gru(x)[0], "gru in mixer.gru"),
    "less the mean": (lambda m, x: x - x.mean(1, keepdim=True), "mean in mixer"),
    "brought to unit variance": (lambda m, x: x / x.std(1, keepdim=True), "std in mixer"),
    "squeeze and excitation": (lambda m, x: x * m.q(x.mean(1, keepdim=True)).sigmoid(), "mean in mixer"),
    "a maximum over tokens": (lambda m, x: x + x.amax(1, keepdim=True), "amax in mixer"),
    "a kernel out of sight": (lambda m, x: x + Kernel.apply(x), "Kernel in mixer"),
    "attention by torch.vmap": (attention_by_vmap, "an operation out of sight in mixer"),
    "fused attention by torch.vmap": (
        lambda m, x: (
            x + torch.vmap(F.scaled_dot_product_attention)(m.q(x)[:, None], m.k(x)[:, None], m.v(x)[:, None])[:, 0]
        ),
        "an operation out of sight in mixer",
    ),
    "a norm over tokens": (lambda m, x: F.instance_norm(x.mT).mT, "instance_norm in mixer"),
}


@pytest.mark.parametrize("name", MIXERS)
def test_what_weighs_tokens_beside_attention_is_named(name: str) -> None:
    does, says = MIXERS[name]
    notes = regard.explain(strong(Beside(Mixer(does))), noise(2, TOKENS, WIDTH), 1).receipt.notes
    (mixed,) = [n for n in notes if n.startswith("tokens are mixed outside attention (")]
    assert all(one in mixed for one in says.split(", ")), mixed


@pytest.mark.parametrize("name", MIXERS)
def test_before_any_attention_it_is_named_or_refused(name: str) -> None:
    model, x = strong(Beside(Mixer(MIXERS[name][0]), early=True)), noise(2, TOKENS, WIDTH)
    with contextlib.suppress(TrailLost):
        notes = regard.explain(model, x, 1).receipt.notes
        assert any("mixed outside attention" in n and "in mixer" in n for n in notes)


def test_tokens_that_are_weighed_where_they_are_pooled_are_told() -> None:
    exp = regard.explain(strong(Beside(Mixer(pooled_by_gate), pooled=True)), noise(2, TOKENS, WIDTH), 1)
    assert exp.receipt.notes == ["tokens are mixed outside attention (softmax in mixer), which maps do not follow"]
    assert exp.receipt.readout == "6 tokens of input, weighted by gradient norm, found from the gradient"


def experts(m: Mixer, x: Tensor) -> Tensor:
    """Experts, each of which is given all tokens."""
    given = x.flatten(0, 1).repeat(2, 1).view(2, -1, WIDTH)
    return x + torch.stack([m.q(given[0]), m.k(given[1])]).sum(0).view_as(x)


def halves(m: Mixer, x: Tensor) -> Tensor:
    """Two experts again, one after the other."""
    first, second = x.repeat(1, 2, 1).chunk(2, 1)
    return x + m.q(first) + m.k(second)


EACH_BY_ITSELF: dict[str, Callable[[Mixer, Tensor], Tensor]] = {
    "experts": experts,
    "experts in two halves": halves,
    "experts, summed in one tensor": lambda m, x: x + m.q(x.repeat(1, 3, 1).unflatten(1, (3, -1))).mean(1),
    "a layer": lambda m, x: x + m.q(x).relu(),
    "learned keys": lambda m, x: x + (x @ m.keys.T).softmax(-1) @ m.values,
    "a codebook": lambda m, x: x + m.values[(x @ m.keys.T).argmax(-1)],
    "a gate": lambda m, x: x * m.score(x).sigmoid(),
    "a softmax over features": lambda m, x: x * m.q(x).softmax(-1),
    "a norm": lambda m, x: F.layer_norm(x, (WIDTH,)) + F.normalize(x, dim=-1),
    "groups of features": lambda m, x: F.group_norm(x.flatten(0, 1), 2).view(x.shape),
    "a window of one": lambda m, x: x + F.conv1d(x.mT, m.q.weight[..., None]).mT,
    "less its own mean": lambda m, x: x - x.mean(-1, keepdim=True),
    "positions": lambda m, x: x + m.positions.softmax(0),
    "a filter over features": lambda m, x: x + torch.cumsum(x, -1),
}


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("name", EACH_BY_ITSELF)
def test_what_leaves_tokens_by_themselves_is_not_told(name: str, early: bool) -> None:
    model = strong(Beside(Mixer(EACH_BY_ITSELF[name]), early))
    assert regard.explain(model, noise(2, TOKENS, WIDTH), 1).receipt.notes == []


def test_nested_tensors_are_refused() -> None:
    def nested(m: Mixer, x: Tensor) -> Tensor:
        return torch.stack(torch.nested.as_nested_tensor([*x], layout=torch.jagged).unbind())

    with pytest.raises(ModelError, match=r"makes a nested tensor \(.* at mixer\).*pad the samples instead"):
        regard.explain(strong(Beside(Mixer(nested))), noise(2, TOKENS, WIDTH), 1)


@pytest.mark.parametrize(
    "brought", [lambda t, x: t.to(x), lambda t, x: t.type_as(x), lambda t, x: t.to(x.device, x.dtype)]
)
def test_a_tensor_that_lends_its_type_lends_no_rows(brought: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Constants after the tokens, brought to their type: the first token looks at both, and its map is of tokens alone."""
    prefix, x = noise(2, TOKENS, WIDTH, seed=7).double(), noise(2, TOKENS, WIDTH)
    model = strong(Beside(Mixer(lambda m, x: torch.cat([x, brought(prefix, x)], 1)), early=True))
    both = torch.cat([x, prefix.float()], 1)
    q, k, _ = model.qkv[1](both).chunk(3, -1)
    expected = (q @ k.mT / 3).softmax(-1)[:, 0, :TOKENS]
    found = regard.explain(model, x, 1, "raw_attention").scores["input"]
    assert torch.allclose(found, expected, atol=1e-6)
