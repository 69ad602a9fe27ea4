"""Attention-ECLIP and Grad-ECLIP (Debunking Grad-ECLIP, arXiv 2605.12952; Grad-ECLIP, ICML 2024). formulas.md section 6.

Both ask how the target rests on what one row (CLS of a picture, EOT of a text) gathers from the other tokens in the last
attention, and weigh the tokens by λ, how alike their keys are to that row's query. They are one map, since
∂y/∂A_h[cls, i] = ⟨∂y/∂o_h, v_h,i⟩: Grad-ECLIP adds up channels, Attention-ECLIP heads.

Grad-ECLIP's release computes the last block with one head over the full width, which is another model (heads="single").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regard.attribution.context import Context, Relevance, merged_too
from regard.attribution.removal.runs import content
from regard.attribution.rerun import Rerun
from regard.errors import Misuse, ModelError, nearest
from regard.explanation.receipt import ExplainedModel
from regard.kinds import Count
from regard.recording import AttentionCall, Rows
from regard.recording.calls.attention import Attention, rows_of_heads
from regard.recording.calls.residual import output_bias, output_projection
from regard.recording.gradient import gradients_at
from regard.recording.one_head import OneHead, ScoreOperands, Sides, side_by_side, sides_of
from regard.recording.refusals import difference, floats_in
from regard.recording.tokens.tags import STRIDE

LOOSENINGS = ("cosine", "softmax", "attention", "none")
HEADS = ("model", "single")
QK = ("heads", "projected")
RANGES = ("content", "all")

Each = Callable[[AttentionCall, Rows], Tensor]


def attention_eclip(
    context: Context,
    *,
    heads: str = "model",
    loosening: str = "cosine",
    layers: Count = 1,
    qk: str = "heads",
    qk_range: str = "content",
) -> Relevance:
    """(Σ_l Σ_i λ_ij Σ_h ∂y/∂A_h[i, j])₊ over the rows i that the target reads, in the last `layers` attentions.

    heads: "model", as it is; "single", the last attentions run again with one head over the full width, which is another model:
    the receipt says by how much its output differs. loosening — λ: "cosine", cos(q_i, k_j) over the full width, brought to
    0 to 1 over the tokens; "softmax", A itself so; "attention", A, head by head; "none", 1. qk: q and k as the kernel gets
    them, or "projected", after W_O as in Grad-ECLIP's release. qk_range: the least and the largest λ are those of "content"
    tokens, or of "all" keys. Special tokens, the read row and padding have no score.

    Our reading: where a target reads several rows, the products are added before they are clamped.
    """
    return eclip(context, Choice(heads, loosening, layers, qk, qk_range), by_attention)


def grad_eclip(
    context: Context,
    *,
    heads: str = "model",
    loosening: str = "cosine",
    layers: Count = 1,
    qk: str = "heads",
    qk_range: str = "content",
) -> Relevance:
    """(Σ_l Σ_i λ_ij Σ_ch g_i,ch v_j,ch)₊ with g = ∂y/∂o, o before W_O; the rest as `attention_eclip`, whose map it is."""
    return eclip(context, Choice(heads, loosening, layers, qk, qk_range), by_channels)


# -- what is multiplied by λ ----------------------------------------------------------------------------------------------


def by_attention(_call: AttentionCall, rows: Rows) -> Float[Tensor, "group head row key"]:
    """∂y/∂A, head by head."""
    assert rows.G is not None
    return rows.G


def by_channels(call: AttentionCall, rows: Rows) -> Float[Tensor, "group head row key"]:
    """Σ_ch g_ch v_ch, head by head."""
    assert call.dO is not None
    g = call.canonical(call.dO)[:, :, rows.at.to(call.output.device)].to(call.precision)
    v = call.repeated(call.v).detach().to(call.precision)
    return torch.einsum("ghrc,ghkc->ghrk", g, v)


# -- the map --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The options of both, checked."""

    heads: str
    loosening: str
    layers: int
    qk: str
    qk_range: str

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.heads, HEADS, "heads"),
            (self.loosening, LOOSENINGS, "loosening"),
            (self.qk, QK, "qk"),
            (self.qk_range, RANGES, "qk_range"),
        ):
            if value not in known:
                raise nearest(str(value), known, what)


@dataclass
class Layer:
    """An attention: its calls, bound to the target, and the weights of the rows that are read (any that are not 0 are)."""

    calls: Sequence[AttentionCall]
    r: Relevance

    def rows(self, parts: Sequence[Each]) -> Iterator[Float[Tensor, "part slot batch time row"]]:
        """Of some of the read rows at a time (slots), what each part says of every key, added up over calls."""

        def every(call: AttentionCall, rows: Rows) -> Tensor:
            return torch.stack([part(call, rows) for part in parts])

        for _, found in rows_of_heads(self.calls, self.r, every, "sum", (len(parts),)):
            yield found


def eclip(context: Context, choice: Choice, product: Each) -> Relevance:
    """The map, (batch, row)."""
    content = content_rows(context)
    counted = torch.ones_like(content) if choice.qk_range == "all" else content
    out = context.recording.zeros()
    for layer in chosen_layers(context, choice):
        of = by_heads(product, with_A=choice.loosening == "attention")
        for moved, *alike in layer.rows([of, *parts_of_loosening(context, layer, choice)]):
            weighed = moved * loosened(alike, counted > 0) if alike else moved
            out += weighed.sum((0, 2))
    return out.clamp(min=0) * content


def by_heads(product: Each, *, with_A: bool) -> Each:
    """Added up over heads; with_A: each head's times its own A."""

    def each(call: AttentionCall, rows: Rows) -> Tensor:
        of = product(call, rows)
        return (rows.A * of if with_A else of).sum(1)

    return each


# -- λ --------------------------------------------------------------------------------------------------------------------


def parts_of_loosening(context: Context, layer: Layer, choice: Choice) -> list[Each]:
    """What λ is made of: which keys there are; the mean of A, or a product and two squares of lengths. Empty where it is 1."""
    if choice.loosening in ("none", "attention"):
        return []
    if choice.loosening == "softmax":
        return [there, lambda call, rows: call.shared(rows.A.mean(1), rows.at)]
    return [there, *parts_of_cosine(context, layer, projected=choice.qk == "projected")]


def there(_call: AttentionCall, rows: Rows) -> Float[Tensor, "group row key"]:
    """1 at every key."""
    return torch.ones_like(rows.A[:, 0])


def loosened(
    parts: Sequence[Float[Tensor, "slot batch time row"]], counted: Bool[Tensor, "batch row"]
) -> Float[Tensor, "slot batch time row"]:
    """λ of every key for some of the read rows."""
    keys, *alike = parts
    return between_0_and_1(cosine(*alike) if len(alike) > 1 else alike[0], (keys > 0) & counted[:, None])


def between_0_and_1(
    values: Float[Tensor, "slot batch time row"], counted: Bool[Tensor, "slot batch time row"]
) -> Float[Tensor, "slot batch time row"]:
    """Brought to 0 for the least and 1 for the largest of those that are counted; all 0 where these are one value."""
    least = values.masked_fill(~counted, torch.inf).amin((2, 3), keepdim=True)
    span = values.masked_fill(~counted, -torch.inf).amax((2, 3), keepdim=True) - least
    some = span > 0
    return torch.where(some, (values - least) / torch.where(some, span, 1.0), 0.0)


def cosine(dots: Tensor, qq: Tensor, kk: Tensor) -> Tensor:
    """q·k / (|q| |k|); 0 where one of them is 0."""
    size = (qq * kk).sqrt()
    return torch.where(size > 0, dots / torch.where(size > 0, size, 1.0), 0.0)


def parts_of_cosine(context: Context, layer: Layer, *, projected: bool) -> list[Each]:
    """q·k, |q|² and |k|² over the full width, all heads side by side."""
    if projected and len(layer.calls) > 1:
        raise Misuse("qk='projected' is defined where one call holds all heads of an attention; use qk='heads'")
    sides = {i: projection(context, i, s) if projected else s for i, s in sides_at(context, layer.calls).items()}

    def dots(call: AttentionCall, rows: Rows) -> Tensor:
        q, k, _ = sides[call.index]
        return q[:, rows.at.to(q.device)] @ k.transpose(1, 2)

    def of_query(call: AttentionCall, rows: Rows) -> Tensor:
        q, k, _ = sides[call.index]
        return q[:, rows.at.to(q.device)].square().sum(2, keepdim=True).expand(-1, -1, k.shape[1])

    def of_key(call: AttentionCall, rows: Rows) -> Tensor:
        k = sides[call.index].k
        return k.square().sum(2)[:, None].expand(-1, len(rows.at), -1)

    return [dots, of_query, of_key]


def sides_at(context: Context, calls: Sequence[AttentionCall]) -> dict[int, Sides]:
    """q and k of calls, heads side by side. One more run finds those of calls that compute their own softmax."""
    kept: dict[int, tuple[Tensor, Sides]] = context.shared_runs.setdefault("sides", {})  # every target's are the same
    there = {c.index: kept[c.index][1] for c in calls if c.index in kept and kept[c.index][0] is c.q}
    found = {call.index: there.get(call.index) or sides_of(call) for call in calls}
    missing = [i for i, sides in found.items() if sides is None]
    if missing:
        assert context.again is not None
        seen = ScoreOperands(missing)
        context.forwards += 1
        with torch.no_grad():
            context.again.run([seen])
        found |= seen.sides
    out = {}
    for call in calls:
        sides = found[call.index]
        if sides is None:
            raise ModelError(
                f"the queries and keys of attention call {call.index} ({call.module or 'the model itself'}) are not known: its "
                "scores are not one product of the two; choose loosening='softmax', 'attention' or 'none'"
            )
        out[call.index] = Sides(sides.q.detach().to(call.precision), sides.k.detach().to(call.precision), sides.scale)
        if call.q is not None:
            kept[call.index] = call.q, out[call.index]
    return out


def projection(context: Context, i: int, sides: Sides) -> Sides:
    """q and k after W_O, as if they were the call's output."""
    call, branches = context.recording.calls[i], context.recording.branches
    W, bias = output_projection(branches, call).flatten(0, 1).to(sides.q), output_bias(branches, call)
    b = 0.0 if bias is None else bias.to(sides.q)
    return Sides(sides.q @ W + b, sides.k @ W + b, sides.scale)


# -- which attentions, and which tokens -----------------------------------------------------------------------------------


def chosen_layers(context: Context, choice: Choice) -> list[Layer]:
    """The last attentions that each read row asks in, bound to the target, the last first."""
    recording = context.recording
    chosen = [(a, r) for last, r in context.readout.items() for a in _back_from(context, last, r, choice.layers)]
    every = sorted({i for a, _ in chosen for i in recording.attentions[a].calls})
    if choice.heads == "model":
        calls = dict(zip(every, context.gradients.bound(every), strict=True))
    else:
        calls = dict(zip(every, _as_one_head(context, every), strict=True))
    return [Layer([calls[i] for i in recording.attentions[a].calls], r) for a, r in chosen]


def _back_from(context: Context, last: int, r: Relevance, count: int) -> list[int]:
    """An attention, and those before it in which the same rows look at the same streams."""
    recording, found = context.recording, [last]
    streams = _streams(context, last)
    for a in range(last - 1, -1, -1):
        if len(found) == count:
            break
        if (
            bool((r[:, _rows(recording.attentions[a], recording.calls, "queries")] > 0).any())
            and _streams(context, a) == streams
        ):
            found.append(a)
    if len(found) < count:
        raise Misuse(
            f"layers={count}, but the rows that the target reads look at {' and '.join(sorted(streams)) or 'others'} in "
            f"{len(found)} attention{'s' if len(found) > 1 else ''} only"
        )
    return found


def content_rows(context: Context) -> Float[Tensor, "batch row"]:
    """1 at the tokens of inputs that can have a score: no padding, no special token, not the one row that is read. Of merged
    rows, the share that is made of such tokens."""
    recording = context.recording
    return merged_too(recording, content(recording, context.reading, context.r).to(recording.precision))


def _rows(attention: Attention, calls: Sequence[AttentionCall], side: str) -> Tensor:
    """The rows that an attention's calls have as "queries" or "keys"."""
    rows: Tensor = torch.cat([getattr(calls[i], side).flatten() for i in attention.calls]).remainder(STRIDE).unique()
    return rows[rows > 0]


def _streams(context: Context, attention: int) -> frozenset[str]:
    recording = context.recording
    rows = _rows(recording.attentions[attention], recording.calls, "keys")
    return frozenset(
        s.name for s in recording.streams if s.of_input and bool(((rows >= s.first) & (rows < s.first + s.count)).any())
    )


def _as_one_head(context: Context, calls: Sequence[int]) -> list[AttentionCall]:
    """Calls of a run in which they have one head each, bound to its target; the receipt says how it differs."""
    again, recording = context.again, context.recording
    assert again is not None
    with torch.enable_grad():
        made = again.run([single := OneHead(tuple(calls))])
        y = again.y(made.output)
    if len(made.calls) != len(recording.calls):
        raise ModelError("the run with one head made another number of attention calls")
    grads = gradients_at([made.calls[i].output for i in calls], y.sum())
    context.nodes += 1
    context.explained_model = another_model(again, recording.output, made.output, context.gradients.value, y)
    joined = [
        None if g is None else side_by_side(made.calls[i].canonical(g)) for i, g in zip(calls, grads, strict=True)
    ]
    return [single.single[i].bind(g) for i, g in zip(calls, joined, strict=True)]


def another_model(again: Rerun, own: Any, single: Any, y_own: Tensor, y: Tensor) -> ExplainedModel:
    """By how much the run that gave the output `single` is another model than the one that gave `own`."""
    most = difference([t.detach() for t in floats_in(own)], single)
    moved = (y.detach() - y_own.to(y)).float().cpu()
    first = [first_class(again, output) for output in (own, single)]
    return ExplainedModel("its last attentions have one head each", most, moved, predicted=first[1], own=first[0])


def first_class(again: Rerun, output: Any) -> Tensor | None:
    """The class that has the highest score, by the target, or of the texts that pictures are compared with."""
    predicted = again.target.value(output, again.inputs.bare).predicted
    if predicted is not None:
        return predicted.cpu()
    compared: Any = output.get("logits_per_image") if isinstance(output, Mapping) else None
    if not isinstance(compared, Tensor) or compared.ndim != 2 or compared.shape[1] < 2:
        return None
    return compared.detach().argmax(1).cpu()


__all__ = ["attention_eclip", "grad_eclip"]
