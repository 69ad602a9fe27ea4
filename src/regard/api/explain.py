"""The one way through: inputs -> recording -> attribution -> receipt -> Explanation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from regard.api.causal_later import tested_or_noted
from regard.api.maps import row_options
from regard.api.one_target import one_target
from regard.api.shared_run import Settings, Watched
from regard.api.trusting import Judging
from regard.attribution.method import Method, OwnSite
from regard.attribution.table import METHODS
from regard.attribution.table import method as method_row
from regard.errors import Misuse, NoAttention, TrailLost, UnknownName, nearest
from regard.explanation.boxes import Found
from regard.explanation.explanation import Explanation
from regard.explanation.explanations import Explanations
from regard.explanation.raw_inputs import Reading
from regard.explanation.trust import LateTrust
from regard.guide import Guide
from regard.recording import Recording, record, record_inputs
from regard.recording.ambient import Surroundings, our_own
from regard.recording.backward import RuleSet
from regard.recording.inputs import Inputs, is_mask
from regard.recording.interrupted import left_as_found
from regard.recording.proof.verify import verify as proof_of
from regard.recording.random_state import rng_kept
from regard.recording.refusals import refuse
from regard.recording.relevance.readout import Readout, check_readout
from regard.site import Site
from regard.target import Target

Find = Callable[[Any], Sequence[Target | Found]]
"""What finds targets in a model's output: targets, or objects, whose class at their query is explained."""


def explain(
    model: nn.Module,
    inputs: Any,
    target: Any = None,
    method: str | Sequence[str] = "gae",
    baseline: Any = None,
    site: Any = None,
    readout: Readout = None,
    measure: str = "lazy",
    *,
    streams: Mapping[str, Any] | None = None,
    seed: int = 0,
    training: bool = False,
    memory_budget: int | str | None = None,
    verify: bool = False,
    batch_axis: Any = 0,
    **options: Any,
) -> Explanation | Explanations:
    """Tell what a model's prediction rests on.

    Args:
        model: any nn.Module, used as it is, and left as found (also after an error).
        inputs: a dict of keyword tensors (as from a Hugging Face processor), a tensor, or a tuple of tensors. A dict, list,
            named tuple or dataclass that is one argument is followed one level down: its streams are `batch.image`, `images.0`.
        target: None (the predicted class), an int or (batch,) tensor, a `Target`, a callable output -> (batch,), or a list
            of these: several targets share one forward pass and take one gradient each.
        method: a name or a list of names from `regard.methods()`; they share one recording.
        baseline: for methods that take one; the others have their own (see `regard.methods()`). A `Baseline`, a tensor of the
            input's shape, 0, or words such as "blur:5".
        site: for methods that take one, likewise.
        readout: the rows that the target reads: None (found from the gradient), "cls", "last", "mean", a position, or
            weights (batch, tokens) over the query tokens of the last attention call.
        streams: whose tokens calls read, where the trail is lost or you know better: a dict from a stream's name to an
            attention call (its number, or the path of a module), to `{"call": ..., "side": ..., "at": ..., "grid": ...}`, or to
            `{"axis": ...}`, the token axis of that input.
        measure: "lazy" runs `output_difference` and the attribution error when first read; "full" at once; "causal" also the
            causal test of every map (`Explanation.test`).
        seed: for methods that draw.
        training: explain a model in train mode nevertheless.
        memory_budget: bytes (or "512MB") that rebuilt attention rows, and runs side by side (nodes of a path), may take at a
            time, beside the model's own pass; None: 1 GB. A smaller budget costs time, never exactness.
        verify: prove first that rows are the tokens that the map says they are (`regard.verify`); what was found is noted on
            the receipt, and its passes are counted there.
        batch_axis: the axis of the inputs that is the samples': 1 for (tokens, batch, width), PyTorch's own default; None where
            there is none, (tokens, width); or a dict from an input's name to its axis (0 for those that it does not name).
        options: options of the method (`regard.methods()`), e.g. `sign="signed"`.

    Returns:
        One Explanation; or, where `method` or `target` is a list, a flat list, methods outer, targets inner.

    Raises:
        Misuse: what the caller can mend; its kinds are in `regard.errors`.
        NonFinite: NaN or infinite values.
        Contradicted: `verify` finds that a map would be wrong.
    """
    how = Settings(baseline, site, readout, measure, streams, seed, training, memory_budget, verify, batch_axis)
    targets = target if isinstance(target, list) else [target]
    found = _explained(model, inputs, targets, method, how, options)
    return found[0] if isinstance(method, str) and not isinstance(target, list) else found


def explain_reading(
    model: nn.Module, reading: Reading, target: Any = None, method: str | Sequence[str] = "gae", **options: Any
) -> Explanation | Explanations:
    """`explain` what a reader made of raw inputs: its Explanations keep these, and know the names of classes."""
    how = Settings.taken(options)
    targets = target if isinstance(target, list) else [target]
    found = _explained(model, reading.inputs, targets, method, how, options, reading)
    return found[0] if isinstance(method, str) and not isinstance(target, list) else found


def explain_found(
    model: nn.Module, reading: Reading, find: Find, method: str | Sequence[str] = "gae", **options: Any
) -> Explanations:
    """`explain_reading` of all targets that `find` finds in the model's output: a flat list, methods outer, targets inner."""
    return _explained(model, reading.inputs, [], method, Settings.taken(options), options, reading, find)


@left_as_found
def _explained(
    model: nn.Module,
    inputs: Any,
    targets: list[Any],
    method: str | Sequence[str],
    how: Settings,
    options: dict[str, Any],
    reading: Reading | None = None,
    find: Find | None = None,
) -> Explanations:
    """Explanations of all targets by all methods: methods outer, targets inner."""
    names = [method] if isinstance(method, str) else _names(method)
    _refuse_joined(names)
    how = how.read()
    if not names or not (targets or find):
        raise Misuse("nothing to explain: the list of methods or of targets is empty")
    rows = [method_row(n) for n in names]
    _check(rows, options, how)
    options = {name: value for row in rows for name, value in row.checked(options).items()}
    if "guide" in options:
        options = {k: v for k, v in options.items() if k != "guide"} | _guided(options["guide"])
    wanted: list[tuple[Target, Found | None]] = [(Target.make(t), None) for t in targets]
    started = time.perf_counter()
    refuse(model, how.training)
    around = Surroundings.now()
    given = Inputs.of(model, inputs, how.batch_axis)
    proof = proof_of(model, given, **how.of_recording()).check() if how.verify else None
    plain: dict[Any, Any] = {}
    made: dict[tuple[int, int], Explanation] = {}
    with rng_kept(model) as rng, our_own():
        for rules, group in _by_rules(rows, options).items():
            recording = _recorded(model, given, [rows[m] for m in group], how, rules, options, rng)
            watched = Watched(recording, reading or Reading({}), how, rng, around, proof, plain=plain)
            if find:
                wanted, find = [_target_of(thing) for thing in find(recording.output)], None
            watched.seconds = time.perf_counter() - started
            watched.targets = [wish for wish, _ in wanted]
            for watched.number, (wish, found) in enumerate(wanted):
                t = watched.number
                maps = one_target(watched, wish, [rows[m] for m in group], options, keep=t < len(wanted) - 1)
                for m, explanation in zip(group, maps, strict=True):
                    explanation.found = found
                    made[m, t] = explanation
            started = time.perf_counter()
    every = Explanations(made[m, t] for m in range(len(rows)) for t in range(len(wanted)))
    for explanation in every:
        explanation.late_trust = LateTrust(Judging(model, explain, vars(how)))
    if how.measure == "causal":
        for explanation in every:
            tested_or_noted(explanation)
    return every


def _guided(guide: Any) -> dict[str, Any]:
    """A guide as an option, read; none at all is no option."""
    made = Guide.make(guide)
    return {} if made is None else {"guide": made}


def _by_rules(rows: Sequence[Method], options: dict[str, Any]) -> dict[RuleSet | None, list[int]]:
    """The numbers of methods that share one recording: by how gradients flow in it."""
    groups: dict[RuleSet | None, list[int]] = {}
    for m, row in enumerate(rows):
        groups.setdefault(row.rule_set(row_options(row, options)), []).append(m)
    return groups


def _recorded(
    model: nn.Module,
    inputs: Inputs,
    rows: Sequence[Method],
    how: Settings,
    rules: RuleSet | None,
    options: dict[str, Any],
    rng: Any,
) -> Recording:
    """One run, watched as closely as the methods need it: their maps, the states between blocks, or the inputs alone."""
    torch.set_rng_state(rng[0])
    followers = [row.name for row in rows if row.follows_maps(how.site)]
    plain = not followers and how.readout is None and how.streams is None and rules is None
    if plain and _inputs_suffice(inputs, rows, how.site):
        several = any(len(t) > 1 for name, t in inputs.tensors.items() if not is_mask(name, t))
        gradient = several or any("gradient" in row.needs for row in rows)  # several: whether they rest on one another
        return record_inputs(model, inputs, gradient=gradient, budget=how.memory_budget)
    try:
        return record(
            model,
            inputs,
            memory_budget=how.memory_budget,
            states=any("states" in row.kept(options) or "block" in row.sites for row in rows),
            branches=any("branches" in row.kept(options) for row in rows),
            maps=bool(followers) or how.readout is not None,
            checked=True,
            rules=rules,
            correctable=any(row_options(row, options).get("correction") == "complete" for row in rows),
            **how.of_recording(),
        )
    except (NoAttention, TrailLost) as e:
        if not followers:
            raise
        none = ", ".join(
            row.name for row in METHODS.values() if not (row.follows_maps(None) or row.floor or row.only_of)
        )
        raise type(e)(f"method {followers[0]!r} needs attention maps: {e}; methods that need none: {none}") from None


def _inputs_suffice(inputs: Inputs, rows: Sequence[Method], site: Site | None) -> bool:
    """Whether no more is to be known of the run than how its inputs are cut into tokens: gradients at pixels or features.

    Ids may be embedded once more at any time, and a baseline of ids leaves the position that the run's last attention reads.
    """
    if any(row.site not in (OwnSite.INPUT, OwnSite.NONE) for row in rows) or (
        site is not None and site.kind != "input"
    ):
        return False
    if any("calls" in row.needs for row in rows):
        return False
    read = {name: t for name, t in inputs.tensors.items() if not is_mask(name, t)}
    alike = {inputs.axis(name) for name in inputs.tensors} == {0} and len({len(t) for t in read.values()}) == 1
    return alike and not inputs.caches and all(t.is_floating_point() for t in read.values())


def _target_of(thing: Target | Found) -> tuple[Target, Found | None]:
    """What was found as a target: of an object the logit of its class at its query, with its name."""
    if isinstance(thing, Target):
        return thing, None
    named = f"query {thing.query}: logit of {thing.label!r}"
    return Target.detection(thing.query, thing.index).named(named), thing


def _names(method: Any) -> list[str]:
    if not isinstance(method, list | tuple) or not all(isinstance(name, str) for name in method):
        raise Misuse(f"a method is a name of regard.methods(), or a list of names; not {method!r}")
    return list(method)


def _refuse_joined(names: Sequence[str]) -> None:
    """Several names in one string, or all of them, as the command line has them."""
    if "all" in names:
        raise Misuse(
            "method='all' is for the command line; in Python give a list of names, as those of regard.methods(), or use "
            "regard.compare"
        )
    for joined in (name for name in names if "," in name):
        listed = [name.strip() for name in joined.split(",") if name.strip()]
        raise Misuse(f"several methods are a list: method={listed}, not {joined!r}")


def _check(rows: Sequence[Method], options: dict[str, Any], how: Settings) -> None:
    for name in options:
        if not any(name in row.options for row in rows):
            raise _unknown(name, rows)
    for row in rows:
        own = f"it has its own (site {row.site}, baseline {row.baseline})"
        if how.baseline is not None and not row.explicit:
            raise Misuse(f"no baseline can be given to method {row.name!r}, {own}")
        if how.site is not None and getattr(how.site, "kind", None) not in row.sites:
            can = f"it takes {', '.join(row.sites)}" if row.sites else own
            raise Misuse(f"site {getattr(how.site, 'label', how.site)!r} cannot be given to method {row.name!r}: {can}")
    check_readout(how.readout)


PLURALS = {"methods": "method", "targets": "target", "baselines": "baseline", "sites": "site", "readouts": "readout"}
"""Arguments of `explain` as people write them who have several."""


def _unknown(name: str, rows: Sequence[Method]) -> Misuse:
    """What to say of an option that no method takes."""
    if name in PLURALS:
        several = ", and takes a list, too" if name in ("methods", "targets") else ""
        return Misuse(f"there is no argument {name}=: it is called {PLURALS[name]}={several}")
    named = ", ".join(repr(row.name) for row in rows)
    known = {option for row in rows for option in row.options}
    if not known:
        takes = "takes no option" if len(rows) == 1 else "take no options"
        return UnknownName(f"unknown option {name!r}: {named} {takes}")
    return nearest(name, known, "option")
