"""Models whose trail is lost somewhere, each beside the model that does the same in operations that are followed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, TOKENS, HEADS = 8, 5, 2


@torch.library.custom_op("regard_tests::reversed", mutates_args=())
def reversed_tokens(x: Tensor) -> Tensor:
    """Tokens last to first, in a kernel of its own: no function mode sees what it does, and the shape stays."""
    return x.flip(1).clone()


reversed_tokens.register_autograd(lambda ctx, grad: grad.flip(1))


@torch.library.custom_op("regard_tests::ranked", mutates_args=())
def ranked(x: Tensor, order: Tensor) -> Tensor:
    """Tokens in another order for each sample."""
    return x.take_along_dim(order[..., None], 1)


def _ranked_back(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return torch.zeros_like(grad).scatter(1, ctx.order[..., None].expand(grad.shape), grad), None


ranked.register_autograd(_ranked_back, setup_context=lambda ctx, inputs, output: setattr(ctx, "order", inputs[1]))

Step = Callable[["Layers", Tensor], Tensor]


class Attention(nn.Module):
    """Multi-head attention, fused or with an explicit softmax."""

    def __init__(self, explicit: bool) -> None:
        super().__init__()
        self.explicit = explicit
        self.q, self.kv, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        k, v = self.kv(memory).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (self.q(x), k, v))
        if self.explicit:
            o = torch.softmax(q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5, -1) @ v
        else:
            o = F.scaled_dot_product_attention(q, k, v)
        return self.out(o.transpose(1, 2).flatten(2))


class Layers(nn.Module):
    """A projection, a step that may lose the trail, three layers of attention; the first row is read."""

    def __init__(self, step: Step, explicit: bool = False) -> None:
        super().__init__()
        self.step = step
        self.project = nn.Linear(WIDTH, WIDTH)
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.layers = nn.ModuleList([Attention(explicit) for _ in range(3)])
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.step(self, self.project(x))
        for layer in self.layers:
            x = x + layer(x, x)
        return self.head(x[:, 0])


def with_cls(m: Layers, x: Tensor) -> Tensor:
    return torch.cat([m.cls_token.expand(len(x), -1, -1), x], 1)


def order(x: Tensor) -> Tensor:
    return x.detach().norm(dim=-1).argsort(1)


def there_and_back(m: Layers, x: Tensor) -> Tensor:
    """Cumulative sums, and their differences: the same tokens."""
    return torch.diff(x.cumsum(1), dim=1, prepend=torch.zeros(len(x), 1, WIDTH))


def resampled(m: Layers, x: Tensor) -> Tensor:
    """Resampled to the size that it has."""
    return F.interpolate(x.transpose(1, 2), size=x.shape[1]).transpose(1, 2)


def seen_by_numpy(m: Layers, x: Tensor) -> Tensor:
    """Through another library: the trail and the gradient end there."""
    return torch.from_numpy(x.detach().numpy().copy())


LOST: dict[str, tuple[Step, Step, Any, str]] = {
    "cumsum": (there_and_back, lambda m, x: x, {"input": 0}, "cumsum"),
    "resampled": (resampled, lambda m, x: x, {"input": 0}, "interpolate"),
    "a kernel twice": (lambda m, x: reversed_tokens(reversed_tokens(x)), lambda m, x: x, {"input": 0}, "reversed"),
    "a kernel that reverses": (
        lambda m, x: reversed_tokens(x),
        lambda m, x: x.flip(1),
        {"input": {"call": 0, "at": range(TOKENS - 1, -1, -1)}},
        "regard_tests::reversed",
    ),
    "a class token beside them": (
        lambda m, x: with_cls(m, there_and_back(m, x)),
        with_cls,
        {"cls_token": {"call": 0, "at": 0}, "input": {"call": 0, "at": slice(1, None)}},
        "cumsum",
    ),
    "said of a module": (there_and_back, lambda m, x: x, {"input": "layers.0"}, "cumsum"),
    "said of all layers": (there_and_back, lambda m, x: x, {"input": "layers"}, "cumsum"),
    "said of each call": (there_and_back, lambda m, x: x, {"input": [0, 1, 2]}, "cumsum"),
}

# -- axes -------------------------------------------------------------------------------------------------------------


class Signal(nn.Module):
    """Features (batch, width, tokens), mixed along the tokens before anything else is done to them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers(lambda m, x: x)
        self.scale = nn.Parameter(torch.randn(WIDTH, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers((x * self.scale).transpose(1, 2))


class Codebooks(nn.Module):
    """Three ids a frame (batch, codebook, frame), their embeddings summed: as an audio model does."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.ModuleList([nn.Embedding(40, WIDTH) for _ in range(3)])
        self.layers = Layers(lambda m, x: x)

    def forward(self, codes: Tensor) -> Tensor:
        return self.layers(sum(e(codes[:, i]) for i, e in enumerate(self.embed)))


# -- how sure ---------------------------------------------------------------------------------------------------------


class Latents(nn.Module):
    """Latents that look at each other and at nothing else before the input comes in, or never."""

    def __init__(self, meets: bool) -> None:
        super().__init__()
        self.latents, self.meets = nn.Parameter(torch.randn(1, 3, WIDTH)), meets
        self.first, self.second, self.head = Attention(False), Attention(False), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.latents.expand(len(x), -1, -1)
        rows = rows + self.first(rows, rows)
        x = x * 1
        x = x + self.second(x, rows if self.meets else x)
        return self.head(x[:, 0] + rows[:, 0])
