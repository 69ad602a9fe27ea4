"""The doctor's page: the answer first, whatever the numbers, and nothing foreign in it."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest

from regard.evaluation.budget import Bought
from regard.evaluation.diagnosis import NONE, Diagnosis, MethodStanding, Spent, verdict
from regard.evaluation.statistics import Interval
from regard.report.doctor.html import page, strip

SURE, NO = Interval(0.1, 0.0, 0.2), Interval(0.0, 0.0, 0.0)


def standing(title: str, mean: float, **more: Any) -> MethodStanding:
    """A method that is better than chance, and has no fault."""
    low, high = max(0.0, mean - 0.05), min(1.0, mean + 0.05)
    fields: dict[str, Any] = {
        "title": title, "rank": Interval(mean, low, high), "examples": 60, "errors": 0, "p_value": 0.001, "worse": 1.0,
        "beats": frozenset(), "places": (1, 3), "head": SURE, "head_unchanged": NO, "final": SURE, "unchanged": NO,
        "redrawn": 10, "noise": Interval(0.9, 0.8, 1.0), "relative_error": None, "checked": 10, "seconds": 0.1,
    }  # fmt: skip
    return MethodStanding(**fields | more)


CONTROL = standing("random", 0.5, p_value=0.6, places=(3, 3))


def made(*standings: MethodStanding, **more: Any) -> Diagnosis:
    titles = tuple(s.title for s in standings)
    spent = Spent(10, 590.0, 0.37, 1000, 1000, Bought(titles, 60, 10, {"lime": 700.0}), {2: Bought(titles, 130, 20)})
    fields: dict[str, Any] = {
        "model": "zoo/<b>x</b>", "data": "photos & <i>more</i>", "standings": standings, "agreement": {},
        "proof": ("12 rows rest on the tokens that maps name", True), "spent": spent, "failures": {},
    }  # fmt: skip
    return Diagnosis(**fields | more)


def test_the_answer_comes_first_and_nothing_is_foreign() -> None:
    found = made(standing("gae", 0.95, beats=frozenset({"random"})), standing("gim", 0.9), CONTROL)
    shown = page(found)
    assert not re.search(r'(src|href|srcset)="(?!data:|#)', shown)
    assert "<script" not in shown
    assert "<b>x" not in shown
    assert "<i>more" not in shown
    assert "zoo/&lt;b&gt;x&lt;/b&gt;" in shown
    answer = (
        "Use gae by default: on 60 examples of photos &amp; &lt;i&gt;more&lt;/i&gt;, what it puts first matters more"
    )
    assert f'<p class="answer good">{answer}' in shown
    assert shown.index(answer) < shown.index("The ranking")
    assert "gim cannot be told from it." in shown
    assert "Nothing was found against a method. That is no proof that there is nothing." in shown
    assert "Random maps, the control, beat 50 % (45 to 55 %) of random choices, as they should" in shown
    assert "Left out as too dear for 50 examples: lime (12 minutes)." in shown
    assert "Twice the time would buy 130 examples, and intervals 32 % narrower." in shown


def test_it_says_so_where_nothing_is_better_than_chance() -> None:
    found = made(standing("gae", 0.55, p_value=0.3), CONTROL)
    assert found.recommended is None
    shown = page(found)
    assert '<p class="answer">No method is shown to be better than chance on 60 examples' in shown
    assert (
        "It is not shown to be better than chance: it beats 55 % (95 % interval 50 to 60 %) of random choices" in shown
    )


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"unchanged": Interval(1.0, 1.0, 1.0)}, "It is not a map of your model: all of its 10 maps stay the same"),
    ({"unchanged": Interval(1.0, 1.0, 1.0), "redrawn": 1}, "your model: its only map that was checked stays the same"),
    ({"head_unchanged": Interval(0.9, 0.8, 1.0)}, "It does not know which class is explained: 9 of its 10 maps"),
    ({"final": Interval(0.7, 0.6, 0.8)}, "It hardly rests on what your model learned: with all weights drawn anew"),
    ({"noise": Interval(0.2, 0.1, 0.3)}, "It is unstable: with noise of 5 % on the input its maps keep"),
    (
        {"rank": Interval(0.2, 0.1, 0.3), "worse": 0.01, "p_value": 1.0},
        "It is worse than chance: what it puts first matters less",
    ),
]


@pytest.mark.parametrize(("fault", "said"), FAULTS)
def test_a_fault_is_said_and_rules_a_method_out(fault: dict[str, Any], said: str) -> None:
    best = standing("gae", 0.95, **fault)
    found = made(best, standing("gim", 0.8), CONTROL)
    assert said in page(found)
    assert found.recommended == "gim"
    assert "gae" not in found.tied
    alone = made(best, CONTROL)
    assert alone.recommended is None
    assert alone.sentence.startswith("Use none by default: gae is better than" if best.better else "No method is shown")


def test_sums_and_agreement_are_doubts_that_rule_nothing_out() -> None:
    best = standing("input_x_gradient", 0.95, relative_error=Interval(0.99, 0.9, 1.1))
    agreement = {
        ("input_x_gradient", "gim"): Interval(-0.1, -0.2, 0.0),
        ("gim", "input_x_gradient"): Interval(-0.1, -0.2, 0.0),
    }
    found = made(best, standing("gim", 0.8), CONTROL, agreement=agreement)
    assert found.recommended == "input_x_gradient"
    shown = page(found)
    assert "they miss what they should add up to by 99 % (90 to 110 %). Read their order, not their size." in shown
    assert (
        "It does not agree with input_x_gradient, though both are better than chance: their maps have a rank" in shown
    )
    assert "−0.10 (−0.20 to 0.00)" in shown


def test_what_is_surely_worse_is_not_tied() -> None:
    best = standing("gae", 0.95, beats=frozenset({"gim", "random"}))
    found = made(best, standing("gim", 0.7, places=(2, 2)), CONTROL)
    assert found.tied == []
    assert found.sentence.endswith("of cases.")
    many = made(standing("gae", 0.95), *(standing(f"m{i}", 0.9, seconds=2.0 - i / 10) for i in range(5)), CONTROL)
    assert many.sentence.endswith("; 5 others cannot be told from it, m4 the fastest of them.")


def test_data_that_are_used_up_are_said_to_be() -> None:
    bought = Bought(("gae", "random"), 40, 10)
    spent = Spent(10, 300.0, 0.37, 40, 40, bought, {2: bought, 4: Bought(("gae", "random", "lime"), 40, 20)})
    found = made(
        standing("gae", 0.9, examples=36, errors=4), standing("random", 0.5, examples=36, errors=4), spent=spent
    )
    shown = "\n".join(found.purchase)
    assert "The data hold no more than 40 examples, and 4 of them failed; a verdict should rest on 50 or more." in shown
    assert "Twice the time would buy nothing new.\nFour times the time would buy also lime." in shown
    fewer = dataclasses.replace(found, spent=dataclasses.replace(spent, available=1000))
    assert "No more than 40 examples were asked for; a verdict should rest on 50 or more." in fewer.purchase


def test_a_map_that_a_new_last_layer_hardly_changes_is_not_the_one_to_use() -> None:
    found = made(standing("gradient", 0.95, head=Interval(1.0, 0.99, 1.0)), standing("gim", 0.8), CONTROL)
    (doubt,) = found.doubts
    assert doubt.sentence == (
        "It hardly depends on which class is explained: with the weights of the last layer drawn anew its maps keep a rank "
        "correlation of 1.00 (0.99 to 1.00)."
    )
    assert found.recommended == "gim"
    assert found.tied == []
    assert verdict(found.of("gradient"), found) == "better than chance, but see below"


def test_what_is_not_surely_of_no_class_is_not_said_to_be() -> None:
    almost = [Interval(0.95, 0.89, 0.99), Interval(-0.95, -0.99, -0.9)]
    for head in almost:
        assert not made(standing("gradient", 0.9, head=head), standing("gim", 0.8), CONTROL).doubts
    few = standing("gradient", 0.9, head=Interval(1.0, 0.99, 1.0), redrawn=4)
    assert not made(few, standing("gim", 0.8), CONTROL).doubts
    alike = [standing(name, 0.9, head=Interval(1.0, 0.99, 1.0)) for name in ("gradient", "gim")]
    assert not made(*alike, CONTROL).doubts  # the new last layer is much like the old one
    equal = standing("rollout", 0.9, head=Interval(1.0, 1.0, 1.0), head_unchanged=Interval(1.0, 1.0, 1.0))
    (doubt,) = made(equal, CONTROL).doubts
    assert "does not know which class" in doubt.sentence


@pytest.mark.parametrize(
    ("twice", "four", "said"),
    [
        (60, 60, ["More time would buy nothing new: all examples and methods that were asked for are in."]),
        (98, 98, ["Twice the time would buy 98 examples, and intervals 22 % narrower, and four times the time no more."]),
        (98, 100, ["Twice the time would buy 98 examples, and intervals 22 % narrower, and four times the time hardly more."]),
        (98, 200, ["Twice the time would buy 98 examples, and intervals 22 % narrower.", "Four times the time would buy 200"]),
    ],
)  # fmt: skip
def test_more_time_is_told_once_where_it_buys_the_same(twice: int, four: int, said: list[str]) -> None:
    bought = Bought(("gae", "random"), 60, 10)
    later = {times: dataclasses.replace(bought, examples=count) for times, count in ((2, twice), (4, four))}
    found = made(standing("gae", 0.9), CONTROL, spent=Spent(10, 590.0, 0.37, 1000, 1000, bought, later))
    told = found.purchase[1:]
    assert len(told) == len(said)
    assert all(line.startswith(expected) for line, expected in zip(told, said, strict=True))


def test_where_there_are_no_numbers() -> None:
    empty = standing(
        "gae", math.nan, examples=0, errors=60, p_value=1.0, rank=NONE, head=NONE, head_unchanged=NONE, final=NONE,
        unchanged=NONE, noise=NONE, checked=0, seconds=math.nan,
    )  # fmt: skip
    found = made(empty, failures={"Misuse: <u>no</u>": 60}, proof=("it could not be verified (no attention)", None))
    shown = page(found)
    assert "Nothing could be tested: see the errors." in shown
    assert "nan" not in shown.lower().replace("explanation", "")
    assert "<u>no" not in shown
    assert "It is not known whether the tokens that maps name are the right ones" in shown
    assert strip(NONE) == {}
    assert "gae" in str(found)
    assert "nan" not in found.csv()


def test_a_recording_that_is_wrong_comes_before_all() -> None:
    wrong = made(
        standing("gae", 0.95), CONTROL, proof=("1 contradiction: maps of this model and input would be wrong", False)
    )
    assert wrong.sentence.startswith("Believe no map of this model yet: 1 contradiction")
    assert '<p class="answer">Believe no map' in page(wrong)
    off = made(standing("gae", 0.95), dataclasses.replace(CONTROL, p_value=0.001, rank=Interval(0.7, 0.6, 0.8)))
    assert "where 50 % are expected: read all numbers here with caution" in page(off)
