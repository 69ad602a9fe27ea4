"""Complete correction against a model of three layers whose backward pass is written out by hand, in float64."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.recording import record
from regard.recording.backward import Correction

torch.set_num_threads(1)
WIDTH, HEADS, TOKENS, LAYERS = 8, 2, 5, 3
SIZE = WIDTH // HEADS
SIGNS = ["positive", "negative", "absolute", "signed"]


def attention_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) / SIZE**0.5).softmax(-1) @ v


class Layer(nn.Module):
    """x + W_O attention(x), then x + W₂ tanh(W₁ x); `written`: the model makes its own softmax."""

    def __init__(self, written: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o, self.w1, self.w2 = (nn.Linear(WIDTH, WIDTH) for _ in range(6))
        self.written = written

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for w in (self.q, self.k, self.v))
        O = attention_by_hand(q, k, v) if self.written else F.scaled_dot_product_attention(q, k, v)
        x = x + self.o(O.transpose(1, 2).flatten(2))
        return x + self.w2(self.w1(x).tanh())


class Model(nn.Module):
    """Three layers, and a head that reads the first token."""

    def __init__(self, written: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(written) for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])


class Kept(NamedTuple):
    """What one layer's forward pass leaves for its backward pass, of one sample."""

    x: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    A: Tensor
    hidden: Tensor


def corrected(sign: str, g: float) -> float:
    """M of one gradient."""
    return {"positive": float(g > 0), "negative": float(g < 0), "absolute": float((g > 0) - (g < 0)), "signed": 1.0}[
        sign
    ]


class Hand:
    """Forward and backward of one sample, written out: loops over heads, rows and keys."""

    def __init__(self, model: Model, sign: str, m: Tensor) -> None:
        self.model, self.sign, self.m = model, sign, m
        self.G: list[Tensor] = []
        self.shares: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> list[Kept]:
        kept = []
        for layer in self.model.layers:
            assert isinstance(layer, Layer)
            q, k, v = (x @ w.weight.T + w.bias for w in (layer.q, layer.k, layer.v))
            A, O = torch.zeros(HEADS, TOKENS, TOKENS, dtype=x.dtype), torch.zeros(TOKENS, WIDTH, dtype=x.dtype)
            for h in range(HEADS):
                of = slice(h * SIZE, (h + 1) * SIZE)
                for i in range(TOKENS):
                    scores = torch.stack([(q[i, of] * k[j, of]).sum() / SIZE**0.5 for j in range(TOKENS)])
                    A[h, i] = scores.exp() / scores.exp().sum()
                    O[i, of] = sum(A[h, i, j] * v[j, of] for j in range(TOKENS))
            middle = x + O @ layer.o.weight.T + layer.o.bias
            hidden = (middle @ layer.w1.weight.T + layer.w1.bias).tanh()
            kept.append(Kept(x, q, k, v, A, hidden))
            x = middle + hidden @ layer.w2.weight.T + layer.w2.bias
        return kept

    def backward(self, x: Tensor, c: int) -> Tensor:
        """∂′y/∂x, G of each layer on the way (from last to first)."""
        kept = self.forward(x)
        g = torch.zeros_like(x)
        g[0] = self.model.head.weight[c]
        for layer, at in zip(reversed(self.model.layers), reversed(kept), strict=True):
            assert isinstance(layer, Layer)
            g = g + (g @ layer.w2.weight * (1 - at.hidden**2)) @ layer.w1.weight
            dq, dk, dv = self._attention(at, g @ layer.o.weight)
            g = g + dq @ layer.q.weight + dk @ layer.k.weight + dv @ layer.v.weight
        return g

    def _attention(self, at: Kept, dO: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = torch.zeros_like(at.q), torch.zeros_like(at.k), torch.zeros_like(at.v)
        G, M = torch.zeros_like(at.A), torch.zeros_like(at.A)
        for h in range(HEADS):
            of = slice(h * SIZE, (h + 1) * SIZE)
            for i in range(TOKENS):
                for j in range(TOKENS):
                    G[h, i, j] = (dO[i, of] * at.v[j, of]).sum()
                    M[h, i, j] = corrected(self.sign, float(G[h, i, j])) * self.m[j]
                inner = sum(at.A[h, i, j] * M[h, i, j] * G[h, i, j] for j in range(TOKENS))
                for j in range(TOKENS):
                    dS = at.A[h, i, j] * (M[h, i, j] * G[h, i, j] - inner)
                    dq[i, of] += dS * at.k[j, of] / SIZE**0.5
                    dk[j, of] += dS * at.q[i, of] / SIZE**0.5
                    dv[j, of] += at.A[h, i, j] * M[h, i, j] * dO[i, of]
        self.G.append(G)
        self.shares.append(((dv * at.v).sum(1), (M * at.A * G).sum((0, 1))))
        return dq, dk, dv


def parts(written: bool) -> tuple[Model, Tensor]:
    torch.manual_seed(3)
    model, x = Model(written).double().eval(), torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    for p in model.parameters():
        p.data *= 2
    return model, x


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("written", [False, True])
def test_complete_correction_is_the_backward_pass_by_hand(written: bool, sign: str, guided: bool) -> None:
    model, x = parts(written)
    m = (
        torch.tensor([1.0, 0.3, 0.0, 0.8, 0.5], dtype=torch.float64)
        if guided
        else torch.ones(TOKENS, dtype=torch.float64)
    )
    recording = record(model, x, correctable=True)
    rows = torch.ones_like(recording.zeros())
    rows[:, recording.stream("input").rows] = m
    y = recording.output[:, 1]
    found = recording.gradients(y, keep=True, correction=Correction(sign, rows if guided else None))
    plain = recording.gradients(y)
    with torch.no_grad():
        for s in range(2):
            hand = Hand(model, sign, m)
            expected = hand.backward(x[s], 1)
            torch.testing.assert_close(found.inputs["input"][s], expected, rtol=1e-9, atol=1e-12)
            for call, G in zip(reversed(found.calls), hand.G, strict=True):
                torch.testing.assert_close(call.rows(torch.arange(TOKENS)).G[s], G, rtol=1e-9, atol=1e-12)
            for moved, share in hand.shares:
                torch.testing.assert_close(moved, share, rtol=1e-9, atol=1e-12)
    if sign != "signed" or guided:
        assert float((found.inputs["input"] - plain.inputs["input"]).abs().max()) > 1e-3


@pytest.mark.parametrize("sign", SIGNS)
def test_what_comes_back_to_the_values_is_what_was_corrected(sign: str) -> None:
    """Σ_ch dV′_j · v_j = Σ_i (M⊙A⊙G)_ij, of the library's own gradients."""
    model, x = parts(False)
    recording = record(model, x, correctable=True)
    assert recording.correctable is not None
    y = recording.output[:, 1]
    recording.correctable.rule = Correction(sign)
    call = recording.calls[1]
    (dv,) = torch.autograd.grad(y.sum(), [call.v], retain_graph=True)
    bound = recording.gradients(y, correction=Correction(sign)).calls[1]
    A, G = bound.rows(torch.arange(TOKENS))[1:]
    M = {
        "positive": (G > 0).double(),
        "negative": (G < 0).double(),
        "absolute": G.sign(),
        "signed": torch.ones_like(G),
    }[sign]
    torch.testing.assert_close((dv * call.v.detach()).sum(-1), (M * A * G).sum(2), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sign", SIGNS)
def test_the_map_is_the_walk_over_the_corrected_edges(sign: str) -> None:
    model, x = parts(False)
    with torch.no_grad():
        for s in range(2):
            hand = Hand(model, sign, torch.ones(TOKENS, dtype=torch.float64))
            kept = hand.forward(x[s])
            hand.backward(x[s], 1)
            R = torch.eye(TOKENS, dtype=torch.float64)
            for at, G in zip(kept, reversed(hand.G), strict=True):
                AG = at.A * G
                E = {"positive": AG.clamp(min=0), "negative": (-AG).clamp(min=0), "absolute": AG.abs(), "signed": AG}[
                    sign
                ]
                R = (torch.eye(TOKENS, dtype=torch.float64) + E.mean(0)) @ R
            found = regard.explain(model, x, 1, "corrected_attention", sign=sign, correction="complete")
            assert isinstance(found, regard.Explanation)
            expected = (R - torch.eye(TOKENS, dtype=torch.float64))[0]
            torch.testing.assert_close(found.scores["input"][s].double(), expected, rtol=2e-6, atol=1e-8)
