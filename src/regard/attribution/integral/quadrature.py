"""Quadratures of the path integral ∫₀¹ g(t) dt: Gauss-Legendre with n nodes, and Gauss-Kronrod 7/15 with bisection.

The adaptive rule is nested: an interval's 7 Gauss nodes stay in use when the 8 Kronrod nodes join them. What is to be reached
is known (T is measured), so it stops on the true error and not on an estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import nearest

Nodes = Float[Tensor, " node"]

# Kronrod's 15 nodes on [-1, 1] from the outermost to 0, with their weights; every second one is a Gauss node.
_X = (0.991455371120812639, 0.949107912342758525, 0.864864423359769073, 0.741531185599394440, 0.586087235467691130,
      0.405845151377397167, 0.207784955007898468, 0.0)  # fmt: skip
_K = (0.022935322010529225, 0.063092092629978553, 0.104790010322250184, 0.140653259715525919, 0.169004726639267903,
      0.190350578064785410, 0.204432940075298892, 0.209482141084727828)  # fmt: skip
_G = (0.129484966168869693, 0.279705391489276668, 0.381830050505118945, 0.417959183673469388)


def _mirrored(values: tuple[float, ...], sign: float) -> Tensor:
    half = torch.tensor(values, dtype=torch.float64)
    return torch.cat([sign * half[:-1], half.flip(0)])


KRONROD, KRONROD_WEIGHTS = _mirrored(_X, -1.0), _mirrored(_K, 1.0)
GAUSS_WEIGHTS = _mirrored(_G, 1.0)
GAUSS = slice(1, None, 2)
"""The Gauss nodes among Kronrod's."""
ADDED = slice(0, None, 2)
"""Kronrod's own."""


def gauss_legendre(n: int) -> tuple[Nodes, Nodes]:
    """n nodes and weights on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)


def trapezoid(n: int) -> tuple[Nodes, Nodes]:
    """n nodes from 0 to 1, both included."""
    w = torch.ones(n, dtype=torch.float64)
    w[[0, -1]] = 0.5 if n > 1 else 1.0
    return torch.linspace(0, 1, n, dtype=torch.float64), w / w.sum()


def linspace(n: int) -> tuple[Nodes, Nodes]:
    """n nodes from 0 to 1, both included, each of weight 1/n."""
    return torch.linspace(0, 1, n, dtype=torch.float64), torch.full((n,), 1 / n, dtype=torch.float64)


GRIDS: dict[str, Callable[[int], tuple[Nodes, Nodes]]] = {
    "gauss": gauss_legendre,
    "trapezoid": trapezoid,
    "linspace": linspace,
}


def nodes(grid: str, n: int) -> tuple[Nodes, Nodes]:
    """Nodes and weights of a grid by name. Raises UnknownName."""
    if grid not in GRIDS:
        raise nearest(grid, GRIDS, "grid")
    return GRIDS[grid](n)


@dataclass
class Subinterval:
    """A part of the path, with the values at its nodes: 7, or all 15."""

    start: float
    end: float
    values: Float[Tensor, node * value]

    @property
    def full(self) -> bool:
        """Whether Kronrod's nodes have joined."""
        return len(self.values) == len(KRONROD)

    def integral(self) -> Tensor:
        """By the best rule at hand."""
        return self._by(KRONROD_WEIGHTS) if self.full else self._by(GAUSS_WEIGHTS)

    def doubt(self) -> float:
        """How far the two rules are apart, in the sum; infinite where there is only one."""
        if not self.full:
            return float("inf")
        gauss = Subinterval(self.start, self.end, self.values[GAUSS])
        return float((self.integral().sum() - gauss.integral().sum()).abs())

    def _by(self, weights: Tensor) -> Tensor:
        return weighted(weights, self.values) * (self.end - self.start) / 2


def weighted(w: Nodes, values: Float[Tensor, node * value]) -> Tensor:
    """Σ_i w_i values_i, in float64."""
    total: Tensor = torch.tensordot(w, values.double(), dims=1)
    return total


def at(start: float, end: float, part: slice) -> Nodes:
    """Some of Kronrod's nodes on an interval."""
    return start + (KRONROD[part] + 1) / 2 * (end - start)


def adaptive(
    f: Callable[[Nodes], Float[Tensor, node * value]], done: Callable[[Tensor], bool], most: int
) -> tuple[Tensor, int]:
    """∫₀¹ f by Gauss-Kronrod 7/15, the worst interval refined until `done` says so of the integral or `most` nodes are used.

    Returns the integral and the number of nodes.
    """
    parts = [Subinterval(0.0, 1.0, f(at(0.0, 1.0, GAUSS)))]
    used = 7
    while not done(total := torch.stack([p.integral() for p in parts]).sum(0)):
        worst = max(range(len(parts)), key=lambda i: (parts[i].doubt(), parts[i].end - parts[i].start))
        part = parts[worst]
        if used + (14 if part.full else 8) > most:
            break
        if part.full:
            middle = (part.start + part.end) / 2
            both = f(torch.cat([at(part.start, middle, GAUSS), at(middle, part.end, GAUSS)]))
            parts[worst : worst + 1] = [
                Subinterval(part.start, middle, both[:7]),
                Subinterval(middle, part.end, both[7:]),
            ]
            used += 14
        else:
            values = torch.empty(len(KRONROD), *part.values.shape[1:], dtype=part.values.dtype)
            values[GAUSS], values[ADDED] = part.values, f(at(part.start, part.end, ADDED))
            parts[worst] = Subinterval(part.start, part.end, values)
            used += 8
    return total, used
