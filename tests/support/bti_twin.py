"""The literal twin of Beyond Intuition and of Transition Attention Maps (formulas.md section 7).

One forward and backward pass for each node, eager attention, gradients at A by autograd, full n×n products, loops; the output
projection, the values and the block's input by the names that each family gives them. Nothing here uses our code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from support import families, twins


@dataclass
class Layer:
    """One block by name: its input is z; W_O is (in, out); `values` gives v (batch, token, heads · width)."""

    block: nn.Module
    W_O: Tensor
    values: Callable[[Layer], Tensor]
    z: Tensor = field(default_factory=lambda: torch.empty(0))
    v: Tensor = field(default_factory=lambda: torch.empty(0))


def layers(case: families.Case, name: str) -> tuple[list[Layer], list[Any]]:
    """The blocks of a family, and hooks that fill them in."""
    model, out, handles = case.model, [], []

    def add(block: nn.Module, value: nn.Module, W_O: Tensor, part: slice = slice(None)) -> None:
        layer = Layer(block, W_O.detach(), lambda l: l.v[..., part])
        handles.append(block.register_forward_pre_hook(_keep_z(layer), with_kwargs=True))
        handles.append(value.register_forward_hook(lambda m, i, o, layer=layer: setattr(layer, "v", o.detach())))
        out.append(layer)

    if name in ("vit", "vit_mean"):
        for b in model.vit.layers:
            add(b, b.attention.v_proj, b.attention.o_proj.weight.T)
    elif name in ("bert", "bert_full", "roberta"):
        for b in (getattr(model, "bert", None) and model.bert.encoder.layer) or model.roberta.encoder.layer:
            add(b, b.attention.self.value, b.attention.output.dense.weight.T)
    elif name == "clip_vision":
        for b in model.vision_model.encoder.layers:
            add(b, b.self_attn.v_proj, b.self_attn.out_proj.weight.T)
    elif name == "llama":
        for b in model.model.layers:
            add(b, b.self_attn.v_proj, b.self_attn.o_proj.weight.T)
    elif name == "gpt2":
        for b in model.transformer.h:
            add(b, b.attn.c_attn, b.attn.c_proj.weight, slice(32, 48))
    elif name.startswith("torch_encoder"):
        for b in model.encoder.layers:
            add(b, nn.Identity(), b.self_attn.out_proj.weight.T)
            out[-1].values = _of_packed(b.self_attn)
    return out, handles


def _of_packed(attn: nn.MultiheadAttention) -> Callable[[Layer], Tensor]:
    """v of torch's own attention: the last third of its packed weights, of the block's input (it is normed afterwards)."""
    W, b = attn.in_proj_weight.detach()[32:], attn.in_proj_bias.detach()[32:]
    return lambda layer: layer.z @ W.T + b


def _keep_z(layer: Layer) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        layer.z = (args[0] if args else kwargs.get("hidden_states", kwargs.get("src"))).detach()

    return hook


# -- the way ----------------------------------------------------------------------------------------------------------


@contextmanager
def scaled(case: families.Case, name: str, alpha: float, path: str) -> Iterator[families.Case]:
    """The case at α x: pixels or features; word embeddings of content tokens; or what the first block is given."""
    if path == "embedding_output":
        block = layers(case, name)[0][0].block
        handle = block.register_forward_pre_hook(
            lambda m, a, k: (
                ((a[0] * alpha, *a[1:]), k) if a else (a, k | {"hidden_states": k["hidden_states"] * alpha})
            ),
            with_kwargs=True,
        )
    elif case.embeddings:
        keep = ~content(case)
        factor = torch.where(keep, 1.0, alpha)[..., None]
        handle = next(iter(case.embeddings.values())).register_forward_hook(lambda m, i, o: o * factor)
    else:
        x = case.inputs
        x = x * alpha if isinstance(x, Tensor) else {k: v * alpha for k, v in x.items()}
        yield replace(case, inputs=x)
        return
    try:
        yield case
    finally:
        handle.remove()


def content(case: families.Case) -> Tensor:
    """Tokens that are neither padding nor the position that is read (our tiny texts have no other special tokens)."""
    ids = case.inputs["input_ids"]
    out = torch.ones_like(ids, dtype=torch.bool)
    for b, row in enumerate(case.row):
        out[b, row] = False
    return out & ~case.hidden.get("input_ids", torch.zeros_like(out))


def points(grid: str, steps: int) -> list[tuple[float, float]]:
    if grid == "linspace":
        return [(i / (steps - 1), 1 / steps) for i in range(steps)]
    x, w = np.polynomial.legendre.leggauss(steps)
    return [((a + 1) / 2, b / 2) for a, b in zip(x.tolist(), w.tolist(), strict=True)]


def feedback(case: families.Case, name: str, grid: str, steps: int, path: str) -> Tensor:
    """E_h (Σ_k w_k ∂y(α_k x)/∂A^(L))₊, (batch, query, key): one pass a node."""
    total: Any = 0
    for alpha, w in points(grid, steps):
        with scaled(case, name, alpha, path) as at:
            total = total + w * twins.run(at).G[-1].double()
    return torch.stack([t.clamp(min=0) for t in total.unbind(1)]).mean(0)


# -- perception -------------------------------------------------------------------------------------------------------


def edge(t: twins.Literal, l: int, b: int, rule: str, layer: Layer, first: bool) -> Tensor:
    A, G = t.A[l][b].double(), t.G[l][b].double()
    if rule == "head":
        hidden = t.case.hidden.get("input_ids")
        shown = torch.ones(A.shape[2]) if hidden is None else (~hidden[b]).double()
        importance = [(A[h].T @ G[h]).abs() @ shown.double() for h in range(len(A))]
        theta = torch.stack([i.sum() for i in importance])
        theta = theta / theta.sum()
        return sum(theta[h] * A[h] for h in range(len(A)))
    mean = sum(A[h] for h in range(len(A))) / len(A)
    if rule == "mean":
        return mean
    z, v = (x if first else x.transpose(0, 1) for x in (layer.z, layer.values(layer)))
    z, v = z[b].double(), v[b].double()
    width = layer.W_O.shape[0] // len(A)
    per_group = len(A) * width // v.shape[1]
    out = mean.clone()
    for j in range(len(v)):
        full = torch.cat([v[j, h // per_group * width :][:width] for h in range(len(A))])
        out[:, j] *= (full @ layer.W_O.double()).norm() / z[j].norm()
    return out


def explain(
    case: families.Case, name: str, method: str, *, grid: str = "gauss", steps: int = 20, path: str = "input",
    start_layer: int = 0, weights: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """T = Σ_i r_i P_i ⊙ F_i by stream."""
    F = feedback(case, name, grid, steps, path)
    found, handles = layers(case, name)
    t = twins.run(case)
    for handle in handles:
        handle.remove()
    rule = {"bti_token": "value", "bti_head": "head", "transition_attention": "mean"}[method]
    out = torch.zeros(len(t.y), t.n, dtype=torch.float64)
    first = getattr(case.model, "batch_first", True)
    for b in range(len(t.y)):
        P = torch.eye(t.n, dtype=torch.float64)
        for l in range(start_layer, len(t.A)):
            E = edge(t, l, b, rule, found[l], first)
            last = method == "transition_attention" and l == len(t.A) - 1
            P = (E if last else torch.eye(t.n) + E) @ P
        r = torch.zeros(t.n, dtype=torch.float64)
        if weights is not None:
            r = weights.double()
        elif case.row is not None:
            r[case.row[b]] = 1
        else:
            born = sum(c for n, c in case.joint if n in case.born)
            r[born:] = 1 / (t.n - born)
        for i in range(t.n):
            out[b] += r[i] * P[i] * F[b, i]
    return t.scores(out)
