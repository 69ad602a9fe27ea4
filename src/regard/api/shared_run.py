"""What one call of `explain` was asked for, and what its methods and targets share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import Tensor

from regard.attribution.rerun import Rerun
from regard.baseline import Baseline
from regard.errors import Misuse, nearest
from regard.explanation.raw_inputs import Reading
from regard.memory import budget_of
from regard.recording import Recording
from regard.recording.ambient import Surroundings
from regard.recording.proof.verify import Verification
from regard.recording.relevance.readout import Readout
from regard.target import Target

MEASURES = ("lazy", "full", "causal")


@dataclass(frozen=True)
class Settings:
    """How to explain, as `explain` takes it: its arguments but for the model, the inputs, the targets and the methods."""

    baseline: Any = None
    site: Any = None
    readout: Readout = None
    measure: str = "lazy"
    streams: Mapping[str, Any] | None = None
    seed: int = 0
    training: bool = False
    memory_budget: Any = None
    verify: bool = False
    batch_axis: Any = 0

    @classmethod
    def taken(cls, options: dict[str, Any]) -> Settings:
        """Take them out of `options`; what is left is for the methods."""
        return cls(**{f.name: options.pop(f.name) for f in fields(cls) if f.name in options})

    def read(self) -> Settings:
        """The same, with what was given as words or numbers read. Raises Misuse for values that are not of their kind."""
        self._check_kinds()
        baseline, budget = Baseline.make(self.baseline), budget_of(self.memory_budget)
        return replace(self, baseline=baseline, seed=int(self.seed), memory_budget=budget)

    def _check_kinds(self) -> None:
        if isinstance(self.seed, bool) or not hasattr(self.seed, "__index__") or not 0 <= int(self.seed) < 1 << 63:
            raise Misuse(f"a seed is a whole number from 0 on, not {self.seed!r}")
        if isinstance(self.readout, bool) or not (self.readout is None or isinstance(self.readout, str | int | Tensor)):
            raise Misuse(
                "readout is 'cls', 'last' or 'mean', the position of a token, or weights (batch, tokens) in a tensor; not "
                f"{self.readout!r}"
            )
        if not isinstance(self.memory_budget, str | int | float | None):
            raise Misuse(f'memory_budget is a number of bytes, or like "512MB"; not {self.memory_budget!r}')
        if self.measure not in MEASURES:
            raise nearest(str(self.measure), MEASURES, "measure")

    def of_recording(self) -> dict[str, Any]:
        """What a recording, and the proof of one, takes of it."""
        return {"streams": self.streams, "training": self.training, "batch_axis": self.batch_axis}


@dataclass
class Watched:
    """What one call of `explain` shares among its methods and targets.

    targets: all of the call; number: the one that is being explained. reruns: each with its classes fixed, once one was asked
    for; between_targets: what runs that serve all of them found.
    """

    recording: Recording
    reading: Reading
    how: Settings
    rng: Any
    around: Surroundings
    proof: Verification | None = None
    seconds: float = 0.0
    plain: dict[Any, Any] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    number: int = 0
    reruns: list[Rerun | None] | None = None
    between_targets: dict[Any, Any] = field(default_factory=dict)
