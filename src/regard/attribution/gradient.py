"""Gradients at the input (METHODS.md section 1): pixels and features; the word embeddings for token ids."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from regard.attribution.baselines import padding_of
from regard.attribution.context import Context, Relevance
from regard.errors import Misuse, nearest
from regard.recording import Stream
from regard.recording.edits import Replace


def gradient(context: Context, *, reduce: str = "l2") -> Relevance:
    """∂y/∂x of each token, its elements reduced by their mean, their l1 norm or their l2 norm.

    Raises UnknownName for another `reduce`, Misuse for an input whose tokens are not a grid or a sequence of features.
    """
    of = reduced(reduce)
    return _per_stream(context, lambda x, g: of(g))


def reduced(reduce: str) -> Callable[[Tensor], Tensor]:
    """(..., element) -> (...) by a name. Raises UnknownName for another."""
    reductions: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda g: g.mean(-1),
        "l1": lambda g: g.abs().sum(-1),
        "l2": lambda g: g.pow(2).sum(-1).sqrt(),
    }
    if reduce not in reductions:
        raise nearest(reduce, reductions, "reduce")
    return reductions[reduce]


def input_x_gradient(context: Context) -> Relevance:
    """Σ x ⊙ ∂y/∂x over each token's elements: the first-order decomposition against zero."""
    out = _per_stream(context, lambda x, g: (x * g).sum(-1))
    recording = context.recording
    for name, of in recording.aliases.items():
        if name in recording.leaves and name not in recording.embedded:
            stream = recording.stream(of)
            x, g = (elements(t, stream) for t in (recording.leaves[name].detach(), context.gradients.inputs[name]))
            out[:, stream.rows] += (x * g).sum(-1).cpu()
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
            leaves = {
                k: (x.detach() + sigma * noise(x.detach(), context.seed + i, padding_of(context, k))).requires_grad_()
                for k, x in recording.leaves.items()
            }
            y = context.again.y(context.again.run([Replace(dict(leaves))]).output).sum()
            grads = torch.autograd.grad(y, [*leaves.values()], allow_unused=True)
        for name, g in zip(leaves, grads, strict=True):
            total[name] += 0 if g is None else g
    context.nodes += samples
    means = {name: t / samples for name, t in total.items()}
    return _per_stream(context, lambda x, g: of(g), means)


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
    context: Context, of: Callable[[Tensor, Tensor], Tensor], grads: dict[str, Tensor] | None = None
) -> Relevance:
    """of(x, g), (batch, token, elements) each -> (batch, token), put on the rows of every input stream."""
    recording, grads = context.recording, context.gradients.inputs if grads is None else grads
    out = recording.zeros()
    for stream in recording.streams:
        for name in recording.leaves if stream.kind == "input" else ():
            if name.partition("#")[0] != stream.name:
                continue
            x, g = recording.leaves[name].detach(), grads[name]
            if name in recording.embedded:
                out += recording.scatter(of(x.float(), g.float()), recording.embedded[name])
            else:
                values = of(elements(x, stream), elements(g, stream)).cpu()
                n = len(out) if stream.packed else len(values)  # of a packed input, others' tokens are hidden later
                out[:n, stream.rows] += values
    return out


def elements(t: Tensor, stream: Stream) -> Tensor:
    """(batch, ...) of an input -> float32 (batch, tokens, elements of a token)."""
    t = t.float()
    if stream.packed:
        t = t[None]
    if t.ndim == 3 and t.shape[2] == stream.count and _along_width(stream):
        return t.transpose(1, 2)
    if t.ndim == 3 and t.shape[1] == stream.count:
        return t
    if stream.grid is not None and t.ndim == 4:
        return patches(t, stream.grid)
    raise Misuse(
        f"the gradient of stream {stream.name!r}, shape {tuple(t.shape)}, cannot be shared out among its "
        f"{stream.count} tokens; use a method of the attention family (regard.methods())"
    )


def _along_width(stream: Stream) -> bool:
    """Whether the tokens of features (batch, width, tokens) stand along the last axis: raw elements 1, 2, 3, ..."""
    e = stream.elements
    return e is not None and len(e) > 1 and torch.equal(e, torch.arange(1, len(e) + 1))


def patches(t: Tensor, grid: tuple[int, int]) -> Tensor:
    """(batch, channel, height, width) -> (batch, row·column, elements): each token's cell of the picture.

    Where the picture is no multiple of the grid, the last rows and columns belong to no token of their own and count
    with the last one's; cells are then padded with zeros.
    """
    rows, columns = grid
    high, wide = t.shape[2] // rows, t.shape[3] // columns
    if t.shape[2] % rows or t.shape[3] % columns:
        high, wide = -(-t.shape[2] // rows), -(-t.shape[3] // columns)
        t = torch.nn.functional.pad(t, (0, wide * columns - t.shape[3], 0, high * rows - t.shape[2]))
    cells = t.unflatten(2, (rows, high)).unflatten(4, (columns, wide))
    out: Tensor = cells.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)
    return out
