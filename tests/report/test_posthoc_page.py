"""The page of attention against post-hoc maps: what it says, that it holds nothing foreign, and what is undefined."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch

import regard
from regard.evaluation.posthoc_agreement import LeftOut, PosthocAgreement
from regard.evaluation.rank_agreement import METRICS
from regard.report.posthoc.html import page
from support.posthoc_models import TOKENS, Placed, against

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def found() -> PosthocAgreement:
    draw = torch.Generator().manual_seed(2)
    data = [torch.randn(1, TOKENS, 3, generator=draw, dtype=torch.float64) for _ in range(3)]
    names = ["<b>one</b>", "two", "three"]
    how: dict[str, Any] = {"attention": ["raw_attention"], "posthoc": ["gradient", "input_x_gradient"], "names": names}
    made: PosthocAgreement = regard.attention_vs_posthoc(against(), data, 0, **how)
    return made


def test_what_the_page_says(found: PosthocAgreement) -> None:
    shown = page(dataclasses.replace(found, left_out=(LeftOut("four & more", "Misuse: <i>no</i>"),)))
    assert not re.search(r'(src|href|srcset)="(?!data:)', shown)
    assert "<script" not in shown
    assert "<b>one" not in shown
    assert "<i>no" not in shown
    assert "&#34;" not in shown  # no attribute was written as text
    assert "four &amp; more" in shown
    assert "3 inputs compared, 1 left out" in shown
    for metric in METRICS.values():
        assert shown.count(f"{metric.called}</th>") == 1
    mean = found.interval("raw_attention", "input_x_gradient").value
    assert f">{mean:.2f}".replace("-", "−") in shown
    for paper in ("NAACL 2019", "EMNLP 2019", "ICML 2024"):
        assert paper in shown
    assert "Agreeing least" in shown
    assert "Agreeing most" in shown
    assert shown.count('class="inputs"') == 3 + 2 * 2  # the summary (two attention maps there are not); each pair


def test_the_strips_have_a_line_for_each_input(found: PosthocAgreement) -> None:
    shown = page(found)
    label = 'aria-label="raw_attention with gradient: '
    (strip,) = re.findall(rf'{label}.*?class="inputs" d="([^"]*)"', shown)
    values = found.values("raw_attention", "gradient")
    assert strip.split() == [part for v in values for part in (f"M{100 * (v + 1):.1f}", "4V18")]


def test_what_is_undefined_is_said() -> None:
    flat = Placed(torch.ones(TOKENS), torch.arange(1.0, TOKENS + 1))
    some: dict[str, Any] = {"attention": ["raw_attention"], "posthoc": ["gradient"]}
    shown = page(regard.attention_vs_posthoc(flat, [torch.ones(1, TOKENS, 3).double()], 0, **some))
    assert 'title="undefined on all 1"' in shown
    assert "raw_attention with gradient: undefined" in shown
    assert "1 input compared, 0 left out" in shown
    assert "Agreeing" not in shown
    assert "Left out" not in shown
