"""Which heads of a layer do the same: how alike their maps and their outputs are.

An et al., "Repulsive Attention" (EMNLP 2020): heads collapse onto one another. Outputs are compared by linear CKA (Kornblith et
al., ICML 2019), which does not see rotations and scales; maps by their cosine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard.errors import Misuse
from regard.explanation import display
from regard.probes.watched import table
from regard.recording import AttentionCall, Recording, record
from regard.recording.ambient import our_own
from regard.recording.random_state import rng_kept
from regard.recording.refusals import refuse
from regard.recording.tokens.tags import STRIDE

THRESHOLD = 0.95
"""How alike two heads must be, in both numbers, to be called redundant, where nobody says."""


class HeadPair(NamedTuple):
    """Two heads of a layer, by number, and how alike their outputs (CKA) and their maps (cosine) are."""

    layer: int
    one: int
    other: int
    cka: float
    cosine: float


@dataclass(frozen=True)
class LayerHeads:
    """The heads of one attention that share their rows.

    Attributes:
        layer: the number of the attention, from 0. name: the module that it is.
        cka: of the outputs O_h = A_h V_h, over all rows of all samples, centred. cosine: of the maps A_h, over the same rows.
            0 where a head gives nothing at all.
    """

    layer: int
    name: str
    cka: Float[Tensor, "head head"] = field(repr=False)
    cosine: Float[Tensor, "head head"] = field(repr=False)

    @property
    def heads(self) -> int:
        """How many there are."""
        return len(self.cka)

    def pairs(self) -> Iterator[HeadPair]:
        """All pairs of its heads."""
        for i in range(self.heads):
            for j in range(i + 1, self.heads):
                yield HeadPair(self.layer, i, j, float(self.cka[i, j]), float(self.cosine[i, j]))


@dataclass(frozen=True)
class Heads:
    """How alike the heads of each layer are; `redundant`: the pairs at least as alike as the threshold in both numbers."""

    layers: list[LayerHeads]
    threshold: float = THRESHOLD

    @property
    def redundant(self) -> list[HeadPair]:
        """Pairs that do the same, the most alike first."""
        found = [p for layer in self.layers for p in self.redundant_in(layer)]
        return sorted(found, key=lambda p: -min(p.cka, p.cosine))

    def redundant_in(self, layer: LayerHeads) -> list[HeadPair]:
        """Those of one entry of `layers`; an attention of chunks or windows has several."""
        return [p for p in layer.pairs() if min(p.cka, p.cosine) >= self.threshold]

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page (needs `regard[viz]`)."""
        return display.write_probe(self, path)

    def __str__(self) -> str:
        head = ("layer", "module", "heads", "CKA of outputs", "cosine of maps", "redundant pairs")
        return table(head, [self._row(layer) for layer in self.layers])

    __repr__ = __str__

    def _row(self, layer: LayerHeads) -> tuple[str, ...]:
        """Medians over the pairs of a layer, and its redundant pairs."""
        every, same = [*layer.pairs()], self.redundant_in(layer)
        numbers = [median([p.cka for p in every]), median([p.cosine for p in every])]
        said = ", ".join(f"{p.one}-{p.other} ({p.cka:.2f}, {p.cosine:.2f})" for p in same)
        return str(layer.layer), layer.name, str(layer.heads), *(f"{n:.2f}" for n in numbers), said or "none"


def median(values: Sequence[float]) -> float:
    """NaN of none."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5)) if values else float("nan")


def heads(
    model: nn.Module,
    inputs: Any,
    *,
    threshold: float = THRESHOLD,
    streams: Mapping[str, Any] | None = None,
    training: bool = False,
    batch_axis: Any = 0,
    memory_budget: int | str | None = None,
) -> Heads:
    """How alike the heads of each attention are, on these inputs: CKA of their outputs, cosine of their maps.

    The more rows (tokens of all samples) there are, the more the numbers say: of fewer rows than a head is wide, CKA is near 1
    whatever the heads do. `threshold`: how alike redundant pairs are, in both numbers. The others as in `regard.explain`.

    Raises ModelError, TrailLost as `regard.record` does, and Misuse for a threshold that is no share.
    """
    check_threshold(threshold)
    refuse(model, training)
    with rng_kept(model), our_own():
        recording = record(
            model, inputs, streams=streams, training=training, batch_axis=batch_axis, memory_budget=memory_budget,
            checked=True,
        )  # fmt: skip
        return similar_heads(recording, threshold)


def check_threshold(threshold: float) -> None:
    """Raise Misuse for what is no share."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise Misuse(f"threshold is a number from 0 to 1, not {threshold!r}")


def similar_heads(recording: Recording, threshold: float = THRESHOLD) -> Heads:
    """The same of a recording at hand; calls whose tokens are not known are left out."""
    return Heads([_compared(recording, calls) for calls in _side_by_side(recording)], threshold)


def _side_by_side(recording: Recording) -> Iterator[list[AttentionCall]]:
    """Calls whose heads stand side by side over the same rows: mostly a single one."""
    for attention in recording.attentions:
        for some in attention.heads:
            calls = [recording.calls[i] for i in some if not recording.calls[i].lost]
            alike = all(
                torch.equal(c.queries, calls[0].queries)
                and torch.equal(c.keys, calls[0].keys)
                and c.v.shape[-1] == calls[0].v.shape[-1]
                for c in calls
            )
            yield from [calls] if alike and calls else [[c] for c in calls]


def _compared(recording: Recording, calls: Sequence[AttentionCall]) -> LayerHeads:
    """The heads of some calls, all with all."""
    first = calls[0]
    keep = _there(recording, first)
    O = torch.cat([c.canonical(c.output).detach().transpose(1, 2)[keep.to(c.output.device)] for c in calls], 1)
    return LayerHeads(first.attention, first.module, cka(O.double().cpu()), _cosine(calls, keep))


def _there(recording: Recording, call: AttentionCall) -> Bool[Tensor, "group row"]:
    """Query rows that are tokens, no padding."""
    samples, rows = call.queries // STRIDE - 1, call.queries % STRIDE
    return (rows > 0) & ~recording.hidden()[samples.clamp(min=0), rows]


def cka(O: Float[Tensor, "row head width"]) -> Float[Tensor, "head head"]:
    """Linear CKA: ‖X_gᵀ X_h‖² / (‖X_gᵀ X_g‖ ‖X_hᵀ X_h‖), X centred over the rows; 0 where a head does not vary."""
    X = O - O.mean(0, keepdim=True)
    size = torch.einsum("ngd,nhe->ghde", X, X).pow(2).sum((2, 3))
    return _normed(size)


def _cosine(calls: Sequence[AttentionCall], keep: Tensor) -> Float[Tensor, "head head"]:
    """Σ A_g A_h over all rows and keys, over both lengths; some rows at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for index in calls[0].chunks(torch.arange(calls[0].shape[2])):
        A = torch.cat([c.rows(index, gradient=False).A.cpu() for c in calls], 1).double()
        A = A * keep[:, None, index, None]
        total = total + torch.einsum("agrk,ahrk->gh", A, A)
    return _normed(total)


def _normed(products: Float[Tensor, "head head"]) -> Float[Tensor, "head head"]:
    """P_gh / √(P_gg P_hh)."""
    length = products.diagonal().clamp(min=0).sqrt()
    whole = length[:, None] * length
    return torch.where(whole > 0, products / whole.clamp(min=1e-300), 0.0)


__all__ = ["HeadPair", "Heads", "LayerHeads", "cka", "heads", "similar_heads"]
