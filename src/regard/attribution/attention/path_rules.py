"""Path rules: edges -> relevance of input tokens. formulas.md section 3, as choices for the one walk of `Recording`.

- `residual_sum`: row r of Π(I + E), less r itself: paths of length ≥ 1.
- `rollout`: the same with E + I row-normalised, given as it is.
- `last`: only the last attention of the stream that the target reads.

`residual_sum` may keep to paths that never re-enter a source that they have left (hops="one"), or to those that do
("crossed"): see recording/relevance/propagation.py. A `Fusion` joins several such maps to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.attribution.attention.chosen_heads import ChosenHeads
from regard.attribution.attention.edge_rules import EDGES
from regard.attribution.attention.guidance import GuideMaps, guide_rows
from regard.errors import Misuse, nearest
from regard.recording import AttentionCall, Gradients, Recording, Step, Stream
from regard.recording.backward import AttentionRule, Correction, guide_of
from regard.recording.relevance.propagation import HOPS, Walked
from regard.recording.tokens.tags import STRIDE

PATHS = ("residual_sum", "rollout", "last")
CORRECTIONS = ("incomplete", "complete")
FUSIONS = ("sum", "mean", "max_normalised")


@dataclass(frozen=True)
class Preset:
    """An attention-family method: edge rule × path rule × layers. Attentions not in `layers` use `mean` (None: all are in).

    hops: which paths count, by the sources they visit (`residual_sum` only). correction: "incomplete" corrects the maps alone,
    "complete" the gradient too, wherever it passes through attention. guide: a map of each stream that steers the attention
    (guidance.py); None: it is 1. heads: those that are followed, and no other layer where these are named; None: all.
    """

    edge: str
    path: str
    layers: tuple[int, ...] | None = None
    start_layer: int = 0
    hops: str = "all"
    correction: str = "incomplete"
    guide: GuideMaps | None = None
    heads: ChosenHeads | None = None

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.edge, EDGES, "edge rule"),
            (self.path, PATHS, "path rule"),
            (self.hops, HOPS, "hops"),
            (self.correction, CORRECTIONS, "correction"),
        ):
            if not isinstance(value, str) or value not in known:
                raise nearest(str(value), known, what)
        for number in (*(self.layers or ()), self.start_layer):
            if not _is_whole(number):
                raise Misuse(f"a layer is the number of an attention, from 0 on; not {number!r}")
        if self.path == "rollout" and self.edge == "signed":
            raise Misuse(
                "path='rollout' brings rows to sum 1, which signed edges have no sum for: "
                "choose sign='absolute', or path='residual_sum'"
            )

    def chosen(self, _recording: Recording) -> tuple[Preset | Callable[[Any], Tensor], str]:
        """What the method is for a run: itself, unless it depends on what was recorded; and a note for the receipt."""
        return self, ""

    @property
    def complete(self) -> bool:
        """Whether the gradient itself is corrected."""
        return self.correction == "complete"

    @property
    def presets(self) -> tuple[Preset, ...]:
        """The maps that are made: this one."""
        return (self,)

    def joined(self, _recording: Recording, maps: Sequence[Tensor]) -> Tensor:
        """The one map."""
        return maps[0]

    def map(self, walked: Walked) -> Tensor:
        """What of a walk is the map. The identity term, r itself, is taken off, but for `rollout`."""
        if self.path == "rollout":
            return walked.moved + walked.itself
        return walked.returned if self.hops == "crossed" else walked.moved

    @property
    def gradient(self) -> bool:
        """Whether the rule needs G."""
        return EDGES[self.edge].gradient

    def check(self, recording: Recording) -> None:
        """Raise Misuse for a layer that the recording has no call for."""
        count = len(recording.attentions)
        for layer in (*(self.layers or ()), self.start_layer):
            if not 0 <= layer < count:
                raise Misuse(f"layer {layer} is out of range: the run has {count} attentions, numbered from 0")
        if self.heads is not None:
            self.heads.check(recording)
        several = [c for c in recording.calls if c.weights is not None]
        if self.correction == "complete" and several:
            where = several[0].module or "the model itself"
            raise Misuse(
                f"complete correction is not defined here: the map of attention call {several[0].index} ({where}) multiplies "
                "several values; use correction='incomplete'"
            )

    def follows(self, attention: int, finals: Sequence[int]) -> bool:
        """Whether paths go through an attention: from `start_layer` on, or the last, or those that `heads` names."""
        if self.heads is not None and self.heads.layers:
            return bool(self.heads.of(attention))
        return (self.path != "last" or attention in finals) and attention >= self.start_layer

    def corrects(self, attention: int) -> bool:
        """Whether an attention is among those that are corrected."""
        return self.layers is None or attention in self.layers

    def rule(self, recording: Recording) -> Correction | None:
        """How the gradient is corrected on its way; None: it is the model's own."""
        if self.correction == "incomplete":
            return None
        corrected = None if self.layers is None else frozenset(self.layers)
        numbers = {c.index: c.attention for c in recording.calls}
        return Correction(self.edge, self.guided(recording), corrected, numbers)

    def guided(self, recording: Recording) -> Tensor | None:
        """m on all rows."""
        return None if self.guide is None else guide_rows(recording, self.guide)

    def step(self, recording: Recording, finals: Sequence[int]) -> Callable[[AttentionCall], Step | None]:
        """How each call is weighed on the way back, by its attention's number. `start_layer` is 0-based and inclusive."""

        m = self.guided(recording)

        def how(call: AttentionCall) -> Step | None:
            if not self.follows(call.attention, finals):
                return None
            edge = EDGES[self.edge if self.corrects(call.attention) else "mean"]
            step = edge.step(recording, call, self.path == "rollout", self.hops)
            step = step if self.heads is None else replace(step, heads=self.heads.weights(recording, call))
            return step if m is None or not edge.gradient else replace(step, keys=guide_of(m, call))

        return how


def _is_whole(number: Any) -> bool:
    """Whether it is a whole number, Python's or numpy's; True and False are none."""
    return isinstance(number, Integral) and not isinstance(number, bool)


@dataclass(frozen=True)
class Fusion:
    """Several maps of one walk, joined on every token: their sum, their mean, or the mean of them each over its maximum.

    The maximum is that of |map| over the tokens of one source, sample by sample (padding left out); a map that is zero
    there stays zero. So scaled, a map has no unit of y.
    """

    presets: tuple[Preset, ...]
    how: str = "sum"

    def __post_init__(self) -> None:
        if self.how not in FUSIONS:
            raise nearest(str(self.how), FUSIONS, "fusion")

    @property
    def complete(self) -> bool:
        """Whether any of them corrects the gradient itself."""
        return any(p.complete for p in self.presets)

    def check(self, recording: Recording) -> None:
        """Raise Misuse for a layer that the recording has no call for."""
        for preset in self.presets:
            preset.check(recording)

    def joined(self, recording: Recording, maps: Sequence[Tensor]) -> Tensor:
        """Maps (batch, row) -> one."""
        if self.how == "max_normalised":
            maps = [over_maximum(recording, recording.settled(m)) for m in maps]
        total = torch.stack([*maps]).sum(0)
        return total if self.how == "sum" else total / len(maps)


def over_maximum(recording: Recording, relevance: Tensor) -> Tensor:
    """A map over its largest size on the tokens of each source that are not padding."""
    of, size = recording.sources, relevance.abs().masked_fill(recording.hidden(), 0.0)
    out = torch.zeros_like(relevance)
    for source in of[of > 0].unique():
        rows = of == source
        largest = size[..., rows].amax(-1, keepdim=True)
        out[..., rows] = torch.where(largest > 0, relevance[..., rows] / largest, 0.0)
    return out


Corrected = Callable[[AttentionRule | None], Gradients]
"""One target's gradients, corrected by a rule; None: the model's own."""


def relevance(
    recording: Recording, gradients: Corrected, readout: dict[int, Tensor], methods: Sequence[Preset | Fusion]
) -> list[Tensor]:
    """Relevance (batch, rows) of each method; those that share their gradients share one walk. `readout`: final attention ->
    weights r on its rows.

    The identity term, r itself (where tokens merge: r brought back to the tokens they were made of), is taken off.
    """
    for method in methods:
        method.check(recording)
    presets = [p for method in methods for p in method.presets]
    rules = [p.rule(recording) for p in presets]
    walked = walks(recording, gradients, readout, presets, rules, tuple(readout))
    maps = iter([p.map(w) for p, w in zip(presets, walked, strict=True)])
    return [method.joined(recording, [next(maps) for _ in method.presets]) for method in methods]


def walks(
    recording: Recording,
    gradients: Corrected,
    readout: dict[int, Tensor],
    presets: Sequence[Preset],
    rules: Sequence[AttentionRule | None],
    finals: Sequence[int],
) -> list[Walked]:
    """What each preset's walk brought to every row, each along the gradients that its rule corrects."""
    found: dict[int, Walked] = {}
    plain = [i for i, p in enumerate(presets) if p.correction == "incomplete"]
    own = [[i] for i, p in enumerate(presets) if p.correction == "complete"]
    for together in [plain, *own] if plain else own:
        along = gradients(rules[together[0]])
        steps = [presets[i].step(recording, finals) for i in together]
        found |= dict(zip(together, recording.walk_apart(along, readout, steps), strict=True))
    return [found[i] for i in range(len(presets))]


def rows_between(
    recording: Recording, gradients: Corrected, method: Preset | Fusion, name: str, tokens: Sequence[int]
) -> Float[Tensor, "batch rows row"]:
    """The map of a method with the read-out at each of some tokens of a stream, over all rows of the recording."""
    method.check(recording)
    stream = recording.stream(name)
    call = _last_look(recording, gradients(None), stream)
    cost = recording.precision.itemsize * recording.batch * recording.rows * (len(recording.calls) + 2)
    rules = [p.rule(recording) for p in method.presets]  # the same for all parts, whose gradients are taken once
    out = []
    for some in torch.tensor(tokens).split(max(1, recording.budget // (cost * len(method.presets)))):
        r = recording.zeros().repeat(len(some), 1, 1)
        r[torch.arange(len(some)), :, stream.first + some] = (~recording.padded[name][:, some]).T.to(r)
        walked = walks(recording, gradients, {call.attention: r}, method.presets, rules, (call.attention,))
        maps = [preset.map(w).expand_as(r) for preset, w in zip(method.presets, walked, strict=True)]
        out.append(method.joined(recording, maps).transpose(0, 1))
    return torch.cat(out, 1)


def _last_look(recording: Recording, gradients: Gradients, stream: Stream) -> AttentionCall:
    """The last call in which tokens of a stream look, among those that the target depends on (else among all)."""
    rows = torch.arange(stream.first, stream.first + stream.count)
    looks = [c for c in gradients.calls if bool(torch.isin(c.queries % STRIDE, rows).any())]
    if not looks:
        raise Misuse(f"no attention call has queries from {stream.name!r}: its tokens are only keys and values")
    return recording.calls[[c for c in looks if (c.dO is not None and bool(c.dO.any())) or c is looks[0]][-1].index]
