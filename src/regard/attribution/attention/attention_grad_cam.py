"""Grad-CAM on the last attention map (Selvaraju et al. 2017, on attention as in Chefer et al. 2021)."""

from __future__ import annotations

from torch import Tensor

from regard.attribution.context import Context, Relevance
from regard.recording import AttentionCall, Rows
from regard.recording.calls.attention import rows_of_heads


def attention_grad_cam(context: Context) -> Relevance:
    """Σ_i r_i (E_h θ_hi A_hi)₊ with θ_hi the mean of G_hi over the keys that are visible input tokens.

    Our reading: heads are averaged after weighting, each read-out row is clamped on its own; tokens born from a parameter
    (CLS of a ViT) and padding do not affect θ.
    """
    recording = context.recording
    out = recording.zeros()
    counts = context.tokens() * ~context.hidden()

    def weighted(call: AttentionCall, rows: Rows) -> Tensor:
        at, A, G = rows
        assert G is not None
        keep = recording.gather(counts, call.keys).to(A)[:, None, None]
        theta = (G * keep).sum(-1, keepdim=True) / keep.sum(-1, keepdim=True).clamp(min=1e-30)
        return call.shared((theta * A).mean(1), at)

    for i, r in context.readout.items():
        calls = context.gradients.bound(recording.attentions[i].calls)
        for weights, rows in rows_of_heads(calls, r, weighted, "sum"):
            out += (weights[..., None] * rows.clamp(min=0).sum(2)).sum(0)
    return out
