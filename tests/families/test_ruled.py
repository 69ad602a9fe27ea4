"""Every family of the table (support/sweep) under each rule set: the values of the model itself, and gradients by rules."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers")
from support.checks import rows
from support.family import Family
from support.ruled import check_rules
from support.sweep import FAMILIES, PLAIN

SHORT = {"roberta", "gpt-neox", "gemma2", "gpt-oss", "swin", "clip", "torch-encoder", "detr"}


def sampled(table: dict[str, Family]) -> list[Any]:
    """All rows, those beyond a sample long."""
    kept = []
    for row in rows(table):
        (name,) = row.values
        marks = [m for m in row.marks if m.name != "long"] + ([] if name in SHORT else [pytest.mark.long])
        kept.append(pytest.param(name, marks=marks))
    return kept


@pytest.mark.parametrize("name", sampled(FAMILIES))
def test_values_are_the_models_own_and_what_is_of_no_kind_is_named(name: str) -> None:
    check_rules(FAMILIES[name], set(PLAIN.get(name, {})))
