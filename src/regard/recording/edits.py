"""A run with changes. An edit is handed every place it may change, and answers with a value or with None (as it is).

Places: a model input or word embedding when it enters, what a block is given and gives back, an attention call. Only a call
that an edit really rebuilds leaves its fused kernel; all others run as the model runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from regard.errors import OtherRows
from regard.recording.calls import AttentionCall
from regard.recording.calls.kernel import visible
from regard.recording.tokens.tags import STRIDE, stream_of


class Edit:
    """The places at which a run can be changed. Subclasses override what they change."""

    @property
    def blind(self) -> bool:
        """Whether `call` gives every fused call another output without a look at its own, which need not be computed then."""
        return False

    def entered(self, name: str, value: Tensor) -> Tensor | None:
        """An input tensor (float), or the word embeddings of an id input (batch, token, width).

        `name` is the stream's; "input_ids#1" where the same ids are embedded once more.
        """

    def entering(self, module: str, visit: int, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """What a block is given, positional and by keyword, at its visit-th call."""

    def block(self, module: str, visit: int, output: Any) -> Any | None:
        """The output of a block (an element of a ModuleList), at its visit-th call."""

    def skips(self, module: str, visit: int) -> bool:  # noqa: ARG002
        """Whether `block` gives this visit's output without a look at what was computed, which need not be right then."""
        return False

    def call(self, call: AttentionCall) -> Tensor | None:
        """The output O of an attention call, in the call's own axes."""

    def scores(self, left: Tensor, left_ids: Tensor, right: Tensor, right_ids: Tensor) -> None:
        """The two operands of scores that the model makes itself (queries and keys, in either order), and the ids of their
        rows, each in its operand's shape. Nothing can be changed here."""

    def pooled(self, value: Tensor, rows: Tensor, axes: tuple[int, ...]) -> Tensor | None:
        """The mean of a tensor over axes along which its rows change; `rows` are the ids of its elements' tokens."""


def applies(calls: Sequence[int] | None, index: int) -> bool:
    """Whether an edit that names `calls` (None: all) is about this one."""
    return calls is None or index in calls


@dataclass
class Replace(Edit):
    """Put other values where streams enter: `values` is name -> tensor of the same shape, or a function of the value.

    A stream's name stands for all its entries (`input_ids` for `input_ids#1` too) that are not named themselves.
    """

    values: dict[str, Tensor | Callable[[Tensor], Tensor]]
    used: set[str] = field(default_factory=set)

    def entered(self, name: str, value: Tensor) -> Tensor | None:
        """The given value, or the function's."""
        stream = stream_of(name)
        new = self.values.get(name, self.values.get(stream))
        if new is None:
            return None
        self.used.add(stream)
        return new if isinstance(new, Tensor) else new(value)


@dataclass
class ReplaceBlock(Edit):
    """Put another value in place of a block's output (the first tensor of a tuple)."""

    module: str
    value: Tensor
    visit: int = 0

    def block(self, module: str, visit: int, output: Any) -> Any | None:
        """The given value in the place of the hidden state."""
        if (module, visit) != (self.module, self.visit):
            return None
        return (self.value, *output[1:]) if isinstance(output, tuple) else self.value


@dataclass
class Scale(Edit):
    """Multiply A of some calls (None: all) by a factor, or by one per sample (batch,): 0 is the baseline A0 = 0.

    O is linear in A, so the kernel stays.
    """

    factor: float | Tensor
    calls: Sequence[int] | None = None

    def call(self, call: AttentionCall) -> Tensor | None:
        """factor · O."""
        if not applies(self.calls, call.index):
            return None
        if not isinstance(self.factor, Tensor):
            return call.output * self.factor
        groups, heads, n, _ = call.shape
        factor = self.factor.to(call.output)[call.samples][:, None, None, None].expand(groups, heads, n, 1)
        return call.output * call.in_place(factor)


@dataclass
class GraphFrom(Edit):
    """A run under `no_grad` keeps a graph from the outputs of some calls on: y is a function of these alone, and what ran
    before them takes no memory and gets no gradient."""

    calls: Sequence[int]

    def call(self, call: AttentionCall) -> Tensor | None:
        """O as a leaf; the caller's `no_grad` ends with its own context."""
        if call.index not in self.calls:
            return None
        torch.set_grad_enabled(True)
        return call.output.detach().requires_grad_()


class Leaves(Edit):
    """Every call's output is where the graph begins anew: a gradient reaches it through no other call."""

    def call(self, call: AttentionCall) -> Tensor:
        """O as a leaf."""
        return call.output.detach().requires_grad_()


@dataclass
class Probabilities(Edit):
    """Replace A of some calls by a function of it: (group, head, row, key) -> the same. The call leaves its kernel."""

    change: Callable[[Tensor, AttentionCall], Tensor]
    calls: Sequence[int] | None = None

    def call(self, call: AttentionCall) -> Tensor | None:
        """change(A) V."""
        if not applies(self.calls, call.index):
            return None
        return rebuilt(call, self.change(differentiable_probabilities(call), call))


@dataclass
class Imposed(Edit):
    """Put other weights, or other values, or both, into some calls (None: all), whatever the call's own are.

    `weights`: call -> A (group, head or 1, row, key). `values`: call -> V (group, head, key, width). None, or a function that
    gives None: the call's own.
    """

    weights: Callable[[AttentionCall], Tensor | None] | None = None
    values: Callable[[AttentionCall], Tensor | None] | None = None
    calls: Sequence[int] | None = None

    def call(self, call: AttentionCall) -> Tensor | None:
        """A V, of what was put in."""
        if not applies(self.calls, call.index):
            return None
        A = None if self.weights is None else self.weights(call)
        V = None if self.values is None else self.values(call)
        if A is None and V is None:
            return None
        A = differentiable_probabilities(call) if A is None else A
        V = call.repeated(call.v) if V is None else V
        return call.in_place(A.to(V) @ V)


@dataclass
class MaskKeys(Edit):
    """Hide tokens: no call may look at the rows `hidden`, (batch, row) over all streams; A is renormalised over the others."""

    hidden: Tensor
    calls: Sequence[int] | None = None

    @property
    def blind(self) -> bool:
        """Wherever all calls are meant: q, k and v say it all."""
        return self.calls is None

    def call(self, call: AttentionCall) -> Tensor | None:
        """A with the hidden keys at zero, each row brought back to its sum, times V."""
        if not applies(self.calls, call.index):
            return None
        seen = ~at_keys(self.hidden, call)
        return fused(call, seen) if call.A is None else rebuilt(call, weighed(differentiable_probabilities(call), seen))


@dataclass
class WeighKeys(Edit):
    """Multiply the weight of every key by M, (batch, row) over all streams, 0 to 1; A is brought back to the sums of its rows.

    It is the attention of a softmax to whose scores log M was added, and has a gradient at M, also where M is 0.
    """

    M: Tensor
    calls: Sequence[int] | None = None

    def call(self, call: AttentionCall) -> Tensor | None:
        """A ⊙ M, each row brought back to its sum, times V."""
        if not applies(self.calls, call.index):
            return None
        A = differentiable_probabilities(call).to(call.precision)
        return rebuilt(call, weighed(A, at_keys(self.M, call).to(A)))


@dataclass
class LeaveOut(MaskKeys):
    """Leave tokens out of the run: no call may look at them, and no mean over tokens counts them.

    `hidden` as for `MaskKeys`. What they compute in their own rows is not read. A mean over no token at all is 0.
    """

    def pooled(self, value: Tensor, rows: Tensor, axes: tuple[int, ...]) -> Tensor | None:
        """The mean over the tokens that are left."""
        samples, at = rows // STRIDE - 1, rows % STRIDE
        keep = ~(self.hidden[samples.clamp(min=0), at] & (rows > 0)).to(value.device)
        return (value * keep).sum(axes) / keep.sum(axes).clamp(min=1)


def at_keys(values: Tensor, call: AttentionCall) -> Tensor:
    """Values (batch, row) over all streams at a call's keys, (group, key), where the call's output is. Raises OtherRows."""
    samples, rows = call.keys // STRIDE - 1, call.keys % STRIDE
    if rows.numel() and int(rows.max()) >= values.shape[1]:
        raise OtherRows
    return values[samples.clamp(min=0), rows].to(call.output.device)


def weighed(A: Tensor, M: Tensor) -> Tensor:
    """A with its keys weighed by M (group, key), each row brought back to its sum; 0 where nothing is left of a row."""
    left = A * M[:, None, None]
    total = left.sum(-1, keepdim=True)
    return torch.where(total > 0, left * (A.sum(-1, keepdim=True) / total.clamp(min=1e-30)), 0.0)


def differentiable_probabilities(call: AttentionCall) -> Tensor:
    """A (group, head, row, key), in the autograd graph: the model's own, or rebuilt from q and k."""
    if call.A is not None:
        return call.layout(call.A)
    assert call.q is not None
    assert call.k is not None
    scores = (call.layout(call.q) * call.scale) @ call.repeated(call.k).transpose(-1, -2)
    scores = masked(call, scores)
    nowhere = (scores == -torch.inf).all(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(nowhere, 0.0), -1).masked_fill(nowhere, 0.0)


def fused(call: AttentionCall, seen: Bool[Tensor, "group key"]) -> Tensor:
    """softmax(q kᵀ · scale + mask) V over the keys that are seen, in torch's own kernel; 0 where a row sees none.

    A mask that is added may hide padding by a large number alone: a row that has lost all keys that it saw does not turn to
    that.
    """
    assert call.q is not None
    assert call.k is not None
    n, m = call.shape[2:]
    mask = seen[:, None, None]
    if call.causal:
        mask = mask & torch.ones(n, m, dtype=torch.bool, device=seen.device).tril()
    if call.mask is not None:
        own = call.layout(call.mask.expand(*call.mask.shape[:-2], n, m))
        own = own[:, :1] if own.stride(1) == 0 else own  # one mask for all heads
        mask = mask & own if own.dtype == torch.bool else own.masked_fill(~mask, -torch.inf)
    if mask.dtype == torch.bool:
        nowhere = (~mask).all(-1, keepdim=True)
    else:
        lost = visible(own).any(-1, keepdim=True) & ~visible(mask).any(-1, keepdim=True)
        nowhere = (mask == -torch.inf).all(-1, keepdim=True) | lost
    mask = mask | nowhere if mask.dtype == torch.bool else mask.masked_fill(nowhere, 0.0)
    q, k, v = call.layout(call.q), call.repeated(call.k), call.repeated(call.v)
    O = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=call.scale)
    return call.in_place(O.masked_fill(nowhere, 0.0))


def masked(call: AttentionCall, scores: Tensor) -> Tensor:
    """Scores (group, head or 1, row, key) under the call's mask."""
    n, m = scores.shape[-2:]
    if call.mask is not None:
        mask = call.layout(call.mask.expand(*call.mask.shape[:-2], n, m))[:, : scores.shape[1]]
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if call.causal:
        later = torch.ones(n, m, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores


def rebuilt(call: AttentionCall, A: Tensor) -> Tensor:
    """A V, in the model's axes and dtype."""
    return call.in_place(A.to(call.v.dtype) @ call.repeated(call.v))


def uniform(call: AttentionCall) -> Tensor:
    """The attention that knows no content: every row looks alike at all keys that it may look at, (group, head or 1, row, key).

    Of weights that a model made itself it is known only which are zero: those keys are taken for hidden.
    """
    open_ = open_keys(call).to(call.precision)
    return open_ / open_.sum(-1, keepdim=True).clamp(min=1)


def open_keys(call: AttentionCall) -> Tensor:
    """Which keys each row may look at, (group, head or 1, row, key)."""
    n, m = call.shape[2:]
    if call.A is not None:
        return call.layout(call.A.detach()) > 0
    open_ = torch.ones(1, 1, n, m, dtype=torch.bool, device=call.output.device)
    if call.mask is not None:
        mask = visible(call.mask)
        mask = mask if mask.ndim > 1 else mask[None]
        open_ = call.layout(mask.expand(*mask.shape[:-2], n, m))
    return open_.tril() if call.causal else open_
