"""What stands around an attention call: the linear layer that its output goes through, and the residual stream.

Both are found from the operations of a run, never from names of modules.

- W_O, the *output projection*, is the linear layer that reads the call's output O, moved about (heads merged, windows put
  together) but otherwise as it is.
- z, the *residual stream*, is what the projected output is added to, if the call was made from it: the block's input, before
  its norm or after it, as the model has it. (The branch beside a parallel attention is no ancestor of O, so it is not z.)
  Keys that do not stand in it are another stream's: their z is what the linear layer of their values was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.errors import Misuse
from regard.recording.calls import AttentionCall
from regard.recording.graph import descends, node_of
from regard.recording.tokens.by_tensor import ByTensor
from regard.recording.tokens.contractions import PRODUCTS, is_weight, read_product
from regard.recording.tokens.elementwise import tensors_in
from regard.recording.tokens.movements import CATS, EXPANSIONS, MOVEMENTS, RESHAPES
from regard.recording.tokens.tags import STRIDE, Tag, constant
from regard.recording.tokens.tracker import Trail

Move = Callable[[Tensor], Tensor]
MOVES = RESHAPES | (MOVEMENTS - EXPANSIONS - {"as_strided"})
COPIES = {"contiguous", "clone", "to", "type", "type_as", "float", "half", "bfloat16", "double", "dropout"}
"""Operations after which every element stands where it stood (dropout: an explained model is in eval mode)."""
SUMS = {"add", "add_"}


class Linear(NamedTuple):
    """A contraction with weights: its input, the input's axes that are summed over, and the weights (in, out)."""

    x: Tensor
    axes: tuple[int, ...]
    weight: Float[Tensor, "in out"]
    bias: Float[Tensor, " out"] | None = None


class OutputLayer(NamedTuple):
    """A linear layer that reads a call's output: the movements that bring it there, the axes summed over, the weights, and the
    bias that the layer adds itself."""

    moves: tuple[Move, ...]
    axes: tuple[int, ...]
    weight: Float[Tensor, "in out"]
    bias: Float[Tensor, " out"] | None = None


class Norms(NamedTuple):
    """Of some rows: their ids, and ‖row‖."""

    ids: Tensor
    values: Tensor


@dataclass
class Branch:
    """What was seen around one call. other: operations on its output that are neither movements nor linear layers."""

    node: Any
    layers: list[OutputLayer] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    residual: Norms | None = None
    source: Norms | None = None


class Branches:
    """Collects, operation by operation, what stands around calls. Events number the calls, as in `seen`."""

    def __init__(self, trail: Trail) -> None:
        self.trail = trail
        self.of: dict[int, Branch] = {}
        self._moved: ByTensor[tuple[int, tuple[Move, ...]]] = ByTensor()
        self._given: ByTensor[Tensor] = ByTensor()

    # -- while the model runs -----------------------------------------------------------------------------------------

    def called(self, event: int, output: Tensor, values: Tensor) -> None:
        """A call was made: its output, and the values as the model handed them over."""
        branch = self.of[event] = Branch(node_of(output))
        self._moved[output] = (event, ())
        given = self._given.get(values)
        if given is not None and (tag := self.trail.tag(given)) is not None and not tag.lost:
            branch.source = norms(given, self.trail.settled(tag))

    def before(self, name: str, args: Sequence[Any]) -> None:
        """An operation is about to run: is it a residual connection? (Afterwards an `add_` has written over z.)"""
        if name not in SUMS or len(args) < 2 or not all(isinstance(t, Tensor) for t in args[:2]):
            return
        a, b = args[:2]
        ta, tb = self.trail.tag(a), self.trail.tag(b)
        if ta is None or tb is None or a.shape != b.shape or ta.lost or tb.lost:
            return
        self._met(ta, b, tb)
        self._met(tb, a, ta)

    def _met(self, own: Tag, z: Tensor, tag: Tag) -> None:
        """The projected output of a call meets a tensor that has not absorbed it, nor any later one."""
        new = own.seen & ~tag.seen & self.trail.call_events
        for event, branch in self.of.items():
            if not new >> event & 1 or tag.seen >> event or branch.residual is not None or not branch.layers:
                continue
            if descends(branch.node, node_of(z)):
                branch.residual = norms(z, self.trail.settled(tag))

    def after(self, name: str, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        """An operation has run."""
        if name in CATS and (parts := [t for t in tensors_in(args) if t.numel()]) and len(parts) == 1:
            if (given := self._given.get(parts[0])) is not None:  # the beginning of a cache of keys and values
                self._given[out] = given
        elif name in MOVES or name in COPIES or name in EXPANSIONS:
            self._move(name, func, args, kwargs, out)
        elif (linear := read_linear(self.trail, name, args, kwargs)) is not None and isinstance(out, Tensor):
            if linear.x in self._moved:
                event, moves = self._moved[linear.x]
                self.of[event].layers.append(OutputLayer(moves, linear.axes, linear.weight, linear.bias))
            self._given[out] = linear.x
        else:
            self._other(name, args, kwargs, out)

    def _move(self, name: str, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        x = args[0] if args else kwargs.get("input")
        outs = [out] if isinstance(out, Tensor) else list(out) if isinstance(out, list | tuple) else []
        if not isinstance(x, Tensor):
            return
        for o in outs:
            if o is x:
                continue
            if x in self._given:
                self._given[o] = self._given[x]
            if x in self._moved:
                event, moves = self._moved[x]
                more = () if name in COPIES else (replayed(name, func, args[1:], kwargs, o.shape),)
                if isinstance(out, Tensor) and name not in EXPANSIONS:
                    self._moved[o] = event, moves + more
                elif name not in self.of[event].other:
                    self.of[event].other.append(name)

    def _other(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        operands = tensors_in(args) + tensors_in(kwargs.values())
        for x in operands:
            if x in self._moved and isinstance(out, Tensor) and out.ndim:
                self.of[self._moved[x][0]].other.append(name)
        if name in SUMS and isinstance(out, Tensor) and any(t.ndim < 2 for t in operands):  # a bias, added apart
            given = [g for t in operands if (g := self._given.get(t)) is not None]
            if given:
                self._given[out] = given[0]


def replayed(name: str, func: Any, rest: Sequence[Any], kwargs: dict[str, Any], shape: torch.Size) -> Move:
    """A movement, to be done again with another tensor (which may lie otherwise in memory: no view of it may be asked for)."""
    if name in RESHAPES:
        return lambda t: t.reshape(shape)
    more = {k: v for k, v in kwargs.items() if k != "input"}
    return lambda t: func(t, *rest, **more)


def read_linear(trail: Trail, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Linear | None:
    """An operation as a linear layer; None where it is none, or where no operand is a weight matrix."""
    if name == "linear":
        named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        bias = named.get("bias")
        return Linear(named["input"], (-1,), named["weight"].detach().mT, None if bias is None else bias.detach())
    p = read_product(name, args, kwargs) if name in PRODUCTS else None
    if p is None:
        return None
    for q in (p, p.swapped()):
        free = [c for c in q.lb if c not in q.summed]
        tag = trail.parameter_tag(q.b)
        weight = isinstance(q.b, nn.Parameter) or (tag is not None and is_weight(tag, q.b))
        if weight and q.summed and free and all(c in q.lo and c not in q.la for c in free):
            W = q.b.detach().permute([q.lb.index(c) for c in [*q.summed, *free]])
            return Linear(q.a, tuple(q.la.index(c) for c in q.summed), W.flatten(0, len(q.summed) - 1).flatten(1))
    return None


def norms(t: Tensor, tag: Tag) -> Norms:
    """‖row‖ of each row of a tensor; its features are the axes along which ids do not change."""
    features = [d for d in range(t.ndim) if constant(tag.ids, d) and t.shape[d] > 1]
    ids, square = tag.ids, (t.detach() if t.dtype == torch.float64 else t.detach().float()).pow(2)
    for d in features:
        ids = ids.narrow(d, 0, 1)
    square = square.sum(features, keepdim=True) if features else square
    return Norms(ids.flatten(), square.sqrt().flatten().cpu())


# -- afterwards -------------------------------------------------------------------------------------------------------


def branch_of(branches: Mapping[int, Branch], call: AttentionCall) -> Branch:
    """What was seen around a call. Raises Misuse where the run was not watched for it."""
    if call.event not in branches:
        raise Misuse(
            f"what surrounds attention call {call.index} was not watched; record with branches=True, or "
            "register the method with keeps=('branches',)"
        )
    return branches[call.event]


def output_projection(branches: Mapping[int, Branch], call: AttentionCall) -> Float[Tensor, "head width out"]:
    """W_O of a call, by heads, so that the projected output is Σ_h O_h W_h (+ bias). Raises Misuse where it is not found."""
    branch = branch_of(branches, call)
    where = (
        f"the output projection of attention call {call.index} ({call.module or 'the model itself'}) cannot be found"
    )
    if branch.other:
        raise Misuse(f"{where}: `{branch.other[0]}` reads the call's output; choose a method that does not need it")
    if len(branch.layers) != 1:
        count = len(branch.layers) or "no"
        raise Misuse(
            f"{where}: {count} linear layers read the call's output (adapters must be merged, quantised layers are not "
            "seen); choose a method that does not need it"
        )
    found = columns(call, branch.layers[0])
    if found is None:
        raise Misuse(f"{where}: its input is not one token's heads side by side; choose another method")
    return found


def output_bias(branches: Mapping[int, Branch], call: AttentionCall) -> Float[Tensor, " out"] | None:
    """What the layer of `output_projection` adds; None where it adds nothing itself."""
    return branch_of(branches, call).layers[0].bias


def columns(call: AttentionCall, reader: OutputLayer) -> Float[Tensor, "head width out"] | None:
    """The weights in the order of the call's heads, by following the number of each element of O to the layer's input."""
    numbers = torch.arange(call.output.numel(), device=call.output.device).view(call.output.shape)
    moved = numbers
    for move in reader.moves:
        moved = move(moved)
    summed = [d % moved.ndim for d in reader.axes]
    kept = [d for d in range(moved.ndim) if d not in summed]
    row = moved.permute(*kept, *summed).flatten(len(kept)).reshape(-1, reader.weight.shape[0])[0]
    by_head = call.canonical(numbers)
    group, _, token, _ = torch.nonzero(by_head == row[0])[0].tolist()
    wanted, order = by_head[group, :, token], row.argsort()
    place = torch.searchsorted(row[order], wanted.contiguous()).clamp(max=len(row) - 1)
    if len(row) != wanted.numel() or not torch.equal(row[order][place], wanted):
        return None
    return reader.weight.to(call.precision)[order[place]]


def state_norms(
    branches: Mapping[int, Branch], call: AttentionCall, like: Float[Tensor, "batch row"]
) -> Float[Tensor, "group key"]:
    """‖z_j‖ of each key of a call. Raises Misuse where the residual stream is not found. like: a tensor over all rows."""
    branch = branch_of(branches, call)
    table = torch.full_like(like, torch.nan)
    for found in (branch.source if _is_cross(call) else None, branch.residual):
        if found is not None:
            samples, rows = found.ids // STRIDE - 1, found.ids % STRIDE
            values = found.values.to(table)
            table[:, rows[samples < 0]] = values[samples < 0]
            table[samples[samples >= 0], rows[samples >= 0]] = values[samples >= 0]
    samples, rows = call.keys // STRIDE - 1, call.keys % STRIDE
    z = table[samples.clamp(min=0), rows].masked_fill(rows == 0, 0.0)
    if bool(z.isnan().any()):
        where = f"attention call {call.index} ({call.module or 'the model itself'})"
        raise Misuse(
            f"the residual stream of {where} cannot be found: its output is not added to what it was made from; choose a "
            "method that does not need it"
        )
    return z.to(call.output.device)


def _is_cross(call: AttentionCall) -> bool:
    """Whether some keys are no query rows: those of another stream."""
    return not bool(torch.isin(call.keys, call.queries).all())


__all__ = ["Branch", "Branches", "output_projection", "state_norms"]
