"""Methods of the attention family that are a choice of edge rule and path rule, and no more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from regard.attribution.attention.chosen_heads import ChosenHeads, Wanted
from regard.attribution.attention.guidance import GuideMaps
from regard.attribution.attention.path_rules import Preset
from regard.errors import nearest

SIGNS = ("positive", "negative", "absolute", "signed")


def raw_attention(*, heads: Wanted = None) -> Preset:
    """The last attention map, mean over heads.

    heads: the mean over these alone, 5 or [0, 5]; or over those of other layers, {3: 5} or {3: [0, 5], 4: 1} (in words 3:5):
    where head 5 of layer 3 looks from the tokens that the target reads. Of several layers the maps are added, with what the
    later ones bring from the earlier.
    """
    return Preset("mean", "last", heads=ChosenHeads.make(heads))


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
    *,
    sign: str = "positive",
    correction: str = "incomplete",
    layers: Sequence[int] | int | None = None,
    path: str = "residual_sum",
    guide: GuideMaps | None = None,
    start_layer: int = 0,
) -> Preset:
    """Corrected attention (arXiv 2605.11392): row of Π(I + E), E the positive, negative, absolute or signed part of G⊙A.

    correction — our reading: "incomplete" corrects each layer's map, and leaves the backward pass alone; "complete" corrects
    the gradient too where it passes through attention, so that the gradient of every earlier layer is already corrected.
    layers: the attentions that are corrected; the others use the mean of A. path: "residual_sum", or "rollout", which brings
    rows of I + E to sum 1. guide: a map over tokens that steers the attention (guidance.py).
    """
    if sign not in SIGNS:
        raise nearest(str(sign), SIGNS, "sign")
    if path not in ("residual_sum", "rollout"):
        raise nearest(str(path), ("residual_sum", "rollout"), "path")
    if layers is not None and (isinstance(layers, str) or not isinstance(layers, Iterable)):
        layers = [layers]
    return Preset(
        sign, path, None if layers is None else tuple(layers), start_layer, correction=correction, guide=guide
    )


__all__ = ["alpha_avg", "alpha_max", "corrected_attention", "raw_attention", "rollout"]
