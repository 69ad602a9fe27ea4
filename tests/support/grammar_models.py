"""The nn.Module that a `Net` of the grammar means, written as people write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.grammar import CHUNK, CLASSES, FEATURES, MERGED, SHIFT, SIDES, WINDOW, WORDS, Attention, Layer, Net

# -- how an attention is written --------------------------------------------------------------------------------------


@dataclass
class Shape:
    """One layout: from (..., n, width) to the kernel's axes and back; where tokens stand; and what the mask becomes."""

    split: Callable[[Tensor, int], Tensor]
    join: Callable[[Tensor, int], Tensor]
    mask: Callable[[Tensor, int], Tensor]
    tokens: int = -2


def shapes(size: int) -> dict[str, Shape]:
    """The layouts for heads of a size; the second argument is the number of heads."""
    return {
        "b h n d": Shape(
            lambda t, h: t.unflatten(-1, (h, size)).transpose(-2, -3),
            lambda o, h: o.transpose(-2, -3).flatten(-2),
            lambda m, h: m.unsqueeze(-3),
        ),
        "h b n d": Shape(
            lambda t, h: t.unflatten(-1, (h, size)).permute(2, 0, 1, 3),
            lambda o, h: o.permute(1, 2, 0, 3).flatten(2),
            lambda m, h: m,
        ),
        "b n h d": Shape(
            lambda t, h: t.unflatten(-1, (h, size)),
            lambda o, h: o.flatten(-2),
            lambda m, h: m.unsqueeze(-3),
            -3,
        ),
        "samples first": Shape(
            lambda t, h: t.unflatten(-1, (h, size)).transpose(1, 2).reshape(len(t) * h, -1, size),
            lambda o, h: o.view(len(o) // h, h, -1, size).transpose(1, 2).flatten(2),
            lambda m, h: m.repeat_interleave(h, 0),
        ),
        "heads first": Shape(
            lambda t, h: torch.cat(t.split(size, -1), 0),
            lambda o, h: torch.cat(o.chunk(h, 0), -1),
            lambda m, h: m.repeat(h, 1, 1),
        ),
        "plain": Shape(lambda t, h: t, lambda o, h: o, lambda m, h: m),
    }


def probabilities(s: Tensor, how: str, dim: int) -> Tensor:
    if how == "torch":
        return torch.softmax(s, dim)
    if how == "functional":
        return F.softmax(s, dim=dim)
    if how == "by hand":
        e = (s - s.amax(dim, keepdim=True)).exp()
        return e / e.sum(dim, keepdim=True)
    return s.log_softmax(dim).exp() if how == "log" else s.softmax(dim)


def kv_heads(a: Attention, heads: int) -> int:
    """How many heads the keys and values have."""
    return heads if a.grouped == "no" and a.layout != "b g r n d" else heads // 2 if heads == 4 else 1


class Attend(nn.Module):
    """One attention before W_O: (b, n, width) from the states of the queries, the keys and the values."""

    def __init__(self, a: Attention, width: int, heads: int, n: int, m: int) -> None:
        super().__init__()
        self.a, self.heads, self.size = a, heads, width // heads
        self.kv = kv_heads(a, heads)
        self.shape = shapes(self.size)
        if a.layout == "mha":
            self.mha = nn.MultiheadAttention(width, heads, batch_first=True)
        elif a.layout == "modules":
            self.each = nn.ModuleList(Projections(a, width, self.size, self.size) for _ in range(heads))
        else:
            self.all = Projections(a, width, width, self.kv * self.size)
        if a.values == "parameter keys":
            self.learned = nn.Parameter(torch.randn(m, width))
        if a.extra == "relative":
            self.table = nn.Parameter(torch.randn(n, m, self.size))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None) -> Sequence[Tensor]:
        """One output; two where there are values "apart". hidden: bool (b, m), keys that are padding."""
        a = self.a
        if a.values == "parameter keys":
            keys = self.learned.expand(len(values), -1, -1)
        if a.values == "shifted":
            values = values.roll(SHIFT, 1)
        blocked = self.blocked(x.shape[1], keys.shape[1], hidden)
        if a.layout == "mha":
            return [self.over_samples(self.by_module, (x, keys, values, None), blocked)]
        if a.layout == "modules":
            parts = [self.outputs(p(x, keys, values), blocked) for p in self.each]
            return [torch.cat(o, -1) for o in zip(*parts, strict=True)]
        return self.outputs(self.all(x, keys, values), blocked)

    def outputs(self, t: Sequence[Tensor | None], blocked: Tensor | None) -> list[Tensor]:
        """From projected queries, keys, values and second values."""
        if self.a.extra == "apart":
            q, k, v, r = t
            return self.apart(q, k, v, r, blocked)
        return [self.over_samples(self.over_heads, t, blocked)]

    def apart(self, q: Any, k: Any, v: Any, r: Any, blocked: Tensor | None) -> list[Tensor]:
        """One map, two products that are not added."""
        shape = self.shape["b h n d"]
        q, k, v, r = (self.split(t, shape, self.heads, i > 0) for i, t in enumerate((q, k, v, r)))
        a = self.map(q, k, None if blocked is None else shape.mask(blocked, self.heads), self.a.scores)
        return [shape.join(self.times(a, values), self.heads) for values in (v, r)]

    def blocked(self, n: int, m: int, hidden: Tensor | None) -> Tensor | None:
        """bool (b or 1, n, m), or None."""
        causal = torch.ones(n, m, dtype=torch.bool).triu(1)[None] if self.a.causal else None
        padding = None if hidden is None else hidden[:, None].expand(-1, n, -1)
        found = [b for b in (causal, padding) if b is not None]
        return None if not found else found[0] if len(found) == 1 else found[0] | found[1]

    # -- one by one ---------------------------------------------------------------------------------------------------

    def over_samples(self, f: Callable[..., Tensor], t: Sequence[Tensor | None], blocked: Tensor | None) -> Tensor:
        how, q = self.a.samples, t[0]
        assert q is not None
        if how == "whole":
            return f(t, blocked)
        blocked = None if blocked is None else blocked.expand(len(q), -1, -1)

        def at(i: Any) -> Tensor:
            return f([None if s is None else s[i] for s in t], None if blocked is None else blocked[i])

        if how == "stacked":
            return torch.stack([at(i) for i in range(len(q))])
        if how == "joined":
            return torch.cat([at(slice(i, i + 1)) for i in range(len(q))])
        out = torch.zeros_like(q)
        for i in range(len(q)):
            out[i] = at(slice(i, i + 1))[0]
        return out

    def over_heads(self, t: Sequence[Tensor | None], blocked: Tensor | None) -> Tensor:
        layout, d = self.a.layout, self.size

        def part(first: int, last: int) -> list[Tensor | None]:
            each = self.heads // self.kv
            ends = [(first, last)] + [(first // each, (last - 1) // each + 1)] * 3
            return [None if s is None else s[..., i * d : j * d] for s, (i, j) in zip(t, ends, strict=True)]

        if layout == "stripes":
            half = self.heads // 2
            one = self.over_windows(part(0, half), blocked, half, "b h n d")
            two = self.rows(part(half, self.heads), blocked, self.heads - half, "b h n d")
            return torch.cat([one, two], -1)
        if layout == "loop":
            return torch.cat([self.over_windows(part(h, h + 1), blocked, 1, "plain") for h in range(self.heads)], -1)
        if layout == "loop in a buffer":
            assert t[0] is not None
            out = torch.zeros_like(t[0])
            for h in range(self.heads):
                out[..., h * d : (h + 1) * d] = self.over_windows(part(h, h + 1), blocked, 1, "plain")
            return out
        if layout == "modules":
            return self.over_windows(t, blocked, 1, "plain")
        return self.over_windows(t, blocked, self.heads, layout)

    def over_windows(self, t: Sequence[Tensor | None], blocked: Tensor | None, heads: int, layout: str) -> Tensor:
        how = self.a.windows
        if how == "whole":
            return self.rows(t, blocked, heads, layout)
        q = t[0]
        assert q is not None
        n = q.shape[-2]

        def at(i: int) -> Tensor:
            inside = slice(i, min(i + WINDOW, n))
            mask = None if blocked is None else blocked[..., inside, inside]
            return self.rows([None if s is None else s[..., inside, :] for s in t], mask, heads, layout)

        if how == "joined":
            return torch.cat([at(i) for i in range(0, n, WINDOW)], -2)
        if how == "in a buffer":
            out = torch.empty_like(q)
            for i in range(0, n, WINDOW):
                out[..., i : i + WINDOW, :] = at(i)
            return out
        if how == "shifted":
            t = [None if s is None else s.roll(-SHIFT, 1) for s in t]
        folded = [None if s is None else s.unflatten(1, (n // WINDOW, WINDOW)).flatten(0, 1) for s in t]
        mask = None if blocked is None else blocked[:, :WINDOW, :WINDOW]
        out = self.rows(folded, mask, heads, layout).unflatten(0, (len(q), -1)).flatten(1, 2)
        return out.roll(SHIFT, 1) if how == "shifted" else out

    def rows(self, t: Sequence[Tensor | None], blocked: Tensor | None, heads: int, layout: str) -> Tensor:
        """Heads are split off; query rows all at once, or in chunks; heads are joined."""
        if layout == "b g r n d":
            return self.five(t, blocked)
        shape = self.shape[layout]
        split = [None if s is None else self.split(s, shape, heads, i > 0) for i, s in enumerate(t)]
        if blocked is not None and layout.endswith("first"):
            blocked = blocked.expand(len(t[0]), -1, -1)  # type: ignore[arg-type]
        mask = None if blocked is None else shape.mask(blocked, heads)
        q, k, v, r = split
        axis, n = shape.tokens, split[0].shape[shape.tokens]  # type: ignore[union-attr]

        def at(i: int, j: int) -> Tensor:
            some = None if mask is None else mask[..., i:j, :]
            return self.kernel(q.narrow(axis, i, j - i), k, v, r, some, slice(i, j), layout)  # type: ignore[union-attr]

        if self.a.rows == "whole":
            return shape.join(self.kernel(q, k, v, r, mask, slice(0, n), layout), heads)
        chunks = [(i, min(i + CHUNK, n)) for i in range(0, n, CHUNK)]
        if self.a.rows == "joined":
            return shape.join(torch.cat([at(i, j) for i, j in chunks], axis), heads)
        out = torch.zeros_like(q)
        for i, j in chunks:
            if axis == -2:
                out[..., i:j, :] = at(i, j)
            else:
                out[..., i:j, :, :] = at(i, j)
        return shape.join(out, heads)

    def split(self, t: Tensor, shape: Shape, heads: int, of_keys: bool) -> Tensor:
        """Into heads; keys and values of grouped ones once for every head of the queries, unless they are broadcast."""
        kv = t.shape[-1] // self.size
        if of_keys and kv < heads and self.a.grouped == "broadcast":
            return shape.split(t, kv)
        if of_keys and kv < heads and self.a.grouped == "repeated":
            t = t.unflatten(-1, (kv, self.size)).repeat_interleave(heads // kv, -2).flatten(-2)
        elif of_keys and kv < heads:
            t = t.unflatten(-1, (kv, 1, self.size)).expand(*t.shape[:-1], kv, heads // kv, self.size).flatten(-3)
        return shape.split(t, heads)

    def five(self, t: Sequence[Tensor | None], blocked: Tensor | None) -> Tensor:
        """Grouped heads on an axis of their own: (b, group, head of it, n, d), keys and values (b, group, 1, n, d)."""
        q, k, v, r = (
            None if s is None else s.unflatten(-1, (self.kv, -1, self.size)).permute(0, 2, 3, 1, 4) for s in t
        )
        mask = None if blocked is None else blocked[:, None, None]
        return self.kernel(q, k, v, r, mask, slice(0, q.shape[-2]), "b g r n d").permute(0, 3, 1, 2, 4).flatten(2)  # type: ignore

    # -- the kernel ---------------------------------------------------------------------------------------------------

    def kernel(self, q: Any, k: Any, v: Any, r: Any, blocked: Tensor | None, rows: slice, layout: str) -> Tensor:
        if layout == "b n h d":
            return self.heads_last(q, k, v, r, blocked, rows)
        if self.a.scores == "sdpa":
            return self.fused(q, k, v, blocked)
        a = self.map(q, k, blocked, self.a.scores)
        o = self.times(a, v)
        if r is not None:
            o = o + self.times(a, r)
        if self.a.extra == "relative":
            letters = "zcghij"[-a.ndim :]
            o = o + torch.einsum(f"{letters},ijd->{letters[:-1]}d", a, self.table[rows])
        return o

    def fused(self, q: Any, k: Any, v: Any, blocked: Tensor | None) -> Tensor:
        if self.a.grouped == "broadcast" and q.ndim == 4:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=self.allowed(q, blocked), enable_gqa=True)
        if self.a.causal and q.shape[-2] == k.shape[-2] and blocked is not None and not bool(blocked.tril(0).any()):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.allowed(q, blocked))

    def allowed(self, q: Tensor, blocked: Tensor | None) -> Tensor | None:
        if blocked is None:
            return None
        return ~blocked if self.a.mask == "fill" else additive(blocked, q.dtype)

    def masked(self, s: Tensor, blocked: Tensor | None) -> Tensor:
        if blocked is None:
            return s
        return s.masked_fill(blocked, -torch.inf) if self.a.mask == "fill" else s + additive(blocked, s.dtype)

    def map(self, q: Tensor, k: Tensor, blocked: Tensor | None, how: str) -> Tensor:
        """A, (..., i, j); (..., j, i) where it is "transposed"."""
        scale, lead = self.size**-0.5, "zcgh"[max(0, 6 - q.ndim) :]
        if how == "multiply":
            s = (q.unsqueeze(-2) * k.unsqueeze(-3)).sum(-1) * scale
        elif how == "bmm":
            s = torch.bmm(q * scale, k.transpose(1, 2))
        elif how == "baddbmm":
            start = q.new_zeros(1, 1, 1) if blocked is None else additive(blocked, q.dtype)
            s, blocked = torch.baddbmm(start, q, k.transpose(1, 2), alpha=scale), None
        elif how == "einsum":
            s = torch.einsum(f"{lead}id,{lead}jd->{lead}ij", q, k) * scale
        elif how == "einsum keys first":
            s = torch.einsum(f"{lead}jd,{lead}id->{lead}ij", k, q * scale)
        elif how == "einsum transposed":
            s = torch.einsum(f"{lead}id,{lead}jd->{lead}ji", q, k) * scale
            return probabilities(self.masked(s, None if blocked is None else blocked.mT), self.a.softmax, -2)
        else:
            s = q @ k.transpose(-1, -2) / self.size**0.5
        return probabilities(self.masked(s, blocked), self.a.softmax, -1)

    def times(self, a: Tensor, v: Tensor) -> Tensor:
        how, lead = self.a.product, "zcgh"[max(0, 6 - a.ndim) :]
        ij = "ij"
        if self.a.scores == "einsum transposed":
            a, ij = (a, "ji") if "einsum" in how else (a.mT, "ij")
        if how == "einsum":
            return torch.einsum(f"{lead}{ij},{lead}jd->{lead}id", a, v)
        if how == "einsum values first":
            return torch.einsum(f"{lead}jd,{lead}{ij}->{lead}id", v, a)
        if how == "bmm":
            return torch.bmm(a, v)
        if how == "multiply":
            return (a.unsqueeze(-1) * v.unsqueeze(-3)).sum(-2)
        return a @ v

    def heads_last(self, q: Any, k: Any, v: Any, r: Any, blocked: Tensor | None, rows: slice) -> Tensor:
        """(b, n, head, d): broadcast and einsum leave the axes where they are, all else turns them."""
        b, how = "b"[: q.ndim - 3], self.a.scores
        if how == "sdpa" or how == "matmul":
            turned = [None if t is None else t.transpose(-2, -3) for t in (q, k, v, r)]
            return self.kernel(*turned, blocked, rows, "b h n d").transpose(-2, -3)
        if how == "multiply":
            mask = None if blocked is None else blocked.squeeze(-3).unsqueeze(-1)
            s = (q.unsqueeze(-3) * k.unsqueeze(-4)).sum(-1) * self.size**-0.5  # (b, i, j, head)
            a, letters = probabilities(self.masked(s, mask), self.a.softmax, -2), f"{b}ijh"
        else:
            letters = f"{b}hji" if how == "einsum transposed" else f"{b}hij"
            first, second = (f"{b}jhd", f"{b}ihd") if how == "einsum keys first" else (f"{b}ihd", f"{b}jhd")
            pair = (k, q) if how == "einsum keys first" else (q, k)
            s = torch.einsum(f"{first},{second}->{letters}", *pair) * self.size**-0.5
            turned_mask = blocked.mT if blocked is not None and letters.endswith("ji") else blocked
            dim = -2 if letters.endswith("ji") else -1
            a = probabilities(self.masked(s, turned_mask), self.a.softmax, dim)
        products = []
        for values in [v] if r is None else [v, r]:
            if self.a.product == "multiply" and how == "multiply":
                products.append((a.unsqueeze(-1) * values.unsqueeze(-4)).sum(-3))
            elif self.a.product == "einsum values first":
                products.append(torch.einsum(f"{b}jhd,{letters}->{b}ihd", values, a))
            else:
                products.append(torch.einsum(f"{letters},{b}jhd->{b}ihd", a, values))
        return products[0] if r is None else products[0] + products[1]

    def by_module(self, t: Sequence[Tensor | None], blocked: Tensor | None) -> Tensor:
        """nn.MultiheadAttention, with chunks of rows where asked."""
        x, keys, values, _ = t
        assert x is not None

        def at(i: int, j: int) -> Tensor:
            mask = None if blocked is None else blocked[:, i:j].expand(len(x), -1, -1).repeat_interleave(self.heads, 0)
            if mask is not None and self.a.mask == "add":
                mask = additive(mask, x.dtype)
            return self.mha(x[:, i:j], keys, values, attn_mask=mask, need_weights=False)[0]

        n = x.shape[1]
        if self.a.rows == "whole":
            return at(0, n)
        if self.a.rows == "joined":
            return torch.cat([at(i, min(n, i + CHUNK)) for i in range(0, n, CHUNK)], 1)
        out = torch.zeros_like(x)
        for i in range(0, n, CHUNK):
            out[:, i : i + CHUNK] = at(i, min(n, i + CHUNK))
        return out


def additive(blocked: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(blocked.shape, dtype=dtype).masked_fill(blocked, torch.finfo(dtype).min)


class Projections(nn.Module):
    """W_Q, W_K, W_V, and the map to second values."""

    def __init__(self, a: Attention, width: int, of_queries: int, of_keys: int) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(width, of_queries), nn.Linear(width, of_keys)
        self.v = nn.Linear(width, of_keys)
        self.r = nn.Linear(width, of_keys) if a.extra in ("second", "apart") else None

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Sequence[Tensor | None]:
        return self.q(x), self.k(keys), self.v(values), None if self.r is None else self.r(values)


# -- how tokens are moved ---------------------------------------------------------------------------------------------


class Move(nn.Module):
    """Tokens are put in another order, left out, merged or repeated."""

    def __init__(self, how: str, width: int, n: int) -> None:
        super().__init__()
        self.how = how
        order = torch.randperm(n)
        self.register_buffer("order", order)
        self.register_buffer("matrix", torch.eye(n)[order])
        if how == "pairs linear":
            self.reduction = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        how, n = self.how, x.shape[1]
        if how == "flip":
            return x.flip(1)
        if how == "roll":
            return x.roll(2, 1)
        if how == "index":
            return x[:, self.order]
        if how == "gather":
            return x.gather(1, self.order[None, :, None].expand(x.shape))
        if how == "sort":
            return x.gather(1, x[..., 0].argsort(1)[..., None].expand(x.shape))
        if how == "matrix":
            return self.matrix @ x
        if how == "drop":
            return x[:, 1:]
        if how == "top":
            kept = x.norm(dim=-1).topk(n - 1).indices
            return torch.take_along_dim(x, kept[..., None], 1)
        if how == "pairs mean":
            return x.view(len(x), n // 2, 2, -1).mean(2)
        if how == "pairs sum":
            return (x[:, 0::2] + x[:, 1::2]) / 2
        if how == "pairs linear":
            return self.reduction(torch.cat([x[:, 0::2], x[:, 1::2]], -1))
        if how.startswith("tome"):
            return self.merge(x)
        if how == "repeat":
            return x.repeat_interleave(2, 1)
        return torch.cat([x, x], 1) if how == "tile" else x

    def merge(self, x: Tensor) -> Tensor:
        """Token merging (Bolya et al., ICLR 2023): the first tokens at even places go to the likest at odd places."""
        even, odd = x[:, ::2], x[:, 1::2]
        likest = (even[:, :MERGED] @ odd.mT).argmax(-1)[..., None].expand(-1, -1, x.shape[-1])
        rest, gone = even[:, MERGED:], even[:, :MERGED]
        if self.how == "tome":
            return torch.cat([rest, odd.scatter_reduce(1, likest, gone, "mean")], 1)
        ones = torch.ones_like(gone)
        sizes = torch.ones_like(odd).scatter_add(1, likest, ones)
        return torch.cat([rest, odd.scatter_add(1, likest, gone) / sizes], 1)


# -- the model --------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, net: Net, layer: Layer, before: int, n: int) -> None:
        super().__init__()
        self.layer, width = layer, net.width
        self.move = Move(layer.move, width, before)
        self.attends = nn.ModuleList(
            Attend(a, width, net.heads, n, n if a.keys == "x" else net.others) for a in layer.attentions
        )
        outs = [o for a in layer.attentions for o in ([0, 0] if a.extra == "apart" else [0])]
        wide = width * len(outs) if layer.joined in SIDES else width
        self.outs = nn.ModuleList(nn.Linear(wide, width) for _ in (outs if layer.after else outs[:1]))
        self.weights = nn.Parameter(torch.rand(len(outs)) + 0.5)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(width, 5), nn.GELU(), nn.Linear(5, width))

    def forward(self, x: Tensor, y: Tensor | None, hidden: Tensor | None) -> Tensor:
        x, how = self.move(x), self.layer.residual
        if how == "plain":
            return x + self.attention(x, y, hidden)
        if how == "bare":
            return self.attention(x, y, hidden)
        if how == "parallel":
            z = self.norms[0](x)
            return x + self.attention(z, y, hidden) + self.mlp(z)
        if how == "pre":
            x = x + self.attention(self.norms[0](x), y, hidden)
            return x + self.mlp(self.norms[1](x))
        x = self.norms[0](x + self.attention(x, y, hidden))
        return self.norms[1](x + self.mlp(x))

    def attention(self, x: Tensor, y: Tensor | None, hidden: Tensor | None) -> Tensor:
        outputs: list[Tensor] = []
        for attend in self.attends:
            assert isinstance(attend, Attend)
            own, other = (x, y) if attend.a.keys == "x" else (y, x)
            mask = hidden if attend.a.keys == "x" else None
            outputs += attend(x, own, other if attend.a.values == "other" else own, mask)
        if not self.layer.after:
            return self.outs[0](self.joined(outputs))
        return self.joined([out(o) for out, o in zip(self.outs, outputs, strict=True)])

    def joined(self, outputs: list[Tensor]) -> Tensor:
        how, k = self.layer.joined, len(outputs)
        if how == "stacked":
            return F.dropout(torch.stack(outputs), 0.1, self.training).sum(0)
        if how == "weighed":
            return (torch.stack(outputs, 1) * self.weights.view(-1, 1, 1)).sum(1)
        if how == "contracted":
            return torch.einsum("k,kbnd->bnd", self.weights, torch.stack(outputs))
        if how == "a linear layer":
            return F.linear(torch.cat([o[..., None] for o in outputs], -1), self.weights[None]).squeeze(-1)
        if how == "cut":
            return sum(w * o for w, o in zip(self.weights, torch.cat(outputs, -1).chunk(k, -1), strict=True))  # type: ignore[return-value]
        if how == "side by side":
            return torch.cat(outputs, -1)
        if how == "stacked side by side":
            return torch.stack(outputs, 2).flatten(2)
        return sum(outputs)  # type: ignore[return-value]


class Model(nn.Module):
    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net, width = net, net.width
        self.stem = nn.Embedding(WORDS, width) if net.enter == "ids" else nn.Linear(FEATURES, width)
        self.stem_y = nn.Linear(FEATURES, width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos = nn.Parameter(torch.randn(1, net.tokens + net.cls, width))
        self.encoder = nn.MultiheadAttention(width, net.heads, batch_first=True)
        lengths = net.lengths()
        self.blocks = nn.ModuleList(
            Block(net, layer, before, n)
            for layer, before, n in zip(net.layers, [net.tokens + net.cls, *lengths], lengths, strict=False)
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """mask: 1 at tokens, 0 at padding."""
        x = x if self.net.enter == "features" else self.stem(x)
        if self.net.cls:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
            mask = None if mask is None else F.pad(mask, (1, 0), value=1)
        x = x + self.pos
        if y is not None:
            y = self.stem_y(y)
            if self.net.encoded:
                y = y + self.encoder(y, y, y, need_weights=False)[0]
        hidden = None if mask is None else mask == 0
        for block in self.blocks:
            x = block(x, y, hidden)
        return self.head(self.pool(x, mask))

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.net.pool == "mean" and mask is not None:
            return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"first": x[:, 0], "last": x[:, -1], "mean": x.mean(1), "max": x.amax(1)}[self.net.pool]


def build(net: Net) -> Model:
    """The model, with weights drawn so that attention is far from flat; in float64 (in float32 rounding alone moves
    some of these maps by more than 1e-5)."""
    torch.manual_seed(net.seed)
    model = Model(net)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name or name.endswith("weights"):
                p.add_(torch.randn_like(p) * 0.3)
            elif p.ndim > 1:
                p.mul_(2)
            else:
                p.copy_(torch.randn_like(p) * 0.3)
    return model.eval().double()


def inputs(net: Net) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(net.seed + 1)
    width = net.width if net.enter == "features" else FEATURES
    out = {"x": torch.randn(net.batch, net.tokens, width, generator=generator, dtype=torch.float64)}
    if net.enter == "ids":
        out["x"] = torch.randint(WORDS, (net.batch, net.tokens), generator=generator)
    if net.two:
        out["y"] = torch.randn(net.batch, net.others, FEATURES, generator=generator, dtype=torch.float64)
    if net.padded:
        out["mask"] = torch.ones(net.batch, net.tokens, dtype=torch.int64)
        out["mask"][::2, -1] = 0
    return out
