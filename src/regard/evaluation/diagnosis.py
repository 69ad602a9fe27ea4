"""What `regard.doctor` found: which methods are better than chance on this model, which to use, and what not to believe."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from regard.attribution.table import method as method_row
from regard.evaluation.budget import WANTED, Bought
from regard.evaluation.chance import LEVEL, sign_flip, surely_better
from regard.evaluation.data.dataset import Given
from regard.evaluation.protocols.agreement import WITH, MapAgreement
from regard.evaluation.protocols.attribution_error import AttributionError
from regard.evaluation.protocols.causal import Causal
from regard.evaluation.protocols.noise import Noise
from regard.evaluation.protocols.protocol import Protocol, Row
from regard.evaluation.protocols.sanity import Sanity
from regard.evaluation.statistics import (
    Interval,
    Numbers,
    holm,
    mean_with_interval,
    median_with_interval,
    share_with_interval,
)
from regard.explanation import display
from regard.explanation.counts import quantity
from regard.explanation.writing import write_atomically

ASKED: tuple[Protocol, ...] = (Causal(), MapAgreement())
"""What is asked of every example."""
CHECKS: tuple[Protocol, ...] = (Sanity("weights", "predicted"), Noise(), AttributionError())
"""What is asked of some of them: three maps more, and T."""
CONTROL = "random"
NAMED = 3
"""So many methods are named in the one sentence."""
ALIKE = 0.5
"""A rank correlation: maps surely above it are much the same, maps surely below it are not."""
CLASSLESS = 0.95
"""A rank correlation with the map that a new last layer gives: maps surely above it hardly depend on the class. Unsigned
gradients of trained models stay below (0.84 with two classes, 0.88 with ten, 0.91 of found objects), those of untrained ones do
not (1.00). Where two classes mirror one another signed maps turn round: their correlation is negative."""
FEWEST = 5
"""On fewer examples no mean is said to be surely above or below anything."""
ALMOST = 1.1
"""Times as many examples: not worth a line of its own."""
LEFT_OUT = 0.1
"""The share of T that a map may leave out which claims to add up."""


@dataclass(frozen=True)
class Doubt:
    """What not to believe of a method. rules_out: whether it cannot be the one to use."""

    title: str
    sentence: str
    rules_out: bool = True


@dataclass(frozen=True)
class MethodStanding:
    """One method's numbers.

    Attributes:
        title: what tables call it. rank: mean share of random choices that its own beats, 0.5 by chance. examples: of which it
            is the mean. errors: examples that failed. p_value: that chance alone has such a mean, corrected for the number of
            methods; worse: the same of so low a mean. better: whether it is above chance. beats: the methods that it is surely
            better than, by paired differences, corrected for the number of pairs. places: the best and the worst that these
            leave open.
        head, final: rank correlation of its maps with those after a new head, and after all weights anew; head_unchanged,
            unchanged: the share of maps that stayed the same, of `redrawn` maps. noise: rank correlation with the maps of noisy
            inputs. relative_error: median; None where it does not claim to add up. checked: examples of the checks. seconds: of
            one map by itself.
    """

    title: str
    rank: Interval
    examples: int
    errors: int
    p_value: float
    worse: float
    beats: frozenset[str]
    places: tuple[int, int]
    head: Interval
    head_unchanged: Interval
    final: Interval
    unchanged: Interval
    redrawn: int
    noise: Interval
    relative_error: Interval | None
    checked: int
    seconds: float

    @property
    def better(self) -> bool:
        """Whether it is above chance."""
        return self.p_value <= LEVEL and self.rank.value > 0.5

    @property
    def below(self) -> bool:
        """Whether it is below chance: what it puts highest matters less than what chance takes."""
        return self.worse <= LEVEL and self.rank.value < 0.5


@dataclass(frozen=True)
class Spent:
    """The time, and what it bought.

    Attributes:
        minutes: what was asked for. seconds: what went by. forward: of one pass. available: examples of the data; most: how
            many of them were to be asked, at the most. bought: as it was planned. later: of two and four times the time.
            refused: methods that this model cannot be explained by, and why.
    """

    minutes: float
    seconds: float
    forward: float
    available: int
    most: int
    bought: Bought
    later: Mapping[int, Bought] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """Which method to trust on a model. `print` it; `to_html` writes its page.

    Attributes:
        model, data: their names. standings: from the highest rank to the lowest. agreement: rank correlation of the maps of two
            methods, by their titles. proof: what `regard.verify` said of the recording, and whether it holds (None: nothing
            could be tested). spent: the time. failures: error -> of how many examples. rows: all that was measured.
    """

    model: str
    data: str
    standings: Sequence[MethodStanding]
    agreement: Mapping[tuple[str, str], Interval]
    proof: tuple[str, bool | None]
    spent: Spent
    failures: Mapping[str, int]
    rows: Sequence[Row] = field(repr=False, default=())

    # -- the answer ---------------------------------------------------------------------------------------------------------

    @property
    def examples(self) -> int:
        """On how many examples the ranks rest."""
        return max((s.examples for s in self.standings), default=0)

    @property
    def control(self) -> MethodStanding | None:
        """The method that draws its maps, if it was asked."""
        return next((s for s in self.standings if s.title == CONTROL), None)

    @property
    def better(self) -> list[MethodStanding]:
        """Methods that are better than chance, the highest rank first; never the control."""
        return [s for s in self.standings if s.better and s.title != CONTROL]

    @property
    def recommended(self) -> str | None:
        """The method to use: of those that are better than chance, and that nothing else speaks against, the one of the highest
        rank. None where there is none, or the recording names wrong tokens."""
        if self.proof[1] is False:
            return None
        ruled_out = {d.title for d in self._own_doubts() if d.rules_out}
        return next((s.title for s in self.better if s.title not in ruled_out), None)

    @property
    def tied(self) -> list[str]:
        """The methods that the recommended one cannot be told from, as far as nothing speaks against them."""
        if self.recommended is None:
            return []
        ruled_out = {d.title for d in self._own_doubts() if d.rules_out}
        best = self.of(self.recommended)
        return [
            s.title
            for s in self.better
            if s is not best and not {s.title} & (ruled_out | best.beats) and best.title not in s.beats
        ]

    def of(self, title: str) -> MethodStanding:
        """One method's numbers."""
        return next(s for s in self.standings if s.title == title)

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        if self.proof[1] is False:
            return f"Believe no map of this model yet: {self.proof[0]}."
        if not self.examples:
            return "Nothing could be tested: see the errors."
        given = self.data == Given.SOURCE
        on = f"on {self.examples} {self.data}" if given else f"on {quantity(self.examples, 'example')} of {self.data}"
        best = self.recommended
        if best is None and not self.better:
            return (
                f"No method is shown to be better than chance {on}: believe no map of this model before more examples say "
                "otherwise."
            )
        if best is None:
            names = joined([s.title for s in self.better])
            several = len(self.better) > 1
            return (
                f"Use none by default: {names} {'are' if several else 'is'} better than chance {on}, but something else speaks "
                f"against {'each of them' if several else 'it'}."
            )
        often = share(self.of(best).rank)
        told = f"Use {best} by default: {on}, what it puts first matters more than a random choice in {often} of cases"
        if not self.tied:
            return f"{told}."
        if len(self.tied) <= NAMED:
            return f"{told}; {joined(self.tied)} cannot be told from it."
        fastest = min((self.of(t) for t in self.tied), key=lambda s: s.seconds)
        return f"{told}; {len(self.tied)} others cannot be told from it, {fastest.title} the fastest of them."

    @property
    def doubts(self) -> list[Doubt]:
        """What not to believe, the methods in order."""
        return [*self._own_doubts(), *self._disagreements()]

    def _own_doubts(self) -> list[Doubt]:
        return [d for s in self.standings if s.title != CONTROL for d in doubts_of(s, self.told_apart)]

    @property
    def told_apart(self) -> bool:
        """Whether a new last layer makes another question of it, so that a map that stays alike says something: some method's
        maps surely change. (Where the last weights that move the target are a norm's, close to one another, none does.)"""
        return any(s.head.high < ALIKE and s.redrawn >= FEWEST for s in self.standings if s.title != CONTROL)

    def _disagreements(self) -> list[Doubt]:
        best = self.recommended
        out = []
        for s in self.better:
            found = None if best in (None, s.title) else self.agreement.get((str(best), s.title))
            if found is not None and found.low <= 0:
                out.append(
                    Doubt(
                        s.title,
                        f"It does not agree with {best}, though both are better than chance: their maps have a rank "
                        f"correlation of {within(found)}. What a map shows depends on the method.",
                        False,
                    )
                )
        return out

    # -- what the time bought -----------------------------------------------------------------------------------------------

    @property
    def purchase(self) -> list[str]:
        """What the time bought, and what more would buy, in sentences."""
        spent, got = self.spent, self.spent.bought
        checked = max((s.checked for s in self.standings), default=0)
        lines = [
            f"{minutes(spent.seconds)} of {minutes(60 * spent.minutes)} bought {quantity(self.examples, 'example')} under "
            f"{quantity(len(self.standings), 'method')}, and the checks of weights and noise on {checked}; one forward pass "
            f"takes {duration(spent.forward)}."
        ]
        if self.examples < WANTED:
            lines.append(self._few())
        if got.dear:
            dear = [f"{title} ({minutes(seconds)})" for title, seconds in got.dear.items()]
            lines.append(f"Left out as too dear for {min(WANTED, spent.available)} examples: {joined(dear)}.")
        if spent.refused:
            lines += [f"{title} was left out: {why}." for title, why in spent.refused.items()]
        return lines + self._later()

    @property
    def _failed(self) -> int:
        """Of how many examples there is no rank."""
        return max((s.errors for s in self.standings), default=0)

    def _few(self) -> str:
        done, most = self.examples + self._failed, self.spent.most
        if most < self.spent.available and done >= most:
            return f"No more than {most} examples were asked for; a verdict should rest on {WANTED} or more."
        if done >= self.spent.available:
            but = f", and {self._failed} of them failed" if self._failed else ""
            held = f"The data hold no more than {self.spent.available} examples{but}"
            return f"{held}; a verdict should rest on {WANTED} or more."
        return f"A verdict should rest on {WANTED} examples or more: give more minutes, or fewer methods."

    def _later(self) -> list[str]:
        """What more time would buy: a line for twice and one for four times, or one for both where that is much the same."""
        later = self.spent.later
        more = {times: self._more(of) for times, of in later.items()}
        if more and not any(more.values()):
            return ["More time would buy nothing new: all examples and methods that were asked for are in."]
        words = {2: "Twice", 4: "Four times"}
        lines = [f"{words[times]} the time would buy {said or 'nothing new'}." for times, said in more.items()]
        if {2, 4} <= more.keys() and later[2].methods == later[4].methods and more[2]:
            if more[2] == more[4]:
                return [lines[0].removesuffix(".") + ", and four times the time no more."]
            if later[4].examples <= ALMOST * later[2].examples:
                return [lines[0].removesuffix(".") + ", and four times the time hardly more."]
        return lines

    def _more(self, later: Bought) -> str:
        """What is new of it; nothing where nothing is."""
        new = [t for t in later.methods if t not in self.spent.bought.methods]
        done, more = self.examples + self._failed, later.examples
        parts = []
        if more > done and self.examples:
            narrower = 1 - math.sqrt(done / more)
            every = "all " if more == self.spent.available else ""
            parts.append(f"{every}{more} examples, and intervals {100 * narrower:.0f} % narrower")
        parts += [f"also {joined(new)}"] if new else []
        return "; ".join(parts)

    # -- files ----------------------------------------------------------------------------------------------------------------

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page (needs `regard[viz]`)."""
        return display.write_diagnosis(self, path)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write a line a method."""
        return write_atomically(path, self.csv().encode())

    def csv(self) -> str:
        """The standings as CSV; an empty cell where there is no number."""
        written = io.StringIO()
        records = [self._record(s) for s in self.standings]
        table = csv.DictWriter(written, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(records)
        return written.getvalue()

    def _record(self, s: MethodStanding) -> dict[str, Any]:
        parts = {
            "rank": s.rank, "head": s.head, "final": s.final, "noise": s.noise,
            "relative_error": s.relative_error or NONE,
        }  # fmt: skip
        numbers = {
            f"{name}{end}": _written(v) for name, of in parts.items() for end, v in zip(("", "_low", "_high"), of)
        }
        return {
            "method": s.title,
            "verdict": verdict(s, self),
            "best_place": s.places[0],
            "worst_place": s.places[1],
            "p_value": _written(s.p_value),
            "examples": s.examples,
            "errors": s.errors,
            "checked": s.checked,
            "head_unchanged": _written(s.head_unchanged.value),
            "unchanged": _written(s.unchanged.value),
            "seconds": _written(s.seconds),
            **numbers,
        }

    def to_dict(self) -> dict[str, Any]:
        """The answer, the doubts and the numbers as plain values; None where there is no number."""
        return {
            "model": self.model,
            "data": self.data,
            "sentence": self.sentence,
            "recommended": self.recommended,
            "tied": self.tied,
            "ranking": [{k: None if v == "" else v for k, v in self._record(s).items()} for s in self.standings],
            "doubts": [{"method": d.title, "sentence": d.sentence, "rules_out": d.rules_out} for d in self.doubts],
            "proof": {"said": self.proof[0], "holds": self.proof[1]},
            "agreement": [
                {"first": a, "second": b, "value": i.value, "low": i.low, "high": i.high}
                for (a, b), i in self.agreement.items()
                if not math.isnan(i.value)
            ],
            "purchase": self.purchase,
            "failures": dict(self.failures),
        }

    def __str__(self) -> str:
        wide = max((len(s.title) for s in self.standings), default=6)
        lines = [self.sentence, "", f"{'method':<{wide}}  beats random choices      place     verdict"]
        lines += [
            f"{s.title:<{wide}}  {share(s.rank, True):<24}  {place(s.places):<8}  {verdict(s, self)}"
            for s in self.standings
        ]
        lines += ["", *(f"{d.title}: {d.sentence}" for d in self.doubts), ""]
        failed = [f"{quantity(count, 'example')} failed: {why}." for why, count in self.failures.items()]
        return "\n".join([*lines, f"Recording: {self.proof[0]}.", *self.purchase, *failed])


NONE = Interval(math.nan, math.nan, math.nan)
COLUMNS = (
    "method", "verdict", "rank", "rank_low", "rank_high", "best_place", "worst_place", "p_value", "examples", "errors",
    "checked", "head", "head_low", "head_high", "head_unchanged", "final", "final_low", "final_high", "unchanged", "noise",
    "noise_low", "noise_high", "relative_error", "relative_error_low", "relative_error_high", "seconds",
)  # fmt: skip
"""The columns of the CSV."""


def _written(value: float) -> float | str:
    return "" if math.isnan(value) else float(f"{value:.6g}")


# -- what speaks against a method ---------------------------------------------------------------------------------------------


def doubts_of(s: MethodStanding, told_apart: bool) -> list[Doubt]:
    """What not to believe of a method, each with its number. told_apart: see `Diagnosis.told_apart`."""
    out = []
    if s.below:
        out.append(
            f"It is worse than chance: what it puts first matters less than what chance takes away (it beats {share(s.rank)} "
            f"of random choices; p = {small(s.worse)})."
        )
    elif not s.better:
        out.append(
            f"It is not shown to be better than chance: it beats {share(s.rank)} of random choices, where chance beats 50 % (p "
            f"= {small(s.p_value)})."
        )
    if s.unchanged.value > 0.5:
        out.append(
            f"It is not a map of your model: {maps(s.unchanged, s.redrawn)} the same when all weights are drawn anew."
        )
    else:
        if s.head_unchanged.value > 0.5:
            out.append(
                f"It does not know which class is explained: {maps(s.head_unchanged, s.redrawn)} the same when the weights of "
                "the last layer are drawn anew."
            )
        elif told_apart and s.head.low > CLASSLESS and s.redrawn >= FEWEST:
            out.append(
                "It hardly depends on which class is explained: with the weights of the last layer drawn anew its maps keep a "
                f"rank correlation of {within(s.head)}."
            )
        if s.final.low > ALIKE and s.checked >= FEWEST:
            out.append(
                f"It hardly rests on what your model learned: with all weights drawn anew its maps keep a rank correlation of "
                f"{within(s.final)}."
            )
    if s.noise.high < ALIKE and s.checked >= FEWEST:
        out.append(
            f"It is unstable: with noise of 5 % on the input its maps keep a rank correlation of {within(s.noise)} alone."
        )
    found = [Doubt(s.title, sentence) for sentence in out]
    if s.relative_error is not None and s.relative_error.low > LEFT_OUT and s.checked >= FEWEST:
        found.append(
            Doubt(
                s.title,
                f"Its scores do not add up, though it claims so: they miss what they should add up to by "
                f"{percents(s.relative_error)}. Read their order, not their size.",
                False,
            )
        )
    return found


def verdict(s: MethodStanding, of: Diagnosis) -> str:
    """A method in three words."""
    if s.title == CONTROL:
        return "the control"
    if s.title == of.recommended:
        return "use by default"
    if s.below:
        return "worse than chance"
    if not s.better:
        return "not shown to be better than chance"
    if any(d.rules_out for d in doubts_of(s, of.told_apart)):
        return "better than chance, but see below"
    return "cannot be told from it" if s.title in of.tied else "better than chance"


# -- from rows ----------------------------------------------------------------------------------------------------------------


def standings(
    rows: Sequence[Row], titles: Sequence[str], seconds: Mapping[str, float], seed: int = 0
) -> list[MethodStanding]:
    """Every method's numbers, from the highest rank to the lowest. seconds: of one map."""
    ranks = _Table.of(rows, Causal, "rank", titles)
    above = holm(sign_flip(ranks.values - 0.5, ranks.groups, seed))
    below = holm(sign_flip(0.5 - ranks.values, ranks.groups, seed))
    beats = surely_better(ranks.values, ranks.groups, seed)
    made = []
    for i, title in enumerate(titles):
        own = _Own([r for r in rows if r.title == title], seed)
        claims = method_row(own.method).decomposes if own.method else False
        made.append(
            MethodStanding(
                title,
                own.share(Causal, "rank"),
                own.count(Causal, "rank"),
                own.errors(Causal),
                float(above[i]),
                float(below[i]),
                frozenset(titles[j] for j in beats[i]),
                (1 + sum(i in other for other in beats), len(titles) - len(beats[i])),
                own.mean(Sanity, "head"),
                own.mean(Sanity, "head_unchanged"),
                own.mean(Sanity, "final"),
                own.mean(Sanity, "unchanged"),
                own.count(Sanity, "unchanged"),
                own.mean(Noise, "similarity"),
                own.median(AttributionError, "relative_error") if claims else None,
                max(own.count(Sanity, "final"), own.count(Noise, "similarity")),
                seconds.get(title, math.nan),
            )
        )
    return sorted(made, key=lambda s: (math.isnan(s.rank.value), -s.rank.value, titles.index(s.title)))


def agreements(rows: Sequence[Row], seed: int = 0) -> dict[tuple[str, str], Interval]:
    """Mean rank correlation of the maps of every two methods, in both orders."""
    found: dict[tuple[str, str], list[Row]] = {}
    for r in rows:
        if isinstance(r.protocol, MapAgreement) and r.metric.startswith(WITH) and not math.isnan(r.value):
            found.setdefault((r.metric.removeprefix(WITH), r.title), []).append(r)
    out = {}
    for (a, b), own in found.items():
        out[a, b] = out[b, a] = mean_with_interval([r.value for r in own], seed, [r.drawn_with for r in own])
    return out


@dataclass
class _Table:
    """A number of each example by each method, (example, method); NaN where there is none."""

    values: Numbers
    groups: list[str]

    @classmethod
    def of(cls, rows: Sequence[Row], kind: type, metric: str, titles: Sequence[str]) -> _Table:
        own = [r for r in rows if isinstance(r.protocol, kind) and r.metric == metric and r.title in titles]
        names = {name: i for i, name in enumerate(dict.fromkeys(r.example for r in own))}
        values = np.full((len(names), len(titles)), np.nan)
        groups = [""] * len(names)
        for r in own:
            values[names[r.example], titles.index(r.title)] = r.value
            groups[names[r.example]] = r.drawn_with
        return cls(values, groups)


@dataclass
class _Own:
    """The rows of one method."""

    rows: Sequence[Row]
    seed: int

    def _of(self, kind: type, metric: str) -> list[Row]:
        return [r for r in self.rows if isinstance(r.protocol, kind) and r.metric == metric and not math.isnan(r.value)]

    def mean(self, kind: type, metric: str) -> Interval:
        own = self._of(kind, metric)
        return mean_with_interval([r.value for r in own], self.seed, [r.drawn_with for r in own])

    def share(self, kind: type, metric: str) -> Interval:
        own = self._of(kind, metric)
        return share_with_interval([r.value for r in own], self.seed, [r.drawn_with for r in own])

    def median(self, kind: type, metric: str) -> Interval:
        own = self._of(kind, metric)
        return median_with_interval([r.value for r in own], self.seed, [r.drawn_with for r in own])

    def count(self, kind: type, metric: str) -> int:
        return len(self._of(kind, metric))

    def errors(self, kind: type) -> int:
        return sum(bool(r.error) and isinstance(r.protocol, kind) for r in self.rows)

    @property
    def method(self) -> str:
        return self.rows[0].method if self.rows else ""


# -- words --------------------------------------------------------------------------------------------------------------------


def joined(names: Sequence[str]) -> str:
    """Names as people list them."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def percent(value: float) -> str:
    """A share in whole per cent."""
    return "–" if math.isnan(value) else f"{100 * value:.0f} %"


def maps(value: Interval, count: int) -> str:
    """How many of the maps that were looked at stay: "13 of its 15 maps stay"."""
    staying = round(value.value * count)
    if staying < count:
        return f"{staying} of its {count} maps stay"
    return "its only map that was checked stays" if count == 1 else f"all of its {count} maps stay"


def share(value: Interval, short: bool = False) -> str:
    """A share with its interval: "97 % (95 % interval 94 to 99 %)"."""
    if math.isnan(value.value):
        return "–"
    around = f"{100 * value.low:.0f} to {100 * value.high:.0f} %"
    return f"{percent(value.value)} ({around})" if short else f"{percent(value.value)} (95 % interval {around})"


def percents(value: Interval) -> str:
    """A share with its interval, in short."""
    return share(value, True)


def within(value: Interval) -> str:
    """A number with its interval: "0.64 (0.6 to 0.68)"."""
    mean, low, high = (f"{round(v, 2) + 0.0:.2f}".replace("-", "−") for v in value)
    return f"{mean} ({low} to {high})"


def small(p: float) -> str:
    """A p-value."""
    return f"{p:.2g}" if p >= 0.001 else f"{p:.1g}"


def place(span: tuple[int, int]) -> str:
    """From which place to which."""
    return f"{span[0]}" if span[0] == span[1] else f"{span[0]} to {span[1]}"


def minutes(seconds: float) -> str:
    """A time in words."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    told = f"{seconds / 60:.1f}" if seconds < 570 else f"{seconds / 60:.0f}"
    told = told.removesuffix(".0")
    return f"{told} minute{'' if told == '1' else 's'}"


def duration(seconds: float) -> str:
    """A short time in words."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


__all__ = [
    "ASKED",
    "CHECKS",
    "CONTROL",
    "Diagnosis",
    "Doubt",
    "MethodStanding",
    "Spent",
    "agreements",
    "doubts_of",
    "standings",
    "verdict",
]
