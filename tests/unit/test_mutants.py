"""Every mutant of a rule is found: by `regard.verify`, or by the literal twin of the whole map (mutants.py says which)."""

from __future__ import annotations

import importlib
import runpy
from contextlib import suppress
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
import regard
from support import checks
from support.mutant_models import MOVES, PARTS, InParts, model
from support.mutants import KINDS, MUTANTS, NotReached, mutated
from support.sweep import FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "verify.md"
QUICK = 6
"""One in so many runs in `make test`."""


@pytest.fixture(autouse=True)
def named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One contradiction will do."""
    monkeypatch.setattr(importlib.import_module("regard.recording.proof.verify"), "MOST", 1)


def often(names: list[str]) -> list[object]:
    return [pytest.param(n, marks=[] if i % QUICK == 0 else [pytest.mark.long]) for i, n in enumerate(names)]


@pytest.mark.parametrize("name", [*MOVES, *KINDS])
def test_rules_as_they_are_are_right(name: str) -> None:
    assert regard.verify(*model(name)).contradictions == []


@pytest.mark.parametrize("name", often([n for n, m in MUTANTS.items() if m.found == "verify"]))
def test_verify_finds(name: str) -> None:
    for on in MUTANTS[name].on:
        with mutated(name):
            found = regard.verify(*model(on))
        assert not found.ok, on


def twins_agree(name: str) -> None:
    """The maps of a family are those of the literal joint roll-out, and its keys the tokens that they are said to be."""
    if name in PARTS:
        written, x = model(name)
        assert isinstance(written, InParts)
        torch.testing.assert_close(regard.explain(written, x, 1, "rollout").scores["input"], written.rollout(x))
        return
    state = checks.state.__wrapped__(FAMILIES[name])
    checks.maps_equal_the_full_joint_roll_out(state)
    checks.keys_are_the_tokens_that_they_are_said_to_be(state)


@pytest.mark.parametrize("name", PARTS)
def test_twins_agree_as_rules_are(name: str) -> None:
    """(Those of families: test_sweep.py.)"""
    twins_agree(name)


@pytest.mark.parametrize("name", often([n for n, m in MUTANTS.items() if m.found == "twin"]))
def test_a_twin_finds(name: str) -> None:
    for on in MUTANTS[name].on:
        with mutated(name), pytest.raises(AssertionError):
            twins_agree(on)


@pytest.mark.long
@pytest.mark.parametrize("name", [n for n, m in MUTANTS.items() if m.found == "twin"])
def test_verify_says_nothing_of_what_it_does_not_prove(name: str) -> None:
    """The page says that these are the twins' to find; should verify come to find one, the page is to say so."""
    for on in MUTANTS[name].on:
        torch.manual_seed(checks.SEED)
        built = model(on) if on in PARTS else (FAMILIES[on].build(), dict(FAMILIES[on].inputs))
        with suppress(NotReached), mutated(name):  # verify takes no read-out, and follows no relevance
            assert regard.verify(*built).ok, on


def test_a_mutant_of_code_that_does_not_run_is_no_test() -> None:
    with pytest.raises(NotReached), mutated("merge off"):
        regard.verify(*model("flip"))


def test_there_are_enough() -> None:
    assert len(MUTANTS) >= 25
    assert {m.found for m in MUTANTS.values()} == {"verify", "twin"}


def test_the_page_is_up_to_date() -> None:
    made = runpy.run_path(str(PAGE.with_name("mutants.py")))
    assert made["rewritten"](PAGE.read_text(encoding="utf-8")) == PAGE.read_text(encoding="utf-8"), (
        "docs/verify.md is out of date: run `python docs/mutants.py`"
    )
