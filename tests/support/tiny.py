"""Weights and inputs of tiny random models."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def strong(model: nn.Module, std: float = 0.3, seed: int = 0) -> nn.Module:
    """Weights of unit-like scale: every matrix with `std`, biases small, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if p.ndim >= 2:
                p.copy_(torch.randn(p.shape, generator=generator) * std)
            elif "bias" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
    return model.eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(*shape: int, seed: int = 2, low: int = 5, high: int = 40) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


class Unblocked(nn.Module):
    """One attention that is no element of a list of modules: a model without blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v).mean(1))
