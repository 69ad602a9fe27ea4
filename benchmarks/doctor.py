"""Does the doctor's ranking agree with known answers? Its order of methods beside the tables of docs/results.md.

The doctor sees no answer: it takes away what maps put first. The tables know them: the item that a scene's class names, and
the words that decide a sentence. A folder that is there already is gone on with.

    python benchmarks/doctor.py --minutes 13 --out runs/doctor            # print
    python benchmarks/doctor.py --minutes 13 --out runs/doctor --write    # the same, into docs/doctor.md
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import spearmanr

import regard
from regard.evaluation.diagnosis import Diagnosis, percents

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- known: begin -->\n", "<!-- known: end -->"
AS_THERE = {"integrated_gradients, zero": "integrated_gradients", "lime, 256 samples": "lime"}


@dataclass(frozen=True)
class Known:
    """A table of results.md, and the column that knows the answer: `called` in the table here."""

    model: str
    table: str
    column: str
    called: str


KNOWN = (
    Known("zoo/vit-scenes", "segmentation", "two items, pointing ↑", "points at the item that is named, of two"),
    Known("zoo/vit-scenes", "segmentation", "one item, pointing ↑", "points at the only item"),
    Known("zoo/bert-sentiment", "rationale", "AUPRC ↑", "finds the deciding words (AUPRC)"),
)


def column_of(known: Known) -> dict[str, float]:
    """Method -> its number there."""
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    part = page.split(f"<!-- {known.table}: begin -->")[1].split(f"<!-- {known.table}: end -->")[0]
    head, _, *lines = ([c.strip() for c in line.split("|")[1:-1]] for line in part.splitlines() if line[:1] == "|")
    at = head.index(known.column)
    found = {}
    for cells in lines:
        number = re.match(r"\**(-?[\d.]+)", cells[at])
        if number:
            found[AS_THERE.get(cells[0], cells[0])] = float(number[1])
    return found


def compared(found: Diagnosis, known: Known) -> tuple[dict[str, float], float]:
    """The numbers of the methods that both have, and the rank correlation of the two orders."""
    column = column_of(known)
    both = {s.title: column[s.title] for s in found.standings if s.title in column}
    return both, float(spearmanr([found.of(t).rank.value for t in both], list(both.values())).statistic)


def section(found: Diagnosis) -> str:
    """One model as text: each method's share of random choices beside what is known of it."""
    asked = [k for k in KNOWN if k.model == found.model]
    columns = [compared(found, k) for k in asked]
    lines = [
        f"`{found.model}`, {found.examples} examples, {len(found.standings)} methods:",
        "",
        f"| method | beats random choices | {' | '.join(k.called for k in asked)} |",
        "|" + " --- |" * (2 + len(asked)),
    ]
    for s in found.standings:
        numbers = [f"{both[s.title]:.2f}" if s.title in both else "–" for both, _ in columns]
        lines.append(f"| {s.title} | {percents(s.rank)} | {' | '.join(numbers)} |")
    rhos = [f"{rho:.2f} of {len(both)}" for both, rho in columns]
    lines.append(f"| *rank correlation, methods* | | {' | '.join(rhos)} |")
    return "\n".join(lines)


def main() -> None:
    """Ask the doctor, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=13.0)
    parser.add_argument("--out", type=Path, default=Path("runs/doctor"))
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    models = dict.fromkeys(k.model for k in KNOWN)
    found = [regard.doctor(m, minutes=args.minutes, out=args.out / m.replace("/", "-")) for m in models]
    text = "\n\n".join([f"`python benchmarks/doctor.py --minutes {args.minutes:g}`:", *map(section, found)])
    print(text)
    if args.write:
        page = (DOCS / "doctor.md").read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        (DOCS / "doctor.md").write_text(f"{before}{BEGIN}\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
