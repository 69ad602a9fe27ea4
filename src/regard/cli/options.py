"""What the commands take: their arguments and options, what these stand for, and what is refused before a model is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import regard
from regard.baseline import Baseline
from regard.cli.inputs import is_there
from regard.errors import Misuse, UnknownName, nearest
from regard.guide import Guide
from regard.models.checkpoint import ADAPTER
from regard.models.places import place
from regard.preferred import AUTO, KNOWN
from regard.site import Site
from regard.written import TARGETS
from regard.zoo import in_zoo

INPUT = "A picture file, a text, a text file, a chat (JSON), or - (stdin)."
Input = Annotated[str, typer.Argument(metavar="INPUT", help=INPUT)]
Inputs = Annotated[list[str], typer.Argument(metavar="INPUT", help=INPUT)]
Sourced = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT",
        help=f"{INPUT[:-1]}; also a folder, a quoted glob, a .jsonl or a .csv file. Of several there is an index.",
    ),
]
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
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A file of labels, one a line: classes that a model such as CLIP compares the picture with.",
    ),
]
Templates = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        help='What each label is put into, as in "a photo of a {}."; may be repeated: a class is then the mean of its texts. '
        "Default: the label as it is.",
    ),
]
Regions = Annotated[
    Path | None,
    typer.Option(help="A JSON file of boxes [[left, top, right, bottom], ...], fractions of the picture, for LXMERT."),
]
BASELINES = (
    "Against what: zero, black, white, mean, blur[:SIGMA], noise[:SEED], mask, pad, unk; zero:local. Default: zero."
)
Target = Annotated[
    str | None,
    typer.Option(help="A label or class number, a word, an answer. Default: what the model predicts."),
]
Against = Annotated[
    str | None,
    typer.Option(help="Another label, word or answer: explain what tells the target (or the --answer) from this one."),
]
Token = Annotated[
    str | None,
    typer.Option(help="Where, for models that say something of every token: a word of the text, or a token's number."),
]
Truncate = Annotated[bool, typer.Option("--truncate", help="Read no more of a text than the model takes.")]
Steered = Annotated[
    str | None,
    typer.Option(
        "--guide",
        metavar="GUIDE",
        help="What steers the attention: contrast[:LABEL], box:LEFT,TOP,RIGHT,BOTTOM, words:SOME WORDS, a mask's picture, a "
        "polygon's JSON file, a saved map (.safetensors); picture:FILE, a second picture, whose class --against may name.",
    ),
]
Chosen = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="An option of the method, as in correction=complete or sign=signed; may be repeated.",
    ),
]
Chats = Annotated[
    list[Path] | None,
    typer.Option("--chat", metavar="FILE", help="A JSON file of a chat's messages as an INPUT; may be repeated."),
]
Column = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The column of a .csv or .jsonl file that holds the texts, or the pictures' paths."
    ),
]
Label = Annotated[
    str | None, typer.Option(metavar="NAME", help="The column that says what is explained of each row: its --target.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with several inputs where an earlier run with the same --out ended.")
]
ToJson = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the explanations as JSON, too; - is stdout.")
]
ToCsv = Annotated[
    str | None, typer.Option("--csv", metavar="FILE", help="Write a row for every token as CSV, too; - is stdout.")
]
Opened = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]
Details = Annotated[bool, typer.Option("--details", help="Print the whole receipt of each map.")]
NoPage = Annotated[bool, typer.Option("--no-page", help="Draw no page and no pictures.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def check_model(name: str) -> None:
    """Refuse a zoo name that there is not, and a folder that holds no model; names on the hub are looked up later.

    The folder of an adapter names its base, which is looked for when both are loaded.
    """
    folder = in_zoo(name)
    if not (Path(folder).expanduser() / ADAPTER).is_file():
        place(folder)


def columns(words: str) -> str | list[str]:
    """The sites of a comparison, in words that a reader understands."""
    asked = [w.strip() for w in words.split(",") if w.strip()]
    if asked == ["all"]:
        return "all"
    if not asked:
        raise Misuse("no site is named; give input, embeddings, block[3], attention[2] or all")
    for word in asked:
        Site.parse(word)
    return asked


def places(site: str | None, baseline: str | None) -> dict[str, str]:
    """The site and the baseline that are asked for, in words that a reader understands."""
    if site is not None:
        Site.parse(site)
    if baseline is not None:
        Baseline.parse(baseline, lambda _: 0)  # which token it is the reader will know
    return {name: words for name, words in (("site", site), ("baseline", baseline)) if words is not None}


def chosen(names: str, site: str | None = None, baseline: str | None = None) -> list[str]:
    """The methods asked for, each once; `all` are those of any input that take the site and the baseline, in words, that are
    asked for.

    Raises UnknownName with the nearest names for an unknown one.
    """
    table: Any = regard.methods()
    known = [row.name for row in table.rows]
    asked = list(dict.fromkeys(n.strip() for n in names.split(",") if n.strip()))
    known = [AUTO, *known]
    if not asked:
        raise UnknownName(f"no method is named; known: {', '.join(known)}")
    if asked == ["all"]:
        there = site is None or Site.parse(site).kind
        rows = [row for row in table.rows if not row.only_of and (there is True or there in row.sites)]
        return [row.name for row in rows if baseline is None or row.explicit]
    for name in asked:
        if name not in known:
            raise nearest(name, known, "method")
    return asked


def check_no_method(inputs: Sequence[str | None], option: str, asked: str) -> None:
    """Refuse a method's name among the inputs: a shell ends a list at its blanks. asked: what `option` was given."""
    table: Any = regard.methods()
    known = {row.name for row in table.rows}
    for name in inputs:
        if name in known and not is_there(str(name)):
            listed = ",".join([asked.strip(" ,"), str(name)]) if asked not in ("", AUTO) else str(name)
            raise Misuse(
                f"{name!r} is the name of a method, but stands where an input does; put commas and no blanks between methods: "
                f"{option} {listed}"
            )


def guide(said: str | None, whole: bool = True) -> dict[str, Guide]:
    """The guide that is asked for; `whole`: it may be a second picture, which is explained with the first."""
    if said is None:
        return {}
    made = Guide.parse(said.strip())
    if made.kind == "picture" and not whole:
        raise Misuse("a second picture guides regard explain, one picture at a time; compare with another guide")
    return {"guide": made}


def pairs(given: Sequence[str] | None) -> dict[str, Any]:
    """Options of methods as NAME=VALUE: numbers, true, false and null are read as such; a comma makes a list."""
    said = named_values(given, "--option", "correction=complete")
    if "guide" in said:
        raise Misuse("give the guide with --guide")
    split = {name: [_value(part.strip()) for part in value.split(",")] for name, value in said.items()}
    return {name: parts if len(parts) > 1 else parts[0] for name, parts in split.items()}


def named_values(given: Sequence[str] | None, option: str, such_as: str) -> dict[str, str]:
    """What an option that takes NAME=VALUE was given, each name once, in words. Raises Misuse for anything else."""
    found: dict[str, str] = {}
    for one in given or ():
        name, equals, value = (part.strip() for part in one.partition("="))
        if not name or not equals or not value:
            raise Misuse(f"{option} is NAME=VALUE, as in {such_as}; not {one!r}")
        if name in found:
            raise Misuse(f"{option} {name} is given twice")
        found[name] = value
    return found


def _value(said: str) -> Any:
    """A number (inf too), true, false or null; else the words as they are."""
    if said.lower() in ("inf", "infinity"):
        return math.inf
    try:
        found = json.loads(said)
    except ValueError:
        return said
    return found if isinstance(found, int | float | bool | None) else said


def check_options(names: Sequence[str], options: dict[str, Any]) -> None:
    """Refuse options that none of the methods takes, and values that are not of their kind. This imports the methods."""
    table: Any = regard.methods()
    meant = {*names, *(KNOWN if AUTO in names else ())}
    known = {option for row in table.rows if row.name in meant for option in row.options}
    for name in options:
        if name not in known:
            if known <= {"guide"}:
                takes = "takes no --option" if len(names) == 1 else "take no --option"
                raise UnknownName(f"unknown option {name!r}: {', '.join(names)} {takes}")
            raise nearest(name, known - {"guide"}, f"option of {', '.join(names)}")
    for row in table.rows:
        if row.name in names:
            row.checked(options)


def targets(labels: list[str] | None) -> str | list[str] | None:
    """None, one label or several, as `Reader.explain` takes them; repetitions are dropped."""
    unique = list(dict.fromkeys(labels or []))
    for label in unique:
        _named("target", label)
    return None if not unique else unique[0] if len(unique) == 1 else unique


def words(against: str | None, token: str | None) -> dict[str, str]:
    """What is said beside the target, where something is."""
    given = {name: said for name, said in (("against", against), ("token", token)) if said is not None}
    for name, said in given.items():
        _named(name, said)
    return given


def _named(option: str, said: str) -> None:
    if not said.strip():
        raise Misuse(f"--{option} is empty; give a label, a word or a number")


def check_generate(
    names: Sequence[str],
    target: Sequence[str] | None,
    truncate: bool,
    threshold: float | None,
    generate: int | None,
    answer: str | None,
    words: dict[str, str],
    guided: bool = False,
) -> None:
    """Refuse what does not go with a text that is written on from INPUT, or with an answer to it."""
    asked = "--generate" if answer is None else "--answer"
    if guided:
        raise Misuse(f"--guide steers one map, and {asked} explains every token that is written; leave one out")
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
        raise Misuse(f"{asked} takes one --target: {', '.join(TARGETS[:-1])} or {TARGETS[-1]}")
    if target:
        _check_token_target(target[0], asked)
    if truncate:
        raise Misuse("--truncate would cut the end of the prompt, after which the answer begins; shorten it yourself")


def _check_token_target(target: str, asked: str) -> None:
    """Refuse what is explained of no token that is written."""
    if target not in TARGETS:
        raise UnknownName(
            f"unknown target {target!r} of {asked}, which explains each token of a text: give {', '.join(TARGETS)}; leave "
            f"{asked} out to ask for a word"
        )
