"""What there is to draw of a guided map: the guide itself, the map without it and the map with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from regard.explanation.explanation import Explanation
from regard.explanation.guidance import Guidance
from regard.explanation.raw_inputs import Picture
from regard.report.colour import Array, ColourScale
from regard.report.look import Look, shared
from regard.report.view import PictureView, SampleView, TextPiece, TextView, enlarged, view_of

SHARE = ColourScale(1.0, False, 1.0)
"""The scale of m."""
GIVEN = ("box", "polygon", "mask", "words")
"""Guides that say where, so that what lies there can be told as a share."""
BEYOND = 0.35
"""How much is seen of a picture outside of the region that guides."""


@dataclass(frozen=True)
class GuidedPicture:
    """A guide of a picture and both maps, which share a scale as they are compared; `region`: the pixels that were given, of
    the picture drawn."""

    name: str
    guide: PictureView
    region: Array | None
    without: PictureView
    guided: PictureView


@dataclass(frozen=True)
class GuidedText:
    """A guide of a text and both maps, which share a scale: pieces of the text. The guide's scores are None where it says
    yes or no; `lines`: the numbers of the pieces that it names."""

    name: str
    guide: list[TextPiece]
    lines: frozenset[int]
    without: tuple[list[TextPiece], ColourScale]
    guided: tuple[list[TextPiece], ColourScale]


@dataclass(frozen=True)
class GuidedView:
    """All streams that a guide is of, with one sentence on top."""

    sentence: str
    pictures: list[GuidedPicture]
    texts: list[GuidedText]


def guided_of(view: SampleView, colours: Array | None = None) -> GuidedView | None:
    """What steered a sample's map, and what it changed; None where nothing did. colours: of the maps."""
    guidance, look = view.exp.guidance, Look(colours)
    if guidance is None:
        return None
    m = view_of(_with(view.exp, _widened(guidance, view.exp)), view.sample)
    without = view_of(replace(view.exp, scores=guidance.unguided, guidance=None), view.sample)
    pictures, texts = list[GuidedPicture](), list[GuidedText]()
    for guide in m.panels:
        both = [next((p for p in v.panels if p.stream == guide.stream), None) for v in (without, view)]
        if isinstance(guide, PictureView) and isinstance(both[0], PictureView) and isinstance(both[1], PictureView):
            pictures.append(_picture(guidance, view.sample, guide, both[0], both[1], look))
        elif isinstance(guide, TextView) and isinstance(both[0], TextView) and isinstance(both[1], TextView):
            texts.append(_text(guidance, guide, both[0], both[1], look))
    return GuidedView(_sentence(view, guidance), pictures, texts)


def _with(exp: Explanation, scores: dict[str, torch.Tensor]) -> Explanation:
    return replace(exp, scores=scores, signed=False, guidance=None)


def _widened(guidance: Guidance, exp: Explanation) -> dict[str, torch.Tensor]:
    """m of every sample."""
    return {s: t.expand(exp.batch, -1) for s, t in guidance.m.items() if s in exp.scores}


def _picture(
    guidance: Guidance, sample: int, guide: PictureView, without: PictureView, guided: PictureView, look: Look
) -> GuidedPicture:
    scale = look.coloured(shared([without, guided]))
    without, guided = replace(without, scale=scale), replace(guided, scale=scale)
    regions = guidance.regions.get(guide.stream, [])
    given = regions[sample].numpy() if sample < len(regions) else None
    region = None if given is None or guide.picture is None else _enlarged(given, guide.picture)
    return GuidedPicture(
        guide.name, replace(_seen(guide), scale=look.coloured(SHARE)), region, _seen(without), _seen(guided)
    )


def _enlarged(region: Array, picture: Picture) -> Array | None:
    """A region of a picture as large as the picture is drawn; None where it is of another size."""
    height, width = picture.pixels.shape[:2]
    if region.shape != (height, width):
        return None
    times = enlarged(picture).pixels.shape[0] // height
    large: Array = np.kron(region, np.ones((times, times), dtype=bool))
    return large


def _seen(panel: PictureView) -> PictureView:
    """A panel over a picture that is large enough for a smooth map."""
    return panel if panel.picture is None else replace(panel, picture=enlarged(panel.picture))


def _text(guidance: Guidance, guide: TextView, without: TextView, guided: TextView, look: Look) -> GuidedText:
    scale = look.coloured(shared([without, guided]))
    m = {t: p.score or 0.0 for p in guide.tokens for t in p.tokens}
    pieces, _ = guide.best
    most = [max((m.get(t, 0.0) for t in p.tokens), default=0.0) for p in pieces]
    lines = frozenset(i for i, v in enumerate(most) if v > 0) if guidance.kind == "words" else frozenset[int]()
    shown = [
        replace(p, score=None if p.score is None or guidance.kind == "words" else v)
        for p, v in zip(pieces, most, strict=True)
    ]
    return GuidedText(guide.name, shown, lines, (without.best[0], scale), (guided.best[0], scale))


def _sentence(view: SampleView, guidance: Guidance) -> str:
    """What the guide did, in plain words."""
    if guidance.kind not in GIVEN:
        return (
            f"Guided by {guidance.label}: attention to a token counts by as much as the guide has there, so that the map is "
            "left where both are strong."
        )
    before, after = (_share(scores, guidance, view) for scores in (guidance.unguided, view.exp.scores))
    found = (
        f"{percent(before)} of the map lies there without the guide, {percent(after)} with it"
        if before is not None and after is not None
        else "one of the maps is 0 everywhere"
    )
    return f"Guided by {guidance.label}: {found}."


def _share(scores: dict[str, torch.Tensor], guidance: Guidance, view: SampleView) -> float | None:
    """How much of a map's size lies where the guide is, on content tokens of the streams that it is of."""
    inside, whole = 0.0, 0.0
    for stream, m in guidance.m.items():
        i = min(view.sample, len(m) - 1)
        a = scores[stream][view.sample].detach().abs().cpu().double() * ~_special(
            view.exp, stream, view.sample, m.shape[1]
        )
        inside, whole = inside + float((a * m[i]).sum()), whole + float(a.sum())
    return inside / whole if whole else None


def _special(exp: Explanation, stream: str, sample: int, count: int) -> torch.Tensor:
    """The tokens of a text that the tokenizer added."""
    raws: Sequence[object] = exp.inputs.get(stream, ())
    special = getattr(raws[sample], "special", None) if sample < len(raws) else None
    return torch.zeros(count, dtype=torch.bool) if special is None else torch.tensor(special)


def percent(share: float) -> str:
    """A share in per cent."""
    return f"{100 * share:.0f} %"


def outlined(pixels: Array, region: Array) -> Array:
    """A picture darkened outside of a region, whose border is drawn in white on black."""
    width = max(2, max(region.shape) // 128)
    out = np.where(region[..., None], pixels, np.rint(BEYOND * pixels)).astype(np.uint8)
    out[_grown(region, width) & ~region] = 0
    out[_grown(~region, width) & region] = 255
    return out


def _grown(region: Array, by: int) -> Array:
    """A region and all within so many pixels of it."""
    found = F.max_pool2d(torch.from_numpy(region)[None, None].float(), 2 * by + 1, 1, by)[0, 0] > 0
    grown: Array = found.numpy()
    return grown


__all__ = ["GuidedPicture", "GuidedText", "GuidedView", "guided_of", "outlined", "percent"]
