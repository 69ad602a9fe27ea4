"""A method of one's own, registered for one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import regard
from regard.attribution.table import METHODS

torch.set_num_threads(1)


@pytest.fixture
def method() -> Iterator[Callable[..., str]]:
    """Register methods for the length of a test."""
    made: list[str] = []

    def register(function: Callable[..., Any]) -> str:
        made.append(f"test_method_{len(made)}")
        regard.register(made[-1], function)
        return made[-1]

    yield register
    for name in made:
        del METHODS[name]
