"""Attention calls between rows: which reads which, which are the last, and which rows of one side belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from regard.memory import MEMORY_BUDGET
from regard.recording.calls import AttentionCall
from regard.recording.calls.attention import Attention
from regard.recording.gradient import Gradients
from regard.recording.relevance.rows import Relevance, RowSpace
from regard.recording.tokens.tags import STRIDE, Merge


@dataclass(kw_only=True)
class CallGraph(RowSpace):
    """The calls of a run over its rows.

    Attributes:
        calls: attention calls in execution order. attentions: the layer-level units that they make (calls/attention.py).
        final_seen: event of a call -> the events that the state after it has absorbed.
        leaves: stream -> the tensor at which its gradient is taken (the input itself; word embeddings for ids).
        budget: the most bytes that rebuilt rows may take at a time.
    """

    calls: list[AttentionCall]
    attentions: list[Attention] = field(default_factory=list)
    final_seen: dict[int, int] = field(default_factory=dict, repr=False)
    leaves: dict[str, Tensor] = field(default_factory=dict, repr=False)
    budget: int = MEMORY_BUDGET

    def calls_of(self, attention: int, gradients: Gradients | None = None) -> list[AttentionCall]:
        """The calls of an attention, bound to a target where its gradients are given."""
        return [(gradients or self).calls[i] for i in self.attentions[attention].calls]

    def events_of(self, attention: int) -> int:
        """The events of an attention's own calls."""
        return sum(1 << c.event for c in self.calls_of(attention))

    def seen_by(self, attention: int) -> int:
        """Events that the state after a final attention has absorbed (through the residual stream around it)."""
        seen = 0
        for call in self.calls_of(attention):
            seen |= self.final_seen.get(call.event, 0) | 1 << call.event
        return seen

    def final_attentions(self, of: Sequence[int] | None = None) -> list[int]:
        """Attentions (of those given) whose output no later one reads: what the head reads is among their query rows."""
        numbers = range(len(self.attentions)) if of is None else of
        calls = {a: self.calls_of(a) for a in numbers}
        later = 0
        for call in (c for some in calls.values() for c in some):
            later |= call.seen | call.rows_seen | call.keys_seen
        ends = {a: some for a, some in calls.items() if not any(later >> c.event & 1 for c in some)}
        return [a for a, some in ends.items() if not any(self._holds(b, some) for b in ends if b > a)]

    def final_calls(self) -> list[AttentionCall]:
        """The calls of the final attentions."""
        return [c for a in self.final_attentions() for c in self.calls_of(a)]

    def _holds(self, later: int, calls: Sequence[AttentionCall]) -> bool:
        """Whether the state after an attention holds the output of other calls, in rows that both wrote (two pooled rows may
        be joined)."""
        seen, written = self.seen_by(later), torch.cat([c.queries.flatten() for c in self.calls_of(later)])
        return any(seen >> c.event & 1 and bool(torch.isin(c.queries, written).any()) for c in calls)

    def norms_read(self, gradients: Gradients) -> dict[int, Relevance]:
        """Final attentions that the target depends on, with the norm of ∂y/∂O at each of their rows (batch, row)."""
        squares: dict[int, Relevance] = {}
        for call in gradients.calls:
            if call.dO is None:  # not asked for
                continue
            norms = torch.linalg.vector_norm(call.canonical(call.dO).to(call.precision), dim=3)
            if bool(norms.any()) or bool(call.dO.any()):  # norms of very small gradients are zero
                square = norms.pow(2).sum(1).cpu()
                if bool(square[call.queries == 0].any()):
                    squares.setdefault(call.attention, self.zeros())[:, 0] = torch.inf  # rows of no stream are read
                squares[call.attention] = squares.get(call.attention, self.zeros()) + self.scatter(square, call.queries)
        return {a: squares[a].sqrt() for a in self.final_attentions([*squares])}

    @cached_property
    def sources(self) -> Int[Tensor, " row"]:
        """The number of each row's source (propagation.py); 0 for rows of no stream in use."""
        of = torch.zeros(self.rows, dtype=torch.int64)
        for number, stream in enumerate(self.streams, start=1):
            of[stream.rows] = number
        sides = [ids % STRIDE for c in self.calls for ids in (c.queries, c.keys)]
        for rows in [*sides, *[torch.cat([m.rows, m.sources.flatten()]) for m in self.merges]]:
            joined = of[rows.unique()].unique()
            joined = joined[joined > 0]
            if len(joined) > 1:
                of[torch.isin(of, joined)] = joined[0]
        return of

    @cached_property
    def left_over(self) -> dict[int, Bool[Tensor, "batch row"]]:
        """Attention -> its query rows that no later attention has among its own, where there are any."""
        taken = torch.zeros(self.batch, self.rows, dtype=torch.bool)
        out: dict[int, Tensor] = {}
        for event in in_turn(self.calls, self.merges):
            if isinstance(event, Merge):
                # rows that go on under another name (merged, copies, later stages) are taken along
                made = taken[:, event.rows.repeat_interleave(event.sources.shape[1])].long()
                taken |= torch.zeros_like(taken, dtype=torch.int64).index_add_(1, event.sources.flatten(), made) > 0
                continue
            own = torch.zeros_like(taken)
            for call in event:
                own[(call.queries // STRIDE - 1).clamp(min=0), call.queries % STRIDE] = True
            own[:, 0] = False
            out[event[0].attention], taken = own & ~taken, taken | own
        return {a: mine for a, mine in out.items() if bool(mine.any())}

    def ends(self, call: AttentionCall) -> tuple[int, int]:
        """The sources of a call's rows and of its keys; 0 where they are of no stream."""
        at_rows, at_keys = (
            int(self.sources[ids % STRIDE].max()) if ids.numel() else 0 for ids in (call.queries, call.keys)
        )
        return at_rows, at_keys


def in_turn(calls: Sequence[AttentionCall], merges: Sequence[Merge]) -> list[list[AttentionCall] | Merge]:
    """Attentions, as lists of their calls, and token maps, from last to first; an attention's place is its last call's."""
    groups: dict[int, list[AttentionCall]] = {}
    for call in calls:
        groups.setdefault(call.attention, []).append(call)
    placed: list[tuple[int, list[AttentionCall] | Merge]] = [(max(c.event for c in g), g) for g in groups.values()]
    return [e for _, e in sorted([*placed, *[(m.event, m) for m in merges]], key=lambda p: p[0], reverse=True)]


__all__ = ["CallGraph", "in_turn"]
