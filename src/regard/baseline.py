"""Against what an explanation is measured (METHODS.md section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Baseline:
    """A reference for a site. Make one with the class methods; a dict stream -> Baseline names several.

    Every method of this version implies its own baseline (see `regard.methods()`); methods that take an explicit one
    come with `integrated_gradients`.
    """

    kind: str
    value: Any = None
    label: str = ""

    @classmethod
    def zero(cls) -> Baseline:
        """Zero: of a float input, of the word embeddings of content tokens, of A at attention sites."""
        return cls("zero", label="zero")

    @classmethod
    def of(cls, value: Tensor, label: str = "given") -> Baseline:
        """A tensor of the site's shape."""
        return cls("given", value, label)
