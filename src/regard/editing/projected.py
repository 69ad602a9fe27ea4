"""Projected gradient: a change δ of the pixels that raises a margin, kept within a budget and within the range of pixels.

A change is counted in *levels*: steps of an 8-bit file where pixels must be such (`whole`), else the pixels' own unit. Every
sample has its own ball, its own momentum and its own best change, so a batch gives what its samples give one by one.

Madry et al. (2018), "Towards Deep Learning Models Resistant to Adversarial Attacks"; the momentum is that of Dong et al.
(2018), "Boosting Adversarial Attacks with Momentum".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Norm = Literal["linf", "l2"]
NORMS: tuple[Norm, ...] = ("linf", "l2")
Change = Float[Tensor, "batch channel row column"]
PerSample = Float[Tensor, " batch"]
Margin = Callable[[Change, Int[Tensor, " batch"]], tuple[PerSample, Change]]
"""Changes of some samples, and which samples they are -> the margin of each and its gradient."""
DECAY = 0.75
HAIR = 1e-9
"""How much a budget may miss a whole number of levels by because it is a fraction of 255."""
TINY = 1e-30


@dataclass(frozen=True)
class Ball:
    """The changes that are allowed: ‖δ‖ ≤ radius and low ≤ δ ≤ high, of which zero is one.

    radius: of each sample. low, high: what the range of pixels leaves, and 0 where nothing may change. whole: changes that
    count are whole numbers; `low` and `high` are such then.
    """

    norm: Norm
    radius: PerSample
    low: Change
    high: Change
    whole: bool = False

    def of(self, rows: Int[Tensor, " some"]) -> Ball:
        """The balls of some samples."""
        return replace(self, radius=self.radius[rows], low=self.low[rows], high=self.high[rows])

    def project(self, delta: Change) -> Change:
        """The change brought into the ball: each pixel into its bounds, and for L2 the whole scaled down to the radius."""
        delta = delta.clamp(self.low, self.high)
        if self.norm == "linf":
            r = wide(self.radius, delta)
            return delta.clamp(-r, r)
        return delta * wide((self.radius / norm_of(delta, "l2").clamp(min=TINY)).clamp(max=1), delta)

    def rounded(self, delta: Change) -> Change:
        """A change in the ball as whole numbers that are in it too; as it is where none are asked for."""
        if not self.whole:
            return delta
        if self.norm == "l2":
            return _rounded_in_l2(delta, self.radius)
        r = wide((self.radius + HAIR).floor(), delta)
        return delta.round().clamp(-r, r)


def _rounded_in_l2(delta: Change, radius: PerSample) -> Change:
    """Round pixels away from zero as long as the budget lasts, those that are nearest to it for their price first.

    To raise |δ| from f to f + 1 costs (f + 1)² − f² = 2f + 1 of radius².
    """
    size = delta.abs().flatten(1).double()
    floor = size.floor()
    price, part = 2 * floor + 1, size - floor
    left = radius.square() * (1 + HAIR) - floor.square().sum(1)
    order = (part / price).float().argsort(dim=1, descending=True, stable=True)
    paid = price.gather(1, order).cumsum(1) <= left[:, None]
    up = torch.zeros_like(paid).scatter(1, order, paid & (part.gather(1, order) > 0))
    return (floor + up).to(delta.dtype).view_as(delta) * delta.sign()


def step(delta: Change, momentum: Change, gradient: Change, ball: Ball, size: PerSample) -> tuple[Change, Change]:
    """One step up the margin: m ← μ m + g / E|g|, then δ ← P(δ + size · direction(m)); the new δ and m."""
    momentum = DECAY * momentum + gradient / wide(gradient.abs().flatten(1).mean(1).clamp(min=TINY), gradient)
    l2 = wide(norm_of(momentum, "l2").clamp(min=TINY), momentum)
    direction = momentum.sign() if ball.norm == "linf" else momentum / l2
    return ball.project(delta + wide(size, delta) * direction), momentum


@dataclass
class Sought:
    """The best change of each sample, its margin, and how often the model was asked about the sample."""

    delta: Change
    margin: PerSample
    queries: Int[Tensor, " batch"]

    @property
    def found(self) -> Bool[Tensor, " batch"]:
        """Whether the margin is positive."""
        return self.margin > 0

    def take(self, other: Sought, rows: Int[Tensor, " some"], better: Bool[Tensor, " some"]) -> None:
        """Take another's changes of some samples where they are better, and count its queries."""
        self.delta[rows[better]] = other.delta[better]
        self.margin[rows[better]] = other.margin[better]
        self.queries[rows] += other.queries


def search(
    margin: Margin, ball: Ball, start: Change, steps: int, *, until_found: bool, told: Callable[[], None] = lambda: None
) -> Sought:
    """The change of greatest margin among those met on `steps` steps; `until_found`: a sample stops at its first positive one.

    The steps shrink evenly from the radius to nothing.
    """
    delta, momentum = ball.project(start), torch.zeros_like(start)
    count = len(start)
    none = torch.zeros(count, dtype=torch.int64, device=start.device)
    worst = torch.full_like(none, -torch.inf, dtype=torch.float64)
    best = Sought(torch.zeros_like(start), worst, none)
    rows = torch.arange(count, device=start.device)
    for k in range(steps):
        here = ball.of(rows)
        tried = here.rounded(delta[rows])
        value, gradient = margin(tried, rows)
        told()
        better = value > best.margin[rows]
        best.take(Sought(tried, value, torch.ones_like(rows)), rows, better)
        going = value <= 0 if until_found else torch.ones_like(better)
        if not bool(going.any()):
            break
        rows, here, gradient = rows[going], ball.of(rows[going]), gradient[going]
        size = here.radius * (1 - k / steps)
        delta[rows], momentum[rows] = step(delta[rows], momentum[rows], gradient, here, size)
    return best


def smallest(
    margin: Margin, ball: Ball, sought: Sought, steps: int, told: Callable[[], None] = lambda: None, rounds: int = 8
) -> None:
    """Bisect the radius of every sample that was found, and keep the smallest change that still is; in place.

    Whole numbers in L∞ are bisected to the end, others to 2 % or `rounds` times. Each search begins from the best change so
    far, brought into the smaller ball.
    """
    exact = ball.whole and ball.norm == "linf"
    high = torch.minimum(norm_of(sought.delta, ball.norm), ball.radius)
    low = torch.zeros_like(high)
    for _ in range(rounds if not exact else 64):
        open_ = sought.found & (high - low > (1 if exact else 0.02 * high)) & (high > 0)
        rows = open_.nonzero()[:, 0]
        if not len(rows):
            return
        middle = (low + high)[rows] / 2
        middle = middle.floor() if exact else middle
        inner = replace(ball.of(rows), radius=middle)
        those = lambda d, at, rows=rows: margin(d, rows[at])  # noqa: E731
        tried = search(those, inner, sought.delta[rows], steps, until_found=True, told=told)
        sought.take(tried, rows, tried.found)
        high[rows] = torch.where(tried.found, norm_of(tried.delta, ball.norm), high[rows])
        low[rows] = torch.where(tried.found, low[rows], middle)


def norm_of(delta: Change, norm: Norm) -> PerSample:
    """‖δ‖ of each sample, in float64."""
    flat = delta.flatten(1).double()
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


def wide(values: PerSample, like: Change) -> Float[Tensor, "batch 1 1 1"]:
    """One value a sample, to multiply pixels with."""
    return values.to(like.dtype)[:, None, None, None]
