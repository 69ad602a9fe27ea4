"""One row of a table of families: a tiny random model, and what is known of it from its architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from support.joint import Together
from support.tiny import strong

Read = Callable[[Any], Tensor]


@dataclass(frozen=True, eq=False)
class Family:
    """One row of the table.

    Attributes:
        model: the class's name, or timm's name of the model. make: makes it, on demand. inputs, target: what is explained.
        calls: attention calls expected. streams: name -> tokens. grids: name -> (rows, columns), or with an axis before, of
            pictures, films and spectrograms.
        heads: calls whose heads stand side by side, as one attention's. added: calls that are one attention's, their outputs
            added.
        cuts: inputs that are cut into tokens more than once, how often; `streams` and `grids` are of the finest cut.
        dead: call -> why the target cannot depend on it. twin: why the eager twin cannot be compared ("": it is).
        operand: why A is no softmax's result ("": it is); then the recorded left operand of the product with V is the
            twin's A, and its gradient is autograd's.
        inexact: the twin or the watched run differs by rounding only, and why ("": bit-identical outputs are demanded).
        warns: warnings of the model's own code that are let pass: message -> why.
        mixes: why a row holds something of its neighbours before the first call ("": it does not).
        std: of the weights, where gradients would underflow with the usual ones. core: runs in `make test`.
    """

    name: str
    group: str
    model: str
    make: Callable[[], nn.Module]
    inputs: Mapping[str, Tensor]
    target: Read
    calls: int = 2
    streams: Mapping[str, int] = field(default_factory=dict)
    grids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    heads: tuple[tuple[int, ...], ...] = ()
    added: tuple[tuple[int, ...], ...] = ()
    cuts: Mapping[str, int] = field(default_factory=dict)
    dead: Mapping[int, str] = field(default_factory=dict)
    twin: str = ""
    operand: str = ""
    inexact: str = ""
    warns: Mapping[str, str] = field(default_factory=dict)
    std: float = 0.3
    mixes: str = ""
    core: bool = False

    @property
    def together(self) -> Together:
        """Which calls are one attention."""
        return Together(self.heads, self.added)

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return strong(self.make(), self.std)


@dataclass(frozen=True)
class Refusal:
    """A family that is refused: `says` is part of the error, `why` is the reason in our words."""

    family: Family
    says: str
    why: str
