"""The causal test, run: which units there are, which are taken away, and what the target is without them.

One `Case` is one target of one call of `explain`. The random choices are drawn from the seed and the sample's own input, so
that all methods and targets on it share them, and in one call of `explain` also their runs.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard.api.shared_run import Settings
from regard.api.target_rows import read_rows
from regard.attribution.attention.path_rules import Preset, relevance
from regard.attribution.context import Context
from regard.attribution.integral.baseline_values import reference
from regard.attribution.random import fingerprint
from regard.attribution.removal.chance import moved, ranked, size_of
from regard.attribution.removal.runs import LEFT_OUT, Taken, Without, content, drawn_from, reached, subsets_of_size
from regard.attribution.rerun import Rerun
from regard.baseline import Baseline
from regard.errors import Misuse, NoAttention, RegardError, TargetError, TrailLost, nearest
from regard.explanation.causal_test import FEW, LEAST, CausalTest, HowTested, Outcome, UnitTokens
from regard.explanation.explanation import Explanation
from regard.explanation.names import class_name
from regard.explanation.raw_inputs import Picture, Reading, Sound, Text
from regard.recording import Recording, Stream, record
from regard.recording.ambient import Surroundings, as_the_user, our_own
from regard.recording.inputs import Inputs
from regard.recording.random_state import rng_kept
from regard.recording.refusals import refuse
from regard.target import Target, Value

ALL_BELOW = 200
"""Where there are at most so many choices, all of them are run."""


Found = tuple[Tensor, Tensor | None]
"""A target on some choices, and the probability of its class there, where it has one."""


@dataclass(eq=False)
class Call:
    """What all targets of one call of `explain` share.

    cases: by their numbers, as long as an explanation needs them. drawn: what these are on random choices. leaks: of a prompt,
    whether units that are left out of attention reach what was written. dear: for how many seconds, and with what words, a test
    was refused as too dear; as long as nothing is drawn, it would cost as much for every target.
    """

    cases: WeakValueDictionary[int, Case] = field(default_factory=WeakValueDictionary)
    drawn: dict[Any, dict[int, Found]] = field(default_factory=dict)
    leaks: dict[str, Bool[Tensor, " sample"]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    dear: dict[HowTested, tuple[float, Misuse]] = field(default_factory=dict)

    def number_of(self, wish: Target) -> int:
        """The number of a target; a new one, which none before it had, where it is not known."""
        for number, case in self.cases.items():
            if case.wish is wish:
                return number
        return next(self.numbers)


@dataclass(eq=False)
class Case:
    """One target on one input, and how it is run again.

    Attributes:
        target: its classes fixed; wish: as it was asked for. number: among the targets of its call. ground: what can be taken
            away, found once.
    """

    model: nn.Module
    given: Inputs
    target: Target
    reading: Reading
    how: Settings
    around: Surroundings
    call: Call
    number: int
    wish: Target
    rng: Any = None
    classes: Tensor | None = None
    rivals: Tensor | None = None
    ground: Ground | None = None

    def tests(self, exp: Explanation, asked: HowTested, samples: Sequence[int], seconds: float) -> list[CausalTest]:
        """A test of each of some samples; see `causal_test.Compute`."""
        takes, refused = self.call.dear.get(asked, (0.0, None))
        if refused is not None and seconds < takes and not any(self.call.drawn.values()):
            raise refused
        with self.running():
            started = time.perf_counter()
            recording = self.recorded()
            each = (time.perf_counter() - started) / recording.batch
            runs = [Trial(self, recording, exp, asked, row, sample) for row, sample in enumerate(samples)]
            takes = each * sum(run.left() for run in runs)
            if dear := _too_dear(recording, takes, seconds):
                self.call.dear[asked] = dear
                raise dear[1]
            return [run.test() for run in runs]

    def units(self, exp: Explanation, asked: HowTested, samples: Sequence[int]) -> list[UnitTokens]:
        """The units that a test of each of some samples would take away."""
        with self.running():
            recording = self.recorded()
            return [Trial(self, recording, exp, asked, row, sample).tokens for row, sample in enumerate(samples)]

    @property
    def others(self) -> list[Case]:
        """The other targets of the call."""
        return [c for c in self.call.cases.values() if c is not self]

    @contextmanager
    def running(self) -> Iterator[None]:
        """What a run of the user's model is surrounded with."""
        refuse(self.model, self.how.training)
        with rng_kept(self.model, self.rng), self.around.again(), our_own():
            yield

    def recorded(self) -> Recording:
        """One watched run; where attention cannot be followed, watched for its inputs alone."""
        how: dict[str, Any] = {"memory_budget": self.how.memory_budget, "checked": True, "streams": self.how.streams}
        try:
            return record(self.model, self.given, **how)
        except (NoAttention, TrailLost):
            return record(self.model, self.given, maps=False, **how)

    def again(self, recording: Recording) -> Rerun:
        """The recorded run, to be repeated."""
        rng = torch.get_rng_state() if self.rng is None else self.rng[0]
        rest = (self.classes, self.rivals, self.how.streams, rng)
        return Rerun(self.model, recording.given, self.target, recording.batch, *rest, in_place=not recording.whole)

    def likelihood(self, recording: Recording) -> Rerun | None:
        """The same of the probability of the explained class; None where it has none."""
        if self.target.likelihood is None or self.classes is None:
            return None
        with as_the_user():
            target = self.target.likelihood(self.classes).on(self.model, recording.output)
        again = replace(self.again(recording), target=target, rivals=None)
        try:
            again.y(recording.output)
        except TargetError:  # a regression's
            return None
        return again

    def grounded(self, recording: Recording) -> Ground:
        """What can be taken away; found once."""
        if self.ground is None:
            self.ground = _ground(self, recording)
        return self.ground


@dataclass(frozen=True)
class Ground:
    """The tokens that can be taken away, bool (batch, row), and how many passes it took to find them; `leaks`: whether tokens
    of a stream reach the target when they are left out of attention."""

    can: Bool[Tensor, "batch row"]
    passes: int
    leaks: dict[str, Bool[Tensor, " sample"]] = field(default_factory=dict)


def _ground(case: Case, recording: Recording) -> Ground:
    """Content tokens that the target can read; of a text that a model wrote, those of the prompt."""
    if case.reading.prompts:
        can = content(recording, case.reading, recording.zeros())
        for name, start in case.reading.prompts.items():
            first = recording.stream(name).first
            can[:, first + max(0, start - 1) : first + recording.stream(name).count] = False  # the last one is read
        return Ground(can, 1, case.call.leaks)
    if not recording.whole:
        return Ground(content(recording, case.reading, recording.zeros()), 1)
    read, reach = _read(case, recording)
    return Ground(content(recording, case.reading, read) & reach, 2)


def _read(case: Case, recording: Recording) -> tuple[Tensor, Tensor]:
    """The weights of the rows that the target reads, and which tokens these see: any path of attention that leads to them."""
    again = case.again(recording)
    with torch.enable_grad(), as_the_user():
        y = again.y(recording.output)
    gradients = recording.gradients(y, keep=True, inputs=False)
    found, _ = read_rows(recording, y, gradients, None, again)
    seen = relevance(recording, lambda _rule: gradients, found, [Preset("mean", "residual_sum")])[0]
    read = sum(found.values(), recording.zeros())
    return read, recording.settled(seen + read) > 0


class RandomChoices(NamedTuple):
    """Random choices: the target without each of them, and their units."""

    ys: Tensor
    units: Taken


@dataclass
class Trial:
    """The test of one sample of one explanation, in one recording. row: its row in the explanation; sample: in the run."""

    case: Case
    recording: Recording
    exp: Explanation
    asked: HowTested
    row: int
    sample: int

    def __post_init__(self) -> None:
        self.ground = self.case.grounded(self.recording)
        self.stream = self._stream()
        self.unit, self.groups = self._units_of(self.stream)
        self.n, self.k = len(self.groups), size_of(len(self.groups), self.asked.share)

    @property
    def tokens(self) -> UnitTokens:
        """Which tokens each unit is made of."""
        return UnitTokens(self.stream.name, self.unit, self.stream.count, self.groups)

    def left(self) -> int:
        """How many runs it takes still."""
        if self.n < LEAST:
            return 0
        known = self.case.number in self._known(False)
        return 1 + self.exp.signed + (1 + (0 if known else self.asked.random)) * (1 + self.asked.sufficiency)

    def test(self) -> CausalTest:
        """Take the highest away, and as many by chance."""
        about: dict[str, Any] = {"stream": self.stream.name, "unit": self.unit, "units": self.n, "sample": self.row}
        about |= {"share": self.asked.share, "seed": self.asked.seed, "asked": self.asked}
        if self.n < LEAST:
            return CausalTest(**about, reason=FEW)
        choices, every = self._choices()
        found = self._outcomes(choices, every)
        tested = sum(outcome is not None for outcome in found.values())
        runs = len(choices) * (1 + self.asked.sufficiency) + (0 if every else tested)
        y, p = self._whole
        number, label = _called(self.exp, self.row)
        return CausalTest(
            **about,
            **found,  # type: ignore[arg-type]
            k=self.k,
            random=len(choices) - every,
            every=every,
            value=float(y),
            probability=None if p is None else float(p),
            number=number,
            label=label,
            removal=self._removal[0],
            passes=runs + self.ground.passes + 2 * self.recording.whole,
        )

    def _outcomes(self, choices: Taken, every: bool) -> dict[str, Outcome | None]:
        """The highest away; of a signed map the lowest away; where that was asked for, the highest alone."""
        order = ranked(self._scores(), drawn_from(self._seed, "order of equal scores"))
        high, low = (self._taken(some) for some in (order[: self.k], order[-self.k :]))
        own, random = self._runs(torch.cat([high, low]) if self.exp.signed else high, choices, every, kept=False)
        found = {"highest": self._outcome(own, 0, random[0], +1, order[0])}
        found |= {"lowest": self._outcome(own, 1, random[1], -1, order[-1])} if self.exp.signed else {}
        if self.asked.sufficiency:
            own, random = self._runs(~high, ~choices, every, kept=True)
            found["kept"] = self._outcome(own, 0, RandomChoices(random[0].ys, ~random[0].units), 0, order[0])
        return {"highest": found["highest"], "lowest": found.get("lowest"), "kept": found.get("kept")}

    # -- units ------------------------------------------------------------------------------------------------------

    def _stream(self) -> Stream:
        """The stream whose tokens are tested: the one that was asked for; else the picture, or the longest text or input.

        Of what a model wrote it is the prompt; the picture where that has too few words.
        """
        of_input = {s.name: s for s in self.recording.streams if s.of_input and s.name in self.exp.scores}
        if self.asked.stream is not None:
            if self.asked.stream not in of_input:
                raise nearest(self.asked.stream, of_input, "stream of an input")
            return of_input[self.asked.stream]
        pictures = [s for n, s in of_input.items() if n in self.exp.grid or self._regions(n)]
        texts = [s for n, s in of_input.items() if isinstance(self._raw(n), Text)]
        if self.case.reading.prompts and texts:
            prompt = max(texts, key=self._most)
            few = bool(pictures) and len(self._units_of(prompt)[1]) < LEAST
            return max(pictures, key=self._most) if few else prompt
        return max(pictures[:1] or texts or [*of_input.values()], key=self._most)

    def _most(self, stream: Stream) -> int:
        """How many of a stream's tokens can be taken away."""
        return int(self.ground.can[self._sample_of(stream), stream.rows].sum())

    def _raw(self, name: str) -> Any:
        raws = self.exp.inputs.get(name, ())
        return raws[self.row] if self.row < len(raws) else None

    def _regions(self, name: str) -> bool:
        raw = self._raw(name)
        return isinstance(raw, Picture) and bool(raw.regions)

    @property
    def _at(self) -> int:
        return self._sample_of(self.stream)

    def _sample_of(self, stream: Stream) -> int:
        """The sample in which a stream's tokens stand: an input of one sample is every sample's."""
        tensors = self.recording.given.tensors
        return 0 if stream.name in tensors and self.recording.given.batch(stream.name) == 1 else self.sample

    def _units_of(self, stream: Stream) -> tuple[str, list[list[int]]]:
        """What a unit of a stream is called, and the tokens of each."""
        can = self.ground.can[self._sample_of(stream), stream.rows].nonzero()[:, 0].tolist()
        raw = self._raw(stream.name)
        by_word = isinstance(raw, Text) and bool(raw.words) and self.asked.unit != "token"
        if self.asked.unit == "word" and not by_word:
            raise Misuse(
                f"no words are known of stream {stream.name!r}; test its tokens, or explain a raw text with a reader"
            )
        if isinstance(raw, Text) and by_word:
            groups: dict[Any, list[int]] = {}
            for i in can:
                word = raw.word_of[i] if i < len(raw.word_of) else None
                groups.setdefault((i,) if word is None else word, []).append(i)
            return "word", [*groups.values()]
        kind = "moment" if isinstance(raw, Sound) else "patch" if stream.name in self.exp.grid else "token"
        return "region" if self._regions(stream.name) else kind, [[i] for i in can]

    def _scores(self) -> Float[Tensor, " unit"]:
        """One score a unit: the sum over its tokens."""
        batch = self.exp.scores[self.stream.name]
        if batch.shape[1] != self.stream.count:
            raise Misuse(
                f"this map has {batch.shape[1]} cells where the model has {self.stream.count} tokens, which alone can be taken "
                "away; test a map of another site or method"
            )
        scores = batch[min(self.row, len(batch) - 1)].detach().double().cpu()
        return torch.stack([scores[tokens].sum() for tokens in self.groups])

    # -- choices ----------------------------------------------------------------------------------------------------

    @property
    def _seed(self) -> int:
        """Of this test of this input: neither its batch nor the method or target has a part in it."""
        code = fingerprint(self.recording, self.sample)
        return drawn_from(self.asked.seed, f"causal test of {self.stream.name}, input {code}").initial_seed()

    def _taken(self, units: Tensor) -> Bool[Tensor, "1 unit"]:
        return torch.zeros(1, self.n, dtype=torch.bool).index_fill_(1, units, True)

    def _choices(self) -> tuple[Taken, bool]:
        """The random choices, and whether these are all that there are."""
        every = math.comb(self.n, self.k) <= ALL_BELOW
        return subsets_of_size(self.n, self.k, self.asked.random, self._seed, all_below=ALL_BELOW), every

    # -- runs -------------------------------------------------------------------------------------------------------

    @cached_property
    def _whole(self) -> tuple[Tensor, Tensor | None]:
        """The target, and the probability of its class, with all units there."""
        again, likely = self.case.again(self.recording), self.case.likelihood(self.recording)
        y, p = (None if a is None else a.y(self.recording.output).detach()[self.sample] for a in (again, likely))
        assert y is not None
        return y, p

    @cached_property
    def _removal(self) -> tuple[str, dict[str, Tensor] | None]:
        """How units are taken away: left out of attention, or filled where they would reach the target all the same."""
        leaks, name = self.ground.leaks, self.stream.name
        if name not in leaks:
            leaks[name] = self._leaks()
        return self._filled() if bool(leaks[name][self._at]) else (LEFT_OUT, None)

    def _leaks(self) -> Bool[Tensor, " sample"]:
        """Whether tokens of the stream that are left out of attention reach the target all the same."""
        if not self.recording.whole:
            return torch.ones(self.recording.batch, dtype=torch.bool)
        can = torch.zeros_like(self.ground.can)
        can[:, self.stream.rows] = self.ground.can[:, self.stream.rows]
        return reached(self.case.again(self.recording), self.recording, torch.where(can, can.cumsum(1) - 1, -1))

    def _filled(self) -> tuple[str, dict[str, Tensor]]:
        """The mean of a picture, or of features; of ids the zero embedding."""
        name = self.stream.name
        floats = self.recording.given.tensors[name].is_floating_point()
        baseline, how = (
            (Baseline.mean(), "filled with their mean") if floats else (Baseline.zero(), "given no embedding")
        )
        return how, reference(self._context, {name: baseline})

    @property
    def _context(self) -> Context:
        """What a baseline's values are made of."""
        no_gradients: Any = None
        again, reading = self.case.again(self.recording), self.case.reading
        return Context(self.recording, no_gradients, {}, again=again, reading=reading)

    @property
    def _unit_rows(self) -> Tensor:
        """(sample, row) -> the unit's number, -1 for none."""
        out = torch.full((self.recording.batch, self.recording.rows), -1)
        for unit, tokens in enumerate(self.groups):
            out[self._at, [self.stream.first + i for i in tokens]] = unit
        return out

    def _run(self, taken: Taken, cases: Sequence[Case]) -> list[Found]:
        """Each case's target, and the probability of its class, without some units: the runs are shared."""
        again, (_, x0) = self.case.again(self.recording), self._removal
        without = Without(again, self.recording, self.sample, self._unit_rows, x0)
        targets = [c.again(self.recording) for c in cases]
        likely = [c.likelihood(self.recording) for c in cases]
        ys = without.ys(taken, [*targets, *(p for p in likely if p is not None)])
        ps = iter(ys[len(cases) :])
        return [(y, None if p is None else next(ps)) for y, p in zip(ys, likely, strict=False)]

    def _known(self, kept: bool) -> dict[int, Found]:
        """What is known of the random choices of this input, target by target."""
        units = tuple(map(tuple, self.groups))
        key = (self.sample, self.stream.name, units, self.k, self.asked.random, self.asked.seed, kept)
        known: dict[int, Found] = self.case.call.drawn.setdefault(key, {})
        return known

    def _runs(self, own: Taken, choices: Taken, every: bool, kept: bool) -> tuple[Found, list[RandomChoices]]:
        """The target on the map's own sets, and for each of these the random choices that it is held against.

        Random choices are run once for all targets of a call of `explain` that have these units.
        """
        known, mine = self._known(kept), self.case.number
        if mine not in known:
            others = self.case.others if len(self.case.others) <= self.asked.random else []
            cases = [self.case, *(c for c in others if self._alike(c))]
            found = self._run(choices, cases)
            known |= {c.number: f for c, f in zip(cases, found, strict=True)}
        ys, ps = known[mine]
        if not every:
            return self._run(own, [self.case])[0], [RandomChoices(ys, choices)] * len(own)
        same = (own[:, None] == choices).all(2)  # each is one of them
        at = same.int().argmax(1)
        return (ys[at], None if ps is None else ps[at]), [RandomChoices(ys[~s], choices[~s]) for s in same]

    def _alike(self, other: Case) -> bool:
        """Whether another target has the same units."""
        try:
            return torch.equal(other.grounded(self.recording).can, self.ground.can)
        except RegardError:  # it has none
            return False

    def _outcome(self, own: Found, i: int, random: RandomChoices, sign: int, best: Tensor) -> Outcome:
        """One of the map's own runs against the random ones. sign: +1 y should fall, -1 rise, 0 stay high; best: the unit that
        the map puts first there."""
        y0, y, p = float(self._whole[0]), float(own[0][i]), None if own[1] is None else float(own[1][i])
        change, changes = moved(y0, y, random.ys, sign)
        rounding = 16 * torch.finfo(self._whole[0].dtype).eps * max(1.0, abs(y0))
        far = (changes >= change - rounding).cpu()
        as_far, with_best = int(far.sum()), int(random.units[far, best].sum())
        p_value = (1 + as_far) / (1 + len(changes))
        drawn = tuple(changes.sort().values.tolist())
        return Outcome(y, change, float(changes.quantile(0.5)), as_far, p_value, p, drawn, with_best)


def fixed(case: Case) -> tuple[Case, Value, Recording]:
    """A case with the classes that its target means on its input, what the target is there, and the run that told."""
    with case.running():
        recording = case.recorded()
        with as_the_user():
            value = case.target.on(case.model, recording.output).value(recording.output, recording.inputs)
    target = case.target if value.explained is None else case.target.at(value.explained, value.rival)
    return replace(case, target=target, classes=value.explained, rivals=value.rival), value, recording


def _called(exp: Explanation, row: int) -> tuple[str, str]:
    """What the target is called, and the class that it is of; of what was written, the token."""
    if written := re.match(r"(logit|log-probability) of (.+) \(token \d+, number", exp.target, re.S):
        return written[1], written[2]
    found = re.search(r"log-probability|probability|contrast|logit|score|similarity", exp.target)
    token = "logit" if exp.target.startswith("next token") else "target"
    return found[0] if found else token, class_name(exp, row)


def _too_dear(recording: Recording, takes: float, seconds: float) -> tuple[float, Misuse] | None:
    """What a test costs that nobody asked for, and the refusal, where that is too long, or too much memory: A of all calls,
    with its graph."""
    needs = 24 * sum(math.prod(c.shape) for c in recording.calls) // recording.batch
    if takes > seconds:
        said, cost = _spoken(takes), takes
    elif math.isfinite(seconds) and needs > recording.budget:
        said, cost = f"{needs / 1e9:.1f} GB", math.inf
    else:
        return None
    return cost, Misuse(f"it would take about {said}; ask for it with test(), on the command line with --test")


def _spoken(seconds: float) -> str:
    """A time in words."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


__all__ = ["Call", "Case", "Trial", "fixed"]
