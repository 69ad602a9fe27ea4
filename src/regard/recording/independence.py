"""Whether the target of one sample reads another sample: told by the graph where it can be, else by gradients.

y is summed over the samples and differentiated once, which is right where y_i depends on sample i alone. In-batch
similarities, contrastive heads and batch statistics are not so. `apart` follows the sample axis from y down through the
graph, by a list of operations that keep to it; it costs no pass, and proves most models. Where it proves nothing, gradients
of some samples' y are looked for in others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.recording.backward.attention import FusedAttention, WeighedValues
from regard.recording.backward.functions import Instead, Scaled, ThroughZero
from regard.recording.gradient import gradient
from regard.recording.inputs import first
from regard.recording.patch_gradient import PatchEmbedding
from regard.recording.recording import Recording
from regard.recording.row_gradient import LinearByRows

TINY = 1e-6  # of the greatest gradient: less is rounding


def crossing(recording: Recording, y: Float[Tensor, " batch"]) -> tuple[bool, int]:
    """Whether some y_i reads another sample than i, and how many gradients it took to tell."""
    if len(y) < 2 or len(y) != recording.batch or not y.requires_grad or apart(y):
        return False, 0
    finals = [c for c in recording.final_calls() if not c.lost]
    samples = torch.arange(len(y), device=y.device)
    bits = range((len(y) - 1).bit_length())  # any two samples differ in one of these
    halves = [(samples >> bit & 1) == side for bit in bits for side in (0, 1)]
    groups = [samples == 0, *halves[1 if len(y) == 2 else 0 :]]
    for n, group in enumerate(groups):
        weight = group.to(y.dtype)
        at = [c.output for c in finals] + (list(recording.leaves.values()) if n == 0 or not finals else [])
        read = _read(recording, y, weight, at, len(finals))
        if bool((read[~group.cpu()] > TINY * read.max()).any()):
            return True, n + 1
    return False, len(groups)


def _read(recording: Recording, y: Tensor, weight: Tensor, at: Sequence[Tensor], calls: int) -> Float[Tensor, " batch"]:
    """How much of each sample a weighted sum of y reads, at the outputs of final calls and at inputs."""
    wanted = [t for t in at if t.requires_grad]
    if not wanted:
        return torch.zeros(recording.batch, dtype=torch.float64)
    found = iter(gradient(y, wanted, keep=True, weight=weight))
    grads = [next(found) if t.requires_grad else None for t in at]
    read = torch.zeros(recording.batch, dtype=torch.float64)
    finals = [c for c in recording.final_calls() if not c.lost]
    for call, grad in zip(finals, grads[:calls], strict=True):
        if grad is not None:
            norms = call.canonical(grad.detach()).double().pow(2).sum((1, 3)).sqrt().cpu()
            read += recording.scatter(norms, call.queries).double().sum(1)
    for name, grad in zip(recording.leaves, grads[calls:], strict=False):
        if grad is not None and len(grad := first(grad.detach(), recording.axis(name))) == recording.batch:
            read += grad.double().flatten(1).norm(dim=1).cpu()
    return read


# -- by the graph -----------------------------------------------------------------------------------------------------


class Axis(NamedTuple):
    """Where the samples stand in a tensor: in dimension `dim`, where `outer` other things (heads) are slower than they."""

    dim: int = 0
    outer: int = 1


@dataclass(slots=True)
class NodeStep:
    """One operation of the graph, and where the samples stand in its result."""

    node: Any
    shape: tuple[int, ...]
    axis: Axis
    samples: int
    graph: _Graph

    @property
    def operands(self) -> int:
        """How many there are."""
        return len(self.graph.operands(self.node))

    def shape_of(self, i: int) -> tuple[int, ...]:
        """The shape of the i-th operand."""
        return self.graph.shape(*self.graph.operands(self.node)[i])

    def dims(self, name: str, ndim: int) -> set[int] | None:
        """Dimensions that the operation was given, counted from 0; None where it was given none."""
        value = getattr(self.node, f"_saved_{name}", None)
        if value is None:
            return None
        return {(d - (1 << 64) if d >= 1 << 63 else d) % ndim for d in ([value] if isinstance(value, int) else value)}

    def there(self, i: int, axis: Axis) -> bool:
        """Whether the samples can stand at a place of the i-th operand."""
        shape = self.shape_of(i)
        return axis.dim < len(shape) and shape[axis.dim] % (axis.outer * self.samples) == 0


class _Graph:
    """What nodes say of themselves, each asked once: they are slow to tell."""

    def __init__(self) -> None:
        self.operands = cache(lambda node: node.next_functions)
        self.shape = cache(_shape)
        self._constant: dict[Any, bool] = {}

    def constant(self, node: Any, samples: int) -> bool:
        """Whether a part of the graph is made of parameters alone. Rows of a table may be picked by the samples' ids."""
        known, todo = self._constant, [node]
        while todo:
            at = todo[-1]
            if at in known:
                todo.pop()
            elif hasattr(at, "variable"):
                known[at] = isinstance(at.variable, nn.Parameter)
            elif at.name().startswith("Embedding"):
                known[at] = self.shape(at, 0)[0] != samples
            elif waiting := [n for n, _ in self.operands(at) if n is not None and n not in known]:
                todo.extend(waiting)
            else:
                known[at] = bool(self.operands(at)) and all(known[n] for n, _ in self.operands(at) if n is not None)
        return known[node]


Rule = Callable[[NodeStep, int], Axis | None]
"""Where the samples stand in the i-th operand; None: not known, or they are mixed."""


def apart(y: Float[Tensor, " batch"]) -> bool:
    """Whether the graph shows that each y_i depends on sample i alone: every operation in it is known to keep samples apart."""
    if y.grad_fn is None:
        return False
    todo = [(y.grad_fn, 0, Axis())]
    known: dict[tuple[Any, int], Axis] = {}
    graph = _Graph()
    while todo:
        node, number, axis = todo.pop()
        if (before := known.setdefault((node, number), axis)) is not axis:
            if before != axis:
                return False
            continue
        name = node.name().partition("Backward")[0]
        if (hasattr(node, "variable") or name == "Embedding") and axis != Axis():
            return False  # samples are axis 0 of what goes in
        step, rule = NodeStep(node, graph.shape(node, number), axis, len(y), graph), _rule(node, name)
        for i, (child, which) in enumerate(graph.operands(node)):
            if child is None or graph.constant(child, len(y)):
                continue
            found = None if rule is None else rule(step, i)
            if found is None or not step.there(i, found):
                return False
            todo.append((child, which, found))
    return True


def _shape(node: Any, number: int) -> tuple[int, ...]:
    if hasattr(node, "variable"):
        return tuple(node.variable.shape)
    return tuple(node._input_metadata[number].shape)


def _same(step: NodeStep, i: int) -> Axis | None:
    """Element by element, or along other axes than the samples': operands have the result's axes."""
    shape, dim = step.shape_of(i), step.axis.dim
    return step.axis if len(shape) == len(step.shape) and shape[dim] == step.shape[dim] else None


def _along(name: str) -> Rule:
    """Element by element but for some axes, which must not be the samples'."""

    def rule(step: NodeStep, i: int) -> Axis | None:
        dims = step.dims(name, len(step.shape))
        return None if dims is None or step.axis.dim in dims else _same(step, i)

    return rule


def _reduced(step: NodeStep, i: int) -> Axis | None:
    """Some axes are summed over, or one place of one is taken: they may be gone from the result."""
    ndim = len(step.shape_of(i))
    dims = step.dims("dim", ndim)
    if dims is None:
        return None
    kept = [d for d in range(ndim) if d not in dims or ndim == len(step.shape)]
    dim = kept[step.axis.dim] if len(kept) == len(step.shape) else -1
    return None if dim < 0 or dim in dims else Axis(dim, step.axis.outer)


def _grown(step: NodeStep, i: int) -> Axis | None:
    """An axis of length 1 is put in, or operands are stacked along a new one."""
    dims = step.dims("dim", len(step.shape))
    if dims is None or step.axis.dim in dims:
        return None
    return Axis(step.axis.dim - sum(d < step.axis.dim for d in dims), step.axis.outer)


def _sliced(step: NodeStep, i: int) -> Axis | None:
    """A part of some axis, or all of it."""
    return step.axis if step.shape_of(i) == step.shape else _along("dim")(step, i)


def _permuted(step: NodeStep, i: int) -> Axis | None:
    dims = [d % len(step.shape) for d in step.node._saved_dims]
    return Axis(dims[step.axis.dim], step.axis.outer)


def _transposed(step: NodeStep, i: int) -> Axis | None:
    a, b = (next(iter(step.dims(n, len(step.shape)) or {0})) for n in ("dim0", "dim1"))
    return Axis({a: b, b: a}.get(step.axis.dim, step.axis.dim), step.axis.outer)


def _turned(step: NodeStep, i: int) -> Axis | None:
    return Axis(1 - step.axis.dim, step.axis.outer) if len(step.shape) == 2 else None


def _viewed(step: NodeStep, i: int) -> Axis | None:
    """The same elements in the same order: as many of them stand before a sample as did."""
    shape = step.shape_of(i)
    before = math.prod(step.shape[: step.axis.dim]) * step.axis.outer
    done = 1
    for dim, size in enumerate(shape):
        if done * size >= before * step.samples:
            return Axis(dim, before // done) if before % done == 0 else None
        done *= size
    return None


def _split(step: NodeStep, i: int) -> Axis | None:
    """Parts of an axis; where each holds all samples of some heads, these stand one after the other."""
    dim = step.axis.dim
    if dim not in (step.dims("dim", len(step.shape)) or ()):
        return _same(step, i)
    whole, part = step.shape_of(i)[dim], step.node._saved_split_size
    return Axis(dim, step.axis.outer * whole // part) if whole % part == 0 else None


def _joined(step: NodeStep, i: int) -> Axis | None:
    """The other way round."""
    dim, count = step.axis.dim, step.operands
    if dim not in (step.dims("dim", len(step.shape)) or ()):
        return _same(step, i)
    alike = {step.shape_of(n)[dim] for n in range(count)} == {step.shape[dim] // count}
    return Axis(dim, step.axis.outer // count) if alike and step.axis.outer % count == 0 else None


def _restrided(step: NodeStep, i: int) -> Axis | None:
    """The same elements in the same order, and of the same shape, as pooling over all places gives them."""
    wanted, stride = 1, list(step.node._saved_stride)
    for size, found in zip(reversed(step.shape), reversed(stride), strict=True):
        if size > 1 and found != wanted:
            return None
        wanted *= size
    return step.axis if step.shape_of(i) == step.shape else None


def _expanded(step: NodeStep, i: int) -> Axis | None:
    """Axes of length 1, or new ones in front, are repeated."""
    dim = step.axis.dim - len(step.shape) + len(step.shape_of(i))
    return Axis(dim, step.axis.outer) if dim >= 0 and step.shape_of(i)[dim] == step.shape[step.axis.dim] else None


def _product(added: int) -> Rule:
    """Matrices: samples are among a batch's axes, or among the rows of the first and not in the second, or the other way round.

    `added`: how many operands come before the two, which are added.
    """

    def rule(step: NodeStep, i: int) -> Axis | None:
        ndim, dim = len(step.shape), step.axis.dim
        if i < added or dim < ndim - 2:
            return _same(step, i)
        return _same(step, i) if i - added == dim - (ndim - 2) else None

    return rule


def _leading(last: int) -> Rule:
    """Only the last axes are worked on: layer norms, linear layers, pooling; operand 0 is what passes through."""

    def rule(step: NodeStep, i: int) -> Axis | None:
        return _same(step, i) if i == 0 and step.axis.dim < len(step.shape) - last else None

    return rule


def _layer_norm(step: NodeStep, i: int) -> Axis | None:
    return _leading(len(step.node._saved_normalized_shape))(step, i)


def _padded(step: NodeStep, i: int) -> Axis | None:
    """What is added at either end of axes, the last one first."""
    pad, back = step.node._saved_pad, 2 * (len(step.shape) - 1 - step.axis.dim)
    return _same(step, i) if not any(pad[back : back + 2]) else None


def _repeated(step: NodeStep, i: int) -> Axis | None:
    """Copies along other axes than the samples'."""
    dim = step.axis.dim - len(step.shape) + len(step.shape_of(i))
    return Axis(dim, step.axis.outer) if dim >= 0 and step.node._saved_repeats[step.axis.dim] == 1 else None


def _gated(step: NodeStep, i: int) -> Axis | None:
    """One half of an axis weighs the other."""
    dims = step.dims("dim", len(step.shape))
    return step.axis if dims is not None and step.axis.dim not in dims else None


def _attention(step: NodeStep, i: int) -> Axis | None:
    """Queries, keys and values side by side along axis 0."""
    return _same(step, i) if step.axis.dim == 0 else None


def _indexed(step: NodeStep, i: int) -> Axis | None:
    """x[:, index], or x[arange(samples), index]."""
    indices = list(step.node._saved_indices)
    shape = step.shape_of(i)
    if step.axis != Axis() or shape[0] != step.shape[0]:
        return None
    given = [n for n, index in enumerate(indices) if index is not None]
    if indices[0] is None:
        return step.axis if given == list(range(given[0], given[-1] + 1)) else None
    own = torch.arange(shape[0], device=indices[0].device)
    return step.axis if indices[0].shape == own.shape and bool((indices[0] == own).all()) else None


def _convolved(step: NodeStep, i: int) -> Axis | None:
    """Axis 0 is a batch's; weights are parameters."""
    return step.axis if i == 0 and step.axis.dim == 0 and len(step.shape_of(0)) == len(step.shape) else None


def _normalised(step: NodeStep, i: int) -> Axis | None:
    """A batch norm keeps samples apart where it uses what it learned."""
    return None if step.node._saved_training else _same(step, i)


ELEMENTS = """
Add Sub Rsub Mul Div Neg Pow Exp Log Log1P Expm1 Tanh Sigmoid LogSigmoid Relu Gelu Silu Elu Selu Celu Mish LeakyRelu Hardtanh
Hardswish Hardsigmoid Softplus Softsign Sqrt Rsqrt Reciprocal Abs Sign Erf Sin Cos Clamp ClampMin ClampMax Maximum
Minimum MaskedFill Where PreluKernel Clone Alias ToCopy NativeDropout Addcmul Addcdiv Lerp Square Atan NanToNum
"""
REDUCED = "Sum Mean Amax Amin Var Std LinalgVectorNorm Norm Logsumexp Max Min Select Unbind"
ALONG = "Softmax SafeSoftmax LogSoftmax Cumsum Cumprod Gather SplitWithSizes IndexSelect"
SDPA = ("FlashAttentionForCpu", "FlashAttention", "EfficientAttention", "CudnnAttention", "FusedAttentionOverrideable")
PLANES = "AvgPool2D AdaptiveAvgPool2D MaxPool2DWithIndices UpsampleBilinear2D UpsampleBicubic2D UpsampleNearest2D"
RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTS.split(), _same),
    **dict.fromkeys(REDUCED.split(), _reduced),
    **dict.fromkeys(ALONG.split(), _along("dim")),
    **dict.fromkeys(("Roll", "Flip"), _along("dims")),
    **dict.fromkeys(("Unsqueeze", "Stack"), _grown),
    **dict.fromkeys(("View", "UnsafeView", "ReshapeAlias", "Squeeze"), _viewed),
    **dict.fromkeys(("NativeLayerNorm", "FusedRmsNorm"), _layer_norm),
    **dict.fromkeys((f"ScaledDotProduct{kind}" for kind in SDPA), _attention),
    **dict.fromkeys(PLANES.split(), _leading(2)),
    **dict.fromkeys(("NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"), _normalised),
    "Slice": _sliced,
    "Split": _split,
    "Cat": _joined,
    "AsStrided": _restrided,
    "Permute": _permuted,
    "Transpose": _transposed,
    "T": _turned,
    "Expand": _expanded,
    **dict.fromkeys(("Addmm", "Baddbmm"), _product(1)),
    **dict.fromkeys(("Mm", "Bmm"), _product(0)),
    "Linear": _leading(1),
    "Index": _indexed,
    "Convolution": _convolved,
    "ConstantPadNd": _padded,
    "Repeat": _repeated,
    "Glu": _gated,
    "NativeGroupNorm": _attention,
}
"""What of torch is known to keep samples apart, by the name of its node in the graph."""
OURS: dict[type, Rule] = {
    PatchEmbedding: _convolved,
    **dict.fromkeys((LinearByRows, Scaled, ThroughZero, Instead), _leading(1)),
    **dict.fromkeys((FusedAttention, WeighedValues), _attention),
}
"""The same for functions of our own; of a model's own functions nothing is known, whatever their names."""


def _rule(node: Any, name: str) -> Rule | None:
    """What is known of a node."""
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return OURS.get(getattr(type(node), "_forward_cls"))  # noqa: B009 (no stub knows it)
    return RULES.get(name)
