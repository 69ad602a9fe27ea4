"""Attentions side by side: what is added is several attentions, what is joined along the features is heads of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.recording import record
from support.families import noise, strong
from support.spellings import TOKENS, WIDTH

STACKED, LOOKED_AT = 2, 2  # attentions side by side, heads of each

stack, cat = torch.stack, torch.cat

Joining = Callable[["SideBySide", list[Tensor]], Tensor]


class SideBySide(nn.Module):
    """Layers of attentions side by side, each of several heads; `join` makes one update of their outputs. `maps` are kept."""

    layers = 2

    def __init__(self, join: Joining) -> None:
        super().__init__()
        self.join, self.head = join, nn.Linear(WIDTH, 3)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(self.layers * STACKED))
        self.weights, self.scale = (
            nn.Parameter(torch.rand(STACKED) + 0.5),
            nn.Parameter(torch.rand(STACKED, WIDTH) + 0.5),
        )
        self.gate, self.both = nn.Linear(WIDTH, STACKED), nn.Linear(STACKED * WIDTH, WIDTH)
        self.mix, self.by_call = (nn.Parameter(torch.randn(STACKED, *more)) for more in ([STACKED], [WIDTH, WIDTH]))

    def forward(self, x: Tensor) -> Tensor:
        self.maps: list[list[Tensor]] = []
        for layer in range(self.layers):
            self.maps.append([])
            x = x + self.join(self, [self.attention(x, self.qkv[STACKED * layer + k]) for k in range(STACKED)])
        return self.head(x[:, 0])

    def attention(self, x: Tensor, qkv: nn.Module) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (LOOKED_AT, -1)).transpose(1, 2) for t in qkv(F.layer_norm(x, (WIDTH,))).chunk(3, -1)
        )
        self.maps[-1].append((q @ k.mT / 2).softmax(-1))
        return (self.maps[-1][-1] @ v).transpose(1, 2).flatten(2)


def empty(parts: list[Tensor], axis: int) -> Tensor:
    return torch.zeros(*parts[0].shape[:axis], len(parts), *parts[0].shape[axis:])


def into_buffer(parts: list[Tensor], axis: int) -> Tensor:
    out = empty(parts, axis)
    for k, part in enumerate(parts):
        out[(slice(None),) * axis + (k,)] = part
    return out


def copied_into_buffer(parts: list[Tensor], axis: int) -> Tensor:
    out = empty(parts, axis)
    for k, part in enumerate(parts):
        out.select(axis, k).copy_(part)
    return out


def added_into_buffer(parts: list[Tensor], axis: int) -> Tensor:
    out = empty(parts, axis)
    for k, part in enumerate(parts):
        out[(slice(None),) * axis + (k,)] += part
    return out


def index_added(parts: list[Tensor], axis: int) -> Tensor:
    out = empty(parts, axis)
    for k, part in enumerate(parts):
        out = out.index_add(axis, torch.tensor([k]), part.unsqueeze(axis))
    return out


def gated(gate: Tensor, parts: list[Tensor]) -> Tensor:
    return gate * parts[0] + (1 - gate) * parts[1]


SUMS: dict[str, Joining] = {
    "dropout": lambda m, p: F.dropout(stack(p), 0.1, m.training).sum(0),
    "constant weights": lambda m, p: (stack(p) * torch.tensor([0.3, 0.7]).view(-1, 1, 1, 1)).sum(0),
    "learned weights": lambda m, p: (m.weights.view(-1, 1, 1, 1) * stack(p)).sum(0),
    "weights in place": lambda m, p: stack(p).mul_(m.weights.detach().view(-1, 1, 1, 1)).sum(0),
    "layer scale": lambda m, p: (stack(p) * m.scale[:, None, None]).sum(0),
    "an activation": lambda m, p: F.gelu(stack(p)).sum(0),
    "a norm of each, the mean": lambda m, p: F.layer_norm(stack(p), (WIDTH,)).mean(0),
    "divided": lambda m, p: (stack(p, -1) / 2).sum(-1),
    "the greatest": lambda m, p: (stack(p, 1) * 2).amax(1),
    "einsum": lambda m, p: torch.einsum("k,kbnd->bnd", m.weights, stack(p)),
    "einsum of one": lambda m, p: torch.einsum("kbnd->bnd", stack(p)),
    "einsum, features kept": lambda m, p: torch.einsum("kbnd,kd->bnd", stack(p), m.scale),
    "einsum, weights of the row": lambda m, p: torch.einsum("bnk,bknd->bnd", m.gate(p[0]).softmax(-1), stack(p, 1)),
    "tensordot": lambda m, p: torch.tensordot(m.weights, stack(p), 1),
    "matmul": lambda m, p: stack(p, -1) @ m.weights,
    "matmul of all that is flattened": lambda m, p: (m.weights @ stack(p).flatten(1)).view(p[0].shape),
    "a linear layer": lambda m, p: F.linear(stack(p, -1), m.weights[None]).squeeze(-1),
    "a convolution": lambda m, p: F.conv2d(stack(p, 1), m.weights.view(1, -1, 1, 1)).squeeze(1),
    "cat along a new axis": lambda m, p: cat([t.unsqueeze(-1) for t in p], -1).sigmoid().sum(-1),
    "cat along a new axis, weighed": lambda m, p: cat([t[:, None] for t in p], 1).mul(m.weights.view(-1, 1, 1)).mean(1),
    "cat, cut, added": lambda m, p: sum(cat(p, -1).chunk(STACKED, -1)),
    "cat, unflattened, the mean": lambda m, p: cat(p, -1).unflatten(-1, (STACKED, WIDTH)).mean(-2),
    "unbound, added": lambda m, p: sum(stack(p).unbind()),
    "counted over": lambda m, p: sum(stack(p)),
    "a projection of each": lambda m, p: torch.einsum("kbnd,kde->kbne", stack(p), m.by_call).sum(0),
    "a bmm of each": lambda m, p: (stack(p).flatten(1, 2) @ m.by_call).sum(0).view(p[0].shape),
    "a gate of each": lambda m, p: (stack(p) * F.linear(stack(p), m.scale[:1]).softmax(0)).sum(0),
    "into a buffer": lambda m, p: (into_buffer(p, 0) * 2).sum(0),
    "copied into a buffer": lambda m, p: (copied_into_buffer(p, 0) * 2).sum(0),
    "added into a buffer": lambda m, p: (added_into_buffer(p, 0) * 2).sum(0),
    "added by an index": lambda m, p: (index_added(p, 0) * 2).sum(0),
    "into the middle of a buffer": lambda m, p: into_buffer(p, 2).mean(2),
    "one of them twice": lambda m, p: (stack([p[0], p[0] / 2, p[1]]) * m.weights.mean()).sum(0),
    "mixed, then added": lambda m, p: torch.einsum("kbnd,km->mbnd", stack(p), m.mix).sum(0),
    "a gate of both": lambda m, p: gated(torch.sigmoid(m.both(cat(p, -1))), p),
}  # fmt: skip

SIDES: dict[str, Joining] = {
    "stacked, flattened": lambda m, p: m.both(stack(p, 2).flatten(2)),
    "stacked, weighed, turned, flattened": lambda m, p: m.both((stack(p, 1) * m.scale[:, None]).transpose(1, 2).flatten(2)),
    "a norm of all": lambda m, p: m.both(F.layer_norm(stack(p, 2), (STACKED, WIDTH)).flatten(2)),
    "cat, an activation": lambda m, p: m.both(F.gelu(cat(p, -1))),
    "einsum with features": lambda m, p: torch.einsum("kbnd,kde->bne", stack(p), m.by_call),
    "tensordot with features": lambda m, p: torch.tensordot(stack(p, 2), m.by_call, 2),
    "a convolution of all features": lambda m, p: F.conv1d(cat(p, -1).mT, m.both.weight[..., None]).mT,
    "mixed, flattened": lambda m, p: m.both(torch.einsum("kbnd,km->bnmd", stack(p), m.mix).flatten(2)),
    "mixed by a linear layer": lambda m, p: m.both(F.linear(stack(p, -1), m.mix).flatten(2)),
    "into a buffer": lambda m, p: m.both(into_buffer(p, 2).flatten(2)),
    "copied into a buffer": lambda m, p: m.both(copied_into_buffer(p, 2).flatten(2)),
    "added into a buffer": lambda m, p: m.both(added_into_buffer(p, 2).flatten(2)),
    "added by an index": lambda m, p: m.both(index_added(p, 2).flatten(2)),
    "padded, added": lambda m, p: m.both(sum(F.pad(t, (i * WIDTH, (STACKED - 1 - i) * WIDTH)) for i, t in enumerate(p))),
    "padded along a new axis, added": lambda m, p: m.both(
        sum(F.pad(t[..., None], (i, STACKED - 1 - i)) for i, t in enumerate(p)).flatten(2)
    ),
    "unbound, cat": lambda m, p: m.both(cat(stack(p).unbind(), -1)),
}  # fmt: skip


def by_full_products(model: SideBySide, x: Tensor, share: float) -> dict[str, Tensor]:
    """The first row of each path rule's full product; each attention has a mean over heads, and this share of the layer."""
    y = model(x)[:, 1].sum()
    grads = iter(torch.autograd.grad(y, [A for layer in model.maps for A in layer]))
    identity = torch.eye(x.shape[1])
    shrunk = grown = identity
    for layer in model.maps:
        E, positive = (
            share * sum(e.sum(1) / LOOKED_AT for e in each)
            for each in (layer, [(A * next(grads)).clamp(min=0) for A in layer])
        )
        shrunk = (identity + E) / (1 + E.sum(-1, keepdim=True)) @ shrunk
        grown = grown + positive @ grown
    return {"rollout": shrunk[:, 0].detach(), "gae": (grown - identity)[:, 0].detach()}


def agree_with_full_products(join: Any, share: float, cls: type[SideBySide] = SideBySide) -> Any:
    torch.manual_seed(9)
    model, x = strong(cls(join)), noise(2, TOKENS, WIDTH)
    expected = by_full_products(model, x, share)
    for name, found in zip(expected, regard.explain(model, x, 1, [*expected]), strict=True):
        apart = (found.scores["input"] - expected[name]).abs().max() / expected[name].abs().max()
        assert float(apart) <= 1e-5, name
    assert len(record(model, x).attentions) == model.layers
    return found.receipt


def told_of_calls(receipt: Any) -> list[str]:
    return [n for n in receipt.notes if "attention calls" in n]


@pytest.mark.parametrize("how", SUMS)
def test_stacked_and_summed_is_added_whatever_stands_between(how: str) -> None:
    receipt = agree_with_full_products(SUMS[how], 1)
    assert bool(told_of_calls(receipt)) == (how == "a gate of both")


@pytest.mark.parametrize("how", SIDES)
def test_stacked_and_joined_to_features_are_heads_whatever_stands_between(how: str) -> None:
    assert not told_of_calls(agree_with_full_products(SIDES[how], 1 / STACKED))


def test_calls_that_are_added_and_read_side_by_side_are_told_of() -> None:
    told = told_of_calls(agree_with_full_products(SUMS["a gate of both"], 1))
    assert [n.partition(" are added, and another layer reads them side by side")[0][-4:] for n in told] == [
        "0, 1",
        "2, 3",
    ]


def test_calls_that_come_together_out_of_sight_are_told_of() -> None:
    def out_of_sight(m: SideBySide, p: list[Tensor]) -> Tensor:
        return torch.cumsum(stack(p), 0)[-1]

    model = strong(SideBySide(out_of_sight))
    (note, _) = told_of_calls(regard.explain(model, noise(1, TOKENS, WIDTH), 1, "gae").receipt)
    assert note.startswith("how the outputs of attention calls 0, 1 are joined could not be followed")


class HeadsOfSideBySide(SideBySide):
    """Every head of every attention is a call of its own; `join` is given lists of heads."""

    def attention(self, x: Tensor, qkv: nn.Module) -> Any:
        heads = []
        for q, k, v in zip(*(t.chunk(LOOKED_AT, -1) for t in qkv(F.layer_norm(x, (WIDTH,))).chunk(3, -1))):
            self.maps[-1].append((q @ k.mT / 2).softmax(-1)[:, None])
            heads.append((self.maps[-1][-1] @ v[:, None])[:, 0])
        return heads


HEAD_BY_HEAD: dict[str, Callable[[Any, list[list[Tensor]]], Tensor]] = {
    "heads joined, attentions added": lambda m, p: sum(cat(heads, -1) for heads in p),
    "heads joined, attentions stacked and summed": lambda m, p: F.gelu(stack([cat(h, -1) for h in p])).sum(0),
    "heads added one by one, then joined": lambda m, p: cat([a - b / 2 for a, b in zip(*p)], -1),
    "heads stacked and summed one by one, then joined": lambda m, p: cat([F.gelu(stack(h)).sum(0) for h in zip(*p)], -1),
    "stacked twice, summed, flattened": lambda m, p: stack([stack(h, 2) for h in p]).sum(0).flatten(2),
}  # fmt: skip


@pytest.mark.parametrize("how", HEAD_BY_HEAD)
def test_heads_of_added_attentions_have_one_mean_each(how: str) -> None:
    assert not told_of_calls(agree_with_full_products(HEAD_BY_HEAD[how], 1, HeadsOfSideBySide))
    torch.manual_seed(9)
    assert not regard.verify(strong(HeadsOfSideBySide(HEAD_BY_HEAD[how])), noise(2, TOKENS, WIDTH)).contradictions
