"""The slow literal twins: formulas.md in hand-written softmax, autograd through A, full n×n products and loops.

Nothing here uses our code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from support.capture import captured
from support.families import Case


@dataclass
class Literal:
    """One literal run of a case: maps (batch, head, query, key) with gradients, inputs and their gradients.

    `D` are the gradients at the scores of which A is the softmax, which may be of keys that are no token beside it (sinks).
    `order` says, for each column of the joint state (per sample), which joint row it is in the input's own order.
    """

    case: Case
    A: list[Tensor]
    G: list[Tensor]
    O: dict[int, Tensor]
    dO: dict[int, Tensor]
    x: dict[str, Tensor]
    g: dict[str, Tensor]
    y: Tensor
    orders: list[Tensor]
    D: list[Tensor] = field(default_factory=list)

    # -- the joint state ----------------------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        return sum(count for _, count in self.case.joint)

    def index(self, names: tuple[str, ...]) -> list[int]:
        """Joint rows of some streams, in the order in which they stand side by side."""
        out, first = [], 0
        for name, count in self.case.joint:
            if name in names:
                out += range(first, first + count)
            first += count
        return out

    def plan(self) -> list[list[tuple[int, list[int], list[int]]]]:
        """Steps of (call, query rows, key rows) in the joint state."""
        out, call = [], 0
        for step in self.case.steps:
            out.append([])
            for queries, keys in step:
                out[-1].append((call, self.index(queries), self.index(keys)))
                call += 1
        return out

    @property
    def last(self) -> tuple[int, list[int], list[int]]:
        """The last call whose queries are the read-out's streams."""
        rows = self.index(self.case.final)
        return [c for step in self.plan() for c in step if c[1] == rows][-1]

    def readout(self) -> Tensor:
        """r over the joint state, (batch, n): one row, or the rows that the head reads, by the norm of dO."""
        call, queries, _ = self.last
        r = torch.zeros(len(self.y), self.n, dtype=torch.float64)
        for b in range(len(self.y)):
            if self.case.row is not None:
                r[b, queries[self.case.row[b]]] = 1
            else:
                norms = torch.tensor([self.dO[call][b, :, i].norm().item() for i in range(len(queries))])
                r[b, queries] = (norms / norms.sum()).double()
        return r

    def scores(self, joint: Tensor) -> dict[str, Tensor]:
        """(batch, n) over the joint state -> by stream, in the input's own order; padding scores 0."""
        out, first = {}, 0
        for name, count in self.case.joint:
            own = joint[:, first : first + count].clone()
            if self.case.permuted and name == "pixel_values":
                for b, order in enumerate(self.orders):
                    own[b, order] = joint[b, first : first + count]
            if name in self.case.hidden:
                own[self.case.hidden[name]] = 0
            out[name] = own
            first += count
        return out


def run(case: Case, target: Callable[[Any], Tensor] | None = None, seed: int = 0) -> Literal:
    """Run a case literally: y.sum().backward() through eager attention, gradients at every A and every input."""
    inputs = case.inputs if isinstance(case.inputs, dict) else {"input": case.inputs}
    values = {}
    for k, v in inputs.items():
        values[k] = v.detach().clone().requires_grad_() if v.is_floating_point() else v
    words: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, out: Tensor) -> None:
            out.retain_grad()
            words[name] = out

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in case.embeddings.items()]
    torch.manual_seed(seed)
    try:
        with captured() as maps, torch.enable_grad():
            out = case.model(**values) if isinstance(case.inputs, dict) else case.model(values["input"])
            y = (target or case.target)(out)
            y.sum().backward()
    finally:
        for handle in handles:
            handle.remove()
        for p in case.model.parameters():
            p.grad = None
    x = {k: v for k, v in values.items() if v.is_floating_point()}
    x |= words
    shape = (len(y), -1)
    A = [a.reshape(*shape, *a.shape[-2:]) for a in maps.A]
    G = [(torch.zeros_like(a) if a.grad is None else a.grad).reshape(*shape, *a.shape[-2:]) for a in maps.A]
    D = [(torch.zeros_like(s) if s.grad is None else s.grad).reshape(*shape, *s.shape[-2:]) for s in maps.S]
    O = {i: o.detach().reshape(*shape, *o.shape[-2:]) for i, o in maps.O.items()}
    dO = {i: torch.zeros_like(O[i]) if o.grad is None else o.grad.reshape(O[i].shape) for i, o in maps.O.items()}
    return Literal(
        case,
        [a.detach() for a in A],
        [g.detach() for g in G],
        O,
        dO,
        {k: v.detach() for k, v in x.items()},
        {k: v.grad for k, v in x.items()},
        y.detach(),
        maps.orders,
        [d.nan_to_num(0.0) for d in D],
    )


# -- edges ------------------------------------------------------------------------------------------------------------


def edge(A: Tensor, G: Tensor, rule: str) -> Tensor:
    """One sample's (head, query, key) -> (query, key), head by head."""
    A, G = A.double(), G.double()
    per_head = []
    for h in range(len(A)):
        AG = A[h] * G[h]
        per_head.append(
            {
                "mean": A[h],
                "max": A[h],
                "positive": torch.where(AG > 0, AG, 0.0),
                "negative": torch.where(AG < 0, -AG, 0.0),
                "absolute": AG.abs(),
                "signed": AG,
            }[rule]
        )
    if rule == "max":
        return torch.stack(per_head).max(0).values
    return sum(per_head) / len(per_head)


# -- paths ------------------------------------------------------------------------------------------------------------


def block(t: Literal, b: int, step: list[tuple[int, list[int], list[int]]], rule: str, normalise: bool) -> Tensor:
    """I + E of one step over the joint state, rows brought to sum 1 on demand; all of the step reads the old state."""
    M = torch.eye(t.n, dtype=torch.float64)
    for call, queries, keys in step:
        E = edge(t.A[call][b], t.G[call][b], rule)
        for i, qi in enumerate(queries):
            for j, kj in enumerate(keys):
                M[qi, kj] += E[i, j]
    if normalise:
        for i in range(t.n):
            M[i] /= M[i].sum()
    return M


def product(t: Literal, rule: str, *, normalise: bool = False, layers: set[int] | None = None) -> Tensor:
    """Row r of M_L ⋯ M_1, full matrices; calls outside `layers` use the mean of A."""
    r, out = t.readout(), []
    for b in range(len(t.y)):
        R = torch.eye(t.n, dtype=torch.float64)
        for step in t.plan():
            which = rule if layers is None or step[0][0] in layers else "mean"
            R = block(t, b, step, which, normalise) @ R
        out.append(r[b] @ R)
    return torch.stack(out)


def only_last(t: Literal, rule: str) -> Tensor:
    call, queries, keys = t.last
    r, out = t.readout(), torch.zeros(len(t.y), t.n, dtype=torch.float64)
    for b in range(len(t.y)):
        E = edge(t.A[call][b], t.G[call][b], rule)
        for j, kj in enumerate(keys):
            out[b, kj] = sum(r[b, qi] * E[i, j] for i, qi in enumerate(queries))
    return out


def attention_grad_cam(t: Literal) -> Tensor:
    """relu(mean_h θ_h A_h[row]) of each read row, θ_h = mean of G_h[row] over input tokens that are not padding."""
    call, queries, keys = t.last
    r, out = t.readout(), torch.zeros(len(t.y), t.n, dtype=torch.float64)
    names = [name for name, count in t.case.joint for _ in range(count)]
    place = {row: row - min(t.index((names[row],))) for row in range(t.n)}
    for b in range(len(t.y)):
        A, G = t.A[call][b].double(), t.G[call][b].double()
        counts = []
        for j, kj in enumerate(keys):
            hidden = t.case.hidden.get(names[kj])
            if names[kj] not in t.case.born and (hidden is None or not hidden[b, place[kj]]):
                counts.append(j)
        for i, qi in enumerate(queries):
            total = torch.zeros(len(keys), dtype=torch.float64)
            for h in range(len(A)):
                theta = sum(G[h, i, j] for j in counts) / len(counts)
                total += theta * A[h, i] / len(A)
            for j, kj in enumerate(keys):
                out[b, kj] += r[b, qi] * max(total[j], 0.0)
    return out


# -- gradients at the input -------------------------------------------------------------------------------------------


def token_elements(case: Case, name: str, t: Tensor) -> Tensor:
    """(batch, tokens, elements) by slicing out each patch, or features as they are."""
    if name not in case.grid:
        return t.double()
    rows, columns = case.grid[name]
    high, wide = t.shape[2] // rows, t.shape[3] // columns
    cells = []
    for i in range(rows):
        for j in range(columns):
            cells.append(t[:, :, i * high : (i + 1) * high, j * wide : (j + 1) * wide].flatten(1))
    return torch.stack(cells, 1).double()


def at_input(
    t: Literal, of: Callable[[Tensor, Tensor], Tensor], also: dict[str, str] | None = None
) -> dict[str, Tensor]:
    """of(x, g) of each token's elements; `also`: inputs that meet a stream elementwise and are added to it."""
    out = {}
    for name, count in t.case.joint:
        out[name] = torch.zeros(len(t.y), count, dtype=torch.float64)
        for source in [name] + [k for k, v in (also or {}).items() if v == name]:
            if t.x.get(source) is not None:
                out[name] += of(token_elements(t.case, name, t.x[source]), token_elements(t.case, name, t.g[source]))
        if name in t.case.hidden:
            out[name][t.case.hidden[name]] = 0
    return out


REDUCE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda x, g: g.sum(-1) / g.shape[-1],
    "l1": lambda x, g: g.abs().sum(-1),
    "l2": lambda x, g: (g * g).sum(-1) ** 0.5,
}

MEETS = {"visual_pos": "visual_feats"}
"""LXMERT's boxes meet its features elementwise: one stream, named by what comes first in the forward signature."""


def explain(t: Literal, method: str, **options: Any) -> dict[str, Tensor]:
    """What a method of formulas.md gives, by stream."""
    if method == "gradient":
        return at_input(t, REDUCE[options.get("reduce", "mean")])
    if method == "input_x_gradient":
        return at_input(t, lambda x, g: (x * g).sum(-1), MEETS)
    if method in ("raw_attention", "alpha_avg"):
        return t.scores(only_last(t, "mean"))
    if method == "alpha_max":
        return t.scores(only_last(t, "max"))
    if method == "attention_grad_cam":
        return t.scores(attention_grad_cam(t))
    if method == "rollout":
        return t.scores(product(t, "mean", normalise=True))
    rule = "positive" if method == "gae" else options.get("sign", "positive")
    assert method in ("gae", "corrected_attention")
    return t.scores(product(t, rule, layers=options.get("layers")) - t.readout())
