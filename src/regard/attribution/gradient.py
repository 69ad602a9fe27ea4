"""Gradients at the input (METHODS.md section 1): pixels and features; the word embeddings for token ids."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from regard.attribution.baselines import padding_of
from regard.attribution.context import Context, Relevance
from regard.errors import Misuse, ModelError, nearest
from regard.recording import Recording
from regard.recording.gradient import CUT, gradients_at
from regard.recording.inputs import back, first
from regard.recording.tokens import STRIDE


def gradient(context: Context, *, reduce: str = "l2") -> Relevance:
    """∂y/∂x of each token, its elements reduced by their mean, their l1 norm or their l2 norm.

    Raises UnknownName for another `reduce`, Misuse for an input whose tokens are not a grid or a sequence of features.
    """
    of = reduced(reduce)
    return _per_stream(context, lambda x, g, size: of(g, size))


def reduced(reduce: str) -> Callable[[Tensor, int], Tensor]:
    """(..., element) -> (...) by a name, and how many elements a token has. Raises UnknownName for another."""
    reductions: dict[str, Callable[[Tensor, int], Tensor]] = {
        "mean": lambda g, size: g.sum(-1) / size,
        "l1": lambda g, size: g.abs().sum(-1),
        "l2": lambda g, size: g.pow(2).sum(-1).sqrt(),
    }
    if reduce not in reductions:
        raise nearest(reduce, reductions, "reduce")
    return reductions[reduce]


def input_x_gradient(context: Context) -> Relevance:
    """Σ x ⊙ ∂y/∂x over each token's elements: the first-order decomposition against zero."""
    out = _per_stream(context, lambda x, g, size: (x * g).sum(-1))
    recording = context.recording
    for name, of in recording.aliases.items():
        if name in recording.leaves and name not in recording.embedded:
            x, g = (
                elements(recording, name, t) for t in (recording.leaves[name].detach(), context.gradients.inputs[name])
            )
            out[:, recording.stream(of).rows] += (x * g).sum(-1).cpu()
    return out


def smoothgrad(context: Context, *, samples: int = 16, sigma: float = 0.15, reduce: str = "l2") -> Relevance:
    """The mean of ∂y/∂x over Gaussian noise around x, reduced as by `gradient` (Smilkov et al., 2017).

    `sigma` is a share of each sample's own range max − min; noise is drawn from the seed and the sample, so that neither batch
    mates nor padding have a say.
    """
    assert context.again is not None
    if samples < 1 or not sigma > 0:
        raise Misuse(f"smoothgrad needs samples of at least 1 and a positive sigma; not {samples} and {sigma}")
    of, recording = reduced(reduce), context.recording
    total = {name: torch.zeros_like(x) for name, x in recording.leaves.items()}
    for i in range(samples):
        with torch.enable_grad():
            leaves = {k: _noisy(context, k, sigma, context.seed + i).requires_grad_() for k in recording.leaves}
            y = context.again.y(context.again.output(leaves)).sum()
            grads = gradients_at([*leaves.values()], y)
        for name, g in zip(leaves, grads, strict=True):
            total[name] += 0 if g is None else g
    context.nodes += samples
    means = {name: t / samples for name, t in total.items()}
    return _per_stream(context, lambda x, g, size: of(g, size), means)


def _noisy(context: Context, name: str, sigma: float, seed: int) -> Tensor:
    """An input, or the word embeddings of one, with noise."""
    x, axis = context.recording.leaves[name].detach(), context.recording.axis(name)
    return x + sigma * back(noise(first(x, axis), seed, padding_of(context, name)), axis)


def noise(x: Tensor, seed: int, hidden: Tensor | None = None) -> Tensor:
    """Gaussian noise of each sample's own range, drawn token by token from the seed: padding draws none and has no say.

    x: (batch, token, ...); hidden: bool (batch, token).
    """
    out = torch.zeros(x.shape, dtype=torch.float32)
    for i, sample in enumerate(x.float().cpu()):
        generator = torch.Generator().manual_seed(seed)
        shown = torch.ones(len(sample), dtype=torch.bool) if hidden is None else ~hidden[i]
        wide = sample[shown].max() - sample[shown].min()
        drawn = [torch.randn(t.shape, generator=generator, dtype=torch.float32) for t in sample[shown]]
        out[i, shown] = torch.stack(drawn) * wide
    return out.to(x)


def _per_stream(
    context: Context, of: Callable[[Tensor, Tensor, int], Tensor], grads: dict[str, Tensor] | None = None
) -> Relevance:
    """of(x, g, size), (batch, token, elements) each -> (batch, token), put on the rows of every input stream."""
    recording = context.recording
    if grads is None:
        grads = context.gradients.inputs
        if context.gradients.cut:
            raise ModelError(CUT)
    out = recording.zeros()
    for stream in recording.streams:
        for name in recording.leaves if stream.kind == "input" else ():
            if name.partition("#")[0] != stream.name:
                continue
            x, g = recording.leaves[name].detach(), grads[name]
            if name in recording.embedded:
                out += recording.scatter(of(x.float(), g.float(), x.shape[-1]), recording.embedded[name])
            else:
                x, g = (elements(recording, name, t) for t in (x, g))
                size = x.shape[-1] if stream.cells is None else stream.cells.size
                values = of(x, g, size).cpu()
                n = len(out) if stream.packed else len(values)  # of a packed input, others' tokens are hidden later
                out[:n, stream.rows] += values
    return out


def elements(recording: Recording, name: str, t: Tensor) -> Tensor:
    """(batch, ...) of an input -> float32 (batch, tokens, elements of a token): its cell of a picture, its row of a table.

    Elements in no token's cell count with the last token's before them; tokens of fewer elements are padded with zeros.
    """
    entry = name.partition("#")[0]
    stream = recording.stream(recording.aliases.get(entry, entry))
    t = t.float()
    t = t[None] if stream.packed else first(t, recording.axis(name))
    cells = stream.cells if entry == stream.name else None
    if cells is not None and t[0].numel() == len(cells.own):
        ids = recording.placed.get(name)
        raw = None if ids is None else first(ids, recording.axis(name))[0].flatten() % STRIDE - 1
        return cells.gathered(t, raw)
    if t.ndim == 3 and t.shape[1] == stream.count:
        return t
    if t.ndim == 2 and t.shape[1] == stream.count:  # plain numbers
        return t[..., None]
    raise Misuse(
        f"the gradient of stream {stream.name!r}, shape {tuple(t.shape)}, cannot be shared out among its "
        f"{stream.count} tokens; use a method of the attention family (regard.methods())"
    )
