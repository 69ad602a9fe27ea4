"""Grad-CAM on the last attention map (Selvaraju et al. 2017, on attention as in Chefer et al. 2021)."""

from __future__ import annotations

import torch

from regard.attribution.context import Context, Relevance


def attention_grad_cam(context: Context) -> Relevance:
    """Σ_i r_i (E_h θ_hi A_hi)₊ with θ_hi the mean of G_hi over the keys that are visible input tokens.

    Our reading: heads are averaged after weighting, each read-out row is clamped on its own; tokens born from a parameter
    (CLS of a ViT) and padding have no say in θ.
    """
    recording = context.recording
    out = recording.zeros()
    counts = context.tokens() * ~context.hidden()
    for i, r in context.readout.items():
        call = context.gradients.calls[i]
        w = recording.gather(r, call.queries).to(call.output.device)
        keep = recording.gather(counts, call.keys).to(call.output.device)[:, None, None]
        moved = torch.zeros(call.shape[0], call.shape[3], device=call.output.device, dtype=call.precision)
        for index in call.chunks((w != 0).any(0).nonzero()[:, 0]):
            _, A, G = call.rows(index)
            assert G is not None
            theta = (G * keep).sum(-1, keepdim=True) / keep.sum(-1, keepdim=True).clamp(min=1)
            moved += (w[:, None, index] @ (theta * A).mean(1).clamp(min=0))[:, 0]
        out += recording.scatter(moved, call.keys)
    return out
