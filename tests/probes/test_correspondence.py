"""What a state is about, and attention beside removal: models of known answer, Jacobians, tokens that are really cut out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import regard
from regard.errors import Misuse, ModelError, UnknownName
from regard.probes.correspondence import spearman
from support.probe_models import Blocks, Layers, drawn

torch.set_num_threads(1)
BATCH, TOKENS = 2, 5


def same(found: Tensor, expected: float) -> None:
    torch.testing.assert_close(found, torch.full_like(found, expected), rtol=0, atol=1e-9)


def test_a_model_that_mixes_nothing_and_one_that_mixes_all() -> None:
    x = drawn(BATCH, TOKENS, 6)
    still = regard.probe.correspondence(Blocks("still", "still"), x)
    same(still.own_share, 1.0)
    same(still.entropy, 0.0)
    even = regard.probe.correspondence(Blocks("still", "even"), x)
    same(even.own_share[0], 1.0)
    same(even.own_share[1], 1 / TOKENS)
    same(even.entropy[1], 1.0)
    same(even.attention[1], 1 / TOKENS)
    assert bool(even.correlation[1].isnan().all())  # all tokens get the same


def states(model: Blocks, x: Tensor) -> list[Tensor]:
    out = []
    for block in model.blocks:
        x = block(x)
        out.append(x)
    return out


def test_every_number_is_that_of_its_definition() -> None:
    model, x = Blocks("mixed", "mixed"), drawn(BATCH, TOKENS, 6)
    found = regard.probe.correspondence(model, {"x": x}, 1, draws=None)
    for b in range(BATCH):
        jacobians = torch.autograd.functional.jacobian(lambda t: tuple(states(model, t)), x[b : b + 1])
        for layer, J in enumerate(jacobians):
            for i in range(TOKENS):
                size = torch.stack([J[0, i, :, 0, j].norm() for j in range(TOKENS)])
                p = size / size.sum()
                assert float(found.own_share[layer, b, i]) == pytest.approx(float(p[i]), abs=1e-9)
                entropy = float(-(p * p.log()).sum() / torch.tensor(TOKENS).double().log())
                assert float(found.entropy[layer, b, i]) == pytest.approx(entropy, abs=1e-9)
        y = model(x[b : b + 1])[0, 1].detach()
        for i in range(TOKENS):
            kept = [j for j in range(TOKENS) if j != i]
            without = model(x[b : b + 1, kept])[0, 1].detach()
            assert float(found.drop[b, i]) == pytest.approx(float(y - without), abs=1e-6)


def test_attention_is_the_mean_over_rows_and_the_correlation_is_of_ranks() -> None:
    model, x = Blocks("mixed"), drawn(BATCH, TOKENS, 6)
    found = regard.probe.correspondence(model, x, 0, draws=1)
    q, k, _ = model.blocks[0].qkv(x).detach().chunk(3, -1)
    torch.testing.assert_close(found.attention[0], torch.softmax(q @ k.transpose(1, 2), -1).mean(1))
    for b in range(BATCH):
        ranks = [t.argsort().argsort().double() for t in (found.attention[0, b], found.drop[b])]
        expected = torch.corrcoef(torch.stack(ranks))[0, 1]
        assert float(found.correlation[0, b]) == pytest.approx(float(expected), abs=1e-12)
    tied = torch.tensor([[1.0, 1, 2, 3]], dtype=torch.float64)
    assert float(spearman(tied, torch.tensor([[0.0, 1, 2, 3]], dtype=torch.float64))) == pytest.approx(0.9486832981)


def test_random_directions_come_close_and_are_seeded() -> None:
    model, x = Blocks("mixed", "mixed"), drawn(1, TOKENS, 6)
    exact, many, again, other = (
        regard.probe.correspondence(model, x, 0, draws=d, seed=s).own_share
        for d, s in ((None, 0), (200, 0), (200, 0), (200, 1))
    )
    torch.testing.assert_close(many, exact, rtol=0.15, atol=0.02)
    assert torch.equal(many, again)
    assert not torch.equal(many, other)


def test_a_sample_alone_and_some_tokens(tmp_path: Path) -> None:
    model, x = Blocks("mixed", "mixed"), drawn(BATCH, TOKENS, 6)
    both, one = (regard.probe.correspondence(model, t, 2) for t in (x, x[:1]))
    torch.testing.assert_close(both.own_share[:, :1], one.own_share)
    torch.testing.assert_close(both.drop[:1], one.drop)
    few = regard.probe.correspondence(model, x, 2, tokens=2)
    assert few.tokens.tolist() == [0, 4]
    torch.testing.assert_close(few.own_share, both.own_share[..., [0, 4]])
    text = both.to_html(tmp_path / "page.html").read_text("utf-8")
    assert "blocks.1" in text
    assert len(str(both).splitlines()) == 4


def test_tokens_that_reach_the_target_past_attention_are_replaced_by_zeros() -> None:
    """Left out of attention, a token would go on through the convolution."""

    class Convolved(Blocks):
        def forward(self, x: Tensor) -> Tensor:
            shifted = torch.cat([x[:, :1], x[:, :-1]], 1)
            made: Tensor = super().forward(x) + self.head((x * shifted).sum(1))
            return made

    model, x = Convolved("mixed"), drawn(BATCH, TOKENS, 6)
    found = regard.probe.correspondence(model, x, 1, draws=1)
    assert "replaced by zeros" in found.taken
    for i in range(TOKENS):
        without = x.clone()
        without[:, i] = 0
        torch.testing.assert_close(found.drop[:, i], (model(x) - model(without))[:, 1].detach())
    assert regard.probe.correspondence(Blocks("mixed"), x, 1, draws=1).taken == "left out of attention"


def test_what_is_refused() -> None:
    x = drawn(1, TOKENS, 6)
    with pytest.raises(ModelError, match="no block"):
        regard.probe.correspondence(Layers(), x)
    with pytest.raises(UnknownName, match="unknown stream 'y'"):
        regard.probe.correspondence(Blocks("mixed"), x, stream="y")
    with pytest.raises(Misuse, match="draws is a whole number"):
        regard.probe.correspondence(Blocks("mixed"), x, draws=0)
