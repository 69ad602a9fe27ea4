"""Trust: how likely a map's top token is the right one, as a fit to known answers says; and how it is found when asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from regard.errors import Misuse
from regard.explanation.export import defined
from regard.explanation.files import as_json
from regard.explanation.percents import percent

LIMITS = (
    "it was fitted to small models with known answers, and to right answers alone; on two of eight unseen models it told right "
    "maps from wrong ones poorly"
)


@dataclass(frozen=True)
class Trust:
    """How likely the top token of a map is the right one. `print` it for its sentence.

    Attributes:
        probability: that it is. low, high: the lowest and the highest that the fit says if any one of its models is left out.
        observed: (from, to, share): of maps of models that were left out of the fit, and were given from so much to so much,
            what share was right.
        stream, token: the top token, of those that a causal test may take away.
        evidence: what it was judged by, by name; None where there was no such number.
        notes: where the case lies outside of what the fit has seen. sample: its number in the batch.
    """

    probability: float
    low: float
    high: float
    observed: tuple[float, float, float]
    stream: str
    token: int
    evidence: Mapping[str, float | None] = field(repr=False)
    notes: tuple[str, ...] = ()
    sample: int = 0

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        said = f"The top token is the right one with a probability of {percent(self.probability)}"
        return f"{said} (between {percent(self.low)} and {percent(self.high)}, whichever model the fit leaves out)."

    @property
    def limits(self) -> str:
        """How far to believe it, and what it cannot say."""
        low, high, right = self.observed
        held = f"of maps of unseen models that were given {100 * low:.0f} to {100 * high:.0f} %, {100 * right:.0f} % were right"
        return "; ".join([held, LIMITS, *self.notes])

    def __str__(self) -> str:
        return f"{self.sentence} {self.limits[:1].upper()}{self.limits[1:]}."

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        plain: dict[str, Any] = defined(as_json(dataclasses.asdict(self)))
        return plain


Judge = Callable[[Any, Sequence[int]], list[Trust]]
"""(explanation, samples of the batch that it holds) -> the trust in each of them."""


@dataclass
class LateTrust:
    """How an explanation's trust is found when that is asked for; it needs the model.

    Attributes:
        judge: what finds it; None after `load` and in a pickle. found: what was found. samples: those that it is of; None: all.
    """

    judge: Judge | None = field(default=None, repr=False)
    found: list[Trust] = field(default_factory=list)
    samples: tuple[int, ...] | None = None

    def of(self, exp: Any) -> list[Trust]:
        """One for each sample. Raises Misuse where it cannot be found."""
        if not self.found:
            if self.judge is None:
                raise Misuse(
                    "trust asks the model, which this explanation comes without (it was loaded, say); explain again"
                )
            samples = range(len(exp.receipt.target_value)) if self.samples is None else self.samples
            self.found = self.judge(exp, samples)
        return self.found

    def of_sample(self, i: int) -> LateTrust:
        """That of one sample alone."""
        found = [dataclasses.replace(t, sample=0) for t in self.found if t.sample == i]
        return LateTrust(self.judge, found, (i if self.samples is None else self.samples[i],))

    def __reduce__(self) -> tuple[Any, ...]:
        return (LateTrust, (None, self.found, self.samples))

    def __deepcopy__(self, memo: Any) -> LateTrust:
        return dataclasses.replace(self)


__all__ = ["LIMITS", "LateTrust", "Trust"]
