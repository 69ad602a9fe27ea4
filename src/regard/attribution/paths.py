"""Path rules: edges -> relevance of input tokens. METHODS.md section 3, as choices for the one walk of `Recording`.

- `residual_sum`: row r of Π(I + E), less r itself: paths of length ≥ 1.
- `rollout`: the same with E + I row-normalised, given as it is.
- `last`: only the last call of the stream that the target reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from regard.attribution.edges import EDGES
from regard.errors import Misuse, nearest
from regard.recording import AttentionCall, Gradients, Recording, Step

PATHS = ("residual_sum", "rollout", "last")


@dataclass(frozen=True)
class Preset:
    """An attention-family method: edge rule × path rule × layers. Calls not in `layers` use `mean` (None: all are in)."""

    edge: str
    path: str
    layers: tuple[int, ...] | None = None
    start_layer: int = 0

    def __post_init__(self) -> None:
        if self.edge not in EDGES:
            raise nearest(self.edge, EDGES, "edge rule")
        if self.path not in PATHS:
            raise nearest(self.path, PATHS, "path rule")

    @property
    def gradient(self) -> bool:
        """Whether the rule needs G."""
        return EDGES[self.edge].gradient

    def check(self, recording: Recording) -> None:
        """Raise Misuse for a layer that the recording has no call for."""
        count = len(recording.calls)
        for call in (*(self.layers or ()), self.start_layer):
            if not 0 <= call < count:
                raise Misuse(f"layer {call} is out of range: the run has {count} attention calls, numbered from 0")

    def step(self, recording: Recording, finals: Sequence[int]) -> Callable[[AttentionCall], Step | None]:
        """How each call is weighed on the way back. `start_layer` is 0-based and inclusive."""

        def how(call: AttentionCall) -> Step | None:
            if (self.path == "last" and call.index not in finals) or call.index < self.start_layer:
                return None
            edge = EDGES[self.edge if self.layers is None or call.index in self.layers else "mean"]
            return edge.step(recording, call, self.path == "rollout")

        return how


def relevance(
    recording: Recording, gradients: Gradients, readout: dict[int, Tensor], presets: Sequence[Preset]
) -> list[Tensor]:
    """Relevance (batch, rows) of each preset, all from one walk. `readout`: final call -> weights r on its rows.

    The identity term, r itself (where tokens merge: r brought back to the tokens they were made of), is taken off.
    """
    for preset in presets:
        preset.check(recording)
    walked = recording.walk_apart(gradients, readout, [p.step(recording, tuple(readout)) for p in presets])
    return [w.moved + w.itself if p.path == "rollout" else w.moved for w, p in zip(walked, presets, strict=True)]
