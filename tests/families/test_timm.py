"""Every model of timm_sweep.py, by what must hold of any Transformer (checks.py). Runs in `make test-timm` only."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import regard
from regard.errors import RegardError

pytest.importorskip("timm", reason="timm and torchvision have an environment of their own: make test-timm")
from support.checks import CHECKS, Check, rows, state
from support.ruled import check_rules
from support.timm_sweep import FAMILIES, OPEN, REFUSED

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", rows(FAMILIES))
def test_model(name: str, check: Check) -> None:
    check(state(FAMILIES[name]))


@pytest.mark.parametrize("name", rows(FAMILIES))
def test_rules_of_the_backward_pass(name: str) -> None:
    check_rules(FAMILIES[name], set())


@pytest.mark.parametrize("name", rows(REFUSED))
def test_what_cannot_be_explained_is_refused_by_name(name: str) -> None:
    refusal = REFUSED[name]
    with pytest.raises(RegardError, match=refusal.says):
        regard.explain(refusal.family.build(), dict(refusal.family.inputs), refusal.family.target)


def test_the_table_holds_what_was_promised() -> None:
    assert len(FAMILIES) >= 20
    assert all(r.why for r in [*REFUSED.values(), *OPEN.values()])


def test_the_page_of_families_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "families.py"))["timm_page"]()
    page = (ROOT / "docs" / "families-timm.md").read_text(encoding="utf-8")
    table = lambda text: [line for line in text.splitlines() if line.startswith("|")]  # noqa: E731
    assert table(page) == table(made), "docs/families-timm.md is out of date: run `python docs/families.py`"
