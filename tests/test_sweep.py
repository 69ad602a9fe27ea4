"""Every family of the table (sweep.py), by what must hold of any Transformer; tests are made from the table's rows."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.errors import RegardError
from regard.recording import AttentionCall, Gradients, Recording, record
from regard.recording.tokens import STRIDE

pytest.importorskip("transformers")
from sweep import FAMILIES, GROUPS, OPEN, OUTSIDE, REFUSED, Family
from twins import captured

ROOT = Path(__file__).parents[1]
SEED = 7  # ViLT draws the order of its patches


@dataclass
class State:
    """A family's model, one recording with gradients, and its maps."""

    model: nn.Module
    recording: Recording
    gradients: Gradients
    maps: list[regard.Explanation]
    before: Any
    after: Any


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
def state(name: str) -> State:
    family = FAMILIES[name]
    model = family.build()
    with torch.no_grad():
        model(**family.inputs)  # transformers hangs hooks of its own on some models in their first run
    before = condition(model)
    maps = regard.explain(model, dict(family.inputs), family.target, ["gae", "rollout"], measure="full")
    after = condition(model)
    torch.manual_seed(SEED)
    recording = record(model, dict(family.inputs), strict=False)
    return State(model, recording, recording.gradients(family.target(recording.output), keep=True), maps, before, after)


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


each = pytest.mark.parametrize("name", rows(FAMILIES))


@each
def test_every_call_is_seen_and_none_is_lost(name: str) -> None:
    calls = state(name).recording.calls
    assert len(calls) == FAMILIES[name].calls
    assert [c.lost for c in calls if c.lost] == []


@each
def test_streams_and_grids_are_right(name: str) -> None:
    streams = [s for s in state(name).recording.streams if s.kind != "merged"]
    assert {s.name: s.count for s in streams} == FAMILIES[name].streams
    assert {s.name: s.grid for s in streams if s.grid} == FAMILIES[name].grids


@each
def test_the_watched_forward_is_the_plain_one(name: str) -> None:
    faithful = state(name).maps[0].receipt.faithful
    assert faithful <= (1e-6 if FAMILIES[name].inexact else 0)


@each
def test_gradients_reach_every_call_that_can_have_one(name: str) -> None:
    s, family = state(name), FAMILIES[name]
    dead = [c.index for c in s.gradients.calls if c.dO is None or not bool(c.dO.any())]
    assert dead == sorted(family.dead)
    assert bool(family.dead) >= any(c.detached for c in s.gradients.calls)
    cut = [c.index for c in s.gradients.calls if c.detached]
    told = [n for n in s.maps[0].receipt.notes if "cut out of the graph" in n]
    assert bool(told) == bool(cut)


@each
def test_maps_are_finite_and_not_all_zero_and_the_model_is_left_as_found(name: str) -> None:
    s = state(name)
    for exp in s.maps:
        assert all(bool(v.isfinite().all()) for v in exp.scores.values())
        assert any(bool(v.any()) for v in exp.scores.values())
        assert set(exp.scores) == set(FAMILIES[name].streams)
    assert s.before == s.after


@each
def test_mixing_outside_attention_is_told(name: str) -> None:
    s = state(name)
    assert set(s.recording.mixers) == OUTSIDE.get(name, set())
    assert bool(s.recording.mixers) == any("mixed outside attention" in n for n in s.maps[0].receipt.notes)


def literal(family: Family, model: nn.Module) -> list[Tensor]:
    """Every A of an eager run, with its gradient by plain autograd."""
    inputs = {
        k: v.clone().requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in family.inputs.items()
    }
    torch.manual_seed(SEED)
    with captured() as maps:
        y = family.target(model(**inputs)).sum()
    grads = torch.autograd.grad(y, maps.A, allow_unused=True)
    for A, g in zip(maps.A, grads, strict=True):
        A.grad = torch.zeros_like(A) if g is None else g
    return maps.A


def compared(call: AttentionCall, t: Tensor) -> Tensor:
    """A twin's map in our axes; an attention sink's own column, whose value is zero, is no token and is left out."""
    _, _, n, m = call.shape
    return call.layout(t[..., :m].reshape(*call.layout.lead, n, m))


@each
def test_rows_and_their_gradients_equal_the_eager_twin(name: str) -> None:
    s, family = state(name), FAMILIES[name]
    if family.twin:
        assert any(not c.detached for c in s.recording.calls)
        pytest.skip(family.twin)
    twin = literal(family, s.model)
    assert len(twin) == len(s.gradients.calls)
    for call, found in zip(s.gradients.calls, twin, strict=True):
        ours = call.rows(torch.arange(call.shape[2]))
        A, G = compared(call, found.detach()), compared(call, found.grad)
        assert float((ours.A - A).abs().max()) <= (1e-4 if family.inexact else 1e-5)
        assert float((ours.G - G).abs().max()) <= (1e-4 if family.inexact else 1e-5) * max(float(G.abs().max()), 1e-6)


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


@each
def test_what_a_calls_keys_rest_on_is_what_autograd_says(name: str) -> None:
    """The order of calls: which earlier outputs reach the values of a call, by the graph and by `seen`."""
    calls = state(name).recording.calls
    generator = torch.Generator().manual_seed(3)
    for call in calls:
        earlier = [c for c in calls[: call.index] if c.output.requires_grad]
        if not earlier or not call.v.requires_grad:
            continue
        probe = (call.v * torch.randn(call.v.shape, generator=generator)).sum()
        grads = torch.autograd.grad(probe, [c.output for c in earlier], retain_graph=True, allow_unused=True)
        truth = {c.index for c, g in zip(earlier, grads, strict=True) if g is not None and bool(g.any())}
        events = reached(state(name).recording, call)
        assert {c.index for c in earlier if c.event in events} == truth, f"call {call.index}"


@each
def test_the_calls_that_are_read_are_those_that_no_later_call_reads(name: str) -> None:
    """Final calls, by autograd: alive, and no other call's output depends on theirs."""
    s = state(name)
    alive = [c for c in s.gradients.calls if c.dO is not None and bool(c.dO.any())]
    final = set()
    for call in alive:
        later = [c.output for c in alive if c.index > call.index]
        grads = (torch.autograd.grad(o.sum(), call.output, retain_graph=True, allow_unused=True)[0] for o in later)
        if not any(g is not None and bool(g.any()) for g in grads):
            final.add(call.index)
    parallel = {c.index for c in alive for d in alive if c.index in final and d.index in final and c.index < d.index
                and torch.equal(c.queries, d.queries)}  # of one state: the last one's rows are read  # fmt: skip
    assert set(s.recording.read_calls(s.gradients)) == final - parallel


def support(family: Family, name: str, gradient: Tensor) -> Tensor | None:
    """(sample, token) where a gradient at an input is not zero; None where we know no way from input to tokens."""
    size = gradient.abs()
    if name == "labels":  # the decoder's ids are the labels, one to the right, after a start token
        size = size.roll(-1, 1)
    if name in family.grids:
        rows, columns = family.grids[name]
        if size.ndim != 4 or size.shape[2] % rows or size.shape[3] % columns:
            return None
        cells = size.reshape(len(size), -1, rows, size.shape[2] // rows, columns, size.shape[3] // columns)
        size = cells.amax((1, 3, 5)).flatten(1)
    elif size.ndim == 3 and size.shape[1] == family.streams.get(name):
        size = size.amax(-1)
    elif size.ndim == 2 and len(size) == family.streams.get(name):  # packed: tokens of all samples
        size = size.amax(-1)[None]
    else:
        return None
    return size > 1e-4 * size.max()


@each
def test_keys_are_the_tokens_that_they_are_said_to_be(name: str) -> None:
    """Calls that rest on no other: the gradient of a key's value reaches the input token that the key is said to be."""
    s, family = state(name), FAMILIES[name]
    recording = s.recording
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
                found = None if g is None else support(family, stream.name, g)
                if found is not None and bool(found.any()):  # the value of padding may be a constant
                    place = (0 if len(found) == 1 else sample - 1, token - stream.first)
                    assert bool(found[place]), f"call {call.index}, key {j}: {place}, not {found.nonzero().tolist()}"
                    assert family.mixes or int(found.sum()) == 1, (
                        f"call {call.index}, key {j}: {found.nonzero().tolist()}"
                    )


@pytest.mark.parametrize("name", rows(REFUSED))
def test_what_cannot_be_explained_is_refused_by_name(name: str) -> None:
    refusal = REFUSED[name]
    with pytest.raises(RegardError, match=refusal.says):
        regard.explain(refusal.family.build(), dict(refusal.family.inputs), refusal.family.target)


def test_the_table_holds_what_was_promised() -> None:
    assert len(FAMILIES) >= 70
    assert {f.group for f in FAMILIES.values()} == set(GROUPS)
    assert all(r.why for r in [*REFUSED.values(), *OPEN.values()])


def test_the_page_of_families_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "families.py"))
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    table = lambda text: [line for line in text.splitlines() if line.startswith("|")]  # noqa: E731
    assert table(page) == table(made["page"]()), "docs/families.md is out of date: run `python docs/families.py`"
