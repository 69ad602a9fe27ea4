"""What a probe leaves behind: nothing, also after an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from support.as_found import assert_unchanged, state
from support.probe_models import Blocks, Joint, drawn, joint

torch.set_num_threads(1)
PROBES: dict[str, Callable[..., Any]] = regard.probe.PROBES
OPTIONS: dict[str, dict[str, Any]] = {
    "grounding": {"pairs": [[(0, 1)], [(1, [0, 2])]]},
    "rerun": {"attention": "uniform"},
}


def asked_of(name: str) -> tuple[Any, dict[str, Tensor]]:
    return (Joint(), joint()) if name == "grounding" else (Blocks("mixed", "mixed"), {"x": drawn(2, 5, 6)})


@pytest.mark.parametrize("name", PROBES)
def test_the_model_is_left_as_it_was(name: str) -> None:
    model, x = asked_of(name)
    before = state(model, x)
    PROBES[name](model, x, **OPTIONS.get(name, {}))
    assert_unchanged(before, state(model, x))


@pytest.mark.parametrize("name", [name for name in PROBES if regard.probe.of_target(name)])
def test_and_after_an_error(name: str) -> None:
    (model, x), asked = asked_of(name), []
    before = state(model, x)

    def fails(out: Tensor) -> Tensor:
        asked.append(1)
        if len(asked) > 1:
            raise ZeroDivisionError
        return out[:, 0]

    with pytest.raises(ZeroDivisionError):
        PROBES[name](model, x, fails, **OPTIONS.get(name, {}))
    assert_unchanged(before, state(model, x))
