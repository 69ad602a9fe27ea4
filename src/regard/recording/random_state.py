"""Random states are left as they were found, and can be begun with anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def rng_kept(model: nn.Module, start: Any = None) -> Iterator[Any]:
    """Random states come back as they were; `start` is a state to begin with. Yields the state at the beginning."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    before = (torch.get_rng_state(), [(d, torch.cuda.get_rng_state(d)) for d in devices])
    try:
        if start is not None:
            _set_rng(start)
        yield before
    finally:
        _set_rng(before)


def _set_rng(state: Any) -> None:
    cpu, cuda = state
    torch.set_rng_state(cpu)
    for device, s in cuda:
        torch.cuda.set_rng_state(s, device)
