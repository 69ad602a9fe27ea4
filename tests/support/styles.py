"""Whole small models, each in the style of other people: JAX ports, einops-like, courses, papers' own code.

What they compute is written once more by full matrices in styles_twin.py. Nothing here uses our code.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS, CLASSES, VOCABULARY = 8, 2, 3, 12

HEAD = WIDTH // HEADS

# -- a port of a Flax encoder ------------------------------------------------------------------------------------------


class DenseGeneral(nn.Module):
    """flax.linen.DenseGeneral over the last axes: kernels keep their shape, (d, h, k) in and (h, k, d) out."""

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(*inputs, *outputs))
        self.bias = nn.Parameter(torch.randn(*outputs))
        self.axes = len(inputs)

    def forward(self, x: Tensor) -> Tensor:
        contracted = list(range(x.ndim - self.axes, x.ndim)), list(range(self.axes))
        return torch.tensordot(x, self.kernel, contracted) + self.bias


class FlaxNorm(nn.Module):
    """The variance as E[x²] - E[x]²."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        mean, mean2 = x.mean(-1, keepdim=True), torch.square(x).mean(-1, keepdim=True)
        var = torch.maximum(torch.zeros(()).to(x), mean2 - torch.square(mean))
        return (x - mean) * (torch.rsqrt(var + 1e-6) * self.scale) + self.bias


class FlaxAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (DenseGeneral((WIDTH,), (HEADS, HEAD)) for _ in range(3))
        self.out = DenseGeneral((HEADS, HEAD), (WIDTH,))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        logits = torch.einsum("...qhd,...khd->...hqk", query / math.sqrt(HEAD), key)
        logits = torch.where(mask, logits, torch.finfo(logits.dtype).min)
        unnormalized = torch.exp(logits - torch.amax(logits, -1, keepdim=True).detach())
        weights = unnormalized / torch.sum(unnormalized, -1, keepdim=True)
        return self.out(torch.einsum("...hqk,...khd->...qhd", weights, value))


class FlaxEncoder(nn.Module):
    """Padding is read off the ids themselves (0); the first token is read."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(VOCABULARY, WIDTH))
        self.pos_embedding = nn.Parameter(torch.randn(1, 16, WIDTH))
        self.attention = nn.ModuleList(FlaxAttention() for _ in range(2))
        self.norm = nn.ModuleList(FlaxNorm() for _ in range(4))
        self.up = nn.ModuleList(DenseGeneral((WIDTH,), (2 * WIDTH,)) for _ in range(2))
        self.down = nn.ModuleList(DenseGeneral((2 * WIDTH,), (WIDTH,)) for _ in range(2))
        self.head = DenseGeneral((WIDTH,), (CLASSES,))

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.index_select(self.embedding, 0, ids.reshape(-1)).reshape(*ids.shape, WIDTH)
        x = x + torch.narrow(self.pos_embedding, 1, 0, ids.shape[-1])
        keep = ids > 0
        mask = torch.logical_and(keep[..., :, None], keep[..., None, :])[..., None, :, :]
        for i, attention in enumerate(self.attention):
            x = torch.add(x, attention(self.norm[2 * i](x), mask))
            y = self.norm[2 * i + 1](x)
            x = torch.add(x, self.down[i](F.gelu(self.up[i](y), approximate="tanh")))
        return self.head(torch.squeeze(torch.narrow(x, 1, 0, 1), 1))


# -- in the way of x-transformers --------------------------------------------------------------------------------------


def exists(value: Any) -> bool:
    return value is not None


def rotate_half(x: Tensor) -> Tensor:
    x1, x2 = x.unflatten(-1, (2, -1)).unbind(-2)
    return torch.cat((-x2, x1), dim=-1)


def apply_rotary(t: Tensor, freqs: Tensor) -> Tensor:
    """On the first features of each head alone."""
    rot = freqs.shape[-1]
    t, t_unrotated = t[..., :rot], t[..., rot:]
    return torch.cat((t * freqs.cos() + rotate_half(t) * freqs.sin(), t_unrotated), dim=-1)


class GEGLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x, gate = x.chunk(2, dim=-1)
        return x * F.gelu(gate)


class GRUGating(nn.Module):
    """A recurrent cell in place of the residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRUCell(WIDTH, WIDTH)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.gru(x.reshape(-1, WIDTH), residual.reshape(-1, WIDTH)).reshape_as(x)


class MemoryAttention(nn.Module):
    """Memory keys and values, cosine similarities, talking heads by 1 x 1 convolutions, a gate on what comes out."""

    def __init__(self, memories: int = 2) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.mem_k, self.mem_v = (nn.Parameter(torch.randn(HEADS, memories, HEAD)) for _ in range(2))
        self.pre, self.post = (nn.Conv2d(HEADS, HEADS, 1, bias=False) for _ in range(2))
        self.gate, self.to_out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, rotary: Tensor | None = None) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (t.view(b, n, HEADS, HEAD).permute(0, 2, 1, 3) for t in self.to_qkv(x).chunk(3, dim=-1))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        if exists(rotary):
            q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
        mem_k, mem_v = (m[None].repeat(b, 1, 1, 1) for m in (self.mem_k, self.mem_v))
        k, v = torch.cat((F.normalize(mem_k, dim=-1), k), dim=-2), torch.cat((mem_v, v), dim=-2)
        dots = self.pre(torch.einsum("b h i d, b h j d -> b h i j", q, k) * 4)
        i, j = dots.shape[-2:]
        causal = torch.ones((i, j), dtype=torch.bool, device=x.device).triu(j - i + 1)
        dots = dots.masked_fill(causal, -torch.finfo(dots.dtype).max)
        attn = self.post(dots.softmax(dim=-1, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32))
        out = torch.einsum("b h i j, b h j d -> b h i d", attn, v).permute(0, 2, 1, 3).flatten(2)
        return self.to_out(out * self.gate(x).sigmoid())


class XTransformer(nn.Module):
    """Memory tokens are packed before the tokens and unpacked after the layers; the last token is read."""

    def __init__(self) -> None:
        super().__init__()
        self.project_in = nn.Linear(5, WIDTH)
        self.memory_tokens = nn.Parameter(torch.randn(2, WIDTH))
        self.register_buffer("inv_freq", 1.0 / (10 ** (torch.arange(0, HEAD // 2, 2).float() / (HEAD // 2))))
        block = [nn.LayerNorm(WIDTH), MemoryAttention(), GRUGating(), nn.LayerNorm(WIDTH),
                 nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), GEGLU(), nn.Linear(2 * WIDTH, WIDTH)), GRUGating()]  # fmt: skip
        self.layers = nn.ModuleList(nn.ModuleList(copy.deepcopy(block)) for _ in range(2))
        self.to_logits = nn.Linear(WIDTH, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project_in(x)
        x = torch.cat((self.memory_tokens.expand(x.shape[0], -1, -1), x), dim=1)
        t = torch.arange(x.shape[1], device=x.device).type_as(self.inv_freq)
        freqs = torch.einsum("i , j -> i j", t, self.inv_freq)
        freqs = torch.cat((freqs, freqs), dim=-1)
        for norm, attn, gate, ff_norm, ff, ff_gate in self.layers:
            x = gate(attn(norm(x), rotary=freqs), x)
            x = ff_gate(ff(ff_norm(x)), x)
        _, x = x.split([2, x.shape[1] - 2], dim=1)
        return self.to_logits(x)[:, -1]


# -- a course's GPT, with a cache --------------------------------------------------------------------------------------


class CourseHead(nn.Module):
    """One head of self-attention."""

    def __init__(self, block_size: int) -> None:
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(WIDTH, HEAD, bias=False) for _ in range(3))
        self.register_buffer("tril", torch.tril(torch.ones(block_size, block_size)))

    def forward(self, x: Tensor, cache: dict[str, Tensor]) -> Tensor:
        _B, T, C = x.shape
        q, k, v = self.query(x), self.key(x), self.value(x)
        if "k" in cache:
            k, v = torch.cat([cache["k"], k], dim=1), torch.cat([cache["v"], v], dim=1)
        cache["k"], cache["v"] = k, v
        S = k.shape[1]
        wei = q @ k.transpose(-2, -1) * C**-0.5
        wei = wei.masked_fill(self.tril[S - T : S, :S] == 0, float("-inf"))
        return F.softmax(wei, dim=-1) @ v


class CourseBlock(nn.Module):
    def __init__(self, block_size: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList([CourseHead(block_size) for _ in range(HEADS)])
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.ffwd = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH))
        self.ln1, self.ln2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, caches: list[dict[str, Tensor]]) -> Tensor:
        y = self.ln1(x)
        x = x + self.proj(torch.cat([h(y, c) for h, c in zip(self.heads, caches, strict=True)], dim=-1))
        return x + self.ffwd(self.ln2(x))


class CourseGPT(nn.Module):
    """Reads the prompt once, then the last token with the keys and values that are kept; the head is the embedding."""

    def __init__(self, block_size: int = 8) -> None:
        super().__init__()
        self.token_embedding_table = nn.Embedding(VOCABULARY, WIDTH)
        self.position_embedding_table = nn.Embedding(block_size, WIDTH)
        self.blocks = nn.ModuleList([CourseBlock(block_size) for _ in range(2)])
        self.ln_f = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.token_embedding_table.weight

    def step(self, idx: Tensor, start: int, caches: list[list[dict[str, Tensor]]]) -> Tensor:
        _B, T = idx.shape
        pos_emb = self.position_embedding_table(torch.arange(start, start + T, device=idx.device))
        x = self.token_embedding_table(idx) + pos_emb
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block(x, cache)
        return self.lm_head(self.ln_f(x))

    def forward(self, idx: Tensor) -> Tensor:
        caches: list[list[dict[str, Tensor]]] = [[{} for _ in range(HEADS)] for _ in self.blocks]
        self.step(idx[:, :-1], 0, caches)
        return self.step(idx[:, -1:], idx.shape[1] - 1, caches)[:, -1, :]


# -- the annotated encoder-decoder -------------------------------------------------------------------------------------


def clones(module: nn.Module, N: int) -> nn.ModuleList:
    return nn.ModuleList([copy.deepcopy(module) for _ in range(N)])


def subsequent_mask(size: int) -> Tensor:
    return torch.triu(torch.ones((1, size, size)), diagonal=1).type(torch.uint8) == 0


class AnnotatedNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a_2, self.b_2 = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return self.a_2 * (x - mean) / (std + 1e-6) + self.b_2


class MultiHeadedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linears = clones(nn.Linear(WIDTH, WIDTH), 4)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        mask = mask.unsqueeze(1)
        nbatches = query.size(0)
        query, key, value = [
            lin(x).view(nbatches, -1, HEADS, HEAD).transpose(1, 2)
            for lin, x in zip(self.linears, (query, key, value), strict=False)
        ]
        scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.size(-1))
        p_attn = scores.masked_fill(mask == 0, -1e9).softmax(dim=-1)
        x = torch.matmul(p_attn, value).transpose(1, 2).contiguous().view(nbatches, -1, HEADS * HEAD)
        return self.linears[-1](x)


class Sublayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = AnnotatedNorm(), nn.Dropout(0.1)

    def forward(self, x: Tensor, sublayer: Any) -> Tensor:
        return x + self.dropout(sublayer(self.norm(x)))


class AnnotatedLayer(nn.Module):
    """An encoder's layer, or with `src_attn` a decoder's."""

    def __init__(self, decodes: bool) -> None:
        super().__init__()
        self.self_attn, self.src_attn = MultiHeadedAttention(), MultiHeadedAttention() if decodes else None
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, WIDTH))
        self.sublayer = clones(Sublayer(), 2 + decodes)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor | None = None, src_mask: Any = None) -> Tensor:
        x = self.sublayer[0](x, lambda x: self.self_attn(x, x, x, mask))
        if self.src_attn is not None:
            x = self.sublayer[1](x, lambda x: self.src_attn(x, memory, memory, src_mask))
        return self.sublayer[-1](x, self.feed_forward)


class EncoderDecoder(nn.Module):
    """The masks are made of the padding symbol 0; the generator gives log-probabilities of the last target position."""

    def __init__(self) -> None:
        super().__init__()
        self.src_embed, self.tgt_embed = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(VOCABULARY, WIDTH)
        position = torch.arange(0, 16).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, WIDTH, 2) * -(math.log(10000.0) / WIDTH))
        pe = torch.zeros(16, WIDTH)
        pe[:, 0::2], pe[:, 1::2] = torch.sin(position * div_term), torch.cos(position * div_term)
        self.register_buffer("pe", pe.unsqueeze(0))
        self.encoder, self.decoder = clones(AnnotatedLayer(False), 2), clones(AnnotatedLayer(True), 2)
        self.norms = clones(AnnotatedNorm(), 2)
        self.generator = nn.Linear(WIDTH, CLASSES)

    def embed(self, table: nn.Embedding, x: Tensor) -> Tensor:
        return table(x) * math.sqrt(WIDTH) + self.pe[:, : x.size(1)].requires_grad_(False)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        src_mask = (src != 0).unsqueeze(-2)
        tgt_mask = (tgt != 0).unsqueeze(-2) & subsequent_mask(tgt.size(-1)).type_as(src_mask.data)
        memory = self.embed(self.src_embed, src)
        for layer in self.encoder:
            memory = layer(memory, src_mask)
        memory = self.norms[0](memory)
        x = self.embed(self.tgt_embed, tgt)
        for layer in self.decoder:
            x = layer(x, tgt_mask, memory, src_mask)
        return F.log_softmax(self.generator(self.norms[1](x)[:, -1]), dim=-1)


# -- the reference code of a Llama -------------------------------------------------------------------------------------

KV_HEADS = 1


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)).type_as(x) * self.weight


def apply_rotary_emb(xq: Tensor, xk: Tensor, freqs_cis: Tensor) -> tuple[Tensor, Tensor]:
    """By complex numbers."""
    xq_, xk_ = (torch.view_as_complex(t.reshape(*t.shape[:-1], -1, 2)) for t in (xq, xk))
    freqs_cis = freqs_cis.view(1, xq_.shape[1], 1, xq_.shape[-1])
    return torch.view_as_real(xq_ * freqs_cis).flatten(3), torch.view_as_real(xk_ * freqs_cis).flatten(3)


class LlamaAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wo = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.wk, self.wv = (nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False) for _ in range(2))

    def forward(self, x: Tensor, freqs_cis: Tensor, mask: Tensor | None) -> Tensor:
        bsz, seqlen, _ = x.shape
        xq = self.wq(x).view(bsz, seqlen, HEADS, HEAD)
        xk, xv = (w(x).view(bsz, seqlen, KV_HEADS, HEAD) for w in (self.wk, self.wv))
        xq, xk = apply_rotary_emb(xq, xk, freqs_cis)
        keys, values = (
            t[:, :, :, None, :].expand(bsz, seqlen, KV_HEADS, HEADS // KV_HEADS, HEAD).reshape(bsz, seqlen, HEADS, HEAD)
            for t in (xk, xv)
        )
        xq, keys, values = xq.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
        scores = torch.matmul(xq, keys.transpose(2, 3)) / math.sqrt(HEAD)
        if mask is not None:
            scores = scores + mask
        scores = F.softmax(scores.to(torch.promote_types(scores.dtype, torch.float32)), dim=-1).type_as(xq)
        output = torch.matmul(scores, values)
        return self.wo(output.transpose(1, 2).contiguous().view(bsz, seqlen, -1))


class LlamaReference(nn.Module):
    """Grouped queries, rotary positions by complex numbers, SwiGLU; logits of the last token."""

    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.attention = nn.ModuleList(LlamaAttention() for _ in range(2))
        self.w1, self.w3 = (nn.ModuleList(nn.Linear(WIDTH, 12, bias=False) for _ in range(2)) for _ in range(2))
        self.w2 = nn.ModuleList(nn.Linear(12, WIDTH, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(RMSNorm() for _ in range(5))
        self.output = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def freqs_cis(self, end: int, dtype: torch.dtype) -> Tensor:
        freqs = 1.0 / (100.0 ** (torch.arange(0, HEAD, 2)[: HEAD // 2].to(dtype) / HEAD))
        freqs = torch.outer(torch.arange(end).to(dtype), freqs)
        return torch.polar(torch.ones_like(freqs), freqs)

    def forward(self, tokens: Tensor) -> Tensor:
        _bsz, seqlen = tokens.shape
        h = self.tok_embeddings(tokens)
        freqs_cis = self.freqs_cis(seqlen, h.dtype)
        mask = torch.triu(torch.full((seqlen, seqlen), float("-inf")), diagonal=1).type_as(h)
        for i, attention in enumerate(self.attention):
            h = h + attention(self.norms[2 * i](h), freqs_cis, mask)
            y = self.norms[2 * i + 1](h)
            h = h + self.w2[i](F.silu(self.w1[i](y)) * self.w3[i](y))
        return self.output(self.norms[4](h))[:, -1]
