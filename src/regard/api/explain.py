"""The one way through: inputs -> recording -> attribution -> receipt -> Explanation."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regard.attribution.attention.path_rules import Fusion, Preset, relevance, rows_between
from regard.attribution.context import Context, LateReadout, summed
from regard.attribution.integral.baseline_values import zero_of
from regard.attribution.integral.path import Path
from regard.attribution.rerun import Rerun
from regard.attribution.table import METHODS, Method
from regard.attribution.table import method as method_row
from regard.baseline import Baseline
from regard.errors import Misuse, ModelError, NoAttention, NonFinite, TargetError, TrailLost, Unmoved, nearest
from regard.explanation.boxes import Found
from regard.explanation.explanation import Explanation
from regard.explanation.places import WHOLE, Grid, Raster
from regard.explanation.raw_inputs import Reading
from regard.explanation.receipt import Measured, Receipt
from regard.explanation.token_rows import Between
from regard.recording import AttentionCall, Gradients, Recording, Stream, record, record_inputs
from regard.recording.calls.rebuild import budget_of
from regard.recording.edits import Edit, Replace, Scale
from regard.recording.gradient import gradient
from regard.recording.independence import TINY, crossing
from regard.recording.inputs import CACHES, first
from regard.recording.inputs import Inputs as Given
from regard.recording.proof.verify import Verification
from regard.recording.proof.verify import verify as proof_of
from regard.recording.recorder import run
from regard.recording.recording import cut_off
from regard.recording.refusals import (
    Readout,
    Surroundings,
    as_the_user,
    check_readout,
    floats_in,
    is_mask,
    our_own,
    refuse,
)
from regard.recording.relevance.left_behind import left_behind
from regard.recording.relevance.propagation import Relevance
from regard.recording.relevance.readout import found_from_the_gradient, read_after_blocks, read_out
from regard.recording.tokens import rasters as layouts
from regard.recording.tokens.rereads import reread
from regard.recording.tokens.tracker import STRIDE
from regard.site import Site
from regard.target import Target, Value

CROSSED = (
    "samples are not independent here: each target was explained alone; its row of a map shows the sample that it reads"
)
MIXED = (
    "samples are not independent here: the target of one reads others as well (similarities in a batch, batch statistics). "
    "Each was explained alone, and its row of a map shows its own sample; what it owes to the others is left out"
)


@dataclass
class Watched:
    """What one call of `explain` shares among its methods and targets."""

    recording: Recording
    reading: Reading
    readout: Readout
    measure: str
    seed: int
    rng: Any
    training: bool
    around: Surroundings
    streams: Any = None
    site: Site | None = None
    baseline: Any = None
    proof: Verification | None = None
    seconds: float = 0.0
    plain: dict[str, Any] = field(default_factory=dict)


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
    _reading: Reading | None = None,
    _found: Callable[[Any], list[Found]] | None = None,
    _targets: Callable[[Any], list[Target]] | None = None,
    **options: Any,
) -> Explanation | list[Explanation]:
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
        measure: "lazy" runs `faithful` and the attribution error when first read; "full" at once.
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
    names = [method] if isinstance(method, str) else _names(method)
    targets = target if isinstance(target, list) else [target]
    baseline = Baseline.make(baseline)
    if not names or not targets:
        raise Misuse("nothing to explain: the list of methods or of targets is empty")
    rows = [method_row(n) for n in names]
    _check_kinds(seed, readout, memory_budget)
    seed, memory_budget = int(seed), budget_of(memory_budget)
    _check(rows, options, baseline, site, measure, readout)
    searched = _found is not None or _targets is not None  # targets are what is found in the output
    wanted = [] if searched else [Target.make(t) for t in targets]
    started = time.perf_counter()
    refuse(model, training)
    around = Surroundings.now()
    inputs = Given.of(model, inputs, batch_axis)
    proof = (
        proof_of(model, inputs, streams=streams, training=training, batch_axis=batch_axis).check() if verify else None
    )
    with rng_kept(model) as rng, our_own():
        recording = _recorded(model, inputs, rows, site, readout, streams, training, memory_budget, batch_axis)
        reading = _reading or Reading({})
        watched = Watched(
            recording, reading, readout, measure, seed, rng, training, around, streams, site, baseline, proof
        )
        objects = [] if _found is None else _found(recording.output)
        wanted += [_of_object(found) for found in objects] + ([] if _targets is None else _targets(recording.output))
        watched.seconds = time.perf_counter() - started
        done = [_one_target(watched, t, rows, options, keep=i < len(wanted) - 1) for i, t in enumerate(wanted)]
    for of_target, found in zip(done, objects, strict=False):
        for exp in of_target:
            exp.found = found
    flat = [done[t][m] for m in range(len(rows)) for t in range(len(wanted))]
    if searched:
        return flat
    return flat[0] if isinstance(method, str) and not isinstance(target, list) else flat


def _recorded(
    model: nn.Module,
    inputs: Given,
    rows: Sequence[Method],
    site: Site | None,
    readout: Readout,
    streams: Any,
    training: bool,
    memory_budget: int | str | None,
    batch_axis: Any,
) -> Recording:
    """One run, watched as closely as the methods need it: their maps, the states between blocks, or the inputs alone."""
    followers = [row.name for row in rows if row.follows_maps(site)]
    if not followers and readout is None and streams is None and _inputs_suffice(inputs, rows, site):
        several = any(len(t) > 1 for name, t in inputs.tensors.items() if not is_mask(name, t))
        gradient = several or any("gradient" in row.needs for row in rows)  # several: whether they rest on one another
        return record_inputs(model, inputs, gradient=gradient, budget=memory_budget)
    try:
        return record(
            model,
            inputs,
            streams=streams,
            training=training,
            memory_budget=memory_budget,
            states=any("states" in row.keeps or "block" in row.sites for row in rows),
            branches=any("branches" in row.keeps for row in rows),
            batch_axis=batch_axis,
            maps=bool(followers) or readout is not None,
            checked=True,
        )
    except (NoAttention, TrailLost) as e:
        if not followers:
            raise
        none = ", ".join(row.name for row in METHODS.values() if not row.follows_maps(None) and row.name != "random")
        raise type(e)(f"method {followers[0]!r} needs attention maps: {e}; methods that need none: {none}") from None


def _inputs_suffice(inputs: Given, rows: Sequence[Method], site: Site | None) -> bool:
    """Whether no more is to be known of the run than how its inputs are cut into tokens: gradients at pixels or features.

    Ids may be embedded once more at any time, and a baseline of ids leaves the position that the run's last attention reads.
    """
    if any(row.site not in ("input", "none") for row in rows) or (site is not None and site.kind != "input"):
        return False
    read = {name: t for name, t in inputs.tensors.items() if not is_mask(name, t)}
    alike = {inputs.axis(name) for name in inputs.tensors} == {0} and len({len(t) for t in read.values()}) == 1
    return alike and not inputs.caches and all(t.is_floating_point() for t in read.values())


def _of_object(found: Found) -> Target:
    """The logit of a found object's class at its query, with its name."""
    return Target.detection(found.query, found.index).named(f"query {found.query}: logit of {found.label!r}")


def _names(method: Any) -> list[str]:
    if not isinstance(method, list | tuple) or not all(isinstance(name, str) for name in method):
        raise Misuse(f"a method is a name of regard.methods(), or a list of names; not {method!r}")
    return list(method)


def _check_kinds(seed: Any, readout: Any, memory_budget: Any) -> None:
    """Refuse values that are not of their kind."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= int(seed) < 1 << 63:
        raise Misuse(f"a seed is a whole number from 0 on, not {seed!r}")
    if isinstance(readout, bool) or not (readout is None or isinstance(readout, str | int | Tensor)):
        raise Misuse(
            "readout is 'cls', 'last' or 'mean', the position of a token, or weights (batch, tokens) in a tensor; not "
            f"{readout!r}"
        )
    if not isinstance(memory_budget, str | int | float | None):
        raise Misuse(f'memory_budget is a number of bytes, or like "512MB"; not {memory_budget!r}')


def _check(
    rows: Sequence[Method], options: dict[str, Any], baseline: Any, site: Any, measure: str, readout: Readout
) -> None:
    for name in options:
        if not any(name in row.options for row in rows):
            raise nearest(name, {o for row in rows for o in row.options} or {"(none)"}, "option")
    if measure not in ("lazy", "full"):
        raise nearest(str(measure), ("lazy", "full"), "measure")
    for row in rows:
        own = f"it has its own (site {row.site}, baseline {row.baseline})"
        if baseline is not None and not row.explicit:
            raise Misuse(f"no baseline can be given to method {row.name!r}, {own}")
        if site is not None and getattr(site, "kind", None) not in row.sites:
            can = f"it takes {', '.join(row.sites)}" if row.sites else own
            raise Misuse(f"site {getattr(site, 'label', site)!r} cannot be given to method {row.name!r}: {can}")
    check_readout(readout)


# -- one target -------------------------------------------------------------------------------------------------------


def _one_target(
    w: Watched, target: Target, rows: Sequence[Method], options: dict[str, Any], keep: bool
) -> list[Explanation]:
    recording = w.recording
    with torch.enable_grad(), as_the_user():
        target = target.on(recording.model, recording.output)
        value = target.value(recording.output, recording.inputs)
    if not bool(torch.isfinite(value.y).all()):
        values = value.y.detach().tolist()
        raise NonFinite(
            f"the target ({target.label}) is not a finite number: {values}; the model's output holds NaN or infinity"
        )
    value = _by_sample(recording, value)
    crossed, told = (False, 0) if value.shared else crossing(recording, value.y)
    value = replace(value, shared=True) if crossed else value
    with torch.enable_grad():
        parts = value.y.split(1) if value.shared else (value.y,)
    again = Rerun(
        recording.model, recording.given, target, recording.batch, value.explained, value.rival, w.streams, w.rng[0],
        in_place=not recording.whole,
    )  # fmt: skip
    maps = [
        _maps(w, y, replace(again, shared=i if value.shared else None), rows, options, keep or i < len(parts) - 1)
        for i, y in enumerate(parts)
    ]
    shown = [m.shown(i) for i, m in enumerate(maps)] if value.shared else []
    mixed = crossed and any(m.reads_more(s) for m, s in zip(maps, shown, strict=True))
    out = []
    for row in rows:
        relevance = maps[0].relevance[row.name]
        if value.shared:
            relevance = torch.stack([m.of_samples(row.name, s) for m, s in zip(maps, shown, strict=True)])
        seconds = w.seconds + sum(m.seconds[row.name] for m in maps)
        exp = _explanation(w, maps, target, value, row, _own(row, options), relevance, seconds)
        exp.receipt.passes += told
        exp.receipt.complete &= not mixed
        exp.receipt.notes += [MIXED if mixed else CROSSED] if crossed else []
        exp.inputs = (
            {n: _as_shown(raw, [s[n] for s in shown]) for n, raw in exp.inputs.items()} if shown else exp.inputs
        )
        out.append(exp)
    return out


def _as_shown(raw: Sequence[Any], samples: Sequence[int]) -> Sequence[Any]:
    """Raw inputs of the samples that rows of a map show."""
    return [raw[i] for i in samples] if max(samples) < len(raw) else raw


@dataclass
class Maps:
    """The relevance (batch, row) that each method gives for one y, padding at zero, and how it was come by."""

    context: Context
    readout: LateReadout
    contexts: dict[str, Context] = field(default_factory=dict)
    relevance: dict[str, Relevance] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    read_by: dict[str, bool] = field(default_factory=dict)

    def shown(self, sample: int) -> dict[str, int]:
        """The sample of each stream that is shown for one sample's y: its own, or (a picture and any text) another."""
        weights: dict[str, Tensor] = {}
        read = self.context.r if self.context.recording.whole else self.moved()
        for stream in self.context.recording.streams:
            weights[stream.name] = weights.get(stream.name, 0) + read[:, stream.rows].sum(1)
        return {n: sample if bool(w[sample]) or not bool(w.any()) else int(w.argmax()) for n, w in weights.items()}

    def moved(self) -> Tensor:
        """Where any of the maps has relevance, for a run whose read-out is not followed: (batch, row), its size."""
        return sum((r.abs() for r in self.relevance.values()), self.context.recording.zeros())

    def of_samples(self, name: str, shown: Mapping[str, int]) -> Tensor:
        """(row,) of the samples that are shown."""
        relevance = self.relevance[name]
        out = torch.zeros(relevance.shape[1], dtype=torch.float32)
        recording = self.context.recording
        for stream in recording.streams:
            one = _has_samples(recording, stream) and recording.given.batch(stream.name) == 1
            rows = relevance[:, stream.rows]
            out[stream.rows] = rows.sum(0) if one else rows[shown[stream.name]]
        return out

    def reads_more(self, shown: Mapping[str, int]) -> bool:
        """Whether y has a gradient at samples that are not shown."""
        for leaf, g in self.context.gradients.inputs.items():
            at = shown.get(leaf.partition("#")[0])
            g = first(g, self.context.recording.axis(leaf))
            if at is not None and len(g) == self.context.recording.batch:
                size = g.flatten(1).double().norm(dim=1)
                size[at] = 0
                if bool((size > TINY * g.double().norm()).any()):
                    return True
        return False


def _cut_run(again: Rerun, edits: Sequence[Edit]) -> tuple[Sequence[AttentionCall], Tensor]:
    """The calls and y of a run with edits."""
    made = again.run(edits)
    return made.calls, again.y(made.output)


def _maps(w: Watched, y: Tensor, again: Rerun, rows: Sequence[Method], options: dict[str, Any], keep: bool) -> Maps:
    """One gradient, one walk for all methods of the attention family, and the other methods."""
    started = time.perf_counter()
    recording = w.recording
    more = not recording.whole or bool(recording.rereads)  # the read-out takes a gradient of its own
    beyond = again.shared is not None or not all(row.preset for row in rows)  # who reads the gradients at the inputs
    gradients = recording.gradients_later(y, keep=keep or more, inputs=beyond)
    readout = LateReadout(lambda: _read_out(recording, y, gradients, w.readout, again))
    context = Context(recording, gradients, readout, w.seed, w.site, w.baseline, again, w.reading)
    context.asked = w.readout is not None
    maps = Maps(context, readout)
    made = {
        row.name: row.function(**_own(row, options)) if row.preset else partial(row.function, **_own(row, options))
        for row in rows
    }
    chosen = {name: m.chosen(recording) for name, m in made.items() if isinstance(m, Preset)}
    made |= {name: m for name, (m, _) in chosen.items()}
    presets = {name: p for name, p in made.items() if isinstance(p, Preset | Fusion)}
    _refuse_cut(recording, rows, presets, w.site)
    walks = relevance(recording, gradients, dict(readout.items()), [*presets.values()]) if presets else []
    walked = dict(zip(presets, walks, strict=True))
    hidden = recording.hidden()
    earlier = reread(recording, y) if any(row.follows_maps(w.site) for row in rows) and w.readout is None else []
    shared = time.perf_counter() - started
    for row in rows:
        since = time.perf_counter()
        context = maps.contexts[row.name] = replace(maps.context, notes=[])
        context.notes += earlier if row.follows_maps(w.site) else []
        if row.name in chosen and chosen[row.name][1]:
            context.notes.append(chosen[row.name][1])
        readout.asked = False
        found = walked[row.name] if row.name in walked else made[row.name](context)
        maps.read_by[row.name] = readout.asked
        wanted = (recording.batch, recording.rows)
        if not isinstance(found, Tensor) or found.shape != wanted:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise Misuse(f"method {row.name!r} must return (batch, row) = {wanted}, not {shape}")
        found = recording.settled(found).masked_fill(hidden, 0.0)
        if not bool(torch.isfinite(found).all()):
            raise NonFinite(f"method {row.name!r} gave a map that is not finite; are the model's gradients finite?")
        maps.relevance[row.name] = found
        maps.seconds[row.name] = shared + time.perf_counter() - since
    return maps


def _refuse_cut(
    recording: Recording, rows: Sequence[Method], presets: Mapping[str, Preset | Fusion], site: Site | None
) -> None:
    """A method that needs the gradients of attention calls gives no map of zeros where all are cut out of the graph."""
    plain = {name for name, p in presets.items() if not any(q.gradient for q in p.presets)}
    gradients = any(row.follows_maps(site) and row.name not in plain for row in rows)
    if gradients and recording.calls and all(c.detached for c in recording.calls):
        raise ModelError(cut_off(recording.calls))


def _read_out(
    recording: Recording, y: Tensor, gradients: Gradients, readout: Readout, again: Rerun
) -> tuple[dict[int, Tensor], str]:
    """Which rows the target reads: in its last attentions, and as earlier ones left them; or, where no attention is followed,
    after the last block."""
    if readout is None and not recording.whole:
        return read_after_blocks(recording, y)
    try:
        found, how = read_out(recording, gradients, readout)
    except Unmoved as unmoved:
        raise _as_at_the_inputs(unmoved, recording, gradients, again) from None
    more = {} if readout is not None else left_behind(recording, gradients, y, found, partial(_cut_run, again))
    return ({**found, **more}, found_from_the_gradient(recording.streams, {**found, **more})) if more else (found, how)


def _as_at_the_inputs(unmoved: Unmoved, recording: Recording, gradients: Gradients, again: Rerun) -> Unmoved:
    """What to say where no attention call moves y: it may be constant, which the gradients at the inputs tell."""
    if gradients.inputs or not recording.leaves:
        return unmoved
    with torch.enable_grad():
        leaves = {k: x.detach().clone().requires_grad_() for k, x in recording.leaves.items()}
        y = again.y(again.output(leaves))
        found = gradient(y, [*leaves.values()]) if y.requires_grad else [None for _ in leaves]
    inputs = {k: torch.zeros_like(x) if g is None else g for (k, x), g in zip(leaves.items(), found, strict=True)}
    return Unmoved(recording.unmoved(Gradients(gradients.calls, inputs, gradients.value)))


def _by_sample(recording: Recording, value: Value) -> Value:
    """The value, with a gradient of its own for each sample where they share an input; one y may rest on several samples of
    an input (a picture, and the prompts that it is compared with). Raises TargetError for any other number of ys.
    """
    if len(value.y) not in recording.batches:
        sizes = ", ".join(str(b) for b in sorted(recording.batches))
        raise TargetError(
            f"the target gives {len(value.y)} numbers, but the inputs have {sizes} samples (along axis 0; batch_axis= names "
            "another, or None)"
        )
    if value.shared or len(value.y) == 1:
        return value
    given = {s.name: recording.given.batch(s.name) for s in recording.streams if _has_samples(recording, s)}
    for name, count in given.items():
        if count not in (1, len(value.y)):
            raise TargetError(
                f"input {name!r} has {count} samples, but the target gives {len(value.y)} numbers: give one number (of the one "
                f"sample that the others have), or one for each of the {count}"
            )
    return replace(value, shared=any(count == 1 for count in given.values()))


def _has_samples(recording: Recording, stream: Stream) -> bool:
    return stream.name in recording.given.tensors and not stream.packed and stream.kind == "input"


def _samples_of(recording: Recording, stream: Stream) -> int:
    """In how many samples a stream's rows stand."""
    if _has_samples(recording, stream) and stream.name not in recording.given.shared:
        return recording.given.batch(stream.name)
    ids = torch.cat([i.flatten() for c in recording.calls for i in (c.queries, c.keys)])
    mine = ids[(ids % STRIDE >= stream.first) & (ids % STRIDE < stream.first + stream.count)]
    return max(1, int(mine.max()) // STRIDE) if len(mine) else 1


def _own(row: Method, options: dict[str, Any]) -> dict[str, Any]:
    """Those of the given options that a method takes."""
    return {k: v for k, v in options.items() if k in row.options}


def _explanation(
    w: Watched,
    maps: Sequence[Maps],
    target: Target,
    value: Value,
    row: Method,
    options: dict[str, Any],
    relevance: Relevance,
    seconds: float,
) -> Explanation:
    recording, paths = w.recording, [p for m in maps if (p := m.contexts[row.name].reference) is not None]
    along = paths[0] if paths else None
    device = value.y.device
    streams = [s for s in maps[0].contexts[row.name].cells or recording.streams if s.shown]
    several = len(relevance) > len(value.y)  # one y that rests on several samples of some input
    counts = {s.name: _samples_of(recording, s) if several else len(relevance) for s in streams}
    scores = {s.name: relevance[: counts[s.name], s.rows].float().to(device) for s in streams}
    receipt = Receipt(
        method=row.name,
        target=target.label,
        target_value=value.y.detach().float().cpu(),
        baseline=row.baseline if along is None else along.baseline,
        site=row.site if along is None else along.site.label,
        readout=maps[0].contexts[row.name].read or _how_read(row, maps[0], w.site),
        attribution_sum=summed(relevance, len(value.y)),
        decomposes=row.decomposes,
        complete=along.complete if along is not None else not row.site.startswith("attention"),
        predicted=None if value.predicted is None else value.predicted.cpu(),
        explained=None if value.explained is None else value.explained.cpu(),
        passes=1
        + (len(value.y) if value.shared else 1)
        + sum(p.passes for p in paths)
        + _at_nodes(maps, row)
        + (w.proof.passes if w.proof else 0),
        seconds=seconds,
        versions=_versions(),
        seed=w.seed,
        notes=[*target.notes]
        + _notes(recording, row.follows_maps(w.site), along)
        + (w.proof.notes if w.proof else [])
        + [n for m in maps for n in m.contexts[row.name].notes]
        + _blind(streams, scores),
        _measure=_measurement(w, target, row, value, _finals(row, maps), paths),
    )
    if w.measure == "full":
        receipt.measure()
    fixed = target if value.explained is None else target.at(value.explained, value.rival)
    grid, rasters = _grids(recording, streams)
    return Explanation(
        method=row.name,
        target=target.label,
        scores=scores,
        receipt=receipt,
        grid=grid,
        inputs={k: v for k, v in w.reading.raw.items() if k in scores},
        labels=w.reading.labels,
        signed=row.is_signed(options),
        options=options,
        rasters=rasters,
        _looks=_between(w, fixed, value, row, options, receipt),
    )


def _how_read(row: Method, maps: Maps, site: Site | None) -> str:
    """Which rows the target was found to read; not asked where the method's formula has no read-out."""
    return maps.readout.how if row.follows_maps(site) or maps.read_by[row.name] else "not used by this method"


def _finals(row: Method, maps: Sequence[Maps]) -> tuple[int, ...]:
    """The calls of the attentions that the target reads, where they are what the method is measured against."""
    context = maps[0].context
    if row.site != "attention[last]":
        return ()
    return tuple(c for a in context.readout for c in context.recording.attentions[a].calls)


def _grids(recording: Recording, streams: Sequence[Stream]) -> tuple[dict[str, Grid], dict[str, Raster]]:
    """The grids of streams that are pictures, and how tokens lie on them."""
    grid: dict[str, Grid] = {s.name: s.grid for s in streams if s.grid is not None}
    rasters = {s.name: Raster(s.window) for s in streams if s.window is not None and s.window != WHOLE}
    merge = layouts.merge_size(getattr(recording.model, "config", None))
    for stream in streams:
        every = layouts.grids(stream.name, stream.count, recording.inputs, merge) if stream.packed else None
        if every is not None:
            grid[stream.name] = every[0] if len(every) == 1 else every
            rasters[stream.name] = Raster(order=tuple(layouts.order(every, merge).tolist()))
    return grid, rasters


def _at_nodes(maps: Sequence[Maps], row: Method) -> int:
    """Forward and gradient passes of a method that runs points on its own, two each."""
    return sum(2 * m.contexts[row.name].nodes for m in maps)


def _between(
    w: Watched, target: Target, value: Value, row: Method, options: dict[str, Any], receipt: Receipt
) -> Between:
    """How rows of one stream that look at another are found when they are asked for: in a run of their own, as `measure` is."""
    method = row.function(**options) if row.preset else None
    if not isinstance(method, Preset | Fusion):
        return Between(refused=f"method {row.name!r} as it was called follows no paths from token to token; use 'gae'")
    if value.shared or len(value.y) < w.recording.batch:
        return Between(
            refused="samples read tokens of one another here: explain one pair at a time to see who looks at whom"
        )
    model, inputs, rng, around, training = w.recording.model, w.recording.given, w.rng, w.around, w.training
    streams, budget, device = w.streams, w.recording.budget, value.y.device

    def compute(stream: str, tokens: list[int]) -> dict[str, Tensor]:
        refuse(model, training)
        with rng_kept(model, rng), around.again(), our_own():
            again = record(model, inputs, streams=streams, training=training, memory_budget=budget)
            with torch.enable_grad(), as_the_user():
                y = target.value(again.output, again.inputs).y
            rows = rows_between(again, again.gradients(y), method, stream, tokens)
        receipt.passes += 2
        hidden = again.hidden()
        maps = [again.settled(rows[:, i]).masked_fill(hidden, 0.0) for i in range(len(tokens))]
        whole = torch.stack(maps, 1).float().to(device)
        return {s.name: whole[..., s.rows] for s in again.streams if s.shown}

    return Between(compute)


def _notes(recording: Recording, follows: bool, along: Path | None) -> list[str]:
    """What a reader of the map should know of the run; of its attention only where the method follows it."""
    notes = recording.said.sentences() + (_of_attention(recording) if follows else []) + _of_packed(recording)
    notes += _of_caches(recording, follows)
    if recording.unseen:
        notes.append(
            f"values were written past autograd ({', '.join(recording.unseen)}): gradients are those of what stood there before"
        )
    if recording.guessed and along is not None and along.site.kind != "input":
        where = ", ".join(recording.guessed)
        notes.append(f"tokens after {where} are known by their place alone: how these blocks mix them is not followed")
    return notes


def _of_attention(recording: Recording) -> list[str]:
    notes = recording.doubts()
    if cut := [str(c.index) for c in recording.calls if c.detached]:
        notes.append(
            f"attention calls {', '.join(cut)} are cut out of the graph (no_grad or detach): they count as zero"
        )
    for name in dict.fromkeys(c.looks for c in recording.calls if c.looks):
        at = ", ".join(str(c.index) for c in recording.calls if c.looks == name)
        notes.append(
            f"attention calls {at} look at tokens of {name} and take the values of others, which alone get a score"
        )
    notes += recording.renamed + [n for a in recording.attentions for n in a.notes]
    if recording.mixers:
        where = ", ".join(_mixer(name, recording.modules.get(name, [])) for name in recording.mixers)
        notes.append(f"tokens are mixed outside attention ({where}), which maps do not follow")
    return notes


def _mixer(operation: str, modules: Sequence[str]) -> str:
    """An operation and the modules that use it; of many, the first."""
    named = [m for m in modules if m]
    if not named:
        return operation
    more = f" and {len(named) - 1} more" if len(named) > 1 else ""
    return f"{operation} in {named[0]}{more}"


def _of_packed(recording: Recording) -> list[str]:
    notes = []
    several = recording.batch > 1
    if several and (packed := {s.name: s.count for s in recording.streams if s.packed and s.kind != "merged"}):
        each = ", ".join(f"{name}: {count}" for name, count in packed.items())
        notes.append(f"tokens of all samples stand in one row ({each}); those of other samples score 0")
    return notes


def _of_caches(recording: Recording, follows: bool) -> list[str]:
    """A note on keys that come from a cache: they are tokens of no input, and what rests on them is in no map. A method that
    follows no keys has not counted them."""
    held = {n: c for n, c in recording.given.caches.items() if n.rpartition(".")[2] in CACHES} if not follows else {}
    if held:
        return [
            f"{', '.join(held)}: what rests on tokens in a cache is left out; give all tokens, and no cache, to have them"
        ]
    if not recording.given.caches or not follows:
        return []
    nobody = [int(((c.keys == 0) & ~c.dead_keys()).sum(1).max()) for c in recording.calls if not c.lost]
    if not any(nobody):
        return []
    most = nobody.index(max(nobody))
    return [
        f"{nobody[most]} of the {recording.calls[most].shape[3]} keys of attention call {most} come from "
        f"{', '.join(recording.given.caches)} and are no tokens of the inputs: what rests on them is left out; give all "
        "tokens, and no cache, to have them in the map"
    ]


def _blind(streams: Sequence[Stream], scores: Mapping[str, Tensor]) -> list[str]:
    """A note on inputs that a map leaves out as a whole; of one input alone it says nothing that the map does not."""
    inputs = [s.name for s in streams if s.of_input]
    none = [name for name in inputs if not bool(scores[name].any())]
    if not none or len(inputs) == 1:
        return []
    return [f"what this method follows does not reach {', '.join(none)}, which score 0"]


def _versions() -> dict[str, str]:
    from regard import __version__

    return {"regard": __version__, "torch": torch.__version__, "python": platform.python_version()}


# -- what costs extra passes ------------------------------------------------------------------------------------------


def _measurement(
    w: Watched, target: Target, row: Method, value: Value, finals: tuple[int, ...], paths: Sequence[Path]
) -> Callable[[], Measured]:
    """A closure for the receipt that does not hold the recording: only the model, its inputs, and the output."""
    model, inputs, named, rng = w.recording.model, w.recording.given, w.recording.inputs, w.rng
    returned, y = _detached(w.recording.returned), value.y.detach()
    fixed = target if value.explained is None else target.at(value.explained, value.rival)
    edits = None if paths else _baseline_edits(row, finals, w.recording)
    y0 = torch.cat([p.y0 for p in paths]) if paths else None  # known already: the method ran it
    shared, training, around = w.plain, w.training, w.around
    key = f"{row.site}, {row.baseline}, {finals if row.site == 'attention[last]' else ''}"

    def measure() -> Measured:
        with torch.no_grad(), rng_kept(model, rng), around.again(), our_own():
            if "faithful" not in shared:
                shared["faithful"] = difference(returned, _plain(model, inputs))
            if y0 is not None:
                return Measured(shared["faithful"], y0, y.float().cpu() - y0, passes=1)
            if edits is None:
                return Measured(shared["faithful"], None, None, passes=1)
            refuse(model, training)
            if key not in shared:  # targets that share a baseline share its run
                shared[key] = run(model, inputs, edits).output
            base = fixed.value(shared[key], named).y.detach().float().cpu()
        return Measured(shared["faithful"], base, y.float().cpu() - base, passes=2)

    return measure


def _baseline_edits(row: Method, finals: tuple[int, ...], recording: Recording) -> list[Edit] | None:
    """The change that puts a method's natural baseline in place; None where it claims no unit of y."""
    if row.site == "attention":
        return [Scale(0.0)]
    if row.site == "attention[last]":
        return [Scale(0.0, finals)]
    if row.site == "input":
        step: Callable[[Tensor], Tensor] = zero_of if "zero" in row.baseline else lambda x: x - 1
        named = {s.name for s in recording.streams} | {
            a for a in recording.aliases if isinstance(t := recording.inputs.get(a), Tensor) and t.is_floating_point()
        }
        return [Replace({name: step for name in {k.partition("#")[0] for k in recording.leaves} if name in named})]
    return None


def _plain(model: nn.Module, inputs: Given) -> Any:
    """The model's own run, unwatched."""
    args, kwargs = inputs.arguments()
    with as_the_user():
        return model(*args, **kwargs)


def _detached(output: Any) -> list[Tensor]:
    return [t.detach() for t in floats_in(output)]


def difference(watched: Sequence[Tensor], plain: Any) -> float:
    """max |output difference| over all floating tensors of two outputs."""
    pairs = list(zip(watched, floats_in(plain), strict=False))
    return max((float((a.float() - b.float()).abs().max()) for a, b in pairs if a.numel()), default=float("nan"))


@contextmanager
def rng_kept(model: nn.Module, start: Any = None) -> Iterator[Any]:
    """Random states come back as they were; `start` is a state to begin with. Yields the state at the beginning."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    before = (torch.get_rng_state(), [(d, torch.cuda.get_rng_state(d)) for d in devices])
    try:
        if start is not None:
            _set_rng(start)
        yield before
    finally:
        _set_rng(before)


def _set_rng(state: Any) -> None:
    cpu, cuda = state
    torch.set_rng_state(cpu)
    for device, s in cuda:
        torch.cuda.set_rng_state(s, device)
