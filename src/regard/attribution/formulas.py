"""The unification table (formulas.md section 1): methods as quadratures of one integral (arXiv 2605.22417).

a = (F − F0) ⊙ ∫₀¹ ∂f/∂F(F0 + t(F − F0)) dt: what tells methods apart is the site, the baseline F0, and the nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Formula(NamedTuple):
    """A row of the table: what a method's scores are, the baseline that it takes or implies, and its quadrature.

    "{nodes}" in `quadrature` stands for the nodes that a call was given.
    """

    a: str
    baseline: str
    quadrature: str = "one node at t = 1"

    def with_options(self, options: Mapping[str, Any]) -> Formula:
        """The row under some options: signed scores are not clamped, nodes are counted."""
        a = self.a.replace("₊", "") + ", signed" if options.get("signed") else self.a
        return Formula(a, self.baseline, self.quadrature.format(nodes=_nodes(options)))


OF_TARGETS = Formula("map(y₁) − map(y₂)", "0 at that site")
"""`difference_map` of two targets."""


def _nodes(options: Mapping[str, Any]) -> str:
    if options.get("tolerance") is not None:
        return f"Gauss-Kronrod, to {100 * options['tolerance']:g} %"
    grid = {"gauss": "Gauss-Legendre"}.get(options.get("grid", ""), options.get("grid", ""))
    return f"{options.get('steps', '')} {grid} nodes"


__all__ = ["OF_TARGETS", "Formula"]
