"""Commands run in this process."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from regard.cli import commands as cli


def ran(*arguments: object, code: int = 0) -> Any:
    """What a command printed, and how it ended: with this code, and without a traceback."""
    done = CliRunner().invoke(cli.app, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done
