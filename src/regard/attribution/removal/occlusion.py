"""Occlusion: how far y falls without a unit (Zeiler & Fergus, ECCV 2014; for words Li et al., 2016)."""

from __future__ import annotations

import math
from functools import partial

import torch

from regard.attribution.context import Context, Relevance
from regard.attribution.removal.explained import OneSample, explained
from regard.attribution.removal.grouping import numbered, windows
from regard.attribution.removal.surrogate import Fit
from regard.errors import Misuse
from regard.kinds import Count
from regard.recording import Recording


def occlusion(context: Context, *, window: Count = 1, stride: Count = 1, unit: str = "token") -> Relevance:
    """y − y without the unit, for each unit, in the unit of y.

    What is taken away is left out of attention; with a baseline, its values stand there. unit: "token" (a patch, a region, a
    word piece) or "word". window: windows of so many tokens (of a picture along rows and columns), `stride` apart, are taken
    instead of single ones; a token's score is the mean over the windows that cover it. Several targets share the runs.
    """
    if unit == "word" and window * stride > 1:
        raise Misuse("window and stride are counted in tokens; leave them out with unit='word'")
    recording, reading = context.recording, context.reading
    found = partial(_drops, recording=recording, window=window, stride=stride, word=unit == "word")
    made = explained(context, lambda tokens: numbered(recording, reading, tokens, unit), found)
    context.fits = []  # no model was fitted
    return made


def _drops(one: OneSample, recording: Recording, window: int, stride: int, word: bool) -> Fit:
    """The mean drop of y over the windows that cover each unit."""
    some = torch.eye(one.units).bool() if word else windows(recording, one.without.unit, window, stride)
    drops, covered = one.ends[0] - one.y(some), some.double()
    mean = drops @ covered / covered.sum(0).clamp(min=1)
    return Fit(mean, math.nan, math.nan, torch.zeros_like(mean), len(drops), True)


__all__ = ["occlusion"]
