"""From a model's normalised tensor to pixels and back, in levels: x = (u − mean) / std, u = low + level · unit."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.editing.projected import Change
from regard.errors import InputError, Misuse

SNAP = 0.02
"""Levels: what lies this near to a whole one came from an 8-bit file."""


@dataclass(frozen=True)
class PixelScale:
    """What the numbers of a picture's tensor mean.

    Attributes:
        mean, std: one value a channel. low, high: the range of pixels. levels: how many steps it has, or None where pixels may
            be any number in it.
        note: what was assumed.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: float
    high: float
    levels: int | None = None
    note: str = ""

    @classmethod
    def of(
        cls,
        x: Tensor,
        mean: Any,
        std: Any,
        low: float | int | None,
        high: float | int | None,
        levels: int | None,
    ) -> PixelScale:
        """Read what the caller says of a tensor (batch, channel, row, column). Raises Misuse for too little or nonsense."""
        if levels is not None and (not isinstance(levels, int) or isinstance(levels, bool) or levels < 1):
            raise Misuse(f"levels= is how many steps the range of pixels has, such as 255; not {reprlib.repr(levels)}")
        if (low is None) != (high is None):
            raise Misuse("low= and high= are the two ends of the range of pixels; give both, or none")
        known = mean is not None or std is not None
        note = ""
        if low is None or high is None:
            low, high = 0.0, 1.0
            note = "pixels were taken to lie between 0 and 1, as nothing else was said (low=, high=)"
        if not known and not high > low:
            raise Misuse(f"low= must be less than high=, and they are {low!r} and {high!r}")
        made = cls(
            _per_channel(mean, 0.0, x, "mean"), _per_channel(std, 1.0, x, "std"), float(low), float(high), levels, note
        )
        made._check(x, known)
        return made

    def _check(self, x: Tensor, known: bool) -> None:
        """Raise Misuse where the tensor's values cannot be such pixels."""
        if not self.high > self.low or min(self.std) <= 0:
            raise Misuse("low= must be less than high=, and every std= greater than 0")
        if not bool(torch.isfinite(x).all()):
            raise InputError("the picture's tensor holds NaN or infinity")
        u = self._pixels(x)
        slack = 1e-2 * (self.high - self.low)
        if float(u.min()) < self.low - slack or float(u.max()) > self.high + slack:
            how = "its mean= and std=" if not known else "another mean=, std=, low= or high="
            raise Misuse(
                f"the picture's values are pixels from {float(u.min()):.3g} to {float(u.max()):.3g}, outside of "
                f"{self.low:g} to {self.high:g}: give {how}, so that the range of pixels can be kept"
            )

    @property
    def unit(self) -> float:
        """How much of a pixel's range one level is."""
        return 1.0 if self.levels is None else (self.high - self.low) / self.levels

    def in_pixels(self, levels: Tensor) -> Tensor:
        """So many levels as a difference of pixels; divided last, so that 3 of 255 are 3 / 255."""
        return levels if self.levels is None else levels * (self.high - self.low) / self.levels

    def _pixels(self, x: Tensor) -> Tensor:
        return x * _column(self.std, x) + _column(self.mean, x)

    def levels_of(self, x: Change) -> Change:
        """Pixels as levels above `low`; what is nearly a whole level of an 8-bit file is one."""
        found = (self._pixels(x) - self.low) / self.unit
        if self.levels is not None:
            whole = found.round()
            found = torch.where((found - whole).abs() < SNAP, whole, found)
        return found.clamp(0, self.top)

    @property
    def top(self) -> float:
        """The level of `high`."""
        return (self.high - self.low) / self.unit if self.levels is None else float(self.levels)

    def pixels_of(self, level: Change) -> Change:
        """Levels as pixels, within low to high."""
        return (self.low + self.in_pixels(level)).clamp(self.low, self.high)

    def slope(self, like: Change) -> Float[Tensor, "1 channel 1 1"]:
        """dx / dlevel of each channel."""
        return self.unit / _column(self.std, like)

    def changed(self, x: Change, level: Change, delta: Change) -> Change:
        """The model's tensor with a change of its pixels; those that are not changed are exactly as they were."""
        new = (self.pixels_of(level + delta) - _column(self.mean, x)) / _column(self.std, x)
        return torch.where(delta == 0, x, new)


def _column(values: tuple[float, ...], x: Tensor) -> Float[Tensor, "1 channel 1 1"]:
    return torch.tensor(values, dtype=x.dtype, device=x.device)[None, :, None, None]


def _per_channel(value: Any, default: float, x: Tensor, name: str) -> tuple[float, ...]:
    """One number a channel. Raises Misuse for another count."""
    channels = x.shape[1]
    try:
        given = [float(v) for v in torch.as_tensor(default if value is None else value).flatten().tolist()]
    except (TypeError, ValueError, RuntimeError):
        raise Misuse(f"{name}= is a number, or one per channel; not {reprlib.repr(value)}") from None
    if len(given) not in (1, channels):
        raise Misuse(f"{name}= has {len(given)} values, and the picture {channels} channels; give one per channel")
    return tuple(given * channels if len(given) == 1 else given)
