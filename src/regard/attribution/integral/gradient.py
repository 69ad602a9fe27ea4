"""Gradients at the input (formulas.md section 1): pixels and features; the word embeddings for token ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from regard.attribution.context import Context, Relevance
from regard.attribution.integral.baseline_values import padding_of
from regard.errors import Misuse, ModelError, nearest
from regard.kinds import Count
from regard.recording import Recording
from regard.recording.gradient import CUT, gradients_at
from regard.recording.inputs import back, first
from regard.recording.tokens.cells import Cells
from regard.recording.tokens.tags import STRIDE, stream_of


def gradient(context: Context, *, reduce: str = "l2") -> Relevance:
    """∂y/∂x of each token, its elements reduced by their mean, their l1 norm or their l2 norm.

    Raises UnknownName for another `reduce`, Misuse for an input whose tokens are not a grid or a sequence of features.
    """
    return _per_stream(context, reduced(reduce))


class Reduction(NamedTuple):
    """How a token's elements become one number: `each` of them, given x and ∂y/∂x; their sum, given how many there are."""

    each: Callable[[Tensor, Tensor], Tensor]
    whole: Callable[[Tensor, int], Tensor] = lambda total, _size: total


REDUCTIONS = {
    "mean": Reduction(lambda _x, g: g, lambda total, size: total / size),
    "l1": Reduction(lambda _x, g: g.abs()),
    "l2": Reduction(lambda _x, g: g.pow(2), lambda total, _size: total.sqrt()),
}
PRODUCT = Reduction(lambda x, g: x * g)


def reduced(reduce: str) -> Reduction:
    """A reduction by its name. Raises UnknownName for another."""
    if reduce not in REDUCTIONS:
        raise nearest(reduce, REDUCTIONS, "reduce")
    return REDUCTIONS[reduce]


def input_x_gradient(context: Context) -> Relevance:
    """Σ x ⊙ ∂y/∂x over each token's elements: the first-order decomposition against zero."""
    out = _per_stream(context, PRODUCT)
    recording = context.recording
    for name, of in recording.aliases.items():
        if name in recording.leaves and name not in recording.embedded:
            x, g = recording.leaves[name].detach().float(), context.gradients.inputs[name].float()
            out[:, recording.stream(of).rows] += shared_out(recording, name, x * g).sums.cpu()
    return out


def smoothgrad(context: Context, *, samples: Count = 16, sigma: float = 0.15, reduce: str = "l2") -> Relevance:
    """The mean of ∂y/∂x over Gaussian noise around x, reduced as by `gradient` (Smilkov et al., 2017).

    `sigma` is a share of each sample's own range max − min; noise is drawn from the seed and the sample, so that neither batch
    mates nor padding have a say.
    """
    assert context.again is not None
    if samples < 1 or not sigma > 0:
        raise Misuse(
            f"smoothgrad needs at least 1 sample and a positive sigma, not samples={samples} and sigma={sigma}"
        )
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
    return _per_stream(context, of, means)


def _noisy(context: Context, name: str, sigma: float, seed: int) -> Tensor:
    """An input, or the word embeddings of one, with noise."""
    x, axis = context.recording.leaves[name].detach(), context.recording.axis(name)
    return x + sigma * back(noise(first(x, axis), seed, padding_of(context, name)), axis)


def noise(x: Tensor, seed: int, hidden: Tensor | None = None) -> Tensor:
    """Gaussian noise of each sample's own range, drawn token by token from the seed: padding draws none and does not count.

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


def _per_stream(context: Context, of: Reduction, grads: dict[str, Tensor] | None = None) -> Relevance:
    """Each token's elements reduced to one number, put on the rows of every input stream."""
    recording = context.recording
    if grads is None:
        grads = context.gradients.inputs
        if context.gradients.cut:
            raise ModelError(CUT)
    out = recording.zeros()
    for stream in recording.streams:
        for name in recording.leaves if stream.kind == "input" else ():
            if stream_of(name) != stream.name:
                continue
            each = of.each(recording.leaves[name].detach().float(), grads[name].float())
            if name in recording.embedded:
                out += recording.scatter(of.whole(each.sum(-1), each.shape[-1]), recording.embedded[name])
            else:
                shares = shared_out(recording, name, each)
                values = of.whole(shares.sums, shares.size).cpu()
                n = len(out) if stream.packed else len(values)  # of a packed input, others' tokens are hidden later
                out[:n, stream.rows] += values
    return out


class Shares(NamedTuple):
    """Values at the elements of an input, (batch, ...), and whose they are: `cells`' tokens, or rows of a table.

    raw: with cells, the element that stands at each place, where these are in another order than the input's.
    """

    values: Tensor
    cells: Cells | None
    raw: Tensor | None = None

    @property
    def elements(self) -> Float[Tensor, "batch token element"]:
        """Those of each token; tokens of fewer elements are padded with zeros."""
        return self.values if self.cells is None else self.cells.gathered(self.values, self.raw)

    @property
    def sums(self) -> Float[Tensor, "batch token"]:
        """Those of each token added."""
        return self.values.sum(-1) if self.cells is None else self.cells.summed(self.values, self.raw)

    @property
    def size(self) -> int:
        """How many a token has."""
        return self.values.shape[-1] if self.cells is None else self.cells.size


def shared_out(recording: Recording, name: str, t: Tensor) -> Shares:
    """(batch, ...) of an input, float32, as the tokens': the cells of a picture, the rows of a table.

    Elements in no token's cell count with the last token's before them. Raises Misuse for an input that has neither.
    """
    entry = stream_of(name)
    stream = recording.stream(recording.aliases.get(entry, entry))
    t = t.float()
    t = t[None] if stream.packed else first(t, recording.axis(name))
    cells = stream.cells if entry == stream.name else None
    if cells is not None and t[0].numel() == len(cells.own):
        ids = recording.placed.get(name)
        raw = None if ids is None else first(ids, recording.axis(name))[0].flatten() % STRIDE - 1
        return Shares(t, cells, raw)
    if t.ndim == 3 and t.shape[1] == stream.count:
        return Shares(t, None)
    if t.ndim == 2 and t.shape[1] == stream.count:  # plain numbers
        return Shares(t[..., None], None)
    raise Misuse(
        f"the gradient of stream {stream.name!r}, shape {tuple(t.shape)}, cannot be divided among its "
        f"{stream.count} tokens; use a method of the attention family (regard.methods())"
    )
