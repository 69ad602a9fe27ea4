"""The learned mask over keys: models whose support is known, objective and optimisation written out, what the receipt says."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.attribution.removal.attention_mask import MaskedRuns
from regard.attribution.rerun import Rerun
from regard.errors import Misuse
from regard.explanation.receipt import LearnedMask, Receipt
from regard.recording import record
from regard.recording.edits import MaskKeys, WeighKeys
from regard.report.receipt import lines
from regard.target import Target
from support.every_method import case_of
from support.tiny_clip import clip, inputs

torch.set_num_threads(1)


class Pointed(nn.Module):
    """A class token looks at the tokens whose first feature is high; y is largest where it finds each of three kinds there.

    y = 5 − 20 Σ_f (h_f − 1/3)²: without one of the three nothing makes up for it, and all other tokens count for nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.tensor([[[-4.0, 0, 0, 0]]]))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        k, v = h[..., None, :, :1], h[..., None, :, 1:]
        O = F.scaled_dot_product_attention(1 + 0 * k, k, v, scale=1.0)[:, 0, 0]
        y = 5 - 20 * ((O - 1 / 3) ** 2).sum(-1)
        return torch.stack([y, -y], -1)


SUPPORTS = ((1, 4, 6), (0, 2, 7))


def pointed() -> Tensor:
    """Two inputs of eight tokens, three of them the support."""
    x = torch.zeros(len(SUPPORTS), 8, 4)
    x[..., 0] = -4
    for b, support in enumerate(SUPPORTS):
        for kind, j in enumerate(support):
            x[b, j] = torch.tensor([4.0, *F.one_hot(torch.tensor(kind), 3).tolist()])
    return x


class Written(nn.Module):
    """Two layers of self-attention, two heads, in double precision; the first row, passed through a tanh, is read."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        draw = lambda *shape: nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))  # noqa: E731
        self.cls_token = draw(1, 1, 6)
        self.W = nn.ParameterList([draw(3, 6, 6) for _ in range(2)])
        self.head = draw(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for W in self.W:
            q, k, v = ((h @ w).unflatten(-1, (2, 3)).transpose(1, 2) for w in W)
            h = h + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return (h[:, 0] / 8).tanh() @ self.head * 3


def literal(model: Written, x: Tensor, M: Tensor) -> Tensor:
    """y of one sample, class 0, where attention is A ⊙ M over its sums: heads and rows one by one."""
    h, keep = torch.cat([model.cls_token[0], x]), torch.cat([torch.ones(1, dtype=M.dtype), M])
    for W in model.W:
        q, k, v = (h @ w for w in W)
        heads = []
        for part in (slice(0, 3), slice(3, 6)):
            rows = []
            for i in range(len(h)):
                A = torch.softmax(k[:, part] @ q[i, part] / math.sqrt(3), 0) * keep
                rows.append((A / A.sum()) @ v[:, part])
            heads.append(torch.stack(rows))
        h = h + torch.cat(heads, 1)
    return ((h[0] / 8).tanh() @ model.head * 3)[0]


def learned_by_hand(model: Written, x: Tensor, seed: int, steps: int, penalty: float, rate: float) -> Tensor:
    """p of one sample: draws, straight-through gradient and Adam written out."""
    n = len(x)
    generator = torch.Generator().manual_seed(seed ^ zlib.crc32(x.float().numpy().tobytes()))
    y, none = (literal(model, x, M).detach() for M in (torch.ones(n).double(), torch.zeros(n).double()))
    price = penalty * float((y - none).abs()) / n
    logits, mean, square = torch.full((n,), 2.0).double(), torch.zeros(n).double(), torch.zeros(n).double()
    for step in range(1, steps + 1):
        u = torch.rand(n, generator=generator, dtype=torch.float64)
        z = 1 / (1 + torch.exp(-(logits + torch.log(u / (1 - u)))))
        M = (z > 0.5).double().requires_grad_()
        (at_M,) = torch.autograd.grad((y - literal(model, x, M)).abs(), [M])
        p = 1 / (1 + torch.exp(-logits))
        g = at_M * z * (1 - z) + price * p * (1 - p)
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        logits = logits - rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    return 1 / (1 + torch.exp(-logits))


def written() -> tuple[Written, Tensor]:
    return Written().eval(), torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


# -- known by construction ----------------------------------------------------------------------------------------------


def test_it_finds_the_support() -> None:
    exp = regard.explain(Pointed().eval(), pointed(), 0, "attention_mask")
    mask = exp.receipt.mask
    for p, support in zip(exp.scores["input"], SUPPORTS, strict=True):
        assert tuple((p > 0.5).nonzero()[:, 0].tolist()) == support
        assert float(p[list(support)].min()) > 0.8
        assert float(p[[j for j in range(8) if j not in support]].max()) < 0.2
    assert mask.kept.tolist() == [3, 3]
    assert mask.keys.tolist() == [8, 8]
    assert mask.sparsity.tolist() == [1 - 3 / 8] * 2
    torch.testing.assert_close(mask.left, exp.receipt.target_value, rtol=0, atol=0.05)
    assert float(mask.none.max()) < 0


def test_without_a_penalty_all_is_kept() -> None:
    exp = regard.explain(Pointed().eval(), pointed(), 0, "attention_mask", penalty=0)
    assert exp.receipt.mask.kept.tolist() == [8, 8]
    assert float(exp.scores["input"].min()) > 0.5
    torch.testing.assert_close(exp.receipt.mask.left, exp.receipt.target_value)


def test_what_nothing_rests_on_is_left_out() -> None:
    """None of the kinds is there, and no mask moves y: no key is worth its place."""
    x = pointed()
    x[..., 1:] = 0
    exp = regard.explain(Pointed().eval(), x, 0, "attention_mask", steps=40)
    assert exp.receipt.mask.kept.tolist() == [0, 0]


# -- written out --------------------------------------------------------------------------------------------------------


def test_the_target_under_a_mask_is_the_one_written_out() -> None:
    model, x = written()
    recording = record(model, x)
    can = torch.zeros(2, recording.rows, dtype=torch.bool)
    can[:, recording.stream("input").rows] = True
    target = Target.make(0).on(model, recording.output)
    again = Rerun(model, recording.given, target, 2)
    runs = MaskedRuns(again, recording.merges, can, again.y(recording.output).detach().double())
    for seed, hard in ((0, True), (1, True), (2, False)):
        m = torch.rand(10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        m = (m > 0.5).double() if hard else m
        expected = torch.stack([literal(model, x[b], m.view(2, 5)[b]) for b in range(2)])
        torch.testing.assert_close(runs.at(m), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("penalty", "seed"), [(1.0, 0), (0.3, 7)])
def test_the_optimisation_is_the_one_written_out(penalty: float, seed: int) -> None:
    model, x = written()
    how = {"steps": 25, "penalty": penalty, "rate": 0.25}
    found = regard.explain(model, x, 0, "attention_mask", seed=seed, **how)
    expected = torch.stack([learned_by_hand(model, each, seed, **how) for each in x])
    torch.testing.assert_close(found.scores["input"].double(), expected, rtol=0, atol=1e-6)
    assert float(expected.max() - expected.min()) > 0.3
    left = [literal(model, each, (p > 0.5).double()) for each, p in zip(x, expected, strict=True)]
    torch.testing.assert_close(found.receipt.mask.left.double(), torch.stack(left).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "bert", "gpt2_left", "llama", "t5", "swin", "fours_heads"])
def test_a_mask_of_zeros_and_ones_hides_keys(name: str) -> None:
    """Weighing by 1 changes nothing, by 0 and 1 hides, and there is a gradient at 0: that of a small weight."""
    case = case_of(name)

    def y(*edits: object) -> Tensor:
        torch.manual_seed(0)
        return case.target(record(case.model, case.inputs, edits=edits).output)

    torch.manual_seed(0)
    recording = record(case.model, case.inputs)
    torch.testing.assert_close(y(WeighKeys(recording.zeros() + 1)), y(), rtol=1e-4, atol=1e-5)
    hidden = torch.zeros(recording.batch, recording.rows, dtype=torch.bool)
    hidden[:, 2::3] = True
    M = (~hidden).double().requires_grad_()
    masked = y(WeighKeys(M))
    torch.testing.assert_close(masked, y(MaskKeys(hidden)), rtol=1e-4, atol=1e-5)
    (g,) = torch.autograd.grad(masked.sum(), [M])
    assert bool(torch.isfinite(g).all())
    assert float(g[hidden].abs().max()) > 0


# -- what holds for it --------------------------------------------------------------------------------------------------


def test_few_at_a_time_are_all_together() -> None:
    """Where the memory budget has no room for the batch, samples run one after another."""
    model, x = written()
    how = {"target": 0, "method": "attention_mask", "steps": 4}
    forwards: list[int] = []
    handle = model.register_forward_hook(lambda m, i, o: forwards.append(len(i[0])))
    together = regard.explain(model, x, **how)
    assert set(forwards) == {2}
    apart = regard.explain(model, x, memory_budget=1, **how)
    handle.remove()
    assert set(forwards) == {1, 2}
    torch.testing.assert_close(apart.scores, together.scores, rtol=0, atol=1e-6)
    for name in ("keys", "kept", "left", "none"):
        torch.testing.assert_close(getattr(apart.receipt.mask, name), getattr(together.receipt.mask, name))


def test_the_seed_is_what_is_drawn_from() -> None:
    model, x = written()
    first, again, other = (
        regard.explain(model, x, 0, "attention_mask", steps=4, seed=s).scores["input"] for s in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_value_that_rests_on_several_samples() -> None:
    """Two pictures and one of three texts: each value has a mask of its own, over the keys of all."""
    exp = regard.explain(clip(), inputs(2, 3), Target.similarity(text=1), "attention_mask", steps=2)
    assert len(exp.receipt.mask.left) == len(exp.receipt.target_value) == 2
    for scores in exp.scores.values():
        assert 0 <= float(scores.min()) <= float(scores.max()) < 1
    assert float(exp.scores["pixel_values"].min()) > 0.5


def test_special_tokens_and_padding_have_no_mask() -> None:
    case = case_of("bert")
    exp = regard.explain(case.model, case.inputs, case.target, "attention_mask", steps=2)
    scores, hidden = exp.scores["input_ids"], case.hidden["input_ids"]
    assert float(scores[hidden].abs().max()) == 0
    assert float(scores[:, 0].abs().max()) == 0  # the position that is read
    assert exp.receipt.mask.keys.tolist() == (scores > 0).sum(1).tolist()


def test_the_receipt_says_what_is_kept(tmp_path: Path) -> None:
    model, x = written()
    exp = regard.explain(model, x, 0, "attention_mask", steps=3, measure="full")
    mask = exp.receipt.mask
    assert exp.receipt.attribution_error is None
    assert (mask.steps, mask.penalty) == (3, 1.0)
    said = {line.name: line for line in lines(exp, 1)}["mask"]
    assert said.value == f"keeps {int(mask.kept[1])} of 5 keys"
    assert exp.receipt.passes >= 1 + 2 * 3 + 2
    exp.save(tmp_path / "map.safetensors")
    loaded = regard.Explanation.load(tmp_path / "map.safetensors").receipt.mask
    assert loaded.as_dict() == mask.as_dict() == LearnedMask.from_dict(mask.as_dict()).as_dict()
    assert exp[1].receipt.mask.left.tolist() == mask.left[1:].tolist()
    assert Receipt.from_dict(exp.receipt.as_dict()).mask.as_dict() == mask.as_dict()
    assert regard.explain(model, x, 0).receipt.mask is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 201}, "steps is 200 at most"),
        ({"steps": 0}, "whole number from 1 to"),
        ({"penalty": -1}, "positive number or 0"),
        ({"rate": 0}, "rate is a positive number"),
    ],
)
def test_wrong_options(options: dict[str, int], says: str) -> None:
    model, x = written()
    with pytest.raises(Misuse, match=says):
        regard.explain(model, x, 0, "attention_mask", **options)
