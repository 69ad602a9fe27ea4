"""What a method is given: one recording, one target's gradients, and the read-out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from regard.recording import Gradients, Recording

Relevance = Float[Tensor, "batch row"]


@dataclass
class Context:
    """One recording and one target.

    `readout` maps the index of each final call to its weights r, (batch, row) over all rows. `seed` is for methods that draw.
    """

    recording: Recording
    gradients: Gradients
    readout: dict[int, Relevance]
    seed: int = 0

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
        out = torch.zeros(self.recording.batch, self.recording.rows, dtype=torch.bool)
        for stream in self.recording.streams:
            if stream.shown:
                out[:, stream.rows] = self.recording.padded[stream.name]
        return out
