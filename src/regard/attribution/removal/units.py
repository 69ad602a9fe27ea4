"""How units are taken away: pixels filled, patches filled or left out of the run, words replaced or cut out of the text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from regard.attribution.integral.baseline_values import blurred, special_tokens
from regard.attribution.removal.runs import Taken, made_hiding_keys
from regard.errors import Misuse, OtherRows
from regard.explanation.raw_inputs import Reading, Text
from regard.recording import Recording
from regard.recording.ambient import as_the_user
from regard.recording.edits import LeaveOut
from regard.recording.run import run
from regard.recording.tokens.cells import Cells
from regard.target import scores


@dataclass
class Removal(ABC):
    """One input, and the model that is shown copies of it without some of its units."""

    model: nn.Module
    inputs: dict[str, Tensor]
    stream: str

    @property
    @abstractmethod
    def units(self) -> int:
        """How many units there are."""

    @abstractmethod
    def without(self, taken: Taken) -> Any:
        """The model's output on one copy a row of `taken`."""

    def logits(self, order: Int[Tensor, " unit"], counts: Sequence[int]) -> Float[Tensor, "copy classes"]:
        """Scores of the classes with the first so many units of an order away, one row a count."""
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        logits = scores(self.without(rank[None] < torch.tensor(counts)[:, None]), None)
        if logits.ndim != 2 or len(logits) != len(counts):
            raise Misuse(
                f"perturbation needs a classifier, logits (batch, class); the model gave {tuple(logits.shape)}"
            )
        return logits

    @cached_property
    def bytes_of_one(self) -> int:
        """What all operations of a run on the example make: more than one copy ever holds at a time."""
        made: int = run(self.model, self.inputs).made
        return made

    def _copies(self, count: int) -> dict[str, Tensor]:
        """The inputs so many times over."""
        return {k: v.expand(count, *v.shape[1:]).clone() for k, v in self.inputs.items()}

    def _output(self, inputs: dict[str, Tensor]) -> Any:
        with as_the_user():
            return self.model(**inputs)


@dataclass
class Filled(Removal):
    """Pixels, or patches of a grid, take the value that they have in another picture."""

    filling: Float[Tensor, "1 channel height width"]
    of: Int[Tensor, "*channel height width"]

    @property
    def units(self) -> int:
        """Cells. `of`: the one that each pixel, or each element of the picture, is in."""
        return int(self.of.max()) + 1

    def without(self, taken: Taken) -> Any:
        """The picture with the taken cells filled."""
        inputs = self._copies(len(taken))
        x = inputs[self.stream]
        mask = taken[:, self.of.flatten()].view(-1, *self.of.shape).to(x.device)
        inputs[self.stream] = torch.where(mask if mask.ndim == x.ndim else mask[:, None], self.filling, x)
        return self._output(inputs)


@dataclass
class Patches(Removal):
    """Patches left out of the run: masked as keys of every attention call, and not counted by a mean over tokens.

    Attributes:
        rows: the patches' rows among those of all tokens. total: how many rows there are. made: what a run makes, in bytes;
            A of every call too, which has to be built here.
    """

    rows: slice
    total: int
    made: int

    @classmethod
    def of(cls, model: nn.Module, inputs: dict[str, Tensor], stream: str, recording: Recording) -> Patches:
        """From a recording of the run. Raises Misuse where patches that are left out still reach the output."""
        size = made_hiding_keys(recording)
        made = cls(model, inputs, stream, recording.stream(stream).rows, recording.rows, size)
        _refuse_leak(made, recording.stream(stream).cells)
        return made

    @property
    def units(self) -> int:
        """Patches."""
        return int(self.rows.stop - self.rows.start)

    @cached_property
    def bytes_of_one(self) -> int:
        """What a run makes."""
        return self.made

    def without(self, taken: Taken) -> Any:
        """A run whose tokens see only what is left."""
        hidden = torch.zeros(len(taken), self.total, dtype=torch.bool)
        hidden[:, self.rows] = taken
        return run(self.model, self._copies(len(taken)), [LeaveOut(hidden)]).output


@dataclass
class Words(Removal):
    """Tokens of a text cut out of it (`fill` None), or another id in their place. Special tokens and padding stay."""

    groups: list[list[int]]
    fill: int | None
    pad: int

    @property
    def units(self) -> int:
        """Words, or word pieces."""
        return len(self.groups)

    def without(self, taken: Taken) -> Any:
        """The text without the taken words."""
        away = torch.zeros(len(taken), self.inputs[self.stream].shape[1], dtype=torch.bool)
        for unit, tokens in enumerate(self.groups):
            away[:, tokens] = taken[:, unit, None]
        inputs = self._copies(len(taken))
        if self.fill is None:
            return self._output(cut(inputs, self.stream, away, self.pad))
        ids = inputs[self.stream]
        inputs[self.stream] = ids.masked_fill(away.to(ids.device), self.fill)
        return self._output(inputs)


def cut(
    inputs: dict[str, Tensor],
    stream: str,
    away: Bool[Tensor, "copy token"],
    pad: int,
    mask_name: str = "attention_mask",
) -> dict[str, Tensor]:
    """Shorter texts, padded on the right to the longest among the copies; the mask tells what is padding."""
    ids = inputs[stream]
    mask = inputs.get(mask_name, torch.ones_like(ids))
    keep = ~away.to(ids.device) & mask.bool()
    if not bool(keep.any(1).all()):
        raise Misuse("a step removes every token of a text and leaves the model nothing to read; end before 1")
    length = int(keep.sum(1).max())
    order, before = ((~m).long().argsort(dim=1, stable=True)[:, :length] for m in (keep, mask.bool()))
    real = keep.gather(1, order)  # what is kept comes first, in its own order
    new = {k: v.gather(1, order) if v.shape == ids.shape else v for k, v in inputs.items()}
    new[stream] = new[stream].masked_fill(~real, pad)
    new[mask_name] = real.to(mask.dtype)
    if "position_ids" in new:
        new["position_ids"] = inputs["position_ids"].expand_as(ids).gather(1, before)
    return new


def filling_of(reading: Reading, x: Float[Tensor, "1 channel height width"], fill: str, sigma: float = 10.0) -> Tensor:
    """The picture that pixels are taken from when they are taken away: "zero", "mean", "blur" or "black"."""
    if x.ndim != 4:
        raise Misuse(f"fill={fill!r} is for pictures (batch, channel, height, width), not {tuple(x.shape)}")
    if fill == "zero":
        return torch.zeros_like(x)
    if fill == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    if fill == "blur":
        return blurred(x, sigma)
    mean, std = reading.mean, reading.std
    if mean is None or std is None:
        raise Misuse(
            "what counts as black depends on the normalisation: read the picture with a reader, or use fill='mean'"
        )
    black = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=x.dtype, device=x.device)
    return black.view(1, -1, 1, 1).expand_as(x)


def content_tokens(model: nn.Module, reading: Reading, stream: str) -> Int[Tensor, " token"]:
    """Positions of a text's tokens that are neither padding nor special."""
    ids = reading.inputs[stream]
    special = reading.special.get(stream)
    if special is None:
        special = special_tokens(model, ids)
    mask = reading.inputs.get("attention_mask", torch.ones_like(ids))
    return (~special.bool().cpu() & mask.bool().cpu())[0].nonzero()[:, 0]


def groups_of(text: Text) -> list[list[int]]:
    """The tokens of every word: a token belongs to the word that holds its first character."""
    starts = {i: a for i, (a, b) in enumerate(text.offsets) if b > a and not text.special[i]}
    return [[i for i, at in starts.items() if a <= at < b] for a, b in text.words]


def _refuse_leak(patches: Patches, cells: Cells | None) -> None:
    """Half of the patches are left out: the output may then have no gradient at them.

    Where patches are merged, convolved, or pooled by another operation than a mean, masking keys does not take them out.
    """
    hidden = torch.zeros(1, patches.total, dtype=torch.bool)
    hidden[:, patches.rows] = away = torch.arange(patches.units) % 2 == 0
    if _leaks(patches, hidden, away, cells):
        raise Misuse(
            f"patches of {patches.stream!r} that are left out still reach this model's output (they are merged, mixed outside "
            "attention, or pooled by another operation than a mean); use unit='pixel', or a picture's fill"
        )


def _leaks(patches: Patches, hidden: Tensor, away: Tensor, cells: Cells | None) -> bool:
    with torch.enable_grad():
        try:
            made = run(patches.model, patches.inputs, [LeaveOut(hidden)])
        except OtherRows:  # merged, and as their values have it
            return True
        logits = scores(made.output, None)
        y = (logits * torch.linspace(1, 2, logits.shape[-1]).to(logits)).sum()
        (g,) = torch.autograd.grad(y, [made.leaves[patches.stream]], allow_unused=True)
    if g is None:
        return False
    size = g.abs().float().cpu()
    per_patch = size[0].amax(-1) if cells is None else cells.gathered(size)[0].amax(-1)
    return bool(per_patch[away].max() > 1e-5 * per_patch.max())


__all__ = [
    "Filled",
    "Patches",
    "Removal",
    "Words",
    "content_tokens",
    "cut",
    "filling_of",
    "groups_of",
]
