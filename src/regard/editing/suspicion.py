"""Does what a model rests on give a rewritten picture away? Numbers that are read from one run, and how well they tell.

Each is large where it speaks for a rewritten picture, as one would expect it beforehand; the area under the ROC curve says
whether it does: 0.5 is chance, and less than 0.5 that it is the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from regard.api.explain import explain
from regard.editing.asked import Classifier, picture_of, probabilities
from regard.editing.within import METHOD
from regard.errors import NoAttention, TrailLost, Unmoved
from regard.explanation.raw_inputs import Reading
from regard.extras import brought_by
from regard.models.pictures import Pixels
from regard.models.reading import RawReader
from regard.recording.ambient import our_own
from regard.recording.inputs import Inputs
from regard.recording.random_state import rng_kept

NEGATIVE = "negative share"
SIGNS = "disagreement of signs"
SMOOTHING = "verdict of smoothing"
DOUBT = "doubt"
MEANINGS = {
    DOUBT: "1 less the probability of the predicted class: what needs no map",
    NEGATIVE: "how much of the relevance for the predicted class is against it, by signed corrected attention",
    SIGNS: "how much of the relevance cancels because heads and layers disagree in sign: 1 − Σ|signed| / Σ absolute",
    SMOOTHING: "the share of copies with a little noise that the model takes for another class than the picture itself",
}
COPIES, NOISE = 16, 8 / 255
DRAWS = 500
Numbers = Float[Tensor, " n"]


@dataclass(frozen=True)
class Suspicion:
    """How well one number tells rewritten pictures from originals: the area under its ROC curve, with a 95 % bootstrap interval
    over pictures; its mean on both.
    """

    name: str
    auroc: float
    low: float
    high: float
    before: float
    after: float


def suspicions(
    reader: RawReader, before: Sequence[Pixels], after: Sequence[Pixels], seed: int = 0, size: int = 16
) -> list[Suspicion]:
    """Every number on originals and on rewritten pictures. Raises Misuse without scikit-learn (`regard[eval]`)."""
    old, new = (_numbers(reader, side, seed, size) for side in (before, after))
    return [_told(name, old[name], new[name], seed) for name in MEANINGS if name in old and name in new]


def _told(name: str, before: Numbers, after: Numbers, seed: int) -> Suspicion:
    """The area under the ROC curve; for its interval pictures are drawn together with what they were rewritten to.

    The area is the share of (original, rewritten) of which the rewritten one has the larger number, ties counting half: of a
    draw in which picture i is c_i times it is Σ_ij c_i c_j W_ij / n².
    """
    truth = [0] * len(before) + [1] * len(after)
    area = brought_by("eval", "sklearn.metrics").roc_auc_score(truth, torch.cat([before, after]).double().numpy())
    a, b = after.double()[None, :], before.double()[:, None]
    W = ((a > b).double() + (a == b).double() / 2).numpy()
    n = len(before)
    drawn = np.random.default_rng(seed).multinomial(n, [1 / n] * n, DRAWS)
    low, high = np.quantile(np.einsum("di,ij,dj->d", drawn, W, drawn, optimize=True) / n**2, [0.025, 0.975])
    return Suspicion(name, float(area), float(low), float(high), float(before.mean()), float(after.mean()))


def _numbers(reader: RawReader, pictures: Sequence[Pixels], seed: int, size: int) -> dict[str, Numbers]:
    batches = [[*pictures[i : i + size]] for i in range(0, len(pictures), size)]
    parts = [_of_batch(reader, reader.read_noted(batch, False)[0], seed) for batch in batches]
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0] if all(name in p for p in parts)}


def _of_batch(reader: RawReader, reading: Reading, seed: int) -> dict[str, Numbers]:
    p = probabilities(reader.model, reading.inputs)
    return {DOUBT: 1 - p.amax(1), SMOOTHING: _noisy(reader, reading, p, seed), **_of_maps(reader, reading.inputs)}


def _noisy(reader: RawReader, reading: Reading, p: Float[Tensor, "n class"], seed: int) -> Numbers:
    """The share of noisy copies that are taken for another class; the noise is the same for all pictures."""
    given = Inputs.of(reader.model, reading.inputs)
    stream = picture_of(reader.model, given)
    x = given.tensors[stream]
    std = torch.tensor(reading.std)
    generator = torch.Generator().manual_seed(seed)
    other = torch.zeros(len(x))
    with rng_kept(reader.model) as rng, our_own(), torch.no_grad():
        classifier = Classifier(reader.model, given, stream, rng[0])
        for _ in range(COPIES):
            noise = NOISE * torch.randn(x.shape[1:], generator=generator) / std[:, None, None]
            other += (classifier.scores(x + noise.to(x)).argmax(1).cpu() != p.argmax(1)).float()
    return other / COPIES


def _of_maps(reader: RawReader, inputs: dict[str, Tensor]) -> dict[str, Numbers]:
    """What maps of the predicted class say; nothing where no attention can be followed."""
    try:
        signed, absolute = (
            cast(Any, explain(reader.model, inputs, None, METHOD, sign=sign)) for sign in ("signed", "absolute")
        )
    except (NoAttention, TrailLost, Unmoved):
        return {}
    s, a = (torch.cat([v.flatten(1).cpu() for v in e.scores.values()], 1) for e in (signed, absolute))
    size = s.abs().sum(1).clamp(min=1e-30)
    return {NEGATIVE: (-s).clamp(min=0).sum(1) / size, SIGNS: 1 - size / a.sum(1).clamp(min=1e-30)}


__all__ = ["MEANINGS", "Suspicion", "suspicions"]
