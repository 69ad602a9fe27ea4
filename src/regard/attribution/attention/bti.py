"""Perception times feedback: Beyond Intuition (Chen et al., TMLR 2023), and Transition Attention Maps (Yuan et al., 2021).

T = P ⊙ F of the rows that the target reads. Perception P says what these rows have taken in of each token, through all layers;
feedback F says how much the target asks for it: the gradient at the last attention map, averaged over the way from a baseline
to the input, E_h (Σ_k w_k ∂y(x_k)/∂A_h)₊.

The points of the way run side by side, without a graph up to the last call's output; from there y is differentiated with
respect to that output alone, and G = dO Vᵀ is built for the rows that are read. Where these are several (a head that pools), P
and F meet row by row, before the rows are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.attribution.attention.path_rules import Preset
from regard.attribution.context import Context, LateReadout, Relevance
from regard.attribution.integral.baseline_values import label
from regard.attribution.integral.path import Place, Values, between, edits, places, side_by_side, start_of
from regard.attribution.integral.quadrature import nodes
from regard.attribution.rerun import CLOSED, Rerun
from regard.errors import Misuse, ModelError, RegardError, nearest
from regard.kinds import Nodes
from regard.recording import AttentionCall
from regard.recording.edits import GraphFrom
from regard.recording.gradient import gradients_at
from regard.recording.tokens.tags import STRIDE
from regard.site import Site

Matrix = Float[Tensor, "read batch row"]
PATHS = ("input", "embedding_output")


def bti_token(
    context: Context, *, steps: Nodes = 20, grid: str = "gauss", path: str = "input", start_layer: int = 0
) -> Relevance:
    """Beyond Intuition, token-wise: T = P ⊙ F with P = Π(I + (E_h A) diag(‖(zW)_j‖/‖z_j‖)).

    The factor says how much longer a token's value (after W_O, all heads) is than its state z before the block; P needs no
    gradient. `steps` nodes of a `grid`: "gauss", or "linspace" (0..1 inclusive, each of weight 1/steps, as released). The way
    begins at the baseline; path="embedding_output" scales what the first block is given (the released way for BERT). Calls
    before `start_layer` count as identity.

    Raises Misuse where W_O or z of a call cannot be found.
    """
    preset = Preset("value_weighted", "residual_sum", None, start_layer)
    return _attributed(context, preset, _Way(context, steps, grid, path))


def bti_head(
    context: Context, *, steps: Nodes = 20, grid: str = "gauss", path: str = "input", start_layer: int = 0
) -> Relevance:
    """Beyond Intuition, head-wise: T = P ⊙ F with P = Π(I + Σ_h θ_h A_h), θ_h ∝ E|A_hᵀG_h|, Σθ = 1 for each sample.

    The options are those of `bti_token`.
    """
    preset = Preset("head_weighted", "residual_sum", None, start_layer)
    return _attributed(context, preset, _Way(context, steps, grid, path))


def transition_attention(
    context: Context, *, steps: Nodes = 20, grid: str = "gauss", path: str = "input", start_layer: int = 0
) -> Relevance:
    """Transition Attention Maps: T = P ⊙ F, P the state of a Markov chain after its transitions through all layers.

    Our reading: the chain starts with the read row of the last attention map, E_h A⁽ᴸ⁾, and each earlier layer moves it by
    I + E_h A⁽ˡ⁾ (a token's own residual connection, not normalised): P = A⁽ᴸ⁾ Π_{l<L}(I + A⁽ˡ⁾). F is the gradient at the
    last map, integrated from the baseline to the input, clamped and averaged over heads, as in `bti_token`; it is not
    multiplied by A⁽ᴸ⁾ once more. The options are those of `bti_token`.
    """
    preset = Preset("mean", "residual_sum", None, start_layer)
    return _attributed(context, preset, _Way(context, steps, grid, path), keep=False)


# -- T ----------------------------------------------------------------------------------------------------------------


@dataclass
class Reads:
    """The rows that the target reads in one final call, numbered for each sample: at most `count` of them.

    `rows` is 1 at each read row, (read, batch, row); `weights` (read, batch) sum to 1 over a sample's; `number` (batch, row)
    is a row's number, or -1.
    """

    rows: Matrix
    weights: Float[Tensor, "read batch"]
    number: Int[Tensor, "batch row"]

    @classmethod
    def of(cls, context: Context, r: Relevance) -> Reads:
        """Our reading: rows that are all input tokens (a head that pools) weigh alike, unless the user gave weights; others
        (a class token beside the patches) weigh as the read-out says."""
        tokens = context.tokens() > 0
        if not context.asked:
            alike = (r > 0) / (r > 0).sum(1, keepdim=True).clamp(min=1)
            beside = r[:, ~tokens].any(1, keepdim=True)
            r = torch.where(beside, r, alike.to(r))
            if isinstance(context.readout, LateReadout) and not bool(beside.any()):
                context.read = context.readout.how.replace("weighted by gradient norm", "weighted alike")
        count = max(1, int((r > 0).sum(1).max()))
        weights, at = (t.T for t in r.topk(count, dim=1))
        rows = torch.zeros(count, *r.shape, dtype=r.dtype).scatter_(2, at[..., None], (weights > 0).to(r)[..., None])
        number = torch.where(rows.any(0), rows.argmax(0), -1)
        return cls(rows, weights, number)


def _attributed(context: Context, preset: Preset, way: _Way, keep: bool = True) -> Relevance:
    """Σ_i r_i P_i ⊙ F_i over the read rows i of each final attention."""
    recording = context.recording
    preset.check(recording)
    step = preset.step(recording, tuple(context.readout))
    out, G = recording.zeros(), way.gradients()
    for a, r in context.readout.items():
        reads = Reads.of(context, r)
        (walked,) = recording.walk_apart(context.gradients, {a: reads.rows}, [step], keep=keep)
        P = walked.moved + walked.itself if keep else walked.moved
        F = torch.stack([_feedback(context, call, reads, way, G) for call in recording.calls_of(a)]).sum(0)
        out += (reads.weights[..., None] * recording.settled(P) * recording.settled(F)).sum(0)
    _say(context, way)
    return out


def _feedback(context: Context, call: AttentionCall, reads: Reads, way: _Way, G: dict[int, Tensor]) -> Matrix:
    """E_h (G)₊ of one call, as much of the mean over the attention's heads as is its own, on the rows of all streams."""
    at = way.rows[call.index]
    return _on_rows(context, call.index, reads, at, call.shared(G[call.index].clamp(min=0).mean(1), at))


def _on_rows(context: Context, i: int, reads: Reads, at: Tensor, F: Float[Tensor, "group some key"]) -> Matrix:
    """F of some query rows of a call, put on the rows of all streams."""
    recording, call = context.recording, context.recording.calls[i]
    samples, queries = (call.queries[:, at] // STRIDE - 1).clamp(min=0), call.queries[:, at] % STRIDE
    number, keys = reads.number[samples, queries], call.keys % STRIDE
    place = (number * recording.batch + samples)[..., None] * recording.rows + keys[:, None]
    wanted = (number >= 0)[..., None] & (keys > 0)[:, None]
    out = torch.zeros(reads.rows.numel(), dtype=F.dtype).index_add_(0, place[wanted], F.cpu()[wanted])
    return out.view_as(reads.rows)


def _say(context: Context, way: _Way) -> None:
    """What a reader of the map should know."""
    where = "the embedding output" if way.path == "embedding_output" else "the input"
    context.notes.append(
        f"feedback: mean gradient at the last attention map over {way.steps} points ({way.grid}) from the baseline "
        f"({way.baseline}) to {where}"
    )


# -- F ----------------------------------------------------------------------------------------------------------------


class _Way:
    """The points between a baseline and the input, and the mean of G over them at the read rows of each final call."""

    def __init__(self, context: Context, steps: int, grid: str, path: str) -> None:
        if path not in PATHS:
            raise nearest(path, PATHS, "path")
        assert context.again is not None
        self.context, self.steps, self.grid, self.path = context, steps, grid, path
        self.again: Rerun = context.again
        self.t, self.w = nodes(grid, steps)
        finals = {i: r for a, r in context.readout.items() for i in context.recording.attentions[a].calls}
        self.rows = {i: self._read(i, r) for i, r in finals.items()}
        local = path == "embedding_output" and context.baseline is None
        self.baseline = "zero, local" if local else label(context.baseline)

    def _read(self, i: int, r: Relevance) -> Int[Tensor, " some"]:
        """Query rows of a call that are read in some sample."""
        call = self.context.recording.calls[i]
        if call.weights is not None:
            raise Misuse(
                f"the map of attention call {i} ({call.module or 'the model itself'}) multiplies several values, for which the "
                "BTI family is not defined here; choose another method, such as gae"
            )
        w = self.context.recording.gather(r, call.queries)
        return (w > 0).any(0).nonzero()[:, 0]

    def gradients(self) -> dict[int, Float[Tensor, "group head some key"]]:
        """Σ_k w_k ∂y(x_k)/∂A at the read rows of each final call."""
        found, start = self._ends()
        many = side_by_side(self.context.recording, self.again, graph=False)
        parts = [self._sum(found, start, *p) for p in zip(self.t.split(many), self.w.split(many), strict=True)]
        self.context.nodes += len(self.t)
        return {i: torch.stack([p[i] for p in parts]).sum(0) for i in self.rows}

    def _ends(self) -> tuple[list[Place], Values]:
        """The tensors that are moved along the way, and their values at its beginning."""
        site = Site.input() if self.path == "input" else Site.embeddings()
        found, baseline = places(self.context.recording, site), self.context.baseline
        if baseline is None and self.path != "input":
            return found, {p.key: torch.zeros_like(p.F) for p in found}
        with torch.no_grad():
            return found, start_of(self.context, found, site, baseline)[0]

    def _sum(self, found: list[Place], start: Values, t: Tensor, w: Tensor) -> dict[int, Tensor]:
        """Over some points as one batch; one by one in a model that takes no other batch than the user's."""
        try:
            return self._at(found, start, t, w)
        except (RuntimeError, ValueError, IndexError, RegardError):
            if len(t) == 1:
                raise
        each = [self._at(found, start, *p) for p in zip(t.split(1), w.split(1), strict=True)]
        return {i: torch.stack([e[i] for e in each]).sum(0) for i in self.rows}

    def _at(self, found: list[Place], start: Values, t: Tensor, w: Tensor) -> dict[int, Tensor]:
        k, recording = len(t), self.context.recording
        with torch.no_grad():
            values = {p.key: between(start[p.key], p, t) for p in found}
            made = self.again.run([*edits(values), GraphFrom(tuple(self.rows))], copies=k)
            output = self.again.copied(made.output, recording.output, k, recording.batch)
            if output is None:
                raise ModelError("samples of this output rest on one another")
            if len(made.calls) != len(recording.calls):
                raise ModelError("a batch of another size makes a different number of attention calls")
            last = [made.calls[i] for i in self.rows]
            with torch.enable_grad():
                y = self.again.y(output, k).sum()
            if not y.requires_grad:  # GraphFrom opened it inside of code that closes it again
                raise ModelError(CLOSED)
            grads = gradients_at([c.output for c in last], y)
        return {c.index: self._weighted(c.bind(g), w) for c, g in zip(last, grads, strict=True)}

    def _weighted(self, call: AttentionCall, w: Tensor) -> Float[Tensor, "group head some key"]:
        """Σ_k w_k dO_k V_kᵀ at the read rows."""
        recorded, at = self.context.recording.calls[call.index], self.rows[call.index]
        assert call.dO is not None
        dO = call.canonical(call.dO)[:, :, at.to(call.output.device)].to(call.precision)
        v = call.repeated(call.v).detach().to(call.precision)
        copy = (call.samples // self.again.batch).to(v.device)
        total = v.new_zeros(1)
        for k, weight in enumerate(w.tolist()):
            own = copy == k
            same = torch.equal(call.keys[own.cpu()] % STRIDE, recorded.keys % STRIDE)
            if not same or call.layout.heads != recorded.layout.heads:
                raise ModelError(f"attention call {call.index} looks at different tokens at a point of the path")
            total = total + weight * dO[own] @ v[own].transpose(2, 3)
        return total
