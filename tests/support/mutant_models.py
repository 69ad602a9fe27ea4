"""Tiny models whose maps a mutant of a rule spoils."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.tiny import noise, strong

BATCH, TOKENS, WIDTH, HEADS = 2, 6, 8, 2

ORDER = [3, 0, 5, 1, 4, 2]

# -- tiny models ------------------------------------------------------------------------------------------------------


class Moved(nn.Module):
    """Two layers of attention; tokens are moved before the first and after it."""

    def __init__(self, move: Callable[[Moved, Tensor], Tensor], residual: bool = True) -> None:
        super().__init__()
        self.move, self.residual = move, residual
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.merge = nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer, qkv in enumerate(self.qkv):
            self.layer = layer
            x = self.move(self, x)
            q, k, v = (heads(t) for t in qkv(x).chunk(3, -1))
            y = self.attend(q, k, v).transpose(1, 2).flatten(2)
            x = x + y if self.residual else y
        return self.head(x.mean(1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class Written(Moved):
    """The same, written out."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


class Causal(Moved):
    """With the kernel's own causal mask, and a scale."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.7)


class Masked(Moved):
    """With a mask: no token looks at itself."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=~torch.eye(q.shape[2], dtype=torch.bool))


class InParts(nn.Module):
    """Two layers of four heads, some at a time; the last row is read. uneven: the last part looks for the last rows only."""

    def __init__(self, *parts: int, uneven: bool = False) -> None:
        super().__init__()
        self.parts, self.uneven = parts, uneven
        self.qkv, self.head = (
            nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(1 if uneven else 2)),
            nn.Linear(WIDTH, 3),
        )

    def forward(self, x: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        for qkv in self.qkv:
            q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in qkv(x).chunk(3, -1))
            if maps is not None:
                looks = torch.ones(4, TOKENS, 1)
                if self.uneven:
                    looks[self.parts[0] :, : TOKENS // 2] = 0
                maps.append(((q @ k.mT / 2).softmax(-1) * looks).sum(1) / looks.sum(0))
            out, first = torch.zeros_like(q), 0
            for last in self.parts:
                rows, heads = slice(TOKENS // 2 if self.uneven and first else 0, None), slice(first, last)
                out[:, heads, rows] = F.scaled_dot_product_attention(
                    q[:, heads, rows], k[:, heads], v[:, heads], scale=0.5
                )
                first = last
            x = x + out.transpose(1, 2).flatten(2)
        return self.head(x[:, -1])

    def rollout(self, x: Tensor) -> Tensor:
        """The literal one, of the maps of all heads that look at once."""
        maps: list[Tensor] = []
        self(x, maps)
        R = torch.eye(TOKENS).expand(len(x), -1, -1)
        for A in maps:
            R = (torch.eye(TOKENS) + A) / 2 @ R
        return R[:, -1].detach()


class Grouped(nn.Module):
    """Four heads of queries, two of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(WIDTH, 4 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (4, -1)).transpose(1, 2)
        k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.kv(x).chunk(2, -1))
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).mean((1, 2))


class Cross(nn.Module):
    """One input looks at another; `written` out or by the kernel."""

    def __init__(self, written: bool) -> None:
        super().__init__()
        self.written = written
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        q, k, v = heads(self.q(a)), heads(self.k(b)), heads(self.v(b))
        if self.written:
            return (torch.einsum("bhmd,bhnd->bhmn", k, q).softmax(2).transpose(2, 3) @ v).mean((1, 2))
        return F.scaled_dot_product_attention(q, k, v).mean((1, 2))


class Patches(nn.Module):
    """A picture cut into patches by a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.then = nn.Conv2d(3, WIDTH, 4, 4), Moved(lambda m, x: x)

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.cut(x).flatten(2).transpose(1, 2))


def heads(t: Tensor) -> Tensor:
    return t.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def setting(m: Moved, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, ORDER] = x
    return y


def places(x: Tensor) -> Tensor:
    return torch.tensor(ORDER)[None, :, None].expand(x.shape)


def windows(m: Moved, x: Tensor) -> Tensor:
    """Two windows of 2 x 2 in a grid of 2 x 4, where there are so many tokens."""
    return x.view(len(x), 2, 3, WIDTH).permute(0, 2, 1, 3).reshape(len(x), TOKENS, WIDTH)


def merging(m: Moved, x: Tensor) -> Tensor:
    """Pairs of tokens side by side become one after the first layer, as in Swin."""
    return m.merge(x.reshape(len(x), -1, 2 * WIDTH)) if m.layer else x


LATER = torch.tensor([False, True, True, False, True, False])

MOVES: dict[str, Callable[[Moved, Tensor], Tensor]] = {
    "flip": lambda m, x: x.flip(1),
    "roll": lambda m, x: x.roll(2, 1),
    "index": lambda m, x: x[:, ORDER],
    "index_select": lambda m, x: x.index_select(1, torch.tensor(ORDER)),
    "gather": lambda m, x: x.gather(1, places(x)),
    "take_along_dim": lambda m, x: torch.take_along_dim(x, places(x), 1),
    "cat": lambda m, x: torch.cat([x[:, 2:], x[:, :2]], 1),
    "stack": lambda m, x: torch.stack([x[:, ::2], x[:, 1::2]], 1).flatten(1, 2),
    "split": lambda m, x: torch.cat(x.split(2, 1)[::-1], 1),
    "chunk": lambda m, x: torch.cat(x.chunk(3, 1)[::-1], 1),
    "unbind": lambda m, x: torch.stack(x.unbind(1)[::-1], 1),
    "transpose": lambda m, x: x.view(len(x), 2, 3, WIDTH).transpose(1, 2).flatten(1, 2),
    "permute": windows,
    "movedim": lambda m, x: x.view(len(x), 2, 3, WIDTH).movedim(1, 2).flatten(1, 2),
    "setitem": setting,
    "index_copy": lambda m, x: torch.zeros_like(x).index_copy(1, torch.tensor(ORDER), x),
    "scatter": lambda m, x: torch.zeros_like(x).scatter(1, places(x), x),
    "masked_scatter": lambda m, x: x.masked_scatter(
        LATER[None, :, None].expand(x.shape), x[:, :3].flip(1).contiguous()
    ),
    "where": lambda m, x: torch.where(LATER[:, None], x, x.flip(1)),
    "pad": lambda m, x: F.pad(x[:, 1:], (0, 0, 0, 1)),
    "repeat_interleave": lambda m, x: x[:, :3].repeat_interleave(2, 1),
    "repeat": lambda m, x: x[:, :3].repeat(1, 2, 1),
    "class token": lambda m, x: torch.cat([m.token.expand(len(x), 1, -1), x[:, 1:]], 1),
    "merging": merging,
}

PARTS = {"heads one by one": (1, 2, 3, 4), "three heads and one": (3, 4), "uneven": (2, 4)}


@cache
def model(name: str) -> tuple[nn.Module, dict[str, Tensor] | Tensor]:
    """A model by its name, and its input."""
    kinds = {"written": Written, "causal": Causal, "masked": Masked}
    torch.manual_seed(0)
    if name in ("cross", "cross written"):
        return strong(Cross(name != "cross")), {
            "a": noise(BATCH, TOKENS, WIDTH),
            "b": noise(BATCH, TOKENS, WIDTH, seed=5),
        }
    if name in PARTS:
        return strong(InParts(*PARTS[name], uneven=name == "uneven")), noise(BATCH, TOKENS, WIDTH)
    if name == "grouped":
        return strong(Grouped()), noise(BATCH, TOKENS, WIDTH)
    if name == "patches":
        return strong(Patches()), noise(BATCH, 3, 8, 12)
    made = kinds[name](lambda m, x: x) if name in kinds else Moved(MOVES[name])
    return strong(made), noise(BATCH, TOKENS, WIDTH)
