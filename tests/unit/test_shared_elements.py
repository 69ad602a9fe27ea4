"""Tokens that have elements of the input in common, before a layer makes them: windows that overlap, inputs beside themselves
shifted. An element counts with one token, the receipt tells of the rest, and no token is nobody's because it begins in padding.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from support.tiny import noise, strong

WIDTH, TOKENS, SIDE = 8, 6, 8
PICTURE, TABLE = (2, 3, SIDE, SIDE), (2, TOKENS, WIDTH)
Tokens = Callable[[Tensor], Tensor]


class Model(nn.Module):
    """Features of tokens (batch, token, feature), a layer over them, and two attentions; a class token is read."""

    def __init__(self, tokens: Tokens, features: int) -> None:
        super().__init__()
        self.tokens, self.layer = tokens, nn.Linear(features, WIDTH)
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.qkv, self.head = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2)), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.layer(self.tokens(x))], 1)
        for qkv in self.qkv:
            q, k, v = qkv(x).chunk(3, -1)
            x = x + (q @ k.mT / 3).softmax(-1) @ v
        return self.head(x[:, 0])


def patches(x: Tensor) -> Tensor:
    return x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def shifted(x: Tensor, by: int) -> Tensor:
    return F.pad(x, (0, 0, by, -by))


def of_patches(x: Tensor) -> Tensor:
    """Where elements of a picture are shown: in patches of 2 x 2."""
    return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).sum((1, 3, 5)).flatten(1)


def of_rows(x: Tensor) -> Tensor:
    return x.sum(-1)


Case = tuple[Tokens, tuple[int, ...], Tokens]
SHARED: dict[str, Case] = {
    "tokens to token": (lambda x: F.unfold(x, 3, stride=2, padding=1).mT, PICTURE, of_patches),
    "tokens to token, 5": (lambda x: F.unfold(x, 5, stride=2, padding=2).mT, PICTURE, of_patches),
    "shifted patches": (lambda x: patches(torch.cat([x, x.roll(1, 2), x.roll(-1, 3)], 1)), PICTURE, of_patches),
    "itself, turned": (lambda x: torch.cat([x, x.flip(1)], -1), TABLE, of_rows),
    "itself, rolled": (lambda x: torch.cat([x, x.roll(1, 1)], -1), TABLE, of_rows),
    "itself, shifted": (lambda x: torch.cat([x, shifted(x, 1)], -1), TABLE, of_rows),
    "three of itself": (lambda x: torch.cat([x, shifted(x, 1), shifted(x, 2)], -1), TABLE, of_rows),
    "shifted in half": (lambda x: torch.cat([x[..., :4], shifted(x, 1)[..., :4], x[..., 4:]], -1), TABLE, of_rows),
}
APART: dict[str, Case] = {
    "windows side by side": (lambda x: F.unfold(x, 2, stride=2).mT, PICTURE, of_patches),
    "patches": (patches, PICTURE, of_patches),
    "patches twice": (lambda x: torch.cat([patches(x), patches(x)], -1), PICTURE, of_patches),
    "itself": (lambda x: torch.cat([x, 2 * x], -1), TABLE, of_rows),
    "turned": (lambda x: x.flip(1), TABLE, of_rows),
}


@pytest.mark.parametrize("name", [*SHARED, *APART])
def test_tokens_that_share_elements_are_told(name: str) -> None:
    tokens, shape, shown = (SHARED | APART)[name]
    x = noise(*shape).double()
    model = strong(Model(tokens, tokens(x).shape[-1])).double()
    exp = regard.explain(model, x, 1, "input_x_gradient")
    told = any(
        "mixed outside attention (linear in layer)" in n for n in regard.explain(model, x, 1, "rollout").receipt.notes
    )
    assert told == (name in SHARED)
    held = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(held)[:, 1].sum(), held)
    torch.testing.assert_close(exp.scores["input"].double(), shown(gradient * x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*SHARED, *APART])
def test_nothing_is_contradicted(name: str) -> None:
    tokens, shape, _ = (SHARED | APART)[name]
    x = noise(*shape).double()
    proof = regard.verify(strong(Model(tokens, tokens(x).shape[-1])).double(), x)
    assert not proof.contradictions
    assert not proof.untested
    assert bool(proof.mixed) == (name in SHARED)
    assert proof.claims == 7 * 2 * (1 + shown_tokens(name))


def shown_tokens(name: str) -> int:
    return 16 if (SHARED | APART)[name][1] == PICTURE else TOKENS
