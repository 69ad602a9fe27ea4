"""How much of a prediction the attention weights carry by themselves, and how much the values.

Bai et al., "Why Attentions May Not Be Interpretable?" (KDD 2021): a model may put what it has found into the *weights*, as a
code that later layers read, whatever the values under them are. Such a shortcut makes a map that says nothing of evidence.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.errors import Misuse, nearest
from regard.explanation import display
from regard.probes.watched import Probed, even_attention, probed, recorded_call, share, table
from regard.recording import AttentionCall, Recording
from regard.recording.edits import Imposed, Replace
from regard.recording.tokens.tags import stream_of

VALUES = ("others", "mean")


@dataclass(frozen=True)
class Shortcut:
    """The explained number with the weights, the values, both or neither its own; one a sample.

    "Others" are other samples of the batch, in place of everything that is not an attention weight; numbers are means over
    them. Attention that is not the sample's own is uniform.

    Attributes:
        target: what the number is. own: as the model computes it. weights_only: own attention, others' values. values_only:
            uniform attention, own values. neither: uniform attention, others' values.
        weights_keep: the share of the others with which the own attention alone still gives the predicted class, (batch,);
            values_keep: whether uniform attention still gives it. None where the target is of no class.
        values: what stood in the place of the values. others: how many samples did. passes: forward passes.
        alike: the same class is explained in all samples, so that the values carry as much of it in all samples together as
            others' do, by construction. names: what to call the samples, where somebody said so.
    """

    target: str
    own: Float[Tensor, " batch"]
    weights_only: Float[Tensor, " batch"]
    values_only: Float[Tensor, " batch"]
    neither: Float[Tensor, " batch"]
    weights_keep: Float[Tensor, " batch"] | None
    values_keep: Float[Tensor, " batch"] | None
    values: str
    others: int
    passes: int
    alike: bool = False
    names: tuple[str, ...] = field(default=(), repr=False)

    @property
    def weights_share(self) -> Float[Tensor, " batch"]:
        """(weights_only − neither) / (own − neither): 1 where the weights carry all of it; NaN where there is nothing."""
        return share(self.weights_only - self.neither, self.own - self.neither, self.own)

    @property
    def values_share(self) -> Float[Tensor, " batch"]:
        """(values_only − neither) / (own − neither): 1 where the values carry all of it."""
        return share(self.values_only - self.neither, self.own - self.neither, self.own)

    @property
    def overall(self) -> tuple[float, float]:
        """Both shares of all samples together: of weights, of values; the latter is NaN where the samples are `alike`."""
        parts = (self.weights_only, self.values_only)
        whole, size = (self.own - self.neither).sum(), self.own.abs().sum()
        weights, values = (float(share((p - self.neither).sum(), whole, size)) for p in parts)
        return weights, math.nan if self.alike else values

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page (needs `regard[viz]`)."""
        return display.write_probe(self, path)

    def __str__(self) -> str:
        head = ("sample", "own", "weights only", "values only", "neither", "share of weights", "share of values")
        columns = (
            self.own, self.weights_only, self.values_only, self.neither, self.weights_share, self.values_share
        )  # fmt: skip
        rows = [(str(i), *(f"{v:.3g}" for v in row)) for i, row in enumerate(torch.stack(columns, 1).tolist())]
        both = ("all", "", "", "", "", *(f"{v:.3g}" for v in self.overall))
        return f"{self.target}\n" + table(head, [*rows, both])

    __repr__ = __str__


def shortcut(
    model: nn.Module, inputs: Any, target: Any = None, *, values: str = "others", others: int = 8, **options: Any
) -> Shortcut:
    """How much of the target the attention weights carry alone, whatever they weigh, and how much the values do.

    Args:
        model: as in `regard.explain`. inputs: likewise, of two samples or more: each is given the content of the others.
        target: as in `regard.explain`; the class of the unchanged run is kept.
        values: what is weighed where the values are not the sample's own: "others", the whole run is that of another sample
            (embeddings, residual stream, values) but for the attention, which is the sample's own in every call; or "mean",
            in which the values of every call are moreover the mean over the other samples, position by position. Masks
            and positions stay the sample's own.
        others: with how many other samples at most (those that follow it in the batch, in turn).
        options: streams, training, batch_axis, memory_budget, as in `regard.explain`.

    Raises Misuse for a single sample, and where samples read one another; ModelError, TrailLost as `regard.record` does.
    """
    if values not in VALUES:
        raise nearest(str(values), VALUES, "kind of values")
    if isinstance(others, bool) or not isinstance(others, int) or others < 1:
        raise Misuse(f"others is a number of samples, 1 or more, not {others!r}")
    with probed(model, inputs, target, **options) as run:
        return _measured(run, values, others)


def _measured(run: Probed, values: str, others: int) -> Shortcut:
    """The four runs: own or uniform attention, own or others' values."""
    recording = run.recording
    if recording.batch < 2:
        raise Misuse(
            "one sample has no others whose values could stand in the place of its own: give two or more at a time"
        )
    mean = mean_of_others(recording) if values == "mean" else None
    own, even = own_attention(recording), even_attention(recording)
    sides = dict[str, list[Tensor]](weights=[], neither=[], keep=[])
    count = min(others, recording.batch - 1)
    for shift in range(1, count + 1):
        entering = Replace(dict(content_of_others(recording, shift)))
        y, predicted = run.changed(entering, Imposed(own, mean))
        sides["weights"].append(y)
        sides["neither"].append(run.changed(entering, Imposed(even, mean))[0])
        sides["keep"] += _stays(run, predicted)
    values_only, kept = run.changed(Imposed(even))
    values_keep = _stays(run, kept)
    return Shortcut(
        target=run.label,
        own=run.y.detach().double().cpu(),
        weights_only=torch.stack(sides["weights"]).mean(0),
        values_only=values_only,
        neither=torch.stack(sides["neither"]).mean(0),
        weights_keep=torch.stack(sides["keep"]).mean(0) if sides["keep"] else None,
        values_keep=values_keep[0] if values_keep else None,
        values=values,
        others=count,
        passes=run.passes,
        alike=all(t is None or len(t.unique()) == 1 for t in (run.again.classes, run.again.rivals)),
    )


def _stays(run: Probed, predicted: Tensor | None) -> list[Tensor]:
    """1 for samples that are taken for the same class as before; nothing where the target is of none."""
    if predicted is None or run.predicted is None:
        return []
    return [predicted.eq(run.predicted).double()]


def own_attention(recording: Recording) -> Callable[[AttentionCall], Tensor]:
    """A of every call of a run, rebuilt when a repeated run comes to that call; one is alive at a time."""

    def weights(call: AttentionCall) -> Tensor:
        return recorded_call(recording, call).rows(torch.arange(call.shape[2])).A

    return weights


def content_of_others(recording: Recording, shift: int) -> dict[str, Tensor]:
    """What enters the model for the sample so many places further on, in every sample's place: entry -> its values.

    Positions at which that sample has only padding get the mean of its own tokens.
    """
    found: dict[str, Tensor] = {}
    for name, leaf in recording.leaves.items():
        axis = recording.axis(name)
        if axis is None or leaf.shape[axis] != recording.batch:
            continue
        found[name] = torch.roll(_without_padding(recording, name, leaf.detach()), -shift, axis)
    if not found:
        raise Misuse("no input has an axis of samples, so that none can be given the content of another")
    return found


def _without_padding(recording: Recording, name: str, leaf: Tensor) -> Tensor:
    """Word embeddings with the mean of each text in the place of its padding."""
    padded = recording.padded.get(stream_of(name))
    if padded is None or not bool(padded.any()) or leaf.shape[:2] != padded.shape:
        return leaf
    keep = (~padded).to(leaf)[..., None]
    mean = (leaf * keep).sum(1, keepdim=True) / keep.sum(1, keepdim=True).clamp(min=1)
    return torch.where(keep > 0, leaf, mean)


def mean_of_others(recording: Recording) -> Callable[[AttentionCall], Tensor]:
    """V of every call: at each position the mean over the other samples that have a token there; else over all their tokens."""

    def values(call: AttentionCall) -> Tensor:
        recorded = recorded_call(recording, call)
        V, alive = recorded.repeated(recorded.v).detach(), ~recorded.dead_keys().to(recorded.v.device)
        order = recorded.samples.argsort(stable=True)
        if recorded.weights is not None or len(order) % recording.batch or int(recorded.samples.min()) < 0:
            raise Misuse(
                f'attention call {call.index} ({call.module}) has not one set of values a sample; use values="others"'
            )
        by_sample = order.view(recording.batch, -1)
        mean = _others_mean(V[by_sample], alive[by_sample][:, :, None, :, None].to(V))
        return mean.flatten(0, 1)[order.argsort()]

    return values


def _others_mean(V: Tensor, alive: Tensor) -> Tensor:
    """(sample, window, head, key, width): the mean over the other samples, where they are alive."""
    total, count = ((x.sum(0, keepdim=True) - x) for x in (V * alive, alive))
    anywhere = total.sum(3, keepdim=True) / count.sum(3, keepdim=True).clamp(min=1)
    return torch.where(count > 0, total / count.clamp(min=1), anywhere)


__all__ = ["Shortcut", "shortcut"]
