"""Weights of heads and of keys in an edge rule (Beyond Intuition, Chen et al., TMLR 2023; METHODS.md section 2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from regard.recording import AttentionCall, Recording
from regard.recording.branches import output_projection, state_norms

Heads = Float[Tensor, "group head"]
Keys = Float[Tensor, "group key"]


def head_importance(recording: Recording, call: AttentionCall) -> Heads:
    """θ_h ∝ E_jk|A_hᵀG_h|, Σ_h θ_h = 1 per sample; 0 where the target does not depend on the call.

    A_hᵀG_h = (A_hᵀdO_h) V_hᵀ, so that nothing of size n×n is kept. Keys that are padding have no say.
    """
    if call.dO is None:
        raise ValueError("this call is not bound to a target; use recording.gradients(target).calls")
    V, dO = (t.to(call.precision) for t in (call.repeated(call.v).detach(), call.canonical(call.dO)))
    seen = V * _shown(recording, call)[:, None, :, None]
    M = V.new_zeros(*V.shape[:3], dO.shape[3])
    for index in call.chunks((dO != 0).any(3).flatten(0, 1).any(0).nonzero()[:, 0]):
        A = call.rows(index.cpu(), gradient=False).A
        M += A.transpose(2, 3) @ dO[:, :, index]
    total = V.new_zeros(V.shape[:2])
    for j in call.chunks(torch.arange(V.shape[2])):
        total += (M[:, :, j] @ seen.transpose(2, 3)).abs().sum((2, 3))
    samples = call.samples.clamp(min=0).to(V.device)
    by_sample = V.new_zeros(recording.batch, V.shape[1]).index_add_(0, samples, total)
    theta: Tensor = by_sample / by_sample.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return theta[samples]


def value_norms(recording: Recording, call: AttentionCall) -> Keys:
    """‖zW‖_j/‖z_j‖ of each key: zW = Σ_h v_hj W_h, the value of all heads after W_O, without its bias; 0 where z_j is 0.

    Raises Misuse where the output projection or the residual stream cannot be found.
    """
    W, z = output_projection(recording, call), state_norms(recording, call)
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
