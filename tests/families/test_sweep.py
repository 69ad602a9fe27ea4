"""Every family of the table (support/sweep), by what must hold of any Transformer (checks.py)."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import regard
from regard.errors import RegardError

pytest.importorskip("transformers")
from support.checks import CHECKS, Check, rows, state
from support.sweep import FAMILIES, GROUPS, OPEN, OUTSIDE, REFUSED

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", rows(FAMILIES))
def test_family(name: str, check: Check) -> None:
    check(state(FAMILIES[name]))


@pytest.mark.parametrize("name", rows(FAMILIES))
def test_mixing_outside_attention_is_told(name: str) -> None:
    s = state(FAMILIES[name])
    assert set(s.recording.mixers) == OUTSIDE.get(name, set())
    assert bool(s.recording.mixers) == any("mixed outside attention" in n for n in s.maps[0].receipt.notes)


@pytest.mark.parametrize("name", rows(REFUSED))
def test_what_cannot_be_explained_is_refused_by_name(name: str) -> None:
    refusal = REFUSED[name]
    with pytest.raises(RegardError, match=refusal.says):
        regard.explain(refusal.family.build(), dict(refusal.family.inputs), refusal.family.target)


def test_the_table_holds_what_was_promised() -> None:
    assert len(FAMILIES) >= 70
    assert {f.group for f in FAMILIES.values()} == set(GROUPS)
    assert all(r.why for r in [*REFUSED.values(), *OPEN.values()])


def test_the_page_of_families_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "families.py"))
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    table = lambda text: [line for line in text.splitlines() if line.startswith("|")]  # noqa: E731
    assert table(page) == table(made["page"]()), "docs/families.md is out of date: run `python docs/families.py`"


def test_the_page_of_timm_names_every_row_of_its_table() -> None:
    """timm itself is in another environment, where test_timm.py compares the whole page."""
    table = re.findall(
        r'^row\(\s*"([^"]+)"', (ROOT / "tests" / "support" / "timm_sweep.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    page = re.findall(
        r"^\| (\S+) \| (?:timm|torchvision) \|", (ROOT / "docs" / "families-timm.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(table) >= 20
    assert sorted(page) == sorted(table), "run `python docs/families.py` in the environment of `make test-timm`"
