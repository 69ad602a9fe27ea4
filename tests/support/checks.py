"""What must hold of any Transformer that is explained; test_sweep.py and test_timm.py put every family to each check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.recording import AttentionCall, Gradients, Recording, record
from regard.recording.edits import Edit
from regard.recording.tokens.tags import STRIDE, Stream
from support import joint
from support.capture import captured
from support.family import Family

SEED = 7  # ViLT draws the order of its patches


@dataclass
class State:
    """A family's model, one recording with gradients, and its maps; the eager twin on demand."""

    family: Family
    model: nn.Module
    recording: Recording
    gradients: Gradients
    maps: list[regard.Explanation]
    before: Any
    after: Any

    @cached_property
    def twin(self) -> tuple[list[Tensor], list[Tensor]]:
        """Every A of an eager run and its gradient by plain autograd, in our axes (group, head, query, key)."""
        inputs = {
            k: v.clone().requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v
            for k, v in self.family.inputs.items()
        }
        torch.manual_seed(SEED)
        with captured() as found:
            y = self.family.target(self.model(**inputs)).sum()
        maps = with_gradients(y, found.A)
        calls = self.recording.calls
        if self.family.operand:
            fused, by_hand = (maps[i] for i in sorted(found.O)), ByHand()
            torch.manual_seed(SEED)
            y = self.family.target(record(self.model, dict(self.family.inputs), edits=[by_hand]).output).sum()
            explicit = iter(with_gradients(y, by_hand.A))
            maps = [next(fused if c.A is None else explicit) for c in calls]
        ours = [[compared(c, t) for t in pair] for c, pair in zip(calls, maps, strict=True)]
        return [A for A, _ in ours], [G for _, G in ours]


class ByHand(Edit):
    """A V of explicit calls once more, with each A kept where the gradient comes through it."""

    def __init__(self) -> None:
        self.A: list[Tensor] = []

    def call(self, call: AttentionCall) -> Tensor | None:
        if call.A is None:
            return None
        self.A.append(call.A.clone())
        O = self.A[-1] @ call.v
        return O if call.axes is None else O.permute([call.axes.index(d) for d in range(O.ndim)])


def with_gradients(y: Tensor, maps: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each map with ∂y/∂A by autograd (0 where y does not depend on it)."""
    grads = torch.autograd.grad(y, maps, retain_graph=True, allow_unused=True)
    return [(A.detach(), torch.zeros_like(A) if g is None else g) for A, g in zip(maps, grads, strict=True)]


def condition(model: nn.Module) -> Any:
    """What must be left as found."""
    return (
        [m.training for m in model.modules()],
        [(p.requires_grad, p.grad is None, p._version) for p in model.parameters()],
        [b._version for b in model.buffers()],
        [[len(h) for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)] for m in model.modules()],
        ["forward" in vars(m) for m in model.modules()],
    )  # fmt: skip


@cache
def state(family: Family) -> State:
    """Run a family once for all checks."""
    model = family.build()
    with torch.no_grad():
        model(**family.inputs)  # transformers hangs hooks of its own on some models in their first run
    before = condition(model)
    torch.manual_seed(SEED)
    maps = regard.explain(model, dict(family.inputs), family.target, ["gae", "rollout"], form="walk", measure="full")
    after = condition(model)
    torch.manual_seed(SEED)
    recording = record(model, dict(family.inputs), strict=False)
    gradients = recording.gradients(family.target(recording.output), keep=True)
    return State(family, model, recording, gradients, maps, before, after)


def rows(table: Mapping[str, Any]) -> list[Any]:
    """One parameter per family; those beyond the core are long, and known warnings of a model's own code are let pass."""
    out = []
    for name, entry in table.items():
        family = entry if isinstance(entry, Family) else entry.family
        marks = [pytest.mark.filterwarnings(f"ignore:{message}") for message in family.warns]
        if not family.core:
            marks.append(pytest.mark.long)
        out.append(pytest.param(name, marks=marks))
    return out


Check = Callable[[State], None]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    """A check of the table."""
    CHECKS.append(function)
    return function


@check
def every_call_is_seen_and_none_is_lost(s: State) -> None:
    calls = s.recording.calls
    assert len(calls) == s.family.calls
    assert [c.lost for c in calls if c.lost] == []


@check
def streams_and_grids_are_right(s: State) -> None:
    streams = [t for t in s.recording.streams if t.shown]
    cuts = Counter(t.name for t in streams)
    assert cuts == {name: s.family.cuts.get(name, 1) for name in s.family.streams}
    streams.sort(key=lambda t: t.count)  # of several cuts of one input the finest is the map's
    assert {t.name: t.count for t in streams} == s.family.streams
    assert {t.name: t.grid for t in streams if t.grid} == s.family.grids
    assert all(e.grid[name] == s.family.grids[name] for e in s.maps for name in s.family.cuts)


@check
def the_watched_forward_is_the_plain_one(s: State) -> None:
    faithful = s.maps[0].receipt.faithful
    assert faithful <= (1e-6 if s.family.inexact else 0)


@check
def gradients_reach_every_call_that_can_have_one(s: State) -> None:
    family = s.family
    dead = [c.index for c in s.gradients.calls if c.dO is None or not bool(c.dO.any())]
    assert dead == sorted(family.dead)
    assert bool(family.dead) >= any(c.detached for c in s.gradients.calls)
    cut = [c.index for c in s.gradients.calls if c.detached]
    told = [n for n in s.maps[0].receipt.notes if "cut out of the graph" in n]
    assert bool(told) == bool(cut)


@check
def maps_are_finite_and_not_all_zero_and_the_model_is_left_as_found(s: State) -> None:
    for exp in s.maps:
        assert all(bool(v.isfinite().all()) for v in exp.scores.values())
        assert any(bool(v.any()) for v in exp.scores.values())
        assert set(exp.scores) == set(s.family.streams)
    assert s.before == s.after


def compared(call: AttentionCall, t: Tensor) -> Tensor:
    """A twin's map in our axes; an attention sink's own column, whose value is zero, is no token and is left out."""
    _, _, n, m = call.shape
    return call.layout(t[..., :m].reshape(*call.layout.lead, n, m))


def skipped_or(s: State) -> float:
    """How near the eager twin must be; a skip with its reason where there is no twin."""
    if s.family.twin:
        assert any(not c.detached for c in s.recording.calls)
        pytest.skip(s.family.twin)
    return 1e-4 if s.family.inexact else 1e-5


@check
def rows_and_their_gradients_equal_the_eager_twin(s: State) -> None:
    tolerance = skipped_or(s)
    for call, A, G in zip(s.gradients.calls, *s.twin, strict=True):
        ours = call.rows(torch.arange(call.shape[2]))
        assert float((ours.A - A).abs().max()) <= tolerance
        assert float((ours.G - G).abs().max()) <= tolerance * max(float(G.abs().max()), 1e-6)


@check
def maps_equal_the_full_joint_roll_out(s: State) -> None:
    tolerance, (A, G), inputs = skipped_or(s), s.twin, s.family.inputs
    found = joint.order(s.model, inputs, s.family.target, SEED, s.family.together)
    twins = {
        "gae": joint.gae(s.recording, s.gradients, found, A, G, s.family.together),
        "rollout": joint.rollout(s.recording, s.gradients, found, A, s.family.together),
    }
    for exp in s.maps:
        twin = twins[exp.method]
        if "attention_mask" in inputs and "input_ids" in twin:
            twin["input_ids"][inputs["attention_mask"] == 0] = 0  # padding scores 0, be it read or not
        assert set(exp.scores) == set(twin)
        scale = max(float(t.abs().max()) for t in twin.values())
        assert scale > 0
        for stream, t in twin.items():
            assert float((exp.scores[stream].double() - t).abs().max()) <= tolerance * scale, (exp.method, stream)


def reached(recording: Recording, call: AttentionCall) -> set[int]:
    """Events that the call's keys rest on, through other calls' keys and queries."""
    seen = {c.event: c.seen for c in recording.calls}
    out, todo = set(), [e for e in range(call.seen.bit_length()) if call.seen >> e & 1]
    while todo:
        event = todo.pop()
        if event not in out:
            out.add(event)
            todo += [e for e in range(seen.get(event, 0).bit_length()) if seen[event] >> e & 1]
    return out


@check
def what_a_calls_keys_rest_on_is_what_autograd_says(s: State) -> None:
    """The order of calls: which earlier outputs reach the values of a call, by the graph and by `seen`."""
    calls = s.recording.calls
    generator = torch.Generator().manual_seed(3)
    for call in calls:
        earlier = [c for c in calls[: call.index] if c.output.requires_grad]
        if not earlier or not call.v.requires_grad:
            continue
        probe = (call.v * torch.randn(call.v.shape, generator=generator)).sum()
        grads = torch.autograd.grad(probe, [c.output for c in earlier], retain_graph=True, allow_unused=True)
        truth = {c.index for c, g in zip(earlier, grads, strict=True) if g is not None and bool(g.any())}
        events = reached(s.recording, call)
        assert {c.index for c in earlier if c.event in events} == truth, f"call {call.index}"


@check
def the_calls_that_are_read_are_those_that_no_later_call_reads(s: State) -> None:
    """Final calls, by autograd: alive, and no other call's output depends on theirs."""
    alive = [c for c in s.gradients.calls if c.dO is not None and bool(c.dO.any())]
    final = set()
    for call in alive:
        later = [c.output for c in alive if c.index > call.index]
        grads = (torch.autograd.grad(o.sum(), call.output, retain_graph=True, allow_unused=True)[0] for o in later)
        if not any(g is not None and bool(g.any()) for g in grads):
            final.add(call.index)
    read = {c.index for a in s.recording.norms_read(s.gradients) for c in s.recording.calls_of(a)}
    assert read == joint.ends(s.recording.calls, final, s.family.together)


def support(family: Family, stream: Stream, gradient: Tensor) -> Tensor | None:
    """(sample, token) where a gradient at an input is not zero; None where we know no way from input to tokens."""
    size, name = gradient.abs(), stream.name
    if name == "labels":  # the decoder's ids are the labels, one to the right, after a start token
        size = size.roll(-1, 1)
    if name in family.grids:
        grid = stream.grid if name in family.cuts and stream.grid else family.grids[name]
        size = size.amax(-3) if size.ndim == len(grid) + 2 else size  # over channels
        if size.ndim != len(grid) + 1 or any(n % g for n, g in zip(size.shape[1:], grid, strict=True)):
            return None
        sides = [side for n, g in zip(size.shape[1:], grid, strict=True) for side in (g, n // g)]
        size = size.reshape(len(size), *sides).amax(tuple(range(2, 2 * len(grid) + 1, 2))).flatten(1)
    elif size.ndim == 3 and size.shape[1] == family.streams.get(name):
        size = size.amax(-1)
    elif size.ndim == 2 and len(size) == family.streams.get(name):  # packed: tokens of all samples
        size = size.amax(-1)[None]
    else:
        return None
    return size > 1e-4 * size.max()


@check
def keys_are_the_tokens_that_they_are_said_to_be(s: State) -> None:
    """Calls that rest on no other: the gradient of a key's value reaches the input token that the key is said to be."""
    recording, family = s.recording, s.family
    for call in recording.calls:
        if not call.v.requires_grad or {c.event for c in recording.calls} & reached(recording, call):
            continue
        values = call.repeated(call.v)
        for stream in recording.streams:
            leaf = recording.leaves.get(stream.name)
            if stream.kind != "input" or leaf is None or not leaf.requires_grad:
                continue
            for j in range(0, values.shape[2], max(1, values.shape[2] // 6)):
                sample, token = divmod(int(call.keys[0, j]), STRIDE)
                if not stream.first <= token < stream.first + stream.count:
                    continue
                (g,) = torch.autograd.grad(values[0, :, j].sum(), leaf, retain_graph=True, allow_unused=True)
                found = None if g is None else support(family, stream, g)
                if found is not None and bool(found.any()):  # the value of padding may be a constant
                    place = (0 if len(found) == 1 else sample - 1, token - stream.first)
                    assert bool(found[place]), f"call {call.index}, key {j}: {place}, not {found.nonzero().tolist()}"
                    assert family.mixes or int(found.sum()) == 1, (
                        f"call {call.index}, key {j}: {found.nonzero().tolist()}"
                    )
