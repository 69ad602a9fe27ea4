"""LeGrad (Bousselham et al., ICCV 2025): how the target, read from each of the last layers' tokens, rests on that layer's
attention. formulas.md section 10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from regard.attribution.context import Context, Relevance
from regard.attribution.rerun import CLOSED
from regard.errors import Misuse, ModelError
from regard.recording import AttentionCall, Recording
from regard.recording.edits import Edit, GraphFrom
from regard.recording.gradient import gradients_at
from regard.recording.states import State, parts, replaced
from regard.recording.tokens.tags import STRIDE, constant

CLOSE = 1e-3
"""How far a block's output may be from the recorded one, as a share of its size, where what it was given is the same."""


def legrad(context: Context, *, layers: int = 2) -> Relevance:
    """Σ_l mean over heads and query rows of (∂s^l/∂A^l)₊, for the last `layers` blocks of every tower.

    s^l is the target with every token after the last block replaced by the mean of the tokens after block l: the model's own
    tail reads block l. Where the tower ends in an attention that pools its tokens (SigLIP), s^l is the target with the tokens
    after block l in the place of the last block's, and A^l the pooling attention's.

    Our reading: of any model with blocks whose states have one shape, classifiers and text towers too; padding counts in no
    mean.
    """
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 1:
        raise Misuse(f"layers= is how many blocks are added up, the last first: 1 or more, not {layers!r}")
    out = context.recording.zeros()
    for tower in towers(context.recording):
        for state, calls in tower.last(layers):
            out += _of_block(context, tower, state, calls)
    return out


@dataclass
class Tower:
    """A sequence of tokens that block after block hands on: the state that each gives back, the calls that ran on the way to
    each, and those that pool the last state, if any do."""

    states: list[State]
    calls: list[list[int]]
    pooling: list[int]

    def last(self, count: int) -> list[tuple[State, list[int]]]:
        """The states after the last blocks, and whose A the target rests on where each is read."""
        if count > len(self.states):
            raise Misuse(
                f"layers={count}, but the tokens after {self.states[-1].key.module} stand after {len(self.states)} "
                f"block{'s' if len(self.states) > 1 else ''} only"
            )
        return [(s, self.pooling or c) for s, c in zip(self.states[-count:], self.calls[-count:], strict=True)]


@dataclass
class ReadInPlace(Edit):
    """What a block gives back is put, at the last block, in the place of that: all tokens, or their mean in each token's.

    known: (block, visit) -> what it gave back in the recorded run; it does so again without being computed. as_recorded: the
    source gave back what it did then, or that is not known yet.
    """

    source: State
    place: State
    mean: bool
    hidden: Tensor
    known: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)
    read: list[Tensor] = field(default_factory=list)
    as_recorded: bool = True

    def skips(self, module: str, visit: int) -> bool:
        """All that is known."""
        return (module, visit) in self.known

    def block(self, module: str, visit: int, output: Any) -> Any | None:
        """Keep the source's value; give it out at the place."""
        at, every = (module, visit), [*parts(output)]
        if at == self.source.key[:2]:
            value = every[self.source.key.part]
            self.read = [self._mean(value) if self.mean else value]
            self.as_recorded &= alike(value, self.source.value)
        if at == self.place.key[:2]:
            return replaced(output, {self.place.key.part: self.read[0]})
        if at in self.known:
            self.as_recorded &= len(every) == 1
            return replaced(output, {0: self.known[at].clone()})  # a model may go on to write into it
        return None

    def _mean(self, value: Tensor) -> Tensor:
        """Of all tokens but padding, in the place of each."""
        ids, axis = self.source.ids, token_axis(self.source)
        keep = ~self.hidden[(ids // STRIDE - 1).clamp(min=0), ids % STRIDE]
        keep = keep.expand(value.shape).to(value)
        return ((value * keep).sum(axis, keepdim=True) / keep.sum(axis, keepdim=True).clamp(min=1)).expand_as(value)


def _of_block(context: Context, tower: Tower, state: State, calls: list[int]) -> Relevance:
    """One block's term."""
    recording, again = context.recording, context.again
    assert again is not None
    edit = ReadInPlace(state, tower.states[-1], not tower.pooling, context.hidden(), others(recording, state, calls))
    with torch.no_grad():
        made = again.run([GraphFrom(tuple(calls)), edit])
        if not edit.as_recorded:  # blocks hand on more than their output
            made = again.run([GraphFrom(tuple(calls)), replace(edit, known={}, read=[])])
        with torch.enable_grad():
            y = again.y(made.output).sum()
    if not y.requires_grad:
        raise ModelError(CLOSED)
    found = [made.calls[i] for i in calls]
    for own, then in zip((recording.calls[i] for i in calls), found, strict=True):
        if not torch.equal(own.keys, then.keys):
            raise ModelError(f"attention call {own.index} looks at other tokens when another block is read")
    grads = gradients_at([c.output for c in found], y)
    context.nodes += 1
    shown = (~context.hidden()).to(recording.precision)
    return sum((_positive(recording, c.bind(g), shown) for c, g in zip(found, grads, strict=True)), recording.zeros())


def others(recording: Recording, state: State, calls: Sequence[int]) -> dict[tuple[str, int], Tensor]:
    """What blocks gave back, but for the one of a state, those that hold some calls, and those around either."""
    needed = [state.key.module, *(b.module for b in recording.blocks if {*b.calls} & {*calls})]
    found: dict[tuple[str, int], Tensor] = {}
    for s in recording.states:
        around = any(f"{n}.".startswith(f"{s.key.module}.") or f"{s.key.module}.".startswith(f"{n}.") for n in needed)
        if s.key.side == "out" and s.key.part == 0 and not around:
            found[s.key[:2]] = s.value.detach()
    return found


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors differ by no more than rounding."""
    size = float(b.detach().abs().max())
    return a.shape == b.shape and float((a.detach() - b.detach()).abs().max()) <= CLOSE * max(size, 1e-30)


def _positive(recording: Recording, call: AttentionCall, shown: Relevance) -> Relevance:
    """The mean over heads and query rows (those that are shown) of (∂s/∂A)₊, at every key."""
    groups, heads, n, m = call.shape
    weight = recording.gather(shown, call.queries).to(call.output.device, call.precision)
    total = torch.zeros(groups, m, dtype=call.precision, device=call.output.device)
    for index in call.chunks(torch.arange(n)):
        G = call.rows(index).G
        assert G is not None
        total += (G.clamp(min=0) * weight[:, None, index.to(weight.device), None]).sum((1, 2))
    return recording.scatter(total / (heads * weight.sum(1, keepdim=True).clamp(min=1)), call.keys)


def towers(recording: Recording) -> list[Tower]:
    """The states after blocks by their tokens and shape; those whose tokens are merged later (stages) are left out.

    Raises Misuse where no state is known, or no attention leads to one.
    """
    out: dict[tuple[Any, ...], Tower] = {}
    since = 0
    for block in recording.blocks:
        state = next((s for s in recording.states if s.key[:3] == (block.module, block.visit, "out")), None)
        if state is None:
            continue
        between = [c.index for c in recording.calls if since <= c.event < state.time]
        tower = out.setdefault((rows_in(state.ids), state.value.shape), Tower([], [], []))
        tower.states.append(state)
        tower.calls.append(block.calls or between)
        since = state.time
    made = [t for (rows, _), t in out.items() if any(t.calls) and not _merged(recording, rows, t.states[-1].time)]
    if not made:
        raise Misuse(
            "legrad reads the tokens after blocks, and no block (an element of a ModuleList that holds attention) was seen"
        )
    inside = {i for tower in out.values() for calls in tower.calls for i in calls}
    for tower in made:
        last = max(i for calls in tower.calls for i in calls)
        after = [c for c in recording.calls if c.index > last and c.index not in inside]
        tower.pooling = [c.index for c in after if rows_in(c.keys) == rows_in(tower.states[-1].ids)]
    return made


def rows_in(ids: Tensor) -> frozenset[int]:
    """The rows that some ids name, of all samples."""
    return frozenset((ids[ids > 0] % STRIDE).unique().tolist())


def _merged(recording: Recording, rows: frozenset[int], time: int) -> bool:
    return any(m.event >= time and bool(rows & rows_in(m.sources)) for m in recording.merges)


def token_axis(state: State) -> int:
    """The axis of a state along which one sample's rows change. Raises Misuse where there are several."""
    rows = state.ids % STRIDE
    axes = [d for d in range(rows.ndim) if rows.shape[d] > 1 and not constant(rows, d)]
    if len(axes) != 1:
        raise Misuse(
            f"the tokens after {state.key.module} lie along {len(axes) or 'no'} axes: their mean is not defined here; choose "
            "another method"
        )
    return axes[0]


__all__ = ["legrad"]
