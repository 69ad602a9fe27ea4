"""From one watched run to a `Recording`: what the run left, put in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import NoAttention
from regard.memory import budget_of
from regard.recording.ambient import our_own
from regard.recording.backward import Correctable, RuleSet
from regard.recording.calls import AttentionCall
from regard.recording.calls.attention import attentions
from regard.recording.calls.certainty import certainty, contradicted
from regard.recording.calls.sample_of_rows import settled
from regard.recording.cuts import joined
from regard.recording.edits import Edit
from regard.recording.inputs import Inputs
from regard.recording.interrupted import left_as_found
from regard.recording.own_tokens import own_tokens
from regard.recording.recorder import inputs_made
from regard.recording.recording import Recording
from regard.recording.refusals import refuse
from regard.recording.relevance.padding import padding
from regard.recording.relevance.readout import Readout, check_readout
from regard.recording.relevance.rows import precision_of
from regard.recording.run import Run, run
from regard.recording.tokens.meetings import of_other_tokens
from regard.recording.tokens.tags import STRIDE, Mixing, Stream, stream_of
from regard.recording.tokens.tracker import Trail
from regard.target import Target


@left_as_found
def record(
    model: nn.Module,
    inputs: Any,
    target: Any = None,
    *,
    edits: Sequence[Edit] = (),
    streams: Any = None,
    readout: Readout = None,
    training: bool = False,
    strict: bool = True,
    memory_budget: int | str | None = None,
    states: bool = False,
    branches: bool = False,
    batch_axis: Any = 0,
    maps: bool = True,
    checked: bool = False,
    rules: RuleSet | None = None,
    correctable: bool = False,
) -> Recording:
    """Watch one run of a model. Its mode, parameters, hooks and the caller's tensors are left as found.

    `target` is what `Recording.gradients()` explains by default; `edits` change the run (edits.py); `streams` says whose
    tokens calls read if the trail is lost (tokens/overrides.py); `readout` says which rows `Recording.readout` returns.
    `memory_budget` (bytes, or "512MB") bounds what rebuilt rows, or runs side by side, may take at a time; None: 1 GB.
    `states` keeps the states between blocks; `branches` finds the output projection and residual stream of every call.
    `batch_axis`: as in `explain`.
    maps=False: attention maps are not needed, so any differentiable model will do; every input then has tokens of its own
    (own_tokens.py). checked: the model has been through `refuse` already. rules: how gradients flow through operations of each
    kind (backward/); values are the model's own. correctable: gradients may be corrected where they pass through attention
    (`Recording.gradients(correction=)`).

    Raises ModelError for a model that cannot be watched, or in which no attention is seen; TrailLost if it is not known
    whose tokens a call reads (unless strict=False).
    """
    target = None if target is None else Target.make(target)
    budget = budget_of(memory_budget)
    check_readout(readout)
    if not checked:
        refuse(model, training)
    with our_own():
        with torch.enable_grad():
            inputs = Inputs.of(model, inputs, batch_axis)
            way = Correctable() if correctable else None
            edits = [*edits, *([way] if way else [])]
            watched = run(
                model, inputs, edits, streams, states=states, branches=branches, in_place=not maps, rules=rules
            )
        recording = _recorded(model, target, watched, readout, strict, budget, maps)
        return replace(recording, correctable=way, ruled=rules is not None)


@left_as_found
def record_inputs(
    model: nn.Module, inputs: Inputs, *, gradient: bool = True, budget: int | str | None = None
) -> Recording:
    """One run, watched only until the tokens of all inputs are made: all that a gradient at the inputs needs.

    The model has been through `refuse`. Its calls are left out. gradient=False: the run keeps no graph.
    """
    with our_own():
        with torch.set_grad_enabled(gradient):
            watched = run(model, inputs, until=inputs_made)
        found = _recorded(model, None, watched, None, False, budget_of(budget), False)
    return replace(
        found,
        calls=[],
        attentions=[],
        certainty={},
        mixers=[],
        whole=False,
        precision=precision_of([], found.leaves.values()),
    )


def _recorded(
    model: nn.Module,
    target: Target | None,
    run: Run,
    readout: Readout,
    strict: bool,
    budget: int,
    maps: bool,
) -> Recording:
    """What a run left, put in order."""
    if maps and not run.calls:
        raise NoAttention(_no_attention(model))
    strict = strict and maps
    trail = run.trail
    run.calls = settled(contradicted(run.calls, trail), trail)
    run.calls, layers = attentions(run.calls, trail)
    if strict:
        run.overrides.refuse_lost(trail, {c.index: c.lost for c in run.calls if c.lost})
    used = torch.zeros(trail.rows, dtype=torch.bool)
    for call in run.calls:
        used[call.queries.flatten() % STRIDE] = True
        used[call.keys.flatten() % STRIDE] = True
    if not (maps and run.overrides.stated):
        names = dict.fromkeys(stream_of(k) for k in run.leaves)
        used = own_tokens(trail, used, {n: run.inputs.axis(n) for n in names})
    trail.later_stages(used)
    of_other_tokens(trail)
    batches = _batches(run.inputs, trail.streams, used) or trail.batches
    recording = Recording(
        model=model,
        given=run.inputs,
        output=run.output,
        calls=[replace(c, budget=budget) for c in run.calls],
        streams=trail.streams,
        merges=trail.merges,
        leaves=run.leaves,
        embedded=run.embedded,
        blocks=run.blocks,
        batch=max(batches),
        rows=trail.rows,
        precision=precision_of(run.calls, run.leaves.values()),
        final_seen=trail.final_seen,
        aliases=trail.aliases,
        meets=trail.meets,
        target=target,
        batches=batches,
        overrides=run.overrides,
        certainty=certainty(run.calls, trail, run.overrides),
        asked=readout,
        states=run.states,
        made=run.made,
        budget=budget,
        mixers=[*trail.mixers],
        mixings=trail.mixings,
        branches=run.branches,
        attentions=layers,
        returned=run.returned,
        whole=bool(run.calls) and not any(c.lost for c in run.calls),
        stages=trail.streams,
        placed=run.placed,
        guessed=run.guessed,
        unseen=[*trail.unseen],
        rereads=trail.rereads,
        modules={name: [*where] for name, where in trail.modules.items()},
        plain=run.plain,
    )
    recording.streams = _in_use(recording, used)
    recording.renamed = renamed(trail, recording.calls)
    _spread_over_others(recording, trail.spreads)
    if strict:
        joined(recording)
    recording.padded = padding(recording, recording.inputs)
    return recording


def _spread_over_others(recording: Recording, spreads: Sequence[Mixing]) -> None:
    """Rows of one stream that were added to, or multiplied with, all rows of another alike: mixing, where both are in use."""
    used = {s.name for s in recording.streams}
    for spread in spreads:
        if spread.streams <= used:
            recording.mixings.append(spread)
            if spread.operation not in recording.mixers:
                recording.mixers.append(spread.operation)


def out_of_sight(model: nn.Module) -> str:
    """The kernel that a model says its attention runs in, where it cannot be watched; else ""."""
    kernel = str(getattr(getattr(model, "config", None), "_attn_implementation", "") or "")
    return kernel if "flash" in kernel or "flex" in kernel or "paged" in kernel else ""


def _no_attention(model: nn.Module) -> str:
    if kernel := out_of_sight(model):
        return (
            f"no attention call was seen: the model's attention runs in a kernel that cannot be watched ({kernel}); "
            'call model.set_attn_implementation("sdpa") first'
        )
    return (
        f"no attention call was seen in {type(model).__name__}: is it a Transformer, did its attention run, and does it weigh "
        "pairs of tokens (linear and factorised attention have no such map)?"
    )


def _batches(inputs: Inputs, streams: Sequence[Stream], used: Tensor) -> set[int]:
    """Numbers of samples: lengths of the inputs that calls read, along their samples' axis."""
    read = {s.name for s in streams if not s.packed and bool(used[s.rows].any())}
    return {inputs.batch(name) for name in read if name in inputs.values}


def _in_use(recording: Recording, used: Tensor) -> list[Stream]:
    """Streams whose rows (row,) are used, or that a merged stream in use was made of."""
    for merge in reversed(recording.merges):
        if bool(used[merge.rows].any()):
            used[merge.sources.flatten()] = True
    return [s for s in recording.streams if bool(used[s.rows].any())]


def renamed(trail: Trail, calls: Sequence[AttentionCall]) -> list[str]:
    """Sentences on rows that went on under the name of another input's, where a later call reads them."""
    told = []
    for (own, name, operation), event in trail.renamed.items():
        rows = torch.zeros(trail.rows, dtype=torch.bool)
        for stream in trail.streams:
            rows[stream.rows] |= stream.name == name
        if any(c.event >= event and bool(rows[torch.cat([c.queries, c.keys], 1) % STRIDE].any()) for c in calls):
            told.append(
                f"tokens of {own} were joined ({operation}) to those of {name}: what they contribute there is shown on {name}"
            )
    return told
