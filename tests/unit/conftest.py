"""What several of these tests compare with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from support.families import strong
from support.spellings import Whole


@pytest.fixture(scope="module")
def whole() -> nn.Module:
    torch.manual_seed(3)
    return strong(Whole())
