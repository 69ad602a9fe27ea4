"""Commands that ask more than a map: `regard theory | probe`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

import regard
from regard.cli.files import writable, writable_file, write_all
from regard.cli.inputs import Pair, check
from regard.cli.options import (
    Budget,
    Chosen,
    Debug,
    Inputs,
    Model,
    Regions,
    Target,
    Truncate,
    Words,
    check_model,
    pairs,
    targets,
)
from regard.cli.running import guarded, load
from regard.cli.terminal import busy, show_file, show_files, steps
from regard.cli.theory import check_agreed, check_theory, in_short_of_theory, laboratory, render_theory
from regard.extras import need
from regard.memory import budget_of


@guarded
def theory(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The Stanford Sentiment Treebank, {train,dev,test}.trees.txt.gz. Default: a small language of our own.",
        ),
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="An earlier --out: its classifier is examined, and none is trained."),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="The sentence that is shown. Default: one of the test sentences.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the language, of training and of sampling.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for report.html, figures, numbers and the classifier; older ones are replaced.")
    ] = Path("regard-theory"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the report is.")] = False,
    debug: Debug = False,
) -> None:
    """Train a classifier whose explanations have closed forms, test each of them, and show attention against post-hoc."""
    check_theory(data, classifier, text, seed)
    out = writable(out)
    for extra in ("viz", "eval"):
        need(extra)
    with steps("training") as told:
        found = laboratory(data, classifier, text, seed, told)
    with busy("drawing"):
        files = write_all([found], out, render_theory)
    if not quiet:
        typer.echo(in_short_of_theory(found))
    show_files([f for f in files if f.suffix in (".html", ".png")], quiet)
    check_agreed(found)


@guarded
def probe(
    name: Annotated[str, typer.Argument(metavar="PROBE", help="shortcut, correspondence or heads.")],
    inputs: Inputs,
    model: Model,
    target: Target = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="A page (.html); an older one is replaced.")] = Path(
        "regard-out/probe.html"
    ),
    truncate: Truncate = False,
    memory_budget: Budget = None,
    text: Words = None,
    regions: Regions = None,
    option: Chosen = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the page is.")] = False,
    debug: Debug = False,
) -> None:
    """Ask PROBE about the model's run on all INPUTs together, and write a page."""
    own, budget = pairs(option), budget_of(memory_budget)
    wanted = targets(None if target is None else [target])
    asked: Any = regard.probe
    asked.named(name, target=wanted, **own)
    out = writable_file(out, (".html",))
    check(inputs, None, text, regions)
    check_model(model)
    reader = load(model)
    pair = Pair.checked(reader, None, text, regions)
    read = [pair.read(value) for value in inputs]
    more = {"truncate": truncate, **read[0][2], **own} | ({} if budget is None else {"memory_budget": budget})
    with busy(f"probing {read[0][1]}"):
        raws = [raw for raw, _, _ in read]
        found = reader.probe(name, raws[0] if len(raws) == 1 else raws, wanted, **more)
    if hasattr(found, "names"):
        found = dataclasses.replace(found, names=tuple(stem for _, stem, _ in read))
    with busy("drawing"):
        found.to_html(out)
    if not quiet:
        typer.echo(f"{found}\n")
    show_file(out, quiet)


__all__ = ["probe", "theory"]
