"""Who is best under each protocol on each model, and who is not surely worse: runs side by side, tested example by example.

Each method is compared with the best one by a permutation test on the examples that both have (`statistics.swapping`). As the
best is chosen by the very numbers that it is compared on, Holm's correction is for all pairs of methods, not for those with
the best alone: then it does not matter which pair was looked at because of what.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from regard.errors import Misuse
from regard.evaluation.measured import ABSENT, MetricColumn, Places, Rows, measured, shared
from regard.evaluation.protocols.protocol import Protocol
from regard.evaluation.ranking import BEST, NEAR
from regard.evaluation.statistics import (
    SWAPS,
    Interval,
    Numbers,
    Statistic,
    bootstrap,
    bootstraps,
    holm,
    mean,
    swapping,
    swappings,
)
from regard.evaluation.summaries import NONE, MetricValues, metric_values, paired_values

LEVEL = 0.05
"""A method is worse than the best where the corrected p is at most this."""
FINER = 100
"""Swaps of a test for each pair of methods, so that the correction leaves something to be seen."""


@dataclass(frozen=True)
class Standing:
    """Where a method stands by one metric under one protocol.

    Attributes:
        title: what tables call it. value: the number, with its interval. examples: how many it is of. undefined: how many gave
            none (NaN). errors: how many ended in an error.
        behind: value(title) − value(best) on the examples that both have; None for the best, and where there is nothing to
            compare. p: of the paired test, corrected.
        place: "best", "near" where it is not surely worse than the best, or "".
    """

    title: str
    value: Interval
    examples: int
    undefined: int
    errors: int
    behind: Interval | None = None
    p: float | None = None
    place: str = ""


@dataclass(frozen=True)
class Cost:
    """What one map of one example costs: median seconds; bytes that the process grew by at most, None where not known.

    examples: how many it was measured on, each by itself. threads: of torch. machine: where.
    """

    seconds: float
    memory: int | None
    examples: int
    threads: int
    machine: str


@dataclass(frozen=True)
class RunRows:
    """One run as a leaderboard is given it.

    Attributes:
        name: of the run, for messages. model, data: what they are called. same: what two runs must have in common to be shown
            in one table, by the word for it. protocols, titles: what was asked, of which methods. rows: the rows of a protocol.
        examples: how many are done; count: of how many. seed: of intervals. command: what makes the run again.
        costs: method -> what a map costs. versions: of the packages that it ran with.
    """

    name: str
    model: str
    data: str
    protocols: Sequence[Protocol]
    titles: Sequence[str]
    rows: Callable[[Protocol], Rows] = field(repr=False)
    examples: int
    count: int
    same: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    command: str = ""
    costs: Mapping[str, Cost] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Contest:
    """One protocol on one model and data: its main metric first, then all others that have a better side."""

    protocol: Protocol
    examples: int
    standings: Mapping[str, Sequence[Standing]]

    @property
    def main(self) -> str:
        """The metric that methods are ordered by."""
        return next(iter(self.standings))


@dataclass(frozen=True)
class Board:
    """All protocols on one model and data."""

    model: str
    data: str
    contests: Sequence[Contest]
    costs: Mapping[str, Cost]
    runs: Sequence[RunRows]


def leaderboard(runs: Sequence[RunRows]) -> list[Board]:
    """Runs as boards, one for each model and data in the order of the runs; known answers first on each.

    Runs on one model and data are joined: one may have other methods or protocols than another. Raises Misuse where they
    cannot be compared (another model of the same name, other data, other seeds), or one method was judged twice.
    """
    found = []
    for (model, data), own in _grouped(runs).items():
        _check_alike(own)
        asked = dict.fromkeys(p for run in own for p in run.protocols)
        contests = [c for p in sorted(asked, key=lambda p: not p.known_answer) if (c := _contest(p, own))]
        costs = {title: cost for run in own for title, cost in run.costs.items()}
        found.append(Board(model, data, contests, costs, own))
    return found


def _grouped(runs: Sequence[RunRows]) -> dict[tuple[str, str], list[RunRows]]:
    out: dict[tuple[str, str], list[RunRows]] = {}
    for run in runs:
        out.setdefault((run.model, run.data), []).append(run)
    return out


def _check_alike(runs: Sequence[RunRows]) -> None:
    """Raise Misuse for runs that no table can show side by side."""
    first = runs[0]
    for run in runs[1:]:
        differ = [what for what in {**first.same, **run.same} if first.same.get(what) != run.same.get(what)]
        if differ:
            raise Misuse(
                f"{first.name} and {run.name} are both of {run.model} on {run.data}, but {differ[0]} is not the same; give one "
                "of them"
            )
    seen: dict[tuple[str, str], RunRows] = {}
    for run in runs:
        for protocol, title in itertools.product(run.protocols, run.titles):
            other = seen.setdefault((protocol.name, title), run)
            if other is not run and other.name == run.name:
                raise Misuse(f"{run.name} is given twice; give it once")
            if other is not run:
                raise Misuse(f"{other.name} and {run.name} both judge {title} by {protocol.name}; give one of them")


def _contest(protocol: Protocol, runs: Sequence[RunRows]) -> Contest | None:
    """One protocol; None where no example gave a number."""
    own = shared([m for run in runs if protocol in run.protocols for m in measured(run.rows(protocol))])
    there = {name for m in own for name, known in m.values.items() if not np.isnan(known.values).all()}
    there |= {m for m, pairs in protocol.sums.items() if {n for pair in pairs for n in pair} <= there}
    metrics = [m for m in dict.fromkeys([*protocol.headlines, *protocol.better, *sorted(there)]) if m in there]
    found = {m: ordered(own, m, runs[0].seed) for m in metrics if protocol.direction(m)}
    asked = np.any([m.sides != ABSENT for m in own], axis=0) if own else np.zeros(0)
    return Contest(protocol, int(asked.sum()), found) if found else None


def ordered(rows: Rows, metric: str, seed: int = 0) -> list[Standing]:
    """The methods among rows of one protocol, the best first; those without a number last.

    Raises Misuse for rows of several protocols or of a method at several sites, or a metric that has no better side.
    """
    every = measured(rows)
    protocols = list(dict.fromkeys(m.protocol for m in every))
    if len(protocols) != 1 or not protocols[0].direction(metric):
        raise Misuse("methods are put in order under one protocol, by a metric that is better high or low")
    titles = [m.title for m in every]
    if len(set(titles)) != len(titles):
        title = next(t for t in titles if titles.count(t) > 1)
        raise Misuse(f"methods are put in order by one map an example; {title} has rows of several sites or baselines")
    protocol = protocols[0]
    known, out = {}, []
    for own in every:
        values = next((v for v in metric_values(own) if v.metric == metric and len(v.of)), None)
        judged, errors = int(own.good.sum()), len(own.errors)
        if values is None:
            out.append(Standing(own.title, NONE, 0, judged, errors))
        else:
            known[own.title] = values
            out.append(Standing(own.title, values.interval(seed), len(values.of), values.undefined, errors))
    sign = protocol.direction(metric)
    out.sort(key=lambda s: math.inf if math.isnan(s.value.value) else -sign * s.value.value)
    return _compared(out, known, seed)


def _compared(found: Sequence[Standing], known: Mapping[str, MetricValues], seed: int) -> list[Standing]:
    """Each beside the best, which is the first; equal ones are all best."""
    if not known:
        return list(found)
    best, pairs = found[0], len(known) * (len(known) - 1) // 2
    draws = max(SWAPS, FINER * pairs)
    others = [s.title for s in found if s.title in known and s is not best]
    tests = dict(zip(others, _against([known[t] for t in others], known[best.title], seed, draws), strict=True))
    corrected = dict(zip(others, holm([p for _, p in tests.values()], pairs).tolist(), strict=True))
    out = []
    for s in found:
        first = s is best or (s.title in known and s.value.value == best.value.value and s.examples == best.examples)
        near = s.title in corrected and corrected[s.title] > LEVEL
        place = BEST if first else NEAR if near else ""
        out.append(_placed(s, tests.get(s.title, (None,))[0], corrected.get(s.title), place))
    return out


def _placed(s: Standing, behind: Interval | None, p: float | None, place: str) -> Standing:
    return Standing(s.title, s.value, s.examples, s.undefined, s.errors, behind, p, place)


def _against(
    found: Sequence[MetricValues], best: MetricValues, seed: int, draws: int
) -> list[tuple[Interval | None, float]]:
    """The difference of each on the examples that both have, and its p before it is corrected.

    Means over the same examples are tested by the same tosses, which are made once.
    """
    pairs = [_pairs(one, best) for one in found]
    out: dict[int, tuple[Interval | None, float]] = {}
    for i, (one, (of, groups, a, b)) in enumerate(zip(found, pairs, strict=True)):
        if i in out:
            continue
        if not len(of):
            out[i] = None, 1.0
        elif one.statistic is not mean:
            behind = bootstrap(np.stack([a, b], 1), _difference(one.statistic), seed, groups)
            out[i] = behind, swapping(a, b, one.statistic, seed, groups, draws)
        else:
            alike = [j for j, w in enumerate(found) if w.statistic is mean and np.array_equal(pairs[j][0], of)]
            less = np.stack([pairs[j][2] - pairs[j][3] for j in alike], 1)
            tested = swappings(less, seed, groups, draws).tolist()
            out |= dict(zip(alike, zip(bootstraps(less, mean, seed, groups), tested, strict=True), strict=True))
    return [out[i] for i in range(len(found))]


def _pairs(one: MetricValues, best: MetricValues) -> tuple[Places, Places, Numbers, Numbers]:
    """The examples that both have, what each is drawn with, and the numbers of both."""
    of, a, b = paired_values(MetricColumn(one.of, one.values), MetricColumn(best.of, best.values))
    return of, one.groups[np.isin(one.of, of)], a, b


def _difference(statistic: Statistic) -> Statistic:
    """The statistic of the first less that of the second, of samples of pairs."""
    return lambda x, counts=None: np.asarray(statistic(x[:, 0], counts) - statistic(x[:, 1], counts))


__all__ = ["LEVEL", "Board", "Contest", "Cost", "RunRows", "Standing", "leaderboard", "ordered"]
