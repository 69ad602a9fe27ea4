"""How a command runs: what guards it, and how it loads its model."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import typer

import regard
from regard.cli.inputs import check_utf8
from regard.cli.terminal import busy, in_options, in_short, kept_still, one_line, unforeseen
from regard.errors import RegardError
from regard.extras import need

MEMORY = "there is not enough memory for this; take a smaller input, or a smaller model"


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn every way in which a command can end into one line on stderr and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            with _others_silent(debug), kept_still(bool(kwargs.get("quiet"))):
                check_utf8(kwargs.values())
                command(*args, debug=debug, **kwargs)
        except KeyboardInterrupt as e:
            raise _end(str(e) or "interrupted", 130, debug) from None
        except RegardError as e:
            raise _end(f"error: {in_options(str(e))}", e.exit_code, debug) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
            raise typer.Exit(1) from None
        except (typer.Exit, typer.Abort):
            raise
        except MemoryError:
            raise _end(f"error: {MEMORY}", 1, debug) from None
        except Exception as e:
            said = unforeseen(e).replace("(unexpected)", "(unexpected; --debug shows where)")
            raise _end(f"error: {said}", 1, debug) from None

    return run


@contextlib.contextmanager
def _others_silent(debug: bool) -> Iterator[None]:
    """Keep what libraries warn of and log off stderr, which is for our own sentence; --debug shows it."""
    if debug:
        yield
        return
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _end(message: str, code: int, debug: bool) -> typer.Exit:
    if debug:
        traceback.print_exc()
    typer.echo(in_short(one_line(message)), err=True)
    return typer.Exit(code)


def load(name: str, draws: bool = True) -> Any:
    """The reader of a model. Raises Misuse first where what draws the report is not installed."""
    if draws:
        need("viz")
    with busy(f"loading {name}"):
        made: Any = regard.load  # the first use of the name imports torch and transformers, which takes seconds
        return made(name)


__all__ = ["guarded", "load"]
