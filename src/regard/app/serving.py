"""The page, served: on this machine alone unless another address is asked for, with nothing asked of any other machine."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from regard.app.limits import Limits
from regard.errors import Failure, Misuse
from regard.extras import need

HOST, PORTS = "127.0.0.1", range(7860, 7960)
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
    "frame-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
"""What a browser may ask for: this page's own server alone."""


def is_here(host: str) -> bool:
    """Whether an address is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_host(host: str) -> None:
    """Raise Misuse for what is no address of this machine."""
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        raise Misuse(
            f"{host!r} is no address of this machine; 127.0.0.1 is this machine alone, 0.0.0.0 all of them"
        ) from None


@contextlib.contextmanager
def serving(
    models: Sequence[str] = (), host: str = HOST, port: int | None = None, limits: Limits | None = None
) -> Iterator[str]:
    """The app, running in threads of its own while the context lasts; its address.

    models: names or folders, beside those of the zoo; the first is shown first, and all of them are loaded before it runs.
    port: None for the first free one from 7860 on. Uploads lie in a folder that is removed in the end.

    Raises Misuse where Gradio is not installed, or host is no address; Failure where the port is taken.
    """
    need("app")
    check_host(host)
    limits = limits or Limits()
    with (
        tempfile.TemporaryDirectory(prefix="regard-app-") as folder,
        _set(GRADIO_TEMP_DIR=folder, **QUIET, **_unproxied()),
    ):
        from regard.app.blocks import Playground
        from regard.app.shelf import Shelf

        shelf = Shelf(models)
        for name in models:
            shelf.needs(name)
        with _half_of_the_cores():
            playground = Playground(shelf, limits, Path(folder))
            made = playground.built()
            made.queue(max_size=limits.waiting, default_concurrency_limit=1)
            _, address, _ = _launched(made, playground.gr, host, _free(host, port), limits)
            try:
                yield address
            finally:
                made.close(verbose=False)


@contextlib.contextmanager
def _half_of_the_cores() -> Iterator[None]:
    """One map is made and one is tested at a time: each has half of torch's threads, so that neither waits for the other's."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def waiting(said: str) -> None:
    """Say something, and wait for Ctrl-C, or for a polite end by another program; either raises KeyboardInterrupt here."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # before: who has read the words may end the app
    print(said, flush=True)
    threading.Event().wait()


QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def _launched(made: Any, gr: Any, host: str, port: int, limits: Limits) -> Any:
    from starlette.middleware import Middleware

    from regard.app import look

    try:
        return made.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=limits.bytes,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            theme=look.theme(gr),
            css=look.read("app.css"),
            head=look.read("head.html"),
            app_kwargs={"middleware": [Middleware(_Guarded)]},
        )
    except OSError as e:
        raise Failure(f"the app cannot be reached at {host}:{port}: {e}") from e


class _Guarded:
    """Tells browsers to ask no other machine for anything."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff")]
                message = message | {"headers": [*message["headers"], *more]}
            await send(message)

        await self.app(scope, receive, guarded)


def _free(host: str, port: int | None) -> int:
    """The port that is asked for, or the first that is free. Raises Failure where it, or every one, is taken."""
    for one in PORTS if port is None else (port,):
        kind = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(kind, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, one))
            except OSError as e:
                if port is not None:
                    raise Failure(
                        f"port {port} of {host} cannot be used ({e.strerror or e}): choose another with --port"
                    ) from e
                continue
        return one
    raise Failure(f"ports {PORTS.start} to {PORTS.stop - 1} of {host} are all taken: choose another with --port")


def _unproxied() -> dict[str, str]:
    """Gradio asks its own server whether it is there, which is no question for a proxy."""
    known = os.environ.get("NO_PROXY", os.environ.get("no_proxy", ""))
    every = ",".join(filter(None, [known, "127.0.0.1", "localhost", "::1"]))
    return {"NO_PROXY": every, "no_proxy": every}


@contextlib.contextmanager
def _set(**values: str) -> Iterator[None]:
    """Environment variables, as they were before when it is over."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


__all__ = ["HOST", "check_host", "is_here", "serving", "waiting"]
