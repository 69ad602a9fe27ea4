"""Path rules: edges -> relevance of input tokens. METHODS.md section 3, as choices for the one walk of `Recording`.

- `residual_sum`: row r of Π(I + E), less r itself: paths of length ≥ 1.
- `rollout`: the same with E + I row-normalised, given as it is.
- `last`: only the last attention of the stream that the target reads.

`residual_sum` may keep to paths that never re-enter a source that they have left (hops="one"), or to those that do
("crossed"): see recording/relevance/propagation.py. A `Fusion` joins several such maps to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.attribution.attention.edge_rules import EDGES
from regard.errors import Misuse, nearest
from regard.recording import AttentionCall, Gradients, Recording, Step, Stream
from regard.recording.relevance.propagation import HOPS, Walked
from regard.recording.tokens.tags import STRIDE

PATHS = ("residual_sum", "rollout", "last")
FUSIONS = ("sum", "mean", "max_normalised")


@dataclass(frozen=True)
class Preset:
    """An attention-family method: edge rule × path rule × layers. Attentions not in `layers` use `mean` (None: all are in).

    hops: which paths count, by the sources they visit (`residual_sum` only).
    """

    edge: str
    path: str
    layers: tuple[int, ...] | None = None
    start_layer: int = 0
    hops: str = "all"

    def __post_init__(self) -> None:
        if self.edge not in EDGES:
            raise nearest(self.edge, EDGES, "edge rule")
        if self.path not in PATHS:
            raise nearest(self.path, PATHS, "path rule")
        if self.hops not in HOPS:
            raise nearest(str(self.hops), HOPS, "hops")

    def chosen(self, _recording: Recording) -> tuple[Preset | Callable[[Any], Tensor], str]:
        """What the method is for a run: itself, unless it depends on what was recorded; and a note for the receipt."""
        return self, ""

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

    def step(self, recording: Recording, finals: Sequence[int]) -> Callable[[AttentionCall], Step | None]:
        """How each call is weighed on the way back, by its attention's number. `start_layer` is 0-based and inclusive."""

        def how(call: AttentionCall) -> Step | None:
            if (self.path == "last" and call.attention not in finals) or call.attention < self.start_layer:
                return None
            edge = EDGES[self.edge if self.layers is None or call.attention in self.layers else "mean"]
            return edge.step(recording, call, self.path == "rollout", self.hops)

        return how


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


def relevance(
    recording: Recording, gradients: Gradients, readout: dict[int, Tensor], methods: Sequence[Preset | Fusion]
) -> list[Tensor]:
    """Relevance (batch, rows) of each method, all from one walk. `readout`: final attention -> weights r on its rows.

    The identity term, r itself (where tokens merge: r brought back to the tokens they were made of), is taken off.
    """
    for method in methods:
        method.check(recording)
    presets = [p for method in methods for p in method.presets]
    walked = recording.walk_apart(gradients, readout, [p.step(recording, tuple(readout)) for p in presets])
    maps = iter([p.map(w) for p, w in zip(presets, walked, strict=True)])
    return [method.joined(recording, [next(maps) for _ in method.presets]) for method in methods]


def rows_between(
    recording: Recording, gradients: Gradients, method: Preset | Fusion, name: str, tokens: Sequence[int]
) -> Float[Tensor, "batch rows row"]:
    """The map of a method with the read-out at each of some tokens of a stream, over all rows of the recording."""
    method.check(recording)
    stream = recording.stream(name)
    call = _last_look(recording, gradients, stream)
    cost = recording.precision.itemsize * recording.batch * recording.rows * (len(recording.calls) + 2)
    out = []
    for some in torch.tensor(tokens).split(max(1, recording.budget // (cost * len(method.presets)))):
        r = recording.zeros().repeat(len(some), 1, 1)
        r[torch.arange(len(some)), :, stream.first + some] = (~recording.padded[name][:, some]).T.to(r)
        steps = [preset.step(recording, (call.attention,)) for preset in method.presets]
        walked = recording.walk_apart(gradients, {call.attention: r}, steps)
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
