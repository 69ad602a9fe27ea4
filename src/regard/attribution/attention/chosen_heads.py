"""Maps that follow some heads alone: which ones, in every layer or in the layers that are named (formulas.md section 2)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch

from regard.attribution.attention.head_and_key_weights import Heads
from regard.errors import Misuse
from regard.recording import AttentionCall, Recording

ASKED = (
    "heads is a head's number, several of them, or those of some layers alone, as in {{3: 5}} or {{3: [0, 5], 4: 1}} (in words "
    "3:5), numbered from 0; not {!r}"
)
Wanted = int | str | Iterable[int | str] | Mapping[int, int | Iterable[int]] | None
"""How heads are asked for: numbers, numbers by layer, or words such as "3:5"."""


@dataclass(frozen=True)
class ChosenHeads:
    """Heads by number: `everywhere` the same, or (layer, heads) of some layers, where paths go through no other layer."""

    everywhere: tuple[int, ...] = ()
    layers: tuple[tuple[int, tuple[int, ...]], ...] = ()

    @classmethod
    def make(cls, wanted: Wanted) -> ChosenHeads | None:
        """What was asked for; None: all heads. Raises Misuse for what names no head."""
        if wanted is None:
            return None
        if isinstance(wanted, Mapping):
            named = [(layer, head) for layer, some in wanted.items() for head in _several(some)]
            return cls._of_layers(named, wanted)
        said = _several(wanted)
        if any(isinstance(one, str) for one in said):
            parts = [re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", str(one)) for one in said]
            if not all(parts):
                raise Misuse(ASKED.format(wanted))
            return cls._of_layers([(int(p[1]), int(p[2])) for p in parts if p], wanted)
        return cls(everywhere=_numbers(said, wanted))

    @classmethod
    def _of_layers(cls, named: list[tuple[Any, Any]], wanted: Any) -> ChosenHeads:
        layers = _numbers(dict.fromkeys(layer for layer, _ in named), wanted)
        return cls(layers=tuple((n, _numbers([h for layer, h in named if layer == n], wanted)) for n in layers))

    def of(self, layer: int) -> tuple[int, ...]:
        """The heads of a layer that are followed; none where other layers are named."""
        return dict(self.layers).get(layer, ()) if self.layers else self.everywhere

    def check(self, recording: Recording) -> None:
        """Raise Misuse for a layer or a head that the run does not have."""
        count = len(recording.attentions)
        for layer in dict(self.layers) or range(count):
            if layer >= count:
                raise Misuse(f"layer {layer} is out of range: the run has {count} attentions, numbered from 0")
            heads = max((placed(recording, c)[1] for c in recording.calls_of(layer)), default=0)
            for head in self.of(layer):
                if head >= heads:
                    raise Misuse(f"head {head} is out of range: layer {layer} has {heads} heads, numbered from 0")

    def weights(self, recording: Recording, call: AttentionCall) -> Heads:
        """θ of a call's heads, in the place of 1/H: 1/k for each of the k heads that are followed in its layer, else 0."""
        chosen = self.of(call.attention)
        first, _ = placed(recording, call)
        groups, heads, _, _ = call.shape
        theta = torch.zeros(groups, heads, dtype=call.precision)
        for head in chosen:
            if first <= head < first + heads:
                theta[:, head - first] = 1 / len(chosen)
        return theta


def placed(recording: Recording, call: AttentionCall) -> tuple[int, int]:
    """The number of a call's first head within its attention, and how many heads stand side by side there."""
    mates = [recording.calls[i] for i in recording.attentions[call.attention].mates(call.index)]
    beside = [c for c in mates if torch.equal(c.queries, call.queries)]
    return sum(c.shape[1] for c in beside if c.index < call.index), sum(c.shape[1] for c in beside)


def _several(some: Any) -> list[Any]:
    return list(some) if isinstance(some, Iterable) and not isinstance(some, str) else [some]


def _numbers(some: Iterable[Any], wanted: Any) -> tuple[int, ...]:
    """Whole numbers from 0 on, each once."""
    found = list(dict.fromkeys(some))
    if not found or any(isinstance(n, bool) or not isinstance(n, Integral) or n < 0 for n in found):
        raise Misuse(ASKED.format(wanted))
    return tuple(int(n) for n in found)


__all__ = ["ChosenHeads", "Wanted", "placed"]
