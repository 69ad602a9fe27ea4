"""Attention in windows, chunks, caches, on chosen tokens, by hand: full attention under a mask is its literal twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from support.tiny import noise, strong

WIDTH, HEADS, SIDE = 8, 2, 4
TOKENS = SIDE * SIDE
METHODS = ["raw_attention", "rollout", "gae", "corrected_attention"]
Layer = Callable[[nn.Module, Tensor, int], Tensor]
Mask = Callable[[int], Tensor]

ALL = torch.arange(TOKENS)
ROW, COLUMN = ALL // SIDE, ALL % SIDE


def heads(t: Tensor) -> Tensor:
    return t.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = q @ k.mT / 2
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Model(nn.Module):
    """Three residual layers; the first token and the last are read."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer
        self.qkv, self.out = (nn.ModuleList(nn.Linear(WIDTH, n) for _ in range(3)) for n in (3 * WIDTH, WIDTH))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for i, (qkv, out) in enumerate(zip(self.qkv, self.out, strict=True)):
            x = x + out(self.layer(qkv, x, i))
        return self.head(x[:, 0] + x[:, -1])


def under(mask: Mask) -> Layer:
    return lambda qkv, x, i: attend(*map(heads, qkv(x).chunk(3, -1)), mask(i))


# -- windows of a picture --------------------------------------------------------------------------------------------


def partition(x: Tensor) -> Tensor:
    """As Swin's own code has it."""
    b, h, w, c = x.shape
    return x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4, c)


def reverse(windows: Tensor) -> Tensor:
    x = windows.view(-1, SIDE // 2, SIDE // 2, 2, 2, WIDTH)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, SIDE, SIDE, WIDTH)


def regions() -> Tensor:
    """Which places of a shifted picture stood together before: Swin's mask (window, place, place)."""
    image, cuts = torch.zeros(1, SIDE, SIDE, 1), (slice(0, -2), slice(-2, -1), slice(-1, None))
    for n, (h, w) in enumerate((h, w) for h in cuts for w in cuts):
        image[:, h, w] = n
    windows = partition(image)[..., 0]
    return windows[:, None] == windows[:, :, None]


def swin(masked: bool) -> Layer:
    def layer(qkv: nn.Module, x: Tensor, i: int) -> Tensor:
        x, shift = x.view(len(x), SIDE, SIDE, WIDTH), i % 2
        x = torch.roll(x, (-1, -1), (1, 2)) if shift else x
        mask = regions().repeat(len(x), 1, 1)[:, None] if masked and shift else None
        x = reverse(attend(*map(heads, qkv(partition(x)).chunk(3, -1)), mask))
        return (torch.roll(x, (1, 1), (1, 2)) if shift else x).flatten(1, 2)

    return layer


def windows(masked: bool) -> Mask:
    def mask(i: int) -> Tensor:
        row, column = (ROW - i % 2) % SIDE, (COLUMN - i % 2) % SIDE
        number = row // 2 * 2 + column // 2
        if masked and i % 2:
            region = [torch.bucketize(t, torch.tensor([2, 3]), right=True) for t in (row, column)]
            number = number * 9 + region[0] * 3 + region[1]
        return number[:, None] == number

    return mask


def along_an_axis(qkv: nn.Module, x: Tensor, i: int) -> Tensor:
    x = x.view(len(x), SIDE, SIDE, WIDTH)
    x = x.transpose(1, 2) if i % 2 else x
    o = attend(*map(heads, qkv(x.flatten(0, 1)).chunk(3, -1))).unflatten(0, (-1, SIDE))
    return (o.transpose(1, 2) if i % 2 else o).flatten(1, 2)


def by_einops(qkv: nn.Module, x: Tensor, i: int) -> Tensor:
    """MaxViT's windows and grids."""
    from einops import rearrange

    cut, put = (
        ("b (h p w q) d -> (b h w) (p q) d", "(b h w) (p q) d -> b (h p w q) d"),
        ("b (p h q w) d -> (b h w) (p q) d", "(b h w) (p q) d -> b (p h q w) d"),
    )[i % 2]
    q, k, v = rearrange(qkv(rearrange(x, cut, h=2, w=2, p=2)), "b n (three h d) -> three b h n d", three=3, h=HEADS)
    return rearrange(attend(q, k, v), put, h=2, w=2, p=2)


# -- of a sequence ---------------------------------------------------------------------------------------------------


def sliding(qkv: nn.Module, x: Tensor, i: int) -> Tensor:
    """Each query's own keys, by `unfold`."""
    q, k, v = map(heads, qkv(x).chunk(3, -1))
    k, v = (F.pad(t, (0, 0, 1, 1)).unfold(2, 3, 1) for t in (k, v))
    at = ALL[:, None] + torch.arange(-1, 2)
    scores = (torch.einsum("bhnd,bhndw->bhnw", q, k) / 2).masked_fill((at < 0) | (at >= TOKENS), -torch.inf)
    return torch.einsum("bhnw,bhndw->bhnd", scores.softmax(-1), v).transpose(1, 2).flatten(2)


def looking_back(qkv: nn.Module, x: Tensor, i: int) -> Tensor:
    """Chunks of two, each with the one before it."""
    q, k, v = (t.unflatten(2, (-1, 2)) for t in map(heads, qkv(x).chunk(3, -1)))
    k, v = (torch.cat([p[:, :, :-1], p[:, :, 1:]], 3) for p in (F.pad(t, (0, 0, 0, 0, 1, 0)) for t in (k, v)))
    mask = torch.ones(TOKENS // 2, 1, 4, dtype=torch.bool)
    mask[0, :, :2] = False
    o = (q @ k.mT / 2).masked_fill(~mask, -torch.inf).softmax(-1) @ v
    return o.flatten(2, 3).transpose(1, 2).flatten(2)


def cached(qkv: nn.Module, x: Tensor, i: int) -> Tensor:
    """Keys and values written into a cache that is longer than the sequence, token by token."""
    cache = [x.new_zeros(len(x), HEADS, TOKENS + 3, WIDTH // HEADS) for _ in range(2)]
    out = []
    for at in range(TOKENS):
        q, *new = map(heads, qkv(x[:, at : at + 1]).chunk(3, -1))
        cache = [old.index_copy(2, torch.tensor([at]), t) for old, t in zip(cache, new, strict=True)]
        out.append(attend(q, *cache, torch.arange(TOKENS + 3) <= at))
    return torch.cat(out, 1)


def rolled(qkv: nn.Module, x: Tensor, i: int) -> Tensor:
    """A cache of fixed length, rolled by one for each token."""
    q, *new = map(heads, qkv(x).chunk(3, -1))
    cache = [torch.zeros_like(t) for t in new]
    for at in range(TOKENS):
        cache = [old.roll(-1, 2) for old in cache]
        for old, t in zip(cache, new, strict=True):
            old[:, :, -1] = t[:, :, at]
    return attend(q, *cache)


def causal(i: int) -> Tensor:
    return ALL[:, None] >= ALL


SAME: dict[str, tuple[Layer, Mask]] = {
    "shifted windows": (swin(False), windows(False)),
    "shifted windows, masked": (swin(True), windows(True)),
    "an axis at a time": (along_an_axis, lambda i: (COLUMN[:, None] == COLUMN) if i % 2 else (ROW[:, None] == ROW)),
    "windows and grids by einops": (
        by_einops,
        lambda i: windows(False)(0) if i % 2 == 0 else (ROW[:, None] % 2 == ROW % 2) & (COLUMN[:, None] % 2 == COLUMN % 2)),
    "sliding": (sliding, lambda i: (ALL[:, None] - ALL).abs() <= 1),
    "chunks that look back": (looking_back, lambda i: torch.isin(ALL[:, None] // 2 - ALL // 2, torch.tensor([0, 1]))),
    "a cache": (cached, causal),
    "a rolled cache": (rolled, lambda i: torch.ones(TOKENS, TOKENS, dtype=torch.bool)),
}  # fmt: skip


def agree(model: nn.Module, twin: nn.Module) -> None:
    x = noise(2, TOKENS, WIDTH).double()
    torch.testing.assert_close(model(x), twin(x))
    found, expected = (regard.explain(m, x, 1, METHODS) for m in (model, twin))
    for one, other in zip(found, expected, strict=True):
        assert float(other.scores["input"].abs().max()) > 1e-4
        torch.testing.assert_close(one.scores, other.scores, atol=1e-6, rtol=1e-5, msg=one.method)
        assert one.receipt.notes == other.receipt.notes


@pytest.mark.parametrize("name", SAME)
def test_maps_are_those_of_full_attention_under_a_mask(name: str) -> None:
    if "einops" in name:
        pytest.importorskip("einops")
    layer, mask = SAME[name]
    agree(*(strong(Model(way)).double() for way in (layer, under(mask))))


# -- on chosen tokens ------------------------------------------------------------------------------------------------

KEPT = torch.tensor([[0, 3, 5, 7, 8, 9, 12, 15], [1, 2, 3, 4, 11, 12, 13, 14]])
MARKED = torch.zeros(2, TOKENS, dtype=torch.bool).scatter(1, KEPT, True)
WIDE = KEPT[..., None].expand(-1, -1, WIDTH)
CHOSEN: dict[str, Callable[[Tensor], Tensor]] = {
    "gather": lambda x: x.gather(1, WIDE),
    "an index": lambda x: x[torch.arange(2)[:, None], KEPT],
    "a mask": lambda x: x[MARKED].view(2, -1, WIDTH),
    "sorted": lambda x: x.take_along_dim((~MARKED).int().sort(dim=1, stable=True).indices[..., None], 1)[:, :8],
}


class Dropping(Model):
    """Tokens are dropped after the first layer (`keep`), or left where they are and looked at no more."""

    def __init__(self, keep: Any) -> None:
        super().__init__(under(lambda i: torch.ones((), dtype=torch.bool)))
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        for i, (qkv, out) in enumerate(zip(self.qkv, self.out, strict=True)):
            mask = MARKED[:, None, None] if i and self.keep is None else torch.ones((), dtype=torch.bool)
            x = x + out(attend(*map(heads, qkv(x).chunk(3, -1)), mask))
            x = self.keep(x) if i == 0 and self.keep is not None else x
        return self.head(x.mean(1) if self.keep is not None else (x * MARKED[..., None]).sum(1) / 8)


@pytest.mark.parametrize("name", CHOSEN)
def test_dropped_tokens_are_as_masked_ones(name: str) -> None:
    agree(strong(Dropping(CHOSEN[name])).double(), strong(Dropping(None)).double())
