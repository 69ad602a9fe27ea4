"""Whose sample is whose: one y a sample, or one y that rests on several samples of some input."""

from __future__ import annotations

from dataclasses import replace

import torch

from regard.errors import TargetError
from regard.recording import Recording, Stream
from regard.recording.tokens.tags import STRIDE
from regard.target import Value

CROSSED = (
    "samples are not independent here: each target was explained alone; its row of a map shows the sample that it reads"
)


MIXED = (
    "samples are not independent here: the target of one reads others as well (similarities in a batch, batch statistics). "
    "Each was explained alone, and its row of a map shows its own sample; what it owes to the others is left out"
)


def by_sample(recording: Recording, value: Value) -> Value:
    """The value, with a gradient of its own for each sample where they share an input; one y may rest on several samples of
    an input (a picture, and the prompts that it is compared with). Raises TargetError for any other number of ys.
    """
    if len(value.y) not in recording.batches:
        sizes = ", ".join(str(b) for b in sorted(recording.batches))
        raise TargetError(
            f"the target gives {len(value.y)} numbers, but the inputs have {sizes} samples (along axis 0; batch_axis= names "
            "another, or None)"
        )
    if value.shared or len(value.y) == 1:
        return value
    given = {s.name: recording.given.batch(s.name) for s in recording.streams if has_samples(recording, s)}
    for name, count in given.items():
        if count not in (1, len(value.y)):
            raise TargetError(
                f"input {name!r} has {count} samples, but the target gives {len(value.y)} numbers: give one number (of the one "
                f"sample that the others have), or one for each of the {count}"
            )
    return replace(value, shared=any(count == 1 for count in given.values()))


def has_samples(recording: Recording, stream: Stream) -> bool:
    """Whether a stream is an input whose rows stand in samples of their own."""
    return stream.name in recording.given.tensors and not stream.packed and stream.kind == "input"


def samples_of(recording: Recording, stream: Stream) -> int:
    """In how many samples a stream's rows stand."""
    if has_samples(recording, stream) and stream.name not in recording.given.shared:
        return recording.given.batch(stream.name)
    ids = torch.cat([i.flatten() for c in recording.calls for i in (c.queries, c.keys)])
    mine = ids[(ids % STRIDE >= stream.first) & (ids % STRIDE < stream.first + stream.count)]
    return max(1, int(mine.max()) // STRIDE) if len(mine) else 1
