"""`doctor`: which explainer to trust on this model, from its own data and without labels, planned to a budget of time.

The costs of one example are measured first, then methods and examples are bought. Two runs of `evaluate` follow, each with its
own
store: checks of sanity and noise on some examples, and the causal ranks on as many as the time allows. Both stop on time; the
same call again goes on with what is left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from regard.api.causal_rank import RankedInput
from regard.api.explain import explain_reading
from regard.errors import Failure, InputError, Misuse, RegardError
from regard.evaluation.budget import CHECKS as SHARE
from regard.evaluation.budget import SLACK, Bought, Cost, Costs, bought, counts
from regard.evaluation.data.drawn import Drawn
from regard.evaluation.diagnosis import ASKED, CHECKS, CONTROL, Diagnosis, Spent, agreements, standings
from regard.evaluation.evaluate import Progress, data_of, evaluate, methods_of, reader_of
from regard.evaluation.examples import Example
from regard.evaluation.protocols.protocol import MethodChoice, Protocol, Row, said
from regard.evaluation.runner import Choice
from regard.evaluation.store.results import Results
from regard.explanation.causal_test import HowTested
from regard.explanation.writing import write_atomically
from regard.models.places import is_name
from regard.recording.proof.verify import verify
from regard.target import scores

METHODS = (
    "gae", "raw_attention", "attnlrp", "input_x_gradient", "rollout", "gradient", "cp_lrp", "revised_ig",
    "transition_attention", "gim", "attention_grad_cam", "bti_token", "legrad", "grad_cam", "integrated_gradients",
    "occlusion", "lime",
)  # fmt: skip
"""What is asked where no methods are named, in the order in which a budget buys them; the control comes before them."""
PASSES = {
    "occlusion": 200.0,
    "lime": 1024.0,
    "shap_kernel": 2048.0,
    "attention_mask": 300.0,
    "integrated_gradients": 96.0,
}
"""How many forward passes a map takes by methods that take many, to see before the first one whether they can be paid."""
MOST = 2000
"""The most examples that are asked, whatever the time."""
LOOKED = 5
"""So many examples are read to find one to measure on: the longest."""
MAPS_OF_CHECKS = 4
"""What the checks of one example cost, in maps: the map itself, with noise, with a new head, and with all weights new."""
PLAN, SPENT, FORMAT = "plan.json", "spent.json", "regard-doctor-1"
STAGES: dict[str, tuple[Protocol, ...]] = {"checks": CHECKS, "ranks": ASKED}
Told = Callable[[str, Progress], None]
Clock = Callable[[], float]


class _TimeIsUp(Exception):
    """A run is left, at the end of an example."""


def doctor(
    model: Any,
    data: Any = None,
    methods: Sequence[Choice] | None = None,
    minutes: float = 10.0,
    out: str | os.PathLike[str] = "regard-doctor",
    *,
    examples: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    memory_budget: int | float | str | None = None,
    told: Told | None = None,
    clock: Clock = time.monotonic,
    **options: Any,
) -> Diagnosis:
    """Which explainer to trust on this model, from its own data and no labels. Needs `regard[eval,store]`.

    A method is better than chance where the target falls farther without the tenth of an input that its map puts first than
    without as much by chance, on the mean over examples. What its maps rest on is tested beside: weights drawn anew, noise on
    the input, sums against what they claim, agreement with others.

    Args:
        model: a name or folder as for `regard.load`, a Reader, or a module (then `data` are examples).
        data: as for `regard.evaluate`; classes are not looked at. None: the zoo's own, for a model of the zoo.
        methods: names, or (name, options), all of which are asked; None: as many of a list as the time buys. The control,
            random maps, is always among them.
        minutes: the time for all, from this call on; an earlier run in `out` counts with what it took.
        out: a folder, in which the same call goes on where it ended, and with more minutes on from there.
        examples: at most so many, drawn from the data; None: as many as the time buys.
        seed: of the examples and of methods that draw. threads: of torch; None: as many as it has now.
        memory_budget: as in `regard.explain`.
        told: is called with the stage ("checks", "ranks") and its `Progress`.
        clock: what tells seconds.
        options: of the data, as in `regard.evaluate`.

    Returns a `Diagnosis`.

    Raises Misuse where the data hold fewer than two examples, or the time does not buy two; InputError for a folder that holds
    something else; Failure where no example can be read or explained.
    """
    started = clock()
    _check(minutes, examples)
    home = _folder(out)
    choices = methods_of([CONTROL, *(METHODS if methods is None else [m for m in methods if m != CONTROL])])
    reader = reader_of(model)
    source = Drawn(of=data_of(data, model, options), seed=seed)
    available = min(len(source), MOST if examples is None else examples)
    if available < 2:
        raise Misuse(
            f"{source.source} holds {len(source)} example: the doctor needs two at the least, better 50 or more"
        )
    name = str(model) if is_name(model) else type(reader.model).__name__
    asked = {
        "model": name, "data": source.source, "methods": [c.title for c in choices], "fixed": methods is not None,
        "seed": seed, "threads": threads or torch.get_num_threads(), "available": available,
    }  # fmt: skip
    before = torch.get_num_threads()
    torch.set_num_threads(asked["threads"] if threads else before)
    try:
        plan = _Plan.of(home, asked) or _Plan.made(reader, source, choices, asked, minutes, seed, clock, started, home)
        visit = _Visit(reader, source, choices, plan, home, seed, told, clock, started, 60 * minutes)
        visit.memory_budget = memory_budget
        visit.run()
        return visit.diagnosis(minutes)
    finally:
        torch.set_num_threads(before)


def _check(minutes: float, examples: int | None) -> None:
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < math.inf:
        raise Misuse(f"minutes is how long the doctor may take, above 0, not {minutes!r}")
    if examples is not None and (isinstance(examples, bool) or not isinstance(examples, int) or examples < 2):
        raise Misuse(f"examples is a whole number of at least 2, not {examples!r}")


def _folder(out: str | os.PathLike[str]) -> Path:
    if "://" in os.fspath(out):
        raise Misuse("the doctor's folder is on this machine: give a path")
    return Path(out).expanduser()


# -- the plan ----------------------------------------------------------------------------------------------------------


@dataclass
class _Plan:
    """What an earlier call began with, or this one begins with: it is kept beside the rows, so that the same call goes on.

    Attributes:
        asked: what the call said. costs: as they were measured. bought: what the first call's time bought. refused: method ->
            why this model cannot be explained by it. proof: what `verify` said.
    """

    asked: Mapping[str, Any]
    costs: Costs
    bought: Bought
    refused: Mapping[str, str]
    proof: tuple[str, bool | None]

    @classmethod
    def of(cls, home: Path, asked: Mapping[str, Any]) -> _Plan | None:
        """The plan that is there; None where there is none. Raises Misuse where another was asked for, InputError for a file
        that is none."""
        file = home / PLAN
        if not file.is_file():
            return None
        try:
            made = json.loads(file.read_text(encoding="utf-8"))
            if made["format"] != FORMAT:
                raise ValueError(f"format {made['format']!r}")
            costs = Costs(**made["costs"] | {"methods": {t: Cost(*c) for t, c in made["costs"]["methods"].items()}})
            what = Bought(**made["bought"] | {"methods": tuple(made["bought"]["methods"])})
            said, holds = made["proof"]
            found = cls(made["asked"], costs, what, made["refused"], (str(said), holds))
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise InputError(f"{file} is not the plan of regard doctor ({said_short(e)}); give another folder") from e
        for key, value in asked.items():
            if found.asked.get(key) != value:
                raise Misuse(
                    f"{home} holds a run with other {key.replace('fixed', 'methods')}: {_plain(found.asked.get(key))}, and now "
                    f"{_plain(value)}; ask as before to go on, or give another folder with out="
                )
        return found

    @classmethod
    def made(
        cls, reader: Any, source: Drawn, choices: Sequence[MethodChoice], asked: Mapping[str, Any], minutes: float, seed: int,
        clock: Clock, started: float, home: Path,
    ) -> _Plan:  # fmt: skip
        """Measure what an example costs, and buy. Raises Misuse where the time does not buy two examples."""
        example = _example(reader, source)
        proof = _proof(reader, example)
        seconds = 60 * minutes
        meter = _Meter(reader.model, example, seed, clock, seconds * SHARE, min(50, asked["available"]))
        costs, refused, dear = meter.measured(choices, asked["fixed"])
        costs = dataclasses.replace(costs, spent=clock() - started)
        what = bought(seconds, costs, asked["available"], asked["fixed"])
        what = dataclasses.replace(what, dear={**what.dear, **dear})
        if what.examples < 2:
            needs = costs.spent + 2 * costs.example(what.methods) + 2 * costs.check(what.methods)
            raise Misuse(
                f"{minutes:g} minutes do not buy two examples of this model: give {math.ceil(1.2 * needs / 6) / 10:g} minutes "
                "at least, or fewer methods"
            )
        made = cls(asked, costs, what, refused, proof)
        made.write(home)
        return made

    def write(self, home: Path) -> None:
        """Keep it."""
        home.mkdir(parents=True, exist_ok=True)
        write_atomically(home / PLAN, json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1).encode())


def said_short(e: BaseException) -> str:
    """An error's kind and first line."""
    return said(e)[:80]


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _example(reader: Any, source: Drawn) -> Example:
    """One to measure on: of the first that can be read the one with the most to read."""
    found: list[Example] = []
    why = ""
    for number in range(min(len(source), 50)):
        example = source.example(reader, number)
        why = why or example.error
        found += [] if example.error else [example]
        if len(found) == LOOKED:
            break
    if not found:
        raise Failure(f"no example of {source.source} could be read; the first failed with {why}")
    return max(found, key=lambda e: sum(v.numel() for v in e.reading.inputs.values()))


def _proof(reader: Any, example: Example) -> tuple[str, bool | None]:
    """What `verify` says of the recording on one example."""
    try:
        found = verify(reader.model, example.reading.inputs)
    except RegardError as e:
        return f"it could not be verified ({(str(e).splitlines() or [''])[0].rstrip('.')})", None
    return found.verdict, found.ok if found.claims else None


@dataclass
class _Meter:
    """What one example costs on this machine.

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
        forward, target = self._forward()
        self._forward()
        begun = self.clock()
        ranked = RankedInput.of(self.model, self.example.reading, target)
        run = self.clock() - begun
        self._map(choices[0], target)  # what the first call of all imports is no map's cost
        once, backward = 0.0, 0.0
        found: dict[str, Cost] = {}
        refused: dict[str, str] = {}
        dear: dict[str, float] = {}
        for choice in choices:
            guess = PASSES.get(choice.name, 0.0) * forward * (1 + MAPS_OF_CHECKS / 5)
            late = self.clock() - self.started > self.most and len(found) > 3
            if not fixed and (guess > self.most / 10 or late):
                dear[choice.title] = self.wanted * (guess or max(c.asked for c in found.values()))
                continue
            try:
                own, tested, whole = self._costs(choice, ranked, target, again=bool(once))
            except Exception as e:
                refused[choice.title] = said(e)
                continue
            if not once:  # the random choices come with the first
                _, again, _ = self._costs(choice, ranked, target, again=True)
                once, tested = run + tested - again, again
                backward = max(0.0, own - 2 * forward)
            found[choice.title] = Cost(own + tested, MAPS_OF_CHECKS * own + whole)
            self.maps[choice.title] = own
        if not found.keys() - {CONTROL}:
            why = next(iter(refused.values()), "all of them take too long")
            raise Failure(f"no method can explain this model on these data: {why}")
        return Costs(forward, backward, once, self._shared(choices, found, target)), refused, dear

    def _shared(self, choices: Sequence[MethodChoice], found: dict[str, Cost], target: torch.Tensor) -> dict[str, Cost]:
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
            t: Cost(c.asked - less.get(t, 0.0), c.checked - MAPS_OF_CHECKS * less.get(t, 0.0)) for t, c in found.items()
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

    def _costs(
        self, choice: MethodChoice, ranked: RankedInput, target: torch.Tensor, again: bool
    ) -> tuple[float, float, float]:
        """Seconds of a map, of its removal, and of T."""
        a = self.clock()
        exp = self._map(choice, target)
        b = self.clock()
        ranked.rank(exp, HowTested(random=ASKED[0].random, seed=self.seed))  # type: ignore[attr-defined]
        c = self.clock()
        assert exp.receipt.attribution_error is None or again is not None
        return b - a, c - b, self.clock() - c


# -- the run -----------------------------------------------------------------------------------------------------------


@dataclass
class _Visit:
    """One call: both runs, as far as the time goes."""

    reader: Any
    source: Drawn
    choices: Sequence[MethodChoice]
    plan: _Plan
    home: Path
    seed: int
    told: Told | None
    clock: Clock
    started: float
    seconds: float
    memory_budget: int | float | str | None = None
    before: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Checks up to their share of the time, then ranks up to the rest."""
        self.before = self._kept()
        end = self.started + self.seconds * (1 - SLACK) - self.spent_before
        costs, left = self.plan.costs, self.seconds * (1 - SLACK) - self.plan.costs.spent
        _, checked = counts(left, costs, self.plan.bought.methods, self.source_count)
        most = self.started + costs.spent + self.seconds * SHARE - self.before.get("checks", 0.0)
        self._stage("checks", min(end, most), max(2, checked))
        self._stage("ranks", end, self.source_count)

    @property
    def spent_before(self) -> float:
        """Seconds of earlier calls."""
        return sum(self.before.values())

    def _kept(self) -> dict[str, float]:
        """Seconds of earlier calls, by stage."""
        try:
            found = json.loads((self.home / SPENT).read_text(encoding="utf-8"))
            return {str(k): max(0.0, float(v)) for k, v in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as e:
            raise InputError(f"{self.home / SPENT} is not what regard doctor wrote ({said_short(e)}); delete it") from e

    def _keep(self, stage: str, seconds: float) -> None:
        """Write down how long it took so far, so that a call that goes on knows."""
        now = {**self.before, stage: self.before.get(stage, 0.0) + seconds}
        write_atomically(self.home / SPENT, json.dumps(now).encode())

    @property
    def source_count(self) -> int:
        """Examples that may be asked."""
        return int(self.plan.asked["available"])

    @property
    def methods(self) -> list[Choice]:
        """Those that were bought."""
        return [(c.name, c.options) for c in self.choices if c.title in self.plan.bought.methods]

    def _stage(self, name: str, until: float, count: int) -> None:
        """One run of `evaluate`, an example a shard, until the time is up or so many examples are done."""
        begun = self.started if name == "checks" else self.clock()
        last, longest = self.clock(), self._expected(name)

        def tell(progress: Progress) -> None:
            nonlocal last, longest
            now = self.clock()
            longest, last = max(longest, now - last if progress.shard else 0.0), now
            self._keep(name, now - begun)
            if self.told is not None:
                self.told(name, dataclasses.replace(progress, of_shards=count, of_examples=count, left=until - now))
            if progress.examples >= count or (progress.examples >= 2 and now + longest > until):
                raise _TimeIsUp

        with contextlib.suppress(_TimeIsUp):
            evaluate(
                self.reader, self.source, self.methods, STAGES[name], self.home / name, seed=self.seed,
                examples=self.source_count, batch=1, threads=self.plan.asked["threads"], memory_budget=self.memory_budget,
                together=True, told=tell,
            )  # fmt: skip
        self.before = self._kept()

    def _expected(self, stage: str) -> float:
        """Seconds of one example, as they were measured."""
        costs, titles = self.plan.costs, self.plan.bought.methods
        return costs.check(titles) if stage == "checks" else costs.example(titles)

    def _results(self, stage: str) -> Results | None:
        return Results(self.home / stage) if (self.home / stage / "manifest.json").is_file() else None

    def diagnosis(self, minutes: float) -> Diagnosis:
        """What the rows of both runs say."""
        rows = [row for stage in STAGES for row in self._rows(stage)]
        costs, titles = self.plan.costs, list(self.plan.bought.methods)
        failures: Counter[str] = Counter()
        for stage in STAGES:
            results = self._results(stage)
            failures.update({} if results is None else results.failed())
        later = {
            times: bought(times * 60 * minutes, costs, self.source_count, self.plan.asked["fixed"]) for times in (2, 4)
        }
        spent = Spent(
            minutes,
            self.spent_before,
            costs.forward,
            len(self.source),
            self.plan.bought,
            later,
            self.plan.refused,
        )
        return Diagnosis(
            self.plan.asked["model"],
            self.source.source,
            standings(rows, titles, self.seed),
            agreements(rows, self.seed),
            self.plan.proof,
            spent,
            dict(failures),
            rows,
        )

    def _rows(self, stage: str) -> Iterator[Row]:
        results = self._results(stage)
        yield from () if results is None else results.rows()


__all__ = ["METHODS", "doctor"]
