"""Heads folded into the rows, against keys that all of them share: the same maps as with an axis of heads, in every method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.errors import RegardError
from support.tiny import noise, strong

WIDTH, HEADS, TOKENS = 8, 2, 4
HEAD = WIDTH // HEADS
Spelling = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def an_axis_of_heads(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    q = q.unflatten(-1, (HEADS, HEAD)).transpose(1, 2)
    a = (q @ k[:, None].mT / 2).masked_fill(~mask, -1e9).softmax(-1)
    return (a @ v[:, None]).transpose(1, 2).flatten(2)


def by_bmm(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """As GPTBigCode has it."""
    b, t, _ = q.shape
    scores = torch.empty(b, t * HEADS, t, dtype=q.dtype)
    scores = torch.baddbmm(scores, q.reshape(b, t * HEADS, HEAD), k.mT, beta=0, alpha=0.5).view(b, t, HEADS, t)
    a = torch.where(mask[:, None], scores, torch.full([], -1e9, dtype=q.dtype)).softmax(-1)
    return torch.bmm(a.view(b, t * HEADS, t), v).view(b, t, WIDTH)


def heads_first(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    b, t, _ = q.shape
    q = q.view(b, t, HEADS, HEAD).transpose(1, 2).reshape(b, HEADS * t, HEAD)
    a = (q @ k.mT / 2).masked_fill(~mask.repeat(HEADS, 1), -1e9).softmax(-1)
    return (a @ v).view(b, HEADS, t, HEAD).transpose(1, 2).flatten(2)


def by_einsum(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    q = q.unflatten(-1, (HEADS, HEAD)).flatten(1, 2)
    a = (torch.einsum("brd,bkd->brk", q, k) / 2).masked_fill(~mask.repeat_interleave(HEADS, 0), -1e9).softmax(-1)
    return torch.einsum("brk,bkd->brd", a, v).unflatten(1, (-1, HEADS)).flatten(2)


def two_halves(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """One map, values in two parts."""
    q = q.unflatten(-1, (HEADS, HEAD)).flatten(1, 2)
    a = (q @ k.mT / 2).masked_fill(~mask.repeat_interleave(HEADS, 0), -1e9).softmax(-1)
    o = torch.cat([a @ v[..., :1], a @ v[..., 1:]], -1)
    return o.unflatten(1, (-1, HEADS)).flatten(2)


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    q = q.unflatten(-1, (HEADS, HEAD)).flatten(1, 2)
    o = F.scaled_dot_product_attention(q, k, v, mask.repeat_interleave(HEADS, 0))
    return o.unflatten(1, (-1, HEADS)).flatten(2)


def fused_heads_first(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    q = q.unflatten(-1, (HEADS, HEAD)).transpose(1, 2).flatten(1, 2)[:, None]
    o = F.scaled_dot_product_attention(q, k[:, None], v[:, None], mask.repeat(HEADS, 1))
    return o[:, 0].unflatten(1, (HEADS, -1)).transpose(1, 2).flatten(2)


FOLDED = [by_bmm, heads_first, by_einsum, two_halves, fused, fused_heads_first]


class MultiQuery(nn.Module):
    """Three residual layers of attention, all heads with the same keys; the last row is read."""

    def __init__(self, spelling: Spelling, mask: Tensor) -> None:
        super().__init__()
        self.spelling, self.mask = spelling, mask
        self.q, self.kv = (nn.ModuleList(nn.Linear(WIDTH, n) for _ in range(3)) for n in (WIDTH, 2 * HEAD))
        self.out, self.head = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3)), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for q, kv, out in zip(self.q, self.kv, self.out, strict=True):
            x = x + out(self.spelling(q(x), *kv(x).chunk(2, -1), self.mask))
        return self.head(x[:, -1])


def built(spelling: Spelling, mask: Tensor) -> nn.Module:
    return strong(MultiQuery(spelling, mask), 0.3).double()


CAUSAL = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
X = noise(2, TOKENS, WIDTH).double()
REFUSED = {
    "two_halves": {"bti_token", "bti_head", "transition_attention", "attention_mask", "legrad"},
    "fused": {"attention_eclip", "grad_eclip"},
    "fused_heads_first": {"attention_eclip", "grad_eclip"},
}
"""Methods that one of the two spellings gives no map of, whatever stands where: several values, or scores that are not one
product."""


def explained(model: nn.Module, method: str) -> dict[str, Tensor] | None:
    """The scores; None where the method refuses the model."""
    try:
        return regard.explain(model, X, 1, method).scores
    except RegardError:
        return None


FEW = ("raw_attention", "rollout", "gae", "attention_grad_cam", "bti_head", "legrad", "attnlrp")


@cache
def of_the_twin(method: str) -> dict[str, Tensor] | None:
    return explained(built(an_axis_of_heads, CAUSAL), method)


def agree(spelling: Spelling, names: Sequence[str]) -> None:
    model = built(spelling, CAUSAL)
    torch.testing.assert_close(model(X), built(an_axis_of_heads, CAUSAL)(X))
    for name in names:
        found, expected = explained(model, name), of_the_twin(name)
        assert ((found is None) != (expected is None)) == (name in REFUSED.get(spelling.__name__, ())), name
        if found is not None and expected is not None:
            torch.testing.assert_close(found["input"], expected["input"], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("spelling", FOLDED, ids=lambda f: f.__name__)
def test_methods_give_the_map_of_heads_that_have_an_axis(spelling: Spelling) -> None:
    agree(spelling, FEW)


@pytest.mark.long
@pytest.mark.parametrize("spelling", FOLDED, ids=lambda f: f.__name__)
def test_every_method_gives_the_map_of_heads_that_have_an_axis(spelling: Spelling) -> None:
    agree(spelling, [row.name for row in regard.methods() if row.name != "random"])


@pytest.mark.parametrize("spelling", FOLDED, ids=lambda f: f.__name__)
def test_calls_have_their_heads(spelling: Spelling) -> None:
    seen = regard.inspect(built(spelling, CAUSAL), X)
    assert [(c.heads, c.shape) for c in seen.calls] == [(HEADS, (TOKENS, TOKENS))] * 3
    proof = regard.verify(built(spelling, CAUSAL), X)
    assert not proof.contradictions
    assert not proof.untested


def test_tokens_that_stand_there_twice_are_no_heads() -> None:
    """Heads have an axis; each token was chosen twice, and stands at two places from there on."""

    class Twice(MultiQuery):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, [0, 0, 1, 1]])

    model = strong(Twice(heads_in_the_batch, CAUSAL), 0.6).double()
    twin = strong(Twice(an_axis_of_heads, CAUSAL), 0.6).double()
    found, expected = (regard.inspect(m, X) for m in (model, twin))
    assert [(c.heads, c.shape) for c in found.calls] == [(c.heads, c.shape) for c in expected.calls]


def heads_in_the_batch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    b, t, _ = q.shape
    q = q.view(b, t, HEADS, HEAD).transpose(1, 2).reshape(b * HEADS, t, HEAD)
    k, v = (t.repeat_interleave(HEADS, 0) for t in (k, v))
    a = (q @ k.mT / 2).masked_fill(~mask, -1e9).softmax(-1)
    return (a @ v).view(b, HEADS, t, HEAD).transpose(1, 2).flatten(2)
