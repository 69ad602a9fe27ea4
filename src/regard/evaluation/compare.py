"""One input, many maps: methods x sites, each with its attribution error, and the table that unifies them (arXiv 2605.22417).

Most methods are quadratures of one integral, a = (F − F0) ⊙ ∫₀¹ ∂f/∂F(F0 + t(F − F0)) dt. What tells them apart is the site,
the baseline F0 that they take or imply, and the nodes; so the same question can be put to all: how much of T does the map say?
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from regard.api.explain import explain
from regard.api.inspect import inspect
from regard.attribution.formulas import OF_TARGETS, Formula
from regard.attribution.table import METHODS
from regard.attribution.table import method as method_row
from regard.baseline import Baseline
from regard.errors import Misuse
from regard.evaluation.protocols.attribution_error import Account, account_of
from regard.explanation import display
from regard.explanation.explanation import Explanation
from regard.site import Site

BLOCKS = 6
"""Columns for blocks at most, unless all are asked for."""
Told = Callable[[str, int, int], None]
"""What is being explained, how many steps are done, and of how many."""


def formula(exp: Explanation) -> Formula:
    """A map's row of the unification table."""
    of_targets = exp.method == "difference_map" and exp.receipt.baseline == Baseline.zero().local().label
    return OF_TARGETS.with_options(exp.options) if of_targets else method_row(exp.method).unified(exp.options)


def usual() -> list[str]:
    """The methods that are compared where none are named."""
    return [row.name for row in sorted(METHODS.values(), key=lambda row: row.compared) if row.compared]


@dataclass(frozen=True)
class Comparison:
    """Maps of one input (or a batch) by several methods at several sites.

    Attributes:
        methods: rows; those that took no site of the columns have a map at their `own` site only. sites: labels of the columns.
        grid: (method, site) -> its explanation, where the method takes the site. own: method -> its explanation.
    """

    methods: tuple[str, ...]
    sites: tuple[str, ...]
    grid: dict[tuple[str, str], Explanation] = field(repr=False)
    own: dict[str, Explanation] = field(repr=False)

    @property
    def explanations(self) -> list[Explanation]:
        """All of them, row by row."""
        return [*(self.grid[m, s] for m in self.methods for s in self.sites if (m, s) in self.grid), *self.own.values()]

    @property
    def batch(self) -> int:
        """Number of samples."""
        return self.explanations[0].samples

    def rows(self, sample: int = 0) -> list[tuple[Formula, Account]]:
        """The unification table with one sample's numbers: of each map its formula, and what it accounts for."""
        if not 0 <= sample < self.batch:
            raise Misuse(f"sample {sample} does not exist; the comparison holds {self.batch}, counted from 0")
        return [(formula(e), account_of(e, sample)) for e in self.explanations]

    def __str__(self) -> str:
        return display.comparison_table(self)

    def _repr_html_(self) -> str:
        return display.comparison_fragment(self)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained page: the grid of maps, and the table (needs `regard[viz]`)."""
        return display.write_comparison(self, path)

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        sample: int = 0,
        *,
        cmap: Any = None,
        scale: str | float = "shared",
    ) -> Any:
        """Draw one sample's grid with matplotlib (needs `regard[viz]`); return the Figure, and write it if `path`.

        path, cmap: as in `Explanation.plot`. scale: "shared": the maps of one method at all its sites have one scale, as their
        scores are in one unit, that of the target (a method that has no such unit keeps a scale for each map); different
        methods share none, as most would be pale; "own": every map up to its own largest score; or the score that gets the full
        colour everywhere.
        """
        return display.plot_comparison(self, path, sample, cmap=cmap, scale=scale)


def compare(
    model: nn.Module,
    inputs: Any,
    target: Any = None,
    methods: Sequence[str] | None = None,
    sites: Sequence[Site] | str | None = None,
    baseline: Any = None,
    *,
    told: Told | None = None,
    explained: Callable[..., Any] = explain,
    inspected: Callable[..., Any] = inspect,
    **options: Any,
) -> Comparison:
    """Explain one target by every method at every site that the method takes.

    Args:
        model: as in `regard.explain`.
        inputs: as in `regard.explain`.
        target: as in `regard.explain`, but one.
        methods: names; None: those of the table that are `compared`, and that the model has a site for.
            Those that take none of the sites have a map at their own.
        sites: what the columns are. None: the input, the embeddings, and all blocks up to 6, else 6 of them, the last but one
            always; "all": all blocks.
        baseline: as in `regard.explain`. At attention sites it is A0 = 0.
        told: called before each step.
        explained: what is called instead of `regard.explain` (a reader's).
        inspected: what is called instead of `regard.inspect` (a reader's).
        options: as in `regard.explain`; each goes to the methods that take it.

    Raises:
        Misuse: there is nothing to compare; and what `regard.explain` raises.
    """
    baseline = Baseline.make(baseline)
    if isinstance(target, list):
        raise Misuse("one target at a time can be compared; give one")
    if methods is not None and not methods:
        raise Misuse("nothing to compare: the list of methods is empty")
    if isinstance(methods, str):
        raise Misuse(f"methods are a list of names, as those of regard.methods(); not {methods!r}")
    if "method" in options:
        raise Misuse("there is no argument method=: it is called methods=")
    seen = inspected(model, inputs)
    columns = _columns(sites, seen)
    names = list(dict.fromkeys(_usual(columns, bool(seen.blocks)) if methods is None else methods))
    steps = _steps(names, columns, baseline)
    found: dict[tuple[str, str], Explanation] = {}
    own: dict[str, Explanation] = {}
    for done, (site, against, some) in enumerate(steps):
        if told is not None:
            told("own sites" if site is None else site.label, done, len(steps))
        taken = {k: v for k, v in options.items() if not _is_of_a_method(k, names) or _is_of_a_method(k, some)}
        for e in explained(model, inputs, target, some, baseline=against, site=site, **taken):
            if site is None:
                own[e.method] = e
            else:
                found[e.method, site.label] = e
    return Comparison(tuple(names), tuple(s.label for s in columns), found, {n: own[n] for n in names if n in own})


def _usual(columns: Sequence[Site], blocks: bool) -> list[str]:
    """The usual ones; of a model without blocks, those that have a site nevertheless."""
    kinds = {site.kind for site in columns}
    rows = [method_row(name) for name in usual()]
    return [row.name for row in rows if blocks or kinds & set(row.sites) or not row.site.of_block]


def _is_of_a_method(option: str, names: Sequence[str]) -> bool:
    return any(option in method_row(n).options for n in names)


def _steps(names: Sequence[str], columns: Sequence[Site], baseline: Any) -> list[tuple[Site | None, Any, list[str]]]:
    """Methods by the site and the baseline that they are asked for: each group shares one recording."""
    groups: dict[tuple[Site | None, bool], list[str]] = {}
    for name in names:
        for site, against in method_row(name).pairs(columns, [baseline]):
            groups.setdefault((site, against is not None), []).append(name)
    order = {site: i for i, site in enumerate([*columns, None])}
    keys = sorted(groups, key=lambda k: (order[k[0]], k[1]))
    return [(site, baseline if given else None, groups[site, given]) for site, given in keys]


def _columns(sites: Sequence[Site] | str | None, seen: Any) -> list[Site]:
    """The sites of the columns, each once; negative numbers become those that they stand for."""
    blocks, calls = len(seen.blocks), len(seen.calls)
    if sites is None or isinstance(sites, str):
        if sites not in (None, "all"):
            raise Misuse(f"sites are a list of regard.Site, 'all' or None; not {sites!r}")
        numbers = range(blocks) if sites else chosen_blocks(blocks)
        return [Site.input(), *([Site.embeddings()] if blocks else []), *(Site.block(i) for i in numbers)]
    if not sites:
        raise Misuse("nothing to compare: the list of sites is empty")
    return list(dict.fromkeys(_counted(s, calls if s.kind == "attention" else blocks) for s in sites))


def _counted(site: Site, count: int) -> Site:
    in_range = site.layer is not None and -count <= site.layer < 0
    return replace(site, layer=site.layer % count) if in_range and site.layer is not None else site


def chosen_blocks(count: int, most: int = BLOCKS) -> list[int]:
    """All blocks up to `most`, else so many, evenly spaced from the first to the last, the last but one among them.

    >>> chosen_blocks(4), chosen_blocks(24)
    ([0, 1, 2, 3], [0, 6, 11, 16, 22, 23])
    """
    if count <= most:
        return list(range(count))
    spaced = [round(i * (count - 2) / (most - 2)) for i in range(most - 1)]
    return [*spaced, count - 1]


__all__ = ["BLOCKS", "Comparison", "Formula", "chosen_blocks", "compare", "formula", "usual"]
