"""How much of a hidden state is about the token at its own position, and whether attention to a token goes with its removal.

Meister et al., "Is Sparse Attention More Interpretable?" (ACL 2021): attention weighs states, not inputs. It speaks of the
input at a position only as far as the state there is still about it, and only as far as the output changes where that input is
gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.attribution.attention.edge_rules import EDGES
from regard.attribution.removal.runs import LEFT_OUT, Without, content, drawn_from, reached, rows_at
from regard.errors import Misuse, ModelError, nearest
from regard.explanation import display
from regard.explanation.rank_correlation import rank_correlation
from regard.explanation.raw_inputs import Reading
from regard.kinds import Count, check_kind
from regard.probes.watched import Probed, finite, probed, table
from regard.recording import AttentionCall, Recording, Stream
from regard.recording.frames import Block
from regard.recording.gradient import gradient
from regard.recording.inputs import first
from regard.recording.states import State
from regard.recording.tokens.tags import STRIDE, stream_of

DRAWS = 8
"""How many random directions of a state stand for all of them, where nobody says."""
ZEROS = "replaced by zeros, since left out of attention they still reach the target"
MOST = 32
"""How many tokens are looked at, evenly spaced, where nobody says."""


@dataclass(frozen=True)
class Correspondence:
    """Layer by layer, on the tokens of one stream.

    Attributes:
        target: what the explained number is. stream: whose tokens. tokens: which of them were looked at, by number.
        layers: the module of each block. draws: how many directions of a state were differentiated; 0: all, exactly.
        own_share: of the gradient of the state at position i at all input tokens, the share of input i: ‖∂h_i/∂x_i‖ over
            Σ_j ‖∂h_i/∂x_j‖. entropy: of these shares, over the logarithm of the number of inputs: 0, about one of them; 1,
            about all alike. NaN for padding.
        attention: what each token gets in a layer, the mean over heads and over all rows that are no padding.
        drop: by how much y falls without the token; NaN for tokens that cannot be taken away.
        correlation: Spearman's, of attention and drop over the tokens; NaN where either is the same for all.
        passes: forward and gradient passes. taken: how tokens were taken away.
    """

    target: str
    stream: str
    tokens: Int[Tensor, " token"]
    layers: list[str]
    draws: int
    own_share: Float[Tensor, "layer batch token"] = field(repr=False)
    entropy: Float[Tensor, "layer batch token"] = field(repr=False)
    attention: Float[Tensor, "layer batch token"] = field(repr=False)
    drop: Float[Tensor, "batch token"] = field(repr=False)
    correlation: Float[Tensor, "layer batch"] = field(repr=False)
    passes: int = 0
    taken: str = LEFT_OUT
    names: tuple[str, ...] = field(default=(), repr=False)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page (needs `regard[viz]`)."""
        return display.write_probe(self, path)

    def rows(self) -> list[tuple[str, float, float, float]]:
        """For each layer its module, and the means of own_share, entropy and correlation, over tokens and samples."""
        own, entropy, correlation = (
            t.flatten(1).nanmean(1).tolist() for t in (self.own_share, self.entropy, self.correlation)
        )
        return [*zip(self.layers, own, entropy, correlation, strict=True)]

    def __str__(self) -> str:
        head = ("layer", "module", "share of its own token", "entropy", "attention with removal")
        rows = [(str(i), m, *(f"{v:.3f}" for v in numbers)) for i, (m, *numbers) in enumerate(self.rows())]
        return f"{self.stream}, {len(self.tokens)} tokens; {self.target}\n{table(head, rows)}"

    __repr__ = __str__


def correspondence(
    model: nn.Module,
    inputs: Any,
    target: Any = None,
    *,
    stream: str | None = None,
    draws: int | None = DRAWS,
    tokens: int = MOST,
    seed: int = 0,
    **options: Any,
) -> Correspondence:
    """How much the state at a position is about the token there, block by block, and how attention to it goes with its removal.

    Args:
        model, inputs, target: as in `regard.explain`. Tokens are taken away by leaving them out of attention and of means;
            where they would reach the target all the same, by zeros (for ids: no embedding) in their place.
        stream: an input's; None: the first whose tokens can be taken away.
        draws: ‖∂h/∂x‖ is the root mean square over so many random directions of h; None: over all, exactly.
        tokens: how many are looked at, evenly spaced. The cost is layers · tokens · draws gradients, and a run for each token.
        seed: of the directions. options: streams, training, batch_axis, memory_budget, as in `regard.explain`.

    Raises Misuse where samples read one another; ModelError for a model without blocks; what `regard.record` raises.
    """
    check_kind("draws", draws, Count | None)
    check_kind("tokens", tokens, Count)
    with probed(model, inputs, target, states=True, **options) as run:
        return _measured(run, stream, draws, tokens, seed)


def _measured(run: Probed, name: str | None, draws: int | None, tokens: int, seed: int) -> Correspondence:
    recording = run.recording
    if not recording.blocks:
        raise ModelError("no block (an element of a ModuleList that holds attention) was seen, so there are no layers")
    removable = _removable(run)
    stream = _chosen(recording, removable, name)
    at = _spaced(removable[:, stream.rows].any(0), tokens)
    layers = [*_states(recording, stream)]
    if not layers:
        raise ModelError(f"no block gives back a state in which tokens of {stream.name!r} stand")
    own, entropy = zip(*(_shares(run, state, stream, at, draws, seed) for _, state in layers), strict=True)
    got = torch.stack([received(recording, block)[:, stream.rows][:, at] for block, _ in layers]).double()
    x0 = _in_their_place(run, removable, stream)
    drop = _drops(run, removable, stream, at, x0)
    return Correspondence(
        target=run.label,
        stream=stream.name,
        tokens=at,
        layers=[block.module for block, _ in layers],
        draws=draws or 0,
        own_share=torch.stack(own),
        entropy=torch.stack(entropy),
        attention=got,
        drop=drop,
        correlation=torch.stack([spearman(layer, drop) for layer in got]),
        passes=run.passes,
        taken=LEFT_OUT if x0 is None else ZEROS,
    )


def _removable(run: Probed) -> Tensor:
    """The tokens that can be taken away, (batch, row)."""
    gradients = run.recording.gradients(run.y, keep=True)
    run.passes += 1
    read = sum(run.recording.readout(gradients).values(), run.recording.zeros())
    return content(run.recording, Reading({}), read)


def _chosen(recording: Recording, removable: Tensor, name: str | None) -> Stream:
    """The stream whose tokens are looked at. Raises UnknownName for another, Misuse where none can be taken away."""
    known = {s.name: s for s in recording.streams if s.of_input and s.shown and bool(removable[:, s.rows].any())}
    if not known:
        raise Misuse("no token of an input can be taken away")
    if name is not None and name not in known:
        raise nearest(name, known, "stream")
    return known[name] if name is not None else next(iter(known.values()))


def _spaced(there: Tensor, most: int) -> Int[Tensor, " token"]:
    """At most so many of the tokens that are there in some sample, evenly spaced."""
    at = there.nonzero()[:, 0]
    return at if len(at) <= most else at[torch.linspace(0, len(at) - 1, most).round().long()]


def _states(recording: Recording, stream: Stream) -> Iterator[tuple[Block, State]]:
    """The blocks after which the stream's own rows stand in a state of their own, with that state."""
    rows = torch.arange(stream.first, stream.first + stream.count)
    for number, block in enumerate(recording.blocks):
        calls = [recording.calls[i] for i in block.calls]
        if not any(bool(torch.isin(c.queries % STRIDE, rows).any()) for c in calls):
            continue
        for state in recording.frontier(number):
            if state.value.ndim == 3 and bool(torch.isin(state.ids % STRIDE, rows).any()):
                yield block, state


# -- what a state is about ----------------------------------------------------------------------------------------------


def _shares(
    run: Probed, state: State, stream: Stream, at: Tensor, draws: int | None, seed: int
) -> tuple[Float[Tensor, "batch token"], Float[Tensor, "batch token"]]:
    """The share of its own input in the state at each token, and the entropy of all shares."""
    recording = run.recording
    there = _inputs_of(recording)
    own, entropy = (torch.full((recording.batch, len(at)), torch.nan, dtype=torch.float64) for _ in range(2))
    for i, token in enumerate(at.tolist()):
        row = stream.first + token
        here = state.ids % STRIDE == row
        size = _squares(run, state, here, draws, seed).sqrt() * there
        total = size.sum(1)
        known = (total > 0) & ~recording.padded[stream.name][:, token]
        p = size / total.clamp(min=1e-300)[:, None]
        spread = -(p * p.clamp(min=1e-300).log()).sum(1) / there.sum(1).log().clamp(min=1e-300)
        own[:, i] = torch.where(known, p[:, row], torch.nan)
        entropy[:, i] = torch.where(known, spread, torch.nan)
    return own, entropy


def _inputs_of(recording: Recording) -> Tensor:
    """1 for tokens of inputs that are no padding, (batch, row)."""
    there = torch.zeros(recording.batch, recording.rows, dtype=torch.float64)
    for s in recording.streams:
        if s.of_input and s.shown:
            there[:, s.rows] = (~recording.padded[s.name]).double()
    return there


def _squares(run: Probed, state: State, here: Tensor, draws: int | None, seed: int) -> Float[Tensor, "batch row"]:
    """Σ over directions v of ‖∂(v·h)/∂x_j‖² at every input token j, h the row of a state at which `here` stands."""
    recording, width = run.recording, state.value.shape[-1]
    mine = {s.name for s in recording.streams if s.of_input}
    leaves = {k: t for k, t in recording.leaves.items() if stream_of(k) in mine and t.requires_grad}
    out = torch.zeros(recording.batch, recording.rows, dtype=torch.float64)
    for v in directions(width, draws, seed).to(state.value):
        y = (state.value * here.to(state.value) * v).sum()
        for (name, _), g in zip(leaves.items(), gradient(y, [*leaves.values()], keep=True), strict=True):
            if g is not None:
                out += _by_row(recording, name, g.double().cpu().pow(2))
        run.passes += 1
    return finite(out)


def directions(width: int, draws: int | None, seed: int) -> Float[Tensor, "draw width"]:
    """Random directions whose squares have mean 1, or all axes."""
    if draws is None:
        return torch.eye(width, dtype=torch.float64)
    return torch.randn(draws, width, generator=drawn_from(seed, "directions of a state"), dtype=torch.float64)


def _by_row(recording: Recording, name: str, elements: Tensor) -> Float[Tensor, "batch row"]:
    """Elements of what enters under a name, summed on the rows that they are of; row 0 is nobody's."""
    elements = first(elements, recording.axis(name))
    at = rows_at(recording, name).expand(elements.shape).flatten(1)
    out = torch.zeros(recording.batch, recording.rows, dtype=torch.float64)
    out[: len(elements)].scatter_add_(1, at, elements.flatten(1))
    out[:, 0] = 0
    return out


# -- attention and removal ----------------------------------------------------------------------------------------------


def received(recording: Recording, block: Block) -> Float[Tensor, "batch row"]:
    """The attention that every row gets in a block: the mean over heads and over the query rows that are no padding."""
    total, rows = recording.zeros(), torch.zeros(recording.batch, 1, dtype=recording.precision)
    for call in (recording.calls[i] for i in block.calls):
        there = _looking(recording, call)
        total = total + recording.scatter(call.pull(there, EDGES["mean"]), call.keys)
        rows = rows + recording.scatter(call.shared(there), call.queries).sum(1, keepdim=True)
    return total / rows.clamp(min=1)


def _looking(recording: Recording, call: AttentionCall) -> Float[Tensor, "group row"]:
    """1 for query rows that are no padding."""
    return recording.gather((~recording.hidden()).to(recording.precision), call.queries)


def _in_their_place(run: Probed, removable: Tensor, stream: Stream) -> dict[str, Tensor] | None:
    """Zeros in the place of what enters under the stream's name; None where its tokens can be left out of attention."""
    tokens = torch.zeros_like(removable)
    tokens[:, stream.rows] = removable[:, stream.rows]
    run.passes += 2
    if run.recording.whole and not bool(
        reached(run.again, run.recording, torch.where(tokens, tokens.cumsum(1) - 1, -1)).any()
    ):
        return None
    leaves = run.recording.leaves
    return {name: torch.zeros_like(t.detach()) for name, t in leaves.items() if stream_of(name) == stream.name}


def _drops(
    run: Probed, removable: Tensor, stream: Stream, at: Tensor, x0: dict[str, Tensor] | None
) -> Float[Tensor, "batch token"]:
    """y less y without each token, one by one; NaN for those that cannot be taken away."""
    recording, y = run.recording, run.y.detach().double().cpu()
    out = torch.full((recording.batch, len(at)), torch.nan, dtype=torch.float64)
    for sample in range(recording.batch):
        can = removable[sample, stream.rows][at].nonzero()[:, 0]
        if not len(can):
            continue
        unit = torch.full((recording.batch, recording.rows), -1)
        unit[sample, stream.first + at[can]] = torch.arange(len(can))
        without = Without(run.again, recording, sample, unit, x0)
        out[sample, can] = y[sample] - without.y(torch.eye(len(can), dtype=torch.bool))
        run.passes += without.runs
    return out


def spearman(a: Float[Tensor, "batch token"], b: Float[Tensor, "batch token"]) -> Float[Tensor, " batch"]:
    """Spearman's rank correlation of each sample, over tokens at which both are numbers; NaN where either is constant."""
    return torch.stack(
        [rank_correlation(x[keep], y[keep]) for x, y in zip(a, b, strict=True) for keep in [~(x + y).isnan()]]
    )


__all__ = ["Correspondence", "correspondence", "received", "spearman"]
