"""What the command line writes: names that are safe on any system, files drawn aside and moved in when all is done."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.cli.inputs import SUFFIXES
from regard.cli.new_files import NewFiles, Render, standing
from regard.errors import InputError, Misuse

if TYPE_CHECKING:
    from regard.evaluation.compare import Comparison
    from regard.explanation.explanation import Explanation
    from regard.explanation.generation import Generation


def writable(out: Path) -> Path:
    """Refuse an output folder that cannot be one, before time is spent."""
    out = Path(os.path.abspath(out))
    home = standing(out)
    if not home.is_dir():
        raise InputError(f"{home} is a file; --out needs a folder")
    if not os.access(home, os.W_OK):
        raise InputError(f"{home} cannot be written to; give another folder with --out")
    return out


def writable_file(out: Path, suffixes: Sequence[str], option: str = "--out", name: str | None = None) -> Path:
    """Refuse an output file that cannot be one, or that is of another kind, before time is spent.

    name: what the file is called in a folder that is given in its place, one that is there or has no suffix; None: a folder is
    refused.
    """
    if name is not None and (out.is_dir() or not out.suffix):
        return writable(out) / name
    if out.suffix.lower() not in suffixes:
        or_folder = "" if name is None else ", or a folder"
        raise Misuse(f"{option} is a file that ends in {_either(suffixes)}{or_folder}; {out.name or out} does not")
    if out.is_dir():
        raise InputError(f"{out} is a folder; {option} needs a file")
    return writable(out.parent) / out.name


def _either(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def write_all(found: Sequence[Any], out: Path, render: Render) -> list[Path]:
    """Draw everything in a hidden folder, then move it to `out`: all or nothing; the files, the report first."""
    with NewFiles() as new:
        files = new.drawn(found, out, render)
        new.place()
    return files


def render_explanations(found: Sequence[Explanation], work: Path, beside: int = 0) -> list[str]:
    """One page of all explanations, and a picture of each map, once, but of so many at the end."""
    from regard.report.explanation.html import write_page
    from regard.report.explanation.png import plot
    from regard.report.view import method_of, same_maps

    write_page(found, work / "report.html")
    names = ["report.html"]
    once = same_maps(found)
    drawn = [exp for exp in found[: len(found) - beside] if method_of(exp) in once]
    for exp in drawn:
        for sample in range(exp.samples):
            names.append(unused(file_stem(exp, sample), names))
            plot(exp, work / names[-1], sample)
    return names + _render_objects(drawn, work, names)


def render_told(found: Sequence[Explanation], work: Path) -> list[str]:
    """One page of what tells two classes apart, a picture of it for each map, and the map on the first picture's own tokens."""
    from regard.report.explanation.png import plot
    from regard.report.telling.html import write_page

    write_page([exp.told for exp in found], work / "report.html")
    names = ["report.html"]
    for exp in found:
        names.append(unused(f"{file_stem(exp, 0)}-told", names))
        exp.told.plot(work / names[-1])
        names.append(unused(file_stem(exp, 0), names))
        plot(exp, work / names[-1])
    return names


def _render_objects(found: Sequence[Explanation], work: Path, taken: Sequence[str]) -> list[str]:
    """A picture of all objects found in each input, by each method, where there are several."""
    from regard.report.explanation.objects_png import plot

    groups: dict[tuple[str, str], list[Explanation]] = {}
    for exp in found:
        if exp.found is not None:
            groups.setdefault((_source(exp, 0), exp.method), []).append(exp)
    names: list[str] = []
    for (source, method), several in groups.items():
        if len(several) > 1:
            names.append(unused("-".join((slug(_stem(source)), slug(method), "objects")), [*taken, *names]))
            plot(several, work / names[-1])
    return names


def render_comparison(found: Sequence[Comparison], work: Path) -> list[str]:
    """A comparison's page and its picture."""
    names = ["comparison.html", "comparison.png"]
    found[0].to_html(work / names[0])
    found[0].plot(work / names[1])
    return names


def render_generations(found: Sequence[tuple[str, Generation]], work: Path) -> list[str]:
    """One page of all generations and a picture of each; and the same of the answers as wholes, where they were given."""
    from regard.report.explanation import html, png
    from regard.report.generation.html import write_page

    write_page([g for _, g in found], work / "report.html")
    wholes = [(stem, g.whole) for stem, g in found if g.whole is not None]
    names = ["report.html", *["answer.html"] * bool(wholes)]
    if wholes:
        html.write_page([exp for _, exp in wholes], work / "answer.html")
    for stem, g in found:
        names.append(unused("-".join((slug(_stem(stem)), g.method, "written")), names))
        g.plot(work / names[-1])
    for stem, exp in wholes:
        names.append(unused("-".join((slug(_stem(stem)), exp.method, "answer")), names))
        png.plot(exp, work / names[-1])
    return names


def file_stem(exp: Explanation, sample: int) -> str:
    """Input, method and target as a file name: letters, digits, dots, dashes and underscores, at most 150 bytes."""
    from regard.report.view import target_of

    return "-".join(slug(part) for part in (_stem(_source(exp, sample)), exp.method, target_of(exp, sample)))


def _source(exp: Explanation, sample: int) -> str:
    """What the raw input is called: where there are several, as the first is."""
    return next((raw[sample].name for raw in exp.inputs.values() if sample < len(raw)), f"sample-{sample}")


def _stem(source: str) -> str:
    return Path(source).stem if Path(source).suffix.lower() in SUFFIXES else source


def slug(text: str, most: int = 48) -> str:
    """What is safe of a text in a file name on any system; `x` where nothing is."""
    kept = re.sub(r"[^\w.]+", "-", unicodedata.normalize("NFC", text)).strip("-._")
    cut = kept.encode("utf-8", "ignore")[:most].decode("utf-8", "ignore").strip("-._")
    return cut or "x"


def unused(stem: str, taken: Sequence[str], suffix: str = ".png") -> str:
    """`stem` with its suffix, numbered from 2 where a file of this run has that name (in any case) already."""
    folded = {t.casefold() for t in taken}
    names = (f"{stem}{'' if n == 1 else f'-{n}'}{suffix}" for n in range(1, len(taken) + 2))
    return next(n for n in names if n.casefold() not in folded)
