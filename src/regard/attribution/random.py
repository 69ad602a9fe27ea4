"""The floor of every benchmark."""

from __future__ import annotations

import torch

from regard.attribution.context import Context, Relevance


def random(context: Context) -> Relevance:
    """Uniform noise on every token, seeded; the same for every sample, so that batch mates have no say."""
    generator = torch.Generator().manual_seed(context.seed)
    out = context.recording.zeros()
    for stream in context.recording.streams:
        out[:, stream.rows] = torch.rand(stream.count, generator=generator)
    return out
