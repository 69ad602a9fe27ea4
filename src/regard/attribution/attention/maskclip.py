"""MaskCLIP (Zhou et al., ECCV 2022): what the model says of each patch by itself, read as it reads the whole picture.
formulas.md section 6."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regard.attribution.context import Context, Relevance
from regard.attribution.removal.runs import content
from regard.attribution.rerun import Rerun, alike
from regard.attribution.towers import AsRecorded, Tower, others, rows_in, token_axis, towers
from regard.errors import Misuse, ModelError
from regard.recording import AttentionCall, Recording
from regard.recording.edits import Edit
from regard.recording.states import ReplaceStates, State
from regard.recording.tokens.tags import STRIDE, constant

UNREAD = (
    "maskclip reads each token by itself after the last block, but this model's output does not follow from the tokens there "
    "alone ({}); choose another method"
)


def maskclip(context: Context, *, centred: bool = True) -> Relevance:
    """y_i − mean_j y_j, with y_i the target when every token of a picture after the last block is the token i.

    In the last block's attention A is the identity, so that a token is made of its own value alone. Where the tower ends in an
    attention that pools its tokens (SigLIP), that one has the identity's part, and the last block is as it is. centred=False:
    y_i itself; of a cosine, whose zero means nothing, that is a map of nearly one value.

    Our reading: of any model with blocks of picture tokens, classifiers too. Other inputs, special tokens and padding have no
    score. Raises Misuse where no picture is found, the last attention looks at other tokens than its own, or the target is not
    read from the tokens after the last block.
    """
    recording = context.recording
    keep = content(recording, context.reading, recording.zeros())
    out = recording.zeros()
    found = of_pictures(recording)
    if not found:
        raise Misuse("maskclip is of pictures: no input is cut into a grid of tokens that blocks hand on")
    for tower in found:
        out += _of_tower(context, tower, keep, centred)
    return out


def of_pictures(recording: Recording) -> list[Tower]:
    """Towers whose tokens are patches."""
    patches = {r for s in recording.streams if recording.is_picture(s) for r in range(s.first, s.first + s.count)}
    return [t for t in towers(recording, "maskclip") if rows_in(t.states[-1].ids) & patches]


def _of_tower(context: Context, tower: Tower, keep: Bool[Tensor, "batch row"], centred: bool) -> Relevance:
    """One tower's map."""
    recording, state = context.recording, tower.states[-1]
    tail = Tail.of(context, tower)
    axis = token_axis(state)
    dense = state.value.detach() if tower.pooling else _of_own_values(context, tower)
    rows = (state.ids % STRIDE).movedim(axis, 0).flatten(1).amax(1)
    wanted = [i for i, r in enumerate(rows.tolist()) if r and bool(keep[:, r].any())]
    values = tail.read([dense.narrow(axis, i, 1).expand_as(dense) for i in wanted])  # (token, batch)
    if len(values) > 1 and bool((values == values[0]).all()):
        raise Misuse(UNREAD.format("whatever stands there, the target is the same"))
    out, kept = recording.zeros(), torch.zeros_like(keep, dtype=torch.bool)
    out[:, rows[wanted]] = values.T.to(out)
    kept[:, rows[wanted]] = keep[:, rows[wanted]]
    if centred:
        out = out - (out * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
    return torch.where(kept, out, 0.0)


# -- the runs -------------------------------------------------------------------------------------------------------------


@dataclass
class OwnValues(Edit):
    """A is the identity in some calls: every row's output is its own value."""

    calls: Sequence[int]

    def call(self, call: AttentionCall) -> Tensor | None:
        """V of the row itself. Raises Misuse where a row is not among its keys."""
        if call.index not in self.calls:
            return None
        if not torch.equal(call.queries, call.keys):
            raise Misuse(
                f"attention call {call.index} ({call.module or 'the model itself'}) looks at other tokens than its own: an "
                "attention of each token to itself alone is not defined there"
            )
        return call.in_place(call.repeated(call.v))


def _of_own_values(context: Context, tower: Tower) -> Tensor:
    """The tokens after the last block whose last attention is the identity."""
    state, calls = tower.states[-1], tower.calls[-1]
    known = others(context.recording, state, [state.key.module], calls)
    plain: list[Edit] = [known]
    if not (alike(_after(context, state, plain), state.value) and known.whole):  # blocks hand on more than their output
        plain = []
    return _after(context, state, [*plain, OwnValues(calls)])


def _after(context: Context, place: State, edits: Sequence[Edit]) -> Tensor:
    """A state in a run with edits."""
    assert context.again is not None
    context.forwards += 1
    with torch.no_grad():
        made = context.again.run(edits, states=True)
    return next(s.value for s in made.states if s.key == place.key).detach()


@dataclass
class Tail:
    """What the model makes of the tokens after a tower's last block: the target as a function of these.

    states: what blocks gave back that do not rest on these. copies: how many fit side by side. whole: all inputs are copied,
    else those of the tower alone. skipped: the blocks are not computed.
    """

    context: Context
    again: Rerun
    place: State
    states: Sequence[State]
    copies: int
    whole: bool
    skipped: bool = True

    @classmethod
    def of(cls, context: Context, tower: Tower) -> Tail:
        """The tail of a run. Raises Misuse where the target is none of its functions."""
        recording, again = context.recording, context.again
        assert again is not None
        made = max(1, recording.made // recording.batch)
        place = tower.states[-1]
        known = others(recording, place, [], []).values
        states = [s for s in recording.states if s.key in known]
        whole = again.can_be_cut
        tail = cls(context, again, place, states, max(1, recording.budget // made), whole)
        if not whole:
            tail._check_alone()
        tail._check()
        return tail

    def read(self, values: Sequence[Tensor]) -> Float[Tensor, "value batch"]:
        """The target of each of some values of the tower's last state."""
        n = min(self.copies, len(values))
        return torch.cat([self._read(values[i : i + n]) for i in range(0, len(values), n)])

    def _read(self, values: Sequence[Tensor]) -> Float[Tensor, "value batch"]:
        k, recording = len(values), self.context.recording
        edits: list[Edit] = [AsRecorded({s.key: self._copied(s, k) for s in self.states})] if self.skipped else []
        edits.append(ReplaceStates({self.place.key: torch.cat([*values], _samples_axis(self.place))}))
        self.context.forwards += 1
        with torch.no_grad():
            if self.whole:
                made = self.again.run(edits, copies=k)
                output = self.again.copied(made.output, recording.output, k, recording.batch)
                if output is None:  # copies rest on one another
                    return torch.cat([self._read([v]) for v in values])
                return self.again.y(output, k).view(k, -1).float()
            again = replace(self.again, inputs=self._inputs(k), batch=k, shared=None, classes=self._classes(k))
            y = again.y(again.run(edits).output)
        if len(y) != k:
            raise Misuse(
                UNREAD.format(f"copies of the picture give {len(y)} values of the target, and {k} were made of it")
            )
        return y[:, None].float()

    def _copied(self, state: State, count: int) -> Tensor:
        """A recorded state, for so many copies of its inputs."""
        own = self.whole or rows_in(state.ids) & rows_in(self.place.ids)
        return torch.cat([state.value.detach()] * count, _samples_axis(state)) if own else state.value.detach()

    def _classes(self, count: int) -> Tensor | None:
        known = self.again.classes
        return known.expand(count) if known is not None and len(known) == 1 else known

    def _inputs(self, count: int) -> Any:
        given = self.again.inputs
        own = {s.name for s in self.context.recording.streams if set(range(*s.rows.indices(1 << 62))) & self._rows}
        new = {n: t for n, t in given.tensors.items() if self._entry(n) in own}
        return given.replaced({n: torch.cat([t] * count, given.axis(n) or 0) for n, t in new.items()})

    def _entry(self, name: str) -> str:
        return self.context.recording.aliases.get(name, name)

    @property
    def _rows(self) -> set[int]:
        return set(rows_in(self.place.ids))

    def _check_alone(self) -> None:
        """One picture beside several texts."""
        size = self.place.value.shape[_samples_axis(self.place)]
        if size != 1:
            raise Misuse(
                f"maskclip cannot take {size} pictures that are compared with one another; give them one by one"
            )

    def _check(self) -> None:
        """What was recorded there gives what was recorded of the target; else blocks are computed, or it is refused."""
        y = self.context.gradients.value.detach().float().cpu()
        for self.skipped in (True, False):
            if alike(self._read([self.place.value.detach()]).flatten().cpu(), y):
                return
        raise Misuse(UNREAD.format("with the same tokens the target is another"))


def _samples_axis(state: State) -> int:
    """The axis of a state that is the samples'."""
    samples = state.ids // STRIDE
    others = [d for d in range(samples.ndim) if d != token_axis(state)]
    varies = [d for d in others if samples.shape[d] > 1 and not constant(samples, d)]
    if len(varies) > 1:
        raise ModelError(f"the samples after {state.key.module} lie along several axes")
    return varies[0] if varies else others[0]


__all__ = ["maskclip"]
