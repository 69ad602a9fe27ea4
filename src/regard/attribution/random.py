"""The floor of every benchmark."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from regard.attribution.context import Context, Relevance
from regard.recording import Recording


def random(context: Context) -> Relevance:
    """Uniform noise on every token that is not padding.

    Drawn from the seed and from the sample's own input, so that samples differ and neither batch mates nor padding have
    a say.
    """
    recording = context.recording
    out = recording.zeros()
    for sample in range(recording.batch):
        generator = torch.Generator().manual_seed(context.seed ^ fingerprint(recording, sample))
        for stream in recording.streams:
            visible = torch.ones(stream.count, dtype=torch.bool)
            if stream.shown:
                visible = ~recording.padded[stream.name][sample]
            out[sample, stream.rows][visible] = torch.rand(
                int(visible.sum()), generator=generator, dtype=torch.float32
            ).to(out)
    return out


def fingerprint(recording: Recording, sample: int) -> int:
    """A number made of the sample's own inputs, padding and masks left out."""
    code = 0
    for name, value in sorted(recording.inputs.items()):
        padded = recording.padded.get(name)
        if not isinstance(value, Tensor) or padded is None or sample >= len(value):
            continue
        own = value[sample].detach().cpu()
        if len(own) == padded.shape[1]:
            own = own[~padded[sample]]
        code = zlib.crc32(own.float().contiguous().numpy().tobytes(), code)
    return code
