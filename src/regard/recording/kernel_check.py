"""What one attention call computed, against itself: A and its layout against the model's own O and its own gradient at v."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regard.recording.calls import AttentionCall
from regard.recording.cut_run import Cut, fits, noise, separable
from regard.recording.rebuild import tiles
from regard.recording.recording import Recording
from regard.recording.tokens import STRIDE
from regard.recording.verification import Contradiction

WITHIN = 1e-4
"""How far two numbers that are equal may be apart, relatively, in float32; in half precision 16 units of rounding, since the
kernel rounds A, or what it sums, where we do not."""


def kernels(recording: Recording, cut: Cut, untested: list[str]) -> Iterator[Contradiction]:
    """Each call's A and layout against its own backward pass at v, Aᵀ dO, and its forward one, A V; rows of A against 1."""
    for call in recording.calls:
        whole = cut.whole.get(call.index)
        if call.lost or whole is None:
            continue
        if not fits(call):
            yield Contradiction(
                call.index, call.module, "rows", f"{call.queries.shape[1]} by {call.keys.shape[1]}", "are not", 1
            )
            continue
        yield from _kernel(call, whole, untested)
        yield from _groups(call)


def _groups(call: AttentionCall) -> Iterator[Contradiction]:
    """Two groups of the same rows that look at the same keys are two heads: their rows of A would sum to 2."""
    ids = torch.cat([call.queries, call.keys], 1)
    ids = ids[(ids >= STRIDE).any(1)]
    if len(ids) > len(ids.unique(dim=0)):
        times = len(ids) / len(ids.unique(dim=0))
        yield Contradiction(
            call.index, call.module, "rows of A", "one a token", f"{times:g} have the same tokens", times - 1
        )


class Sums(NamedTuple):
    """Of one call, made from its rebuilt rows: A V and Aᵀ dO, (group, head, token, width); row sums of A⊙G and of A."""

    AV: Tensor
    AtdO: Tensor
    AG: Tensor
    A: Tensor


def _kernel(call: AttentionCall, whole: AttentionCall, untested: list[str]) -> Iterator[Contradiction]:
    O = whole.canonical(whole.output.detach()).to(call.precision)
    dO = noise(O.shape, call.index, O).to(call.precision)
    sums = _sums(call, whole, dO)
    pairs = {"O against A V": (sums.AV, O), "row sums of A⊙G against ⟨dO, O⟩": (sums.AG, (dO * O).sum(-1))}
    own = _vjp(call, whole, dO)
    if own is not None:
        pairs["the model's own gradient at v against Aᵀ dO"] = (_at_values(call, sums.AtdO), own)
    elif call.v.requires_grad:
        untested.append(f"call {call.index}: its own gradient at v")
    within = max(WITHIN, 16 * torch.finfo(call.output.dtype).eps)
    for what, (ours, theirs) in pairs.items():
        apart = float((ours - theirs).abs().max()) / max(float(theirs.abs().max()), 1e-6)
        if not apart <= within:
            yield Contradiction(call.index, call.module, what, "equal", "they are not", apart)
    most = float(sums.A.max()) if sums.A.numel() else 0.0
    if (call.A is None or separable(call.A.grad_fn)) and most > 1 + within:
        found = f"one sums to {most:.3g}"
        yield Contradiction(call.index, call.module, "rows of A", "probabilities", found, most - 1)


def _sums(call: AttentionCall, whole: AttentionCall, dO: Tensor) -> Sums:
    v = call.repeated(call.v).detach().to(call.precision)
    shapes = (*dO.shape[:-1], v.shape[-1]), v.shape, dO.shape[:-1], dO.shape[:-1]
    sums = Sums(*(torch.zeros(s, dtype=dO.dtype, device=dO.device) for s in shapes))
    AV, AtdO, AG, total = (t.flatten(0, 1) for t in sums)
    for tile, A, G in tiles(whole.bind(whole.in_place(dO)), torch.arange(call.shape[2])):
        some, rows = slice(tile.pairs.start, tile.pairs.stop), tile.rows.to(dO.device)
        AV[some, rows] += A @ v.flatten(0, 1)[some, tile.keys]
        AtdO[some, tile.keys] += A.mT @ dO.flatten(0, 1)[some][:, rows]
        total[some, rows] += A.sum(-1)
        if G is not None:
            AG[some, rows] += (A * G).sum(-1)
    return sums


def _vjp(call: AttentionCall, whole: AttentionCall, dO: Tensor) -> Tensor | None:
    """The model's own gradient of ⟨dO, O⟩ at v, in v's axes; None where v does not stand in the graph of O."""
    v, out = whole.v, whole.output
    if not (v.requires_grad and out.requires_grad):
        return None
    given = whole.in_place(dO).to(out.dtype)
    at, back = _handed_over(v) if whole.A is not None else (v, lambda t: t)
    (own,) = torch.autograd.grad(out, at, given, retain_graph=True, allow_unused=True)
    if own is None:
        return None
    return back(own).to(call.precision)


def _at_values(call: AttentionCall, t: Tensor) -> Tensor:
    """(group, head, key, width) summed to the axes of v: heads that share values, samples that do."""
    t, v = call.layout.back(t), call.v
    if v.ndim > 2 and v.shape[-3] not in (1, t.shape[-3]):
        t = t.unflatten(-3, (v.shape[-3], -1)).sum(-3)
    return t.sum_to_size(v.shape)


def _handed_over(v: Tensor) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """Values of a product as the model handed them over, and the way from there to v: v is a view of them (permuted, then with
    axes put in), which does not stand in the graph of O."""
    moves: list[Callable[[Tensor], Tensor]] = []
    node: Any = v.grad_fn
    while node is not None and node.name().startswith(("UnsqueezeBackward", "PermuteBackward")):
        dims = node._saved_dim if "Unsqueeze" in node.name() else node._saved_dims
        moves.append(partial(_view, node.name(), dims))
        last = node.name().startswith("Permute")
        following, number = node.next_functions[0]
        if last:
            return torch.autograd.graph.GradientEdge(following, number), lambda t: _moved(t, moves[::-1])
        node = following
    return v, lambda t: t


def _view(name: str, dims: Any, t: Tensor) -> Tensor:
    wrapped = [d - (1 << 64) if d >= 1 << 63 else d for d in ([dims] if isinstance(dims, int) else dims)]
    return t.unsqueeze(wrapped[0]) if name.startswith("Unsqueeze") else t.permute(wrapped)


def _moved(t: Tensor, moves: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    for move in moves:
        t = move(t)
    return t
