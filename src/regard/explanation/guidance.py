"""What steered a map: a number for each token, the region that was given, and the map as it would be without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regard.explanation.loading import finite, of_file

Maps = dict[str, Float[Tensor, "_ _"]]


@dataclass(frozen=True)
class Guidance:
    """What steered a map.

    Attributes:
        label: what the guide is called. kind: of which kind it is, "contrast", "box", "words" and so on (see `regard.Guide`).
        m: stream -> (batch or 1, tokens), from 0 to 1: what the gradients of attention at each token were multiplied by.
            Streams that it does not name have 1.
        unguided: the scores of the same method without a guide, by stream.
        regions: stream -> of each picture the pixels of a box, a polygon or a mask that was given.
    """

    label: str
    kind: str
    m: Maps = field(repr=False)
    unguided: Maps = field(repr=False)
    regions: dict[str, list[Bool[Tensor, "_ _"]]] = field(default_factory=dict, repr=False)

    def of_sample(self, i: int) -> Guidance:
        """That of one sample."""
        return replace(
            self,
            m={s: t[i : i + 1] if len(t) > 1 else t for s, t in self.m.items()},
            unguided={s: t[i : i + 1] for s, t in self.unguided.items() if i < len(t)},
            regions={s: some[i : i + 1] for s, some in self.regions.items()},
        )

    def packed(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """For a file: what is no tensor; maps and regions go among the `tensors`."""
        for name in ("m", "unguided"):
            tensors |= {f"guidance/{name}/{s}": t.detach().cpu().contiguous() for s, t in getattr(self, name).items()}
        for s, some in self.regions.items():
            tensors |= {f"guidance/region/{i}/{s}": t.to(torch.uint8).contiguous() for i, t in enumerate(some)}
        regions = {s: len(some) for s, some in self.regions.items()}
        streams = {"m": [*self.m], "unguided": [*self.unguided], "regions": regions}
        return {"label": self.label, "kind": self.kind} | streams

    @classmethod
    def unpacked(cls, entry: dict[str, Any] | None, tensors: Mapping[str, Tensor]) -> Guidance | None:
        """The inverse of `packed`."""
        if entry is None:
            return None
        m, unguided = ({s: tensors[f"guidance/{n}/{s}"] for s in entry[n]} for n in ("m", "unguided"))
        regions = {
            s: [tensors[f"guidance/region/{i}/{s}"].bool() for i in range(int(count))]
            for s, count in entry["regions"].items()
        }
        for name, values in [*m.items(), *unguided.items()]:
            finite(f"the guide of {name!r}", values)
        return of_file(cls, {}, label=entry["label"], kind=entry["kind"], m=m, unguided=unguided, regions=regions)


__all__ = ["Guidance"]
