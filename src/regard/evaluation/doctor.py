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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regard.errors import Failure, InputError, Misuse, RegardError
from regard.evaluation.budget import CHECKS as SHARE
from regard.evaluation.budget import SLACK, WANTED, Bought, Costs, MethodCost, bought, counts
from regard.evaluation.data.drawn import Drawn
from regard.evaluation.diagnosis import ASKED, CHECKS, CONTROL, Diagnosis, Spent, agreements, standings
from regard.evaluation.evaluate import Progress, check_classes, data_of, evaluate, methods_of, reader_of
from regard.evaluation.examples import Example
from regard.evaluation.meter import Clock, Meter
from regard.evaluation.protocols.protocol import MethodChoice, Protocol, said
from regard.evaluation.runner import Choice
from regard.evaluation.store.results import Results
from regard.evaluation.store.store import MANIFEST
from regard.explanation.writing import write_atomically
from regard.models.places import is_name
from regard.recording.proof.verify import verify

METHODS = (
    "gae", "raw_attention", "attnlrp", "input_x_gradient", "rollout", "gradient", "cp_lrp", "revised_ig",
    "transition_attention", "gim", "attention_grad_cam", "bti_token", "legrad", "grad_cam", "integrated_gradients",
    "occlusion", "lime",
)  # fmt: skip
"""What is asked where no methods are named, in the order in which a budget buys them; the control comes before them."""
MOST = 2000
"""The most examples that are asked, whatever the time."""
LOOKED = 5
"""So many examples are read to find one to measure on: the longest."""
PLAN, SPENT, FORMAT = "plan.json", "spent.json", "regard-doctor-1"
STAGES: dict[str, tuple[Protocol, ...]] = {"checks": CHECKS, "ranks": ASKED}
Told = Callable[[str, Progress], None]


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
    given = data_of(data, model, options)
    check_classes(reader, given)
    source = Drawn(of=given, seed=seed)
    most = min(len(source), MOST if examples is None else examples)
    if most < 2:
        raise Misuse(f"{source.source} holds {most} example: the doctor needs two at the least, better 50 or more")
    name = str(model) if is_name(model) else type(reader.model).__name__
    asked = {
        "model": name, "data": source.source, "methods": [c.title for c in choices], "fixed": methods is not None,
        "seed": seed, "examples": most,
    }  # fmt: skip
    call = _Call(reader, source, choices, asked, home, minutes, seed, clock, started, told, memory_budget)
    before = torch.get_num_threads()
    try:
        plan = _Plan.of(call, threads) or _Plan.made(call, threads or before)
        torch.set_num_threads(plan.threads)
        visit = _Visit(call, plan)
        visit.run()
        return visit.diagnosis()
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class _Call:
    """What was asked for. asked: what an earlier call in the same folder must have asked, too."""

    reader: Any
    source: Drawn
    choices: Sequence[MethodChoice]
    asked: Mapping[str, Any]
    home: Path
    minutes: float
    seed: int
    clock: Clock
    started: float
    told: Told | None
    memory_budget: int | float | str | None

    @property
    def seconds(self) -> float:
        """The time for all."""
        return 60 * self.minutes

    @property
    def most(self) -> int:
        """Examples that may be asked."""
        return int(self.asked["examples"])

    @property
    def fixed(self) -> bool:
        """Whether methods were named."""
        return bool(self.asked["fixed"])


def _check(minutes: float, examples: int | None) -> None:
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < math.inf:
        raise Misuse(f"minutes is how long the doctor may take, above 0, not {minutes!r}")
    if examples is not None and (isinstance(examples, bool) or not isinstance(examples, int) or examples < 2):
        raise Misuse(f"examples is a whole number of at least 2, not {examples!r}")


def _folder(out: str | os.PathLike[str]) -> Path:
    if "://" in os.fspath(out):
        raise Misuse("the doctor's folder is on this machine: give a path")
    home = Path(out).expanduser()
    if home.is_dir() and not (home / PLAN).exists():
        others = sorted(p.name for p in home.iterdir() if p.name[0] != ".")
        if others:
            raise Misuse(
                f"{home} holds other files ({others[0]}), and no visit of the doctor; give a new folder with out="
            )
    return home


# -- the plan ----------------------------------------------------------------------------------------------------------


@dataclass
class _Plan:
    """What an earlier call began with, or this one begins with: it is kept beside the rows, so that the same call goes on.

    Attributes:
        asked: what the call said. costs: as they were measured. bought: what the first call's time bought. refused: method ->
            why this model cannot be explained by it. proof: what `verify` said.
    """

    asked: Mapping[str, Any]
    threads: int
    costs: Costs
    bought: Bought
    refused: Mapping[str, str]
    proof: tuple[str, bool | None]

    @classmethod
    def of(cls, call: _Call, threads: int | None) -> _Plan | None:
        """The plan that is there; None where there is none. Raises Misuse where another was asked for, InputError for a file
        that is none."""
        file = call.home / PLAN
        if not file.is_file():
            return None
        found = cls._read(file)
        for key, value in {**call.asked, **({} if threads is None else {"threads": threads})}.items():
            then = found.threads if key == "threads" else found.asked.get(key)
            if then != value:
                raise Misuse(
                    f"{call.home} holds a run with other {key.replace('fixed', 'methods')}: {_plain(then)}, and now "
                    f"{_plain(value)}; ask as before to go on, or give another folder with out="
                )
        return found

    @classmethod
    def _read(cls, file: Path) -> _Plan:
        try:
            made = json.loads(file.read_text(encoding="utf-8"))
            if made.pop("format") != FORMAT:
                raise ValueError("of another format")
            costs = Costs(
                **made["costs"] | {"methods": {t: MethodCost(*c) for t, c in made["costs"]["methods"].items()}}
            )
            what = Bought(**made["bought"] | {"methods": tuple(made["bought"]["methods"])})
            said, holds = made["proof"]
            return cls(**made | {"costs": costs, "bought": what, "proof": (str(said), holds)})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise InputError(f"{file} is not the plan of regard doctor ({said_short(e)}); give another folder") from e

    @classmethod
    def made(cls, call: _Call, threads: int) -> _Plan:
        """Measure what an example costs, and buy. Raises Misuse where the time does not buy two examples."""
        torch.set_num_threads(threads)
        example = _example(call.reader, call.source)
        model = call.source.model_of(call.reader)
        proof = _proof(model, example)
        meter = Meter(model, example, call.seed, call.clock, call.seconds * SHARE, min(WANTED, call.most))
        costs, refused, dear = meter.measured(call.choices, call.fixed)
        costs = dataclasses.replace(costs, spent=call.clock() - call.started)
        what = bought(call.seconds, costs, call.most, call.fixed)
        what = dataclasses.replace(what, dear={**what.dear, **dear})
        if what.examples < 2:
            needs = costs.spent + 2 * costs.example(what.methods) + 2 * costs.check(what.methods)
            raise Misuse(
                f"{call.minutes:g} minutes do not buy two examples of this model: give {math.ceil(1.2 * needs / 6) / 10:g} "
                "minutes at least, or fewer methods"
            )
        found = cls(call.asked, threads, costs, what, refused, proof)
        found.write(call.home)
        return found

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


def _proof(model: nn.Module, example: Example) -> tuple[str, bool | None]:
    """What `verify` says of the recording on one example."""
    try:
        found = verify(model, example.reading.inputs)
    except RegardError as e:
        return f"it could not be verified ({(str(e).splitlines() or [''])[0].rstrip('.')})", None
    return found.verdict, found.ok if found.claims else None


# -- the run -----------------------------------------------------------------------------------------------------------


@dataclass
class _Visit:
    """One call: both runs, as far as the time goes."""

    call: _Call
    plan: _Plan
    before: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Checks up to their share of the time, then ranks up to the rest."""
        self.before = self._kept()
        seconds, costs = self.call.seconds, self.plan.costs
        end = self.call.started + seconds * (1 - SLACK) - self.spent
        _, checked = counts(seconds * (1 - SLACK) - costs.spent, costs, self.plan.bought.methods, self.call.most)
        most = self.call.started + costs.spent + seconds * SHARE - self.before.get("checks", 0.0)
        self._stage("checks", min(end, most), max(2, checked))
        self._stage("ranks", end, self.call.most)

    @property
    def spent(self) -> float:
        """Seconds so far, those of earlier calls among them."""
        return sum(self.before.values())

    def _kept(self) -> dict[str, float]:
        """Seconds of earlier calls, by stage."""
        try:
            found = json.loads((self.call.home / SPENT).read_text(encoding="utf-8"))
            return {str(k): max(0.0, float(v)) for k, v in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as e:
            raise InputError(
                f"{self.call.home / SPENT} is not what regard doctor wrote ({said_short(e)}); delete it"
            ) from e

    def _keep(self, stage: str, seconds: float) -> None:
        """Write down how long it took so far, so that a call that goes on knows."""
        now = {**self.before, stage: self.before.get(stage, 0.0) + seconds}
        write_atomically(self.call.home / SPENT, json.dumps(now).encode())

    @property
    def methods(self) -> list[Choice]:
        """Those that were bought."""
        return [(c.name, c.options) for c in self.call.choices if c.title in self.plan.bought.methods]

    def _stage(self, name: str, until: float, count: int) -> None:
        """One run of `evaluate`, an example a shard, until the time is up or so many examples are done."""
        call = self.call
        begun = call.started if name == "checks" else call.clock()
        last, longest = call.clock(), self._expected(name)

        def tell(progress: Progress) -> None:
            nonlocal last, longest
            now = call.clock()
            longest, last = max(longest, now - last if progress.shard else 0.0), now
            self._keep(name, now - begun)
            if call.told is not None:
                call.told(name, dataclasses.replace(progress, of_shards=count, of_examples=count, left=until - now))
            if progress.examples >= count or (progress.examples >= 2 and now + longest > until):
                raise _TimeIsUp

        with contextlib.suppress(_TimeIsUp):
            evaluate(
                call.reader, call.source, self.methods, STAGES[name], call.home / name, seed=call.seed, examples=call.most,
                batch=1, threads=self.plan.threads, memory_budget=call.memory_budget, together=True, told=tell,
            )  # fmt: skip
        self.before = self._kept()

    def _expected(self, stage: str) -> float:
        """Seconds of one example, as they were measured."""
        costs, titles = self.plan.costs, self.plan.bought.methods
        return costs.check(titles) if stage == "checks" else costs.example(titles)

    def _pace(self, examples: int) -> float:
        """How much longer an example took than was measured."""
        expected = examples * self._expected("ranks")
        return self.before.get("ranks", 0.0) / expected if expected else 1.0

    def diagnosis(self) -> Diagnosis:
        """What the rows of both runs say."""
        call, plan = self.call, self.plan
        runs = [Results(call.home / stage) for stage in STAGES if (call.home / stage / MANIFEST).is_file()]
        rows = [row for run in runs for row in run.rows()]
        failures: Counter[str] = Counter()
        for run in runs:
            failures |= run.failed()  # an example that cannot be read fails in both
        found = standings(rows, list(plan.bought.methods), plan.costs.maps, call.seed)
        costs = plan.costs.scaled(self._pace(max((s.examples + s.errors for s in found), default=0)))
        later = {times: bought(times * call.seconds, costs, call.most, call.fixed) for times in (2, 4)}
        known = (plan.costs.forward, len(call.source), call.most)
        spent = Spent(call.minutes, self.spent, *known, plan.bought, later, plan.refused)
        return Diagnosis(
            call.asked["model"],
            call.source.source,
            found,
            agreements(rows, call.seed),
            plan.proof,
            spent,
            dict(failures),
            rows,
        )


__all__ = ["METHODS", "doctor"]
