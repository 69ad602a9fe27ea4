"""Attention maps against post-hoc maps of one model, over many inputs: do they rank the same units first, and which way do
these pull?

Jain & Wallace (NAACL 2019) asked it of recurrent models; Wiegreffe & Pinter (EMNLP 2019) say what such an answer is worth;
Lopardo et al. (ICML 2024) say why the two must differ (formulas.md section 8).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from regard.api.explain import explain
from regard.api.shared_run import Settings
from regard.attribution.table import method as method_row
from regard.errors import Misuse, nearest
from regard.evaluation.compare import Told
from regard.evaluation.posthoc_agreement import (
    ComparedInput,
    ComparedMethod,
    LeftOut,
    PosthocAgreement,
    ShownInput,
    extremes,
)
from regard.evaluation.protocols.protocol import MethodChoice, said
from regard.evaluation.rank_agreement import agreements
from regard.evaluation.runner import Choice
from regard.evaluation.statistics import Numbers
from regard.explanation.causal_test import FEW, LEAST, HowTested, UnitTokens
from regard.explanation.explanation import Explanation, still
from regard.explanation.names import class_name
from regard.explanation.raw_inputs import Picture, Text
from regard.extras import need
from regard.recording.refusals import refuse

ATTENTION: tuple[Choice, ...] = ("raw_attention", "alpha_max", "rollout", "gae")
POSTHOC: tuple[Choice, ...] = ("gradient", "input_x_gradient", "lime", "occlusion", "revised_ig")
FLOOR = "random"
NAMED = 60
"""The longest name that is made of a text."""


def attention_vs_posthoc(
    model: nn.Module,
    data: Iterable[Any],
    target: Any = None,
    *,
    attention: Sequence[Choice] = ATTENTION,
    posthoc: Sequence[Choice] = POSTHOC,
    baseline: Any = None,
    top: float = 0.1,
    unit: str | None = None,
    stream: str | None = None,
    names: Iterable[str] | None = None,
    groups: Iterable[Any] | None = None,
    seed: int = 0,
    told: Told | None = None,
    explained: Callable[..., Any] = explain,
    **options: Any,
) -> PosthocAgreement:
    """How far attention maps agree with post-hoc maps, input by input, with intervals over the inputs. Needs `regard[eval]`.

    Maps are compared on the units that the causal test takes away: whole words where a reader knows them, else tokens; no
    padding, no special token, not the one position that is read. A word scores the sum of its tokens, and `lime` and
    `occlusion` take away whole words, each place of a word by itself. The metrics are in `regard.evaluation.rank_agreement`.

    Args:
        model: as in `regard.explain`.
        data: inputs, each as `regard.explain` takes it; one may be a batch. They are read one by one, and not kept.
        target: as in `regard.explain`, one for all. None: what the model predicts of each.
        attention, posthoc: methods, each a name or (name, options). The method `random` is always added, as the floor.
        baseline: of the methods that take one, as in `regard.explain`.
        top: the share of the units that counts as "the highest": k = max(1, ⌈top · n⌉).
        unit: "token" for the model's own tokens also where words are known. stream: whose; default: the picture's, else the
            longest text's.
        names: what the inputs are called. groups: a value for each input; inputs with the same value (crops of one photograph)
            are drawn together in intervals. Default: every sample stands alone.
        seed: of methods that draw. told: called before each input. explained: what is called instead of `regard.explain`.
        options: as in `regard.explain`; a method's option goes to all methods that take it.

    An input that cannot be explained, or has fewer than 8 units, is left out, and so is a method that fails on an input; the
    result counts both, and says why.

    Raises Misuse, UnknownName for what cannot be asked, and where nothing can be compared; the first error, where all fail.
    """
    need("eval")
    _check(data, top, target)
    asked = HowTested.checked(unit=unit, stream=stream)
    methods = _methods(attention, posthoc, options, baseline)
    refuse(model, bool(options.get("training")))
    how = {"seed": seed, **{k: v for k, v in options.items() if k in _GENERAL}}
    maps = InputMaps(model, target, explained, how, _together(methods, unit or "word"))
    run = Comparing(methods, maps, asked, float(top))
    total = len(data) if isinstance(data, Sized) else 0
    for number, (item, name, group) in enumerate(zip(data, _beside(names), _beside(groups), strict=False)):
        if told is not None:
            told(name or f"input {number}", number, total)
        run.add(item, number, name, group)
    return run.result(type(model).__name__, seed)


_GENERAL = {f.name for f in dataclasses.fields(Settings)} - {"seed", "measure", "baseline", "site"}
"""Options of `explain` itself; a site is a method's: ("revised_ig", {"site": "input"})."""


def _check(data: Any, top: Any, target: Any) -> None:
    """Misuse for data that is one input, several targets, and a share that is none."""
    if isinstance(data, str | bytes | Mapping | Tensor) or not isinstance(data, Iterable):
        raise Misuse(
            f"data is a list of inputs, or yields them one by one; not a {type(data).__name__}: put it in a list"
        )
    if isinstance(target, list):
        raise Misuse("one target can be compared, the same for all inputs; give one")
    if isinstance(top, bool) or not isinstance(top, int | float) or not 0 < top <= 0.5:
        raise Misuse(f"top is the share of the units that counts as the highest, above 0 and at most 0.5, not {top!r}")


def _beside(values: Iterable[Any] | None) -> Iterator[Any]:
    """One value an input; None for those that have none."""
    return itertools.chain(() if values is None else values, itertools.repeat(None))


# -- methods --------------------------------------------------------------------------------------------------------------


def _methods(
    attention: Sequence[Choice], posthoc: Sequence[Choice], options: Mapping[str, Any], baseline: Any
) -> list[ComparedMethod]:
    """All that are compared, their options checked. Raises Misuse where a kind is empty or a method is named twice."""
    kinds: dict[str, Sequence[Choice]] = {
        "attention": _listed(attention, "attention"),
        "posthoc": _listed(posthoc, "posthoc"),
        "floor": [FLOOR],
    }
    found = [_method(choice, kind, options, baseline) for kind, some in kinds.items() for choice in some]
    titles = [m.title for m in found]
    if again := next((t for t in titles if titles.count(t) > 1), None):
        floor = "; random is always there" if again == FLOOR else ""
        raise Misuse(f"method {again!r} is named twice{floor}; leave one out")
    known = {o for m in found for o in method_row(m.name).options} | _GENERAL
    for name in options:
        if name not in known:
            raise nearest(name, known, "option")
    return found


def _listed(given: Any, kind: str) -> Sequence[Choice]:
    if isinstance(given, str) or not given:
        raise Misuse(f"{kind}= is a list of methods, at least one; not {given!r}")
    found: Sequence[Choice] = given
    return found


def _method(choice: Choice, kind: str, options: Mapping[str, Any], baseline: Any) -> ComparedMethod:
    """A method with its own options, and those for all that it takes."""
    made = MethodChoice.of(choice)
    row = method_row(made.name)
    made.check()
    if kind == "attention" and "maps" not in row.needs:
        raise Misuse(f"method {row.name!r} reads no attention map; name it among the post-hoc methods")
    shared = {k: v for k, v in options.items() if k in row.options}
    shared |= {"baseline": baseline} if row.explicit and baseline is not None else {}
    return ComparedMethod(made.title, row.name, kind, {**shared, **made.options})


def _together(methods: Sequence[ComparedMethod], unit: str) -> list[list[ComparedMethod]]:
    """Methods that one call of `explain` can be asked for: none twice, and no option of one that another takes otherwise."""
    groups: list[list[ComparedMethod]] = []
    for m in methods:
        m = dataclasses.replace(m, options={**_of_units(m.name, unit), **m.options})
        home = next((g for g in groups if all(_can_share(m, other) for other in g)), None)
        groups.append([m]) if home is None else home.append(m)
    return groups


def _of_units(name: str, unit: str) -> dict[str, Any]:
    """What makes a method take away the very units that are compared."""
    return {k: v for k, v in {"unit": unit, "bow": False}.items() if k in method_row(name).options}


def _can_share(a: ComparedMethod, b: ComparedMethod) -> bool:
    return a.name != b.name and _takes(a, b) and _takes(b, a)


def _takes(a: ComparedMethod, b: ComparedMethod) -> bool:
    """Whether b's options mean to a what a is asked for; a baseline and a site are for all methods of a call."""
    own = method_row(a.name).options
    return all(a.options.get(k, own.get(k)) == v for k, v in b.options.items() if k in own or k in ("baseline", "site"))


# -- maps of one input ----------------------------------------------------------------------------------------------------


@dataclass
class InputMaps:
    """How maps of an input are made: calls of `explain`, each for some methods. A call that failed once is split for good."""

    model: nn.Module
    target: Any
    explained: Callable[..., Any]
    how: Mapping[str, Any]
    groups: list[list[ComparedMethod]]

    def of(self, item: Any) -> tuple[dict[str, Explanation], dict[str, Exception]]:
        """Method -> its explanation, and method -> why it has none."""
        made: dict[str, Explanation] = {}
        failed: dict[str, Exception] = {}
        waiting, tried = list(self.groups), list[list[ComparedMethod]]()
        while waiting:
            group = waiting.pop(0)
            try:
                made |= self._explained(item, group)
                tried.append(group)
            except Exception as e:  # whatever a user's model makes of an input
                if len(group) > 1:
                    waiting = [*([m] for m in group), *waiting]
                else:
                    failed[group[0].title] = e
                    tried.append(group)
        self.groups = tried if made else self.groups  # an input on which all fail says nothing of the methods
        return made, failed

    def _explained(self, item: Any, group: Sequence[ComparedMethod]) -> dict[str, Explanation]:
        options = {k: v for m in group for k, v in m.options.items()}
        found = self.explained(self.model, item, self.target, [m.name for m in group], **self.how, **options)
        if len(found) != len(group):
            raise Misuse(f"this input has {len(found)} maps for {len(group)} methods; name one target")
        return {m.title: e for m, e in zip(group, found, strict=True)}


@dataclass
class Comparing:
    """The run over all inputs: what was compared so far."""

    methods: Sequence[ComparedMethod]
    maps: InputMaps
    asked: HowTested
    top: float
    inputs: list[ComparedInput] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    shown: tuple[ShownInput, ...] = ()
    first: Exception | None = None

    def add(self, item: Any, number: int, name: str | None, group: Any) -> None:
        """Compare the maps of one input, or of each sample of a batch."""
        made, failed = self.maps.of(item)
        if not made:
            self._failed(name or f"input {number}", next(iter(failed.values())))
            return
        one = next(iter(made.values()))
        try:
            samples = one.late_test.units(one, self.asked)
        except Exception as e:
            self._failed(name or f"input {number}", e)
            return
        for row, units in enumerate(samples):
            called = _name(one, units.stream, row, number, len(samples), name)
            self.left_out += [LeftOut(called, said(e), title) for title, e in failed.items()]
            self._compare(made, row, units, called, (number, row) if group is None else group)

    def _failed(self, name: str, error: Exception) -> None:
        self.first = self.first or error
        self.left_out.append(LeftOut(name, said(error)))

    def _compare(self, made: Mapping[str, Explanation], row: int, units: UnitTokens, name: str, group: Any) -> None:
        """One sample: its numbers, and its maps where they are to be shown."""
        n = len(units.tokens)
        if n < LEAST:
            self.left_out.append(LeftOut(name, f"{FEW} ({n}; at least {LEAST} are needed)"))
            return
        scores = np.stack([self._scores(made.get(m.title), m.title, row, units, name) for m in self.methods])
        signed = [m.title in made and made[m.title].signed for m in self.methods]
        k, one = max(1, math.ceil(self.top * n - 1e-9)), next(iter(made.values()))
        values = agreements(scores, signed, k)
        about = (units.stream, units.unit, n, k, one.target, class_name(one, row))
        self.inputs.append(ComparedInput(name, group, *about, values))
        self._show(made, row, self._agreement(values["kendall"]))

    def _scores(self, exp: Explanation | None, title: str, row: int, units: UnitTokens, name: str) -> Numbers:
        """One score a unit, the sum over its tokens; NaN where there is no map of these tokens."""
        if exp is None:
            return np.full(len(units.tokens), np.nan)
        batch = exp.scores.get(units.stream)
        if batch is None or batch.shape[1] != units.length:
            cells = 0 if batch is None else batch.shape[1]
            reason = f"its map has {cells} cells where the model has {units.length} tokens of {units.stream}"
            self.left_out.append(LeftOut(name, reason, title))
            return np.full(len(units.tokens), np.nan)
        own = batch[min(row, len(batch) - 1)].detach().double().cpu().numpy()
        return np.array([own[tokens].sum() for tokens in units.tokens])

    def _agreement(self, kendall: Any) -> float:
        """The mean over all pairs of an attention map and a post-hoc map."""
        some = [[i for i, m in enumerate(self.methods) if m.kind == kind] for kind in ("attention", "posthoc")]
        known = kendall[np.ix_(*some)]
        known = known[~np.isnan(known)]
        return float(known.mean()) if known.size else math.nan

    def _show(self, made: Mapping[str, Explanation], row: int, agreement: float) -> None:
        """Keep the maps of the last input, if they agree less or more than all before."""
        kept = extremes([*self.shown, ShownInput(self.inputs[-1], agreement, {})])
        own = {title: still(e[row]) for title, e in made.items()} if any(not s.maps for s in kept) else {}
        self.shown = tuple(s if s.maps else dataclasses.replace(s, maps=own) for s in kept)

    def result(self, model: str, seed: int) -> PosthocAgreement:
        """What was found. Raises the first error where all inputs failed, Misuse where there was nothing to compare."""
        if not self.inputs:
            if self.first is not None:
                raise self.first
            few = f"no input has {LEAST} words, patches or tokens ({len(self.left_out)} were given)"
            raise Misuse(f"nothing to compare: {few if self.left_out else 'there are no inputs'}")
        rest = (tuple(self.inputs), tuple(self.left_out), self.top, seed, model)
        return PosthocAgreement(tuple(self.methods), *rest, self.shown)


def _name(exp: Explanation, stream: str, row: int, number: int, count: int, given: str | None) -> str:
    """What an input is called: as it was named, else by its file or its words, else by its number."""
    raws = exp.inputs.get(stream, ())
    raw = raws[row] if row < len(raws) else None
    if given is None and isinstance(raw, Text):
        words = " ".join(raw.text.split())
        return words if len(words) <= NAMED else f"{words[: NAMED - 1]}…"
    if given is None and isinstance(raw, Picture) and not re.fullmatch(rf"{Picture.name}( \d+)?", raw.name):
        return raw.name  # of a file; else it is a number in a batch
    return (given or f"input {number}") + (f", sample {row}" if count > 1 else "")


__all__ = ["ATTENTION", "POSTHOC", "Comparing", "InputMaps", "attention_vs_posthoc"]
