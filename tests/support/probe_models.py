"""Small models whose answer to a probe is known by construction; in double precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WIDTH, CLASSES = 6, 3


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class OneLook(nn.Module):
    """One row that looks at all tokens of x (batch, token, width): logits = W Σ_j A_j v_j, and nothing else of x.

    shortcut: the scores read the content, and the values know their position alone: the weights are a code. Else the other way
    round: the scores know the position alone, uniformly, and the values are the content.
    """

    def __init__(self, tokens: int, shortcut: bool) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.query = nn.Parameter(drawn(1, 1, WIDTH, seed=1))
        self.place = nn.Parameter(drawn(1, tokens, WIDTH, seed=2))
        self.head = nn.Linear(WIDTH, CLASSES, dtype=torch.float64)
        nn.init.normal_(self.head.weight, generator=torch.Generator().manual_seed(3))
        nn.init.zeros_(self.head.bias)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        known, unknown = x, 0 * x + (self.place if self.shortcut else 0)
        keys, values = (known, unknown) if self.shortcut else (unknown, known)
        weights = torch.softmax(self.query.expand(len(x), 1, WIDTH) @ keys.transpose(1, 2), -1)
        logits: Tensor = self.head((weights @ values)[:, 0])
        return logits


class Layers(nn.Module):
    """Residual layers of attention with several heads over a class token and x, a head on the class token's row.

    impose: layer -> A, for the literal twin of a run under another attention; values: layer -> V; maps: what A was.
    """

    def __init__(self, layers: int = 2, heads: int = 2, twins: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.cls = nn.Parameter(drawn(1, 1, WIDTH, seed=4))
        self.layers = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH, dtype=torch.float64) for _ in range(layers))
        self.head = nn.Linear(WIDTH, CLASSES, dtype=torch.float64)
        for i, module in enumerate([*self.layers, self.head]):
            nn.init.normal_(module.weight, std=0.7, generator=torch.Generator().manual_seed(5 + i))
            nn.init.normal_(module.bias, std=0.2, generator=torch.Generator().manual_seed(25 + i))
        if twins is not None:
            self._made_equal(*twins)
        self.eval()

    def _made_equal(self, one: int, other: int) -> None:
        """Two heads of every layer with the same queries, keys and values."""
        size = WIDTH // self.heads
        with torch.no_grad():
            for layer in self.layers:
                for p in (layer.weight, layer.bias):
                    rows = p.view(3, self.heads, size, *p.shape[1:])
                    rows[:, other] = rows[:, one]

    def forward(self, x: Tensor, twin: Any = None) -> Tensor:
        h = torch.cat([self.cls.expand(len(x), 1, WIDTH), x], 1)
        for i, layer in enumerate(self.layers):
            q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in layer(h).chunk(3, -1))
            A = torch.softmax(q @ k.transpose(-1, -2) / k.shape[-1] ** 0.5, -1)
            if twin is not None:
                A, v = twin(i, A, v)
            h = h + (A @ v).transpose(1, 2).flatten(2)
        logits: Tensor = self.head(torch.tanh(h[:, 0]))
        return logits


class Block(nn.Module):
    """One attention over x: "still", which adds nothing; "even", the mean of all rows and nothing of the row's own; or "mixed",
    residual, with a bend."""

    def __init__(self, kind: str, seed: int) -> None:
        super().__init__()
        self.kind = kind
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False, dtype=torch.float64)
        nn.init.normal_(self.qkv.weight, std=0.6, generator=torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.kind == "even":
            q, v = 0 * q, x
        O = torch.softmax(q @ k.transpose(1, 2), -1) @ (0 * v if self.kind == "still" else v)
        return O if self.kind == "even" else x + (torch.tanh(O) if self.kind == "mixed" else O)


class Blocks(nn.Module):
    """Blocks in a row over x (batch, token, width), and a head on the mean of all rows."""

    def __init__(self, *kinds: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(kind, 10 + i) for i, kind in enumerate(kinds))
        self.head = nn.Linear(WIDTH, CLASSES, bias=False, dtype=torch.float64)
        nn.init.normal_(self.head.weight, generator=torch.Generator().manual_seed(9))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean(1))
        return logits


REGIONS = 4


class Pointing(nn.Module):
    """Words that look at regions. Word number w looks at region w mod 4 with a share e^s / (e^s + 3), s its sharpness, at the
    others alike; logits are the mean over words of what they see.

    regions are (code, value): the code is one-hot, so that a word's embedding is its scores. Of several heads, head h looks at
    region w + h. `loop`: heads are calls of their own.
    """

    def __init__(self, sharpness: float = 2.0, heads: int = 1, loop: bool = False) -> None:
        super().__init__()
        self.heads, self.loop = heads, loop
        self.words = nn.Embedding(8, REGIONS, dtype=torch.float64)
        self.words.weight.data = sharpness * torch.eye(REGIONS, dtype=torch.float64).repeat(2, 1)
        self.eval()

    def maps(self, input_ids: Tensor, regions: Tensor) -> Tensor:
        """A, (sample, head, word, region), written out."""
        S = self.words(input_ids) @ regions[..., :REGIONS].transpose(1, 2)
        return torch.softmax(torch.stack([S.roll(h, -1) for h in range(self.heads)], 1), -1)

    def forward(self, input_ids: Tensor, regions: Tensor) -> Tensor:
        codes, values = regions[..., :REGIONS], regions[..., REGIONS:]
        turned = torch.stack([codes.roll(-h, -1) for h in range(self.heads)], 1)
        V, words = values[:, None].expand(-1, self.heads, -1, -1), self.words(input_ids)
        if self.loop:
            seen = [torch.softmax(words @ turned[:, h].mT, -1) @ V[:, h] for h in range(self.heads)]
            logits: Tensor = torch.cat(seen, -1).unflatten(-1, (self.heads, -1)).mean((1, 2))
            return logits
        made: Tensor = (torch.softmax(words[:, None] @ turned.mT, -1) @ V).mean((1, 2))
        return made


class Joint(nn.Module):
    """Words and features in one sequence with a class token, which reads all; some words may be padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(8, WIDTH, dtype=torch.float64)
        self.cls = nn.Parameter(drawn(1, 1, WIDTH, seed=6))
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH, bias=False, dtype=torch.float64) for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES, bias=False, dtype=torch.float64)
        for i, weight in enumerate([self.words.weight, *(m.weight for m in self.qkv), self.head.weight]):
            nn.init.normal_(weight, std=0.7, generator=torch.Generator().manual_seed(50 + i))
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, feats: Tensor, twin: Any = None) -> Tensor:
        h = torch.cat([self.cls.expand(len(feats), 1, WIDTH), self.words(input_ids), feats], 1)
        open_ = torch.ones(h.shape[:2], dtype=torch.bool)
        open_[:, 1 : 1 + input_ids.shape[1]] = attention_mask.bool()
        for i, layer in enumerate(self.qkv):
            q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in layer(h).chunk(3, -1))
            A = torch.softmax((q @ k.mT).masked_fill(~open_[:, None, None], -torch.inf), -1)
            A = A if twin is None else twin(i, A)
            h = h + (A @ v).transpose(1, 2).flatten(2)
        logits: Tensor = self.head(torch.tanh(h[:, 0]))
        return logits


class Merging(nn.Module):
    """Features that look at one another, are merged two by two (their mean), and are looked at by words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(8, WIDTH, dtype=torch.float64)
        nn.init.normal_(self.words.weight, generator=torch.Generator().manual_seed(60))
        self.merge = nn.Linear(2 * WIDTH, WIDTH, bias=False, dtype=torch.float64)
        self.merge.weight.data = torch.eye(WIDTH, dtype=torch.float64).repeat(1, 2) / 2
        self.eval()

    def merged(self, feats: Tensor) -> Tensor:
        """What the words look at."""
        feats = feats + torch.softmax(feats @ feats.mT, -1) @ feats
        made: Tensor = self.merge(torch.cat([feats[:, 0::2], feats[:, 1::2]], -1))
        return made

    def forward(self, input_ids: Tensor, feats: Tensor) -> Tensor:
        merged = self.merged(feats)
        logits: Tensor = (torch.softmax(self.words(input_ids) @ merged.mT, -1) @ merged).mean(1)
        return logits


def pointed() -> dict[str, Tensor]:
    """Two samples for `Pointing`: three words, four regions with values (3)."""
    code = torch.eye(REGIONS, dtype=torch.float64).expand(2, REGIONS, REGIONS)
    return {"input_ids": torch.tensor([[0, 5, 2], [7, 7, 1]]), "regions": torch.cat([code, drawn(2, REGIONS, 3)], -1)}


def joint() -> dict[str, Tensor]:
    """Two samples for `Joint`: three words, of which the second has one less, and four features."""
    words, mask = torch.tensor([[0, 5, 2], [7, 1, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    return {"input_ids": words, "attention_mask": mask, "feats": drawn(2, 4, WIDTH, seed=8)}
