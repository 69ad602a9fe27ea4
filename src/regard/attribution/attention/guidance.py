"""Guidance (arXiv 2605.11392; formulas.md section 4): a map over tokens steers the direction of attention.

m = (map)₊ / max, per stream and sample, so that 0 ≤ m ≤ 1, multiplies G before the sign rule. Since m is not negative, an edge
E becomes E diag(m); complete correction has m in the backward pass too. m is 1 on tokens of streams that no map is given for,
and on those that the tokenizer added, through which the paths of the others lead. The maximum is that of the other tokens,
without padding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from regard.errors import Misuse, nearest
from regard.recording import Recording, Stream
from regard.recording.relevance.rows import Relevance

GuideMaps = Mapping[str, Tensor]
"""A map of some streams: stream -> (batch, tokens), (1, tokens) or (tokens,), of any scale."""


def guide_rows(recording: Recording, guide: GuideMaps) -> Relevance:
    """m (batch, row): 1 at rows of streams without a map; merged rows have the mean of what they are made of."""
    m = torch.ones_like(recording.zeros())
    known = {s.name: s for s in recording.streams if s.shown}
    for name, values in guide_maps(recording, guide).items():
        m[:, known[name].rows] = values.to(m)
    for merge in recording.merges:
        m[:, merge.rows] = (m[:, merge.sources] * merge.shares.to(m).abs()).sum(2).clamp(max=1)
    return m


def guide_maps(
    recording: Recording, guide: GuideMaps, special: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """m (batch, tokens) of each stream that a map is given for; `special`: the tokens that the tokenizer added. m of m is m.

    Raises UnknownName for a stream that there is not, Misuse for a map of another size, or one that is nowhere positive.
    """
    known = {s.name: s for s in recording.streams if s.shown}
    out = {}
    for name, values in guide.items():
        if name not in known:
            raise nearest(name, known, "stream")
        put = (special or {}).get(name)
        out[name] = _over_maximum(recording, known[name], values, None if put is None else put.cpu().bool())
    return out


def _over_maximum(recording: Recording, stream: Stream, values: Tensor, special: Tensor | None) -> Tensor:
    """(map)₊ / max over each sample's own content; 1 on special tokens, 0 on padding."""
    padding = recording.hidden()[:, stream.rows].cpu()
    values = values.detach().to("cpu", torch.float32)
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] != stream.count or len(values) not in (1, len(padding)):
        raise Misuse(
            f"the guide of {stream.name!r} has shape {tuple(values.shape)}, and the stream has {len(padding)} samples of "
            f"{stream.count} tokens"
        )
    if not bool(torch.isfinite(values).all()):
        raise Misuse(f"the guide of {stream.name!r} holds values that are no numbers")
    put = special & ~padding if special is not None and special.shape[1] == stream.count else torch.zeros_like(padding)
    content = ~put & ~padding
    above = values.clamp(min=0) * content
    largest = above.amax(1, keepdim=True)
    if bool((content.any(1) & (largest[:, 0] == 0)).any()):
        raise Misuse(f"the guide of {stream.name!r} is nowhere positive, so that nothing would be left of the map")
    return torch.where(put, 1.0, above / largest.clamp(min=torch.finfo(above.dtype).tiny))


__all__ = ["GuideMaps", "guide_maps", "guide_rows"]
