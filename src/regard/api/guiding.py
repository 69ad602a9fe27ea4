"""What the user guides a map by, as one number m for each token of a stream (formulas.md section 4)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from regard.api.shared_run import Watched
from regard.attribution.attention.guidance import guide_maps
from regard.errors import Misuse, nearest
from regard.explanation.explanation import Explanation
from regard.explanation.places import WHOLE
from regard.explanation.raw_inputs import Picture, Text
from regard.guide import Guide
from regard.recording import Stream
from regard.recording.tokens import rasters as layouts
from regard.target import Target, Value

Holds = Callable[[Tensor, Tensor], Tensor]
"""Whether, or how much, something holds at points (x, y) of a picture, in pixels."""
FINE = 8
"""Points along each side of a token's cell at which a mask is read."""


@dataclass(frozen=True)
class Guides:
    """What turns guides into maps of tokens, for one target: `map_of(y)` is the unguided map of another target, by stream."""

    w: Watched
    target: Target
    explained: Tensor | None
    map_of: Callable[[Target], dict[str, Tensor]]

    def tensors(self, guide: Guide) -> dict[str, Tensor]:
        """m of each stream that the guide is about, (batch, tokens), as it is used."""
        made = getattr(self, f"_{guide.kind}", None)
        if made is None:
            raise Misuse(
                f"{guide.label} guides no map of tensors: a second picture is put beside the first by "
                "reader.explain(picture, guide=...)"
            )
        return guide_maps(self.w.recording, made(guide.value), self.w.reading.special)

    def regions(self, guide: Guide) -> dict[str, list[Bool[Tensor, "_ _"]]]:
        """The pixels that a box, a polygon or a mask of the picture's own size holds, of each picture."""
        holds = _holds(guide)
        if holds is None and guide.kind != "mask":
            return {}
        stream = self._picture_stream()
        height, width = self._size(stream)
        if holds is not None:
            x, y = torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy")
            return {stream.name: [holds(x, y)] * self._pictures(stream)}
        mask = _mask_of(guide.value)
        if mask.shape[-2:] != (height, width):
            return {}
        flat = mask.reshape(-1, height, width) > 0
        return {stream.name: [flat[i % len(flat)] for i in range(self._pictures(stream))]}

    # -- internal ---------------------------------------------------------------------------------------------------

    def _contrast(self, against: Any) -> dict[str, Tensor]:
        """The map of y_c − y_d."""
        c = self.explained
        if c is None or self.target.remade is None or self.target.contrasted is None:
            raise Misuse(
                f"the target ({self.target.label}) has no contrast with another class, as detections, similarities and "
                "functions have none; guide by another target instead, such as guide=Target.of(function)"
            )
        if against is None:
            return self.map_of(self.target.contrasted(c))
        return self.map_of(_difference(self.target.at(c), self.target.at(self._rival(c, against))))

    def _rival(self, c: Tensor, against: Any) -> Tensor:
        """The class of each sample to contrast with. Raises TargetError for what is none, Misuse for the explained one."""
        labels = self.w.reading.labels or []
        if isinstance(against, str):
            if against not in labels:
                raise nearest(against, labels or ["(the model has no labels)"], "label")
            against = labels.index(against)
        Target.logit(against)  # says what a class is, if this is none
        d = torch.as_tensor(against, device=c.device)
        if d.ndim and d.shape != c.shape:
            raise Misuse(
                f"the guide contrasts {len(c)} samples with {len(d)} classes: give one class, or one per sample"
            )
        d = d.to(c.dtype).expand_as(c)
        if bool((c == d).any()):
            same = int(c[c == d][0])
            name = labels[same] if same < len(labels) else f"{self.target.classes} {same}"
            raise Misuse(
                f"the guide contrasts {name} with itself; give another class, or the contrast with the best other"
            )
        return d

    def _target(self, target: Any) -> dict[str, Tensor]:
        return self.map_of(Target.make(target))

    # -- external ---------------------------------------------------------------------------------------------------

    def _map(self, values: Any) -> dict[str, Tensor]:
        values = Explanation.load(values) if isinstance(values, str | os.PathLike) else values
        if hasattr(values, "scores"):
            return self._explained(values.scores)
        if isinstance(values, Mapping):
            known = {s.name: s for s in self.w.recording.streams if s.shown}
            for name in values:
                if name not in known:
                    raise nearest(str(name), known, "stream")
            return {name: self._fitted(known[name], _numbers(v)) for name, v in values.items()}
        only = [s for s in self.w.recording.streams if s.of_input]
        if len(only) != 1:
            raise Misuse(f"say which stream the guide is of, in a dict: {', '.join(s.name for s in only)}")
        return {only[0].name: self._fitted(only[0], _numbers(values))}

    def _explained(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What an explanation says of the streams that are inputs; tokens born from parameters are not guided."""
        names = [s.name for s in self.w.recording.streams if s.of_input]
        found = {name: scores[name] for name in names if name in scores}
        if not found:
            raise Misuse(f"the guide is a map of {', '.join(scores)}, and the streams here are {', '.join(names)}")
        return found

    def _fitted(self, stream: Stream, values: Tensor) -> Tensor:
        """A map of a stream: of its tokens, of its grid, or of its picture's pixels."""
        by_token = values.shape[1:] == (stream.count,) and len(values) in (1, self.w.recording.batch)
        if values.ndim < 2 or by_token or stream.grid is None:
            return _rows_of(values)
        if values.shape[-2:] == stream.grid[-2:]:
            return values.reshape(-1, stream.count)
        return self._pixels(stream, values.float())

    def _mask(self, mask: Any) -> dict[str, Tensor]:
        stream = self._picture_stream()
        return {stream.name: self._fitted(stream, _mask_of(mask))}

    def _box(self, corners: tuple[float, float, float, float]) -> dict[str, Tensor]:
        return self._where(in_box(corners))

    def _polygon(self, outlines: list[list[tuple[float, float]]]) -> dict[str, Tensor]:
        return self._where(in_outlines(outlines))

    def _pixels(self, stream: Stream, mask: Float[Tensor, "*picture height width"]) -> Tensor:
        """A mask of pixels, read at points of each token's cell."""
        masks = mask.reshape(-1, *mask.shape[-2:])
        size = self._size(stream)
        if masks.shape[-2:] != size:
            raise Misuse(
                f"the guide's mask is {masks.shape[-2]} x {masks.shape[-1]}, and the picture {size[0]} x {size[1]}"
            )

        def at(x: Tensor, y: Tensor, i: int) -> Tensor:
            rows, columns = y.floor().long(), x.floor().long()
            there = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
            return masks[i % len(masks)][rows.clamp(0, size[0] - 1), columns.clamp(0, size[1] - 1)] * there

        return torch.stack([self._cells(stream, i, lambda x, y, i=i: at(x, y, i)) for i in range(len(masks))])  # type: ignore[misc]

    def _where(self, holds: Holds) -> dict[str, Tensor]:
        """The share of each token's cell at which something holds of (x, y), in pixels of the picture."""
        stream = self._picture_stream()
        return {stream.name: torch.stack([self._cells(stream, i, holds) for i in range(self._pictures(stream))])}

    def _cells(self, stream: Stream, i: int, holds: Holds) -> Float[Tensor, " token"]:
        """The mean of a function of (x, y) over points of each token's cell, of picture i."""
        assert stream.grid is not None
        rows, columns = stream.grid
        left, top, right, bottom = self._box_seen(stream, i)
        x = left + (torch.arange(columns * FINE) + 0.5) / (columns * FINE) * (right - left)
        y = top + (torch.arange(rows * FINE) + 0.5) / (rows * FINE) * (bottom - top)
        there = holds(*torch.meshgrid(x, y, indexing="xy")).float()
        return there.view(rows, FINE, columns, FINE).mean((1, 3)).flatten()

    def _box_seen(self, stream: Stream, i: int) -> tuple[float, float, float, float]:
        """What part of the picture the grid covers, in its pixels."""
        raws = self.w.reading.raw.get(stream.name)
        raw = raws[i] if raws else None
        height, width = self._size(stream)
        box = raw.box if isinstance(raw, Picture) else (0.0, 0.0, float(width), float(height))
        a, b, c, d = stream.window or WHOLE
        left, top, right, bottom = box
        return left + a * (right - left), top + b * (bottom - top), left + c * (right - left), top + d * (bottom - top)

    def _size(self, stream: Stream) -> tuple[int, int]:
        """Height and width of the picture."""
        raws = self.w.reading.raw.get(stream.name)
        if raws and isinstance(raws[0], Picture):
            height, width = raws[0].pixels.shape[:2]
        else:
            height, width = self.w.recording.inputs[stream.name].shape[-2:]
        return int(height), int(width)

    def _pictures(self, stream: Stream) -> int:
        return len(self.w.reading.raw.get(stream.name, ())) or 1

    def _picture_stream(self) -> Stream:
        """The stream that is one plain grid of a picture. Raises Misuse where there is none."""
        merge = layouts.merge_size(getattr(self.w.recording.model, "config", None))
        for stream in self.w.recording.streams:
            tiled = (
                stream.packed and layouts.grids(stream.name, stream.count, self.w.recording.inputs, merge) is not None
            )
            if stream.of_input and stream.grid is not None and len(stream.grid) == 2 and not tiled:
                return stream
        raise Misuse(
            "a mask, box or polygon guides a picture on one plain grid of tokens, and none is read here; give a map of the "
            "tokens instead"
        )

    def _words(self, phrases: tuple[str, ...]) -> dict[str, Tensor]:
        """1 on the tokens of every occurrence of the words, in every text of a sample that holds them."""
        names, raw = {s.name for s in self.w.recording.streams if s.shown}, self.w.reading.raw
        texts = {name: [t for t in raw[name] if isinstance(t, Text)] for name in raw if name in names}
        texts = {name: some for name, some in texts.items() if some}
        if not texts:
            raise Misuse("words guide a text that a reader made; give a map of the tokens instead")
        spoken = {name: [_spoken(r, phrases) for r in raws] for name, raws in texts.items()}
        for i, k in product(range(max(map(len, spoken.values()))), range(len(phrases))):
            if not any(bool(found[i % len(found)][k].any()) for found in spoken.values()):
                which = "the text does" if len(next(iter(spoken.values()))) == 1 else f"text {i} does"
                raise Misuse(f"{which} not hold the words {phrases[k]!r}")
        counts = {name: self.w.recording.stream(name).count for name in spoken}
        return {name: torch.stack([_or_ones(m.amax(0), counts[name]) for m in found]) for name, found in spoken.items()}


def _spoken(text: Text, phrases: Sequence[str]) -> Float[Tensor, "phrase token"]:
    """1 on the tokens of every occurrence of each of some phrases."""
    m = torch.zeros(len(phrases), len(text.offsets))
    for k, phrase in enumerate(phrases):
        at = text.text.find(phrase)
        while at >= 0:
            here = [b > a and a < at + len(phrase) and b > at for a, b in text.offsets]
            m[k, torch.tensor(here, dtype=torch.bool)] = 1.0
            at = text.text.find(phrase, at + 1)
    return m


def _or_ones(m: Float[Tensor, " token"], count: int) -> Float[Tensor, " token"]:
    """m over all tokens of a stream; a text that holds none of the words is not guided."""
    return F.pad(m, (0, count - len(m))) if bool(m.any()) else torch.ones(count)


def _holds(guide: Guide) -> Holds | None:
    """Where a box or a polygon is; None for other guides."""
    if guide.kind == "box":
        return in_box(guide.value)
    return in_outlines(guide.value) if guide.kind == "polygon" else None


def in_box(corners: tuple[float, float, float, float]) -> Holds:
    """Inside a box."""
    left, top, right, bottom = corners
    return lambda x, y: (x >= left) & (x < right) & (y >= top) & (y < bottom)


def in_outlines(outlines: list[list[tuple[float, float]]]) -> Holds:
    """Inside any of some outlines."""
    return lambda x, y: torch.stack([inside(x, y, o) for o in outlines]).any(0)


def _mask_of(mask: Any) -> Tensor:
    """A mask as a tensor: of a picture, where it is not black."""
    if isinstance(mask, str | os.PathLike) or hasattr(mask, "getbands"):
        from regard.models.pictures import read_picture

        return read_picture(mask)[0].float().amax(-1) > 0
    return _numbers(mask)


def _numbers(values: Any) -> Tensor:
    """A map or a mask that was given, as a tensor. Raises Misuse for what is none."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise Misuse(f"a guide is made of numbers, in a tensor or an array; not of {type(values).__name__}") from None


def inside(x: Tensor, y: Tensor, outline: list[tuple[float, float]]) -> Tensor:
    """Whether points are inside an outline: a ray to the right crosses it an odd number of times."""
    odd = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(outline, [*outline[1:], outline[0]], strict=True):
        crosses = (ay > y) != (by > y)
        if ay != by:
            odd ^= crosses & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return odd


def _rows_of(values: Tensor) -> Float[Tensor, "batch token"]:
    return values[None] if values.ndim == 1 else values


def _difference(first: Target, second: Target) -> Target:
    """y₁ − y₂."""
    return Target(
        f"{first.label} − {second.label}",
        lambda output, inputs: Value(first.value(output, inputs).y - second.value(output, inputs).y),
    )


__all__ = ["Guides", "in_box", "in_outlines", "inside"]
