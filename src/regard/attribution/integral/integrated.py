"""Methods that decompose y: integrated gradients, revised IG at any layer, Taylor (The Neglected Baseline, 2605.22417).

One integral, a = (F − F0) ⊙ ∫₀¹ ∂f/∂F(F0 + t(F − F0)) dt, at one site with one baseline, by one quadrature each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regard.attribution.context import Context, Relevance, summed
from regard.attribution.integral.gradient import input_x_gradient as at_input
from regard.attribution.integral.path import Path, path
from regard.attribution.integral.quadrature import adaptive, nodes, weighted
from regard.baseline import Baseline
from regard.errors import Misuse
from regard.kinds import Nodes
from regard.site import Site

NEGLIGIBLE = 1e-6
"""Where |T| is below this share of max(1, |y|), its relative error is undefined: there is nothing to reach."""

NOTABLE = 0.01
"""A note says what is left of |T| if its share is larger than this."""


def integrated_gradients(
    context: Context, *, steps: Nodes = 32, grid: str = "gauss", tolerance: float | None = None, most: Nodes = 255
) -> Relevance:
    """(x − x0) ⊙ ∫ ∂y/∂x along the straight line from x0 to x (Sundararajan et al., 2017), at the input or another site.

    `steps` Gauss-Legendre nodes (grid="trapezoid" or "linspace": both ends included); or `tolerance`: as many Gauss-Kronrod
    nodes as make the attribution error at most that share of |T|, but no more than `most`.
    """
    return _integral(context, context.site or Site.input(), steps, grid, tolerance, most)


def revised_ig(
    context: Context, *, steps: Nodes = 16, grid: str = "gauss", tolerance: float | None = None, most: Nodes = 255
) -> Relevance:
    """Integrated gradients at any layer, from the layer's own value at the baseline input (arXiv 2605.22417).

    The baseline is propagated, F0 = F(x0), so that T is one number at every frontier; a is signed, nothing is clamped. `steps`,
    `grid`, `tolerance`, `most`: see `integrated_gradients`. Default site (our reading): the states before the last block.
    """
    return _integral(context, context.site or before_last(context), steps, grid, tolerance, most)


def taylor(context: Context) -> Relevance:
    """(F − F0) ⊙ ∂y/∂F at F: the first-order term, one node at t = 1."""
    return first_order(context, context.site or Site.input(), context.baseline)


def input_x_gradient(context: Context) -> Relevance:
    """Σ F ⊙ ∂y/∂F: the first-order decomposition against zero at the site (the input, unless another is named)."""
    if context.site is None or context.site.kind == "input":
        return at_input(context)
    return first_order(context, context.site, Baseline.zero().local())


def first_order(context: Context, site: Site, baseline: object) -> Relevance:
    """One node at t = 1."""
    along = path(context, site, baseline)  # type: ignore[arg-type]
    context.reference = along
    return along.at(torch.ones(1, dtype=torch.float64))[0]


def before_last(context: Context, blocks: int = 1) -> Site:
    """Before the last block, or the last two: the last place where a map can still be of all tokens (a head may read one)."""
    count = len(context.recording.blocks)
    if not count:
        return Site.input()  # no list of blocks: there is no other place to name
    return Site.block(-min(blocks + 1, count)) if count > 1 else Site.embeddings()


def _integral(context: Context, site: Site, steps: int, grid: str, tolerance: float | None, most: int) -> Relevance:
    along = path(context, site, context.baseline)
    context.reference = along
    if tolerance is None:
        t, w = nodes(grid, steps)
        total = weighted(w, along.at(t)).float()
        _say_what_is_left(context, along, total, steps)
        return total
    if not 0 < tolerance < 1:
        raise Misuse(f"tolerance is a share of |T|, between 0 and 1; not {tolerance}")
    if most < 7:
        raise Misuse(f"tolerance needs at least 7 nodes; most={most}")
    return _to_tolerance(context, along, tolerance, most)


def _say_what_is_left(context: Context, along: Path, a: Relevance, steps: int) -> None:
    """A note where so many nodes leave more than a hundredth of |T|: at a kink of the path more nodes are needed."""
    sums = summed(a, len(along.T))
    size = along.T.abs()
    left = torch.where(size >= NEGLIGIBLE * along.y.abs().clamp(min=1), (sums - along.T).abs() / size, 0.0)
    if bool((left > NOTABLE).any()):
        who = ", ".join(str(i) for i in (left > NOTABLE).nonzero().flatten().tolist())
        where = f" (sample{'s' if ',' in who else ''} {who})" if len(left) > 1 else ""
        context.notes.append(
            f"the map misses {float(left.max()):.2g} of |T| after {steps} nodes{where}: "
            f"take more steps, or tolerance={NOTABLE:g}"
        )


def _to_tolerance(context: Context, along: Path, tolerance: float, most: int) -> Relevance:
    """Each sample on its own, so that its nodes do not depend on its batch mates."""
    recording, whole = context.recording, context.recording.zeros()
    alone = along.again.can_be_cut
    for i in range(recording.batch) if alone else (None,):
        part = along if i is None else along.of_sample(i)
        total, used = adaptive(part.at, lambda a, p=part: _reached(a, p, tolerance), most)  # type: ignore[misc]
        whole += total.float()
        if not _reached(total, part, tolerance):
            left = float(_left(total, part))
            who = "" if i is None or recording.batch == 1 else f"sample {i}: "
            context.notes.append(
                f"{who}the map misses {left:.2g} of |T| after {used} nodes, more than the tolerance {tolerance:g}"
            )
        along.nodes += used if i is not None else 0
    return whole


def _reached(a: Tensor, along: Path, tolerance: float) -> bool:
    """Whether |Σa − T| ≤ tolerance · |T|; true where T is negligible."""
    y, T = float(along.y.abs().max()), float(along.T.sum())
    return abs(T) < NEGLIGIBLE * max(1.0, y) or bool(_left(a, along) <= tolerance)


def _left(a: Tensor, along: Path) -> Tensor:
    """|Σa − T| / |T|, of the numbers that the receipt has."""
    T = along.T.sum()
    return (summed(a, 1)[0] - T).abs() / T.abs()
