"""Each head's own map: what an explanation's method gives where it follows one head of one layer alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from regard.errors import Misuse
from regard.explanation import display
from regard.explanation.export import as_json_file, defined
from regard.explanation.files import as_json


@dataclass(frozen=True)
class HeadLayer:
    """The heads of one layer: its number, from 0; the module that it is; stream -> the map of each head."""

    index: int
    name: str
    maps: dict[str, Float[Tensor, "batch head tokens"]] = field(repr=False)

    @property
    def heads(self) -> int:
        """How many there are."""
        return next(iter(self.maps.values())).shape[1]

    def of_sample(self, i: int) -> HeadLayer:
        """One sample alone."""
        return dataclasses.replace(self, maps={s: m[i : i + 1] for s, m in self.maps.items()})


@dataclass(frozen=True)
class HeadMaps:
    """Each head's own map, layer by layer (also `len()` and `[layer]`).

    explanation: the `Explanation` that it was asked of, whose method, target, inputs and grids it shares.
    """

    layers: list[HeadLayer]
    explanation: Any = field(repr=False)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer: int) -> HeadLayer:
        return self.layers[layer]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain Python values."""
        layers = [{"index": la.index, "name": la.name, "maps": la.maps} for la in self.layers]
        about = {"method": self.explanation.method, "target": self.explanation.target}
        plain: dict[str, Any] = defined(as_json(about | {"layers": layers}))
        return plain

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str | Path:
        """`to_dict` as JSON: a string, or a file, written atomically, whose path is returned."""
        return as_json_file(self.to_dict(), path)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained page (needs `regard[viz]`): a row a layer, a column a head, a small map each."""
        return display.write_heads(self, path)

    def __str__(self) -> str:
        return display.heads_table(self)


@dataclass
class LateHeads:
    """The maps of an explanation's heads: found when asked for, in a run of its own, and kept.

    compute: finds them; None after `load`. refused: why there are none, or "".
    """

    compute: Callable[[], list[HeadLayer]] | None = field(default=None, repr=False)
    refused: str = ""
    known: list[HeadLayer] | None = field(default=None, repr=False)

    def layers(self) -> list[HeadLayer]:
        """The layers. Costs one more run where they are not known yet."""
        if self.refused:
            raise Misuse(self.refused)
        if self.known is None:
            if self.compute is None:
                raise Misuse(
                    "each head's map is found by running the model, which a saved or pickled explanation is without; "
                    "explain again"
                )
            self.known = self.compute()
        return self.known

    def __reduce__(self) -> tuple[Any, ...]:
        return LateHeads, (None, self.refused, self.known)

    def __deepcopy__(self, memo: Any) -> LateHeads:
        return LateHeads(self.compute, self.refused, self.known)

    def of_sample(self, i: int) -> LateHeads:
        """Of one sample alone."""
        known = None if self.known is None else [layer.of_sample(i) for layer in self.known]
        compute = None if self.compute is None else lambda: [layer.of_sample(i) for layer in self.layers()]
        return LateHeads(compute, self.refused, known)


__all__ = ["HeadLayer", "HeadMaps", "LateHeads"]
