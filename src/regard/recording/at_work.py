"""The recorders of each thread."""

from __future__ import annotations

import threading
from typing import Any


class AtWork(threading.local):
    """The recorders of this thread, the innermost last."""

    def __init__(self) -> None:
        self.recorders: list[Any] = []


at_work = AtWork()

__all__ = ["AtWork", "at_work"]
