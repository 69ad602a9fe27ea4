"""One run at a time in one place: a lock of the system on a disk, a lease that is renewed on any other file system."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regard.errors import Failure, Misuse

LOCK, LEASE = ".lock", "lease.json"
BEAT = 10.0
"""Seconds between two renewals of a lease."""
STALE = 60.0
"""Seconds after which a lease that nobody renewed is given up."""
SETTLED = 1.0
"""Seconds after which it shows who of two that came together holds the lease."""


def holder() -> dict[str, Any]:
    """Who holds a lock."""
    return {"process": os.getpid(), "host": socket.gethostname(), "since": time.time()}


def can_lock() -> bool:
    """Whether the system has locks of files that it gives back however a process ends."""
    return importlib.util.find_spec("fcntl") is not None


def _in_use(out: str, by: dict[str, Any]) -> Misuse:
    who = f" (process {by.get('process')} on {by.get('host')})" if by.get("host") else ""
    return Misuse(f"another run{who} is at work in {out}; wait until it has ended, or give another folder with out=")


@contextlib.contextmanager
def disk_lock(folder: Path, out: str) -> Iterator[None]:
    """The lock of a folder; the system gives it back however the process ends. Raises Misuse where another run holds it."""
    import fcntl

    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise _in_use(out, _told(os.read(file, 4096))) from None
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(holder()).encode(), 0)
        yield
    finally:
        os.close(file)


def _told(said: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(said)
        return found if isinstance(found, dict) else {}
    return {}


@dataclass
class Lease:
    """A file that says who is at work, renewed while they are.

    fs, path: an fsspec file system and the lease's place in it. out: what the user calls the store.
    """

    fs: Any
    path: str
    out: str
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    lost: str = ""
    renewed: float = 0.0

    @contextlib.contextmanager
    def held(self) -> Iterator[Lease]:
        """Hold it. Raises Misuse where another run does."""
        self.take()
        ended = threading.Event()
        beating = threading.Thread(target=self._beat, args=(ended,), daemon=True)
        beating.start()
        try:
            yield self
        finally:
            ended.set()
            beating.join()
            with contextlib.suppress(OSError):
                if self._read().get("owner") == self.owner:
                    self.fs.rm_file(self.path)

    def take(self) -> None:
        """Write it, where nobody else holds it. Raises Misuse where another run does."""
        self._refuse_other()
        self._write()
        time.sleep(SETTLED)
        self._refuse_other()

    def renew(self) -> None:
        """Write it anew, unless another run has taken it over."""
        with contextlib.suppress(OSError):  # a write that fails now may succeed next time; `check` looks how long ago
            if self._read().get("owner") not in (None, self.owner):
                self.lost = "another run has taken it over"
            else:
                self._write()

    def check(self) -> None:
        """Raise Failure where the lease was lost: another run may be at work."""
        if not self.lost and time.monotonic() - self.renewed > STALE:
            self.lost = "it could not be renewed in time"
        if self.lost:
            raise Failure(
                f"this run no longer holds {self.out}: {self.lost}; what is done is kept, and the same command goes on"
            )

    def _refuse_other(self) -> None:
        found = self._read()
        if found.get("owner") not in (None, self.owner) and time.time() - float(found.get("beat", 0)) < STALE:
            raise _in_use(self.out, found)

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT) and not self.lost:
            self.renew()

    def _write(self) -> None:
        self.fs.pipe_file(self.path, json.dumps(holder() | {"owner": self.owner, "beat": time.time()}).encode())
        self.renewed = time.monotonic()

    def _read(self) -> dict[str, Any]:
        self.fs.invalidate_cache()
        try:
            return _told(self.fs.cat_file(self.path))
        except FileNotFoundError:
            return {}


__all__ = ["BEAT", "LEASE", "LOCK", "STALE", "Lease", "can_lock", "disk_lock"]
