"""What the scores of a call are made of, heads side by side; and a run in which a call has one head over the full width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.errors import ModelError
from regard.recording.calls import AttentionCall
from regard.recording.calls.layout import Layout
from regard.recording.edits import Edit, applies, differentiable_probabilities, rebuilt
from regard.recording.tokens.tags import STRIDE, constant

CLOSE = 1e-4
"""How far log A may be from scaled scores, as a share of the largest: rounding of a softmax in single precision."""
Operand = tuple[Tensor, Tensor]
"""A factor of scores, and the ids of its rows, in its shape."""


class Sides(NamedTuple):
    """Queries and keys of a call, all heads side by side, and what their products are scaled by before the softmax (None: more
    than that is done to them)."""

    q: Float[Tensor, "group row width"]
    k: Float[Tensor, "group key width"]
    scale: float | None


@dataclass
class ScoreOperands(Edit):
    """Keep the queries and keys of some calls (None: of all), also of those that compute their own softmax; changes nothing.

    sides: call -> what was found. A call whose scores are not one product of its rows and keys has no entry.
    """

    calls: Sequence[int] | None = None
    sides: dict[int, Sides] = field(default_factory=dict)
    _shown: list[tuple[Operand, Operand]] = field(default_factory=list, repr=False)

    def scores(self, left: Tensor, left_ids: Tensor, right: Tensor, right_ids: Tensor) -> None:
        """Both factors, until the next call."""
        self._shown.append(((left, left_ids), (right, right_ids)))

    def call(self, call: AttentionCall) -> Tensor | None:
        """Read the call's own."""
        shown, self._shown = self._shown, []
        if applies(self.calls, call.index) and (found := sides_of(call, shown)) is not None:
            self.sides[call.index] = found
        return None


@dataclass
class OneHead(ScoreOperands):
    """Run some calls with one head over the full width (another model; see formulas.md section 6).

    single: call -> the call as it was run.
    """

    single: dict[int, AttentionCall] = field(default_factory=dict)

    def call(self, call: AttentionCall) -> Tensor | None:
        """softmax(QKᵀ/√(H d)) V with heads concatenated; masks are those of the first head."""
        super().call(call)
        if not applies(self.calls, call.index):
            return None
        sides = self.sides.get(call.index)
        if sides is None or sides.scale is None:
            raise ModelError(
                f"attention call {call.index} ({call.module or 'the model itself'}) cannot be run with one head: its "
                "scores are not the products of its queries and keys alone; use heads='model'"
            )
        single = one_head(call, sides)
        O = rebuilt(single, differentiable_probabilities(single))
        self.single[call.index] = replace(single, output=O[:, 0])
        return call.in_place(O.unflatten(-1, (call.layout.heads, -1)).transpose(1, 2))


def one_head(call: AttentionCall, sides: Sides) -> AttentionCall:
    """A call of one head over the full width, with the operands of all heads side by side: softmax(QKᵀ/√(H d)).

    Scores are smaller by √H than one head's own would be, whatever these are scaled by; the mask is the first head's. Of a call
    that computes its own softmax it is known only which keys are hidden.
    """
    groups, heads, n, m = call.shape
    mask: Tensor | None = None
    if call.A is not None:
        visible = call.visible().to(call.output.device)
        mask = None if bool(visible.all()) else visible
    elif call.mask is not None:
        mask = call.layout(call.mask.expand(*call.mask.shape[:-2], n, m))[:, 0]
    return replace(
        call,
        layout=Layout((groups,), (0,), groups, 1),
        q=sides.q,
        k=sides.k,
        v=side_by_side(call.repeated(call.v)),
        output=side_by_side(call.canonical(call.output)),
        mask=mask,
        scale=(sides.scale or 1.0) / heads**0.5,
        A=None,
        dO=None if call.dO is None else side_by_side(call.canonical(call.dO)),
        axes=None,
        single=False,
    )


def sides_of(call: AttentionCall, shown: Sequence[tuple[Operand, Operand]] = ()) -> Sides | None:
    """Queries and keys of a call: its own, or those of the one product, of all that were shown, that has its rows and keys."""
    if call.q is not None and call.k is not None:
        return Sides(side_by_side(call.layout(call.q)), side_by_side(call.repeated(call.k)), call.scale)
    found = []
    for left, right in shown:
        q, k = rows_at(*left, call.queries), rows_at(*right, call.keys)
        if q is None or k is None:
            q, k = rows_at(*right, call.queries), rows_at(*left, call.keys)
        if q is not None and k is not None and q.shape[2] == k.shape[2]:
            found.append(Sides(q, k, scale_of(call, q.detach(), k.detach())))
    return found[0] if len(found) == 1 else None


def scale_of(
    call: AttentionCall, q: Float[Tensor, "group row width"], k: Float[Tensor, "group key width"]
) -> float | None:
    """What q kᵀ was scaled by, head by head, before the softmax that gave a call's A; None where A is not such a softmax.

    log A less its mean over the keys that a row sees is what the scores are less theirs, so that the scale is a slope.
    """
    assert call.A is not None
    heads = call.layout.heads
    if q.shape[2] % heads:
        return None
    q, k = (t.unflatten(2, (heads, -1)).transpose(1, 2).double() for t in (q, k))
    A = call.layout(call.A.detach()).double()
    seen = A > 0
    count = seen.sum(-1, keepdim=True).clamp(min=1)
    scores, logs = q @ k.transpose(2, 3), torch.where(seen, A, 1.0).log()
    x, y = (torch.where(seen, t - torch.where(seen, t, 0.0).sum(-1, keepdim=True) / count, 0.0) for t in (scores, logs))
    size = x.square().sum()
    if not bool(size > 0):
        return None
    scale = float((x * y).sum() / size)
    return scale if float((y - scale * x).abs().max()) <= CLOSE * float(y.abs().max()) else None


def side_by_side(t: Float[Tensor, "group head token width"]) -> Float[Tensor, "group token all"]:
    """Heads joined along the width."""
    return t.transpose(1, 2).flatten(2)


def rows_at(t: Tensor, ids: Tensor, wanted: Int[Tensor, "group token"]) -> Float[Tensor, "group token width"] | None:
    """Rows of a tensor by their ids; the axes along which ids do not change are the width, and where every id stands in the
    tensor several times (heads flattened into the batch), its rows are heads, side by side. None where it has other rows.

    Rows of a parameter that stands once for all samples (a learned query) are those of every sample."""
    features = [d for d in range(t.ndim) if t.shape[d] > 1 and constant(ids, d)]
    order = [d for d in range(t.ndim) if d not in features] + features
    width = int(torch.tensor([t.shape[d] for d in features]).prod()) if features else 1
    flat, own = (x.permute(order).reshape(-1, width) for x in (t, ids.expand(t.shape)))
    known, at = own[:, 0].cpu().sort(stable=True)
    wanted = wanted.remainder(STRIDE) if len(known) and int(known[-1]) < STRIDE else wanted
    first = torch.searchsorted(known, wanted.flatten())
    times = torch.searchsorted(known, wanted.flatten(), right=True) - first
    if int(times.min()) == 0 or int(times.min()) != int(times.max()):
        return None
    every = first[:, None] + torch.arange(int(times[0]))
    return flat[at[every].to(t.device)].view(*wanted.shape, -1)


__all__ = ["OneHead", "ScoreOperands", "Sides", "one_head", "rows_at", "side_by_side", "sides_of"]
