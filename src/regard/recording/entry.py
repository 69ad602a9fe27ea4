"""What comes in: a model and its inputs, checked before a run; models that cannot be watched are refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import ModelError, nearest

Readout = str | int | Tensor | None
NAMES = ("cls", "last", "mean")


def keywords(model: nn.Module, inputs: Any) -> tuple[dict[str, Any], bool]:
    """A user's inputs as named values, and whether they go to the model by keyword.

    A dict goes by keyword; a tensor is "input"; a tuple is "input_0", "input_1", ...
    """
    if isinstance(inputs, Mapping):
        return dict(inputs), True
    if isinstance(inputs, Tensor):
        return {"input": inputs}, False
    if isinstance(inputs, tuple | list) and all(isinstance(t, Tensor) for t in inputs):
        return {f"input_{i}": t for i, t in enumerate(inputs)}, False
    raise ModelError(f"inputs must be a dict of tensors, a tensor or a tuple of tensors, not {type(inputs).__name__}")


def uncompiled(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`'s wrapper: it computes the same, and can be watched."""
    inside = getattr(model, "_orig_mod", None)
    return inside if isinstance(inside, nn.Module) else model


def ranks(model: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """Which input's name wins where two meet: the order of the forward signature, then the order given."""
    order = [*inspect.signature(model.forward).parameters]
    return {n: order.index(n) if n in order else len(order) + i for i, n in enumerate(names)}


def refuse(model: nn.Module, training: bool) -> None:
    """Models that cannot be watched as they are."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "the model is a traced or scripted module, whose operations cannot be seen; pass the original module"
        )
    if torch.is_inference_mode_enabled():
        raise ModelError("gradients cannot be taken inside torch.inference_mode(); call this outside of it")
    at_work = [name or type(model).__name__ for name, m in model.named_modules() if m.training]
    if at_work and not training:
        raise ModelError(
            f"the model is in train mode ({at_work[0]}): dropout would make the run random; call model.eval() first, "
            "or pass training=True"
        )


def is_mask(name: str, t: Tensor) -> bool:
    """Masks say where tokens are; they are not tokens."""
    return name.endswith("mask") or t.dtype == torch.bool


def check_readout(readout: Readout) -> None:
    """UnknownName for a word that names no rows."""
    if isinstance(readout, str) and readout not in NAMES:
        raise nearest(readout, NAMES, "readout")
