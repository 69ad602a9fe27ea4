"""What surrounds a run: the stance of torch.compile, a default device and autocast, as the user has set them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from regard.errors import ModelError


def _force_eager() -> Any:
    """torch.compile's stance under which everything runs as it was written. ModelError inside of a compiled function."""
    inside = ModelError("gradients cannot be taken inside torch.compile; call this outside of it")
    if torch.compiler.is_compiling():
        raise inside
    try:
        return torch.compiler.set_stance("force_eager")
    except RuntimeError as error:
        raise inside from error


class Eager:
    """The stance of torch.compile is one for all threads: the first run to begin sets it, the last to end sets it back."""

    def __init__(self) -> None:
        self.lock, self.stance = threading.RLock(), ExitStack()
        self.runs: dict[int, int] = {}

    @property
    def mine(self) -> int:
        """How many runs of this thread are at work."""
        return self.runs.get(threading.get_ident(), 0)

    def count(self, runs: int) -> None:
        """So many runs of this thread are at work now."""
        if runs == self.mine:
            return
        with self.lock:
            before = bool(self.runs)
            others = {thread: n for thread, n in self.runs.items() if thread != threading.get_ident()}
            now = others | ({threading.get_ident(): runs} if runs else {})
            if now and not before:
                self.stance.enter_context(_force_eager())
            self.runs = now
            if before and not now:
                self.stance.close()


eager = Eager()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compiled modules, and functions in them, run as they were written, so that their operations can be seen."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled without it, and to import it takes seconds
        yield
        return
    eager.count(eager.mine + 1)
    try:
        yield
    finally:
        eager.count(eager.mine - 1)


@dataclass(frozen=True)
class Surroundings:
    """What a caller has set around the call: a default device, autocast."""

    device: torch.device
    autocast: Mapping[str, tuple[bool, torch.dtype]]

    @classmethod
    def now(cls) -> Surroundings:
        """As they are here."""
        return cls(torch.get_default_device(), autocast_state())

    @property
    def plain(self) -> bool:
        """Whether nothing is set."""
        return self.device.type == "cpu" and not any(enabled for enabled, _ in self.autocast.values())

    @contextmanager
    def again(self) -> Iterator[None]:
        """The same around something else, perhaps later."""
        with ExitStack() as stack:
            if self != Surroundings.now():
                stack.enter_context(torch.device(self.device))
                for device, (enabled, dtype) in self.autocast.items():
                    stack.enter_context(torch.autocast(device, dtype=dtype, enabled=enabled))
            yield


_the_user_s: ContextVar[Surroundings | None] = ContextVar("_the_user_s", default=None)


@contextmanager
def our_own() -> Iterator[None]:
    """What we count with is made on the CPU, and in float32, whatever the user has set around the call."""
    theirs = Surroundings.now()
    if theirs.plain:
        yield
        return
    token = _the_user_s.set(theirs)
    try:
        off = {device: (False, dtype) for device, (_, dtype) in theirs.autocast.items()}
        with Surroundings(torch.device("cpu"), off).again():
            yield
    finally:
        _the_user_s.reset(token)


@contextmanager
def as_the_user() -> Iterator[None]:
    """Within `our_own`: the user's own code runs in what they have set."""
    with (_the_user_s.get() or Surroundings.now()).again():
        yield


def autocast_state() -> dict[str, tuple[bool, torch.dtype]]:
    """Whether autocast is on, and its dtype, for each kind of device that there is."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {d: (torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in devices}
