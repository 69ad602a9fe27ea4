"""Methods of the attention family that are a choice of edge rule and path rule, and no more."""

from __future__ import annotations

from collections.abc import Sequence

from regard.attribution.attention.path_rules import Preset
from regard.errors import nearest

SIGNS = ("positive", "negative", "absolute", "signed")


def raw_attention() -> Preset:
    """The last attention map, mean over heads."""
    return Preset("mean", "last")


def alpha_avg() -> Preset:
    """The same, under the name that it has in arXiv 2402.03485."""
    return Preset("mean", "last")


def alpha_max() -> Preset:
    """The last attention map, maximum over heads (arXiv 2402.03485)."""
    return Preset("max", "last")


def rollout(*, start_layer: int = 0) -> Preset:
    """Attention rollout (Abnar & Zuidema, 2020): rows of E_h A + I brought to sum 1, multiplied over the layers."""
    return Preset("mean", "rollout", None, start_layer)


def corrected_attention(
    *, sign: str = "positive", layers: Sequence[int] | int | None = None, start_layer: int = 0
) -> Preset:
    """Corrected attention (arXiv 2605.11392), incomplete correction — our reading: each layer's map only is corrected."""
    if sign not in SIGNS:
        raise nearest(sign, SIGNS, "sign")
    if isinstance(layers, int):
        layers = (layers,)
    return Preset(sign, "residual_sum", None if layers is None else tuple(layers), start_layer)


__all__ = ["alpha_avg", "alpha_max", "corrected_attention", "raw_attention", "rollout"]
