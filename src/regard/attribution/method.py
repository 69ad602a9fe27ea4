"""What is known of a method, as data: a row of the table (table.py). Reading it imports neither torch nor the method."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from regard.attribution.formulas import Formula
from regard.errors import nearest
from regard.kinds import check_kind, kinds_of, plain
from regard.site import Site


class OwnSite(StrEnum):
    """Where a method's map lives, and where its baseline is put, when no site is asked for."""

    INPUT = "input"
    LAST_BUT_ONE = "block[-2]"
    LAST_BUT_TWO = "block[-3]"
    ATTENTION = "attention"
    """A of all calls."""
    LAST_ATTENTION = "attention[last]"
    """A of the calls that the target reads."""
    NONE = "none"
    """The map claims no unit of y."""

    @property
    def of_attention(self) -> bool:
        """Whether it is A of calls, which is never a whole frontier."""
        return self in (OwnSite.ATTENTION, OwnSite.LAST_ATTENTION)

    @property
    def of_block(self) -> bool:
        """Whether it is the states after a block."""
        return self in (OwnSite.LAST_BUT_ONE, OwnSite.LAST_BUT_TWO)


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        home: the function, or the module below `regard.attribution` in which it has the method's name. It is called as
            (context, **options) -> relevance (batch, row); of the attention family (`preset`), as (**options) -> a `Preset` or
            `Fusion`, which share one walk, or a function of the context.
        paper: where it comes from. passes: its cost. summary: what it is. formula: its row of the unification table.
        site: its own site; `OwnSite`. baseline: what it is measured against, in words. unit_step: at its own site, F − 1 rather
            than zero stands for the baseline (a plain gradient's).
        decomposes: whether it claims that its scores add up to T.
        signed: whether a negative score has a meaning. signed_by: an option, and the value with which it has one.
        sites: kinds of sites that can be asked for. explicit: whether a baseline can be.
        keeps: what the recording must hold beside the calls: "states" between blocks, "branches" around calls (see `record`).
            keeps_with: (option, value, what) of what it must hold only where an option has a value.
        needs: "maps", the attention maps of the run; "gradient", the gradient of the watched run itself; "calls", the attention
            calls of the run, where it has any; "scores", those of every position that the model scores. Without "maps" the
            method runs on any differentiable model.
        compared: its place in `regard.compare` where no methods are named; 0: it has none.
        floor: what every method should do better than; charts draw it in grey.
        rules: what gives its rule set for the backward pass, as (name, **options) -> `RuleSet`: the name of a function in its
            home, or the function itself; "": its gradients are the model's own.
        conserves: it claims that its scores add up to y.
        reads_last: of the gradients of the watched run, it asks for those of the last attentions alone (`Gradients.bound`).
        only_of: the one kind of model that it is of, in words; elsewhere it is refused, and "all" methods leave it out.
    """

    name: str
    home: str | Callable[..., Any]
    paper: str
    passes: str = "1 forward + 1 gradient"
    site: OwnSite = OwnSite.ATTENTION
    baseline: str = "A = 0 at all calls"
    decomposes: bool = False
    signed: bool = False
    preset: bool = False
    summary: str = ""
    sites: tuple[str, ...] = ()
    explicit: bool = False
    keeps: tuple[str, ...] = ()
    keeps_with: tuple[str, Any, str] | None = None
    needs: tuple[str, ...] = ("maps", "gradient")
    unit_step: bool = False
    signed_by: tuple[str, Any] = ("signed", True)
    formula: Formula | None = None
    compared: int = 0
    floor: bool = False
    rules: str | Callable[..., Any] = ""
    conserves: bool = False
    reads_last: bool = False
    only_of: str = ""

    def rule_set(self, options: Mapping[str, Any]) -> Any:
        """How gradients flow in the run that it is given; None: as in the model itself."""
        if not self.rules:
            return None
        made = self._found(self.rules) if isinstance(self.rules, str) else self.rules
        return made(self.name, **options)

    def _found(self, name: str) -> Callable[..., Any]:
        assert isinstance(self.home, str)
        found: Callable[..., Any] = getattr(importlib.import_module(f"regard.attribution.{self.home}"), name)
        return found

    @property
    def function(self) -> Callable[..., Any]:
        """The method itself, imported when it is first asked for."""
        if not isinstance(self.home, str):
            return self.home
        return self._found(self.name)

    def follows_maps(self, site: Site | None) -> bool:
        """Whether attention maps are needed, at this site."""
        return "maps" in self.needs or (site is not None and site.kind == "attention")

    @property
    def options(self) -> dict[str, Any]:
        """Option names with their defaults."""
        parameters = list(inspect.signature(self.function).parameters.values())[0 if self.preset else 1 :]
        return {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise UnknownName for an option that the method does not take."""
        for name in options:
            if name not in self.options:
                raise nearest(name, self.options, f"option of method {self.name!r}")

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Its own among some options, numbers of numpy and torch as Python's. Raises Misuse for what is of another kind."""
        kinds = kinds_of(self.function)
        own = {name: plain(value) for name, value in options.items() if name in self.options}
        for name, value in own.items():
            if name != "guide":  # which Guide.make reads
                check_kind(name, value, kinds.get(name, Any))
        return own

    def kept(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """What the recording must hold, under these options."""
        if self.keeps_with is None:
            return self.keeps
        option, value, what = self.keeps_with
        return (*self.keeps, what) if options.get(option) == value else self.keeps

    def is_signed(self, options: Mapping[str, Any]) -> bool:
        """Whether negative scores mean something, under these options (several maps may be fused: any of them)."""
        option, value = self.signed_by
        said = options.get(option)
        return self.signed or value in (said if isinstance(said, list | tuple) else (said,))

    def pairs(self, sites: Iterable[Site | None], baselines: Iterable[Any]) -> list[tuple[Site | None, Any]]:
        """Those (site, baseline) pairs that it can be asked for; None stands for its own, the only one where it takes none."""
        where = [s for s in sites if s is None or s.kind in self.sites] or [None]
        against = list(baselines) if self.explicit else [None]
        return [(s, b) for s in where for b in (against if s is None or s.kind != "attention" else [None])]

    def unified(self, options: Mapping[str, Any]) -> Formula:
        """Its row of the unification table; of methods that are no such quadrature, what their receipt is measured by."""
        if self.formula is None:
            return Formula(self.summary, self.baseline, "not of this integral")
        return self.formula.with_options(self.options | dict(options))


__all__ = ["Method", "OwnSite"]
