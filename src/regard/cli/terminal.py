"""What the command line prints: tables, explanations, where the files are, and what moves while something takes time."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from regard.explanation.explanation import Explanation
    from regard.explanation.generation import Generation


LONGEST = 1000  # characters of an error
RUNS = ("", *(f"regard.recording.{room}" for room in ("recorder", "own_gradients", "row_gradient", "patch_gradient")))
"""Where operations of a model are run."""
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def one_line(text: str) -> str:
    """Untrusted text in one line: line ends become spaces, other control characters, and those that turn text round, �."""
    joined = " ".join(text.split())
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cs") or c in TURNING else c for c in joined)


def in_short(text: str) -> str:
    """A sentence with its middle left out where somebody's words make it long."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 200]} … {text[-190:]}"


def unforeseen(e: BaseException) -> str:
    """An error that is none of ours: what the model raised of its own accord, or what nobody expected."""
    said = f"{type(e).__name__}: {e}".removesuffix(": ")
    if from_model(e):
        return f"the model cannot be run on this ({said}); do its weights, its config and what reads for it belong together?"
    return f"{said} (unexpected)"


def from_model(e: BaseException) -> bool:
    """Whether the model raised an error itself: in a module's forward, and nowhere in ours but where its operations are run."""
    within, own = False, ""
    for frame, _ in traceback.walk_tb(e.__traceback__):
        name = str(frame.f_globals.get("__name__"))
        if frame.f_code.co_name == "_call_impl" and name == "torch.nn.modules.module":
            within, own = True, ""
        elif name.startswith("regard."):
            own = name
    return within and own in RUNS


def in_options(message: str) -> str:
    """An error in the words of the command line: `token=` is `--token` there."""
    message = re.sub(r"\bcolumn=(?=[\s;,.]|$)", "--data-option column=NAME", message)
    return re.sub(
        r"\b(truncate)=True\b|\b(target|against|token|threshold|text|regions|pairs|attention|out)=(?=[\s:;,.)]|$)",
        _option,
        message,
    )


def _option(found: re.Match[str]) -> str:
    return f"--{found[1] or found[2]}"


def as_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Rows under their heads."""
    from rich.table import Table
    from rich.text import Text as Line

    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=i == 0 or column == "site")
    for row in rows:
        table.add_row(*(Line(cell) for cell in row))
    return table


def cell(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def accuracy(value: Any) -> str:
    """The overall shares on a model's card; counts and shares by class are left to the card."""
    shares = {k: v for k, v in value.items() if isinstance(v, float)} if isinstance(value, dict) else {}
    return "\n".join(f"{name.replace('_', ' ')} {100 * share:.1f} %" for name, share in shares.items())


def stdout() -> Console:
    """Where results go; 100 columns where nobody says how wide it is."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 100
    return console


_still: ContextVar[bool] = ContextVar("still", default=False)


@contextlib.contextmanager
def kept_still(quiet: bool) -> Iterator[None]:
    """Nothing moves on the terminal within, if `quiet`."""
    before = _still.set(quiet)
    try:
        yield
    finally:
        _still.reset(before)


def moves() -> bool:
    """Whether what moves may be shown: on a terminal, where nobody asked for quiet."""
    return sys.stderr.isatty() and not _still.get()


@contextlib.contextmanager
def busy(what: str) -> Iterator[None]:
    """A spinner on stderr while something takes time, on terminals only, and not with --quiet."""
    if not moves():
        yield
        return
    from rich.console import Console
    from rich.text import Text as Line

    console = Console(stderr=True)
    with console.status(Line(one_line(what), no_wrap=True, overflow="ellipsis")):
        yield


@contextlib.contextmanager
def steps(doing: str = "explaining") -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar on stderr that fills step by step, on terminals only, and not with --quiet."""
    if not moves():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(doing)

        def told(what: str, done: int, steps: int) -> None:
            bar.update(task, description=one_line(what), completed=done, total=steps)

        yield told


def show_generations(found: Sequence[tuple[str, Generation]], files: Sequence[Path], quiet: bool) -> None:
    """Print what was written on and what each token rests on, and where the files are."""
    if not quiet:
        _print_generations(found)
    show_files(files, quiet)


def _print_generations(found: Sequence[tuple[str, Generation]]) -> None:
    from rich.text import Text as Line

    from regard.report.explanation.terminal import show, written
    from regard.report.view import view_of

    console = stdout()
    for stem, g in found:
        console.print(Line(one_line(stem), style="bold"), Line(one_line(g.text) or "(special tokens only)"), sep="\n")
        console.print(as_table(["token", g.target.replace("_", "-"), "rests most on"], written(g)), "", sep="\n")
        if g.whole is not None:
            console.print(show(view_of(g.whole), console), "", sep="\n")


def show_explanations(found: Sequence[Explanation], files: Sequence[Path], quiet: bool, details: bool = False) -> None:
    """Print the explanations, and where the files are. details: with the whole receipt of each."""
    if not quiet:
        _print_explanations(found, details)
    show_files(files, quiet)


def _print_explanations(found: Sequence[Explanation], details: bool) -> None:
    from rich.text import Text as Line

    from regard.report.explanation.terminal import fits_of, predicted, show
    from regard.report.view import sections

    console = stdout()
    for section in sections(found):
        console.print(Line(one_line(section.name), style="bold"))
        for part in [*fits_of(section.views), *predicted(section.views)]:
            console.print(part)
        for view in section.views:
            console.print(show(view, console, details=details), "", sep="\n")


def show_file(file: Path, quiet: bool) -> None:
    """Print where a single file is."""
    shown = _from_here(file)
    kind = {".png": "picture", ".csv": "numbers"}.get(file.suffix.lower(), "report")
    typer.echo(shown if quiet else f"{kind}: {shown}")


def show_files(files: Sequence[Path], quiet: bool) -> None:
    """Print where the files are, the report first; nothing where there are none."""
    if not files:
        return
    shown = [_from_here(f) for f in files]
    if quiet:
        typer.echo(shown[0])
        return
    drawn = [f for f in shown[1:] if f.suffix != ".html"]
    typer.echo("\n".join(f"report: {f}" for f in shown if f not in drawn))
    typer.echo(
        f"{'picture' if len(drawn) == 1 else 'pictures'}: "
        + (str(drawn[0]) if len(drawn) == 1 else f"{len(drawn)} in {shown[0].parent}")
    )


def show_written(files: Sequence[Path], quiet: bool) -> None:
    """Print where the numbers are."""
    for file in () if quiet else files:
        typer.echo(f"numbers: {_from_here(file)}")


def _from_here(file: Path) -> Path:
    return Path(os.path.relpath(file)) if file.is_relative_to(Path.cwd()) else file
