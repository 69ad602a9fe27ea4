"""Attention as people write it themselves: torch's own modules, and models in a few lines."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS = 16, 2


class TorchEncoder(nn.TransformerEncoder):
    """torch's encoder of two layers."""

    def __init__(self, config: Any) -> None:
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, batch_first=True, norm_first=bool(config))
        super().__init__(layer, 2, enable_nested_tensor=False)


class TorchDecoder(nn.TransformerDecoder):
    """torch's decoder of two layers."""

    def __init__(self, config: Any) -> None:
        super().__init__(nn.TransformerDecoderLayer(WIDTH, HEADS, 24, batch_first=True), 2)


class TorchTransformer(nn.Transformer):
    """torch's encoder and decoder."""

    def __init__(self, config: Any) -> None:
        super().__init__(WIDTH, HEADS, 2, 2, 24, batch_first=True)


class TokensFirst(nn.TransformerEncoder):
    """torch's encoder as it is by default: axis 0 is tokens."""

    def __init__(self, config: Any) -> None:
        super().__init__(nn.TransformerEncoderLayer(WIDTH, HEADS, 24), 1, enable_nested_tensor=False)


class TorchAttention(nn.MultiheadAttention):
    """One nn.MultiheadAttention."""

    def __init__(self, config: Any) -> None:
        super().__init__(WIDTH, HEADS, batch_first=True)


def heads(t: Tensor) -> Tensor:
    return t.unflatten(-1, (HEADS, -1)).transpose(1, 2)


class Layers(nn.Module):
    """Two residual layers of an attention that a subclass writes, and a head on the first row."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.mix = nn.ModuleList(nn.Linear(HEADS, HEADS, bias=False) for _ in range(4))
        self.sinks = nn.Parameter(torch.zeros(2, HEADS))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for i, qkv in enumerate(self.qkv):
            q, k, v = map(heads, qkv(x).chunk(3, -1))
            x = x + self.attention(i, q, k, v).transpose(1, 2).flatten(2)
        return {"logits": self.head(x[:, 0])}

    def attention(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


class Einsum(Layers):
    """einsum, with the keys on the left of the scores."""

    def attention(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bhmd,bhnd->bhmn", k, q) * q.shape[-1] ** -0.5
        return torch.einsum("bhmn,bhmd->bhnd", torch.softmax(scores, 2), v)


class TalkingHeads(Layers):
    """Heads are mixed before the softmax and after it."""

    def attention(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = self.mix[2 * i]((q @ k.mT).permute(0, 2, 3, 1))
        mixed = self.mix[2 * i + 1](scores.softmax(2)).permute(0, 3, 1, 2)
        return mixed @ v


class Sinks(Layers):
    """A learned score that takes attention and gives nothing."""

    def attention(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT * q.shape[-1] ** -0.5
        sink = self.sinks[i].view(1, -1, 1, 1).expand(len(q), -1, q.shape[2], 1)
        return torch.cat([scores, sink], -1).softmax(-1)[..., :-1] @ v


class ByHand(Layers):
    """A softmax by its formula."""

    def attention(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT * q.shape[-1] ** -0.5
        weights = (scores - scores.max(-1, keepdim=True).values).exp()
        return (weights / weights.sum(-1, keepdim=True)) @ v


class Sigmoid(Layers):
    """Sigmoids in place of the softmax in the second layer."""

    def attention(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).sigmoid() @ v if i else super().attention(i, q, k, v)


class Retention(Layers):
    """Scores with a decay, and no softmax, in the second layer."""

    def attention(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        decay = 0.9 ** torch.arange(q.shape[2]).view(-1, 1).sub(torch.arange(q.shape[2])).abs()
        return (q @ k.mT * decay) @ v if i else super().attention(i, q, k, v)


class Slots(nn.Module):
    """Three slots that compete for tokens: the softmax is over the slots, each slot's weights are then brought to sum 1."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.slots = nn.Parameter(torch.zeros(1, 3, WIDTH))
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        slots = self.slots.expand(len(x), -1, -1)
        for _ in range(2):
            weights = (self.k(x) @ self.q(slots).mT).softmax(-1)
            slots = slots + (weights / weights.sum(1, keepdim=True)).mT @ self.v(x)
        return slots


class ClipPool(nn.Module):
    """A residual block and a pooling as in OpenAI's CLIP: tokens first, and separate weights for q, k and v."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(WIDTH))
        self.positional_embedding = nn.Parameter(torch.zeros(5, WIDTH))
        self.ln = nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS)
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        first = self.class_embedding + torch.zeros(len(x), 1, WIDTH)
        x = torch.cat([first, x], 1) + self.positional_embedding
        x = x.permute(1, 0, 2)
        y = self.ln(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        biases = torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias])
        out, _ = F.multi_head_attention_forward(
            x[:1], x, x, WIDTH, HEADS, None, biases, None, None, False, 0.0, self.c_proj.weight, self.c_proj.bias,
            training=self.training, need_weights=False, use_separate_proj_weight=True,
            q_proj_weight=self.q_proj.weight, k_proj_weight=self.k_proj.weight, v_proj_weight=self.v_proj.weight,
        )  # fmt: skip
        return out[0]


class ContentAndPosition(Layers):
    """Content and position side by side in queries and keys."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.pos = nn.Parameter(torch.zeros(9, WIDTH // HEADS))

    def attention(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pos = self.pos[: q.shape[2]].expand(*q.shape)
        return F.scaled_dot_product_attention(torch.cat([q, pos], -1), torch.cat([pos, k], -1), v)


class Attending(nn.Module):
    """A CLS token, one attention and a head, in double precision; `drop` runs it without some of the tokens, in full."""

    width = 8

    def __init__(self, tokens: int, causal: bool = False) -> None:
        super().__init__()
        torch.manual_seed(tokens)
        self.cls_token = nn.Parameter(torch.randn(1, 1, self.width))
        self.place = nn.Parameter(torch.randn(1, tokens, self.width))
        self.q, self.k, self.v = (nn.Linear(self.width, self.width) for _ in range(3))
        self.head = nn.Linear(self.width, 3)
        self.double().eval()

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        z = torch.cat([self.cls_token.expand(len(x), -1, -1), x + self.place], 1)
        if keep is not None:
            z = z[:, torch.cat([torch.tensor([True]), keep])]
        A = (self.q(z) @ self.k(z).mT / math.sqrt(self.width)).softmax(-1)
        return self.head((z + A @ self.v(z))[:, 0])
