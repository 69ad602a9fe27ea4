"""What an attention is, seen whole: the same function written in one call or in several gives the same maps.

Each model here is the same layers as `Whole`, with the same weights, written as different people write them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard import Site
from regard.errors import Misuse, RegardError
from regard.recording import record
from support.families import noise, strong
from support.spellings import ADDED, METHODS, SPELLINGS, TOKENS, WIDTH, Apart, Relative, TwoKeys, Whole, like


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_function_has_one_map(whole: nn.Module, spelling: Callable[[], nn.Module]) -> None:
    other, x = like(whole, spelling), noise(2, TOKENS, WIDTH)
    assert torch.allclose(other(x), whole(x), atol=1e-5)
    for a, b in zip(*(regard.explain(m, x, 1, [*METHODS], steps=2) for m in (whole, other)), strict=True):
        for name, expected in a.scores.items():
            assert float((b.scores[name] - expected).abs().max()) <= 1e-5 * float(expected.abs().max()), a.method


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_layers_are_attentions(whole: nn.Module, spelling: Callable[[], nn.Module]) -> None:
    """Numbers of layers, sites and the number of attentions do not depend on how many calls a layer makes."""
    other, x = like(whole, spelling), noise(2, TOKENS, WIDTH)
    assert len(record(other, x).attentions) == Whole.layers
    for method, options in (
        ("corrected_attention", {"layers": 1, "sign": "absolute"}),
        ("gae", {"start_layer": 1}),
        ("integrated_gradients", {"site": Site.attention(1), "steps": 3}),
    ):
        a, b = (regard.explain(m, x, 1, method, measure="full", **options) for m in (whole, other))
        assert torch.allclose(a.scores["input"], b.scores["input"], rtol=1e-4, atol=1e-6), method
        assert torch.allclose(a.receipt.attribution_target, b.receipt.attribution_target, atol=1e-5)
    with pytest.raises(Misuse, match="3 attentions"):
        regard.explain(other, x, 1, "gae", start_layer=3)


@pytest.mark.parametrize("how", ADDED)
def test_added_attentions_are_one_however_they_are_added(how: str) -> None:
    torch.manual_seed(5)
    model = TwoKeys(how).eval()
    given = {n: noise(2, TOKENS, WIDTH, seed=i) / 2 for i, n in enumerate("xyz")}
    x, parts = given["x"], []
    for _ in range(2):
        A = [(x @ given[n].mT).softmax(-1) for n in "yz"]
        x = x + A[0] @ given["y"] + A[1] @ given["z"]
        parts.append(A)
    # rows of A over the attention sum to 2, so each layer keeps 1/3 of a row's relevance
    expected = {n: sum(3.0 ** -(2 - layer) * parts[layer][i][:, 0] for layer in range(2)) for i, n in enumerate("yz")}
    found = regard.explain(model, given, 1, "rollout").scores
    for name, e in expected.items():
        assert torch.allclose(found[name], e, atol=1e-6), name
    assert torch.allclose(found["x"][:, 0], torch.full((2,), 1 / 9), atol=1e-6)


class TwoHalves(nn.Module):
    """A tower for each half of the tokens; each has a read-out of its own."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.added, self.heads = ADDED[how], nn.ModuleList(nn.Linear(WIDTH, 3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        towers = [t + (t @ t.mT / 4).softmax(-1) @ t for t in x.split(TOKENS // 2, 1)]
        return self.added([head(t[:, 0]) for head, t in zip(self.heads, towers, strict=True)])


@pytest.mark.parametrize("how", ADDED)
def test_added_towers_are_no_rows_of_one_attention(how: str) -> None:
    x = noise(2, TOKENS, WIDTH)
    found = regard.explain(strong(TwoHalves(how)), x, 1, "rollout").scores["input"]
    each = [(torch.eye(TOKENS // 2) + (t @ t.mT / 4).softmax(-1))[:, 0] / 2 for t in x.split(TOKENS // 2, 1)]
    assert torch.allclose(found, torch.cat(each, 1), atol=1e-6)


# -- one map, several values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["einsum", "bmm", "edges", "halves"])
def test_a_map_that_multiplies_several_values_is_one_call(how: str) -> None:
    torch.manual_seed(2)
    model, x = strong(Relative(how)), noise(2, TOKENS, WIDTH)
    raw, gae, signed = regard.explain(model, x, 1, ["raw_attention", "gae", "corrected_attention"], sign="signed")
    y = model(x)[:, 1].sum()
    (G,) = torch.autograd.grad(y, model.a)
    assert torch.allclose(raw.scores["input"], model.a.mean(1)[:, 0], atol=1e-6)
    assert torch.allclose(gae.scores["input"], (model.a * G).clamp(min=0).mean(1)[:, 0], atol=1e-5)
    assert torch.allclose(signed.scores["input"], (model.a * G).mean(1)[:, 0], atol=1e-5)
    T = signed.receipt.attribution_target  # A = 0 silences every product
    assert torch.allclose(T, (model(x) - model.head(x[:, 0]))[:, 1].detach(), atol=1e-5)


@pytest.mark.parametrize("method", ["bti_head", "integrated_gradients"])
def test_what_a_shared_map_cannot_give_is_refused_by_name(method: str) -> None:
    options = {"site": Site.attention(0)} if method == "integrated_gradients" else {}
    with pytest.raises(Misuse, match="multiplies several values"):
        regard.explain(strong(Relative("einsum")), noise(1, TOKENS, WIDTH), 1, method, **options)


# -- values have tokens of their own ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("move", "rows"),
    [
        (lambda v: v.flip(1), [5, 4, 3, 2, 1, 0]),
        (lambda v: v.roll(1, 1), [5, 0, 1, 2, 3, 4]),
        (lambda v: F.pad(v[:, :-1], (0, 0, 1, 0)), [None, 0, 1, 2, 3, 4]),
    ],
)
def test_relevance_goes_to_the_values_tokens(move: Callable[[Tensor], Tensor], rows: list[int | None]) -> None:
    model, x = Apart(move).eval(), noise(2, TOKENS, WIDTH)
    found = regard.explain(model, x, 1, "raw_attention")
    expected = torch.zeros(2, TOKENS)
    for place, row in enumerate(rows):
        if row is not None:
            expected[:, row] = model.a[:, 0, place]
    assert torch.allclose(found.scores["input"], expected, atol=1e-6)
    assert any("take the values of others" in n for n in found.receipt.notes)


def test_values_of_another_input() -> None:
    model, given = Apart().eval(), {"x": noise(2, TOKENS, WIDTH), "y": noise(2, TOKENS, WIDTH, seed=8)}
    found = regard.explain(model, given, 1, "raw_attention")
    assert torch.allclose(found.scores["y"], model.a[:, 0], atol=1e-6)
    assert not found.scores["x"].any()
    assert any("compare with tokens of x" in n for n in found.receipt.notes)


def test_values_that_mix_tokens_are_refused() -> None:
    half = Apart(lambda v: torch.cat([v[..., :6], v[..., 6:].roll(1, 1)], -1)).eval()
    with pytest.raises(RegardError, match="values mix several tokens along their width"):
        regard.explain(half, noise(1, TOKENS, WIDTH), 1, "gae")


# -- rows that each of queries, keys, values and the shortcut pools in a way of its own --------------------------------


class Pooled(nn.Module):
    """Multiscale attention (MViT): a layer whose rows are pairs of tokens; `maps` are kept for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.pool, self.head = nn.Conv1d(WIDTH, WIDTH, 2, 2, groups=WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.first(x).chunk(3, -1)
        a = (q @ k.mT / 4).softmax(-1)
        x = x + a @ v
        q, k, v = (t.mT for t in self.second(x).chunk(3, -1))
        q, k, v = self.pool(q).mT, F.max_pool1d(k, 2).mT, F.avg_pool1d(v, 2).mT
        b = (q @ k.mT / 4).softmax(-1)
        self.maps = a, b
        return self.head(F.max_pool1d(x.mT, 2).mT + q + b @ v)[:, 0]


def test_rows_pooled_in_several_ways_are_the_same_rows() -> None:
    torch.manual_seed(6)
    model, x = strong(Pooled()), noise(2, TOKENS, WIDTH)
    rollout, gae = regard.explain(model, x, 1, ["rollout", "gae"])
    y = model(x)[:, 1].sum()
    a, b = model.maps
    P = torch.eye(TOKENS // 2).repeat_interleave(2, 1) / 2
    I, J = torch.eye(TOKENS), torch.eye(TOKENS // 2)
    assert torch.allclose(rollout.scores["input"], ((J + b) / 2 @ P @ (I + a) / 2)[:, 0], atol=1e-6)
    E, F_ = ((m * g).clamp(min=0) for m, g in zip((a, b), torch.autograd.grad(y, (a, b)), strict=True))
    assert torch.allclose(gae.scores["input"], ((J + F_) @ P @ (I + E) - P)[:, 0], atol=1e-5)
    assert not regard.verify(model, x).contradictions
