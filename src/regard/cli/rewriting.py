"""`regard rewrite`: what it takes, and what it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.cli.inputs import PICTURES, check_address
from regard.editing.budget import budget_in
from regard.errors import Failure, InputError, Misuse

if TYPE_CHECKING:
    from regard.explanation.rewriting import Rewriting

REWRITTEN, NEAREST = "rewritten.png", "nearest.png"
Told = Callable[[str, int, int], None]


def wanted(
    to: Sequence[str] | None,
    keep: str | None,
    within: str | None,
    budget: str | None,
    norm: str,
    minimal: bool,
    report: bool,
) -> dict[str, Any]:
    """What is asked of one picture, or with --report of many. Raises Misuse for what does not go together."""
    given: list[tuple[str, str | None]] = [*(("to", t) for t in to or ()), ("keep", keep), ("within", within)]
    for name, said in given:
        if said is not None and not said.strip():
            raise Misuse(f"--{name} is empty; give a label or a class number")
    how: dict[str, Any] = {"norm": norm, "budget": None if budget is None else budget_in(budget)}
    if report:
        beside = [n for n, given in (("--keep", keep), ("--within", within), ("--minimal", minimal)) if given]
        beside += ["--norm l2"] if norm != "linf" else []
        if beside:
            raise Misuse(f"{beside[0]} is of one picture, and --report is of a folder of them; leave one out")
        return {
            "to": list(dict.fromkeys(to or [])) or None,
            **({} if how["budget"] is None else {"budget": how["budget"]}),
        }
    if not to:
        raise Misuse("--to is missing: give the label or class number that the picture is to be taken for")
    if len(to) > 1:
        raise Misuse("one picture is rewritten to one class; give --to once")
    return how | {"to": to[0], "keep": keep, "within": within, "minimal": minimal}


def render(reader: Any, found: Rewriting) -> Callable[[Sequence[Any], Path], list[str]]:
    """What writes a rewriting of one picture: the file, which is read again before the page says what it is taken for."""

    def written(_all: Sequence[Any], work: Path) -> list[str]:
        from regard.editing.pictures import judge
        from regard.explanation.rewriting import png_of
        from regard.report.rewriting.html import write_page

        file = work / REWRITTEN
        file.write_bytes(found.png())
        judge(reader, found, [file])
        if not bool(found.success):
            file = file.rename(work / NEAREST)
        difference, _ = found.difference()
        (work / "difference.png").write_bytes(png_of(difference))
        found.plot(work / "maps.png")
        write_page(found, work / "report.html")
        return ["report.html", file.name, "difference.png", "maps.png"]

    return written


def forget_other(found: Rewriting, out: Path) -> None:
    """Remove the picture of an earlier run that this one contradicts: a rewritten one where none was found."""
    (out / (NEAREST if bool(found.success) else REWRITTEN)).unlink(missing_ok=True)


def check_reached(found: Rewriting) -> None:
    """Raise Failure where the picture was not rewritten."""
    if not bool(found.success):
        to = found.label(found.to[0])
        raise Failure(
            f"{found.names[0]} was not rewritten: the nearest picture found has {float(found.probability[0]):.3g} for {to!r} "
            f"({NEAREST}); allow a larger --budget"
        )


def pictures_in(folder: str) -> list[Path]:
    """The picture files of a folder, by name. Raises InputError where there is no such folder, or no picture in it."""
    check_address(folder)
    path = Path(folder)
    if not path.is_dir():
        what = (
            "is a file; --report takes a folder of pictures"
            if path.exists()
            else "is not there; --report takes a folder"
        )
        raise InputError(f"{folder} {what}")
    found = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in PICTURES)
    if not found:
        raise InputError(f"{folder} holds no pictures ({', '.join(sorted(PICTURES))})")
    return found


def render_report(found: Sequence[Any], work: Path) -> list[str]:
    """The page of a model's robustness, its figure, and every number as CSV."""
    from regard.report.rewriting.robustness import plot, table, write_page

    write_page(found[0], work / "report.html")
    plot(found[0], work / "budgets.png")
    (work / "budgets.csv").write_text(table(found[0]), encoding="utf-8")
    return ["report.html", "budgets.png", "budgets.csv"]


def in_short(found: Any) -> str:
    """What was found, in a few lines."""
    lines = [
        f"{size:g}/255: {100 * found.share(size / 255):.0f} % of pairs, {100 * found.share(size / 255, True):.0f} % of pictures"
        for size in sorted({*(s for s in (1, 2, 4) if s <= 255 * found.budget + 1e-6), round(255 * found.budget, 2)})
    ]
    return "\n".join(lines)
