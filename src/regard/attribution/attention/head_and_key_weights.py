"""Weights of heads and of keys in an edge rule (Beyond Intuition, Chen et al., TMLR 2023; formulas.md section 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import Misuse
from regard.recording import AttentionCall, Recording
from regard.recording.calls.residual import output_projection, state_norms

Heads = Float[Tensor, "group head"]
Keys = Float[Tensor, "group key"]


def head_importance(recording: Recording, call: AttentionCall) -> Heads:
    """θ_h ∝ E_jk|A_hᵀG_h|, Σ_h θ_h = 1 per sample over all heads of the attention; 0 where the target does not depend on it.

    A_hᵀG_h = (A_hᵀdO_h) V_hᵀ, so that nothing of size n×n is kept. Keys that are padding do not count. Heads of one attention
    that are calls of their own are weighed against one another; where a head's query rows are attended in chunks, A_hᵀG_h
    sums over all of them.
    """
    if call.dO is None:
        raise ValueError("this call is not bound to a target; use recording.gradients(target).calls")
    if call.G is not None:
        raise Misuse(
            f"the heads of attention call {call.index} ({call.module or 'the model itself'}) cannot be weighed: its map "
            "multiplies several values; choose a method that does not weigh heads"
        )
    together, mates = (call, *call.beside), recording.attentions[call.attention].mates(call.index)
    by_sample = recording.zeros()[:, :1].to(call.output.device)
    for head in {_same_head(c): c for c in together if c.index in mates}.values():
        by_sample = by_sample + _asked_for(recording, head, together).sum(1, keepdim=True)
    theta: Tensor = _asked_for(recording, call, together) / by_sample.clamp(min=torch.finfo(torch.float32).tiny)
    return theta[call.samples.clamp(min=0).to(theta.device)]


def _same_head(call: AttentionCall) -> tuple[object, ...]:
    """Calls that look at the same values are chunks of the same heads."""
    return call.v.data_ptr(), tuple(call.v.shape), call.v.stride(), call.queries.shape[0]


def _asked_for(
    recording: Recording, call: AttentionCall, together: Sequence[AttentionCall]
) -> Float[Tensor, "batch head"]:
    """Σ_jk |A_hᵀG_h| of each head, sample by sample, over all query rows of an attention that look at the call's values."""
    V = call.repeated(call.v).detach().to(call.precision)
    seen = V * _shown(recording, call)[:, None, :, None]
    chunks = [c for c in together if _same_head(c) == _same_head(call)]
    M = torch.stack([_returned(c) for c in chunks]).sum(0)
    total = V.new_zeros(V.shape[:2])
    for j in call.chunks(torch.arange(V.shape[2])):
        total += (M[:, :, j] @ seen.transpose(2, 3)).abs().sum((2, 3))
    samples = call.samples.clamp(min=0).to(V.device)
    return V.new_zeros(recording.batch, V.shape[1]).index_add_(0, samples, total)


def _returned(call: AttentionCall) -> Float[Tensor, "group head key width"]:
    """A_hᵀ dO_h."""
    assert call.dO is not None
    dO = call.canonical(call.dO).to(call.precision)
    groups, heads, _, m = call.shape
    M = dO.new_zeros(groups, heads, m, dO.shape[3])
    for index in call.chunks((dO != 0).any(3).flatten(0, 1).any(0).nonzero()[:, 0]):
        A = call.rows(index.cpu(), gradient=False).A
        M += A.transpose(2, 3) @ dO[:, :, index]
    return M


def value_norms(recording: Recording, call: AttentionCall) -> Keys:
    """‖zW‖_j/‖z_j‖ of each key: zW = Σ_h v_hj W_h, the value of all heads after W_O, without its bias; 0 where z_j is 0.

    Raises Misuse where the output projection or the residual stream cannot be found.
    """
    W, z = output_projection(recording.branches, call), state_norms(recording.branches, call, recording.zeros())
    v = call.repeated(call.v).detach().to(call.precision).transpose(1, 2).flatten(2)  # (group, key, head · width)
    zW = (v @ W.flatten(0, 1).to(v)).norm(dim=-1)
    return torch.where(z > 0, zW / z.to(zW), 0.0)


def _shown(recording: Recording, call: AttentionCall) -> Keys:
    """1 for each key that is not padding, else 0."""
    padded = recording.zeros()
    for stream in recording.streams:
        if stream.name in recording.padded:
            hidden = recording.padded[stream.name]
            padded[: len(hidden), stream.rows] = hidden.to(padded) if hidden.shape[1] == stream.count else 0.0
    return (1 - recording.gather(padded, call.keys)).to(call.output.device)
