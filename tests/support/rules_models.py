"""Norms, activations, gates and weights as people write them by hand, each beside what it is (support/rules_twin.py).

Each is a function of two tensors (sample, token, feature) that depend on the input; a literal one is given the rules first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.rules_twin import RULES, Rules, activation, gated, layer_norm, over, product, rms_norm

WIDTH = 8
EPS = 1e-5
ONE = torch.ones(())
Written = Callable[[Tensor, Tensor], Tensor]
Literal = Callable[[Rules, Tensor, Tensor], Tensor]


class Layer(nn.Module):
    """A function between linear maps."""

    def __init__(self, function: Callable[..., Tensor], rules: Rules | None = None) -> None:
        super().__init__()
        self.function, self.rules = function, rules
        self.a, self.b, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        own = () if self.rules is None else (self.rules,)
        return self.head(self.function(*own, self.a(x), self.b(x)))[:, 0]


def squares(x: Tensor) -> Tensor:
    return x.pow(2).mean(-1, keepdim=True)


def in_place(x: Tensor) -> Tensor:
    """A copy that is written into step by step."""
    size, x = x.square().mean(-1, keepdim=True), x.clone()
    size.add_(EPS).rsqrt_()
    x.mul_(size)
    return x


def through_a_view(x: Tensor) -> Tensor:
    """The length is written into as a whole, through a view of it."""
    size = squares(x)
    size[:] += EPS
    return x * size.rsqrt()


def written_over(x: Tensor) -> Tensor:
    """The length is written where it stood before."""
    size = squares(x)
    size[...] = torch.rsqrt(size + EPS)
    return x * size


def copied_over(x: Tensor) -> Tensor:
    size = squares(x)
    size.copy_((size + EPS).sqrt())
    return x / size


def copied_by_name(x: Tensor) -> Tensor:
    size = squares(x)
    size.copy_(other=(size + EPS).rsqrt())
    return x * size


def through_flat(x: Tensor) -> Tensor:
    size = squares(x)
    size.view(-1).add_(EPS)
    return x * size.rsqrt()


def divided_in_place(x: Tensor) -> Tensor:
    size = x.var(-1, correction=0, keepdim=True).add_(EPS).sqrt_()
    x = x.clone()
    x -= x.mean(-1, keepdim=True)
    x /= size
    return x


def by_variance(x: Tensor) -> Tensor:
    var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(var + EPS)


def by_groups(x: Tensor) -> Tensor:
    parts = x.unflatten(-1, (2, -1))
    return (parts / parts.norm(dim=-1, keepdim=True)).flatten(-2)


RMS: dict[str, Callable[[Tensor], Tensor]] = {
    "rsqrt": lambda x: x * torch.rsqrt(squares(x) + EPS),
    "rsqrt first": lambda x: torch.rsqrt(squares(x) + EPS) * x,
    "sqrt": lambda x: x / torch.sqrt(x.square().mean(-1, True) + EPS),
    "power": lambda x: x / (squares(x) + EPS) ** 0.5,
    "negative power": lambda x: x * (squares(x) + EPS).pow(-0.5),
    "one over": lambda x: x * (1 / (squares(x) + EPS).sqrt()),
    "reciprocal": lambda x: (squares(x) + EPS).sqrt().reciprocal() * x,
    "times itself": lambda x: x * (x * x).mean(-1, keepdim=True).add(EPS).rsqrt(),
    "torch.multiply": lambda x: torch.multiply(x, torch.rsqrt(torch.mean(torch.mul(x, x), -1, keepdim=True) + EPS)),
    "cast and back": lambda x: x.to(torch.float64).mul(torch.rsqrt(squares(x.double()) + EPS)).to(x.dtype),
    "in place": in_place,
    "through a view": through_a_view,
    "written over": written_over,
    "copied over": copied_over,
    "copied by name": copied_by_name,
    "through a flat view": through_flat,
    "F.rms_norm": lambda x: F.rms_norm(x, (WIDTH,), None, EPS),
    "einsum": lambda x: x / (torch.einsum("bnd,bnd->bn", x, x)[..., None] / WIDTH + EPS).sqrt(),
    "power by name": lambda x: x * (squares(x) + EPS).pow(exponent=-0.5),
    "divided by name": lambda x: torch.div(x, other=(squares(x) + EPS).sqrt()),
    "x.div by name": lambda x: x.div(other=(squares(x) + EPS).sqrt()),
    "vecdot": lambda x: x * (torch.linalg.vecdot(x, x).unsqueeze(-1) / WIDTH + EPS).rsqrt(),
}
LENGTH: dict[str, Callable[[Tensor], Tensor]] = {
    "x.norm": lambda x: x / x.norm(dim=-1, keepdim=True),
    "x.norm p": lambda x: x / x.norm(p=2, dim=-1, keepdim=True),
    "torch.norm": lambda x: x.div(torch.norm(x, 2, -1, True)),
    "linalg.norm": lambda x: x / torch.linalg.norm(x, dim=-1, keepdim=True),
    "vector_norm": lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12),
    "clamp_min": lambda x: torch.div(x, x.norm(dim=-1, keepdim=True).clamp_min(1e-12)),
    "expanded": lambda x: x / x.norm(dim=-1, keepdim=True).expand_as(x),
    "unsqueezed": lambda x: x / x.norm(dim=-1)[..., None],
    "sum of squares": lambda x: x / x.pow(2).sum(-1, keepdim=True).sqrt(),
    "maximum": lambda x: x / torch.maximum(x.pow(2).sum(-1, keepdim=True).sqrt(), torch.tensor(1e-12)),
    "F.normalize": lambda x: F.normalize(x, dim=-1),
    "scaled before": lambda x: (3 * x) / (3 * x).norm(dim=-1, keepdim=True),
}
LAYER: dict[str, Callable[[Tensor], Tensor]] = {
    "var": lambda x: (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + EPS),
    "squares": lambda x: (
        (x - x.mean(-1, keepdim=True)) * ((x - x.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True).add(EPS).rsqrt()
    ),
    "var_mean": by_variance,
    "in place": divided_in_place,
    "E x² − (E x)²": lambda x: (
        (x - x.mean(-1, keepdim=True)) / (squares(x) - x.mean(-1, keepdim=True).square() + EPS).sqrt()
    ),
    "F.layer_norm": lambda x: F.layer_norm(x, (WIDTH,), eps=EPS),
    "torch.layer_norm": lambda x: torch.layer_norm(x, (WIDTH,), eps=EPS),
    "native_layer_norm": lambda x: torch.native_layer_norm(x, (WIDTH,), None, None, EPS)[0],
    "one group": lambda x: F.group_norm(x.flatten(0, 1), 1, eps=EPS).view_as(x),
}


def std_mean(x: Tensor) -> Tensor:
    std, mean = torch.std_mean(x, dim=-1, keepdim=True)
    return (x - mean) / (std + EPS)


def literal_std(rules: Rules, x: Tensor, _: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return over(rules, centred, (centred * centred).sum(-1, keepdim=True).div(WIDTH - 1).sqrt() + EPS)


def length_of(x: Tensor) -> Tensor:
    return (x * x).sum(-1, keepdim=True).sqrt()


NORMS: dict[str, tuple[Written, Literal]] = {
    **{f"rms: {n}": (lambda x, _, f=f: f(x), lambda r, x, _: rms_norm(r, x, ONE, EPS)) for n, f in RMS.items()},
    **{f"length: {n}": (lambda x, _, f=f: f(x), lambda r, x, _: over(r, x, length_of(x))) for n, f in LENGTH.items()},
    **{
        f"layer: {n}": (lambda x, _, f=f: f(x), lambda r, x, _: layer_norm(r, x, None, None, EPS)) for n, f in LAYER.items()
    },
    "std: x.std": (lambda x, _: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + EPS), literal_std),
    "std: std_mean": (lambda x, _: std_mean(x), literal_std),
    "groups": (
        lambda x, _: by_groups(x),
        lambda r, x, _: torch.cat([over(r, t, length_of(t)) for t in x.chunk(2, -1)], -1),
    ),
    "l1": (lambda x, _: F.normalize(x, p=1, dim=-1), lambda r, x, _: over(r, x, x.abs().sum(-1, keepdim=True))),
    "l1 by hand": (
        lambda x, _: x / x.abs().sum(-1, keepdim=True),
        lambda r, x, _: over(r, x, x.abs().sum(-1, keepdim=True)),
    ),
    "as long as another": (
        lambda x, y: x * y.norm(dim=-1, keepdim=True) / x.norm(dim=-1, keepdim=True),
        lambda r, x, y: product(r, over(r, x, length_of(x)), length_of(y)),
    ),
    "cosine": (
        lambda x, y: F.cosine_similarity(x, y, dim=-1)[..., None],
        lambda r, x, y: product(r, over(r, x, length_of(x)), over(r, y, length_of(y))).sum(-1, keepdim=True),
    ),
    "its weight is the input's": (
        lambda x, y: F.layer_norm(x.detach(), (WIDTH,), y[0, 0]),
        lambda _r, x, y: layer_norm(RULES["plain"], x.detach(), y[0, 0], None, EPS),
    ),
    "a diagonal is filled": (
        lambda x, _: x[0].clone().fill_diagonal_(0.0)[None],
        lambda _r, x, _: (x[0] * (1 - torch.eye(x.shape[1], WIDTH)))[None],
    ),
    "a length that divides another": (
        lambda x, y: x / (1 + y.norm(dim=-1, keepdim=True)),
        lambda _r, x, y: x / (1 + length_of(y)),
    ),
}  # fmt: skip
"""Divisors."""

TANH: dict[str, Any] = {"a": (2 / torch.pi) ** 0.5, "b": 0.044715}


def new_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(TANH["a"] * (x + TANH["b"] * torch.pow(x, 3.0))))


def gelu_step_by_step(x: Tensor) -> Tensor:
    """A GELU whose gate is written into."""
    gate = 0.5 * torch.tanh(TANH["a"] * (x + TANH["b"] * x**3))
    gate += 0.5
    return x * gate


def gelu_of_a_sum(x: Tensor) -> Tensor:
    """A GELU whose cubic is added in place."""
    u = x * 1.0
    u += TANH["b"] * x**3
    return 0.5 * x * (1 + torch.tanh(TANH["a"] * u))


def softsign_in_place(x: Tensor) -> Tensor:
    size = x.abs() * 1.0
    size += 1
    return x / size


def snake_in_place(x: Tensor) -> Tensor:
    y = x.clone()
    y += torch.sin(x) ** 2
    return y


def taken_away(x: Tensor) -> Tensor:
    gate = x.sigmoid() * 1.0
    gate -= 1
    return x * gate


def written_relu(x: Tensor) -> Tensor:
    x = x.clone()
    return F.relu(x, inplace=True)


def and_then_moved(x: Tensor) -> Tensor:
    """What an activation was of is written into afterwards."""
    x = x.clone()
    y = F.relu(x)
    x += 1
    return y + x - x.detach()


def squared_in_place(x: Tensor) -> Tensor:
    x = x.relu().mul(1)
    x *= x.clone()
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "elu": F.elu,
    "mish": F.mish,
    "leaky": lambda x: F.leaky_relu(x, 0.2),
    "hardswish": F.hardswish,
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu by hand": lambda x: x * x.sigmoid(),
    "silu as a quotient": lambda x: x / (1 + torch.exp(-x)),
    "mish by hand": lambda x: x * torch.tanh(F.softplus(x)),
    "hardswish by hand": lambda x: x * F.relu6(x + 3) / 6,
    "softsign by hand": lambda x: x / (1 + x.abs()),
    "erf gelu": lambda x: x * 0.5 * (1.0 + torch.erf(x / 2**0.5)),
    "tanh gelu": new_gelu,
    "tanh gelu step by step": gelu_step_by_step,
    "tanh gelu of a sum": gelu_of_a_sum,
    "softsign in place": softsign_in_place,
    "snake in place": snake_in_place,
    "taken away": taken_away,
    "quotient by name": lambda x: torch.div(x, other=1 + torch.exp(-x)),
    "product by name": lambda x: torch.mul(x, other=x.sigmoid()),
    "power by name": lambda x: x.pow(exponent=2),
    "square": lambda x: x * x,
    "power": lambda x: x**2,
    "squared relu": lambda x: F.relu(x) ** 2,
    "squared relu, times itself": lambda x: F.relu(x) * F.relu(x),
    "squared relu in place": squared_in_place,
    "relu in place": written_relu,
    "relu_": lambda x: x.clone().relu_(),
    "clamp_": lambda x: x.clone().clamp_(min=0),
    "gate in place": lambda x: x.clone().mul_(torch.sigmoid(x)),
    "silu_": lambda x: F.silu(x.clone(), inplace=True),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "snake": lambda x: x + torch.sin(x) ** 2,
}


def of_one(f: Callable[[Tensor], Tensor]) -> tuple[Written, Literal]:
    return lambda x, _: f(x), lambda rules, x, _: activation(rules, f, x)


def by_hand(x: Tensor) -> Tensor:
    """softmax(x)."""
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def by_hand_times(x: Tensor) -> Tensor:
    """softmax(x), times 1 over the sum."""
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return e * (1 / e.sum(-1, keepdim=True))


def moved_gate(x: Tensor, y: Tensor) -> Tensor:
    gate = torch.sigmoid(x) * 2
    gate += 1
    return gate * y


def constant(x: Tensor) -> Tensor:
    """Numbers that depend on parameters alone, in a tensor of x's shape."""
    return torch.ones(x.shape, dtype=x.dtype, requires_grad=True).mul(0.5)


def into_a_view(x: Tensor, y: Tensor) -> Tensor:
    """x is added to a part of a table of positions, which is all of it here."""
    h = constant(x)
    h.narrow(1, 0, x.shape[1]).add_(x)
    return h * y


def into_places(x: Tensor, y: Tensor) -> Tensor:
    h = constant(x)
    h[:, :].add_(x)
    return h * y


def view_of_before(x: Tensor, y: Tensor) -> Tensor:
    """A view is made, and then what it is a view of is written into."""
    h = constant(x)
    view = h[...]
    h += x
    return view * y


def constants_into_a_view(x: Tensor, y: Tensor) -> Tensor:
    h = constant(x)
    h[:, :].add_(constant(x))
    return h * y


def gate_by_parts(x: Tensor, y: Tensor) -> Tensor:
    gate = torch.zeros_like(x)
    gate[:, :1] = F.silu(x[:, :1])
    gate[:, 1:] = F.silu(x[:, 1:])
    return gate * y


def gate_through_views(x: Tensor, y: Tensor) -> Tensor:
    gate = torch.empty_like(x)
    gate[:, :1].copy_(F.silu(x[:, :1]))
    gate.narrow(1, 1, x.shape[1] - 1).copy_(F.silu(x[:, 1:]))
    return gate * y


def gate_copied(x: Tensor, y: Tensor) -> Tensor:
    return torch.empty_like(x).copy_(F.silu(x)) * y


def gate_copied_over(x: Tensor, y: Tensor) -> Tensor:
    return (x * 1).copy_(F.silu(x)) * y


def written_over(x: Tensor, y: Tensor) -> Tensor:
    """What was a gate is none any more."""
    gate = F.silu(x) * 1
    gate.copy_(x)
    return gate * y


def gate_in_place(x: Tensor, y: Tensor) -> Tensor:
    x = F.silu(x)
    x *= y
    return x


def halves_in_place(x: Tensor, y: Tensor) -> Tensor:
    """Both halves stand in one tensor, and the product is written over the first."""
    both = torch.cat([x, y], -1)
    gate, value = both.chunk(2, -1)
    return value.clone().mul_(F.silu(gate))


def swiglu(rules: Rules, x: Tensor, y: Tensor) -> Tensor:
    return gated(rules, activation(rules, F.silu, x), y)


GATES: dict[str, tuple[Written, Literal]] = {
    "silu": (lambda x, y: F.silu(x) * y, swiglu),
    "silu, the other way round": (lambda x, y: y * F.silu(x), swiglu),
    "torch.mul": (lambda x, y: torch.mul(y, F.silu(x)), swiglu),
    "in place": (gate_in_place, swiglu),
    "halves in place": (halves_in_place, swiglu),
    "addcmul": (lambda x, y: torch.addcmul(torch.zeros_like(x), F.silu(x), y), swiglu),
    "einsum": (lambda x, y: torch.einsum("bnd,bnd->bnd", F.silu(x), y), swiglu),
    "scaled": (lambda x, y: 2 * F.silu(x) * y, lambda r, x, y: 2 * swiglu(r, x, y)),
    "chunks": (
        lambda x, y: (lambda a, b: F.silu(a) * b)(*torch.cat([x, y], -1).chunk(2, -1)),
        swiglu,
    ),
    "sigmoid": (lambda x, y: torch.sigmoid(x) * y, lambda r, x, y: gated(r, torch.sigmoid(x), y)),
    "F.glu": (lambda x, y: F.glu(torch.cat([y, x], -1)), lambda r, x, y: gated(r, torch.sigmoid(x), y)),
    "F.glu along another axis": (
        lambda x, y: F.glu(torch.cat([y, x], 1), 1),
        lambda r, x, y: gated(r, torch.sigmoid(x), y),
    ),
    "bilinear": (lambda x, y: x * y, product),
    "both activated": (
        lambda x, y: x.tanh() * y.tanh(),
        lambda r, x, y: product(r, activation(r, torch.tanh, x), activation(r, torch.tanh, y)),
    ),
    "film": (lambda x, y: x * (1 + y), lambda r, x, y: product(r, x, 1 + y)),
    "squeeze and excite": (
        lambda x, y: x * y.mean(1, keepdim=True).sigmoid(),
        lambda r, x, y: gated(r, y.mean(1, keepdim=True).sigmoid(), x),
    ),
    "a router": (
        lambda x, y: y * x.softmax(-1)[..., :1],
        lambda r, x, y: product(r, y, x.softmax(-1)[..., :1]),
    ),
    "a router by hand": (
        lambda x, y: y * by_hand(x)[..., :1],
        lambda r, x, y: product(r, y, x.softmax(-1)[..., :1]),
    ),
    "a router by hand, times one over": (
        lambda x, y: y * by_hand_times(x)[..., :1],
        lambda r, x, y: product(r, y, x.softmax(-1)[..., :1]),
    ),
    "moved in place": (moved_gate, lambda r, x, y: gated(r, torch.sigmoid(x) * 2 + 1, y)),
    "a bias of the input's": (
        lambda x, y: F.linear(x, torch.eye(WIDTH, dtype=x.dtype), y[0, 0]),
        lambda _r, x, y: x + y[0, 0],
    ),
    "into a view of a constant": (into_a_view, lambda r, x, y: product(r, x + 0.5, y)),
    "into places of a constant": (into_places, lambda r, x, y: product(r, x + 0.5, y)),
    "a view of what was a constant": (view_of_before, lambda r, x, y: product(r, x + 0.5, y)),
    "constants into a constant": (constants_into_a_view, lambda _r, x, y: (0.5 + 0.5) * y),
    "cat": (lambda x, y: torch.cat([F.silu(x[:, :1]), F.silu(x[:, 1:])], 1) * y, swiglu),
    "stack": (lambda x, y: torch.stack([F.silu(row) for row in x]) * y, swiglu),
    "by parts": (gate_by_parts, swiglu),
    "through views": (gate_through_views, swiglu),
    "copied": (gate_copied, swiglu),
    "copied over": (gate_copied_over, swiglu),
    "written over": (written_over, product),
    "chosen": (lambda x, y: torch.where(x > 0.1, F.silu(x), F.gelu(x)) * y, lambda r, x, y: gated(
        r, torch.where(x > 0.1, activation(r, F.silu, x), activation(r, F.gelu, x)), y
    )),
    "partly a gate": (lambda x, y: torch.where(x > 0.1, F.silu(x), y) * x, lambda r, x, y: _partly(r, x, y)),
    "cat, and cut again": (
        lambda x, y: (lambda a, b: a * b)(*torch.cat([F.silu(x), F.silu(y).tanh()], -1).chunk(2, -1)),
        lambda r, x, y: product(r, activation(r, F.silu, x), activation(r, lambda t: F.silu(t).tanh(), y)),
    ),
    "written into after": (lambda x, y: _stale(x, y), lambda r, x, y: gated(r, x.sigmoid(), x + y)),
}  # fmt: skip
"""Products."""


def _partly(rules: Rules, x: Tensor, y: Tensor) -> Tensor:
    """Nobody can say what of the product is whose, where gates are constants."""
    chosen = torch.where(x > 0.1, activation(rules, F.silu, x), y)
    return chosen * x if rules.constant_gates else product(rules, chosen, x)


def _stale(x: Tensor, y: Tensor) -> Tensor:
    """σ(x) · (x + y): x is another tensor by the time it is multiplied."""
    x = x.clone()
    s = x.sigmoid()
    x += y
    return s * x


WRITTEN: dict[str, tuple[Written, Literal]] = {
    **NORMS,
    **{f"activation: {n}": of_one(f) for n, f in ACTIVATIONS.items()},
    "activation: moved after": (
        lambda x, _: and_then_moved(x),
        lambda r, x, _: activation(r, F.relu, x) + x - x.detach(),
    ),
    "activation: with a bias of its own": (
        lambda x, _: F.gelu(x + torch.arange(8.0) / 4),
        lambda r, x, _: activation(r, F.gelu, x + torch.arange(8.0) / 4),
    ),
    **{f"gate: {n}": pair for n, pair in GATES.items()},
}
