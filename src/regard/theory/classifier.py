"""The analytic classifier: one layer of attention with one query, so small that its explanations have closed forms.

    e_t = W_e[ξ_t] + W_p(t);  k = W_k e,  q = W_q e_CLS,  v = W_v e in each of K heads;  α = softmax(qᵀk / √d_att)
    f = (1/K) Σ_i W_ℓ⁽ⁱ⁾ Σ_t α_t⁽ⁱ⁾ v_t⁽ⁱ⁾

W_p are sinusoids. There are no biases, no residual and no norm (arXiv 2402.03485, formulas.md section 8).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.errors import InputError, Misuse

PAD, UNK, CLS = 0, 1, 2
SPECIAL = ("[PAD]", "[UNK]", "[CLS]")
WORD = re.compile(r"n't|'(?:s|re|ve|ll|d|m)\b|\w(?:(?!n't)[\w-])*|[^\w\s]")


class OneLayer(nn.Module):
    """The one layer: what [CLS], token 0, reads in each head, side by side."""

    def __init__(self, width: int, heads: int, keys: int, values: int) -> None:
        super().__init__()
        self.heads, self.root = heads, math.sqrt(keys)
        self.query = nn.Linear(width, heads * keys, bias=False)
        self.key = nn.Linear(width, heads * keys, bias=False)
        self.value = nn.Linear(width, heads * values, bias=False)

    def forward(
        self, e: Float[Tensor, "batch token width"], attention_mask: Tensor | None = None
    ) -> Float[Tensor, "batch part"]:
        """ṽ of every head: Σ_t α_t v_t, α = softmax(qᵀk / √d_att)."""
        q, k, v = self._split(self.query(e[:, :1])), self._split(self.key(e)), self._split(self.value(e))
        S = q @ k.transpose(-2, -1) / self.root
        if attention_mask is not None:
            S = S.masked_fill(attention_mask[:, None, None] == 0, float("-inf"))
        return (S.softmax(-1) @ v).transpose(1, 2).flatten(1)

    def _split(self, x: Tensor) -> Float[Tensor, "batch head token part"]:
        """Heads apart."""
        apart: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return apart


class AttentionClassifier(nn.Module):
    """Tells positive (f > 0) from negative texts; `words` are those that it knows, all others are [UNK].

    Raises Misuse for sizes that are not positive, and for an odd width, which has no pairs of sine and cosine.
    """

    positions: Tensor

    def __init__(
        self,
        words: Sequence[str],
        *,
        heads: int = 4,
        width: int = 64,
        keys: int = 32,
        values: int = 32,
        length: int = 64,
    ) -> None:
        super().__init__()
        sizes = {"heads": heads, "width": width, "keys": keys, "values": values, "length": length}
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise Misuse(f"{name} is a whole number of at least 1, not {size!r}")
        if width % 2:
            raise Misuse(f"width is even, a sine and a cosine for each frequency, not {width}")
        self.sizes = sizes
        self.words = (*SPECIAL, *(w for w in dict.fromkeys(words) if w not in SPECIAL))
        self.number = {word: i for i, word in enumerate(self.words)}
        self.heads, self.length = heads, length
        self.embedding = nn.Embedding(len(self.words), width)
        self.layers = nn.ModuleList([OneLayer(width, heads, keys, values)])
        self.output = nn.Linear(heads * values, 1, bias=False)
        self.register_buffer("positions", sinusoids(length, width), persistent=False)

    def forward(
        self, input_ids: Int[Tensor, "batch token"], attention_mask: Tensor | None = None
    ) -> Float[Tensor, "batch 1"]:
        """The logit f of each text; token 0 is [CLS]. A mask is 0 at padding."""
        return self.classify(self.embed(input_ids), attention_mask)

    def embed(self, input_ids: Int[Tensor, "batch token"]) -> Float[Tensor, "batch token width"]:
        """e_t = W_e[ξ_t] + W_p(t)."""
        words: Tensor = self.embedding(input_ids)
        return words + self.positions[: input_ids.shape[1]]

    def classify(
        self, e: Float[Tensor, "batch token width"], attention_mask: Tensor | None = None
    ) -> Float[Tensor, "batch 1"]:
        """f, given the embeddings."""
        summed: Tensor = self.output(self.layer(e, attention_mask))
        return summed / self.heads

    def read(self, *texts: str | Sequence[str]) -> dict[str, Tensor]:
        """Texts, or their words, as `input_ids` and `attention_mask`, [CLS] first; what is longer than the model is cut.

        Raises InputError for a text without words.
        """
        rows = [[CLS, *(self.number.get(w, UNK) for w in words_of(t))][: self.length] for t in texts]
        if not rows or min(map(len, rows)) < 2:
            raise InputError("a text has no words; give the classifier at least one")
        longest = max(map(len, rows))
        ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], device=self.embedding.weight.device)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long()}

    @property
    def layer(self) -> OneLayer:
        """The only one; it stands in a list of layers so that Regard finds the sites before and after it."""
        (only,) = self.layers
        assert isinstance(only, OneLayer)
        return only

    @property
    def config(self) -> dict[str, Any]:
        """What makes an untrained copy, as JSON values."""
        return {**self.sizes, "words": list(self.words[len(SPECIAL) :])}


def words_of(text: str | Sequence[str]) -> list[str]:
    """The words of a text in lower case; stops are words, and `n't`, `'s` apart."""
    words = WORD.findall(text.replace("’", "'")) if isinstance(text, str) else text
    return [w.lower() for w in words]


def sinusoids(length: int, width: int) -> Float[Tensor, "token width"]:
    """W_p(t): sin(t ω) and cos(t ω) side by side, ω = 10000^(-2i / width)."""
    omega = 10000 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    turn = torch.arange(length, dtype=torch.float64)[:, None] * omega
    return torch.stack([turn.sin(), turn.cos()], -1).flatten(1).to(torch.get_default_dtype())


__all__ = ["AttentionClassifier", "sinusoids", "words_of"]
