"""Attention against post-hoc maps: models whose agreement is known, what is left out, and what stays as it was."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import regard
from regard import zoo
from regard.errors import InputError, Misuse, ModelError, UnknownName
from regard.evaluation.posthoc_agreement import PosthocAgreement
from regard.evaluation.rank_agreement import METRICS
from support.as_found import assert_unchanged, state
from support.posthoc_models import TOKENS, Placed, against, alike, opposite

torch.set_num_threads(1)
CHEAP: dict[str, Any] = {"attention": ["raw_attention"], "posthoc": ["gradient", "input_x_gradient", "occlusion"]}


def ones(batch: int = 1, tokens: int = TOKENS) -> Tensor:
    return torch.ones(batch, tokens, 3, dtype=torch.float64)


def inputs(count: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(1, TOKENS, 3, generator=draw, dtype=torch.float64) for _ in range(count)]


def compared(model: nn.Module, data: Any, target: Any = 0, **how: Any) -> PosthocAgreement:
    found: PosthocAgreement = regard.attention_vs_posthoc(model, data, target, **(CHEAP | how))
    return found


# -- answers that are known -----------------------------------------------------------------------------------------------


def test_equal_maps_agree_in_everything() -> None:
    found = compared(alike(), [ones(), 2 * ones()])
    for metric in ("kendall", "spearman", "overlap", "kendall_of_sizes", "overlap_of_sizes"):
        for method in ("gradient", "input_x_gradient"):
            assert found.interval("raw_attention", method, metric) == (pytest.approx(1),) * 3, metric
    assert found.values("raw_attention", "input_x_gradient", "sign_disagreement").tolist() == [0, 0]
    assert math.isnan(found.interval("raw_attention", "gradient", "sign_disagreement").value)  # lengths have no sign
    assert found.undefined("raw_attention", "gradient", "sign_disagreement") == 2
    one = found.inputs[0]
    assert (one.units, one.k, one.unit, one.stream) == (TOKENS, 1, "token", "input")
    assert found.chance == pytest.approx(1 / TOKENS)


def test_opposite_maps_have_minus_one() -> None:
    found = compared(opposite(), [ones()])
    assert found.values("raw_attention", "gradient").tolist() == [pytest.approx(-1)]
    assert found.values("gradient", "raw_attention", "spearman").tolist() == [pytest.approx(-1)]
    assert found.values("raw_attention", "gradient", "overlap").tolist() == [0]
    assert found.between("attention", "posthoc", "overlap").value < 0.5


def test_evidence_against_under_the_highest_attention() -> None:
    found = compared(against(), [ones()], top=0.2)
    assert found.inputs[0].k == 2
    assert found.values("raw_attention", "input_x_gradient", "sign_disagreement").tolist() == [1]
    assert found.values("raw_attention", "input_x_gradient", "overlap").tolist() == [0]
    assert found.values("raw_attention", "input_x_gradient", "overlap_of_sizes").tolist() == [1]
    floor = found.values("random", "input_x_gradient", "sign_disagreement")[0]
    assert 0 <= floor <= 1


@pytest.mark.parametrize("share", [0.1, 0.11, 0.3, 0.5])
def test_k_is_the_share_rounded_up(share: float) -> None:
    assert compared(alike(), [ones()], top=share).inputs[0].k == math.ceil(share * TOKENS)


def test_a_constant_map_is_counted_not_hidden() -> None:
    flat = Placed(torch.ones(TOKENS), torch.arange(1.0, TOKENS + 1))
    found = compared(flat, [ones(), ones()])
    assert found.undefined("raw_attention", "gradient") == 2
    assert math.isnan(found.interval("raw_attention", "gradient").value)
    assert found.values("raw_attention", "gradient", "overlap") == pytest.approx([1 / TOKENS] * 2)
    assert found.table()[1][:2] == ["raw_attention", "–"]


def test_scores_of_a_word_are_the_sum_of_its_tokens_and_special_tokens_are_no_units() -> None:
    reader = regard.load("zoo/bert-sentiment")
    text = "The unforgettable cinematography of Vezelay was breathtaking."
    how: dict[str, Any] = {"attention": ["rollout"], "posthoc": ["lime", "occlusion"], "samples": 32}
    found = reader.attention_vs_posthoc([text], **how)
    raw, spelt = found.shown[0].maps["rollout"].inputs["input_ids"][0], found.inputs[0]
    assert spelt.unit == "word"
    assert spelt.units == len(raw.words)
    assert len(raw.tokens) - 2 > len(raw.words)
    assert reader.attention_vs_posthoc([text], unit="token", **how).inputs[0].units == len(raw.tokens) - 2
    maps = {m: [w.score for w in found.shown[0].maps[m].words[0]] for m in ("rollout", "lime", "occlusion")}
    own = reader.explain(text, method=["lime", "occlusion"], unit="word", bow=False, samples=32)
    assert maps["lime"] == pytest.approx([w.score for w in own[0].words[0]])
    assert maps["occlusion"] == pytest.approx([w.score for w in own[1].words[0]])
    from scipy.stats import kendalltau

    assert found.values("rollout", "lime")[0] == pytest.approx(kendalltau(maps["rollout"], maps["lime"]).statistic)
    assert spelt.label in ("positive", "negative")
    assert re.search(r"^attention with post-hoc: τ-b −?0\.\d\d$", str(found), re.M), str(found)  # of one input


# -- many inputs ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_as_its_samples_alone_and_inputs_are_read_one_by_one() -> None:
    alone, read = inputs(3), list[int]()

    def one_by_one() -> Iterator[Tensor]:
        for i, x in enumerate(alone):
            read.append(i)
            yield x

    told: list[tuple[str, int, int]] = []
    single = compared(against(), one_by_one(), told=lambda *step: told.append((*step, len(read))), names=["a", "b"])
    batch = compared(against(), [torch.cat(alone)])
    assert [i.name for i in single.inputs] == ["a", "b", "input 2"]
    assert [i.name for i in batch.inputs] == [f"input 0, sample {i}" for i in range(3)]
    assert told == [("a", 0, 0, 1), ("b", 1, 0, 2), ("input 2", 2, 0, 3)]
    for one, other in zip(single.inputs, batch.inputs, strict=True):
        for name in METRICS:
            np.testing.assert_allclose(one.values[name], other.values[name], atol=1e-12, err_msg=name)


def test_inputs_of_one_group_are_drawn_together() -> None:
    data = inputs(6)
    apart = compared(against(), data)
    together = compared(against(), data, groups=["a"] * 3 + ["b"] * 3)
    pair = ("raw_attention", "input_x_gradient")
    assert apart.interval(*pair).value == together.interval(*pair).value
    assert apart.interval(*pair)[1:] != together.interval(*pair)[1:]
    assert [i.group for i in together.inputs] == ["a"] * 3 + ["b"] * 3
    assert [i.group for i in apart.inputs] == [(i, 0) for i in range(6)]


def test_means_over_kinds_are_means_of_pairs() -> None:
    found = compared(against(), inputs(4), attention=["raw_attention", "rollout"])
    pairs = [(a, b) for a in found.of_kind("attention") for b in found.of_kind("posthoc")]
    assert found.between("attention", "posthoc").value == pytest.approx(np.mean([found.values(*p) for p in pairs]))
    own = [("gradient", "input_x_gradient"), ("gradient", "occlusion"), ("input_x_gradient", "occlusion")]
    assert found.means("posthoc", "posthoc") == pytest.approx(np.mean([found.values(*p) for p in own], 0))
    assert math.isnan(found.between("floor", "floor").value)
    least, most = found.shown
    agreement = found.means("attention", "posthoc")
    assert (least.agreement, most.agreement) == (pytest.approx(agreement.min()), pytest.approx(agreement.max()))
    assert (least.name, most.name) == (f"input {agreement.argmin()}", f"input {agreement.argmax()}")
    assert set(least.maps) == {m.title for m in found.methods}


def test_records_are_every_ordered_pair() -> None:
    found = compared(against(), inputs(2))
    rows = found.records()
    assert len(rows) == 2 * 5 * 4
    row = next(r for r in rows if (r["input"], r["first"], r["second"]) == ("input 1", "raw_attention", "gradient"))
    assert row["kendall"] == found.values("raw_attention", "gradient")[1]
    assert (row["first_kind"], row["second_kind"], row["units"], row["k"]) == ("attention", "posthoc", TOKENS, 1)
    assert set(METRICS) < set(row)
    assert "attention with post-hoc: τ-b " in str(found)
    assert str(found).endswith("2 inputs compared, 0 left out")


# -- what is left out -----------------------------------------------------------------------------------------------------


def test_an_input_that_fails_is_told_and_the_run_goes_on() -> None:
    nan = ones() * torch.nan
    found = compared(alike(), [nan, ones(), ones(tokens=4)[:, :, :1], "words", ones()])
    assert [i.name for i in found.inputs] == ["input 1", "input 4"]
    assert [(one.name, one.method) for one in found.missing] == [("input 0", ""), ("input 2", ""), ("input 3", "")]
    assert found.missing[0].reason.startswith("NonFinite: ")
    assert "3 left out" in str(found)


def test_too_few_tokens_are_no_failure() -> None:
    model = Placed(torch.arange(1.0, 8), torch.ones(7))
    with pytest.raises(Misuse, match=r"nothing to compare: no input has 8 words, patches or tokens \(2 were given\)"):
        compared(model, [ones(tokens=7), ones(tokens=7)])


def test_a_method_that_fails_is_left_out_alone() -> None:
    tried: list[Any] = []

    def explained(model: Any, item: Any, target: Any, names: list[str], **how: Any) -> Any:
        tried.append(names)
        if "smoothgrad" in names:
            raise ZeroDivisionError
        return regard.explain(model, item, target, names, **how)

    data = [ones(), 2 * ones(), 3 * ones()]
    found = compared(alike(), data, posthoc=["gradient", "smoothgrad"], explained=explained)
    assert len(found.inputs) == 3
    assert [(one.method, one.reason) for one in found.left_out] == [("smoothgrad", "ZeroDivisionError: ")] * 3
    assert not found.missing
    assert found.undefined("raw_attention", "smoothgrad") == 3
    assert found.interval("raw_attention", "gradient").value == pytest.approx(1)
    assert tried[0] == ["raw_attention", "gradient", "smoothgrad", "random"]
    assert {len(names) for names in tried[1:]} == {1}  # the call was split once, for good


def test_where_all_fail_the_first_error_is_raised() -> None:
    with pytest.raises(UnknownName, match="unknown label 'dog'"):
        regard.load("zoo/bert-sentiment").attention_vs_posthoc(["A fine film it was, to be sure."], "dog", **CHEAP)
    with pytest.raises(InputError):
        regard.load("zoo/vit-scenes").attention_vs_posthoc(["none.png", "nor.png"], **CHEAP)


# -- what is refused before a run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"attention": ["gradient"]}, Misuse, "'gradient' reads no attention map; name it among the post-hoc methods"),
        ({"attention": []}, Misuse, "attention= is a list of methods, at least one"),
        ({"posthoc": "lime"}, Misuse, "posthoc= is a list of methods"),
        ({"posthoc": ["limes"]}, UnknownName, "did you mean 'lime'"),
        ({"posthoc": ["gradient", "random"]}, Misuse, "random is always there"),
        ({"posthoc": ["gradient", "gradient"]}, Misuse, "'gradient' is named twice"),
        ({"posthoc": [("gradient", {"reduces": "l1"})]}, UnknownName, "did you mean 'reduce'"),
        ({"sample": 3, "posthoc": ["lime"]}, UnknownName, "did you mean 'samples'"),
        ({"top": 0.7}, Misuse, "top is the share"),
        ({"top": True}, Misuse, "top is the share"),
        ({"unit": "letter"}, UnknownName, "unit of a causal test"),
        ({"target": [0, 1]}, Misuse, "one target can be compared"),
        ({"data": ones()}, Misuse, "not a Tensor: put it in a list"),
        ({"data": {"x": ones()}}, Misuse, "not a dict: put it in a list"),
        ({"data": []}, Misuse, "there are no inputs"),
    ],
)
def test_what_cannot_be_asked(how: dict[str, Any], error: type[Exception], words: str) -> None:
    asked = {"data": [ones()], "target": 0} | how
    with pytest.raises(error, match=words):
        compared(alike(), **asked)


def test_a_model_in_train_mode_is_refused_at_once() -> None:
    with pytest.raises(ModelError, match="train mode"):
        compared(alike().train(), [ones()])


def test_unknown_names_of_the_result() -> None:
    found = compared(alike(), [ones()])
    for ask in (
        functools.partial(found.interval, "raw_attention", "gradint"),
        functools.partial(found.interval, "raw_attention", "gradient", "kendal"),
        functools.partial(found.between, "attention", "posthok"),
    ):
        with pytest.raises(UnknownName, match="did you mean"):
            ask()


# -- what is asked of methods ---------------------------------------------------------------------------------------------


def test_options_of_one_method_and_of_all() -> None:
    asked: list[tuple[list[str], dict[str, Any]]] = []

    def explained(model: Any, item: Any, target: Any, names: list[str], **how: Any) -> Any:
        asked.append((names, how))
        return regard.explain(model, item, target, names, **how)

    some = ["gradient", ("gradient", {"reduce": "mean"}), "lime", "occlusion"]
    found = compared(alike(), [ones()], posthoc=some, samples=50, baseline=0, explained=explained)
    assert [m.title for m in found.methods] == [
        "raw_attention",
        "gradient",
        "gradient, reduce=mean",
        "lime",
        "occlusion",
        "random",
    ]
    assert [names for names, _ in asked] == [
        ["raw_attention", "gradient", "random"],
        ["gradient"],
        ["lime", "occlusion"],
    ]
    assert asked[1][1] == {"seed": 0, "reduce": "mean"}
    assert asked[2][1] == {"seed": 0, "unit": "word", "bow": False, "samples": 50, "baseline": 0}


def test_what_is_kept_holds_no_model() -> None:
    found = compared(alike(), [ones()])
    (shown,) = found.shown
    assert all(not e.late_test.possible and e.receipt.attribution_error is None for e in shown.maps.values())


def test_a_model_is_left_as_it_was_also_where_an_input_fails() -> None:
    model, x = against(), {"x": ones()}
    before = state(model, x)
    compared(model, [x, {"x": x["x"] * torch.nan}])
    assert_unchanged(before, state(model, x))


@pytest.mark.long
def test_pictures_of_the_zoo() -> None:
    reader, scenes = regard.load("zoo/vit-scenes"), zoo.scenes()
    data = [scenes.images[i].numpy() for i in range(4)]
    found = reader.attention_vs_posthoc(data, samples=64)
    assert {(i.unit, i.units, i.k) for i in found.inputs} == {("patch", 64, 7)}
    assert [i.name for i in found.inputs] == [f"input {i}" for i in range(4)]
    assert found.between("attention", "posthoc").value > found.between("floor", "posthoc").value
