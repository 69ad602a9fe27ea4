"""What a time buys: how many examples under which methods, from what one of each costs on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

WANTED = 50
"""Examples that a verdict should rest on, at the least."""
CHECKED = 50
"""The most examples that the checks of sanity and noise are run on."""
FEW_CHECKED = 8
"""The fewest, where the time allows it."""
CORE = 3
"""So many methods, the first ones, are asked even where the time does not buy 50 examples."""
CHECKS = 0.25
"""The share of the time that checks may take."""
SLACK = 0.05
"""The share of the time that is kept for what is not planned: reading, writing, drawing the page."""


class MethodCost(NamedTuple):
    """Seconds of one example by one method: its map with what is asked of it, and the checks."""

    asked: float
    checked: float


@dataclass(frozen=True)
class Costs:
    """Seconds on this machine.

    Attributes:
        forward, backward: one pass of the model. once: of an example, whatever the methods: its run, and the random choices.
        methods: in the order in which they are to be bought. spent: what went by before: loading, measuring, proving.
        maps: of a map by itself.
    """

    forward: float
    backward: float
    once: float
    methods: Mapping[str, MethodCost]
    spent: float = 0.0
    maps: Mapping[str, float] = field(default_factory=dict)

    def scaled(self, times: float) -> Costs:
        """The same, where all takes so many times as long."""
        methods = {title: MethodCost(times * c.asked, times * c.checked) for title, c in self.methods.items()}
        return Costs(self.forward, self.backward, times * self.once, methods, self.spent, self.maps)

    def example(self, titles: Sequence[str]) -> float:
        """One example under some methods."""
        return self.once + sum(self.methods[t].asked for t in titles)

    def check(self, titles: Sequence[str]) -> float:
        """The checks of one example under some methods."""
        return sum(self.methods[t].checked for t in titles)


@dataclass(frozen=True)
class Bought:
    """What a time buys.

    Attributes:
        methods: by their titles. examples: on which they are asked. checked: on how many of these the checks are run. dear: the
            methods that it does not buy, with the seconds that they would take on as many examples as are wanted.
    """

    methods: tuple[str, ...]
    examples: int
    checked: int
    dear: Mapping[str, float] = field(default_factory=dict)


def bought(seconds: float, costs: Costs, available: int, fixed: bool = False) -> Bought:
    """The first methods that leave time for 50 examples (or all that there are), and as many examples as the rest buys.

    fixed: all methods were asked for by their names and are taken, whatever they cost.
    """
    wanted, left = min(WANTED, available), max(0.0, seconds * (1 - SLACK) - costs.spent)
    titles: list[str] = []
    dear: dict[str, float] = {}
    for title in costs.methods:
        more = [*titles, title]
        needs = wanted * costs.example(more) + min(wanted, FEW_CHECKED) * costs.check(more)
        if fixed or len(titles) < CORE or needs <= left:
            titles = more
        else:
            dear[title] = wanted * costs.methods[title].asked + min(wanted, FEW_CHECKED) * costs.methods[title].checked
    examples, checked = counts(left, costs, titles, available)
    return Bought(tuple(titles), examples, checked, dear)


def counts(left: float, costs: Costs, titles: Sequence[str], available: int) -> tuple[int, int]:
    """How many examples so many seconds buy, and on how many the checks are run: on some first, then 50 examples are asked,
    then there are more checks, up to their share of the time, and more examples."""
    each, check = costs.example(titles), costs.check(titles)
    if not each or not check:
        return available, min(CHECKED, available)
    most = min(CHECKED, available, int(CHECKS * left / check))
    least = min(FEW_CHECKED, most)
    checked = max(least, min(most, int((left - min(WANTED, available) * each) / check)))
    return max(0, int(min(available, (left - checked * check) / each))), checked


__all__ = ["CHECKED", "CHECKS", "SLACK", "WANTED", "Bought", "Costs", "MethodCost", "bought", "counts"]
