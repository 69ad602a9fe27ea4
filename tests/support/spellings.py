"""The same attention layers with the same weights, written as different people write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


# -- values have tokens of their own ----------------------------------------------------------------------------------


class Apart(nn.Module):
    """Keys of one input and values of another (attentive neural processes), or values shifted or turned."""

    def __init__(self, move: Callable[[Tensor], Tensor] = lambda v: v) -> None:
        super().__init__()
        self.move, self.head = move, nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.a = (x @ x.mT / 4).softmax(-1)
        return self.head((x + self.a @ self.move(x if y is None else y))[:, 0])


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
