"""What a method is given: one recording, one target's gradients, and the read-out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.attribution.rerun import Rerun
from regard.explanation import Reading
from regard.recording import Gradients, Recording
from regard.site import Site

Relevance = Float[Tensor, "batch row"]


@dataclass
class Context:
    """One recording and one target.

    Attributes:
        readout: the number of each final attention -> its weights r, (batch, row) over all rows. seed: for methods that draw.
        site, baseline: as asked for, or None: the method's own. again: how the run can be repeated with changes.
        reading: special tokens, and the normalisation of pictures. nodes: how many points of a path were run.
        asked: whether the read-out is the user's.
        reference: what the map is measured against, where the method found that out itself. notes: for the receipt.
    """

    recording: Recording
    gradients: Gradients
    readout: dict[int, Relevance]
    seed: int = 0
    site: Site | None = None
    baseline: Any = None
    again: Rerun | None = None
    reading: Reading = field(default_factory=lambda: Reading({}))
    nodes: int = 0
    reference: Any = None
    asked: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def r(self) -> Relevance:
        """Read-out weights over all rows."""
        return torch.stack([*self.readout.values()]).sum(0)

    def tokens(self) -> Float[Tensor, " row"]:
        """1 for rows that are tokens of an input, 0 for those born from a parameter or merged later."""
        is_token = torch.zeros(self.recording.rows, dtype=torch.float32)
        for stream in self.recording.streams:
            if stream.of_input:
                is_token[stream.rows] = 1
        return is_token

    def hidden(self) -> Tensor:
        """bool (batch, row): padding."""
        return self.recording.hidden()
