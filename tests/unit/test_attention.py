"""What an attention is, seen whole: the same function written in one call or in several gives the same maps.

Each model here is the same layers as `Whole`, with the same weights, written as different people write them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard import Baseline, Site
from regard.errors import Misuse, RegardError
from regard.recording import record
from support.families import noise, strong

WIDTH, HEADS, TOKENS = 12, 3, 6
METHODS = ("raw_attention", "alpha_max", "rollout", "gae", "attention_grad_cam", "bti_head", "transition_attention")


def heads(t: Tensor) -> Tensor:
    return t.unflatten(-1, (HEADS, -1)).transpose(1, 2)


class Whole(nn.Module):
    """Three pre-norm layers of one batched product each; the first row is read."""

    layers = 3

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(self.layers))
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(self.layers))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for qkv, out in zip(self.qkv, self.out, strict=True):
            x = x + out(self.attention(*qkv(F.layer_norm(x, (WIDTH,))).chunk(3, -1)))
        return self.pooled(x)

    def pooled(self, x: Tensor) -> Tensor:
        return self.head(x[:, 0])

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(heads, (q, k, v))
        return ((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)


class HeadByHead(Whole):
    """As in courses: every head by itself, joined at the end."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.cat([(a @ b.mT / 2).softmax(-1) @ c for a, b, c in zip(*(t.split(4, -1) for t in (q, k, v)))], -1)


class HeadsStacked(Whole):
    """Fused, one head at a time, stacked and folded."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = [F.scaled_dot_product_attention(*(t[..., 4 * h : 4 * h + 4] for t in (q, k, v))) for h in range(HEADS)]
        return torch.stack(parts, 2).flatten(2)


class HeadsIntoBuffer(Whole):
    """Heads written into columns of a buffer, as ports from other languages do."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        for h in range(HEADS):
            at = slice(4 * h, 4 * h + 4)
            out[..., at] = (q[..., at] @ k[..., at].mT / 2).softmax(-1) @ v[..., at]
        return out


class TwoHeadsAndOne(Whole):
    """Two heads in one product, one in another: the mean is over three, not over two means."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(heads, (q, k, v))
        parts = [(q[:, a] @ k[:, a].mT / 2).softmax(-1) @ v[:, a] for a in (slice(0, 2), slice(2, 3))]
        return torch.cat(parts, 1).transpose(1, 2).flatten(2)


class HeadsFirst(Whole):
    """The original TensorFlow port: heads folded into the batch, head by head."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (torch.cat(t.split(4, 2), 0) for t in (q, k, v))
        return torch.cat(((q @ k.mT / 2).softmax(-1) @ v).split(len(q) // HEADS, 0), 2)


class HeadsFirstByStack(Whole):
    """Heads as the first axis, then folded: `h b n d -> (h b) n d`."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).permute(2, 0, 1, 3).flatten(0, 1) for t in (q, k, v))
        o = F.scaled_dot_product_attention(q, k, v).unflatten(0, (HEADS, -1))
        return o.permute(1, 2, 0, 3).flatten(2)


class Sliced(Whole):
    """Attention slicing: queries three at a time."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(heads, (q, k, v))
        return torch.cat([F.scaled_dot_product_attention(c, k, v) for c in q.split(3, 2)], 2).transpose(1, 2).flatten(2)


class SlicedIntoBuffer(Whole):
    """Query chunks into a buffer of zeros, with an explicit softmax, and the heads in the batch."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (heads(t).flatten(0, 1) for t in (q, k, v))
        out = torch.zeros_like(q)
        for i in range(0, q.shape[1], 2):
            out[:, i : i + 2] = torch.bmm(torch.softmax(torch.bmm(q[:, i : i + 2], k.mT) / 2, -1), v)
        return out.unflatten(0, (-1, HEADS)).transpose(1, 2).flatten(2)


class SampleBySample(Whole):
    """A loop over the batch."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.stack(
            [super(SampleBySample, self).attention(*(t[i][None] for t in (q, k, v)))[0] for i in range(len(q))]
        )


class HeadsAndChunks(Whole):
    """Both loops at once."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = []
        for a, b, c in zip(*(t.split(4, -1) for t in (q, k, v)), strict=True):
            parts.append(torch.cat([(rows @ b.mT / 2).softmax(-1) @ c for rows in a.split(4, 1)], 1))
        return torch.cat(parts, -1)


SPELLINGS = [HeadByHead, HeadsStacked, HeadsIntoBuffer, TwoHeadsAndOne, HeadsFirst, HeadsFirstByStack, Sliced, SlicedIntoBuffer,
             SampleBySample, HeadsAndChunks]  # fmt: skip


def like(model: nn.Module, cls: Callable[[], nn.Module]) -> nn.Module:
    other = cls().eval()
    other.load_state_dict(model.state_dict())
    return other


@pytest.fixture(scope="module")
def whole() -> nn.Module:
    torch.manual_seed(3)
    return strong(Whole())


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


ADDED: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "a + b": lambda parts: parts[0] + parts[1],
    "b + a": lambda parts: parts[1] + parts[0],
    "stacked and summed": lambda parts: torch.stack(parts).sum(0),
    "stacked, turned and summed": lambda parts: torch.stack(parts, 1).movedim(1, -1).sum(-1),
    "stacked, the mean": lambda parts: 2 * torch.stack(parts, -1).mean(-1),
}


class TwoKeys(nn.Module):
    """Two cross-attentions side by side, added."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.added, self.head = ADDED[how], nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        for _ in range(2):
            x = x + self.added([(x @ keys.mT).softmax(-1) @ keys for keys in (y, z)])
        return self.head(x[:, 0])


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


# -- stacked, and something between that and the sum -------------------------------------------------------------------

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
    assert [n.partition(" are added, and read side by side")[0][-4:] for n in told] == ["0, 1", "2, 3"]


def test_calls_that_come_together_out_of_sight_are_told_of() -> None:
    def out_of_sight(m: SideBySide, p: list[Tensor]) -> Tensor:
        return torch.cumsum(stack(p), 0)[-1]

    model = strong(SideBySide(out_of_sight))
    (note, _) = told_of_calls(regard.explain(model, noise(1, TOKENS, WIDTH), 1, "gae").receipt)
    assert note.startswith("how attention calls 0, 1 come together is not followed")


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


# -- one map, several values ------------------------------------------------------------------------------------------


class Relative(nn.Module):
    """Relative positions in the values, in three spellings; `a` is kept for the test."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.qkv, self.head = how, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3)
        self.r = nn.Embedding(2 * TOKENS - 1, WIDTH // HEADS)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = map(heads, self.qkv(x).chunk(3, -1))
        self.a = a = (q @ k.mT / 2).softmax(-1)
        i = torch.arange(TOKENS)
        r = self.r(i[None] - i[:, None] + TOKENS - 1)
        if self.how == "einsum":
            o = a @ v + torch.einsum("bhij,ijd->bhid", a, r)
        elif self.how == "bmm":  # queries as the batch, as in the paper's own code
            o = a @ v + (a.permute(2, 0, 1, 3).flatten(1, 2) @ r).unflatten(1, (len(x), HEADS)).permute(1, 2, 0, 3)
        elif self.how == "edges":  # only values of each pair
            o = torch.einsum("bhij,bhijd->bhid", a, v[:, :, None] + r)
        else:  # values in two halves
            o = torch.cat([a @ v[..., :2], a @ v[..., 2:]], -1)
        return self.head((x + o.transpose(1, 2).flatten(2))[:, 0])


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


class Apart(nn.Module):
    """Keys of one input and values of another (attentive neural processes), or values shifted or turned."""

    def __init__(self, move: Callable[[Tensor], Tensor] = lambda v: v) -> None:
        super().__init__()
        self.move, self.head = move, nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.a = (x @ x.mT / 4).softmax(-1)
        return self.head((x + self.a @ self.move(x if y is None else y))[:, 0])


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
    assert any("look at tokens of x" in n for n in found.receipt.notes)


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


# -- rows at different states -----------------------------------------------------------------------------------------


class OnlyTheFirstRow(Whole):
    """Each layer changes the class token alone: the other rows stay as they were."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for qkv, out in zip(self.qkv, self.out, strict=True):
            o = out(self.attention(*qkv(x).chunk(3, -1)))
            x = self.joined(x, x[:, :1] + o[:, :1])
        return self.pooled(x)

    def joined(self, x: Tensor, first: Tensor) -> Tensor:
        return torch.cat([first, x[:, 1:]], 1)


class WrittenOver(OnlyTheFirstRow):
    def joined(self, x: Tensor, first: Tensor) -> Tensor:
        x = x.clone()
        x[:, :1] = first
        return x


class Chosen(OnlyTheFirstRow):
    def joined(self, x: Tensor, first: Tensor) -> Tensor:
        here = (torch.arange(x.shape[1]) == 0)[None, :, None]
        return torch.where(here, first.expand_as(x), x)


@pytest.mark.parametrize("cls", [OnlyTheFirstRow, WrittenOver, Chosen])
def test_rows_that_a_call_did_not_change_did_not_absorb_it(cls: type[nn.Module]) -> None:
    """Relevance of an untouched row never goes through a call whose output it does not hold."""
    torch.manual_seed(7)
    model, x = strong(cls()), noise(2, TOKENS, WIDTH)
    maps = []
    inside = model.attention

    def kept(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(heads, (q, k, v))
        maps.append((q @ k.mT / 2).softmax(-1))
        return (maps[-1] @ v).transpose(1, 2).flatten(2)

    model.attention = kept  # type: ignore[method-assign]
    model(x)
    del model.attention
    assert inside == model.attention
    R = torch.eye(TOKENS + 1).repeat(2, 1, 1)
    for A in maps:
        E = torch.eye(TOKENS + 1).repeat(2, 1, 1)
        E[:, 0] = (E[:, 0] + A.mean(1)[:, 0]) / 2
        R = E @ R
    found = regard.explain(model, x, 1, "rollout").scores["input"]
    assert torch.allclose(found, R[:, 0, 1:], atol=1e-6)


class ReadsAll(Whole):
    """One layer of all rows, then two of class attention; the head reads the class token, and the patches as they were left."""

    def forward(self, x: Tensor, cut: bool = False) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        self.O = [self.attention(*self.qkv[0](x).chunk(3, -1))]
        x = x + self.out[0](self.O[0].detach().requires_grad_() if cut else self.O[0])
        first, rest = x[:, :1], x[:, 1:]
        for qkv, out in zip(self.qkv[1:], self.out[1:], strict=True):
            q, k, v = qkv(torch.cat([first, rest], 1)).chunk(3, -1)
            self.O.append(self.attention(q[:, :1], k, v))
            first = first + out(self.O[-1].detach() if cut else self.O[-1])
        self.rest = rest
        return self.pooled(torch.cat([first, rest], 1))

    def pooled(self, x: Tensor) -> Tensor:
        return self.head(x[:, 0] + x[:, 1:].tanh().mean(1))

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(heads, (q, k, v))
        self.maps = [*getattr(self, "maps", []), (q @ k.mT / 2).softmax(-1)]
        return (self.maps[-1] @ v).transpose(1, 2).flatten(2)


def test_rows_that_later_layers_left_behind_are_read_too() -> None:
    torch.manual_seed(4)
    model, x = strong(ReadsAll()), noise(2, TOKENS, WIDTH)
    found = regard.explain(model, x, 1, "rollout")
    model.maps = []
    model(x, cut=True)[:, 1].sum()
    R = torch.eye(TOKENS + 1).repeat(2, 1, 1)
    states = []
    for A in model.maps:
        E = torch.eye(TOKENS + 1).repeat(2, 1, 1)
        E[:, : A.shape[2]] = (E[:, : A.shape[2]] + A.mean(1)) / 2
        R = E @ R
        states.append(R)
    rest = model.rest.detach().requires_grad_()  # what the head reads of the patches, and of nothing else
    (g,) = torch.autograd.grad(model.head(rest.tanh().mean(1))[:, 1].sum(), rest)
    norms = (g @ model.out[0].weight).norm(dim=-1)
    r = norms / norms.sum(1, keepdim=True)
    expected = states[2][:, 0] + (r[:, None] @ states[0][:, 1:])[:, 0]
    assert torch.allclose(found.scores["input"], expected[:, 1:], atol=1e-5)
    assert "6 tokens of input" in found.receipt.readout


def test_inspect_says_which_calls_make_one_attention(whole: nn.Module) -> None:
    seen = regard.inspect(like(whole, HeadByHead), noise(1, TOKENS, WIDTH))
    assert [c.attention for c in seen.calls] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert "3 (attention 1)" in str(seen)
    assert "attention 1" not in str(regard.inspect(whole, noise(1, TOKENS, WIDTH)))


class Twice(Whole):
    """Its tokens are copied before the first layer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([x, x], 1))


class TwiceByIndex(Whole):
    layers = 1

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, [*range(TOKENS)] * 2])


def in_chunks(rows: int, whole: type[Whole]) -> type[Whole]:
    class Chunked(whole):  # type: ignore[valid-type, misc]
        def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = map(heads, (q, k, v))
            parts = [F.scaled_dot_product_attention(c, k, v) for c in q.split(rows, 2)]
            return torch.cat(parts, 2).transpose(1, 2).flatten(2)

    return Chunked


@pytest.mark.parametrize("rows", [2, 3])
def test_copies_that_several_calls_tell_apart_are_refused(rows: int) -> None:
    with pytest.raises(RegardError, match="copies of one token"):
        regard.explain(strong(in_chunks(rows, TwiceByIndex)()), noise(1, TOKENS, WIDTH), 1, "gae")


@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("method", ["gae", "rollout", "attention_grad_cam"])
def test_copies_that_are_told_apart_where_they_are_made_may_be_attended_in_several_calls(
    rows: int, method: str
) -> None:
    x, whole = noise(1, TOKENS, WIDTH), strong(Twice())
    chunked = in_chunks(rows, Twice)()
    chunked.load_state_dict(whole.state_dict())
    expected, found = (regard.explain(m.eval(), x, 1, method).scores["input"] for m in (whole, chunked))
    torch.testing.assert_close(found, expected)


def test_baselines_of_attention_sites_still_take_none(whole: nn.Module) -> None:
    with pytest.raises(Misuse, match="give no other"):
        regard.explain(whole, noise(1, TOKENS, WIDTH), 1, "taylor", site=Site.attention(0), baseline=Baseline.zero())


# -- earlier states beside the last ones ----------------------------------------------------------------------------------


class ReadsEarlier(Whole):
    """Three layers; the head reads the states after each of them in some way."""

    def __init__(self, read: Callable[[ReadsEarlier, list[Tensor]], Tensor]) -> None:
        super().__init__()
        self.read, self.heads = read, nn.ModuleList(nn.Linear(WIDTH, 3) for _ in range(3))
        self.wide, self.norm = nn.Linear(2 * WIDTH, 3), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x, states = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1), []
        for qkv, out in zip(self.qkv, self.out, strict=True):
            x = x + out(self.attention(*qkv(x).chunk(3, -1)))
            states.append(x)
        return self.read(self, states)


EARLIER: dict[str, tuple[Callable[[ReadsEarlier, list[Tensor]], Tensor], str]] = {
    "two class tokens, side by side": (lambda m, s: m.wide(torch.cat([s[1][:, 0], s[2][:, 0]], 1)), "attention 1"),
    "another token of an earlier layer": (lambda m, s: m.wide(torch.cat([s[0][:, 3], s[2][:, 0]], 1)), "attention 0"),
    "a mean over layers": (lambda m, s: m.head(torch.stack([t[:, 0] for t in s]).mean(0)), "attention 0, 1"),
    "a sum over layers": (lambda m, s: m.head(s[1][:, 0] + s[2][:, 0]), "attention 1"),
    "states added, then read": (lambda m, s: m.head((s[1] + s[2])[:, 0]), "attention 1"),
    "states normed and added": (lambda m, s: m.head((m.norm(s[1]) + m.norm(s[2]))[:, 0]), "attention 1"),
    "means of two layers": (lambda m, s: m.wide(torch.cat([s[0].mean(1), s[2].mean(1)], 1)), "attention 0"),
    "heads of their own": (lambda m, s: sum(h(t[:, 0]) for h, t in zip(m.heads, s, strict=True)), "attention 0, 1"),
    "states side by side": (lambda m, s: m.wide(torch.cat([s[1], s[2]], -1))[:, 0], "attention 1"),
}


@pytest.mark.parametrize("name", EARLIER)
def test_a_head_that_reads_earlier_states_too_is_told(name: str) -> None:
    torch.manual_seed(4)
    read, where = EARLIER[name]
    model, x = strong(ReadsEarlier(read)), noise(2, TOKENS, WIDTH)
    gae, plain = regard.explain(model, x, 1, ["gae", "input_x_gradient"])
    (note,) = [n for n in gae.receipt.notes if "also reads" in n]
    assert f"as {where} left them" in note
    assert not any("also reads" in n for n in plain.receipt.notes)


class Parallel(Whole):
    """Attention and a layer of each token by itself, side by side (GPT-J), and a long skip that a later layer attends to."""

    def forward(self, x: Tensor) -> Tensor:
        x, skipped = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1), []
        for qkv, out in zip(self.qkv, self.out, strict=True):
            x = x + (out(self.attention(*qkv(x).chunk(3, -1))) + out(x).tanh())
            skipped.append(x)
            x = x + skipped[0] if len(skipped) == 2 else x
        return self.pooled(x)


def test_parallel_branches_and_skips_are_no_earlier_reads(whole: nn.Module) -> None:
    torch.manual_seed(4)
    for model in (strong(Parallel()), whole, strong(ReadsEarlier(lambda m, s: m.head(s[2][:, 0] + s[2].mean(1))))):
        assert not any("also reads" in n for n in regard.explain(model, noise(2, TOKENS, WIDTH), 1).receipt.notes)


def test_earlier_states_that_the_target_does_not_rest_on_are_not_told() -> None:
    """Heads for training alone, states that are given back."""

    class Given(ReadsEarlier):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x)[-1]

    torch.manual_seed(4)
    stacked = strong(Given(lambda m, s: m.head(torch.stack([t[:, 0] for t in s]))))
    assert not any("also reads" in n for n in regard.explain(stacked, noise(2, TOKENS, WIDTH), 1).receipt.notes)


# -- a parameter's token beside several sets of tokens -----------------------------------------------------------------


class Towers(nn.Module):
    """Towers of their own tokens, and of weights of their own or not, that begin with one learned token."""

    def __init__(self, sizes: Sequence[int], pool: str, layers: int, shared: bool) -> None:
        super().__init__()
        self.sizes, self.pool, self.layers, self.shared = sizes, pool, layers, shared
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(len(sizes) * layers))
        self.head = nn.Linear(len(sizes) * WIDTH, 3)
        self.maps: list[list[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        outs, self.maps = [], []
        for tower, part in enumerate(x.split(self.sizes, 1)):
            state = torch.cat([self.token.expand(len(x), -1, -1), part], 1)
            self.maps.append([])
            for layer in range(self.layers):
                q, k, v = self.qkv[layer if self.shared else self.layers * tower + layer](state).chunk(3, -1)
                A = (q @ k.mT / 4).softmax(-1)
                self.maps[-1].append(A.detach())
                state = state + A @ v
            outs.append(state[:, 0] if self.pool == "first" else state.mean(1))
        return self.head(torch.cat(outs, -1))


@pytest.mark.parametrize("shared", [True, False], ids=["one attention's weights", "weights of their own"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("sizes", [(2, 4), (2, 2, 2)], ids=["towers", "windows"])
def test_a_learned_token_of_several_towers_is_one_in_each(sizes: Sequence[int], layers: int, shared: bool) -> None:
    torch.manual_seed(layers)
    model, x = strong(Towers(sizes, "first", layers, shared)), noise(2, sum(sizes), WIDTH)
    found = regard.explain(model, x, 1, "rollout")
    token, tokens = torch.zeros(2, 1), []
    for maps in model.maps:
        R = torch.eye(maps[0].shape[-1])
        for A in maps:
            R = (torch.eye(A.shape[-1]) + A) / 2 @ R
        token, tokens = token + R[:, 0, :1], [*tokens, R[:, 0, 1:]]
    torch.testing.assert_close(found.scores["token"], token)
    torch.testing.assert_close(found.scores["input"], torch.cat(tokens, 1))
