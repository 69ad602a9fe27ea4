"""Attention by sparsemax and entmax: rows sum to 1, zeros are exact, and a zero is no mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.recording import record

torch.set_num_threads(1)
Weigh = Callable[[Tensor], Tensor]


def sparsemax(scores: Tensor) -> Tensor:
    """The projection onto the simplex (Martins & Astudillo, 2016), by sorting."""
    z = scores.sort(-1, descending=True).values
    above = z.cumsum(-1) - 1
    k = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    support = (k * z > above).sum(-1, keepdim=True)
    return (scores - above.gather(-1, support - 1) / support).clamp(min=0)


def of_the_package(name: str, **how: Any) -> Weigh:
    def weigh(scores: Tensor) -> Tensor:
        entmax = pytest.importorskip("entmax")
        weights: Tensor = getattr(entmax, name)(scores, dim=-1, **how)
        return weights

    return weigh


WEIGHTS: dict[str, Weigh] = {
    "by hand": sparsemax,
    "sparsemax": of_the_package("sparsemax"),
    "sparsemax, partly sorted": of_the_package("sparsemax", k=2),
    "entmax15": of_the_package("entmax15"),
    "entmax by bisection": of_the_package("entmax_bisect", alpha=1.3),
    "normmax": of_the_package("normmax_bisect"),
}


class Sparse(nn.Module):
    """Two residual layers, a head on the mean of all rows; in double precision. `maps`: A of each layer as it was made."""

    def __init__(self, weigh: Weigh) -> None:
        super().__init__()
        self.weigh, self.maps = weigh, list[Tensor]()
        self.qkv = nn.ModuleList(nn.Linear(8, 24, bias=False) for _ in range(2))
        self.head = nn.Linear(8, 3)
        for i, p in enumerate(self.parameters()):
            nn.init.normal_(p, std=0.6, generator=torch.Generator().manual_seed(i))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        self.maps = []
        for layer in self.qkv:
            q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in layer(x).chunk(3, -1))
            self.maps.append(self.weigh(q @ k.transpose(-1, -2)))
            x = x + (self.maps[-1] @ v).transpose(1, 2).flatten(2)
        logits: Tensor = self.head(x.mean(1))
        return logits


def inputs() -> Tensor:
    return torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", WEIGHTS)
def test_maps_are_the_models_own_and_so_are_their_gradients(name: str) -> None:
    model = Sparse(WEIGHTS[name])
    recording = record(model, {"x": inputs()}, target=1)
    bound = recording.gradients().calls
    y = model(inputs())[:, 1].sum()
    expected = torch.autograd.grad(y, model.maps)
    for call, A, G in zip(bound, model.maps, expected, strict=True):
        _, mine, gradient = call.rows(torch.arange(6))
        assert torch.equal(mine, A.detach())
        torch.testing.assert_close(mine.sum(-1), torch.ones(2, 2, 6, dtype=torch.float64), rtol=0, atol=1e-9)
        assert bool((mine == 0).any())
        torch.testing.assert_close(gradient, G, rtol=1e-9, atol=1e-12)


def test_gae_is_the_product_of_the_sparse_maps() -> None:
    model = Sparse(sparsemax)
    y = model(inputs())[:, 1].sum()
    A, G = model.maps, torch.autograd.grad(y, model.maps)
    R = torch.eye(6, dtype=torch.float64).repeat(2, 1, 1)
    for a, g in zip(A, G, strict=True):
        R = R + (a * g).clamp(min=0).mean(1) @ R
    expected = (R - torch.eye(6)).mean(1)
    found = regard.explain(model, {"x": inputs()}, 1, readout="mean").scores["x"]
    torch.testing.assert_close(found, expected.detach().float(), rtol=1e-5, atol=1e-6)


def test_a_token_that_nobody_looks_at_is_no_padding() -> None:
    """Its attention is exactly zero in every row of every call, and it still counts in the mean."""
    model, x = Sparse(sparsemax), inputs()
    for layer in model.qkv:
        layer.weight.data[:17] = 0.0  # the first feature stays as it is
        layer.weight.data[[0, 4, 8, 12], 0] = 1.0  # both heads look by it alone
    x[..., 0] = torch.tensor([9.0, 9.0, 9.0, 9.0, 9.0, 1.0])
    recording = record(model, {"x": x}, target=0)
    assert all(bool((c.rows(torch.arange(6)).A[..., 5] == 0).all()) for c in recording.calls)
    assert not bool(recording.padded["x"].any())
    found = regard.explain(model, {"x": x}, 0, method="input_x_gradient").scores["x"]
    x.requires_grad_()
    (g,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    torch.testing.assert_close(found, (x * g).sum(-1).detach().float())
    assert bool((found[:, 5] != 0).all())


def test_a_softmax_by_hand_still_tells_its_padding() -> None:
    hidden = torch.tensor([False, False, False, False, True, True])

    def by_hand(scores: Tensor) -> Tensor:
        e = scores.masked_fill(hidden, -torch.inf).exp()
        return e / e.sum(-1, keepdim=True)

    recording = record(Sparse(by_hand), {"x": inputs()}, target=0)
    assert recording.padded["x"].tolist() == [hidden.tolist()] * 2
