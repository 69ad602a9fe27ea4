"""`regard evaluate | results | doctor`: methods judged on a data set into a store of rows, and what these say."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import regard
from regard.called import called, parts_of, value_of
from regard.cli.entries import width
from regard.cli.files import slug, unused, writable, writable_file, write_all
from regard.cli.options import Budget, Debug, check_model, check_no_method, named_values
from regard.cli.progress import drawn_bar, duration, paced
from regard.cli.running import guarded
from regard.cli.terminal import busy, one_line, show_file, show_files, show_written
from regard.errors import Failure, InputError, Misuse, nearest
from regard.explanation.counts import quantity
from regard.extras import need
from regard.memory import budget_of
from regard.zoo import PREFIX, names

SHOWN = 5  # errors that are printed
AGAINST = "random"
SUCH_AS = "column=review"
Judged = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name on the hub, a local folder, or one of `regard zoo`.")
]
DataOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--data-option", metavar="NAME=VALUE", help=f"An option of the data, as in {SUCH_AS}; may be repeated."
    ),
]


@guarded
def evaluate(
    model: Judged,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A folder or a file (images:, masks:, coco:, gtsegs:, eraser:, table:, hf:, vqa:, webdataset: before it say "
            "its kind), or a name as zoo/vit-scenes. Default: the zoo's own data, for its models.",
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Names between commas; options in brackets, as in corrected_attention(sign=signed).")
    ] = "random,raw_attention,gae",
    protocols: Annotated[
        str | None,
        typer.Option(
            help="Names between commas, as in perturbation(unit=token,fill=drop),segmentation. Default: those that the data "
            "can be judged by."
        ),
    ] = None,
    out: Annotated[
        str, typer.Option(metavar="PLACE", help="A folder for the rows, or an address such as s3://bucket/run.")
    ] = "regard-run",
    engine: Annotated[Literal["local", "ray"], typer.Option(help="This machine, or a Ray cluster.")] = "local",
    workers: Annotated[int | None, typer.Option(help="Processes, each with a copy of the model. Default: 1.")] = None,
    examples: Annotated[
        int | None, typer.Option(help="Take so many examples, from the first on. Default: all.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Examples that are explained together.")] = 16,
    shard: Annotated[int | None, typer.Option(help="Examples whose rows are one file. Default: a batch.")] = None,
    seed: Annotated[int, typer.Option(help="Of methods and orders that draw.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of each process.")] = 1,
    option: DataOptions = None,
    memory_budget: Budget = None,
    device: Annotated[
        str | None,
        typer.Option(help="Where the model runs, as in cuda: then each worker, or task of a cluster, takes a GPU."),
    ] = None,
    costs: Annotated[
        bool,
        typer.Option("--costs", help="Then measure time and memory of a map by each method, for a leaderboard."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the rows are.")] = False,
    debug: Debug = False,
) -> None:
    """Judge methods by protocols on DATA. The same command again goes on where it ended, however it ended."""
    asked = parts_of(methods)
    _check_methods(asked)
    check_no_method([data], "--methods", methods)
    wanted = None if protocols is None else parts_of(protocols)
    for one in wanted or ():
        called(one)
    how = {
        "engine": engine, "workers": workers, "examples": examples, "batch": batch, "shard": shard, "seed": seed,
        "threads": threads, "memory_budget": memory_budget, "costs": costs, "device": device,
    }  # fmt: skip
    check_numbers(examples=examples, batch=batch, shard=shard, workers=workers, threads=threads, seed=seed)
    own = _options(option)
    budget_of(memory_budget)
    if "://" not in out:
        writable(Path(out).expanduser())
    check_model(model)
    check_data(model, data)
    with busy("looking for what it needs"):
        need("eval")
        need("store")
    with told(quiet, f"loading {model}") as progress:
        run: Any = regard.evaluate  # the first use of the name imports torch and transformers, which takes seconds
        found = run(model, data, asked, wanted, out, **how, told=progress, **own)
    if not quiet:
        typer.echo(_told_of(found))
    typer.echo(f"rows: {out}" if not quiet else out)
    _check_any(found)


@guarded
def doctor(
    model: Judged,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A folder or a file of your own inputs, as for `regard evaluate`; no labels are needed. Default: the zoo's "
            "own data, for its models.",
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(help="The time for all of it.")] = 10.0,
    methods: Annotated[
        str | None,
        typer.Option(help="Names between commas, all of which are asked. Default: as many of a list as the time buys."),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="For report.html, ranking.csv, ranking.json and the rows.")
    ] = Path("regard-doctor"),
    examples: Annotated[int | None, typer.Option(help="Take at most so many examples, drawn from the data.")] = None,
    seed: Annotated[int, typer.Option(help="Of the examples that are drawn, and of methods that draw.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Threads of torch. Default: as many as it takes.")] = None,
    option: DataOptions = None,
    memory_budget: Budget = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the page is.")] = False,
    debug: Debug = False,
) -> None:
    """Tell which explainer to trust on MODEL, from your own inputs and no labels. The same command again goes on."""
    asked = None if methods is None else parts_of(methods)
    if asked is not None:
        _check_methods(asked)
    check_no_method([data], "--methods", methods or "")
    how: dict[str, Any] = {"minutes": minutes, "examples": examples, "seed": seed, "threads": threads}
    check_visit(minutes, examples)
    check_numbers(threads=threads, seed=seed)
    own = _options(option)
    budget_of(memory_budget)
    out = writable(out)
    check_model(model)
    check_data(model, data)
    with busy("looking for what it needs"):
        for extra in ("eval", "store", "viz"):
            need(extra)
    with examined(quiet, f"loading {model}") as progress:
        run: Any = regard.doctor
        found = run(model, data, asked, out=out, **how, memory_budget=memory_budget, told=progress, **own)
    with busy("drawing"):
        page, *numbers = write_all([found], out, render_diagnosis)
    if not quiet:
        typer.echo(f"{found}\n")
        show_written(numbers, quiet)
    show_file(page, quiet)


def check_data(model: str, data: str | None) -> None:
    """Refuse a path that is not there, before anything heavy is imported."""
    if data is None and model.startswith(PREFIX):
        return
    if data is None:
        raise Misuse("DATA is missing: after MODEL give a folder, a file, or a bundled set such as zoo/vit-scenes")
    shows = ":" in data or data.startswith(PREFIX) or Path(data).suffix.lower() == ".tar"
    if not shows and not Path(data).expanduser().exists():
        hint = f"; did you mean {PREFIX}{data}?" if PREFIX + data in names() else ": no such file or folder"
        raise InputError(f"there are no data at {data}{hint}")


def check_numbers(**numbers: int | None) -> None:
    """Refuse numbers that cannot be, before anything heavy is imported."""
    for name, value in numbers.items():
        least = 0 if name == "seed" else 1
        if value is not None and value < least:
            raise Misuse(f"--{name} is a whole number of at least {least}, not {value}")


def check_visit(minutes: float, examples: int | None) -> None:
    """The same of what the doctor takes."""
    if not 0 < minutes < float("inf"):
        raise Misuse(f"--minutes is a time above 0, not {minutes:g}")
    if examples is not None and examples < 2:
        raise Misuse(f"--examples is a whole number of at least 2, not {examples}")


def render_diagnosis(found: Sequence[Any], work: Path) -> list[str]:
    """The page, and the numbers."""
    (diagnosis,) = found
    diagnosis.to_html(work / "report.html")
    diagnosis.to_csv(work / "ranking.csv")
    (work / "ranking.json").write_text(json.dumps(diagnosis.to_dict(), indent=1), encoding="utf-8", errors="replace")
    return ["report.html", "ranking.csv", "ranking.json"]


@guarded
def results(
    stores: Annotated[list[str], typer.Argument(metavar="STORE...", help="The --out of `regard evaluate`.")],
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the numbers as CSV, too (.csv).")] = None,
    against: Annotated[
        str, typer.Option(metavar="METHOD", help="The method that the page compares others with, example by example.")
    ] = AGAINST,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Draw the page and the curves.")] = True,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the page and the curves go. Default: the folder report in STORE."),
    ] = None,
    board: Annotated[
        Path | None,
        typer.Option(
            "--leaderboard",
            metavar="FILE",
            help="Write this alone: who is best by each protocol on each model, of one STORE or several (.md or .html).",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the files are.")] = False,
    debug: Debug = False,
) -> None:
    """Show what the rows of a run say: a table, and a page with curves; or the leaderboard of several runs."""
    csv = None if csv is None else writable_file(csv, (".csv",), "--csv")
    out = None if out is None else writable(out)
    if board is not None and (csv is not None or out is not None):
        raise Misuse("--leaderboard is written alone; leave --csv and --out away")
    if board is None and len(stores) > 1:
        raise Misuse(
            f"{len(stores)} runs are shown together by --leaderboard FILE alone; give one run, or --leaderboard"
        )
    for store in stores:
        if "://" not in store and not (Path(store).expanduser() / "manifest.json").is_file():
            if (Path(store).expanduser() / "ranks" / "manifest.json").is_file():
                raise InputError(
                    f"{store} is a folder of regard doctor; the runs in it are {store}/ranks and {store}/checks"
                )
            raise InputError(f"{store} holds no run (there is no manifest.json); give the --out of regard evaluate")
    with busy(f"reading {', '.join(stores)}"):
        need("eval")
        need("store")
    if board is not None:
        made_by = shlex.join(["regard", "results", *stores, "--leaderboard", str(board)])
        _leaderboard(stores, writable_file(board, (".md", ".html"), "--leaderboard"), made_by, quiet)
    else:
        _results(stores[0], csv, against, page, out, quiet)


def _results(store: str, csv: Path | None, against: str, page: bool, out: Path | None, quiet: bool) -> None:
    """One run's table, and its files."""
    with busy(f"reading {store}"):
        if page:
            need("viz")
        from regard.evaluation.store.results import Results

        found = Results(store)
        if against != AGAINST and against not in found.titles:
            raise nearest(against, found.titles, f"method of {store}")
        if not found.examples:
            raise Misuse(f"{store} has no rows yet; run the same regard evaluate again")
        shown = "" if quiet else _told_of(found)
    place = out or (found.store.folder or Path("regard-results")) / "report" if page else None
    place = None if place is None else writable(place)
    if shown:
        typer.echo(shown)
    if csv is not None:
        show_file(found.to_csv(csv), quiet)
    if place is not None:
        with busy("drawing"):
            files = write_all([found], place, drawn(against))
        show_files(files, quiet)


def _leaderboard(stores: Sequence[str], file: Path, made_by: str, quiet: bool) -> None:
    """Several runs as one page of tables."""
    with busy("comparing"):
        from regard.evaluation.leaderboard import leaderboard
        from regard.evaluation.store.results import Results
        from regard.report.leaderboard import write_leaderboard

        if file.suffix.lower() == ".html":
            need("viz")
        boards = leaderboard([Results(store).as_run() for store in stores])
        if not any(b.contests for b in boards):
            raise Misuse("there is no number to compare yet; run regard evaluate first")
        written = write_leaderboard(boards, file, made_by=made_by)
    show_file(written, quiet)


def _options(given: Sequence[str] | None) -> dict[str, Any]:
    """Options of the data: numbers, lists, true, false and null are read as such."""
    return {name: value_of(said) for name, said in named_values(given, "--data-option", SUCH_AS).items()}


def _check_methods(asked: Sequence[str]) -> None:
    """Refuse unknown methods before anything heavy is imported."""
    table: Any = regard.methods()
    known = [row.name for row in table.rows]
    if not asked:
        raise Misuse("--methods names none; see regard methods")
    for words in asked:
        name, _ = called(words)
        if name not in known:
            raise nearest(name, known, "method")


def _told_of(found: Any) -> str:
    """The table, how much of the run is done, and what failed."""
    lines = [found.table(width()) + "\n"]
    done, count = found.examples, found.plan["count"]
    if done < count:
        lines += [f"{done} of {count} examples are done; the same regard evaluate goes on from there"]
    failed = found.failed()
    lines += [f"{quantity(number, 'example')} failed: {one_line(why)}" for why, number in failed.most_common(SHOWN)]
    if len(failed) > SHOWN:
        lines += [f"and {len(failed) - SHOWN} other errors; the column error of the rows has all of them"]
    return "\n".join(lines)


def _check_any(found: Any) -> None:
    """Raise Failure where not a single number came of the run."""
    if not found.sql("SELECT 1 FROM rows WHERE error = '' LIMIT 1"):
        why = found.failed().most_common(1)[0][0]
        raise Failure(f"no example could be judged; most failed with {why}")


def drawn(against: str) -> Callable[[Sequence[Any], Path], list[str]]:
    """What draws the page of a run, and its curves, into a folder."""

    def render(found: Sequence[Any], work: Path) -> list[str]:
        from regard.report.evaluation import charts
        from regard.report.evaluation.html import write_page

        (run,) = found
        seed = run.plan["seed"]
        names = ["report.html"]

        def sections() -> Iterator[Sequence[Any]]:
            """The columns of one protocol after the other; its curves are drawn on the way."""
            for protocol in run.protocols:
                own = run.measured(protocol.name)
                for curve in charts.drawable(own):
                    if protocol.behind.get(curve) is None:
                        names.append(unused(f"{slug(protocol.kind)}-{slug(curve)}", names))
                        charts.curves(own, curve, work / names[-1], seed=seed)
                yield own

        if not run.examples:
            raise Misuse(f"{run.out} has no rows yet; run regard evaluate first")
        title = f"{run.plan['model']['name']} on {run.plan['data']['source']}"
        write_page(sections(), work / "report.html", title, against=against, seed=seed)
        return names

    return render


# -- progress ----------------------------------------------------------------------------------------------------------


@contextmanager
def told(quiet: bool, first: str) -> Iterator[Callable[[Any], None] | None]:
    """Says how far a run is: a bar on a terminal, on a pipe a line for each shard. first: what is done before it begins."""
    if quiet:
        yield None
    elif not sys.stderr.isatty():
        yield lambda p: typer.echo(line_of(p), err=True)
    else:
        with drawn_bar() as bar:
            task = bar.add_task(one_line(first), total=None, pace="")
            yield lambda p: bar.update(
                task,
                description="evaluating",
                completed=p.examples,
                total=p.of_examples,
                pace=cost_told(p) if p.measuring else pace_of(p),
            )


STAGES = {"checks": "checking", "ranks": "taking away"}
"""What the doctor does in each stage, in words."""


@contextmanager
def examined(quiet: bool, first: str) -> Iterator[Callable[[str, Any], None] | None]:
    """Says how far the doctor is: on a terminal in one line, on a pipe with a line for the first and for each tenth example.
    first: what is done before it begins."""
    if quiet:
        yield None
    elif not sys.stderr.isatty():
        yield lambda stage, p: _line(stage, p)
    else:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(one_line(f"{first}, and measuring what an example costs"), total=None)
            yield lambda stage, p: bar.update(task, description=_stage_of(stage, p))


def _line(stage: str, p: Any) -> None:
    if p.shard is None or p.examples % 10 == 0:
        typer.echo(_stage_of(stage, p), err=True)


def _stage_of(stage: str, p: Any) -> str:
    left = "" if p.left is None or p.left <= 0 else f", {duration(p.left)} left for it"
    return f"{STAGES[stage]}: {quantity(p.examples, 'example')} done{left}"


def line_of(p: Any) -> str:
    """One line of how far it is."""
    if p.measuring:
        return cost_told(p)
    done = f"{p.shards} of {p.of_shards} shards, {p.examples} of {p.of_examples} examples"
    pace = pace_of(p)
    if p.shard is None:
        return (
            f"{done} were done before"
            if p.shards
            else f"{quantity(p.of_examples, 'example')} in {quantity(p.of_shards, 'shard')}"
        )
    return f"shard {p.shard.number + 1} is done: {done}" + (f"; {pace}" if pace else "")


def cost_told(p: Any) -> str:
    """Whose cost is being measured."""
    return f"measuring what a map by {p.measuring} costs"


def pace_of(p: Any) -> str:
    """The rate, and the time that is left."""
    return paced(p.rate, p.left) if p.rate and p.left is not None else ""


__all__ = ["doctor", "evaluate", "results"]
