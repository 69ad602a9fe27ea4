"""LeGrad (Bousselham et al., ICCV 2025): how the target, read from each of the last layers' tokens, rests on that layer's
attention. formulas.md section 10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from regard.attribution.context import Context, Relevance
from regard.attribution.rerun import CLOSED, Rerun, alike
from regard.attribution.towers import Tower, others, token_axis, towers
from regard.errors import Misuse, ModelError
from regard.kinds import Count
from regard.recording import AttentionCall, Recording
from regard.recording.edits import Edit, GraphFrom
from regard.recording.gradient import gradient
from regard.recording.states import State, parts, replaced
from regard.recording.tokens.tags import STRIDE

BRIGHT = 0.8
"""A patch is bright whatever is asked if the correcting map is larger there, as a share of its range (LeGrad's release)."""


def legrad(context: Context, *, layers: Count | None = None, correct: int | None = None) -> Relevance:
    """Σ_l mean over heads and query rows of (∂s^l/∂A^l)₊, for the last `layers` blocks of every tower (default: two, or one
    where there is no more than one).

    s^l is the target with every token after the last block replaced by the mean of the tokens after block l: the model's own
    tail reads block l. Where the tower ends in an attention that pools its tokens (SigLIP), s^l is the target with the tokens
    after block l in the place of the last block's, and A^l the pooling attention's.

    correct: another class of the target, such as the number of a text that names nothing ("a photo of a", among texts that a
    picture is compared with). A patch that its own map finds bright, above 0.8 of the range from its least value to its
    largest, is so whatever is asked (SigLIP has such patches), and has no score.

    Our reading: of any model with blocks whose states have one shape, classifiers and text towers too; padding counts in no
    mean; a tower that no input enters (of texts which a model brings along) is left out.
    """
    again = context.again
    assert again is not None
    out = _of_target(context, again, layers)
    return (
        out if correct is None else out * ~bright(context.recording, _of_target(context, other(again, correct), layers))
    )


def other(again: Rerun, c: int) -> Rerun:
    """The same runs with another class of the target. Raises Misuse where the target is of none."""
    if isinstance(c, bool) or not isinstance(c, int) or again.classes is None:
        raise Misuse(
            f"correct= is the number of another class of the target, and the target is {again.target.label}; not {c!r}"
        )
    return replace(again, classes=torch.full_like(again.classes, c))


def bright(recording: Recording, found: Relevance) -> Bool[Tensor, "batch row"]:
    """The patches at which a map is bright, picture by picture."""
    out = torch.zeros_like(found, dtype=torch.bool)
    for stream in recording.streams:
        if recording.is_picture(stream):
            own = found[:, stream.rows]
            least, most = own.amin(1, keepdim=True), own.amax(1, keepdim=True)
            out[:, stream.rows] = own - least > BRIGHT * (most - least)
    return out


def _of_target(context: Context, again: Rerun, layers: int | None) -> Relevance:
    """The map of the target of some runs."""
    out = context.recording.zeros()
    for tower in _entered(context.recording, towers(context.recording, "legrad")):
        for state, calls in tower.last(min(2, len(tower.states)) if layers is None else layers):
            out += _of_block(context, again, tower, state, calls)
    return out


def _entered(recording: Recording, every: list[Tower]) -> list[Tower]:
    """The towers that an input enters: not that of texts which a model brings along. All, where there is none such."""
    inputs = {s.name for s in recording.streams if s.of_input}
    entered = {s.key[:2] for s in recording.states if s.stream in inputs}
    apart = [blocks for blocks in recording.blocks_apart() if entered & {*blocks}]
    return [t for t in every if any(t.states[-1].key[:2] in blocks for blocks in apart)] or every


@dataclass
class ReadInPlace(Edit):
    """What a block gives back is put, at the last block, in the place of that: all tokens, or their mean in each token's.

    as_recorded: the source gave back what it did in the recorded run, or that is not known yet.
    """

    source: State
    place: State
    mean: bool
    hidden: Tensor
    read: list[Tensor] = field(default_factory=list)
    as_recorded: bool = True

    def block(self, module: str, visit: int, output: Any) -> Any | None:
        """Keep the source's value; give it out at the place."""
        at = (module, visit)
        if at == self.source.key[:2]:
            value = [*parts(output)][self.source.key.part]
            self.read = [self._mean(value) if self.mean else value]
            self.as_recorded &= alike(value, self.source.value)
        if at == self.place.key[:2]:
            return replaced(output, {self.place.key.part: self.read[0]})
        return None

    def _mean(self, value: Tensor) -> Tensor:
        """Of all tokens but padding, in the place of each."""
        ids, axis = self.source.ids, token_axis(self.source)
        keep = ~self.hidden[(ids // STRIDE - 1).clamp(min=0), ids % STRIDE]
        keep = keep.expand(value.shape).to(value)
        return ((value * keep).sum(axis, keepdim=True) / keep.sum(axis, keepdim=True).clamp(min=1)).expand_as(value)


def _of_block(context: Context, again: Rerun, tower: Tower, state: State, calls: list[int]) -> Relevance:
    """One block's term."""
    recording = context.recording
    for call in (recording.calls[i] for i in calls):
        if call.weights is not None:  # its graph begins at the outputs, each of which has values of its own
            raise ModelError(
                f"the map of attention call {call.index} ({call.module or 'the model itself'}) multiplies several values, for "
                "which legrad is not defined here; choose another method, such as gae"
            )
    place = tower.states[-1]
    known = others(recording, place, [state.key.module], calls)
    edit = ReadInPlace(state, place, not tower.pooling, context.hidden())
    with torch.no_grad():
        made = again.run([GraphFrom(tuple(calls)), known, edit])
        if not (known.whole and edit.as_recorded):  # blocks hand on more than their output
            made = again.run([GraphFrom(tuple(calls)), edit])
        with torch.enable_grad():
            y = again.y(made.output).sum()
    found = [made.calls[i] for i in calls]
    for own, then in zip((recording.calls[i] for i in calls), found, strict=True):
        if not torch.equal(own.keys, then.keys):
            raise ModelError(f"attention call {own.index} looks at other tokens when another block is read")
    grads = gradient(y, [c.output for c in found]) if y.requires_grad else [None for _ in found]
    context.nodes += 1
    if all(g is None for g in grads):
        if _moved(context, calls):
            raise ModelError(CLOSED)
        return recording.zeros()  # the target does not rest on this tower
    shown = (~context.hidden()).to(recording.precision)
    return sum((_positive(recording, c.bind(g), shown) for c, g in zip(found, grads, strict=True)), recording.zeros())


def _moved(context: Context, calls: Sequence[int]) -> bool:
    """Whether the target has a gradient at some calls of the recorded run."""
    return any(call.dO is not None and bool(call.dO.any()) for call in context.gradients.bound(calls))


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


__all__ = ["legrad"]
