"""Which sample a row belongs to, where axis 0 of an input does not say it.

Rows of a parameter, and of an input whose axis 0 is not samples (patches or pictures of all samples packed in one row),
begin without a sample: their ids are smaller than STRIDE. They are given that of the rows beside which they are put, and
what they were made of, and what stood beside them in earlier calls, gets it from them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regard.recording.tokens.tags import STRIDE, Tag


class Packed(Exception):
    """Rows of an input met those of another sample: its axis 0 is not samples, and the run is to begin anew."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def in_one_sample(base: Tag, value: Tag, old: Tensor, new: Tensor) -> Tensor:
    """Ids put beside (or in the place of) rows of `base`: those without a sample get its. Raises Packed."""
    sample = old // STRIDE
    if value.source.packed:
        return torch.where((new > 0) & (new < STRIDE), new + sample * STRIDE, new)
    other = new // STRIDE
    if value.source is not base.source and bool(((sample > 0) & (other > 0) & (sample != other)).any()):
        raise Packed(value.source.name)
    return new


def of_their_samples(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that no operation has handed to samples belong to the sample of the rows beside them."""
    sample = torch.cat([queries, keys], 1).amax(1, keepdim=True) // STRIDE * STRIDE
    first, second = (torch.where((i > 0) & (i < STRIDE), i + sample, i) for i in (queries, keys))
    return first, second
