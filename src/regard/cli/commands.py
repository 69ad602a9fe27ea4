"""The command line: `regard explain | compare | inspect | methods | zoo`.

Light at the start: torch and what reads models are imported inside the commands. A RegardError ends in one line on
stderr and its exit code (2 misuse, 1 failure). Files are rendered in a hidden folder beside the output folder and moved
into it when all is done, so a run that fails or is interrupted leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from regard.baseline import Baseline
from regard.cli.files import (
    render_comparison,
    render_explanations,
    render_generations,
    writable,
    write_all,
)
from regard.cli.inputs import Pair, read_words
from regard.errors import Misuse, RegardError, UnknownName, nearest
from regard.site import Site
from regard.version import __version__

try:
    import typer

    from regard.cli.terminal import (
        accuracy,
        as_table,
        busy,
        cell,
        in_options,
        one_line,
        show_explanations,
        show_files,
        show_generations,
        stdout,
        steps,
    )
except ModuleNotFoundError as missing:
    raise SystemExit(f"error: the command line needs {missing.name}: pip install 'regard[cli]'") from None

if TYPE_CHECKING:
    from regard.evaluation.compare import Comparison
    from regard.explanation.explanation import Explanation
    from regard.explanation.raw_inputs import Raw

app = typer.Typer(
    name="regard",
    help="Tells what a Transformer's prediction rests on, and how far to believe the answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INPUT = "A picture file, a text, a text file, a chat (JSON), or - (stdin)."
Inputs = Annotated[list[str], typer.Argument(metavar="INPUT", help=INPUT)]
Model = Annotated[str, typer.Option("--model", "-m", help="A name on the hub, a local folder, or one of `regard zoo`.")]
Budget = Annotated[
    str | None,
    typer.Option(
        help='What rebuilt attention rows, or runs side by side, may take at a time, as in "64MB". Default: 1GB.'
    ),
]
Image = Annotated[
    Path | None, typer.Option(help="A picture that goes with each INPUT, a prompt, for vision-language models.")
]
Words = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        help="What goes with each INPUT: a picture's question or caption, a text's second text; or a file, or -. Several are "
        "texts that a model such as CLIP compares the picture with.",
    ),
]
Regions = Annotated[
    Path | None,
    typer.Option(help="A JSON file of boxes [[left, top, right, bottom], ...], fractions of the picture, for LXMERT."),
]
BASELINES = "Against what: zero, black, white, mean, blur[:SIGMA], noise[:SEED], mask, pad; zero:local. Default: zero."
Against = Annotated[
    str | None,
    typer.Option(help="Another label, word or answer: explain what tells the target (or the --answer) from this one."),
]
Token = Annotated[
    str | None,
    typer.Option(help="Where, for models that say something of every token: a word of the text, or a token's number."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line on `arguments`, or on the program's own."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a pipe may not take every character
    app(arguments, prog_name="regard")


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn every way in which a command can end into one line on stderr and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            command(*args, debug=debug, **kwargs)
        except KeyboardInterrupt:
            raise _end("interrupted", 130, debug) from None
        except RegardError as e:
            raise _end(f"error: {in_options(str(e))}", e.exit_code, debug) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
            raise typer.Exit(1) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as e:
            said = f"error: {type(e).__name__}: {e} (unexpected; --debug shows where)"
            raise _end(said, 1, debug) from None

    return run


def _end(message: str, code: int, debug: bool) -> typer.Exit:
    if debug:
        traceback.print_exc()
    typer.echo(one_line(message), err=True)
    return typer.Exit(code)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"regard {__version__}")
        raise typer.Exit


@app.command()
@_guarded
def explain(
    inputs: Inputs,
    model: Model,
    method: Annotated[str, typer.Option(help="Names from `regard methods`, with commas between them, or all.")] = "gae",
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
    truncate: Annotated[bool, typer.Option("--truncate", help="Read no more of a text than the model takes.")] = False,
    memory_budget: Budget = None,
    site: Annotated[
        str | None,
        typer.Option(help="Where the map lives: input, embeddings, block[3], attention[2], attention:all."),
    ] = None,
    baseline: Annotated[str | None, typer.Option(help=BASELINES)] = None,
    image: Image = None,
    text: Words = None,
    regions: Regions = None,
    threshold: Annotated[
        float | None, typer.Option(help="The least probability of an object that a detector finds. Default: 0.5.")
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the report is.")] = False,
    debug: Debug = False,
) -> None:
    """Explain what the model makes of each INPUT; write report.html and one picture for each map."""
    from regard.report import need

    need("viz")
    where = _asked(site, baseline)
    names = chosen(method, **where)
    out = writable(out)
    writes = generate is not None or answer is not None
    if writes:
        _check_writing(names, target, truncate, threshold, generate, answer, _words(against, token))
    with busy("loading the model"):
        reader = _load(model)
    pair = Pair.checked(reader, image, text, regions)
    found: list[Any] = []
    how: dict[str, Any] = {"measure": measure, "memory_budget": memory_budget, **where}
    how |= {} if threshold is None else {"threshold": threshold}
    for value in inputs:
        raw, stem, more = pair.read(value)
        with busy(f"explaining {stem}"):
            if writes:
                as_asked = {"method": names[0], "target": (target or ["logit"])[0], **how}
                made = _written(reader, raw, generate, answer, against, as_asked)
                found.append((stem, made))
            else:
                asked = {"target": _targets(target)} | _words(against, token)
                made = reader.explain(raw, method=names, truncate=truncate, **asked, **how, **more)
                found += [_named(e, stem, pair) for e in made]
    with busy("drawing"):
        files = write_all(found, out, render_generations if writes else render_explanations)
    (show_generations if writes else show_explanations)(found, files, quiet)


@app.command()
@_guarded
def compare(
    input: Annotated[
        str, typer.Argument(metavar="INPUT", help="A picture file, a text, a text file, a chat (JSON), or - (stdin).")
    ],
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
    target: Annotated[
        str | None,
        typer.Option(help="A label or class number, a word, an answer. Default: what the model predicts."),
    ] = None,
    against: Against = None,
    token: Token = None,
    out: Annotated[
        Path, typer.Option(help="Folder for comparison.html and comparison.png; older ones are replaced.")
    ] = Path("regard-out"),
    truncate: Annotated[bool, typer.Option("--truncate", help="Read no more of a text than the model takes.")] = False,
    memory_budget: Budget = None,
    text: Words = None,
    regions: Regions = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the page is.")] = False,
    debug: Debug = False,
) -> None:
    """Put the maps of many METHODS at many SITES side by side, with how much of the target each accounts for."""
    from regard.report import need

    need("viz")
    names = None if methods is None else chosen(methods)
    columns = None if sites is None else _columns(sites)
    _asked(None, baseline)
    out = writable(out)
    with busy("loading the model"):
        reader = _load(model)
    pair = Pair.checked(reader, None, text, regions)
    raw, stem, more = pair.read(input)
    how = {"truncate": truncate, "memory_budget": memory_budget, "measure": "full", **_words(against, token), **more}
    with steps() as told:
        found = reader.compare(raw, target, names, columns, baseline, told=told, **how)
    found = _named_all(found, stem, pair)
    with busy("drawing"):
        files = write_all([found], out, render_comparison)
    if not quiet:
        from regard.report.comparison.html import HEAD, table

        rows = [[row[0], *row[4:]] for row in table(found)]
        stdout().print(as_table([HEAD[0], *HEAD[4:]], rows), "", sep="\n")
    show_files(files, quiet)


@app.command()
@_guarded
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
    debug: Debug = False,
) -> None:
    """Show what is seen of the model's run on INPUT: token streams, attention calls, blocks."""
    with busy("loading the model"):
        reader = _load(model)
    pair, wrong = Pair.checked(reader, None, text, regions), False
    for value in inputs:
        raw, _, more = pair.read(value)
        typer.echo(str(reader.inspect(raw, **more)))
        if verify:
            proof = reader.verify(raw, **more)
            typer.echo(f"\n{proof}")
            wrong = wrong or not proof.ok
    if wrong:
        raise typer.Exit(1)


@app.command()
@_guarded
def methods(debug: Debug = False) -> None:
    """List the methods."""
    import regard

    table: Any = regard.methods()
    columns = ["name", "passes", "site", "baseline", "decomposes", "signed", "paper"]
    stdout().print(as_table(columns, [[cell(getattr(r, c, None)) for c in columns] for r in table.rows]))


@app.command()
@_guarded
def zoo(debug: Debug = False) -> None:
    """List the bundled models."""
    from regard.zoo import cards

    rows = [
        [name, cell(c.get("task")), cell(c.get("what")), accuracy(c.get("accuracy"))] for name, c in cards().items()
    ]
    stdout().print(as_table(["name", "task", "what it does", "accuracy"], rows))


def _columns(words: str) -> str | list[str]:
    """The columns of a comparison, in words, which the reader understands; checked before time is spent."""
    asked = [w.strip() for w in words.split(",") if w.strip()]
    if asked == ["all"]:
        return "all"
    if not asked:
        raise Misuse("no site is named; give input, embeddings, block[3], attention[2] or all")
    for word in asked:
        Site.parse(word)
    return asked


def _asked(site: str | None, baseline: str | None) -> dict[str, str]:
    """The site and the baseline that were asked for, in words, which the reader understands; checked before time is spent."""
    if site is not None:
        Site.parse(site)
    if baseline is not None:
        Baseline.parse(baseline, lambda _: 0)  # which token it is the reader will know
    return {name: words for name, words in (("site", site), ("baseline", baseline)) if words is not None}


def _check_writing(
    names: Sequence[str],
    target: Sequence[str] | None,
    truncate: bool,
    threshold: float | None,
    generate: int | None,
    answer: str | None,
    words: dict[str, str],
) -> None:
    """Refuse what does not go with a text that is written on from INPUT, or with an answer to it."""
    from regard.api.explain_generation import TARGETS

    asked = "--generate" if answer is None else "--answer"
    if generate is not None and answer is not None:
        raise Misuse("--generate lets the model write an answer, --answer gives one that is there; leave one out")
    for name in words:
        if name == "token" or answer is None:
            raise Misuse(f"{asked} takes no --{name}: every token that is written is explained; leave one out")
    if threshold is not None:
        raise Misuse(f"--threshold is for models that find objects, and {asked} for those that write; leave one out")
    if len(names) > 1:
        raise Misuse(f"{asked} takes one method at a time; give its name with --method")
    if target and len(target) > 1:
        raise Misuse(f"{asked} takes one --target: logit, log_probability or contrast")
    if target and target[0] not in TARGETS:
        raise UnknownName(
            f"unknown target {target[0]!r} of {asked}, which explains each token of a text: give {', '.join(TARGETS)}; leave "
            f"{asked} out to ask for a word"
        )
    if truncate:
        raise Misuse("--truncate would cut the end of the prompt, after which the answer begins; shorten it yourself")


def _written(
    reader: Any, raw: Any, generate: int | None, answer: str | None, against: str | None, how: dict[str, Any]
) -> Any:
    """What the model writes, or the answer that is given, explained."""
    if answer is None:
        return reader.explain_generation(raw, generate, **how)
    return reader.explain_writing(raw, read_words(answer), None if against is None else read_words(against), **how)


def _load(name: str) -> Any:
    import regard

    load: Any = regard.load
    return load(name)


def chosen(names: str, site: str | None = None, baseline: str | None = None) -> list[str]:
    """The methods asked for, each once; `all` are those that take the site and the baseline, in words, that are asked for.

    Raises UnknownName with the nearest names for an unknown one.
    """
    import regard

    table: Any = regard.methods()
    known = [row.name for row in table.rows]
    asked = list(dict.fromkeys(n.strip() for n in names.split(",") if n.strip()))
    if not asked:
        raise UnknownName(f"no method is named; known: {', '.join(known)}")
    if asked == ["all"]:
        there = site is None or Site.parse(site).kind
        rows = [row for row in table.rows if there is True or there in row.sites]
        return [row.name for row in rows if baseline is None or row.explicit]
    for name in asked:
        if name not in known:
            raise nearest(name, known, "method")
    return asked


def _targets(labels: list[str] | None) -> str | list[str] | None:
    """None, one label or several, as `Reader.explain` takes them; repetitions are dropped."""
    unique = list(dict.fromkeys(labels or []))
    return None if not unique else unique[0] if len(unique) == 1 else unique


def _words(against: str | None, token: str | None) -> dict[str, str]:
    """What was said beside the target, where something was."""
    return {name: said for name, said in (("against", against), ("token", token)) if said is not None}


def _named(exp: Explanation, name: str, pair: Pair) -> Explanation:
    """The explanation with its raw inputs called as the command line called them.

    An answer, which the model or the user gave, keeps the name that the reader gave it.
    """
    from regard.models.default_targets import ANSWER
    from regard.models.embeddings import SECOND

    def called(stream: str, raw: Raw) -> str:
        if raw.name == ANSWER:
            return ANSWER
        if stream.startswith(SECOND) and pair.second:
            return pair.second
        return pair.name if pair.name and hasattr(raw, "tokens") else name

    raws: dict[str, Sequence[Raw]] = {
        s: [dataclasses.replace(r, name=called(s, r)) for r in raw] for s, raw in exp.inputs.items()
    }
    return dataclasses.replace(exp, inputs=raws)


def _named_all(found: Comparison, name: str, pair: Pair) -> Comparison:
    grid = {at: _named(e, name, pair) for at, e in found.grid.items()}
    return dataclasses.replace(found, grid=grid, own={m: _named(e, name, pair) for m, e in found.own.items()})
