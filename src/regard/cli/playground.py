"""`regard app`: the page on which a picture is dropped or a text typed, served on this machine."""

from __future__ import annotations

import contextlib
import webbrowser
from typing import Annotated

import typer

from regard.cli.options import Debug, check_model
from regard.cli.running import guarded
from regard.cli.terminal import busy

EVERYBODY = (
    "warning: at {host} everybody who reaches this machine over the network can use the app and its models, without a password "
    "and without encryption; 127.0.0.1 is for this machine alone"
)


@guarded
def app(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A name on the hub, a local folder, or one of `regard zoo`; may be repeated. The first is shown first; "
            "those of the zoo can always be chosen.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on. The default can be reached from this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860 on.")
    ] = None,
    open: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    debug: Debug = False,
) -> None:
    """Open a page in the browser where you drop a picture or type a text, and see what the prediction rests on.

    Choose the class, the method and the site; put two methods or two models side by side; save what you see as a page of its
    own. It works without the internet. Ctrl-C ends it.
    """
    from regard.app.serving import check_host, is_here, serving, waiting

    for name in model or ():
        check_model(name)
    check_host(host)
    if not is_here(host):
        typer.echo(EVERYBODY.format(host=host), err=True)
    with contextlib.ExitStack() as running:
        with busy("loading"):
            address = running.enter_context(serving(model or (), host, port))
        if open:
            webbrowser.open(address)
        waiting(f"The app is at {address} (Ctrl-C ends it)")


__all__ = ["app"]
