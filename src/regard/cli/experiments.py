"""Commands that ask more than a map: `regard theory | attention-vs-posthoc | probe`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

import regard
from regard.cli.files import writable, writable_file, write_all
from regard.cli.inputs import Pair, check, read_json
from regard.cli.options import (
    BASELINES,
    Against,
    Budget,
    Chosen,
    Debug,
    Inputs,
    Model,
    Regions,
    Target,
    Token,
    Truncate,
    Words,
    check_model,
    check_no_method,
    pairs,
    places,
    targets,
    words,
)
from regard.cli.posthoc import check_numbers, expanded, listed, read_all, render_posthoc
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
def attention_vs_posthoc(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT", help="A picture file, a folder of pictures, a text, a text file, or - (stdin)."
        ),
    ],
    model: Model,
    target: Target = None,
    against: Against = None,
    token: Token = None,
    attention: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Methods that read attention; may be repeated. Default: four of them."),
    ] = None,
    posthoc: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Post-hoc methods; may be repeated. Default: five of them."),
    ] = None,
    baseline: Annotated[str | None, typer.Option(help=BASELINES)] = None,
    top: Annotated[float, typer.Option(help="The share of the units that counts as the highest.")] = 0.1,
    lines: Annotated[
        bool, typer.Option("--lines", help="Each INPUT is a text file, and each of its lines an input of its own.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of methods that draw.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for report.html and agreement.csv; older ones are replaced.")
    ] = Path("regard-out"),
    truncate: Truncate = False,
    memory_budget: Budget = None,
    text: Words = None,
    regions: Regions = None,
    option: Chosen = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the page is.")] = False,
    debug: Debug = False,
) -> None:
    """Tell how far attention maps of the INPUTs agree with gradients, LIME, occlusion and integrated gradients."""
    check_numbers(top, seed)
    names, own, budget = listed(attention, posthoc), pairs(option), budget_of(memory_budget)
    how: dict[str, Any] = {"top": top, "seed": seed, "truncate": truncate, **names, **words(against, token), **own}
    how |= places(None, baseline) | ({} if budget is None else {"memory_budget": budget})
    wanted = targets(None if target is None else [target])
    out = writable(out)
    for name, asked in (("--attention", attention), ("--posthoc", posthoc)):
        check_no_method(inputs if asked else [], name, ",".join(asked or []))
    values = expanded(inputs, lines)
    check(values, None, text, regions)
    check_model(model)
    need("eval")
    reader = load(model)
    raws, called, more = read_all(Pair.checked(reader, None, text, regions), values, lines)
    with steps("comparing") as told:
        found = reader.attention_vs_posthoc(raws, wanted, names=called, told=told, **how, **more)
    with busy("drawing"):
        page, numbers = write_all([found], out, render_posthoc)
    if not quiet:
        typer.echo(f"{found}\n")
        show_file(numbers, quiet)
    show_file(page, quiet)


@guarded
def probe(
    name: Annotated[str, typer.Argument(metavar="PROBE", help="shortcut, correspondence, heads, grounding or rerun.")],
    inputs: Inputs,
    model: Model,
    target: Target = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="A page (.html), or a folder for probe.html; an older one is replaced.")
    ] = Path("regard-out/probe.html"),
    truncate: Truncate = False,
    memory_budget: Budget = None,
    text: Words = None,
    regions: Regions = None,
    pairs_file: Annotated[
        Path | None,
        typer.Option(
            "--pairs",
            metavar="FILE",
            help="Of grounding: a JSON file of known pairs [[PHRASE, [REGION, ...]], ...], regions by number, from 0 on.",
        ),
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option(
            metavar="PRIOR", help="Of rerun: uniform, or a JSON file {STREAM: [WEIGHT, ...]}, a weight for each token."
        ),
    ] = None,
    option: Chosen = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the page is.")] = False,
    debug: Debug = False,
) -> None:
    """Ask PROBE about the model's run on all INPUTs together, and write a page."""
    own, budget = pairs(option) | _known(pairs_file, attention), budget_of(memory_budget)
    wanted = targets(None if target is None else [target])
    asked: Any = regard.probe
    asked.named(name, target=wanted, **own)
    out = writable_file(out, (".html",), name="probe.html")
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


def _known(pairs_file: Path | None, attention: str | None) -> dict[str, Any]:
    """What files say of the regions that phrases mean, and of the attention that is put in the place of the model's own."""
    found: dict[str, Any] = {}
    if pairs_file is not None:
        found["pairs"] = read_json(pairs_file, "[[phrase, [region, ...]], ...]")
    if attention is not None:
        form = "{stream: [weight, ...]}"
        found["attention"] = attention if attention == "uniform" else read_json(Path(attention), form)
    return found


__all__ = ["attention_vs_posthoc", "probe", "theory"]
