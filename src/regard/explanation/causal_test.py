"""The causal test: is a map better than chance on this input? What was found, its sentence, and how it is found when asked for.

The k units that score highest are taken away; the target should fall farther than it does without k units drawn by chance
(formulas.md section 12). It is a test of this map on this input, not of the method, and it shares removal's weakness: what is
left is not what the model was trained on.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regard.errors import Misuse, nearest
from regard.explanation.counts import quantity
from regard.explanation.files import as_json
from regard.explanation.loading import check, of_file
from regard.explanation.percents import percent

LEVEL = 0.05
"""A map is better than chance where p is at most this."""
SECONDS = 10.0
"""As long as a page may take to test maps without having been asked to."""
LEAST = 8
"""The fewest units that can be tested: of fewer there are not 50 choices."""
CHOICES = 50
"""The least number of choices of k units among all."""
MOST = 100_000
"""Random choices of one test."""
FEW = "too few tokens to test"
UNITS = ("word", "token")


@dataclass(frozen=True)
class HowTested:
    """How to test: the share of units that is taken away, how many random choices it is held against, and of what."""

    share: float = 0.1
    random: int = 49
    sufficiency: bool = False
    stream: str | None = None
    unit: str | None = None
    seed: int = 0

    @classmethod
    def checked(cls, **given: Any) -> HowTested:
        """Raises Misuse for values that no test can have, UnknownName for a unit that there is not."""
        asked = cls(**given)
        number = isinstance(asked.share, int | float) and not isinstance(asked.share, bool)
        if not number or not 0 < asked.share <= 0.5:
            raise Misuse(
                f"share is the part of the tokens that is taken away, above 0 and at most 0.5, not {asked.share!r}"
            )
        for name, least in (("random", math.ceil(1 / LEVEL) - 1), ("seed", 0)):
            value = getattr(asked, name)
            most = MOST if name == "random" else (1 << 63) - 1
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                why = f": with fewer no map can be better than chance at {LEVEL}" if name == "random" else ""
                upto = f"to {MOST}" if name == "random" else "on"
                raise Misuse(f"{name} is a whole number from {least} {upto}, not {value!r}{why}")
        if asked.unit is not None and asked.unit not in UNITS:
            raise nearest(str(asked.unit), UNITS, "unit of a causal test")
        return replace(asked, share=float(asked.share), sufficiency=bool(asked.sufficiency))


@dataclass(frozen=True)
class Outcome:
    """One run with units away, held against the same with random choices.

    y: the target there. change: how far it moved in the direction that the map claims (highest: y falls; lowest: y rises;
    kept: y itself). random: the same of each random choice; random_median: the median of these; as_far: how many of these
    are at least as large.
    p_value: (1 + as_far) / (random + 1). probability: of the explained class there, where there are classes.
    with_best: of the choices counted in as_far, those that hold the map's very first unit (lowest: its last one), too.
    """

    y: float
    change: float
    random_median: float
    as_far: int
    p_value: float
    probability: float | None = None
    random: tuple[float, ...] = field(default=(), repr=False)
    with_best: int = 0


@dataclass(frozen=True)
class CausalTest:
    """Whether the units that a map scores highest move the target farther than random ones. `print` it for its sentence.

    Attributes:
        stream, unit, units: whose tokens were tested ("patch", "word", "token", "region", "moment"), and how many there are.
        share, k: how many of them were taken away. random: the random choices; every: these are all other choices.
        value, probability: the target with all units there, and the probability of its class, where there are classes.
        highest: without the k highest. lowest: without the k lowest, of signed maps. kept: with only the k highest.
        number, label: what y is called ("logit"), and the class that it is of. removal: how units were taken away.
        seed: of the random choices, and of the order of equal scores. passes: forward and gradient passes that it took.
        sample: the sample's number in its batch. reason: why nothing could be tested; then there are no outcomes.
    """

    stream: str
    unit: str
    units: int
    share: float
    seed: int = 0
    k: int = 0
    random: int = 0
    every: bool = False
    value: float = math.nan
    probability: float | None = None
    highest: Outcome | None = None
    lowest: Outcome | None = None
    kept: Outcome | None = None
    number: str = "target"
    label: str = ""
    removal: str = ""
    passes: int = 0
    sample: int = 0
    reason: str = ""
    asked: HowTested = field(default_factory=HowTested, repr=False)

    @property
    def tested(self) -> bool:
        """Whether there was something to test."""
        return self.highest is not None

    @property
    def drop(self) -> float | None:
        """y less y without the k highest."""
        return None if self.highest is None else self.highest.change

    @property
    def random_median(self) -> float | None:
        """The median drop of the random choices."""
        return None if self.highest is None else self.highest.random_median

    @property
    def p_value(self) -> float | None:
        """How often chance alone does as well; None where nothing could be tested."""
        return None if self.highest is None else self.highest.p_value

    @property
    def keep(self) -> float | None:
        """y with only the k highest; None unless sufficiency was asked for."""
        return None if self.kept is None else self.kept.y

    @property
    def keep_p_value(self) -> float | None:
        """How often k random units keep as much."""
        return None if self.kept is None else self.kept.p_value

    @property
    def better_than_chance(self) -> bool | None:
        """Whether p is at most 0.05; None where nothing could be tested."""
        return None if self.p_value is None else self.p_value <= LEVEL

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        if self.highest is None:
            few = f" ({self.units_called}; at least {LEAST} are needed)" if self.reason == FEW else ""
            return f"{self.reason[:1].upper()}{self.reason[1:]}{few}."
        which = f"{self.k} " if self.k > 1 else ""
        start = f"Without the {which}highest of {self.units_called} the {self._called}"
        parts = [f"{start} {self._moved(self.highest)}; {self._chance(self.highest, 'fall', self._by_the_best())}."]
        if not self.better_than_chance:
            parts.append("The map fails: here it is not better than chance.")
        if self.lowest is not None:
            parts.append(
                f"Without the {which}lowest it {self._moved(self.lowest)}; {self._chance(self.lowest, 'rise')}."
            )
        if self.kept is not None:
            kept = f"With only the {which}highest it is {_number(self.kept.y)}{_percents(self.kept.probability)}"
            parts.append(f"{kept}; {self._chance(self.kept, 'keep')}.")
        return " ".join(parts)

    @property
    def verdict(self) -> str:
        """The same in one short sentence: what stands on top of a map. `sentence` has the numbers of the target."""
        if self.highest is None:
            return self.sentence
        best = f"the {self.k} highest" if self.k > 1 else "the highest"
        found = f"Without {best} of {self.units_called}, {self._falls(self.highest)}"
        one, several = _verbs(self.highest, "fall")
        choices = f"of the {self.random} other choices" if self.every else f"of {self.random} random choices"
        count = self.highest.as_far
        chance = (
            f"{count or 'none'} {choices} {several if count > 1 else one}" if count else f"none {choices} does that"
        )
        last = "" if self.better_than_chance else ": this map is no better than chance here"
        return f"{found}; {chance}{self._by_the_best()} (p = {self.highest.p_value:.2g}){last}."

    def _by_the_best(self) -> str:
        """Where chance does as well because the first unit alone does it: that all of its choices have that unit, too."""
        tested = self.highest
        if tested is None or self.better_than_chance or self.k < 2 or tested.change <= 0 or not tested.as_far:
            return ""
        if tested.with_best < tested.as_far:
            return ""
        who = {1: "this takes", 2: "both take"}.get(tested.as_far, f"all {tested.as_far} take")
        return f", and {who} away the highest {self.unit}, too"

    def _falls(self, outcome: Outcome) -> str:
        """From where to where: in per cent where that shows it, else in the target's own numbers."""
        if self.label and self.probability is not None and outcome.probability is not None:
            a, b = percent(self.probability), percent(outcome.probability)
            if a != b:
                return f"{self.label} {'rises' if outcome.y > self.value else 'falls'} from {a} to {b}"
        return f"the {self._called} {self._moved(outcome)}"

    def __str__(self) -> str:
        return self.sentence

    @property
    def units_called(self) -> str:
        """All units, in words: "64 patches"."""
        return quantity(self.units, self.unit)

    @property
    def _called(self) -> str:
        return f"{self.number} of {self.label}" if self.label else self.number

    def _moved(self, outcome: Outcome) -> str:
        """From where to where, with the probabilities."""
        a, b = _apart(self.value, outcome.y)
        if a == b:
            return f"stays at {a}{_percents(self.probability)}"
        verb = "rises" if outcome.y > self.value else "falls"
        return f"{verb} from {a} to {b}{_percents(self.probability, outcome.probability)}"

    def _chance(self, outcome: Outcome, claim: str, because: str = "") -> str:
        """How many random choices do as well, why they do, and p."""
        one, several = _verbs(outcome, claim)
        choices = f"of the {self.random} other choices" if self.every else f"of {self.random} random choices"
        found = f"{outcome.as_far or 'none'} {several if outcome.as_far > 1 else one}"
        return f"{choices} {found}{because} (p = {outcome.p_value:.2g})"

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        plain: dict[str, Any] = as_json(dataclasses.asdict(self))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CausalTest:
        """The inverse of `as_dict`."""
        made: dict[str, Any] = {"asked": of_file(HowTested, values["asked"])}
        for name in ("highest", "lowest", "kept"):
            check(name, values[name], dict[str, Any] | None)
            made[name] = None if values[name] is None else _outcome(values[name])
        if values["value"] is None or math.isnan(values["value"]):
            made["value"] = math.nan  # the same one, so that tests are equal
        return of_file(cls, values, **made)


def _outcome(values: Mapping[str, Any]) -> Outcome:
    return of_file(Outcome, values, random=tuple(map(float, values["random"])))


def _verbs(outcome: Outcome, claim: str) -> tuple[str, str]:
    """What one, and what several random choices do that are counted: at least as far as the map's."""
    if claim == "keep":
        return "keeps as much", "keep as much"
    other = "rise" if claim == "fall" else "fall"
    if outcome.change > 0:
        return f"{claim}s as far", f"{claim} as far"
    if outcome.change < 0:
        return f"{other}s no farther", f"{other} no farther"
    return f"stays or {claim}s", f"stay or {claim}"


def _number(value: float, digits: int = 3) -> str:
    """A value of the target with three figures, large ones without an exponent."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.{digits}g}"


def _apart(a: float, b: float) -> tuple[str, str]:
    """Two values with as many figures as tell them apart, six at most."""
    for digits in (3, 4, 5):
        if (x := _number(a, digits)) != (y := _number(b, digits)):
            return x, y
    return _number(a, 6), _number(b, 6)


def _percents(*values: float | None) -> str:
    """(87 % to 12 %), where there are probabilities."""
    known = [percent(v) for v in values if v is not None]
    if not known or len(known) != len(values):
        return ""
    return f" (still {known[0]})" if len(known) == 2 and known[0] == known[1] else f" ({' to '.join(known)})"


# -- when it is asked for ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ingredients:
    """What a map can be tested by once its model is given again: the inputs, and how the target was made.

    Attributes:
        inputs: as `regard.explain` took them: a tensor, a tuple of tensors, or a dict of tensors and plain values.
        target: the name of `Target`'s constructor, and its arguments. special: stream -> bool (batch, tokens), the tokens
            that the tokenizer added. prompts: text stream -> how many tokens of it were there before the model wrote.
    """

    inputs: Any = field(repr=False)
    target: tuple[str, dict[str, Any]]
    special: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    prompts: Mapping[str, int] = field(default_factory=dict)
    batch_axis: Any = 0

    def packed(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """For a file: what is no tensor; tensors go among the `tensors`."""
        given = self.inputs
        kind = "dict" if isinstance(given, Mapping) else "tuple" if isinstance(given, tuple) else "tensor"
        named = given if kind == "dict" else dict(enumerate(given if kind == "tuple" else [given]))
        plain: dict[str, Any] = {}
        for name, value in named.items():
            if isinstance(value, Tensor):
                tensors[f"causal/inputs/{name}"] = value.detach().cpu().clone().contiguous()
            plain[str(name)] = None if isinstance(value, Tensor) else [value]
        tensors |= {f"causal/special/{name}": t.cpu().clone().contiguous() for name, t in self.special.items()}
        own = {"target": packed_target(self.target), "prompts": dict(self.prompts)}
        return own | {"kind": kind, "inputs": plain, "special": [*self.special], "batch_axis": self.batch_axis}

    @classmethod
    def unpacked(cls, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Ingredients:
        """The inverse of `packed`."""
        values = {k: tensors[f"causal/inputs/{k}"] if v is None else v[0] for k, v in entry["inputs"].items()}
        inputs: Any = values if entry["kind"] == "dict" else tuple(values.values())
        return cls(
            inputs[0] if entry["kind"] == "tensor" else inputs,
            target_of(entry["target"]),
            {name: tensors[f"causal/special/{name}"] for name in entry["special"]},
            {str(k): int(n) for k, n in entry["prompts"].items()},
            entry["batch_axis"],
        )


def packed_target(target: tuple[str, dict[str, Any]]) -> list[Any]:
    """How a target was made, for a file."""
    return [target[0], as_json(target[1])]


def target_of(entry: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """The inverse of `packed_target`."""
    kind, given = entry
    return str(kind), {k: torch.tensor(v) if isinstance(v, list) else v for k, v in given.items()}


class UnitTokens(NamedTuple):
    """What of one sample can be taken away: whose tokens, what a unit is called, how many tokens the stream has, and the tokens
    of each unit."""

    stream: str
    unit: str
    length: int
    tokens: list[list[int]]


FindUnits = Callable[[Any, HowTested, Sequence[int]], list[UnitTokens]]
"""(explanation, asked, samples) -> the units of each of the samples."""
Compute = Callable[[Any, HowTested, Sequence[int], float], list[CausalTest]]
"""(explanation, asked, samples, seconds) -> a test of each of the samples; Misuse where it would take more seconds."""


@dataclass(frozen=True)
class Again:
    """What tests on a model that is given again, and what unpickles a test so that it can."""

    on: Callable[[Any, Ingredients], Compute]
    restored: Callable[..., LateTest]


AGAIN: list[Again] = []
"""The room that runs models puts it here."""


@dataclass
class LateTest:
    """How an explanation is tested when that is asked for.

    Attributes:
        compute: what tests on the model that was explained; None after `load`. refused: why there is no test, or "".
        ingredients: what it takes to test on a model that is given again; lacking: why there is none.
        samples: which samples of the batch that was explained the explanation holds; None: all.
        skipped: why a page that would have shown a test has none. find: what finds the units; None after `load`.
    """

    compute: Compute | None = field(default=None, repr=False)
    refused: str = ""
    ingredients: Ingredients | None = field(default=None, repr=False)
    lacking: str = "it was saved before explanations could be tested"
    samples: tuple[int, ...] | None = None
    skipped: str = ""
    find: FindUnits | None = field(default=None, repr=False)

    def units(self, exp: Any, asked: HowTested) -> list[UnitTokens]:
        """The units of each sample that a test would take away. Raises Misuse where there can be no test."""
        if self.refused or self.find is None:
            raise Misuse(self.refused or "this explanation holds no model, which alone tells what can be taken away")
        return self.find(exp, asked, self._samples(exp))

    def _samples(self, exp: Any) -> Sequence[int]:
        """Which samples of the batch that was explained the explanation holds."""
        return range(len(exp.receipt.target_value)) if self.samples is None else self.samples

    def tests(self, exp: Any, asked: HowTested, model: Any = None, seconds: float = math.inf) -> list[CausalTest]:
        """One test a sample. Raises Misuse where there can be none, or it takes longer than so many seconds."""
        if self.refused:
            raise Misuse(self.refused)
        compute = self.compute if model is None else self._on(model)
        if compute is None:
            raise Misuse(
                "this explanation was saved or pickled without its model, and a test runs the model; give it: test(model=...)"
            )
        return compute(exp, asked, self._samples(exp), seconds)

    def _on(self, model: Any) -> Compute:
        """What tests on a model that is given: a module, or a reader of one."""
        if self.ingredients is None:
            raise Misuse(f"this explanation cannot be tested on a model that is given: {self.lacking}; explain again")
        if not AGAIN:
            raise Misuse("explanations are read with regard.Explanation where they are to be tested")
        return AGAIN[0].on(model, self.ingredients)

    def __reduce__(self) -> tuple[Any, ...]:
        rest = (self.refused, self.ingredients, self.lacking, self.samples, self.skipped)
        return (AGAIN[0].restored, rest) if AGAIN else (LateTest, (None, *rest))

    def __deepcopy__(self, memo: Any) -> LateTest:
        return replace(self)

    @property
    def possible(self) -> bool:
        """Whether there is, or was, a model to test on."""
        return self.compute is not None or self.ingredients is not None

    def of_sample(self, i: int) -> LateTest:
        """The test of one sample alone."""
        return replace(self, samples=(i if self.samples is None else self.samples[i],))

    @property
    def made(self) -> list[Any] | None:
        """For a file: how the target was made, which others on the same inputs share all else with."""
        return None if self.ingredients is None else packed_target(self.ingredients.target)

    def of_target(self, made: Sequence[Any] | None) -> LateTest:
        """The same of another target on the same inputs."""
        ingredients = (
            None if made is None or self.ingredients is None else replace(self.ingredients, target=target_of(made))
        )
        return replace(self, ingredients=ingredients)

    def packed(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """For a file: what is no tensor; the inputs go among the tensors."""
        ingredients = None if self.ingredients is None else self.ingredients.packed(tensors)
        return {"refused": self.refused, "lacking": self.lacking, "samples": self.samples, "ingredients": ingredients}

    @classmethod
    def unpacked(cls, entry: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> LateTest:
        """The inverse of `packed`."""
        if entry is None:
            return cls()
        samples = None if entry["samples"] is None else tuple(map(int, entry["samples"]))
        check("ingredients", entry["ingredients"], dict[str, Any] | None)
        ingredients = None if entry["ingredients"] is None else Ingredients.unpacked(entry["ingredients"], tensors)
        return cls(None, str(entry["refused"]), ingredients, str(entry["lacking"]), samples)


def shown_tested(explanations: Iterable[Any], test: bool | None = None) -> None:
    """Test what is to be shown: all (True), none (False), or as many as `SECONDS` suffice for (None); what is not tested says
    why."""
    end = time.perf_counter() + (math.inf if test else SECONDS)
    for exp in explanations if test is not False else ():
        exp.test_unasked(max(0.0, end - time.perf_counter()))


__all__ = [
    "AGAIN",
    "FEW",
    "LEAST",
    "LEVEL",
    "CausalTest",
    "HowTested",
    "Ingredients",
    "LateTest",
    "Outcome",
    "UnitTokens",
    "shown_tested",
]
