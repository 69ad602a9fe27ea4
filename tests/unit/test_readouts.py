"""Heads that read by a maximum, the k largest, or a gate: which rows are read, how much, and what the receipt says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.recording import record
from support.tiny import noise, strong

WIDTH, TOKENS = 8, 6
Pool = Callable[[Any, Tensor], Tensor]


class Pooled(nn.Module):
    """Two layers of attention and a head that pools; `O` of the last one and `A` of both are kept for the test."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.gate, self.value, self.score = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        self.query, self.head = nn.Parameter(torch.randn(WIDTH)), nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        self.maps = []
        for layer in self.qkv:
            q, k, v = layer(x).chunk(3, -1)
            self.maps.append((q @ k.mT / 3).softmax(-1))
            self.O = self.maps[-1] @ v
            x = x + self.O
        return self.head(self.pool(self, x))


def by_score(m: Pooled, x: Tensor, k: int) -> Tensor:
    """The k tokens with the highest scores, (batch, k, width)."""
    return x.gather(1, m.score(x).topk(k, 1).indices.expand(-1, -1, WIDTH))


def gated(m: Pooled, x: Tensor) -> Tensor:
    weights = m.score(m.gate(x).tanh() * m.value(x).sigmoid()).softmax(1)
    return (weights * x).sum(1)


POOLS: dict[str, Pool] = {
    "max": lambda m, x: x.max(1).values,
    "max, by keyword": lambda m, x: torch.max(x, dim=1)[0],
    "amax": lambda m, x: x.amax(1),
    "a pooling module": lambda m, x: F.adaptive_max_pool1d(x.mT, 1)[..., 0],
    "the largest of scores": lambda m, x: m.gate(x).amax(1),
    "topk, side by side": lambda m, x: x.topk(3, 1).values.flatten(1),
    "topk, averaged": lambda m, x: x.topk(3, dim=1)[0].mean(1),
    "sorted": lambda m, x: x.sort(1, descending=True).values[:, :2].mean(1),
    "median": lambda m, x: x.median(1).values,
    "a smooth maximum": lambda m, x: x.logsumexp(1),
    "max and mean": lambda m, x: torch.cat([x.max(1).values, x.mean(1)], -1),
    "the first and the max of the others": lambda m, x: x[:, 0] + x[:, 1:].max(1).values,
    "the first and the mean of the others": lambda m, x: x[:, 0] + x[:, 1:].mean(1),
    "the two best tokens": lambda m, x: by_score(m, x, 2).mean(1),
    "the two longest, side by side": lambda m, x: x[torch.arange(len(x))[:, None], x.norm(dim=-1).topk(2).indices].flatten(1),
    "the best token": lambda m, x: by_score(m, x, 1)[:, 0],
    "the best token, by a matrix": lambda m, x: torch.einsum("bn,bnd->bd", F.one_hot(m.score(x)[..., 0].argmax(1), 6).to(x), x),
}  # fmt: skip
GATED: dict[str, Pool] = {
    "gated": gated,
    "attentive": lambda m, x: (m.score(x).softmax(1).mT @ x)[:, 0],
    "a learned query": lambda m, x: ((x @ m.query).softmax(1)[:, None] @ x)[:, 0],
}


def built(pool: Pool) -> tuple[Pooled, Tensor]:
    model, x = Pooled(pool), noise(3, TOKENS, WIDTH)
    model(x)
    return strong(model, 0.6).double(), x.double()  # type: ignore[return-value]


def held(model: Pooled, x: Tensor) -> Tensor:
    """r and gae's map are those of the formula; gives r, (sample, row)."""
    y = model(x)[:, 1].sum()
    *G, dO = torch.autograd.grad(y, [*model.maps, model.O])
    r = dO.norm(dim=-1)
    r = r / r.sum(1, keepdim=True)
    recording = record(model, x)
    (found,) = recording.readout(recording.gradients(recording.output[:, 1])).values()
    torch.testing.assert_close(found[:, recording.stream("input").rows].double(), r)
    E = [(A * g).clamp(min=0).detach() for A, g in zip(model.maps, G, strict=True)]
    R = torch.eye(TOKENS).double() + E[0]
    R = R + E[1] @ R
    expected = (r[:, None] @ R)[:, 0] - r
    exp = regard.explain(model, x, 1)
    torch.testing.assert_close(exp.scores["input"].double(), expected, atol=1e-6, rtol=1e-5)
    return r


def in_words(counts: Tensor) -> str:
    """How many rows each sample reads, as the receipt says it."""
    least, most = int(counts.min()), int(counts.max())
    if most == 1:
        return "input[one per sample]"
    return f"{most if least == most else f'{least} to {most}'} tokens of input, weighted by gradient norm"


@pytest.mark.parametrize("name", POOLS)
def test_rows_that_a_maximum_takes_are_read(name: str) -> None:
    model, x = built(POOLS[name])
    receipt = regard.explain(model, x, 1).receipt
    assert receipt.readout == f"{in_words((held(model, x) > 0).sum(1))}, found from the gradient"
    assert receipt.notes == []
    assert regard.verify(model, x)


def test_samples_of_which_a_maximum_takes_more_and_fewer() -> None:
    model, x = built(POOLS["max"])
    counts = (held(model, x) > 0).sum(1).tolist()
    assert min(counts) < max(counts)
    assert regard.explain(model, x, 1).receipt.readout.startswith(f"{min(counts)} to {max(counts)} tokens of input, ")
    for i, count in enumerate(counts):
        assert regard.explain(model, x[i : i + 1], 1).receipt.readout.startswith(f"{count} tokens of input, ")


@pytest.mark.parametrize("name", GATED)
def test_a_gate_over_tokens_is_a_softmax_that_maps_do_not_follow(name: str) -> None:
    model, x = built(GATED[name])
    assert bool((held(model, x) > 0).all())
    receipt = regard.explain(model, x, 1).receipt
    assert receipt.readout == "6 tokens of input, weighted by gradient norm, found from the gradient"
    assert receipt.notes == ["tokens are mixed outside attention (softmax), which maps do not follow"]


SUMMARIES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "the first": (lambda x: x[:, 0], ""),
    "a sum of two": (lambda x: x[:, 0] + x[:, 1], "add of different tokens"),
    "the max added": (lambda x: x[:, 0] + x[:, 1:].max(1).values, "max of different tokens"),
    "the mean added": (lambda x: x[:, 0] + x[:, 1:].mean(1), "mean of different tokens"),
}


class Summarised(nn.Module):
    """What a head would read is the query of another attention."""

    def __init__(self, summary: Callable[[Tensor], Tensor], fused: bool) -> None:
        super().__init__()
        self.summary, self.fused = summary, fused
        self.qkv, self.head = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2)), nn.Linear(WIDTH, 3)

    def attend(self, layer: int, x: Tensor, y: Tensor) -> Tensor:
        (q, _, _), (_, k, v) = (self.qkv[layer](t).chunk(3, -1) for t in (x, y))
        return x + (F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.mT).softmax(-1) @ v)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attend(0, x, x)
        return self.head(self.attend(1, self.summary(x)[:, None], x)[:, 0])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", SUMMARIES)
def test_a_summary_that_attention_reads_is_mixed(name: str, fused: bool) -> None:
    summary, says = SUMMARIES[name]
    model, x = strong(Summarised(summary, fused)), noise(2, TOKENS, WIDTH)
    told = [f"tokens are mixed outside attention ({says}), which maps do not follow"] if says else []
    assert regard.explain(model, x, 1).receipt.notes == told
    proof = regard.verify(model, x)
    assert proof.contradictions == []
    assert bool(proof.mixed) == bool(says)
