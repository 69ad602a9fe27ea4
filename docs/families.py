"""Write families.md from tests/support/sweep, families-timm.md from timm_sweep.py there: `python docs/families.py`.

Each needs its own environment (transformers, or timm with torchvision); the page whose libraries are missing is left as it is.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.family import Family, Refusal  # noqa: E402


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


def tables(
    groups: Sequence[str],
    explained: Mapping[str, Family],
    refused: Mapping[str, Refusal],
    opened: Mapping[str, Refusal],
) -> list[str]:
    """The three tables of a page."""
    order = {g: i for i, g in enumerate(groups)}
    rows = [entry(f, passing(f)) for f in sorted(explained.values(), key=lambda f: order[f.group])]
    no = [f"| {n} | {r.family.group} | `{r.family.model}` | `{r.says}` | {r.why} |" for n, r in refused.items()]
    ours = [f"| {n} | {r.family.group} | `{r.family.model}` | {r.why} |" for n, r in opened.items()]
    return [
        "",
        f"## Explained: {len(explained)}",
        "",
        "| family | group | class | calls | streams (tokens) | status |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"## Refused: {len(refused)}",
        "",
        "An error names the operation or the reason; no map is given.",
        "",
        "| family | group | class | the error says | why |",
        "|---|---|---|---|---|",
        *no,
        "",
        f"## Open: {len(opened)}",
        "",
        "Not right yet; do not rely on maps of these.",
        "",
        "| family | group | class | what is wrong |",
        "|---|---|---|---|",
        *ours,
        "",
    ]


CHECKED = [
    "are explained in the tests: every attention call is seen, streams and grids are those of the architecture, the watched",
    "forward equals the plain one, gradients reach every call, maps and their gradients equal an eager twin, `gae` and",
    "`rollout` equal the full joint roll-out of the twin's maps, and the model is left as found.",
]


def ruled(explained: Mapping[str, Family], plain: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What rules of the backward pass leave as it is."""
    rows = [f"| {name} | `{op}` | {why} |" for name, ops in plain.items() for op, why in ops.items()]
    return [
        "## Rules of the backward pass",
        "",
        f"`attnlrp`, `cp_lrp` and `gim` run on all {len(explained)} families, with the forward pass of the model itself.",
        f"In {len(explained) - len(plain)} of them every operation is of a kind that the rules know.",
        "Gradients go plainly through the others, as receipts say:",
        "",
        "| family | operation | what it is |",
        "|---|---|---|",
        *rows,
        "",
    ]


def page() -> str:
    """families.md"""
    from support.sweep import FAMILIES, GROUPS, OPEN, PLAIN, REFUSED

    return "\n".join(
        [
            "# Families of models",
            "",
            "Tiny random models of the families below",
            *CHECKED,
            "Models of timm and torchvision have [a page of their own](families-timm.md).",
            "Written by `python docs/families.py` from",
            f"`tests/support/sweep`, with transformers {version('transformers')} and torch {version('torch')};",
            "the tests: `python -m pytest tests/families/test_sweep.py`.",
            *tables(GROUPS, FAMILIES, REFUSED, OPEN),
            *ruled(FAMILIES, PLAIN),
        ]
    )


def timm_page() -> str:
    """families-timm.md"""
    from support.timm_sweep import FAMILIES, GROUPS, OPEN, REFUSED

    libraries = f"timm {version('timm')}, torchvision {version('torchvision')} and torch {version('torch')}"
    return "\n".join(
        [
            "# Models of timm and torchvision",
            "",
            "Tiny random models of the classes below",
            *CHECKED,
            "Written by `python docs/families.py` from",
            f"`tests/support/timm_sweep.py`, with {libraries};",
            "the tests: `make test-timm`, in an environment of its own.",
            *tables(GROUPS, FAMILIES, REFUSED, OPEN),
        ]
    )


PAGES = {"families.md": ("transformers", page), "families-timm.md": ("timm", timm_page)}


if __name__ == "__main__":
    for name, (library, make) in PAGES.items():
        if importlib.util.find_spec(library):
            (ROOT / "docs" / name).write_text(make(), encoding="utf-8")
            print(f"wrote docs/{name}")
