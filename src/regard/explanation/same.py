"""Whether two results hold the same: tensors by their values, NaN equal to itself, what is not compared left out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same, all the way down."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return _same_tensors(a, b)
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        names = [f.name for f in dataclasses.fields(a) if f.compare]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return [*a] == [*b] and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def _same_tensors(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = a.detach().cpu(), b.detach().cpu()
    equal = a == b
    return bool((equal | (a.isnan() & b.isnan()) if a.is_floating_point() else equal).all() if a.numel() else True)


__all__ = ["same"]
