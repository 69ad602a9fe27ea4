"""The rows that relevance lives on: (sample, row), rows numbered over all streams of a run; row 0 stands for none of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regard.recording.calls import AttentionCall
from regard.recording.tokens.tags import STRIDE, Merge, Stream

Relevance = Float[Tensor, "batch row"]
Relevances = Float[Tensor, "*read batch row"]
"""One row of relevance for each sample, or several: a matrix."""


@dataclass(kw_only=True)
class RowSpace:
    """The rows of a run, and relevance between them and the rows of calls.

    Attributes:
        batch, rows: how many samples and rows there are. precision: what relevance is counted in.
        streams: all token streams that calls read. merges: rows that were made of others.
        padded: stream -> bool (batch, tokens), True where a token is padding.
    """

    batch: int
    rows: int
    streams: list[Stream]
    merges: list[Merge]
    precision: torch.dtype = torch.float32
    padded: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def zeros(self) -> Relevance:
        """No relevance anywhere."""
        return torch.zeros(self.batch, self.rows, dtype=self.precision)

    def gather(self, relevance: Relevances, ids: Tensor) -> Tensor:
        """Relevance at the rows of a call: ids (group, token) -> (*read, group, token); id 0 has none."""
        samples, rows = ids // STRIDE - 1, ids % STRIDE
        return relevance[..., samples.clamp(min=0), rows] * (rows > 0)

    def scatter(self, values: Tensor, ids: Tensor) -> Relevances:
        """The transpose of `gather`: values at a call's rows, added up where windows share a row."""
        samples, rows = ids // STRIDE - 1, ids % STRIDE
        values = torch.where(rows > 0, values.to(self.precision).cpu(), 0.0).flatten(-ids.ndim)
        out = torch.zeros(*values.shape[:-1], self.batch * self.rows, dtype=values.dtype)
        out.index_add_(-1, (samples.clamp(min=0) * self.rows + rows).flatten(), values)
        return out.view(*out.shape[:-1], self.batch, self.rows)

    def hidden(self) -> Bool[Tensor, "batch row"]:
        """Padding."""
        out = torch.zeros(self.batch, self.rows, dtype=torch.bool)
        for stream in self.streams:
            if stream.shown:
                out[:, stream.rows] = self.padded[stream.name]
        return out

    def stream(self, name: str) -> Stream:
        """The (last) stream of a name that calls read."""
        return next(s for s in reversed(self.streams) if s.name == name and s.shown)


def precision_of(calls: Iterable[AttentionCall], leaves: Iterable[Tensor]) -> torch.dtype:
    """What relevance is counted in: float32, or float64 where a call is (without calls: where an input is)."""
    counted = {c.precision for c in calls} or {t.dtype for t in leaves}
    return torch.float64 if torch.float64 in counted else torch.float32


__all__ = ["Relevance", "Relevances", "RowSpace", "precision_of"]
