"""What one example costs on this machine, by each method: measured by doing it once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from regard.api.causal_rank import RankedInput
from regard.api.explain import explain_reading
from regard.errors import Failure
from regard.evaluation.budget import Costs, MethodCost
from regard.evaluation.diagnosis import CONTROL
from regard.evaluation.examples import Example
from regard.evaluation.protocols.protocol import MethodChoice, said
from regard.explanation.causal_test import HowTested
from regard.target import scores

PASSES = {
    "occlusion": 200.0,
    "lime": 1024.0,
    "shap_kernel": 2048.0,
    "attention_mask": 300.0,
    "integrated_gradients": 96.0,
}
"""How many forward passes a map takes by methods that take many, to see before the first one whether they can be paid."""
MAPS_OF_CHECKS = 4
"""What the checks of one example cost, in maps: the map itself, with noise, with a new head, and with all weights new."""
RANDOM = 9
AGAIN = 100
"""Of what takes less than this part of the time for measuring, a second measurement is taken."""
Clock = Callable[[], float]


@dataclass
class Meter:
    """Measures what one example costs, by doing it once.

    Attributes:
        most: seconds that measuring may take. wanted: on how many examples a method must be paid for. maps: the seconds of a
            map, by the titles of methods.
    """

    model: Any
    example: Example
    seed: int
    clock: Clock
    most: float
    wanted: int
    started: float = field(init=False)
    maps: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def measured(self, choices: Sequence[MethodChoice], fixed: bool) -> tuple[Costs, dict[str, str], dict[str, float]]:
        """The costs; methods that are refused, and why; methods that are too dear to be tried, and for how long they would
        take."""
        self._forward()  # the first one is longer
        forward, target = self._forward()
        begun = self.clock()
        ranked = RankedInput.of(self.model, self.example.reading, target)
        run = self.clock() - begun
        self._map(choices[0], target)  # what the first call of all imports is no map's cost
        once, backward = 0.0, 0.0
        found: dict[str, MethodCost] = {}
        refused: dict[str, str] = {}
        dear: dict[str, float] = {}
        for choice in choices:
            guess = PASSES.get(choice.name, 0.0) * forward * (1 + MAPS_OF_CHECKS / 5)
            late = self.clock() - self.started > self.most and len(found) > 3
            if not fixed and (guess > self.most / 10 or late):
                dear[choice.title] = self.wanted * (guess or max(c.asked for c in found.values()))
                continue
            try:
                own, tested, whole = self._costs(choice, ranked, target)
                if once and own < self.most / AGAIN:  # the first time may be longer
                    own, tested, whole = map(min, (own, tested, whole), self._costs(choice, ranked, target))
            except Exception as e:
                refused[choice.title] = (str(e).splitlines() or [said(e)])[0].rstrip(".")
                continue
            if not once:  # the random choices come with the first
                again = self._costs(choice, ranked, target)
                once, (own, tested, whole) = run + tested - again[1], again
                backward = max(0.0, own - 2 * forward)
            found[choice.title] = MethodCost(own + tested, MAPS_OF_CHECKS * own + whole)
            self.maps[choice.title] = own
        if not found.keys() - {CONTROL}:
            why = next(iter(refused.values()), "all of them take too long")
            raise Failure(f"no method can explain this model on these data: {why}")
        costs = self._shared(choices, found, target)
        return Costs(forward, backward, once, costs, maps=self.maps), refused, dear

    def _shared(
        self, choices: Sequence[MethodChoice], found: dict[str, MethodCost], target: torch.Tensor
    ) -> dict[str, MethodCost]:
        """The same costs, where methods without options share a call."""
        names = [c.name for c in choices if not c.options and c.title in found]
        alone = sum(self.maps[name] for name in names)
        begun = self.clock()
        try:
            explain_reading(self.model, self.example.reading, target, names, seed=self.seed)
        except Exception:  # of one of them, and the run does without, too
            return found
        saved = 1 - min(1.0, (self.clock() - begun) / max(alone, 1e-9))
        less = {c.title: saved * self.maps[c.title] for c in choices if c.name in names and not c.options}
        return {
            t: MethodCost(c.asked - less.get(t, 0.0), c.checked - MAPS_OF_CHECKS * less.get(t, 0.0))
            for t, c in found.items()
        }

    def _forward(self) -> tuple[float, torch.Tensor]:
        """Seconds of a forward pass, and the predicted class."""
        begun = self.clock()
        with torch.no_grad():
            found = scores(self.model(**self.example.reading.inputs), None).argmax(-1)
        return self.clock() - begun, found

    def _map(self, choice: MethodChoice, target: torch.Tensor) -> Any:
        return explain_reading(
            self.model, self.example.reading, target, choice.name, seed=self.seed, **dict(choice.options)
        )

    def _costs(self, choice: MethodChoice, ranked: RankedInput, target: torch.Tensor) -> tuple[float, float, float]:
        """Seconds of a map, of its removal, and of T."""
        a = self.clock()
        exp = self._map(choice, target)
        b = self.clock()
        ranked.rank(exp, HowTested(random=RANDOM, seed=self.seed))
        c = self.clock()
        exp.receipt.measure()
        return b - a, c - b, self.clock() - c


__all__ = ["Clock", "Meter"]
