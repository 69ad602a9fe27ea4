"""A run with every attention output cut, and what is tested of it: functionals of rows, each with the ids it is said to have.

O becomes O.detach(), and its gradient goes on to a random projection of the row's own query: values stay bit-identical, all
paths but attention are left, and the claim of O's rows is tested too, also without a residual connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.recording.calls import AttentionCall
from regard.recording.edits import Edit
from regard.recording.proof.claims import Claim, Claims
from regard.recording.recording import Recording
from regard.recording.tokens.tags import constant

END = 1 << 62
"""An event after all others."""


class _Carried(torch.autograd.Function):
    """O as it is; its gradient goes to s."""

    @staticmethod
    def forward(_ctx: Any, O: Tensor, _s: Tensor) -> Tensor:
        return O.detach().clone()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


@dataclass
class Shown:
    """An operand of scores that the model makes itself, with the ids of its rows; how many calls there had been."""

    value: Tensor
    ids: Tensor
    calls: int


class Cut(Edit):
    """Every attention output without its past, but for its own row's query. Keeps the calls as they were."""

    def __init__(self) -> None:
        self.whole: dict[int, AttentionCall] = {}
        self.shown: list[Shown] = []
        self.names: set[str] = set()

    def entered(self, name: str, _value: Tensor) -> None:
        """A name that enters once more is that of a run that begins anew (an input whose axis 0 is not samples)."""
        if name in self.names:
            self.__init__()  # type: ignore[misc]
        self.names.add(name)

    def scores(self, left: Tensor, left_ids: Tensor, right: Tensor, right_ids: Tensor) -> None:
        """Keep both operands."""
        self.shown += [Shown(left, left_ids, len(self.whole)), Shown(right, right_ids, len(self.whole))]

    def call(self, call: AttentionCall) -> Tensor:
        """O, carried by the query's row."""
        self.whole.setdefault(call.index, call)  # one map may multiply several values, one after the other
        s = self._query(call)
        if s is None or not s.requires_grad:
            return call.output.detach()
        s = call.in_place(s.expand(*s.shape[:-1], call.canonical(call.output).shape[-1])).to(call.output.dtype)
        return _Carried.apply(call.output, s)  # type: ignore[no-any-return, no-untyped-call]

    def _query(self, call: AttentionCall) -> Tensor | None:
        """(group, head, row, 1): a random projection of each row's own query; None where that is not known."""
        if call.q is not None and fits(call):
            q = call.layout(call.q)
            return (_single(q) * noise(q.shape[-1:], call.index, q)).sum(-1, keepdim=True)
        for shown in reversed(self.shown):
            s, ids = probed(shown.value, shown.ids, call.index)
            known, index = ids.unique(return_inverse=True)
            if call.queries.numel() and bool(torch.isin(call.queries, known).all()):
                table = torch.zeros(len(known), dtype=s.dtype, device=s.device).index_add(0, index.to(s.device), s)
                rows = table[torch.searchsorted(known, call.queries.contiguous()).to(s.device)]
                return rows[:, None, :, None].expand(-1, call.layout.heads, -1, 1)
        return None


def _single(t: Tensor) -> Tensor:
    """At least float32."""
    return t if t.dtype == torch.float64 else t.float()


def fits(call: AttentionCall) -> bool:
    """Whether a call has as many rows and keys as are said to be tokens."""
    rows = call.canonical(call.output).shape[2]
    return (rows, call.v.shape[-2]) == (call.queries.shape[1], call.keys.shape[1])


def noise(shape: Sequence[int], seed: int, like: Tensor) -> Tensor:
    """Gaussian numbers of a seed, in at least float32."""
    generator = torch.Generator().manual_seed(1_000 + seed)
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.randn(tuple(shape), generator=generator, dtype=dtype).to(like.device)


def probed(t: Tensor, ids: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A random functional of each row: its features are the axes along which ids do not change. (row,), and the ids there."""
    s = _single(t) * noise(t.shape, seed, t)
    for d in range(t.ndim):
        if t.shape[d] > 1 and constant(ids, d):
            s, ids = s.sum(d, keepdim=True), ids.narrow(d, 0, 1)
    return s.flatten(), ids.flatten()


# -- what is tested ---------------------------------------------------------------------------------------------------


@dataclass
class Term:
    """Some rows that claims are made of: a functional of each row, and its claim. side: "queries of call 3"."""

    call: AttentionCall | None
    side: str
    event: int
    s: Tensor
    ids: Tensor
    scale: float = 1.0

    def claims(self, claims: Claims, sharp: bool) -> list[Claim]:
        """Every row's claim."""
        known, index = self.ids.unique(return_inverse=True)
        each = [claims.of(i, self.event, sharp=sharp) for i in known.tolist()]
        return [each[i] for i in index.tolist()]

    def value(self, weights: Tensor) -> Tensor:
        """y of some weights, (row,)."""
        return (self.s * weights.to(self.s)).sum() * self.scale


@dataclass
class MapOrder:
    """Rows and columns of an A that the model made: log A, with weights that sum to zero over the columns taken of a row.

    Then the softmax's denominator cancels, and what is left is the scores of those rows and columns.
    """

    call: AttentionCall
    logs: Tensor
    seen: Tensor
    scale: float = 1.0

    def value(self, rows: Tensor, columns: Tensor) -> Tensor:
        """y of some rows, (group, row), and columns, (group, key): 1 where they are taken."""
        taken = (rows[:, None, :, None] * columns[:, None, None, :]).to(self.logs) * self.seen
        w = noise(taken.shape, self.call.index, taken) * taken
        w = w - taken * (w.sum(-1, keepdim=True) / taken.sum(-1, keepdim=True).clamp(min=1))
        return (w * self.logs).sum() * self.scale


@dataclass
class Unit:
    """What one gradient finds alive: a call's own sides, or operands, or final states."""

    what: str
    terms: list[Term]
    weights: MapOrder | None = None

    @property
    def parts(self) -> list[Term | MapOrder]:
        """All of it."""
        return [*self.terms, *([self.weights] if self.weights else [])]


def units(recording: Recording, cut: Cut, untested: list[str]) -> list[Unit]:
    """All that can be tested, in order."""
    out = []
    for call in recording.calls:
        what = f"call {call.index}"
        if call.lost:
            untested.append(f"{what}: {call.lost}")
        elif not fits(call):
            continue
        elif call.detached:
            untested.append(f"{what}: the model cuts it out of the graph (no_grad or detach)")
        else:
            out.append(_of_call(call, what, untested))
    last = [c.event for c in recording.calls] or [END]
    for shown in cut.shown:
        event = last[min(shown.calls, len(last) - 1)]
        if shown.value.requires_grad:
            side = f"operand of the scores before call {shown.calls}"
            out.append(Unit(side, [Term(None, side, event, *probed(shown.value, shown.ids, len(out)))]))
    return out + _final(recording, END)


def _of_call(call: AttentionCall, what: str, untested: list[str]) -> Unit:
    sides = {"values": (call.v, call.keys), "keys": (call.k, call.keys), "queries": (call.q, call.queries)}
    unit = Unit(what, [])
    if call.looks:
        untested.append(
            f"{what}: its keys (rows of {call.looks}; maps go to the tokens of its values, which are others)"
        )
        del sides["keys"]
    for number, (side, (t, ids)) in enumerate(sides.items()):
        if t is None or not t.requires_grad:
            if t is not None:
                untested.append(f"{what}: no gradient passes its {side}")
            continue
        t = call.layout(t) if side == "queries" else call.repeated(t)
        s, rows = probed(t, ids[:, None, :, None].expand(t.shape), 10 * call.index + number)
        unit.terms.append(Term(call, side, call.event, s, rows))
    if call.A is not None and call.A.requires_grad and not call.looks:
        if call.A.dtype in (torch.float16, torch.bfloat16):
            untested.append(f"{what}: the order of its weights' rows and columns (half precision)")
        elif not separable(call.A.grad_fn):
            untested.append(f"{what}: the order of its weights' columns (they are mixed after the softmax)")
        else:
            A = call.layout(call.A)
            seen = A.detach() > 1e-12
            unit.weights = MapOrder(call, torch.where(seen, A, 1.0).log(), seen)
    return unit


MOVED = ("Permute", "Transpose", "View", "Reshape", "Expand", "Clone", "Slice", "Select", "Squeeze", "Unsqueeze", "ToCopy",
         "MaskedFill", "TBackward", "Alias", "Split", "Unbind", "Cat", "Index", "Gather", "Contiguous")  # fmt: skip
SCALED = ("DivBackward", "MulBackward")


def separable(node: Any) -> bool:
    """Whether weights come from a softmax (or exponentials) by movements and factors alone, so that A_ij / A_ij' is a function
    of two scores: nothing of other rows or columns was mixed in."""
    while node is not None:
        name = node.name().replace("Unsafe", "")
        if name.startswith(("Softmax", "Exp", "Sigmoid")) and not name.startswith("Expand"):
            return True
        if not name.startswith((*MOVED, *SCALED)):
            return False
        following = [n for n, _ in node.next_functions if n is not None]
        node = following[0] if following else None
    return False


def _final(recording: Recording, event: int) -> list[Unit]:
    """The newest state of each stream that a block gave back."""
    newest = {s.stream: s for s in recording.states if s.key.side == "out" and s.value.requires_grad}
    out = []
    for number, (name, state) in enumerate(newest.items()):
        term = Term(None, f"final state of {name}", event, *probed(state.value, state.ids, 500 + number))
        out.append(Unit(f"the final state of {name}", [term]))
    return out
