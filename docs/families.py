"""Write families.md from the table of tests/sweep.py: `python docs/families.py`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
import transformers  # noqa: E402

from sweep import FAMILIES, GROUPS, OPEN, REFUSED, Family  # noqa: E402

PAGE = ROOT / "docs" / "families.md"


def entry(family: Family, status: str) -> str:
    """One row: what is known of the family, and how it fares."""
    streams = ", ".join(
        f"{name} {count}" + (" ({}x{})".format(*family.grids[name]) if name in family.grids else "")
        for name, count in family.streams.items()
    )
    return f"| {family.name} | {family.group} | `{family.model}` | {family.calls} | {streams} | {status} |"


def passing(family: Family) -> str:
    """The status of a family that is explained, with what to know."""
    reasons = dict.fromkeys(family.dead.values())
    return "explained" + "".join(
        f"; no gradient reaches calls {', '.join(str(c) for c, w in family.dead.items() if w == why)}: {why}"
        for why in reasons
    )


def page() -> str:
    """The whole page."""
    order = {g: i for i, g in enumerate(GROUPS)}
    head = ["| family | group | class | calls | streams (tokens) | status |", "|---|---|---|---|---|---|"]
    explained = [entry(f, passing(f)) for f in sorted(FAMILIES.values(), key=lambda f: order[f.group])]
    refused = [f"| {n} | {r.family.group} | `{r.family.model}` | `{r.says}` | {r.why} |" for n, r in REFUSED.items()]
    opened = [f"| {n} | {r.family.group} | `{r.family.model}` | {r.why} |" for n, r in OPEN.items()]
    return "\n".join(
        [
            "# Families of models",
            "",
            "Tiny random models of the families below are explained in the tests: every attention call is seen, streams",
            "and grids are those of the architecture, the watched forward equals the plain one, gradients reach every call,",
            "maps and their gradients equal an eager twin, and the model is left as found.",
            "Written by `python docs/families.py` from",
            f"`tests/sweep.py`, with transformers {transformers.__version__} and torch {torch.__version__};",
            "the tests: `python -m pytest tests/test_sweep.py`.",
            "",
            f"## Explained: {len(FAMILIES)}",
            "",
            *head,
            *explained,
            "",
            f"## Refused: {len(REFUSED)}",
            "",
            "An error names the operation or the reason; no map is given.",
            "",
            "| family | group | class | the error says | why |",
            "|---|---|---|---|---|",
            *refused,
            "",
            f"## Open: {len(OPEN)}",
            "",
            "Not right yet; do not rely on maps of these.",
            "",
            "| family | group | class | what is wrong |",
            "|---|---|---|---|",
            *opened,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
