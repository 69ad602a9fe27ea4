"""The CAM family on token features at a site between blocks; each implies the baseline zero there (arXiv 2605.22417).

Tokens of the inputs only: rows born from a parameter (a ViT's CLS) and padding have no part; a text's own [CLS] has.

Default site (our reading): before the last two blocks, the states of block[-3]. A token that a head does not read is read by
the last block alone; where that begins with a LayerNorm, y is blind to the scale of its state F, and g·F is exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from regard.attribution.context import Context, Relevance
from regard.attribution.integral.gradient import shared_out
from regard.attribution.integral.integrated import before_last
from regard.attribution.integral.path import Path, Place, path
from regard.baseline import Baseline
from regard.errors import Misuse, nearest
from regard.site import Site

Map = Callable[[Tensor, Tensor, Tensor, bool], Tensor]
"""(F, g, visible, signed) -> scores; F and g (batch, token, feature), visible (batch, token)."""


def grad_cam(context: Context, *, signed: bool = False) -> Relevance:
    """(Σ_c w_c F_c)₊, w_c the mean of g_c over the visible tokens (Selvaraju et al., 2017). signed: without the clamp."""
    return _map(context, _grad_cam, signed)


def layer_cam(context: Context, *, signed: bool = False) -> Relevance:
    """Σ_c (g_c)₊ F_c (Jiang et al., 2021). signed: without the clamp of g."""
    return _map(context, _layer_cam, signed)


def odam(context: Context, *, signed: bool = False) -> Relevance:
    """(Σ_c g_c F_c)₊ (Zhao & Chan, 2023). signed: without the clamp."""
    return _map(context, _odam, signed)


def _grad_cam(F: Tensor, g: Tensor, visible: Tensor, signed: bool) -> Tensor:
    w = (g * visible[..., None]).sum(1, keepdim=True) / visible.sum(1).clamp(min=1)[:, None, None]
    scores = (w * F).sum(-1)
    return scores if signed else scores.clamp(min=0)


def _layer_cam(F: Tensor, g: Tensor, _visible: Tensor, signed: bool) -> Tensor:
    return ((g if signed else g.clamp(min=0)) * F).sum(-1)


def _odam(F: Tensor, g: Tensor, _visible: Tensor, signed: bool) -> Tensor:
    scores = (g * F).sum(-1)
    return scores if signed else scores.clamp(min=0)


MAPS: dict[str, Map] = {"grad_cam": _grad_cam, "layer_cam": _layer_cam, "odam": _odam}


def difference_map(context: Context, *, of: str | None = None, map: str = "odam", signed: bool = False) -> Relevance:
    """The difference of two maps of a CAM method (our reading of arXiv 2605.22417, which holds both).

    of="targets": map(y₁) − map(y₂) on one input, what tells two classes apart; the target is a contrast y₁ − y₂
    (`Target.contrast`). of="inputs": map(x) − map(x0), x0 the baseline; no attribution of y(x) − y(x0). None: what the target
    allows.
    """
    assert context.again is not None
    contrast = context.again.target.halves is not None
    of = ("targets" if contrast else "inputs") if of is None else of
    if of not in ("targets", "inputs"):
        raise nearest(of, ("targets", "inputs"), "of")
    if map not in MAPS:
        raise nearest(map, MAPS, "map")
    if of == "targets" and not contrast:
        raise Misuse("the difference of two targets needs a contrast: target=Target.contrast(c, d), or of='inputs'")
    baseline = Baseline.zero().local() if of == "targets" else context.baseline
    along = context.reference = path(context, _site(context), baseline)
    if of == "targets":
        first, second = (_of_values(context, along, None, MAPS[map], signed, half) for half in (0, 1))
    else:
        first, second = (_of_values(context, along, values, MAPS[map], signed) for values in (None, along.start))
    return first - second


def _site(context: Context) -> Site:
    """As asked; else before the last two blocks, or, without attention, after the last one if several rows of it are read."""
    if context.site is not None:
        return context.site
    recording = context.recording
    if not recording.whole and recording.blocks and bool(((context.r > 0).sum(1) > 1).all()):
        return Site.block(-1)
    return before_last(context, blocks=2)


def _map(context: Context, of: Map, signed: bool) -> Relevance:
    """A map at the site's values."""
    along = context.reference = path(context, _site(context), Baseline.zero().local())
    return _of_values(context, along, None, of, signed)


def _of_values(
    context: Context, along: Path, values: Mapping[Any, Tensor] | None, of: Map, signed: bool, half: int | None = None
) -> Relevance:
    """A map at given values of the site (None: those of the recorded run)."""
    at = {p.key: p.F if values is None else values[p.key] for p in along.places}
    grads = along.gradient(at, half)
    out = context.recording.zeros()
    for place in along.places:
        out += _scattered(context, place, at[place.key], grads[place.key], of, signed)
    return out


def _scattered(context: Context, place: Place, F: Tensor, g: Tensor, of: Map, signed: bool) -> Relevance:
    recording = context.recording
    if place.stream is not None:
        F, g = (shared_out(recording, str(place.key), t).elements for t in (F, g))
    first = place.samples if place.stream is None else 0
    ids, F, g = (_by_token(t.movedim(first, 0), place, first) for t in (place.ids, F.float(), g.float()))
    ids = ids[..., 0]
    visible = recording.gather(context.tokens() * ~context.hidden(), ids)
    scores = of(F, g, visible.to(F.device), signed)
    return recording.scatter(scores.cpu() * visible, ids)


def _by_token(t: Tensor, place: Place, samples: int) -> Tensor:
    """(batch, ...) -> (batch, token, feature); `samples`: where the batch's axis was."""
    features = [d + (d < samples) for d in place.features]
    others = [d for d in range(1, t.ndim) if d not in features]
    t = t.permute(0, *others, *features)
    return t.reshape(len(t), -1, *t.shape[1 + len(others) :]).flatten(2)
