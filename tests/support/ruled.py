"""A family under each rule set of the backward pass: the values of the model itself, and gradients by rules."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from torch import Tensor

from regard.attribution.backward import RULES, rule_set
from regard.recording import record
from support.checks import SEED
from support.family import Family


def tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if hasattr(output, "values") else output if isinstance(output, list | tuple) else ()
    return [t for part in parts for t in tensors(part)]


def check_rules(family: Family, plain: Set[str]) -> None:
    """Values are the model's own, gradients reach what they reach, and `plain` is all that is of no kind."""
    model = family.build()
    with torch.no_grad():
        model(**family.inputs)  # transformers hangs hooks of its own on some models in their first run
        torch.manual_seed(SEED)
        own = tensors(model(**family.inputs))
    reached = None
    for method in (None, *RULES):
        torch.manual_seed(SEED)
        rules = None if method is None else rule_set(method)
        recording = record(model, dict(family.inputs), rules=rules, strict=False)
        found = recording.gradients(family.target(recording.output)).inputs
        watched = tensors(recording.output)
        assert len(watched) == len(own)
        for a, b in zip(watched, own, strict=True):
            assert torch.equal(a, b) or bool(((a - b).abs().nan_to_num() <= (1e-5 if family.inexact else 0)).all())
        assert all(bool(g.isfinite().all()) for g in found.values())
        alive = {stream for stream, g in found.items() if bool(g.any())}
        reached = alive if reached is None else reached
        assert alive <= reached, method
        assert alive == reached or method == "cp_lrp"  # what is looked at by queries and keys alone has none
        assert {operation for operation, _ in recording.plain} == (plain if method else set())
