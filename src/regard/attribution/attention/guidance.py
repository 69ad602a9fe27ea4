"""Guidance (arXiv 2605.11392; formulas.md section 4): a map over tokens steers the direction of attention.

m = (map)₊ / max, per stream and sample, so that 0 ≤ m ≤ 1, multiplies G before the sign rule. Since m is not negative, an edge
E becomes E diag(m); complete correction has m in the backward pass too. m is 1 on tokens of streams that no map is given for.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from regard.errors import Misuse, nearest
from regard.recording import Recording
from regard.recording.relevance.rows import Relevance

Guide = Mapping[str, Tensor]
"""A map of some streams: stream -> (batch, tokens), (1, tokens) or (tokens,), of any scale."""


def guide_rows(recording: Recording, guide: Guide) -> Relevance:
    """m (batch, row): 1 at rows of streams without a map; merged rows have the mean of what they are made of.

    Raises UnknownName for a stream that there is not, Misuse for a map of another size, or one that is nowhere positive.
    """
    m = torch.ones_like(recording.zeros())
    known = {s.name: s for s in recording.streams if s.shown}
    for name, values in guide.items():
        if name not in known:
            raise nearest(name, known, "stream")
        stream = known[name]
        values = values.detach().to("cpu", m.dtype)
        values = values[None] if values.ndim == 1 else values
        if values.ndim != 2 or values.shape[1] != stream.count or len(values) not in (1, len(m)):
            raise Misuse(
                f"the guide of {name!r} has shape {tuple(values.shape)}, and the stream has {len(m)} samples of "
                f"{stream.count} tokens"
            )
        m[:, stream.rows] = _over_maximum(values, name)
    for merge in recording.merges:
        m[:, merge.rows] = (m[:, merge.sources] * merge.shares.to(m).abs()).sum(2).clamp(max=1)
    return m


def _over_maximum(values: Tensor, name: str) -> Tensor:
    """(map)₊ / max of each sample."""
    if not bool(torch.isfinite(values).all()):
        raise Misuse(f"the guide of {name!r} holds values that are no numbers")
    above = values.clamp(min=0)
    largest = above.amax(1, keepdim=True)
    if bool((largest == 0).any()):
        raise Misuse(f"the guide of {name!r} is nowhere positive, so that nothing would be left of the map")
    return above / largest


__all__ = ["Guide", "guide_rows"]
