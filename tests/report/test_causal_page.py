"""The causal test on pages, in terminals and in notebooks: what it says, also where there is none."""

from __future__ import annotations

import math
from typing import Any

from regard.errors import Misuse
from regard.explanation.causal_test import CausalTest, HowTested, LateTest, shown_tested
from regard.report.causal import causal_of, strip
from regard.report.explanation.html import fragment, page
from regard.report.receipt import lines
from support.drawn import NASTY, picture
from support.drawn import causal_test as result


def test_a_page_shows_the_sentence_and_where_the_maps_drop_lies() -> None:
    exp = picture()
    exp.receipt.causal = [result()]
    shown = page([exp])
    said = result().sentence
    assert said.startswith("Without the 2 highest of 16 patches the logit of Bag falls from 3.2 to 1.2 (90 % to 10 %)")
    assert shown.count(said) == fragment(exp).count(said) == 1
    assert "Better than chance" in shown
    assert "Patches are left out of attention; a test of this map on this input, not of the method; 54 passes." in shown
    drawn = strip(exp.receipt.causal[0].highest)
    assert len(drawn["random"]) == 49
    assert drawn["own"] == max([*drawn["random"], drawn["own"]])
    assert shown.count("<i style=") == 49


def test_a_map_that_fails_is_said_to_fail_and_too_few_tokens_are_no_failure() -> None:
    exp = picture()
    exp.receipt.causal = [result(0.1)]
    assert "Not better than chance" in page([exp])
    assert "The map fails: here it is not better than chance." in page([exp])
    few = CausalTest("pixel_values", "patch", 5, 0.1, reason="too few tokens to test")
    exp.receipt.causal = [few]
    (line,) = [x for x in lines(exp) if x.name == "causal test"]
    assert line.value == "Too few tokens to test (5 patches; at least 8 are needed)."
    assert "fail" not in page([exp])
    assert causal_of(exp)[0]["strip"] is None


def test_the_receipt_has_the_line_of_its_own_sample() -> None:
    exp = picture(scores=picture().scores["pixel_values"].repeat(2, 1))
    exp.receipt.causal = [result(), result(0.1, sample=1)]
    said = [[x.value for x in lines(exp, i) if x.name == "causal test"] for i in (0, 1)]
    assert said == [[result().sentence], [result(0.1).sentence]]
    assert [t.sentence for t in exp[1].receipt.causal] == [result(0.1).sentence]


def test_why_there_is_no_test_is_said() -> None:
    def cannot(exp: Any, asked: HowTested, samples: Any, seconds: float) -> list[CausalTest]:
        raise Misuse(f"it would take about {seconds:.0f} minutes")

    exp = picture(late_test=LateTest(cannot))
    shown_tested([exp], False)
    assert exp.untested == ""
    shown_tested([exp])
    assert "it would take about 10 minutes" in page([exp])
    asked: list[float] = []
    exp = picture(late_test=LateTest(lambda e, how, samples, seconds: asked.append(seconds) or [result()]))
    shown_tested([exp], True)
    assert asked == [math.inf]
    assert exp.receipt.causal == [result()]


def test_nothing_of_it_is_code() -> None:
    exp = picture()
    exp.receipt.causal = [result(label=NASTY)]
    assert "<script>alert" not in page([exp]) + fragment(exp)
    assert "<img src=x" not in page([exp]) + fragment(exp)
