"""A linear classifier of pictures, of which the smallest change to another class is known, and a slow projected step."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearPictures(nn.Module):
    """Logits W x + b of tiny pictures (batch, 3, side, side)."""

    def __init__(self, classes: int = 2, side: int = 4, seed: int = 0) -> None:
        super().__init__()
        self.head = nn.Linear(3 * side * side, classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=generator))
            self.head.bias.copy_(torch.randn(classes, generator=generator))
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(pixels.flatten(1))


def slow_step(
    delta: Tensor,
    momentum: Tensor,
    gradient: Tensor,
    norm: str,
    radius: list[float],
    low: Tensor,
    high: Tensor,
    size: list[float],
) -> tuple[Tensor, Tensor]:
    """One projected step, pixel by pixel: m ← 0.75 m + g / E|g|, then a step along it, then back into bounds and ball."""
    delta, momentum = delta.clone(), momentum.clone()
    for b in range(len(delta)):
        places = list(torch.cartesian_prod(*(torch.arange(n) for n in delta[b].shape)))
        mean = sum(abs(float(gradient[b][tuple(p)])) for p in places) / len(places)
        for p in map(tuple, places):
            momentum[b][p] = 0.75 * momentum[b][p] + gradient[b][p] / mean
        length = sum(float(momentum[b][tuple(p)]) ** 2 for p in places) ** 0.5
        for p in map(tuple, places):
            m = float(momentum[b][p])
            along = (m > 0) - (m < 0) if norm == "linf" else m / length
            moved = float(delta[b][p]) + size[b] * along
            moved = min(max(moved, float(low[b][p])), float(high[b][p]))
            delta[b][p] = min(max(moved, -radius[b]), radius[b]) if norm == "linf" else moved
        if norm == "l2":
            far = sum(float(delta[b][tuple(p)]) ** 2 for p in places) ** 0.5
            delta[b] *= min(1.0, radius[b] / far) if far else 1.0
    return delta, momentum


def slow_rounding(delta: Tensor, radius: float) -> Tensor:
    """Whole numbers nearest to zero, then one pixel after the other away from it while ‖δ‖₂ ≤ radius holds, the best first."""
    flat = delta.flatten().tolist()
    out = [int(abs(v)) for v in flat]
    order = sorted(range(len(flat)), key=lambda i: -(abs(flat[i]) - out[i]) / (2 * out[i] + 1))
    for i in order:
        tried = [*out]
        tried[i] += 1
        if abs(flat[i]) == out[i] or sum(v * v for v in tried) > radius**2 * (1 + 1e-9):
            break
        out = tried
    signed = [v if f >= 0 else -v for v, f in zip(out, flat, strict=True)]
    return torch.tensor(signed, dtype=delta.dtype).view_as(delta)
