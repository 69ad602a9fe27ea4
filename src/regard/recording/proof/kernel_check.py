"""What one attention call computed, against itself: A and its layout against the model's own O and its own gradient at v."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.recording.calls import AttentionCall
from regard.recording.calls.rebuild import tiles
from regard.recording.proof.cut_run import Cut, fits, noise, separable
from regard.recording.proof.findings import APART, WHOLE, Contradiction
from regard.recording.recording import Recording
from regard.recording.tokens.tags import STRIDE

WITHIN = 1e-4
"""How far two numbers that are equal may be apart, relatively, in float32; in half precision 16 units of rounding, since the
kernel rounds A, or what it sums, where we do not."""

VIEWS = ("Unsqueeze", "Squeeze", "Permute", "Transpose", "View", "Reshape", "Select", "Expand", "Alias")
"""Nodes of the graph that only see their one operand in other axes."""


def kernels(recording: Recording, cut: Cut, untested: list[str], sums: dict[int, Tensor]) -> Iterator[Contradiction]:
    """Each call's A and layout against its own backward pass at v, Aᵀ dO, and its forward one, A V; rows of A against 1.

    Row sums of A, (group, row), the mean over heads, are put into `sums`.
    """
    for call in recording.calls:
        whole = cut.whole.get(call.index)
        if call.lost or whole is None:
            continue
        if not fits(call):
            claimed = f"{call.queries.shape[1]} by {call.keys.shape[1]}"
            yield Contradiction(call.index, call.module, "rows and keys", claimed, "are not", 1.0, WHOLE)
            continue
        yield from _kernel(call, whole, untested, sums)
        yield from _groups(call)


def _groups(call: AttentionCall) -> Iterator[Contradiction]:
    """Two groups of the same rows that look at the same keys are two heads: their rows of A would sum to 2."""
    ids = torch.cat([call.queries, call.keys], 1)
    ids = ids[(ids >= STRIDE).any(1)]
    if len(ids) > len(ids.unique(dim=0)):
        times = len(ids) / len(ids.unique(dim=0))
        yield Contradiction(
            call.index, call.module, "rows of A", "one a token", f"{times:g} have the same tokens", times - 1, APART
        )


class Sums(NamedTuple):
    """Of one call, made from its rebuilt rows: A V and Aᵀ dO, (group, head, token, width); row sums of A⊙G and of A."""

    AV: Tensor
    AtdO: Tensor
    AG: Tensor
    A: Tensor


def _kernel(
    call: AttentionCall, whole: AttentionCall, untested: list[str], kept: dict[int, Tensor]
) -> Iterator[Contradiction]:
    O = whole.canonical(whole.output.detach()).to(call.precision)
    dO = noise(O.shape, call.index, O).to(call.precision)
    sums = _sums(call, whole, dO)
    kept[call.index] = sums.A.mean(1).cpu()
    pairs = {("O", "A V"): (sums.AV, O), ("row sums of A⊙G", "⟨dO, O⟩"): (sums.AG, (dO * O).sum(-1))}
    both = _vjps(call, whole, dO, _at_values(call, sums.AtdO))
    if both is not None:
        pairs["the model's own gradient at v", "Aᵀ dO"] = both
    elif call.v.requires_grad:
        untested.append(f"call {call.index}: its own gradient at v")
    within = max(WITHIN, 16 * torch.finfo(call.output.dtype).eps)
    for (what, claimed), (ours, theirs) in pairs.items():
        apart = float((ours - theirs).abs().max()) / max(float(theirs.abs().max()), 1e-6)
        if not apart <= within:
            yield Contradiction(
                call.index, call.module, what, claimed, "differ" if "sums" in what else "differs", apart, APART
            )
    most = float(sums.A.max()) if sums.A.numel() else 0.0
    if (call.A is None or separable(call.A.grad_fn)) and most > 1 + within:
        found = f"one sums to {most:.3g}"
        yield Contradiction(call.index, call.module, "rows of A", "probabilities", found, most - 1, APART)


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


def _vjps(call: AttentionCall, whole: AttentionCall, dO: Tensor, AtdO: Tensor) -> tuple[Tensor, Tensor] | None:
    """Aᵀ dO and the model's own gradient of ⟨dO, O⟩, both at v or what v is a view of; None where that is not in O's graph."""
    v, out = whole.v, whole.output
    if not (v.requires_grad and out.requires_grad):
        return None
    given = whole.in_place(dO).to(out.dtype)
    if whole.A is None and any(_leads(t, v) for t in (whole.q, whole.k)):
        return AtdO, _again(whole, given).to(call.precision)
    for at in _viewed(v):
        (own,) = torch.autograd.grad(out, at, given, retain_graph=True, allow_unused=True)
        if own is not None:
            own = own - _through_weights(whole, at, dO) if _leads(whole.A, at) else own
            (ours,) = torch.autograd.grad(v, at, AtdO.to(v.dtype), retain_graph=True)
            return ours.to(call.precision), own.to(call.precision)
    return None


def _viewed(v: Tensor) -> Iterator[Any]:
    """v, and what it is a view of, step by step: a product is seen in axes of ours, which are in nobody's graph."""
    yield v
    node: Any = v.grad_fn
    while node is not None and node.name().startswith(VIEWS):
        node, number = node.next_functions[0]
        if node is not None:
            yield torch.autograd.graph.GradientEdge(node, number)


def _leads(t: Tensor | None, at: Any) -> bool:
    """Whether a tensor is made of the values: keys that are their own values."""
    if t is None or not t.requires_grad:
        return False
    return torch.autograd.grad(t.sum(), at, retain_graph=True, allow_unused=True)[0] is not None


def _through_weights(whole: AttentionCall, at: Any, dO: Tensor) -> Tensor:
    """The part of a gradient at values that comes to them by way of A, as they are its keys, too: A's gradient is dO Vᵀ."""
    assert whole.A is not None
    G = whole.layout.back(dO @ whole.repeated(whole.v).detach().to(dO).mT)
    found: Tensor = torch.autograd.grad(whole.A, at, G.to(whole.A.dtype), retain_graph=True)[0]
    return found


def _again(whole: AttentionCall, given: Tensor) -> Tensor:
    """The gradient at values of a fused call that is made once more, of the same operands."""
    assert whole.q is not None
    assert whole.k is not None
    q, k, v = (t.detach() for t in (whole.q, whole.k, whole.v))
    kernel = partial(F.scaled_dot_product_attention, attn_mask=whole.mask, is_causal=whole.causal, scale=whole.scale)
    out = kernel(q, k, v.requires_grad_(), enable_gqa=q.shape[-3:-2] != k.shape[-3:-2])
    found: Tensor = torch.autograd.grad(out, v, given)[0]
    return found


def _at_values(call: AttentionCall, t: Tensor) -> Tensor:
    """(group, head, key, width) summed to the axes of v: heads that share values, samples that do."""
    t, v = call.layout.back(t), call.v
    if v.ndim > 2 and v.shape[-3] not in (1, t.shape[-3]):
        t = t.unflatten(-3, (v.shape[-3], -1)).sum(-3)
    return t.sum_to_size(v.shape)
