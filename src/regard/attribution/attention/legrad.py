"""LeGrad (Bousselham et al., ICCV 2025): how the target, read from each of the last layers' tokens, rests on that layer's
attention. formulas.md section 10."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from regard.attribution.context import Context, Relevance
from regard.attribution.rerun import CLOSED
from regard.errors import Misuse, ModelError
from regard.recording import AttentionCall, Recording
from regard.recording.edits import Edit, GraphFrom
from regard.recording.frames import Block
from regard.recording.gradient import gradients_at
from regard.recording.states import State, parts, replaced
from regard.recording.tokens.tags import STRIDE, constant


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
        for state in tower.last(layers):
            out += _of_block(context, tower, state)
    return out


@dataclass
class Tower:
    """Blocks that hand one sequence of tokens on: the state that each gives back, and the calls that pool the last one."""

    blocks: list[Block]
    states: list[State]
    pooling: list[int]

    def last(self, count: int) -> list[State]:
        """The states after the last blocks."""
        if count > len(self.states):
            raise Misuse(
                f"layers={count}, but {self.blocks[-1].module} is the last of {len(self.states)} blocks that can be read"
            )
        return self.states[-count:]

    def calls(self, state: State) -> list[int]:
        """Whose A the target rests on where a state is read."""
        own = next(b for b in self.blocks if (b.module, b.visit) == state.key[:2])
        return self.pooling or own.calls


@dataclass
class ReadInPlace(Edit):
    """What a block gives back is put, at the last block, in the place of that: all tokens, or their mean in each token's."""

    source: State
    place: State
    mean: bool
    hidden: Tensor
    read: list[Tensor] = field(default_factory=list)

    def block(self, module: str, visit: int, output: Any) -> Any | None:
        """Keep the source's value; give it out at the place."""
        if (module, visit) == self.source.key[:2]:
            value = [*parts(output)][self.source.key.part]
            self.read = [self._mean(value) if self.mean else value]
        if (module, visit) == self.place.key[:2]:
            return replaced(output, {self.place.key.part: self.read[0]})
        return None

    def _mean(self, value: Tensor) -> Tensor:
        """Of all tokens but padding, in the place of each."""
        ids, axis = self.source.ids, token_axis(self.source)
        keep = ~self.hidden[(ids // STRIDE - 1).clamp(min=0), ids % STRIDE]
        keep = keep.expand(value.shape).to(value)
        return ((value * keep).sum(axis, keepdim=True) / keep.sum(axis, keepdim=True).clamp(min=1)).expand_as(value)


def _of_block(context: Context, tower: Tower, state: State) -> Relevance:
    """One block's term."""
    recording, again, calls = context.recording, context.again, tower.calls(state)
    assert again is not None
    edit = ReadInPlace(state, tower.states[-1], not tower.pooling, context.hidden())
    with torch.no_grad():
        made = again.run([GraphFrom(tuple(calls)), edit])
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
    return sum((_positive(recording, c.bind(g)) for c, g in zip(found, grads, strict=True)), recording.zeros())


def _positive(recording: Recording, call: AttentionCall) -> Relevance:
    """The mean over heads and query rows of (∂s/∂A)₊, at every key."""
    groups, heads, n, m = call.shape
    total = torch.zeros(groups, m, dtype=call.precision, device=call.output.device)
    for index in call.chunks(torch.arange(n)):
        G = call.rows(index).G
        assert G is not None
        total += G.clamp(min=0).sum((1, 2))
    return recording.scatter(total / (heads * n), call.keys)


def towers(recording: Recording) -> list[Tower]:
    """The blocks by the tokens that they hand on; blocks before the last change of shape are in no tower.

    Raises Misuse where the model has no blocks.
    """
    if not recording.blocks:
        raise Misuse(
            "legrad reads the tokens after blocks, and no block (an element of a ModuleList that holds attention) was seen"
        )
    out: dict[frozenset[int], Tower] = {}
    for block in recording.blocks:
        state = next((s for s in recording.states if s.key[:3] == (block.module, block.visit, "out")), None)
        if state is None:
            continue
        rows = frozenset((state.ids[state.ids > 0] % STRIDE).unique().tolist())
        tower = out.setdefault(rows, Tower([], [], []))
        if tower.states and tower.states[-1].value.shape != state.value.shape:
            tower.blocks, tower.states = [], []
        tower.blocks.append(block)
        tower.states.append(state)
    inside = {i for b in recording.blocks for i in b.calls}
    for rows, tower in out.items():
        after = [c for c in recording.calls if c.index not in inside and c.index > max(tower.blocks[-1].calls)]
        tower.pooling = [c.index for c in after if rows == frozenset((c.keys[c.keys > 0] % STRIDE).unique().tolist())]
    return [*out.values()]


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
