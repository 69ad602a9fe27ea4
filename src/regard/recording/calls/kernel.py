"""What one attention kernel was given and gave, as the model ran it: all that rows of A and of G are rebuilt from (rebuild.py).

A fused kernel keeps q, k, v, the mask and the scale; of weights that the model made itself, A is kept as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from regard.memory import MEMORY_BUDGET
from regard.recording.calls.layout import Layout


class Weights(NamedTuple):
    """A tensor that A is a view of (or A itself), with A's size, stride and offset in it."""

    root: Tensor
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor, A: Tensor | None) -> Weights | None:
        """From a tensor of the graph, and A, a view of it; None where no gradient can be read there."""
        root = tensor if tensor._base is None else tensor._base
        if A is None or not root.requires_grad or A.untyped_storage().data_ptr() != root.untyped_storage().data_ptr():
            return None
        return cls(root, tuple(A.shape), A.stride(), int(A.storage_offset() - root.storage_offset()))

    def part(self, gradient: Tensor | None) -> Tensor:
        """What of a gradient at the root is A's, in A's shape."""
        laid = torch.zeros_like(self.root) if gradient is None else torch.empty_like(self.root).copy_(gradient)
        return laid.detach().as_strided(self.size, self.stride, laid.storage_offset() + self.offset)


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Operands and output of one attention kernel.

    Attributes:
        layout: see `Layout`. queries, keys: ids (group, token) of the rows and columns (tokens/tags.py).
        output: O, in the model's own axes; `axes` permutes it to (lead..., row, width).
        q, k, v, mask, causal, scale: of a fused kernel. A: of weights that the model made; sparse: not by a softmax (entmax,
            sparsemax), so that a zero in it need not be a mask's.
        single: each query row is a group of its own, since its values are too (v_ij); the output has no axis of rows then.
        weights: where G of all products with A is read, if A multiplies several values. G: that gradient, when bound.
        dO: ∂y/∂O in the output's own axes, when bound to a target. budget: the most bytes that rebuilt rows may take at a time.
    """

    layout: Layout
    queries: Int[Tensor, "group row"]
    keys: Int[Tensor, "group key"]
    output: Tensor = field(repr=False)
    v: Tensor = field(repr=False)
    q: Tensor | None = field(default=None, repr=False)
    k: Tensor | None = field(default=None, repr=False)
    mask: Tensor | None = field(default=None, repr=False)
    causal: bool = False
    scale: float = 1.0
    A: Tensor | None = field(default=None, repr=False)
    sparse: bool = False
    axes: tuple[int, ...] | None = field(default=None, repr=False)
    single: bool = False
    weights: Weights | None = field(default=None, repr=False)
    G: Tensor | None = field(default=None, repr=False)
    dO: Tensor | None = field(default=None, repr=False)
    budget: int = MEMORY_BUDGET

    @property
    def precision(self) -> torch.dtype:
        """What A, G and relevance are counted in: float32, whatever the model's dtype; float64 for a model in float64."""
        return torch.float64 if self.output.dtype == torch.float64 else torch.float32

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(groups, heads, query rows, keys)."""
        return self.layout.groups, self.layout.heads, self.queries.shape[1], self.keys.shape[1]

    def repeated(self, t: Tensor) -> Tensor:
        """Keys or values (lead..., token, width) to (group, head, token, width), grouped heads repeated."""
        if len(self.layout.lead) and t.ndim > 2 and t.shape[-3] not in (1, self.layout.lead[-1]):
            t = t.repeat_interleave(self.layout.lead[-1] // t.shape[-3], -3)
        return self.layout(t)

    def by_rows(self, output: Tensor) -> Tensor:
        """An output, or its gradient, from the model's own axes to (lead..., row, width)."""
        output = output if self.axes is None else output.permute(self.axes)
        return output.unsqueeze(-2) if self.single else output

    def canonical(self, output: Tensor) -> Tensor:
        """An output, or its gradient, from the model's own axes to (group, head, row, width)."""
        return self.layout(self.by_rows(output))

    def in_place(self, O: Tensor) -> Tensor:
        """(group, head, row, width) back to the axes in which the model expects the output."""
        out = self.layout.back(O)
        out = out.squeeze(-2) if self.single else out
        if self.axes is None:
            return out
        return out.permute([self.axes.index(d) for d in range(out.ndim)])

    def dead_keys(self) -> Bool[Tensor, "group key"]:
        """Keys that the mask hides from every query row; none where zeros may be the weights' own."""
        groups, _, _, m = self.shape
        if self.A is not None and not self.sparse:
            return (self.layout(self.A.detach().amax(-2, keepdim=True)).amax((1, 2)) == 0).cpu()
        if self.mask is None or self.A is not None:
            return torch.zeros(groups, m, dtype=torch.bool)
        open_ = visible(self.mask)
        if open_.ndim > 1 and open_.shape[-2] > 1:
            open_ = open_.any(-2, keepdim=True)
        open_ = open_.expand(*open_.shape[:-2], 1, m) if open_.ndim > 1 else open_.expand(1, m)
        return ~self.layout(open_).any(1)[:, 0].cpu()

    def visible(self) -> Bool[Tensor, "group row key"]:
        """Which keys each row may look at, by the mask of any head."""
        groups, _, n, m = self.shape
        if self.A is not None:
            return (self.layout(self.A.detach()) > 0).any(1)
        if self.mask is None:
            return torch.ones(groups, n, m, dtype=torch.bool)
        mask = visible(self.mask)
        mask = mask if mask.ndim > 1 else mask[None]
        return self.layout(mask.expand(*mask.shape[:-2], n, m)).any(1)


def visible(mask: Tensor) -> Tensor:
    """Where a boolean or additive mask lets attention through."""
    mask = mask.detach()
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


__all__ = ["Kernel", "Weights", "visible"]
