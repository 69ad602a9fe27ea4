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
    before = random_state(model)
    try:
        if start is not None:
            set_random_state(start)
        yield before
    finally:
        set_random_state(before)


def random_state(model: Any) -> Any:
    """The random states of the CPU, and of the devices that a model is on."""
    # not the model's own `named_parameters`: a wrapper's may ask for what it has in a run alone
    anywhere = isinstance(model, nn.Module) and torch.cuda.is_initialized()
    parameters = nn.Module.named_parameters(model) if anywhere else ()
    devices = {p.device for _, p in parameters if p.device.type == "cuda"}
    return torch.get_rng_state(), [(d, torch.cuda.get_rng_state(d)) for d in devices]


def set_random_state(state: Any) -> None:
    """Bring random states back to what `random_state` gave."""
    cpu, cuda = state
    torch.set_rng_state(cpu)
    for device, s in cuda:
        torch.cuda.set_rng_state(s, device)
