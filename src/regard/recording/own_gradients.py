"""Operations as the model runs them, some with a gradient that costs less than torch's: the same values, the same gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from regard.recording.gate_gradient import by_factor, by_gate
from regard.recording.patch_gradient import by_patches
from regard.recording.row_gradient import by_rows

OURS = {"conv1d": by_patches, "conv2d": by_patches, "conv3d": by_patches, "linear": by_rows}
OURS |= {"mul": by_factor, "sigmoid": by_gate}


def operation(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operation as the model runs it; patch embeddings, linear layers and quick GELUs have their gradient from us."""
    ours = OURS.get(getattr(func, "__name__", ""))
    made = None if ours is None else ours(func, args, kwargs)
    return func(*args, **kwargs) if made is None else made
