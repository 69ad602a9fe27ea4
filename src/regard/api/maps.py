"""From one gradient to the maps of all methods: one walk for those of the attention family; the others run by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from regard.api.guiding import Guides
from regard.api.samples import has_samples
from regard.api.shared_run import Watched
from regard.api.target_rows import read_rows
from regard.attribution.attention.path_rules import Corrected, Fusion, Preset, relevance
from regard.attribution.context import Context, LateReadout
from regard.attribution.method import Method
from regard.attribution.rerun import Rerun
from regard.errors import Misuse, ModelError, NonFinite
from regard.recording import Gradients, Recording
from regard.recording.ambient import as_the_user
from regard.recording.backward import AttentionRule
from regard.recording.gradient import cut_off
from regard.recording.independence import TINY
from regard.recording.inputs import first
from regard.recording.relevance.rereads import reread
from regard.recording.relevance.rows import Relevance
from regard.recording.tokens.tags import stream_of
from regard.site import Site
from regard.target import Target


def row_options(row: Method, options: dict[str, Any]) -> dict[str, Any]:
    """Those of the given options that a method takes."""
    return {k: v for k, v in options.items() if k in row.options}


@dataclass
class Maps:
    """The relevance (batch, row) that each method gives for one y, padding at zero, and how it was come by.

    corrected: the gradients that a method took beside the model's own. guides: m of each stream, where a method is guided;
    unguided: its map without; regions: what of each picture was given.
    """

    context: Context
    readout: LateReadout
    contexts: dict[str, Context] = field(default_factory=dict)
    relevance: dict[str, Relevance] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    read_by: dict[str, bool] = field(default_factory=dict)
    corrected: dict[str, int] = field(default_factory=dict)
    guides: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    unguided: dict[str, Relevance] = field(default_factory=dict)
    regions: dict[str, list[Tensor]] = field(default_factory=dict)

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

    def of_samples(self, relevance: Relevance, shown: Mapping[str, int]) -> Tensor:
        """(row,) of the samples that are shown."""
        out = torch.zeros(relevance.shape[1], dtype=torch.float32)
        recording = self.context.recording
        for stream in recording.streams:
            one = has_samples(recording, stream) and recording.given.batch(stream.name) == 1
            rows = relevance[:, stream.rows]
            out[stream.rows] = rows.sum(0) if one else rows[shown[stream.name]]
        return out

    def reads_more(self, shown: Mapping[str, int]) -> bool:
        """Whether y has a gradient at samples that are not shown."""
        for leaf, g in self.context.gradients.inputs.items():
            at = shown.get(stream_of(leaf))
            g = first(g, self.context.recording.axis(leaf))
            if at is not None and len(g) == self.context.recording.batch:
                size = g.flatten(1).double().norm(dim=1)
                size[at] = 0
                if bool((size > TINY * g.double().norm()).any()):
                    return True
        return False


def maps_of(
    w: Watched,
    y: Tensor,
    again: Rerun,
    rows: Sequence[Method],
    options: dict[str, Any],
    keep: bool,
    siblings: Callable[[], Sequence[Rerun | None]],
) -> Maps:
    """One gradient, one walk for all methods of the attention family, and the other methods."""
    started = time.perf_counter()
    recording, only = w.recording, _only(rows, options)
    gradients = _gradients(w, y, again, rows, options, keep, only)
    readout = LateReadout(lambda: read_rows(recording, y, gradients, w.how.readout, again))
    context = Context(recording, gradients, readout, w.how.seed, w.how.site, w.how.baseline, again, w.reading)
    context.asked = w.how.readout is not None
    context.siblings, context.number, context.shared_runs = siblings, w.number, w.between_targets
    maps = Maps(context, readout)
    maps.guides = _guides(w, maps, rows, options)
    made, notes = _made(recording, rows, options, maps.guides)
    beside, _ = _made(recording, [r for r in rows if r.name in maps.guides], _unguided(options), {})
    corrected = partial(_corrected, recording, y, gradients) if only is None else lambda _rule: gradients
    walked = _walked(w, rows, made | {_beside(name): p for name, p in beside.items()}, corrected, readout)
    if only is None:
        maps.corrected = _counted(maps, made, beside, options)
    by_default = w.how.readout is None and any(r.follows_maps(w.how.site) for r in rows)
    earlier = reread(recording.calls, recording.rereads, y) if by_default else []
    shared = time.perf_counter() - started
    for row in rows:
        since = time.perf_counter()
        told = [*(earlier if row.follows_maps(w.how.site) else []), *notes.get(row.name, [])]
        context = maps.contexts[row.name] = replace(maps.context, notes=told, fits=[])
        readout.asked = False
        found = walked[row.name] if row.name in walked else made[row.name](context)
        maps.read_by[row.name] = readout.asked
        maps.relevance[row.name] = _checked(recording, row.name, found)
        if row.name in beside:
            plain = walked[_beside(row.name)] if _beside(row.name) in walked else beside[row.name](context)
            maps.unguided[row.name] = _checked(recording, row.name, plain)
        maps.seconds[row.name] = shared + time.perf_counter() - since
    return maps


def _gradients(
    w: Watched,
    y: Tensor,
    again: Rerun,
    rows: Sequence[Method],
    options: dict[str, Any],
    keep: bool,
    only: Preset | None,
) -> Gradients:
    """The one gradient, taken when it is first asked for; kept where others are taken of the same graph.

    only: the one map that is asked for, where no other gradient than its own is taken.
    """
    recording = w.recording
    more = not recording.whole or bool(recording.rereads)  # the read-out takes a gradient of its own
    beyond = again.shared is not None or not all(row.preset for row in rows)  # who reads the gradients at the inputs
    complete = any(p.complete for p in _presets(rows, options)) or "guide" in options
    states = recording.frontier(w.how.site.layer, w.how.site.stream) if _at_states(w, rows) else []
    rule = None if only is None else only.rule(recording)
    last = recording.whole and again.shared is None and "guide" not in options and all(_ends(r, options) for r in rows)
    return recording.gradients_later(
        y, last=last, keep=keep or more or complete, inputs=beyond, states=states, correction=rule
    )


def _ends(row: Method, options: dict[str, Any]) -> bool:
    """Whether a method asks for no gradient but those of the last attentions, if only to find the read-out."""
    if row.preset:
        presets = [p for preset in _presets([row], options) for p in preset.presets]
        return bool(presets) and not any(p.gradient for p in presets)  # without: it may read any call
    return row.reads_last


def _counted(maps: Maps, made: dict[str, Any], beside: dict[str, Any], options: dict[str, Any]) -> dict[str, int]:
    """How many gradients each method took beside the model's own."""
    out: dict[str, int] = {}
    for name, preset in [*made.items(), *beside.items()]:
        out[name] = out.get(name, 0) + _completed(preset)
    for name in maps.guides if maps.guides and options["guide"].internal else ():
        out[name] += 1 + _completed(made[name])  # the gradients of the map that guides
    return out


def _corrected(recording: Recording, y: Tensor, gradients: Gradients, rule: AttentionRule | None) -> Gradients:
    """The gradients of y, corrected by a rule where one is given."""
    return gradients if rule is None else recording.gradients(y, keep=True, inputs=False, correction=rule)


def _presets(rows: Sequence[Method], options: dict[str, Any]) -> list[Preset | Fusion]:
    """Methods of the attention family, as they are before a run is known."""
    found = [row.function(**row_options(row, _unguided(options))) for row in rows if row.preset]
    return [p for p in found if isinstance(p, Preset | Fusion)]


def _completed(made: Any) -> int:
    """How many gradients of its own a method takes: one for each of its maps that corrects the gradient itself."""
    return sum(p.complete for p in made.presets) if isinstance(made, Preset | Fusion) else 0


def _unguided(options: dict[str, Any]) -> dict[str, Any]:
    """The same options without a guide."""
    return {k: v for k, v in options.items() if k != "guide"}


def _beside(name: str) -> str:
    """What the unguided map of a method is called among the walks."""
    return f"{name}, unguided"


def _only(rows: Sequence[Method], options: dict[str, Any]) -> Preset | None:
    """The one map that is asked for, where it is one that corrects the gradient itself: no other gradient is taken then."""
    presets = [p for preset in _presets(rows, options) for p in preset.presets]
    alone = len(rows) == len(presets) == 1 and "guide" not in options and presets[0].complete
    return presets[0] if alone else None


def _at_states(w: Watched, rows: Sequence[Method]) -> bool:
    """Whether gradients of the watched run itself are read at states between blocks."""
    inside = w.how.site is not None and w.how.site.kind in ("embeddings", "block")
    return inside and any(row.rules for row in rows)


def _guides(w: Watched, maps: Maps, rows: Sequence[Method], options: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """m of each stream for the methods that are guided."""
    guide, again = options.get("guide"), maps.context.again
    guided = [row for row in rows if "guide" in row.options]
    if guide is None or not guided:
        return {}
    assert again is not None
    if again.shared is not None:
        raise Misuse("samples read one another here, so that a guide is of no sample: explain one pair at a time")
    out = {}
    for row in guided:
        unguided = partial(_map_of, w, maps.context, row.function(**row_options(row, _unguided(options))))
        guides = Guides(w, again.target, again.classes, unguided)
        out[row.name] = guides.tensors(guide)
        maps.regions = guides.regions(guide)
    return out


def _map_of(w: Watched, context: Context, made: Any, target: Target) -> dict[str, Tensor]:
    """The unguided map of another target, on the streams of the inputs."""
    recording, again = context.recording, context.again
    assert again is not None
    with torch.enable_grad(), as_the_user():
        y = target.on(recording.model, recording.output).value(recording.output, recording.inputs).y
    gradients = recording.gradients(y, keep=True)
    readout, _ = read_rows(recording, y, gradients, w.how.readout, again)
    if isinstance(made, Preset):
        made, _ = made.chosen(recording)
    if isinstance(made, Preset | Fusion):
        found = relevance(recording, partial(_corrected, recording, y, gradients), readout, [made])[0]
    else:
        found = made(replace(context, gradients=gradients, readout=readout))
    settled = recording.settled(found).masked_fill(recording.hidden(), 0.0)
    return {s.name: settled[:, s.rows] for s in recording.streams if s.of_input}


def _made(
    recording: Recording, rows: Sequence[Method], options: dict[str, Any], guides: Mapping[str, dict[str, Tensor]]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Each method with its options: the rules of a walk, or a function of the context; and what to say of that choice."""
    made: dict[str, Any] = {}
    notes: dict[str, list[str]] = {}
    for row in rows:
        own = row_options(row, options)
        if row.name in guides:
            own["guide"] = guides[row.name]
            notes[row.name] = [f"guided by {options['guide'].label}"]
        found = row.function(**own) if row.preset else partial(row.function, **own)
        if isinstance(found, Preset):
            found, note = found.chosen(recording)
            notes[row.name] = [*notes.get(row.name, []), *([note] if note else [])]
        made[row.name] = found
    return made, notes


def _walked(
    w: Watched, rows: Sequence[Method], made: dict[str, Any], gradients: Corrected, readout: LateReadout
) -> dict[str, Relevance]:
    """The maps of all methods that follow attention by rules, in one walk."""
    presets = {name: p for name, p in made.items() if isinstance(p, Preset | Fusion)}
    _refuse_cut(w.recording, rows, presets, w.how.site)
    walks = relevance(w.recording, gradients, dict(readout.items()), [*presets.values()]) if presets else []
    return dict(zip(presets, walks, strict=True))


def _checked(recording: Recording, name: str, found: Any) -> Relevance:
    """A method's map, rows settled and padding at zero. Raises Misuse and NonFinite for what is no map."""
    wanted = (recording.batch, recording.rows)
    if not isinstance(found, Tensor) or found.shape != wanted:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise Misuse(f"method {name!r} must return (batch, row) = {wanted}, not {shape}")
    settled: Tensor = recording.settled(found).masked_fill(recording.hidden(), 0.0)
    if not bool(torch.isfinite(settled).all()):
        raise NonFinite(f"method {name!r} gave a map that is not finite; are the model's gradients finite?")
    return settled


def _refuse_cut(
    recording: Recording, rows: Sequence[Method], presets: Mapping[str, Preset | Fusion], site: Site | None
) -> None:
    """A method that needs the gradients of attention calls gives no map of zeros where all are cut out of the graph."""
    plain = {name for name, p in presets.items() if not any(q.gradient for q in p.presets)}
    gradients = any(row.follows_maps(site) and row.name not in plain for row in rows)
    if gradients and recording.calls and all(c.detached for c in recording.calls):
        raise ModelError(cut_off(recording.calls))
