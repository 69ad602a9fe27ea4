"""The models of styles.py once more, in float64 by full matrices, and every method's map of them (formulas.md sections 0 to 3).

Of the models only the weights are used, and nothing of our code. `Rows` are the rows of a state: asked for a rule, they give R
(batch, row, joint row), what each has come to rest on; asked for "tokens", what it is made of by moving and merging alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from support.grammar_twin import by_rule
from support.styles import HEAD, HEADS, KV_HEADS, WIDTH
from support.styles_of_sets import FRAMES, PATCHES

SIGNS = ("positive", "negative", "absolute", "signed")
Rows = Callable[[str], Tensor]


def moved(P: Tensor, rows: Rows) -> Rows:
    """P @ R: a selection, or 1/m of m merged rows."""
    return lambda rule: P @ rows(rule)


def joined(*parts: Rows) -> Rows:
    """Side by side."""
    return lambda rule: torch.cat([p(rule) for p in parts], 1)


@dataclass
class Attention:
    """A (b, head, n, m) and O (b, head, n, d) in the graph; the rows that look, and those of the values.

    call: bool (n, m), the keys that a row's kernel call has at all. sums (row, n): where a row looks several times, and takes
    in the sum (or mean, by its gradient) of what it gets, the places that are its own.
    """

    A: Tensor
    O: Tensor
    queries: Rows
    values: Rows
    keeps: bool
    call: Tensor
    sums: Tensor
    G: Tensor = field(init=False)
    dO: Tensor = field(init=False)

    def E(self, rule: str) -> Tensor:
        """The mean over heads, (b, row, m)."""
        return self.sums @ by_rule(self.A, self.G, rule).detach().mean(1)

    def rows(self, rule: str) -> Tensor:
        """R of the state that takes its output in."""
        before = self.queries(rule if self.keeps else "tokens")
        if rule == "tokens":
            return before
        out = before + self.E(rule) @ self.values(rule)
        return out / (1 + self.E(rule).sum(-1, keepdim=True)) if rule == "rollout" else out

    @property
    def r(self) -> Tensor:
        """The rows that are read, by the norm of ∂y/∂O; (b, 1, row)."""
        norms = (self.dO.square().sum((1, 3)) @ self.sums.T).sqrt()
        return (norms / norms.sum(1, keepdim=True))[:, None]


class Twin:
    """One run. streams: name -> number of tokens, those of parameters after those of inputs (`inputs`, how many).

    hidden: bool (batch, token), padding that no row looks at.
    """

    def __init__(self, batch: int, inputs: int = 1, **streams: int) -> None:
        self.streams = {name.replace("__", "."): n for name, n in streams.items()}
        self.batch, self.inputs = batch, inputs
        self.attentions: list[Attention] = []
        self.read: list[Attention] = []
        self.leaves: dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]] = {}
        self.hidden: dict[str, Tensor] = {}

    @property
    def total(self) -> int:
        return sum(self.streams.values())

    def rows(self, name: str) -> Rows:
        """A stream as it enters."""
        names = [*self.streams]
        first = sum(self.streams[n] for n in names[: names.index(name)])
        eye = torch.eye(self.total, dtype=torch.float64)[first : first + self.streams[name]]
        return lambda rule: eye.expand(self.batch, -1, -1)

    def leaf(self, name: str, value: Tensor, cells: Callable[[Tensor], Tensor] = lambda t: t) -> Tensor:
        """Where gradients at a stream are read. cells: (batch, token, element) of it."""
        value = value.detach().double().requires_grad_()
        self.leaves[name] = value, cells
        return value

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        queries: Rows,
        values: Rows,
        *,
        scale: float = HEAD**-0.5,
        bias: Any = 0.0,
        before: Callable[[Tensor], Tensor] = lambda s: s,
        after: Callable[[Tensor], Tensor] = lambda a: a,
        keeps: bool = True,
    ) -> tuple[Tensor, Attention]:
        """softmax(q kᵀ) v of (b, n, head · d), and again (b, n, head · d). bias: -inf where a row does not look at a key."""
        q, k, v = (heads(t) if t.ndim == 3 else t for t in (q, k, v))
        scores = before(torch.einsum("bhid,bhjd->bhij", q, k) * scale) + bias
        powers = (scores - scores.amax(-1, keepdim=True)).exp()
        A = after(powers / powers.sum(-1, keepdim=True))
        O = torch.einsum("bhij,bhjd->bhid", A, v)
        made = Attention(A, O, queries, values, keeps, torch.ones(A.shape[2:]) > 0, torch.eye(A.shape[2]).double())
        self.attentions.append(made)
        return O.transpose(1, 2).flatten(2), made


def heads(t: Tensor) -> Tensor:
    """(b, n, head · d) -> (b, head, n, d)."""
    return torch.stack(t.split(HEAD, -1), 1)


def maps(twin: Twin, y: Tensor, *read: Attention) -> dict[str, dict[str, Tensor]]:
    """Every method's scores by stream, for the sum of y over samples. read: the last attentions that y reads."""
    leaves = [t for t, _ in twin.leaves.values()]
    at = [*(a.A for a in twin.attentions), *(a.O for a in twin.attentions), *leaves]
    found = torch.autograd.grad(y.sum(), at, allow_unused=True)
    found = [torch.zeros_like(t) if g is None else g for t, g in zip(at, found, strict=True)]
    n = len(twin.attentions)
    for a, G, dO in zip(twin.attentions, found, found[n:], strict=False):
        a.G, a.dO = G, dO
    at_tokens = {"raw_attention": lambda a: a.E("rollout"), "attention_grad_cam": lambda a: grad_cam(twin, a)}
    out = {name: sum(a.r @ E(a) @ a.values("tokens") for a in read) for name, E in at_tokens.items()}
    out["rollout"] = sum(a.r @ a.rows("rollout") for a in read)
    for sign in SIGNS:
        out[f"corrected_attention {sign}"] = sum(a.r @ (a.rows(sign) - a.rows("tokens")) for a in read)
    out["gae"] = out["corrected_attention positive"]
    scores = {name: by_stream(twin, t[:, 0]) for name, t in out.items()}
    g = dict(zip(twin.leaves, found[2 * n :], strict=True))
    of_elements = {"gradient": lambda x, g: g.square().sum(-1).sqrt(), "input_x_gradient": lambda x, g: (x * g).sum(-1)}
    for name, of in of_elements.items():
        scores[name] = {s: torch.zeros(twin.batch, n, dtype=torch.float64) for s, n in twin.streams.items()}
        for s, (x, cells) in twin.leaves.items():
            scores[name][s] = of(cells(x.detach()), cells(g[s]))
    for found in scores.values():
        for s, hidden in twin.hidden.items():
            found[s] = found[s].masked_fill(hidden, 0)
    return scores


def grad_cam(twin: Twin, a: Attention) -> Tensor:
    """(Σ_h θ_h A_h / H)₊, θ the mean of G over the keys of the row's call that are tokens of an input."""
    visible = torch.cat(
        [1.0 - twin.hidden.get(s, torch.zeros(twin.batch, n)).double() for s, n in twin.streams.items()], 1
    )
    visible[:, sum([*twin.streams.values()][: twin.inputs]) :] = 0
    counts = (a.values("tokens") * visible[:, None]).sum(-1)[:, None, None] * a.call
    theta = (a.G * counts).sum(-1, keepdim=True) / counts.sum(-1, keepdim=True).clamp(min=1e-30)
    return (a.sums @ (theta * a.A).mean(1)).clamp(min=0).detach()


def by_stream(twin: Twin, relevance: Tensor) -> dict[str, Tensor]:
    return dict(zip(twin.streams, relevance.split([*twin.streams.values()], 1), strict=True))


def selection(order: Tensor, n: int) -> Tensor:
    """(batch, out) -> P (batch, out, n)."""
    return F.one_hot(order, n).double()


# -- the models --------------------------------------------------------------------------------------------------------

Weights = Mapping[str, Tensor]
Made = tuple[Twin, Tensor, Callable[[Tensor], dict[str, dict[str, Tensor]]]]


def affine(w: Weights, name: str, x: Tensor) -> Tensor:
    """x Wᵀ + b."""
    out = torch.einsum("bni,oi->bno", x, w[f"{name}.weight"]) if x.ndim == 3 else x @ w[f"{name}.weight"].T
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """A layer norm."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def causal(n: int) -> Tensor:
    return torch.where(torch.ones(n, n).tril() > 0, 0.0, -torch.inf).double()


def finish(twin: Twin, out: Tensor, *read: Attention) -> Made:
    return twin, out, lambda y: maps(twin, y, *read)


def flax(w: Weights, ids: Tensor) -> Made:
    b, n = ids.shape
    twin = Twin(b, ids=n)
    rows, e = twin.rows("ids"), twin.leaf("ids", w["embedding"][ids])

    def dense(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.kernel"].reshape(x.shape[-1], -1) + w[f"{name}.bias"].flatten()

    def flax_norm(name: str, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt() * w[
            f"{name}.scale"
        ] + w[f"{name}.bias"]

    x = e + w["pos_embedding"][:, :n]
    real = ids > 0
    bias = torch.where(real[:, None, None] & real[:, None, :, None], 0.0, -1e30).double()
    for i in range(2):
        z, name = flax_norm(f"norm.{2 * i}", x), f"attention.{i}"
        q, k, v = (dense(f"{name}.{part}", z) for part in ("query", "key", "value"))
        o, a = twin.attend(q, k, v, rows, rows, bias=bias)
        x, rows = x + dense(f"{name}.out", o), a.rows
        x = x + dense(f"down.{i}", F.gelu(dense(f"up.{i}", flax_norm(f"norm.{2 * i + 1}", x)), approximate="tanh"))
    return finish(twin, dense("head", x[:, 0]), a)


def x_transformer(w: Weights, data: Tensor) -> Made:
    b, n, _ = data.shape
    memories = HEADS * 2
    names = {f"{i}__1__mem_v": memories for i in range(2)}
    twin = Twin(b, x=n, memory_tokens=2, **names)
    x = torch.cat([w["memory_tokens"].expand(b, -1, -1), affine(w, "project_in", twin.leaf("x", data))], 1)
    rows = joined(twin.rows("memory_tokens"), twin.rows("x"))
    pairs = torch.cat([torch.eye(2), torch.eye(2)], 1).double() / HEADS  # a memory is what all heads have of it
    angle = torch.arange(n + 2).double()[:, None] * w["inv_freq"]
    half = HEAD // 4

    def turned(t: Tensor) -> Tensor:
        a, c, rest = t[..., :half], t[..., half : 2 * half], t[..., 2 * half :]
        return torch.cat([a * angle.cos() - c * angle.sin(), c * angle.cos() + a * angle.sin(), rest], -1)

    def gru(name: str, x: Tensor, h: Tensor) -> Tensor:
        gi = (x @ w[f"{name}.gru.weight_ih"].T + w[f"{name}.gru.bias_ih"]).chunk(3, -1)
        gh = (h @ w[f"{name}.gru.weight_hh"].T + w[f"{name}.gru.bias_hh"]).chunk(3, -1)
        reset, update = torch.sigmoid(gi[0] + gh[0]), torch.sigmoid(gi[1] + gh[1])
        return (1 - update) * torch.tanh(gi[2] + reset * gh[2]) + update * h

    for i in range(2):
        name = f"layers.{i}"
        z = norm(w, f"{name}.0", x)
        q, k, v = (heads(t) for t in affine(w, f"{name}.1.to_qkv", z).chunk(3, -1))
        q, k = (turned(t / t.norm(dim=-1, keepdim=True)) for t in (q, k))
        mem_k, mem_v = (w[f"{name}.1.mem_{s}"].expand(b, -1, -1, -1) for s in "kv")
        k, v = torch.cat([mem_k / mem_k.norm(dim=-1, keepdim=True), k], 2), torch.cat([mem_v, v], 2)
        bias = torch.cat([torch.zeros(n + 2, 2).double(), causal(n + 2)], 1)
        pre, post = (w[f"{name}.1.{s}.weight"][:, :, 0, 0] for s in ("pre", "post"))
        values = joined(moved(pairs, twin.rows(f"{i}.1.mem_v")), rows)
        o, a = twin.attend(q, k, v, rows, values, scale=4, bias=bias,
                           before=lambda s, pre=pre: torch.einsum("gh,bhij->bgij", pre, s),
                           after=lambda p, post=post: torch.einsum("gh,bhij->bgij", post, p))  # fmt: skip
        o = affine(w, f"{name}.1.to_out", o * affine(w, f"{name}.1.gate", z).sigmoid())
        x, rows = gru(f"{name}.2", o, x), a.rows
        up, gate = affine(w, f"{name}.4.0", norm(w, f"{name}.3", x)).chunk(2, -1)
        x = gru(f"{name}.5", affine(w, f"{name}.4.2", up * F.gelu(gate)), x)
    return finish(twin, x[:, -1] @ w["to_logits.weight"].T, a)


def course(w: Weights, idx: Tensor) -> Made:
    b, n = idx.shape
    twin = Twin(b, idx=n)
    rows, table = twin.rows("idx"), w["token_embedding_table.weight"]
    x = twin.leaf("idx", table[idx]) + w["position_embedding_table.weight"][:n]
    for i in range(2):
        name = f"blocks.{i}"
        z = norm(w, f"{name}.ln1", x)
        q, k, v = (torch.cat([z @ w[f"{name}.heads.{h}.{part}.weight"].T for h in range(HEADS)], -1)
                   for part in ("query", "key", "value"))  # fmt: skip
        o, a = twin.attend(q, k, v, rows, rows, scale=WIDTH**-0.5, bias=causal(n))
        x, rows = x + affine(w, f"{name}.proj", o), a.rows
        x = x + affine(w, f"{name}.ffwd.2", affine(w, f"{name}.ffwd.0", norm(w, f"{name}.ln2", x)).relu())
    return finish(twin, norm(w, "ln_f", x)[:, -1] @ table.T, a)


def annotated(w: Weights, src: Tensor, tgt: Tensor) -> Made:
    b, n, m = len(src), tgt.shape[1], src.shape[1]
    twin = Twin(b, inputs=2, src=m, tgt=n)
    twin.hidden["src"] = src == 0
    hidden = torch.where(src != 0, 0.0, -torch.inf).double()[:, None, None]

    def std_norm(name: str, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) * w[f"{name}.a_2"] + w[f"{name}.b_2"]

    def attend(name: str, x: Tensor, y: Tensor, queries: Rows, values: Rows, bias: Tensor) -> tuple[Tensor, Attention]:
        q, k, v = (affine(w, f"{name}.linears.{i}", t) for i, t in enumerate((x, y, y)))
        o, a = twin.attend(q, k, v, queries, values, bias=bias)
        return affine(w, f"{name}.linears.3", o), a

    def feed(name: str, sub: str, x: Tensor) -> Tensor:
        z = affine(w, f"{name}.feed_forward.0", std_norm(f"{name}.sublayer.{sub}.norm", x)).relu()
        return x + affine(w, f"{name}.feed_forward.3", z)

    memory = twin.leaf("src", w["src_embed.weight"][src]) * WIDTH**0.5 + w["pe"][:, :m]
    x = twin.leaf("tgt", w["tgt_embed.weight"][tgt]) * WIDTH**0.5 + w["pe"][:, :n]
    sources, rows = twin.rows("src"), twin.rows("tgt")
    for i in range(2):
        name = f"encoder.{i}"
        z = std_norm(f"{name}.sublayer.0.norm", memory)
        o, a = attend(f"{name}.self_attn", z, z, sources, sources, hidden)
        memory, sources = feed(name, "1", memory + o), a.rows
    memory = std_norm("norms.0", memory)
    for i in range(2):
        name = f"decoder.{i}"
        z = std_norm(f"{name}.sublayer.0.norm", x)
        o, a = attend(f"{name}.self_attn", z, z, rows, rows, causal(n))
        x, rows = x + o, a.rows
        o, a = attend(f"{name}.src_attn", std_norm(f"{name}.sublayer.1.norm", x), memory, rows, sources, hidden)
        x, rows = feed(name, "2", x + o), a.rows
    return finish(twin, affine(w, "generator", std_norm("norms.1", x)[:, -1]).log_softmax(-1), a)


def llama(w: Weights, tokens: Tensor) -> Made:
    b, n = tokens.shape
    twin = Twin(b, tokens=n)
    rows, h = twin.rows("tokens"), twin.leaf("tokens", w["tok_embeddings.weight"][tokens])

    def rms(i: int, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"norms.{i}.weight"]

    def turned(t: Tensor) -> Tensor:
        out = torch.empty_like(t)
        for i in range(0, HEAD, 2):
            angle = torch.arange(n).double()[None, None] / 100.0 ** (i / HEAD)
            out[..., i] = t[..., i] * angle.cos() - t[..., i + 1] * angle.sin()
            out[..., i + 1] = t[..., i] * angle.sin() + t[..., i + 1] * angle.cos()
        return out

    for i in range(2):
        z, name = rms(2 * i, h), f"attention.{i}"
        q, k, v = (heads(z @ w[f"{name}.w{s}.weight"].T) for s in "qkv")
        k, v = (t.repeat(1, HEADS // KV_HEADS, 1, 1) for t in (k, v))
        o, a = twin.attend(turned(q), turned(k), v, rows, rows, bias=causal(n))
        h, rows = h + o @ w[f"{name}.wo.weight"].T, a.rows
        z = rms(2 * i + 1, h)
        h = h + (F.silu(z @ w[f"w1.{i}.weight"].T) * (z @ w[f"w3.{i}.weight"].T)) @ w[f"w2.{i}.weight"].T
    return finish(twin, rms(4, h)[:, -1] @ w["output.weight"].T, a)


def perceiver(w: Weights, data: Tensor) -> Made:
    b, n, _ = data.shape
    latents, asked = w["latents"], w["queries"]
    twin = Twin(b, data=n, latents=len(latents), queries=len(asked))
    context = affine(w, "project", twin.leaf("data", data)) + w["pos"][:n]
    inputs, rows = twin.rows("data"), twin.rows("latents")

    def attend(name: str, x: Tensor, y: Tensor | None, queries: Rows, values: Rows, **how: Any) -> Any:
        x = norm(w, f"{name}.norm", x)
        y = x if y is None else norm(w, f"{name}.norm_context", y)
        k, v = affine(w, f"{name}.to_kv", y).chunk(2, -1)
        o, a = twin.attend(affine(w, f"{name}.to_q", x), k, v, queries, values, **how)
        return affine(w, f"{name}.to_out", o), a

    x = latents.expand(b, -1, -1)
    for i in range(2):
        o, a = attend("cross", x, context, rows, inputs)
        x = x + o
        o, a = attend(f"selves.{i}", x, None, a.rows, a.rows)
        x, rows = x + o, a.rows
        x = x + affine(w, f"ff.{i}.3", F.gelu(affine(w, f"ff.{i}.1", norm(w, f"ff.{i}.0", x))))
    o, a = attend("decoder_cross", asked.expand(b, -1, -1), x, twin.rows("queries"), rows, keeps=False)
    return finish(twin, affine(w, "to_logits", o)[:, 0], a)


def set_transformer(w: Weights, X: Tensor) -> Made:
    b, n, _ = X.shape
    names = {"I__0": w["I.0"].shape[1], "I__1": w["I.1"].shape[1], "S": w["S"].shape[1]}
    twin = Twin(b, X=n, **names)

    def mab(name: str, Q: Tensor, K: Tensor, queries: Rows, values: Rows) -> Any:
        Q, K, V = affine(w, f"{name}.fc_q", Q), affine(w, f"{name}.fc_k", K), affine(w, f"{name}.fc_v", K)
        o, a = twin.attend(Q, K, V, queries, values, scale=WIDTH**-0.5)
        o = norm(w, f"{name}.ln0", Q + o)
        return norm(w, f"{name}.ln1", o + affine(w, f"{name}.fc_o", o).relu()), a

    x, rows = affine(w, "embed", twin.leaf("X", X)), twin.rows("X")
    for i in range(2):
        h, a = mab(f"mab0.{i}", w[f"I.{i}"].expand(b, -1, -1), x, twin.rows(f"I.{i}"), rows)
        x, a = mab(f"mab1.{i}", x, h, rows, a.rows)
        rows = a.rows
    pooled, a = mab("pma", w["S"].expand(b, -1, -1), x, twin.rows("S"), rows)
    out, a = mab("sab", pooled, pooled, a.rows, a.rows)
    return finish(twin, out.flatten(1) @ w["dec.weight"].T + w["dec.bias"], a)


def graphormer(w: Weights, x: Tensor, distance: Tensor) -> Made:
    b, n, _ = x.shape
    twin = Twin(b, inputs=2, x=n, distance=n * n, graph_token=1)
    spatial = twin.leaf("distance", w["spatial.weight"][distance.flatten(1)]).unflatten(1, (n, n))
    degree = torch.tensor([[int((row == 1).sum()) for row in graph] for graph in distance])
    x = affine(w, "node", twin.leaf("x", x)) + w["degree.weight"][degree]
    x = torch.cat([w["graph_token.weight"].expand(b, 1, -1), x], 1)
    rows = joined(twin.rows("graph_token"), twin.rows("x"))
    bias = torch.zeros(b, HEADS, n + 1, n + 1, dtype=torch.float64)
    for g in range(b):
        for i in range(n + 1):
            for j in range(n + 1):
                if i == 0 or j == 0:
                    bias[g, :, i, j] = w["virtual.weight"][0]
                else:
                    near = int(distance[g, i - 1, j - 1])
                    bias[g, :, i, j] = spatial[g, i - 1, j - 1] if near <= 4 else -torch.inf
    for i in range(2):
        q, k, v = affine(w, f"qkv.{i}", norm(w, "norm", x)).chunk(3, -1)
        o, a = twin.attend(q, k, v, rows, rows, bias=bias)
        x, rows = x + affine(w, f"out.{i}", o), a.rows
    return finish(twin, affine(w, "head", x[:, :1])[:, 0], a)


def timesformer(w: Weights, video: Tensor) -> Made:
    """Tokens are frame by frame, each row by row; the class token looks at each frame in a call of its own."""
    b, side = len(video), int(PATCHES**0.5)
    twin = Twin(b, x=FRAMES * PATCHES, cls_token=1)

    def cells(t: Tensor) -> Tensor:
        size = t.shape[-1] // side
        return torch.stack([t[:, :, f, i * size : (i + 1) * size, j * size : (j + 1) * size].flatten(1)
                            for f in range(FRAMES) for i in range(side) for j in range(side)], 1)  # fmt: skip

    e = cells(twin.leaf("x", video, cells)) @ w["proj.weight"].flatten(1).T + w["proj.bias"]
    frame = torch.arange(FRAMES).repeat_interleave(PATCHES)
    place = torch.arange(PATCHES).repeat(FRAMES)
    x = e + w["pos_embed"][:, 1:][:, place] + w["time_embed"][:, frame]
    cls = (w["cls_token"] + w["pos_embed"][:, :1]).expand(b, -1, -1)
    rows = joined(twin.rows("cls_token"), twin.rows("x"))
    in_time = torch.where(place[:, None] == place, 0.0, -torch.inf).double()
    frames = torch.cat([torch.arange(FRAMES), frame])  # a copy of the class token for each frame, then the patches
    in_space = torch.where(frames[:, None] == F.pad(frame, (1, 0)), 0.0, -torch.inf).double()
    in_space[:, 0] = 0  # all copies are one key
    copies = torch.block_diag(torch.ones(FRAMES, 1), torch.eye(len(frame))).double()
    patches = torch.eye(len(frame) + 1).double()[1:]
    for i in range(2):
        name = f"blocks.{i}"
        z = norm(w, f"{name}.temporal_norm1", x)
        only = moved(patches, rows)
        o, a = twin.attend(*affine(w, f"{name}.temporal_attn.qkv", z).chunk(3, -1), only, only, bias=in_time)
        x = x + affine(w, f"{name}.temporal_fc", affine(w, f"{name}.temporal_attn.proj", o))
        rows = joined(moved(torch.eye(len(frame) + 1).double()[:1], rows), a.rows)
        q, k, v = affine(w, f"{name}.attn.qkv", norm(w, f"{name}.norm1", torch.cat([cls, x], 1))).chunk(3, -1)
        o, a = twin.attend(copies @ q, k, v, rows, rows, bias=in_space)
        a.call, a.sums = in_space == 0, copies.T
        o = affine(w, f"{name}.attn.proj", o)
        cls, x, rows = cls + o[:, :FRAMES].mean(1, keepdim=True), x + o[:, FRAMES:], a.rows

        def mlp(t: Tensor, name: str = name) -> Tensor:
            return t + affine(w, f"{name}.mlp.2", F.gelu(affine(w, f"{name}.mlp.0", norm(w, f"{name}.norm2", t))))

        cls, x = mlp(cls), mlp(x)
    return finish(twin, affine(w, "head", norm(w, "norm", cls))[:, 0], a)


def mae(w: Weights, imgs: Tensor, keep: int = 5) -> Made:
    b, n = len(imgs), 9
    twin = Twin(b, imgs=n, cls_token=1, mask_token=1)

    def cells(t: Tensor) -> Tensor:
        return torch.stack(
            [t[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(1) for i in range(3) for j in range(3)], 1
        )

    def block(name: str, x: Tensor, rows: Rows) -> tuple[Tensor, Attention]:
        z = norm(w, f"{name}.norm1", x)
        qkv = z @ w[f"{name}.self_attn.in_proj_weight"].T + w[f"{name}.self_attn.in_proj_bias"]
        o, a = twin.attend(*qkv.chunk(3, -1), rows, rows)
        x = x + affine(w, f"{name}.self_attn.out_proj", o)
        return x + affine(w, f"{name}.linear2", F.gelu(affine(w, f"{name}.linear1", norm(w, f"{name}.norm2", x)))), a

    e = cells(twin.leaf("imgs", imgs, cells)) @ w["patch_embed.weight"].flatten(1).T + w["patch_embed.bias"]
    order = torch.tensor([sorted(range(n), key=lambda i: float(w["noise"].roll(s)[i])) for s in range(b)])
    P = selection(order[:, :keep], n)
    x = torch.cat([(w["cls_token"] + w["pos_embed"][:, :1]).expand(b, -1, -1), P @ (e + w["pos_embed"][:, 1:])], 1)
    rows = joined(twin.rows("cls_token"), moved(P, twin.rows("imgs")))
    for i in range(2):
        x, a = block(f"blocks.{i}", x, rows)
        rows = a.rows
    x = affine(w, "decoder_embed", x)
    back = torch.zeros(b, n + 1, keep + 2, dtype=torch.float64)  # from class token, kept patches and the mask token
    back[:, 0, 0] = 1
    for s in range(b):
        for i in range(n):
            at = order[s].tolist().index(i)
            back[s, 1 + i, 1 + at if at < keep else keep + 1] = 1
    x = back @ torch.cat([x, w["mask_token"].expand(b, -1, -1)], 1) + w["decoder_pos_embed"]
    rows = moved(back, joined(rows, twin.rows("mask_token")))
    x, a = block("decoder_blocks.0", x, rows)
    return finish(twin, affine(w, "decoder_pred", x)[:, 1:], a)
