"""`regard app`: what it says, and how it ends."""

import contextlib

import pytest
from typer.testing import CliRunner

from regard.app import serving
from regard.cli.commands import app


@pytest.fixture
def ran(monkeypatch):
    """What the command serves, and how the serving ended."""
    seen = []

    @contextlib.contextmanager
    def stand_in(models, host, port):
        seen.append((list(models), host, port))
        try:
            yield f"http://{host}:{port or 7860}/"
        finally:
            seen.append("closed")

    def interrupted(said):
        print(said)
        raise KeyboardInterrupt

    monkeypatch.setattr(serving, "serving", stand_in)
    monkeypatch.setattr(serving, "waiting", interrupted)
    return seen


def test_it_says_where_it_is_and_closes_when_interrupted(ran):
    done = CliRunner().invoke(app, ["app", "--model", "zoo/llama-facts", "-m", "zoo/vit-scenes"])
    assert done.exit_code == 130
    assert done.stdout == "The app is at http://127.0.0.1:7860/ (Ctrl-C ends it)\n"
    assert done.stderr == "interrupted\n"
    assert ran == [(["zoo/llama-facts", "zoo/vit-scenes"], "127.0.0.1", None), "closed"]


def test_the_page_is_opened_where_that_is_asked_for(ran, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    CliRunner().invoke(app, ["app", "--port", "8000", "--open"])
    assert opened == ["http://127.0.0.1:8000/"]


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True)]
)
def test_whoever_lets_the_network_in_is_warned(ran, host, warned):
    done = CliRunner().invoke(app, ["app", "--host", host])
    assert ("everybody who reaches this machine over the network" in done.stderr) == warned
