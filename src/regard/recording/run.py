"""One forward pass of a model, watched by a `Recorder` or not at all; begun anew where it shows on the way what inputs are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from regard.errors import ModelError
from regard.recording.ambient import as_the_user, uncompiled
from regard.recording.backward import RuleSet
from regard.recording.calls import AttentionCall
from regard.recording.calls.residual import Branch, Branches
from regard.recording.calls.sample_of_rows import samples_meet
from regard.recording.edits import Edit
from regard.recording.frames import Block, Frames, list_elements, watched
from regard.recording.inputs import Inputs, ranks, samples_first
from regard.recording.interrupted import left_as_found
from regard.recording.own_gradients import operation
from regard.recording.recorder import Recorder, Until
from regard.recording.refusals import floats_in, refuse_reentrant, unwrapped
from regard.recording.states import State, Watch
from regard.recording.tokens import storage
from regard.recording.tokens.overrides import Overrides, stated_in
from regard.recording.tokens.parameter_names import Names
from regard.recording.tokens.samples import Packed
from regard.recording.tokens.tags import STRIDE, Entry, Source, Why, kind_of
from regard.recording.tokens.tracker import Trail


class Frozen(TorchFunctionMode):
    """Hands parameters to operations as constants: the graph then keeps nothing for gradients that nobody asks for. The model
    is not touched, so that other threads do not see it.

    While it is there, torch's own encoder keeps off its fast path, which may cut padding off.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") != "__get__" and any(type(a) is nn.Parameter for a in args):
            args = tuple(a.detach() if type(a) is nn.Parameter else a for a in args)
        return operation(func, args, kwargs or {})


@left_as_found
def unwatched(model: nn.Module, inputs: Inputs, values: Mapping[str, Tensor]) -> Any:
    """The model's output on other values of some float inputs: its own run, without a look at it."""
    args, kwargs = inputs.arguments({k: v.clone() for k, v in values.items()})  # the model may write into them
    model = unwrapped(model)
    with as_the_user(), uncompiled(), Frozen():
        return model(*args, **kwargs)


@dataclass
class Run:
    """What one watched run left: its output, calls, trail and the tensors at which gradients can be read.

    `output` has the samples first, where the model itself (`returned`) has them elsewhere.
    """

    output: Any
    calls: list[AttentionCall]
    trail: Trail
    leaves: dict[str, Tensor]
    embedded: dict[str, Tensor]
    placed: dict[str, Tensor]
    inputs: Inputs
    blocks: list[Block]
    overrides: Overrides
    states: list[State]
    made: int
    branches: dict[int, Branch]
    returned: Any
    guessed: list[str]
    plain: list[tuple[str, str]] = field(default_factory=list)


@left_as_found
def run(
    model: nn.Module,
    inputs: Any,
    edits: Sequence[Edit] = (),
    streams: Any = None,
    packed: frozenset[str] = frozenset(),
    *,
    states: bool = False,
    branches: bool = False,
    until: Until | None = None,
    in_place: bool = False,
    rules: RuleSet | None = None,
) -> Run:
    """One forward pass, watched, with edits. Gradients are recorded if the caller's grad mode says so.

    `streams` is what the user says of the tokens (tokens/overrides.py). `packed`: inputs whose axis 0 is not samples. Where
    that shows on the way, or that whole numbers are no ids (`numbers_in`), the run begins anew. `states`: keep what goes
    into and comes out of blocks. `branches`: find what stands around each call (calls/residual.py). `until`: when the watch
    may end; the modules then have no hooks, and no state or module is known. `in_place`: what a block gives back where its
    rows are not followed stands for what it was given, if the shape is the same. `rules`: how gradients flow (backward/).
    """
    random, inputs = torch.get_rng_state(), Inputs.of(model, inputs)
    how: dict[str, Any] = {"states": states, "branches": branches, "until": until, "in_place": in_place}
    how |= {"rules": rules}
    if not inputs.followed:
        inputs = dataclasses.replace(inputs, numbers=inputs.switches)
    try:
        made = _run(model, inputs, edits, streams, packed, **how)
        more = numbers_in(made.calls, made.trail, inputs)
        shared = inputs.single - packed if samples_meet(made.calls) else inputs.shared
        if not more and shared == inputs.shared:
            return made
        inputs = dataclasses.replace(inputs, numbers=inputs.numbers | more, shared=shared)
    except Packed as found:
        packed = packed | {found.name}
    torch.set_rng_state(random)
    return run(model, inputs, edits, streams, packed, **how)


def _run(
    model: nn.Module,
    inputs: Inputs,
    edits: Sequence[Edit],
    streams: Any,
    packed: frozenset[str],
    *,
    states: bool,
    branches: bool,
    until: Until | None,
    in_place: bool,
    rules: RuleSet | None,
) -> Run:
    given, tensors = inputs.values, inputs.tensors
    if not inputs.followed:
        raise ModelError(
            f"no tensor but masks among the inputs ({', '.join(given) or 'none given'}): there is nothing to explain"
        )
    if any(not t.numel() for t in tensors.values()):
        raise ModelError("an input is empty: there is nothing to explain")
    model = unwrapped(model)
    order = ranks(model, list(given))
    batches = {inputs.batch(k) for k in inputs.followed if k not in packed}
    trail = Trail(Names(model), batches)
    names = {id(m): n for n, m in model.named_modules()}
    frames = Frames(names, list_elements(model))
    overrides = Overrides(stated_in(streams))
    with as_the_user():
        recorder = Recorder(trail, frames, edits, overrides, Branches(trail) if branches else None, until, rules)
    passed = {}
    for name, t in inputs.followed.items():
        shape = tuple(t.shape if name in packed else inputs.first(name).shape[1:])
        ids = not t.is_floating_point() and name not in inputs.numbers
        more = {"packed": name in packed, "shared": name in inputs.shared, "floats": t.is_floating_point()}
        source = Source(name, order[name], shape, ids, **more)
        trail.enter(t_in := t.detach().clone(), source, inputs.axis(name))
        if t.is_floating_point():
            t_in = recorder.leaf(Entry(name), t_in, trail.entered[name]).clone()
        trail.put(t_in, overrides.entered(trail, name, trail.entered[name]))
        passed[name] = t_in
    watch = Watch(trail, in_place) if states else None
    hooks = nullcontext() if until else watched(model, frames, edits, trail, watch)
    args, kwargs = inputs.arguments(passed)
    with as_the_user(), hooks, uncompiled(), recorder:
        returned = model(*args, **kwargs)
    storage.check_lent(trail)
    output = samples_first(returned, inputs, trail)
    overrides.check(trail)
    recorder.calls = [_joined_after_all(c) for c in recorder.calls]
    if cut := [str(c.index) for c in recorder.calls if c.detached]:
        refuse_reentrant(output, ", ".join(cut))
    seen = watch.states if watch else []
    blocks = _blocks(recorder.calls) or _blocks_of(seen)
    around = recorder.branches.of if recorder.branches else {}
    leaves, embedded = recorder.leaves, recorder.embedded
    made, placed, guessed = recorder.made, recorder.placed, [*watch.placed] if watch else []
    return Run(
        output,
        recorder.calls,
        trail,
        leaves,
        embedded,
        placed,
        inputs,
        blocks,
        overrides,
        seen,
        made,
        around,
        returned,
        guessed,
        recorder.backward.ended(floats_in(output)) if recorder.backward else [],
    )


def _joined_after_all(call: AttentionCall) -> AttentionCall:
    """Grad mode is off inside a `torch.autograd.Function`, whose output joins the graph when it is done."""
    return replace(call, detached=False) if call.detached and call.output.grad_fn is not None else call


def _blocks_of(states: Sequence[State]) -> list[Block]:
    """Where there is no attention: the outermost elements of lists that give back a state."""
    visits = dict.fromkeys((s.key.module, s.key.visit) for s in states if s.key.side == "out" and s.value.ndim > 2)
    names = {module for module, _ in visits}
    return [Block(m, v, []) for m, v in visits if not any(m.startswith(f"{n}.") for n in names)]


def _blocks(calls: Sequence[AttentionCall]) -> list[Block]:
    blocks: list[Block] = []
    for call in calls:
        if call.block is None:
            continue
        if blocks and (blocks[-1].module, blocks[-1].visit) == call.block:
            blocks[-1].calls.append(call.index)
        else:
            blocks.append(Block(*call.block, [call.index]))
    return blocks


def numbers_in(calls: Sequence[AttentionCall], trail: Trail, inputs: Inputs) -> frozenset[str]:
    """Inputs taken for ids, or for masks, that were numbers: their tokens are read, and no table was asked for them."""
    if inputs.switches and any(kind_of(c.lost) is Why.UNFOLLOWED for c in calls):
        return inputs.switches
    whole = {n for n, t in inputs.followed.items() if not t.is_floating_point() and n not in inputs.numbers}
    whole -= trail.looked_up
    streams = [s for s in trail.streams if s.name in whole and s.kind != "parameter"]
    if not streams or not calls:
        return frozenset()
    rows = torch.cat([ids.flatten() for c in calls for ids in (c.queries, c.keys)]).unique() % STRIDE
    rows = torch.cat([rows, *(m.sources.flatten() for m in trail.merges)])
    return frozenset(s.name for s in streams if bool(((rows >= s.first) & (rows < s.first + s.count)).any()))
