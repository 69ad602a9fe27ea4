"""What a process needs to end with the one that began it: imported first, and light, so that it holds from the start."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
WATCHED = 0.5
"""Seconds between two looks whether the parent lives."""


def begin(parent: int, packed: bytes) -> None:
    """Begin a process that is deaf to Ctrl-C and ends with its parent; then do what was packed: a pickled call."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
    pickle.loads(packed)()


def end_with(parent: int) -> None:
    """Die when the parent does: Linux sees to it, and a thread looks everywhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCHED)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


__all__ = ["begin", "end_with"]
