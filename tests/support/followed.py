"""Models whose rows take a turn before attention, and what each row then holds."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 8


class Model(nn.Module):
    """Something done to the tokens, then one attention; the first row is read."""

    def __init__(self, before: Callable[[Model, Tensor], Tensor], row: int = 0) -> None:
        super().__init__()
        self.before, self.row = before, row
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos = nn.Parameter(torch.randn(1, 9, WIDTH))
        self.register_buffer("constant", torch.randn(1, 1, WIDTH))
        self.conv = nn.Conv1d(WIDTH, WIDTH, 4, padding=3)
        self.wide = nn.Linear(3 * WIDTH, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(self, x)
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.head(x + F.scaled_dot_product_attention(q, k, v))[:, self.row]


def inputs(*tokens: int) -> list[str]:
    return [f"input[{i}]" for i in tokens]


def in_place(m: Model, x: Tensor) -> Tensor:
    buffer = torch.zeros(len(x), 5, WIDTH)
    buffer[:, 1:] = m.qkv(x)[:, :4, :WIDTH]
    buffer[:, 0].copy_(m.qkv(x)[:, 4, :WIDTH])
    return buffer


def through_a_view(m: Model, x: Tensor) -> Tensor:
    buffer = torch.zeros(len(x), 5, WIDTH)
    buffer[:, :2].copy_(x[:, 3:5] * 1)
    view = buffer[:, 2:4]
    view.copy_(x[:, :2])
    buffer.view(-1, WIDTH)[4::5] = x[:, 2]
    return m.qkv(buffer)[..., :WIDTH]


FOLLOWED = {
    "flip": (lambda m, x: m.qkv(x)[..., :WIDTH].flip(1), inputs(4, 3, 2, 1, 0)),
    "roll": (lambda m, x: m.qkv(x)[..., :WIDTH].roll(2, 1), inputs(3, 4, 0, 1, 2)),
    "top-k": (
        lambda m, x: x.gather(1, torch.tensor([3, 1])[None, :, None].expand(len(x), -1, WIDTH)) * 1,
        inputs(3, 1),
    ),
    "class token": (
        lambda m, x: torch.cat([m.cls_token.expand(len(x), -1, -1), x], 1),
        ["cls_token[0]", *inputs(*range(5))],
    ),
    "named by the smaller parameter": (
        lambda m, x: torch.cat([(m.cls_token + m.pos[:, :1]).expand(len(x), -1, -1), x + m.pos[:, 1:6]], 1),
        ["cls_token[0]", *inputs(*range(5))],
    ),
    "causal convolution": (lambda m, x: m.conv(x.transpose(1, 2))[..., :5].transpose(1, 2) + x, inputs(*range(5))),
    "causal convolution, padded by hand": (
        lambda m, x: F.conv1d(F.pad((x * 1).transpose(1, 2), (3, 0)), m.conv.weight).transpose(1, 2),
        inputs(*range(5)),
    ),
    "writes in place": (in_place, inputs(4, 0, 1, 2, 3)),
    "writes through a view": (through_a_view, inputs(3, 4, 0, 1, 2)),
}


class Pictures(nn.Module):
    """Patches of all samples' pictures (four each) in one row; pairs are merged and put where the ids hold a 0."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.words = nn.Linear(6, WIDTH), nn.Embedding(20, WIDTH)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.pair, self.head = nn.Linear(2 * WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, ids: Tensor, patches: Tensor) -> Tensor:
        p = self.patch(patches)
        q, k, v = self.qkv[0](p)[None].chunk(3, -1)
        each = zip(q.split(4, 1), k.split(4, 1), v.split(4, 1), strict=True)
        p = p + torch.cat([F.scaled_dot_product_attention(*one) for one in each], 1)[0]
        pairs = self.pair(p.reshape(-1, 2 * WIDTH))
        x = self.words(ids)
        x = x.masked_scatter((ids == 0)[..., None].expand_as(x), pairs)
        q, k, v = self.qkv[1](x).chunk(3, -1)
        return self.head(x + F.scaled_dot_product_attention(q, k, v))[:, -1]


class Joined(nn.Module):
    """Two inputs of one width, side by side before anything is done to them."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        q, k, v = self.qkv(torch.cat([b, a], 1)).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v))[:, 0]


def outlook(m: Model, x: Tensor) -> Tensor:
    """Windows of rows weighed by what is pooled of them, and put back (VOLO): lost, and added to the rows it was made of."""
    b, x = len(x), m.qkv(x)[..., :WIDTH]
    v = F.unfold(x.transpose(1, 2)[..., None], (3, 1), padding=(1, 0), stride=(2, 1))
    v = v.view(b, WIDTH, 3, 3).permute(0, 3, 2, 1)
    pooled = F.avg_pool1d(x.transpose(1, 2), 2, 2, ceil_mode=True).transpose(1, 2)
    weights = m.qkv(pooled)[..., :9].reshape(b, 3, 3, 3).softmax(-1)
    y = (weights @ v).permute(0, 3, 2, 1).reshape(b, 3 * WIDTH, 3)
    return x + F.fold(y, (5, 1), (3, 1), padding=(1, 0), stride=(2, 1))[..., 0].transpose(1, 2)
