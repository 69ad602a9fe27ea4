"""One protocol, one row: what can be asked of maps, and the flat record of one number that came of it.

A protocol is a frozen dataclass. Its fields are the choices that can be made, its `name` spells them out. What it knows of its
metrics (which way is better, what a curve runs along) is asked of it by whoever summarises, ranks or draws rows; none of these
knows one protocol from another.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from regard.api.explain import explain_reading
from regard.attribution.table import method as method_row
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Reading

EXPLAINED = ("predicted", "true")
Values = Mapping[str, float]
Curves = Mapping[str, Iterable[tuple[float, float]]]
Column = str | float | int | None
MEMORY = 1 << 30
"""Bytes that copies of an example may take side by side."""


@dataclass(frozen=True)
class MethodChoice:
    """A method as it is asked for: its name, and its options, a baseline and a site among them."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, what: str | tuple[str, Mapping[str, Any]]) -> MethodChoice:
        """From a name, or (name, options)."""
        return cls(what) if isinstance(what, str) else cls(what[0], dict(what[1]))

    @property
    def title(self) -> str:
        """What tables call it; a baseline and a site by their labels.

        >>> MethodChoice("corrected_attention", {"sign": "signed"}).title
        'corrected_attention, sign=signed'
        """
        return self.name + "".join(f", {k}={label_of(v)}" for k, v in sorted(self.options.items()))

    def check(self) -> None:
        """Raise UnknownName for what neither the method nor `explain` takes."""
        method_row(self.name).check({k: v for k, v in self.options.items() if k not in ("baseline", "site")})

    def columns(self) -> dict[str, Any]:
        """A row's columns: a site and a baseline as they were asked for, else the method's own."""
        row = method_row(self.name)
        where, against = (self.options.get(k) for k in ("site", "baseline"))
        return {
            "method": self.name,
            "title": self.title,
            "options": {k: v for k, v in self.options.items() if k not in ("baseline", "site")},
            "site": label_of(row.site if where is None else where),
            "baseline": label_of(row.baseline if against is None else against),
        }


def label_of(value: Any) -> str:
    """How a choice is spelled in a column: a site or a baseline by its label, baselines of several streams by theirs.

    >>> label_of({"pixel_values": 0, "input_ids": "pad"})
    'pixel_values: 0, input_ids: pad'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{stream}: {label_of(one)}" for stream, one in value.items())
    return str(getattr(value, "label", value))


@dataclass(frozen=True)
class Row:
    """One number: a metric of one example's map by one method under one protocol, or one point of a curve.

    Attributes:
        protocol: what was asked, with every choice. example: the name of what it was asked of.
        metric: the number's name. x: of a point of a curve, where it lies (`Protocol.axis` says along what); else None.
        value: the number; NaN where it is undefined. error: why there is none; such a row has no metric.
        method: its name in the table of methods. title: what tables call it, with its options. options: all but site and
            baseline. site, baseline: their labels.
        group: what the example shares with others, so that an interval draws them together; "": nothing.
        label: the true class. predicted: the model's answer. explained: the class that the map is for.
        seconds: what the protocol took on the example, its share of making the map included; None: not measured. Rows that
            differ in it alone are equal.
    """

    protocol: Protocol
    example: str
    metric: str = ""
    value: float = math.nan
    x: float | None = None
    error: str = ""
    method: str = ""
    title: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    site: str = ""
    baseline: str = ""
    group: str = ""
    label: int | None = None
    predicted: int | None = None
    explained: int | None = None
    seconds: float | None = field(default=None, compare=False)

    @property
    def right(self) -> bool | None:
        """Whether the model had the unchanged example right; None where the label or the answer is not known."""
        return None if self.label is None or self.predicted is None else self.label == self.predicted

    @property
    def drawn_with(self) -> str:
        """What a bootstrap draws as one: the group, or the example alone."""
        return f"group {self.group}" if self.group else f"example {self.example}"

    def record(self) -> dict[str, Column]:
        """The row as columns of text, numbers and None. Choices and options are JSON; `kind` is the protocol's class."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return own | {
            **_columns_of(self.protocol),
            "options": json.dumps(dict(self.options), default=label_of, sort_keys=True),
        }


@functools.lru_cache(maxsize=256)
def _columns_of(protocol: Protocol) -> dict[str, str]:
    """A protocol as the columns of its rows; most rows that are put down are of one."""
    choices = {f.name: getattr(protocol, f.name) for f in dataclasses.fields(protocol)}  # type: ignore[arg-type]
    return {"protocol": protocol.name, "kind": type(protocol).__name__, "choices": json.dumps(choices)}


@dataclass(kw_only=True)
class Judged(ABC):
    """A method that is to be judged, as a protocol is given it.

    Attributes:
        shared: seconds by which what was measured of an example is too short (its share of a map that was there already) or too
            long (what others have of a map that was made meanwhile).
    """

    seed: int = 0
    shared: float = 0.0

    @abstractmethod
    def columns(self) -> dict[str, Any]:
        """What rows say of the method."""

    def rows(self, protocol: Protocol, example: Any) -> list[Row]:
        """The rows of one example under one protocol, the method's columns filled in."""
        return [dataclasses.replace(row, **self.columns()) for row in protocol.run(self, example)]


@dataclass(kw_only=True)
class ExampleMaps(Judged):
    """A method by its maps of examples, and the model that they are of.

    Attributes:
        kept: what a protocol knows of the examples, by a key of its own, whatever the method; methods may share it.
    """

    model: nn.Module
    memory_budget: int = MEMORY
    kept: dict[Any, Any] = field(default_factory=dict)

    @abstractmethod
    def of(self, example: Any, explained: str) -> tuple[Explanation, int | None]:
        """The map of one example for its predicted or true class, and that class (None: the receipt tells)."""


@dataclass(kw_only=True)
class GivenMaps(ExampleMaps):
    """An explanation that is there already."""

    explanation: Explanation
    title: str = ""

    def of(self, *_: Any) -> tuple[Explanation, int | None]:
        """The explanation, whatever is asked for."""
        return self.explanation, None

    def columns(self) -> dict[str, Any]:
        """As its receipt tells."""
        made = self.explanation
        where = {"site": label_of(made.receipt.site), "baseline": label_of(made.receipt.baseline)}
        return {"method": made.method, "title": self.title or made.method, "options": dict(made.options), **where}


@dataclass(kw_only=True)
class ChosenMaps(ExampleMaps):
    """Maps that are made when they are asked for, by a method and its options."""

    choice: MethodChoice

    def columns(self) -> dict[str, Any]:
        """As the choice says."""
        return self.choice.columns()

    def again(self, reading: Reading, target: Any) -> dict[str, Explanation]:
        """Explanations of a reading that is none of the examples', or of a model that is not as it was, by title: the method's
        own, and those of methods that share a call with it."""
        how = dict(self.choice.options)
        found: Any = explain_reading(self.model, reading, target, self.choice.name, seed=self.seed, **how)
        return {self.choice.title: found}


class Protocol(ABC):
    """A question that is put to maps. Subclasses are frozen dataclasses, whose fields are the choices that can be made.

    Attributes:
        kind: the first part of the name. question: what is asked, in one sentence.
        better: metric -> 1 where higher is better, −1 where lower is. headlines: a page draws the first of them that there is.
        axis: what the x of a curve's points is. areas: curve -> the metric that is its area.
        behind: curve -> the curve beside which it need not be drawn.
        medians: metrics whose median is taken over examples; of all others it is the mean.
        sums: metric of a data set -> pairs (part, whole) of metrics of examples, whose sums are divided; the mean over pairs.
        known_answer: whether maps are held against a right answer that is known, and not against the model's own reactions.
        meanings: metric -> what it is, in a few words.
    """

    kind: ClassVar[str]
    question: ClassVar[str]
    better: ClassVar[Mapping[str, int]] = {}
    headlines: ClassVar[tuple[str, ...]] = ()
    axis: ClassVar[str] = "step"
    behind: ClassVar[Mapping[str, str]] = {}
    areas: ClassVar[Mapping[str, str]] = {}
    medians: ClassVar[frozenset[str]] = frozenset()
    sums: ClassVar[Mapping[str, tuple[tuple[str, str], ...]]] = {}
    known_answer: ClassVar[bool] = False
    meanings: ClassVar[Mapping[str, str]] = {}

    @property
    @abstractmethod
    def name(self) -> str:
        """The full name: every choice that was made."""

    @abstractmethod
    def run(self, maps: Any, example: Any) -> list[Row]:
        """The rows of one example by a method (`ExampleMaps`). What they say of the method is filled in by whoever runs it."""

    def direction(self, metric: str) -> int:
        """1 where a higher value is better, −1 where a lower one is, 0 where neither is."""
        return self.better.get(metric, 0)

    def rows(self, example: str, values: Values, curves: Curves | None = None, **columns: Any) -> list[Row]:
        """A row for each value, and for each point of each curve."""
        points = [(name, x, y) for name, curve in (curves or {}).items() for x, y in curve]
        every = [*((name, None, value) for name, value in values.items()), *points]
        return [Row(self, example, name, value, x, **columns) for name, x, value in every]


def said(e: BaseException) -> str:
    """An error as a row tells it: its kind and first line."""
    return f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}"


__all__ = [
    "EXPLAINED",
    "MEMORY",
    "ChosenMaps",
    "ExampleMaps",
    "GivenMaps",
    "Judged",
    "MethodChoice",
    "Protocol",
    "Row",
    "label_of",
    "said",
]
