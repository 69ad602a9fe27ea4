"""Attention transfer: what the target would gain if attention moved between tokens, layer by layer (formulas.md section 4)."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import Misuse
from regard.explanation import display
from regard.explanation.export import as_json_file, defined
from regard.explanation.files import as_json
from regard.explanation.loading import check, of_file

FLOWS = 12
"""How many of the strongest flows of a layer are kept, where nobody says."""


class Tokens(NamedTuple):
    """Tokens of one stream, by number: one, or those that a layer reads as one (merged patches)."""

    stream: str
    tokens: tuple[int, ...]


class Flow(NamedTuple):
    """What the target would gain, per unit of attention score, by attention that goes from one token to another."""

    loser: Tokens
    gainer: Tokens
    amount: float


@dataclass(frozen=True)
class LayerTransfer:
    """What is transferred in one layer.

    Attributes:
        index: the number of the attention, from 0. name: the module that it is.
        queries: the streams whose tokens look.
        streams: t, for each stream that is looked at, (batch, tokens): by how much the target rises for each unit that the
            scores of all heads and query rows rise at that token; negative where it falls.
        flows: the strongest flows of each sample, the largest first. missed: no other flow is larger than this, (batch,); 0
            where all were looked at.
        row_sum: the check, (batch,): the largest |Σ_j ∂y/∂S_ij| of a row, 0 but for rounding where its attention sums to 1.
        row_size: beside it, the most that one row transfers, (batch,).
    """

    index: int
    name: str
    queries: tuple[str, ...]
    streams: dict[str, Float[Tensor, "batch tokens"]] = field(repr=False)
    flows: list[list[Flow]] = field(repr=False)
    missed: Float[Tensor, " batch"] = field(repr=False)
    row_sum: Float[Tensor, " batch"]
    row_size: Float[Tensor, " batch"]

    @property
    def gains(self) -> dict[str, Float[Tensor, "batch tokens"]]:
        """t where it is positive, else 0: the target rises with more attention there."""
        return {name: t.clamp(min=0) for name, t in self.streams.items()}

    @property
    def losses(self) -> dict[str, Float[Tensor, "batch tokens"]]:
        """−t where t is negative, else 0: the target rises with less attention there."""
        return {name: (-t).clamp(min=0) for name, t in self.streams.items()}

    @property
    def amount(self) -> Float[Tensor, " batch"]:
        """How much is transferred between tokens, Σ_j |t_j| / 2: what those that gain gain, where nothing is lost elsewhere."""
        return sum((t.abs().sum(1) for t in self.streams.values()), torch.zeros_like(self.row_sum)) / 2

    @property
    def elsewhere(self) -> Float[Tensor, " batch"]:
        """−Σ_j t_j: what is gained by what is no token (an attention sink, memory keys); 0 but for rounding without these."""
        return -sum((t.sum(1) for t in self.streams.values()), torch.zeros_like(self.row_sum))

    def of_sample(self, i: int) -> LayerTransfer:
        """One sample alone."""
        parts = {name: getattr(self, name)[i : i + 1] for name in ("flows", "missed", "row_sum", "row_size")}
        return dataclasses.replace(self, streams={s: t[i : i + 1] for s, t in self.streams.items()}, **parts)

    def cut(self, flows: int) -> LayerTransfer:
        """With so many flows at most."""
        return dataclasses.replace(self, flows=[some[:flows] for some in self.flows])


@dataclass(frozen=True)
class Transfer:
    """Attention transfer of one explanation's target: a `LayerTransfer` for each attention, in order.

    explanation: the `Explanation` that it was asked of, whose inputs, grids and receipt it shares.
    """

    target: str
    target_value: Float[Tensor, " batch"]
    layers: list[LayerTransfer]
    explanation: Any = field(repr=False)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer: int) -> LayerTransfer:
        return self.layers[layer]

    def strongest(self, sample: int = 0) -> int:
        """The layer in which most is transferred between the tokens of one sample."""
        return int(torch.stack([layer.amount[sample] for layer in self.layers]).argmax())

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain Python values; what is undefined is None."""
        layers = [_as_dict(layer) for layer in self.layers]
        plain: dict[str, Any] = defined(
            as_json({"target": self.target, "target_value": self.target_value, "layers": layers})
        )
        return plain

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str | Path:
        """`to_dict` as JSON: a string, or a file, written atomically, whose path is returned."""
        return as_json_file(self.to_dict(), path)

    def plot(self, path: str | os.PathLike[str] | None = None, sample: int = 0, layer: int | None = None) -> Any:
        """Draw one sample with matplotlib (needs `regard[viz]`), one layer large (None: the strongest), the others small.

        Returns the Figure, and writes it if `path`.
        """
        return display.plot_transfer(self, path, sample, self._layer(layer))

    def to_html(self, path: str | os.PathLike[str], layer: int | None = None) -> Path:
        """Write a self-contained page of all samples and layers (needs `regard[viz]`), which begins at one (None: the
        strongest)."""
        return display.write_transfer(self, path, self._layer(layer))

    def __str__(self) -> str:
        return display.transfer_table(self)

    def _layer(self, layer: int | None) -> int | None:
        """A layer's number. Raises Misuse for one that there is not."""
        if layer is not None and (isinstance(layer, bool) or not 0 <= layer < len(self)):
            raise Misuse(f"layer {layer} is out of range: the run has {len(self)} attentions, numbered from 0")
        return layer


def _as_dict(layer: LayerTransfer) -> dict[str, Any]:
    kept = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer) if f.name != "flows"}
    return kept | {"amount": layer.amount, "elsewhere": layer.elsewhere, "flows": _flows_as_dicts(layer.flows)}


def _flows_as_dicts(flows: Sequence[Sequence[Flow]]) -> list[list[dict[str, Any]]]:
    return [
        [{"loser": f.loser._asdict(), "gainer": f.gainer._asdict(), "amount": f.amount} for f in some] for some in flows
    ]


# -- where it comes from ----------------------------------------------------------------------------------------------

Compute = Callable[[int], list[LayerTransfer]]


@dataclass
class LateTransfer:
    """The layers of an explanation's transfer: found when asked for, in a run of its own, and kept.

    Attributes:
        compute: how many flows -> the layers; None after `load`.
        refused: why there is none, or "".
        count: with how many flows they are known. known: the layers, once asked for.
    """

    compute: Compute | None = field(default=None, repr=False)
    refused: str = ""
    count: int = 0
    known: list[LayerTransfer] | None = field(default=None, repr=False)

    def layers(self, flows: int = FLOWS) -> list[LayerTransfer]:
        """The layers, with so many flows at most. Costs one more forward and gradient where that is not known yet."""
        if isinstance(flows, bool) or not isinstance(flows, int) or flows < 0:
            raise Misuse(f"flows is how many of the strongest flows are kept, a whole number from 0 on, not {flows!r}")
        if self.known is None or flows > self.count:
            self.known, self.count = self._found(flows), flows
        return [layer.cut(flows) for layer in self.known]

    def _found(self, flows: int) -> list[LayerTransfer]:
        if self.refused:
            raise Misuse(self.refused)
        if self.compute is None:
            asked = f"transfer with {flows} flows" if self.known is not None else "transfer"
            raise Misuse(
                f"the {asked} was not asked for before this explanation was saved or pickled, without its model; "
                "call transfer(...) first, or explain again"
            )
        return self.compute(flows)

    def __reduce__(self) -> tuple[Any, ...]:
        return LateTransfer, (None, self.refused, self.count, self.known)

    def __deepcopy__(self, memo: Any) -> LateTransfer:
        return LateTransfer(self.compute, self.refused, self.count, copy.deepcopy(self.known, memo))

    def of_sample(self, i: int) -> LateTransfer:
        """Of one sample alone."""

        def compute(flows: int) -> list[LayerTransfer]:
            return [layer.of_sample(i) for layer in self.layers(flows)]

        known = None if self.known is None else [layer.of_sample(i) for layer in self.known]
        return LateTransfer(compute, self.refused, self.count, known)

    def packed(self, tensors: dict[str, Tensor]) -> dict[str, Any] | None:
        """For a file: what is no tensor; t goes among the `tensors`."""
        if self.known is None:
            return None
        layers = []
        for layer in self.known:
            tensors |= {f"transfer/{layer.index}/{s}": t.detach().cpu().contiguous() for s, t in layer.streams.items()}
            plain = {"name": layer.name, "queries": layer.queries, "streams": [*layer.streams]}
            checks = {k: as_json(getattr(layer, k)) for k in ("missed", "row_sum", "row_size")}
            layers.append(plain | checks | {"index": layer.index, "flows": _flows_as_dicts(layer.flows)})
        return {"count": self.count, "layers": layers}

    @classmethod
    def unpacked(cls, entry: dict[str, Any] | None, tensors: dict[str, Tensor]) -> LateTransfer:
        """The inverse of `packed`."""
        if entry is None:
            return cls()
        check("layers", entry["layers"], list[dict[str, Any]])
        return cls(count=int(entry["count"]), known=[_layer_from(layer, tensors) for layer in entry["layers"]])


def _layer_from(entry: dict[str, Any], tensors: dict[str, Tensor]) -> LayerTransfer:
    index = int(entry["index"])
    checks = {k: torch.tensor(entry[k], dtype=torch.float32) for k in ("missed", "row_sum", "row_size")}
    return of_file(
        LayerTransfer,
        {},
        index=index,
        name=str(entry["name"]),
        queries=tuple(map(str, entry["queries"])),
        streams={str(s): tensors[f"transfer/{index}/{s}"] for s in entry["streams"]},
        flows=[[_flow_from(f) for f in some] for some in entry["flows"]],
        **checks,
    )


def _flow_from(entry: dict[str, Any]) -> Flow:
    loser, gainer = (Tokens(str(e["stream"]), tuple(map(int, e["tokens"]))) for e in (entry["loser"], entry["gainer"]))
    return Flow(loser, gainer, float(entry["amount"]))
