"""The literal twin of a model of the grammar: the same choices, by full n×n matrices, in float64, with autograd at every A.

Nothing here uses our code, and nothing of the model but its weights. What an attention *is* (formulas.md 0): whatever the model
cuts it into, here it is one A of all heads, rows and samples at once. What each row of a state is made of is kept by matrices
over the joint rows (class token, tokens of x, tokens of y): R of each path rule, and T, by the token maps alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from support.grammar import CLASSES, MERGED, SHIFT, SIDES, WINDOW, Attention, Layer, Net, moved_length
from support.grammar_models import Model, kv_heads

ROUNDING = 1e-12
RULES = ("rollout", "positive", "negative", "absolute", "signed")


@dataclass
class Map:
    """One summand of an attention: A (b, head, n, m) and O (b, head, n, d) in the graph.

    held: bool (head, n, m), the keys that a row's kernel call has. values: their stream. S: which of its rows they are. share:
    of the attention's heads, where other maps' heads stand beside its own.
    """

    A: Tensor
    O: list[Tensor]
    held: Tensor
    values: str
    S: Tensor
    share: float = 1.0
    G: Tensor = field(init=False)
    dO: list[Tensor] = field(init=False)


@dataclass
class Step:
    """What happens to a stream: its tokens are moved by P, or it takes part in an attention, the sum of some maps."""

    stream: str
    P: Tensor | None = None
    maps: list[Map] = field(default_factory=list)
    keeps: bool = True


@dataclass
class Literal:
    """A run: its output, its steps, and each method's scores by stream.

    tied: two rows have the maximum that is read out, so that rounding decides which of them the model looks at.
    """

    logits: Tensor
    steps: list[Step]
    x: dict[str, Tensor]
    g: dict[str, Tensor]
    counts: list[tuple[str, int]]
    hidden: Tensor
    tied: bool
    scores: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def linear(module: Any, t: Tensor) -> Tensor:
    return t @ module.weight.double().T + module.bias.double()


def layer_norm(module: Any, t: Tensor) -> Tensor:
    centred = t - t.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt()
    return scaled * module.weight.double() + module.bias.double()


class Twin:
    """One run of the choices."""

    def __init__(self, net: Net, model: Model, given: dict[str, Tensor]) -> None:
        self.net, self.model = net, model
        self.steps: list[Step] = []
        self.b = len(given["x"])
        self.hidden = torch.zeros(self.b, net.tokens + net.cls, dtype=torch.bool)
        if net.padded:
            self.hidden[:, net.cls :] = given["mask"] == 0
        self.tied = False
        self.leaves: dict[str, Tensor] = {}
        if net.enter == "ids":
            self.leaves["x"] = model.stem.weight.double()[given["x"]].detach().requires_grad_()
        else:
            self.leaves["x"] = given["x"].double().requires_grad_()
        if net.two:
            self.leaves["y"] = given["y"].double().requires_grad_()

    def run(self) -> Tensor:
        net, model = self.net, self.model
        x = linear(model.stem, self.leaves["x"]) if net.enter == "linear" else self.leaves["x"]
        if net.cls:
            x = torch.cat([model.cls_token.double().repeat(self.b, 1, 1), x], 1)
        x = x + model.pos.double()
        y = None
        if net.two:
            y = linear(model.stem_y, self.leaves["y"])
            if net.encoded:
                one = Layer(attentions=(Attention(layout="mha", scores="mha"),))
                y = y + self.attention("y", one, [_MHA(model.encoder)], [], Tensor(), y, None, Tensor())
        for layer, block in zip(net.layers, model.blocks, strict=True):
            P = self.matrix(layer.move, block.move, x)
            self.steps.append(Step("x", P=P))
            if layer.move == "pairs linear":
                pairs = [torch.cat([x[:, i], x[:, i + 1]], -1) for i in range(0, x.shape[1], 2)]
                x = linear(block.move.reduction, torch.stack(pairs, 1))
            else:
                x = P @ x
            x = self.block(layer, block, x, y)
        return linear(model.head, self.pool(x))

    def pool(self, x: Tensor) -> Tensor:
        if self.net.pool == "mean":
            counts = ~self.hidden if self.net.padded else torch.ones(x.shape[:2], dtype=torch.bool)
            return torch.stack([x[i, counts[i]].mean(0) for i in range(self.b)])
        if self.net.pool == "max":
            first, second = x.detach().topk(2, 1).values.unbind(1)
            self.tied = bool((first - second < ROUNDING * first.abs()).any())
        return {"first": x[:, 0], "last": x[:, x.shape[1] - 1], "max": x.amax(1)}[self.net.pool]

    def block(self, layer: Layer, block: Any, x: Tensor, y: Tensor | None) -> Tensor:
        def mlp(t: Tensor) -> Tensor:
            return linear(block.mlp[2], F.gelu(linear(block.mlp[0], t)))

        def attention(t: Tensor) -> Tensor:
            return self.attention("x", layer, block.attends, block.outs, block.weights, t, y, self.hidden)

        n1, n2 = (lambda t, norm=norm: layer_norm(norm, t) for norm in block.norms)
        if layer.residual == "plain":
            return x + attention(x)
        if layer.residual == "bare":
            return attention(x)
        if layer.residual == "parallel":
            return x + attention(n1(x)) + mlp(n1(x))
        if layer.residual == "pre":
            x = x + attention(n1(x))
            return x + mlp(n2(x))
        x = n1(x + attention(x))
        return n2(x + mlp(x))

    # -- token maps ---------------------------------------------------------------------------------------------------

    def matrix(self, how: str, move: Any, x: Tensor) -> Tensor:
        """P (b, out, in): a selection, or 1/m of m merged tokens."""
        n = x.shape[1]
        P = torch.zeros(self.b, moved_length(how, n), n, dtype=torch.float64)
        for b in range(self.b):
            for i, sources in enumerate(self.sources(how, move, x[b].detach())):
                for j in sources:
                    P[b, i, j] += 1 / len(sources)
        return P

    def sources(self, how: str, move: Any, x: Tensor) -> list[list[int]]:
        """Of which tokens each token is made."""
        n = len(x)
        each = list(range(n))
        if how == "flip":
            each = each[::-1]
        elif how == "roll":
            each = [(i - 2) % n for i in each]
        elif how in ("index", "gather", "matrix"):
            each = move.order.tolist()
        elif how == "sort":
            each.sort(key=lambda i: float(x[i, 0]))
        elif how == "drop":
            each = each[1:]
        elif how == "top":
            each = sorted(each, key=lambda i: -float(x[i].norm()))[: n - 1]
        elif how.startswith("pairs"):
            return [[2 * i, 2 * i + 1] for i in range(n // 2)]
        elif how.startswith("tome"):
            return self.merged(x)
        elif how == "repeat":
            each = [i for i in each for _ in range(2)]
        elif how == "tile":
            each = each + each
        return [[i] for i in each]

    def merged(self, x: Tensor) -> list[list[int]]:
        even, odd = list(range(0, len(x), 2)), list(range(1, len(x), 2))
        groups = {j: [j] for j in odd}
        for i in even[:MERGED]:
            groups[max(odd, key=lambda j: float(x[i] @ x[j]))].append(i)
        return [[i] for i in even[MERGED:]] + [groups[j] for j in odd]

    # -- attention ----------------------------------------------------------------------------------------------------

    def attention(
        self,
        stream: str,
        layer: Layer,
        attends: Any,
        outs: Any,
        weights: Tensor,
        x: Tensor,
        y: Tensor | None,
        hidden: Tensor,
    ) -> Tensor:
        """Its maps' outputs, joined."""
        step = Step(stream, keeps=layer.residual != "bare")
        self.steps.append(step)
        outputs: list[Tensor] = []
        for a, attend in zip(layer.attentions, attends, strict=True):
            own, other = (x, y) if a.keys == "x" else (y, x)
            names = ("x", "y") if a.keys == "x" else ("y", "x")
            take_other = a.values == "other"
            mask = hidden if a.keys == "x" and stream == "x" and self.net.padded else None
            found, O = self.one(a, attend, x, own, other if take_other else own, mask)
            found.values = stream if stream == "y" else names[take_other]
            step.maps.append(found)
            outputs += [o.transpose(1, 2).flatten(2) for o in O]
            if isinstance(attend, _MHA) or a.layout == "mha":
                module = attend.module if isinstance(attend, _MHA) else attend.mha
                outputs[-1] = linear(module.out_proj, outputs[-1])
        if stream == "y":
            return outputs[0]
        if layer.joined in SIDES:
            for m in step.maps:
                m.share = 1 / len(step.maps)
            return linear(outs[0], torch.cat(outputs, -1))
        if layer.after:
            outputs = [linear(out, o) for out, o in zip(outs, outputs, strict=True)]
        weighed = layer.joined not in ("added", "stacked")
        total = sum(w * o for w, o in zip(weights.double() if weighed else [1] * len(outputs), outputs, strict=True))
        return total if layer.after else linear(outs[0], total)  # type: ignore[return-value, arg-type]

    def one(
        self, a: Attention, attend: Any, x: Tensor, keys: Any, values: Any, hidden: Tensor | None
    ) -> tuple[Map, list[Tensor]]:
        heads, d = self.net.heads, self.net.size
        m, n = values.shape[1], x.shape[1]
        S = torch.eye(m, dtype=torch.float64)
        if a.values == "parameter keys":
            keys = attend.learned.double().repeat(self.b, 1, 1)
        if a.values == "shifted":
            S = S[[(j - SHIFT) % m for j in range(m)]]
            values = S @ values
        q, k, v, r = (None if t is None else t.unflatten(-1, (heads, d)).transpose(1, 2)
                      for t in self.projected(a, attend, x, keys, values))  # fmt: skip
        held, open_ = self.held(a, n, m), torch.ones(self.b, n, m, dtype=torch.bool)
        if a.causal:
            open_ &= torch.ones(n, m, dtype=torch.bool).tril()
        if hidden is not None:
            open_ &= ~hidden[:, None]
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / d**0.5
        A = scores.masked_fill(~(held & open_[:, None]), -torch.inf).softmax(-1)
        A.retain_grad()
        O = [torch.einsum("bhij,bhjd->bhid", A, v)]
        if a.extra == "second":
            O[0] = O[0] + torch.einsum("bhij,bhjd->bhid", A, r)
        if a.extra == "relative":
            O[0] = O[0] + torch.einsum("bhij,ijd->bhid", A, attend.table.double())
        if a.extra == "apart":
            O.append(torch.einsum("bhij,bhjd->bhid", A, r))
        for o in O:
            o.retain_grad()
        return Map(A, O, held, "x", S), O

    def projected(self, a: Attention, attend: Any, x: Tensor, keys: Tensor, values: Tensor) -> list[Tensor | None]:
        """q, k, v and second values, (b, n, heads · d), grouped heads repeated."""
        if a.layout == "mha":
            mha = attend.module if isinstance(attend, _MHA) else attend.mha
            weights, biases = mha.in_proj_weight.double().chunk(3), mha.in_proj_bias.double().chunk(3)
            return [*(t @ w.T + b for t, w, b in zip((x, keys, values), weights, biases, strict=True)), None]
        parts = attend.each if a.layout == "modules" else [attend.all]
        out: list[Tensor | None] = []
        for name, t in (("q", x), ("k", keys), ("v", values), ("r", values)):
            maps = [getattr(p, name) for p in parts]
            out.append(None if maps[0] is None else torch.cat([linear(p, t) for p in maps], -1))
        each = self.net.heads // kv_heads(a, self.net.heads)
        d = self.net.size
        for i in (1, 2, 3):
            t = out[i]
            if t is not None and each > 1:
                out[i] = torch.cat([t[..., h // each * d : (h // each + 1) * d] for h in range(self.net.heads)], -1)
        return out

    def held(self, a: Attention, n: int, m: int) -> Tensor:
        """bool (head, n, m): whether a row's kernel call holds a key at all (a window), whatever the mask says."""
        heads = self.net.heads
        out = torch.ones(heads, n, m, dtype=torch.bool)
        if a.windows == "whole":
            return out
        for h in range(heads // 2 if a.layout == "stripes" else heads):
            for i in range(n):
                for j in range(m):
                    shift = SHIFT if a.windows == "shifted" else 0
                    out[h, i, j] = (i - shift) % n // WINDOW == (j - shift) % n // WINDOW
        return out


class _MHA:
    """The encoder of y, looked at as an attention."""

    def __init__(self, module: Any) -> None:
        self.module = module


# -- methods ----------------------------------------------------------------------------------------------------------


def literal(net: Net, model: Model, given: dict[str, Tensor], target: int) -> Literal:
    """Run the choices, take every gradient at once, and make all maps."""
    twin = Twin(net, model, given)
    logits = twin.run()
    maps = [m for step in twin.steps for m in step.maps]
    at = [m.A for m in maps] + [o for m in maps for o in m.O] + [*twin.leaves.values()]
    grads = torch.autograd.grad(logits[:, target].sum(), at, allow_unused=True)
    found = iter([torch.zeros_like(t) if g is None else g for t, g in zip(at, grads, strict=True)])
    for m in maps:
        m.G = next(found)
    for m in maps:
        m.dO = [next(found) for _ in m.O]
        m.A = m.A.detach()
    g = {k: next(found) for k in twin.leaves}
    counts = [("cls_token", 1)] * net.cls + [("x", net.tokens)] + [("y", net.others)] * net.two
    x = {k: v.detach() for k, v in twin.leaves.items()}
    out = Literal(logits.detach(), twin.steps, x, g, counts, twin.hidden[:, net.cls :], twin.tied)
    out.scores = all_scores(out, net)
    return out


def by_rule(A: Tensor, G: Tensor, rule: str) -> Tensor:
    """What a rule makes of each element of A and G."""
    AG = A * G
    return {
        "rollout": A,
        "positive": AG.clamp(min=0),
        "negative": (-AG).clamp(min=0),
        "absolute": AG.abs(),
        "signed": AG,
    }[rule]


def edge(m: Map, rule: str) -> Tensor:
    """E of one summand, (b, n, rows of the values' state): the mean over heads, times its share of the attention's."""
    each = by_rule(m.A, m.G, rule)
    return m.share * each.sum(1) / each.shape[1] @ m.S


def all_scores(t: Literal, net: Net) -> dict[str, dict[str, Tensor]]:
    """The forward form of formulas.md 3: of every state R = (I + ΣE) R by each rule, and T by the token maps alone.

    Without a residual branch the rows of a state have absorbed no earlier attention but through their values (`Step.keeps`).
    """
    total, b = sum(n for _, n in t.counts), len(t.logits)
    first = {"x": (0, net.tokens + net.cls), "y": (net.tokens + net.cls, total)}
    begin = {s: torch.eye(total, dtype=torch.float64)[i:j].repeat(b, 1, 1) for s, (i, j) in first.items()}
    T = dict(begin)
    R = {rule: dict(begin) for rule in RULES}
    for step in t.steps:
        s = step.stream
        if step.P is not None:
            T[s] = step.P @ T[s]
            for rule in RULES:
                R[rule][s] = step.P @ R[rule][s]
            continue
        last, at_last = step, dict(T)
        for rule in RULES:
            E = [edge(m, rule) for m in step.maps]
            new = (R[rule][s] if step.keeps else T[s]) + sum(
                e @ R[rule][m.values] for e, m in zip(E, step.maps, strict=True)
            )
            if rule == "rollout":
                new = new / (1 + sum(e.sum(-1, keepdim=True) for e in E))
            R[rule][s] = new
    r = readout(last)
    scores = {
        "raw_attention": sum((r @ edge(m, "rollout")) @ at_last[m.values] for m in last.maps),
        "attention_grad_cam": grad_cam(t, net, last, r, at_last),
        "rollout": r @ R["rollout"]["x"],
        "gae": r @ R["positive"]["x"] - r @ T["x"],
    }
    for rule in RULES[1:]:
        scores[f"corrected_attention {rule}"] = r @ R[rule]["x"] - r @ T["x"]
    out = {name: by_stream(t, found[:, 0]) for name, found in scores.items()}
    for name, of in (
        ("gradient", lambda x, g: g.square().sum(-1).sqrt()),
        ("input_x_gradient", lambda x, g: (x * g).sum(-1)),
    ):
        out[name] = {s: of(t.x[s], t.g[s]) if s in t.x else torch.zeros(b, n) for s, n in t.counts}
        out[name]["x"] = out[name]["x"].masked_fill(t.hidden, 0)
    return out


def readout(last: Step) -> Tensor:
    """r (b, 1, n): rows of the last attention by the norm of ∂y/∂O."""
    norms = sum(dO.square().sum((1, 3)) for m in last.maps for dO in m.dO).sqrt()
    return (norms / norms.sum(1, keepdim=True))[:, None]


def grad_cam(t: Literal, net: Net, last: Step, r: Tensor, T: dict[str, Tensor]) -> Tensor:
    """Σ_i r_i (E_h θ_hi A_hi)₊, θ_hi the mean of G_hi over the keys of its kernel call that are visible tokens of an input.

    Where maps are added, E is their sum.
    """
    sums: dict[str, Tensor] = {}
    for m in last.maps:
        rows = m.S @ T[m.values]
        born = torch.zeros(len(rows), rows.shape[2], dtype=torch.bool)
        born[:, : net.cls] = True
        born[:, net.cls : net.cls + net.tokens] |= t.hidden
        counts = (rows * ~born[:, None]).sum(-1)[:, None, None] * m.held
        theta = (m.G * counts).sum(-1, keepdim=True) / counts.sum(-1, keepdim=True).clamp(min=1e-30)
        sums[m.values] = sums.get(m.values, 0) + m.share * (theta * m.A).mean(1) @ m.S
    return sum(r @ E.clamp(min=0) @ T[s] for s, E in sums.items())  # type: ignore[return-value]


def by_stream(t: Literal, relevance: Tensor) -> dict[str, Tensor]:
    parts = dict(zip([s for s, _ in t.counts], relevance.split([n for _, n in t.counts], 1), strict=True))
    parts["x"] = parts["x"].masked_fill(t.hidden, 0)
    return parts


__all__ = ["CLASSES", "Literal", "literal"]
