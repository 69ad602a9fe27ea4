"""The commands: explain, compare, transfer, heads, rewrite, theory, attention-vs-posthoc, inspect, probe, evaluate, results,
doctor, app, methods, zoo.

Light at the start: torch and what reads models are imported when a model is loaded, after all that can be refused without
them has been. A RegardError ends in one line on
stderr and its exit code (2 misuse, 1 failure). Files are rendered in a hidden folder beside the output folder and moved
into it when all is done, so a run that fails or is interrupted leaves nothing behind. Of many inputs each is moved in when it
is done (`many`).
"""

from __future__ import annotations

import dataclasses
import io
import os
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import regard
from regard.cli.classes import prompts_of
from regard.cli.data_out import DataOut
from regard.cli.entries import entries, width
from regard.cli.files import (
    render_comparison,
    writable,
    writable_file,
    write_all,
)
from regard.cli.inputs import Pair, check, read_input, read_words
from regard.cli.journal import JOURNAL, PAGE, Journal, kept_of
from regard.cli.new_files import NewFiles
from regard.cli.rewriting import check_reached, forget_other, in_short, pictures_in, render, render_report, wanted
from regard.cli.sources import OneInput, Sources, check_ends
from regard.extras import need
from regard.memory import budget_of
from regard.preferred import AUTO
from regard.version import __version__

try:
    import typer

    from regard.cli import evaluating, experiments, playground
    from regard.cli.explaining import Explaining, named
    from regard.cli.many import ManyInputs, check_failed, show_entries
    from regard.cli.options import (
        BASELINES,
        Against,
        Budget,
        Chats,
        Chosen,
        Column,
        Debug,
        Details,
        Image,
        Input,
        Inputs,
        Label,
        Labels,
        Model,
        NoPage,
        Opened,
        Regions,
        Resume,
        Sourced,
        Steered,
        Target,
        Templates,
        ToCsv,
        ToJson,
        Token,
        Truncate,
        Words,
        check_generate,
        check_model,
        check_no_method,
        check_options,
        chosen,
        columns,
        pairs,
        places,
        targets,
        words,
    )
    from regard.cli.options import (
        guide as guides,
    )
    from regard.cli.running import guarded, load
    from regard.cli.terminal import (
        accuracy,
        as_table,
        busy,
        cell,
        one_line,
        show_explanations,
        show_file,
        show_files,
        show_generations,
        show_written,
        stdout,
        steps,
    )
except ModuleNotFoundError as missing:
    raise SystemExit(f"error: the command line needs {missing.name}: pip install 'regard[cli]'") from None

if TYPE_CHECKING:
    from regard.evaluation.compare import Comparison
    from regard.explanation.explanation import Explanation

app = typer.Typer(
    name="regard",
    help="Shows what a Transformer's prediction rests on, and how far to trust the explanation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line on `arguments`, or on the program's own."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a pipe may not take every character
    app(arguments, prog_name="regard")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"regard {__version__}")
        raise typer.Exit


@app.command()
@guarded
def explain(
    context: typer.Context,
    model: Model,
    inputs: Sourced = None,
    method: Annotated[
        str,
        typer.Option(
            help="Names from `regard methods`, with commas between them, or all. Default: what does best at such a task in our "
            "own tables."
        ),
    ] = AUTO,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="A label or class number, the next or the masked word, an answer; may be repeated. Default: what the model "
            "predicts."
        ),
    ] = None,
    against: Against = None,
    token: Token = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html and the pictures; older ones are replaced.")] = Path(
        "regard-out"
    ),
    measure: Annotated[
        Literal["full", "lazy"], typer.Option(help="Run the receipt's checks at once, or when the report is drawn.")
    ] = "full",
    truncate: Truncate = False,
    memory_budget: Budget = None,
    site: Annotated[
        str | None,
        typer.Option(help="Where the map lives: input, embeddings, block[3], attention[2], attention:all."),
    ] = None,
    baseline: Annotated[str | None, typer.Option(help=BASELINES)] = None,
    image: Image = None,
    text: Words = None,
    labels: Labels = None,
    template: Templates = None,
    regions: Regions = None,
    guide: Steered = None,
    option: Chosen = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="The least probability of an object that a detector finds. Default: 0.5."),
    ] = None,
    generate: Annotated[
        int | None,
        typer.Option(metavar="N", help="Let the model write up to N tokens on from INPUT, and explain each of them."),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Explain this answer to INPUT (a text or a file), token by token and as a whole."
        ),
    ] = None,
    test: Annotated[
        bool | None,
        typer.Option(
            "--test/--no-test",
            help="Test whether each map is better than chance: about 50 forward passes for an input. Default: as many as ten "
            "seconds suffice for, of several inputs none.",
        ),
    ] = None,
    chat: Chats = None,
    column: Column = None,
    label: Label = None,
    resume: Resume = False,
    json: ToJson = None,
    csv: ToCsv = None,
    open: Opened = False,
    no_page: NoPage = False,
    details: Details = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the report is.")] = False,
    debug: Debug = False,
) -> None:
    """Explain what the model makes of INPUT; write report.html and one picture for each map. Of several INPUTs each has a
    folder of its own, and index.html shows them all."""
    where, beside, wanted = places(site, baseline), words(against, token), targets(target)
    names = chosen(method, **where)
    how: dict[str, Any] = {"measure": measure, "memory_budget": budget_of(memory_budget), **where}
    how |= {} if threshold is None else {"threshold": threshold}
    steered, own = guides(guide), pairs(option)
    out, data = writable(out), DataOut.checked(json, csv)
    if len(inputs or []) > 1:
        check_no_method(inputs or [], "--method", method)
    sources = Sources.checked(inputs or [], chat or [], column, label, out)
    check(sources.arguments, image, text, regions)
    classes = prompts_of(labels, template, text)
    check_model(model)
    sources.check_rows(target, written=generate is not None or answer is not None)
    check_ends(sources, [*(text or []), answer, against], resume, open, no_page)
    if own:
        check_options(names, own)
    more: dict[str, Any] = {"test": test if sources.single or test else False, "alone": sources.single}
    if generate is not None or answer is not None:
        check_generate(names, target, truncate, threshold, generate, answer, beside, bool(steered))
        how |= {"method": names[0], "target": (target or ["logit"])[0], **own}
        more["written"] = read_words(answer) if answer is not None else generate or 0
        more["against"] = None if against is None else read_words(against)
    else:
        how |= {
            "method": names if len(names) > 1 else names[0],
            "target": wanted,
            "truncate": truncate,
            **beside,
            **steered,
            **own,
        }
    journal = None if sources.single else Journal.begun(out, kept_of(model, context.params), resume)
    reader = load(model, draws=not no_page)
    pair = Pair.checked(reader, image, text, regions, classes)
    sources.check_kind(pair.kind, reader)
    explaining = Explaining.of(reader, pair, how, **more)
    if journal is None:
        shown = _explain_one(explaining, next(sources.items(pair.kind)), out, data, no_page, (quiet, details))
    else:
        named = [getattr(reader, "default_method", n) if n == AUTO else n for n in names]
        about = f"What {model} makes of them, explained by {', '.join(named)}."
        shown = _explain_many(ManyInputs(explaining, sources, journal, about, data, not no_page, quiet))
    if open:
        webbrowser.open(shown.as_uri())
    if journal is not None:
        check_failed([*journal.entries.values()], out)


def _explain_one(
    explaining: Explaining, item: OneInput, out: Path, data: DataOut, no_page: bool, printed: tuple[bool, bool]
) -> Path:
    """Explain one input, on a page of its own; the page. printed: whether only where it is; whether whole receipts, too."""
    quiet, details = printed
    explaining = explaining if no_page else explaining.with_runners_up()
    found = explaining.found(item.read(explaining.pair.kind))
    with NewFiles() as new, busy("drawing"):
        files = [] if no_page else new.drawn(found, out, explaining.render(found))
        found = found[: len(found) - explaining.beside]
        written = data.write([f if isinstance(f, tuple) else (item.name, f) for f in found], new)
        new.place()
    if not data.stdout:
        if explaining.written is None:
            show_explanations(found, files, quiet, details)
        else:
            show_generations(found, files, quiet)
        show_written(written, quiet)
    return files[0] if files else out


def _explain_many(many: ManyInputs) -> Path:
    """Explain many inputs, each on a page of its own, and tell where their index is; the index."""
    entries = many.run()
    page = many.journal.out / (PAGE if many.page else JOURNAL)
    if not many.data.stdout:
        if not many.quiet:
            show_entries(entries)
        show_file(page, many.quiet)
        show_written([Path(os.path.abspath(f)) for f in (many.data.json, many.data.csv) if f is not None], many.quiet)
    return page


@app.command()
@guarded
def compare(
    input: Input,
    model: Model,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            "--method",
            help="Names from `regard methods`, with commas between them, or all. Default: nine.",
        ),
    ] = None,
    sites: Annotated[
        str | None,
        typer.Option(
            "--sites",
            "--site",
            help="Columns: input, embeddings, block[3], attention[2], attention:all, with commas between them, or all. "
            "Default: input, embeddings, and up to 6 blocks.",
        ),
    ] = None,
    baseline: Annotated[str | None, typer.Option(help=BASELINES)] = None,
    target: Target = None,
    against: Against = None,
    token: Token = None,
    out: Annotated[
        Path, typer.Option(help="Folder for comparison.html and comparison.png; older ones are replaced.")
    ] = Path("regard-out"),
    truncate: Truncate = False,
    memory_budget: Budget = None,
    text: Words = None,
    regions: Regions = None,
    guide: Steered = None,
    option: Chosen = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the page is.")] = False,
    debug: Debug = False,
) -> None:
    """Put the maps of many METHODS at many SITES side by side, with how much of the target each accounts for."""
    names = None if methods is None else chosen(methods)
    there = None if sites is None else columns(sites)
    places(None, baseline)
    how = {"truncate": truncate, "memory_budget": budget_of(memory_budget), "measure": "full", **words(against, token)}
    how |= guides(guide, whole=False) | pairs(option)
    wanted = targets(None if target is None else [target])
    out = writable(out)
    check([input], None, text, regions)
    check_model(model)
    reader = load(model)
    pair = Pair.checked(reader, None, text, regions)
    raw, stem, more = pair.read(input)
    with steps() as told:
        found = reader.compare(raw, wanted, names, there, baseline, told=told, **how, **more)
    found = _named_all(found, stem, pair)
    with busy("drawing"):
        files = write_all([found], out, render_comparison)
    if not quiet:
        from regard.report.comparison.html import HEAD, table

        rows = [[row[0], *row[4:]] for row in table(found)]
        stdout().print(as_table([HEAD[0], *HEAD[4:]], rows), "", sep="\n")
    show_files(files, quiet)


@app.command()
@guarded
def transfer(
    input: Input,
    model: Model,
    target: Target = None,
    against: Against = None,
    token: Token = None,
    layer: Annotated[
        int | None,
        typer.Option(min=0, help="Which layer is drawn large, from 0. Default: the one in which most is transferred."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="A page (.html) or a figure (.png, .svg, .pdf, .jpg), or a folder for transfer.html; an older one is "
            "replaced.",
        ),
    ] = Path("regard-out/transfer.html"),
    truncate: Truncate = False,
    memory_budget: Budget = None,
    image: Image = None,
    text: Words = None,
    regions: Regions = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the file is.")] = False,
    debug: Debug = False,
) -> None:
    """Show what the target would gain if attention moved between the tokens of INPUT, layer by layer."""
    how = {"truncate": truncate, "memory_budget": budget_of(memory_budget), **words(against, token)}
    how["target"] = targets(None if target is None else [target])
    out = writable_file(out, (".html", ".png", ".svg", ".pdf", ".jpg", ".jpeg"), name="transfer.html")
    moved, note = _of_one(input, model, (image, text, regions), how, lambda exp: exp.transfer())
    with busy("drawing"):
        moved.to_html(out, layer) if out.suffix.lower() == ".html" else moved.plot(out, layer=layer)
    if not quiet:
        typer.echo(f"{note}{moved}\n")
    show_file(out, quiet)


@app.command()
@guarded
def heads(
    input: Input,
    model: Model,
    method: Annotated[
        Literal["raw_attention", "gae"],
        typer.Option(help="Where each head looks, or what of that speaks for the target."),
    ] = "raw_attention",
    target: Target = None,
    against: Against = None,
    token: Token = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="A page (.html), or a folder for heads.html; an older one is replaced.")
    ] = Path("regard-out/heads.html"),
    truncate: Truncate = False,
    memory_budget: Budget = None,
    image: Image = None,
    text: Words = None,
    regions: Regions = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the page is.")] = False,
    debug: Debug = False,
) -> None:
    """Show each head's own map of INPUT, from the tokens that the target reads: a row a layer, a column a head."""
    how = {"truncate": truncate, "memory_budget": budget_of(memory_budget), **words(against, token)}
    how |= {"target": targets(None if target is None else [target]), "method": method}
    out = writable_file(out, (".html",), name="heads.html")
    found, note = _of_one(input, model, (image, text, regions), how, lambda exp: exp.heads())
    with busy("drawing"):
        found.to_html(out)
    if not quiet:
        typer.echo(f"{note}{found}\n")
    show_file(out, quiet)


@app.command()
@guarded
def rewrite(
    input: Annotated[
        str, typer.Argument(metavar="PICTURE", help="A picture file, or - (stdin); with --report a folder of pictures.")
    ],
    model: Model,
    to: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="The label or class number to be taken for."),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="LABEL", help="A class that is to stay the second: a picture of two classes.")
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(
            metavar="MASK|internal",
            help="Where pixels may change: a picture of the same size that is not black there, or the tokens that speak for "
            "the new class.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="The most that may change, pixels from 0 to 1. Default: 4/255 of a pixel, or 0.5 in L2."),
    ] = None,
    norm: Annotated[
        Literal["linf", "l2"], typer.Option(help="The largest change of a pixel, or the length of all changes.")
    ] = "linf",
    minimal: Annotated[bool, typer.Option("--minimal", help="Look for the smallest budget that suffices.")] = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Rewrite every picture of a folder to each --to (repeated; default: every other class, or of more than 10 the "
            "second likeliest), and tell how little it takes.",
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder for report.html, rewritten.png and two more pictures; older ones are replaced.")
    ] = Path("regard-out"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the report is.")] = False,
    debug: Debug = False,
) -> None:
    """Change PICTURE as little as can be so that the model takes it for another class; exit code 1 where it does not."""
    how = wanted(to, keep, within, budget, norm, minimal, report)
    out = writable(out)
    if report:
        _report_rewriting(pictures_in(input), model, how, out, quiet)
        return
    check([input, *([] if within in (None, "internal") else [str(within)])], None, None, None)
    check_model(model)
    reader = load(model)
    raw, stem = read_input(input, "image") if reader.kind == "image" else (input, input)
    with steps("rewriting") as told:
        found = reader.rewrite(raw, told=told, **how)
    found.names = [stem]
    with busy("drawing"):
        files = write_all([found], out, render(reader, found))
    forget_other(found, out)
    if not quiet:
        typer.echo(one_line(str(found)))
    show_files(files, quiet)
    check_reached(found)


app.command()(experiments.theory)
app.command()(experiments.attention_vs_posthoc)


@app.command()
@guarded
def inspect(
    inputs: Inputs,
    model: Model,
    text: Words = None,
    regions: Regions = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Prove that rows are the tokens that they are said to be; exit code 1 where not."
        ),
    ] = False,
    heads: Annotated[bool, typer.Option("--heads", help="Tell how alike the heads of each layer are.")] = False,
    debug: Debug = False,
) -> None:
    """Show what is seen of the model's run on INPUT: token streams, attention calls, blocks."""
    check(inputs, None, text, regions)
    check_model(model)
    reader = load(model, draws=False)
    pair, wrong = Pair.checked(reader, None, text, regions), False
    for value in inputs:
        raw, _, more = pair.read(value)
        typer.echo(str(reader.inspect(raw, heads=heads, **more)))
        if verify:
            proof = reader.verify(raw, **more)
            typer.echo(f"\n{proof}")
            wrong = wrong or not proof.ok
    if wrong:
        raise typer.Exit(1)


app.command()(experiments.probe)
app.command()(evaluating.evaluate)
app.command()(evaluating.results)
app.command()(evaluating.doctor)
app.command()(playground.app)


@app.command()
@guarded
def methods(debug: Debug = False) -> None:
    """List the methods: what each is, where its map lives, what it is measured against, its cost and its paper."""
    table: Any = regard.methods()
    named = [(row.name, [p for p in (row.summary, _about(row)) if p]) for row in table.rows]
    typer.echo("\n".join(entries(named, width())))


def _about(row: Any) -> str:
    """A method's site, baseline, cost, claims and paper, in one line."""
    claims = [said for claimed, said in ((row.decomposes, "adds up to T"), (row.signed, "signed")) if claimed]
    only = [f"only of {row.only_of}"] if row.only_of else []
    about = [f"site {row.site}", f"baseline {row.baseline}", row.passes, *claims, *only, row.paper]
    return " · ".join(about)


@app.command()
@guarded
def zoo(debug: Debug = False) -> None:
    """List the bundled models."""
    from regard.zoo import cards

    rows = [
        [name, cell(c.get("task")), cell(c.get("what")), accuracy(c.get("accuracy"))] for name, c in cards().items()
    ]
    stdout().print(as_table(["name", "task", "what it does", "accuracy"], rows))


def _of_one(
    input: str, model: str, beside: tuple[Any, Any, Any], how: dict[str, Any], ask: Callable[[Explanation], Any]
) -> tuple[Any, str]:
    """What is asked of the explanation of one input, the likeliest of several, and what to say before it is printed."""
    check([input], *beside)
    check_model(model)
    reader = load(model)
    pair = Pair.checked(reader, *beside)
    raw, stem, more = pair.read(input)
    with busy(f"explaining {stem}"):
        made = reader.explain(raw, **how, **more)
        every = made if isinstance(made, list) else [made]
        found = ask(named(every[0], stem, pair))
    several = f"{len(every)} objects were found; this is of the likeliest (--target names another)\n\n"
    return found, several if len(every) > 1 else ""


def _report_rewriting(pictures: list[Path], model: str, how: dict[str, Any], out: Path, quiet: bool) -> None:
    """Rewrite all pictures of a folder, and write how little it takes."""
    need("eval")
    check_model(model)
    reader = load(model)
    with steps("rewriting") as told:
        found = reader.robustness(pictures, told=told, **how)
    with busy("drawing"):
        files = write_all([found], out, render_report)
    if not quiet:
        typer.echo(in_short(found))
    show_files(files, quiet)


def _named_all(found: Comparison, name: str, pair: Pair) -> Comparison:
    grid = {at: named(e, name, pair) for at, e in found.grid.items()}
    return dataclasses.replace(found, grid=grid, own={m: named(e, name, pair) for m, e in found.own.items()})
