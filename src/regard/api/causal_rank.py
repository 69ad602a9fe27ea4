"""How a map ranks among a few choices by chance: the cheap form of the causal test, to be pooled over many inputs.

With nine random choices one input says little: its rank is one of ten. The ranks of many inputs together say whether a method
is better than chance. All methods on an input share its run and its random choices, so that each costs one run more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from regard.api.causal import Call, Case, Trial, fixed
from regard.api.shared_run import Settings
from regard.attribution.removal.chance import ranked
from regard.attribution.removal.runs import Taken, drawn_from, subsets_of_size
from regard.explanation.causal_test import CausalTest, HowTested, Outcome
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Reading
from regard.recording import Recording
from regard.recording.ambient import Surroundings
from regard.recording.inputs import Inputs
from regard.target import Target


@dataclass(eq=False)
class RankedInput:
    """One input and class, on which maps of any method are held against the same random choices.

    Attributes:
        case, recording: the run without what is taken away, run once. eps: of its numbers.
    """

    case: Case
    recording: Recording
    eps: float

    @classmethod
    def of(cls, model: nn.Module, reading: Reading, target: Any, memory_budget: int | None = None) -> RankedInput:
        """A reading of one sample, and the target as `regard.explain` takes it."""
        wish = Target.make(target)
        given, how = Inputs.of(model, reading.inputs, 0), Settings(memory_budget=memory_budget).read()
        case, value, recording = fixed(Case(model, given, wish, reading, how, Surroundings.now(), Call(), 0, wish))
        return cls(case, recording, torch.finfo(value.y.dtype).eps)

    def rank(self, exp: Explanation, asked: HowTested) -> CausalTest:
        """The test of one sample's map of this input: the k highest units away, against `asked.random` random choices, which
        are drawn also where all choices could be run."""
        with self.case.running():
            return _Few(self.case, self.recording, exp, asked, 0, 0).test()


class _Few(Trial):
    """A test that draws as few choices as it is asked to, and takes the highest units away alone."""

    def _choices(self) -> tuple[Taken, bool]:
        return subsets_of_size(self.n, self.k, self.asked.random, self._seed), False

    def _outcomes(self, choices: Taken, every: bool) -> dict[str, Outcome | None]:
        order = ranked(self._scores(), drawn_from(self._seed, "order of equal scores"))
        own, random = self._runs(self._taken(order[: self.k]), choices, every, kept=False)
        return {"highest": self._outcome(own, 0, random[0], +1, order[0]), "lowest": None, "kept": None}


def mid_rank(test: CausalTest, eps: float = torch.finfo(torch.float32).eps) -> float:
    """The share of random choices without which the target falls less than without the map's, equal ones by half; NaN where
    nothing could be tested. The mean of a map that is drawn by chance is 0.5. eps: of the numbers that the model counts in."""
    if test.highest is None:
        return math.nan
    change, random = test.highest.change, test.highest.random
    rounding = 16 * eps * max(1.0, abs(test.value))
    below, upto = (sum(one <= change + sign * rounding for one in random) for sign in (-1, 1))
    return (below + upto) / 2 / len(random)


__all__ = ["RankedInput", "mid_rank"]
