"""What a probe leaves behind: nothing, also after an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from support.as_found import assert_unchanged, state
from support.probe_models import Blocks, drawn

torch.set_num_threads(1)
PROBES: dict[str, Callable[..., Any]] = regard.probe.PROBES
TARGETED = ["shortcut", "correspondence"]


@pytest.mark.parametrize("name", PROBES)
def test_the_model_is_left_as_it_was(name: str) -> None:
    model, x = Blocks("mixed", "mixed"), {"x": drawn(2, 5, 6)}
    before = state(model, x)
    PROBES[name](model, x)
    assert_unchanged(before, state(model, x))


@pytest.mark.parametrize("name", TARGETED)
def test_and_after_an_error(name: str) -> None:
    model, x, asked = Blocks("mixed", "mixed"), {"x": drawn(2, 5, 6)}, []
    before = state(model, x)

    def fails(out: Tensor) -> Tensor:
        asked.append(1)
        if len(asked) > 1:
            raise ZeroDivisionError
        return out[:, 0]

    with pytest.raises(ZeroDivisionError):
        PROBES[name](model, x, fails)
    assert_unchanged(before, state(model, x))
