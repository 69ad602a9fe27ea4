"""The in-memory runner and the summaries: deterministic, batch = single, errors as rows, right and wrong apart, pairs."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import regard
from regard import zoo
from regard.errors import Misuse, UnknownName
from regard.evaluation import (
    Example,
    Perturbation,
    Row,
    Sanity,
    Segmentation,
    consistency,
    curve,
    differences,
    evaluate_rows,
    examples_of,
    summaries,
)
from regard.evaluation.statistics import bootstrap
from regard.explanation.raw_inputs import Reading

SHORT = Perturbation("token", "drop", steps=(0.5,), auc=(0, 0.5))


@pytest.fixture(scope="module")
def vit():
    return regard.load("zoo/vit-scenes")


@pytest.fixture(scope="module")
def examples(vit):
    scenes = zoo.scenes().select(torch.arange(5))
    return examples_of(vit.read(list(scenes.images)), labels=scenes.labels[:, 0], masks=scenes.masks[:, 0])


def test_rows_do_not_depend_on_the_batch(vit, examples):
    """The trap: batch-wide normalisations. Also: twice the same."""
    protocols = [SHORT, Segmentation()]
    methods = ["random", ("corrected_attention", {"sign": "signed"})]
    many = evaluate_rows(vit.model, examples[:2], methods, protocols, batch=16)
    single = evaluate_rows(vit.model, examples[:2], methods, protocols, batch=1)
    assert many == evaluate_rows(vit.model, examples[:2], methods, protocols, batch=16)
    assert [r.method for r in many[::4]] == ["random", "corrected_attention, sign=signed"]
    assert len(many) == 2 * 2 * 2
    for a, b in zip(many, single):
        assert (a.protocol, a.method, a.example, a.error) == (b.protocol, b.method, b.example, "")
        for name in (n for n in a.values if not n.startswith("_")):
            # maps are equal to 1e-6; a pixel at a threshold may fall on its other side, one in 4096
            assert a.values[name] == pytest.approx(b.values[name], abs=1e-3), name


def test_texts_of_different_lengths_need_no_padding():
    bert = regard.load("zoo/bert-sentiment")
    texts = [s.text for s in zoo.sentences()[:4]]
    together = examples_of(bert.read(texts), labels=[0, 1, 0, 1])
    assert [len(e.reading.inputs["input_ids"][0]) for e in together] == [
        len(bert.read([t]).inputs["input_ids"][0]) for t in texts
    ]
    assert [e.raw("input_ids").tokens for e in together] == [bert.read([t]).raw["input_ids"][0].tokens for t in texts]
    rows = evaluate_rows(bert.model, together, ["gae"], [Perturbation("word", "drop"), Sanity("padding")])
    assert not any(r.error for r in rows)
    assert all(r.values["padded_scores"] == 0 for r in rows[4:])


def test_a_bad_example_is_a_row_with_its_error_and_spoils_no_other(vit, examples):
    nan = Example("nan", Reading({"pixel_values": torch.full((1, 3, 64, 64), math.nan)}), label=0)
    unread = Example("unread", Reading({}), label=1, error="InputError: no such file")
    wide = Example("wide", Reading({"pixel_values": torch.zeros(1, 3, 64, 72)}), label=1)
    no_label = Example("nobody", examples[0].reading)
    mixed = [examples[0], nan, unread, wide, no_label, *examples[1:3]]
    protocol = Perturbation("token", "drop", explained="true", steps=(0.5,), auc=(0, 0.5))
    rows = evaluate_rows(vit.model, mixed, ["gae"], [protocol])
    good = evaluate_rows(vit.model, examples[:3], ["gae"], [protocol])
    by = {r.example: r for r in rows}
    assert [r.example for r in rows] == [e.name for e in mixed]
    assert "NonFinite" in by["nan"].error
    assert by["unread"].error == "InputError: no such file"
    assert by["wide"].error
    assert "no label" in by["nobody"].error
    for row in good:
        assert by[row.example].values["aopc"] == pytest.approx(row.values["aopc"], abs=1e-4)
    found = summaries(rows)
    assert {s.errors for s in found} == {4}
    assert {s.examples for s in found} == {3}


def test_a_baseline_and_a_site_are_options_too(vit, examples):
    blur, site = regard.Baseline.blur(8.0), regard.Site.block(1)
    methods = ["revised_ig", ("revised_ig", {"baseline": blur}), ("revised_ig", {"site": site})]
    plain, blurred, there = evaluate_rows(vit.model, examples[:1], methods, [Segmentation()])
    assert (blurred.method, there.method) == ("revised_ig, baseline=blur, sigma 8", "revised_ig, site=block[1]")
    assert not any(r.error for r in (plain, blurred, there))
    assert len({r.values["ap"] for r in (plain, blurred, there)}) == 3
    with pytest.raises(UnknownName):
        evaluate_rows(vit.model, examples, [("revised_ig", {"baselin": blur})], [SHORT])


def test_misuse_is_raised_before_anything_runs(vit, examples):
    with pytest.raises(UnknownName):
        evaluate_rows(vit.model, examples, ["gea"], [SHORT])
    with pytest.raises(UnknownName):
        evaluate_rows(vit.model, examples, [("gae", {"sing": 1})], [SHORT])
    with pytest.raises(Misuse, match="same name"):
        evaluate_rows(vit.model, [examples[0], examples[0]], ["gae"], [SHORT])
    with pytest.raises(UnknownName):
        Sanity("cascades")


def made(method, values, label=0, predicted=0, metric="m", protocol="p"):
    return [
        Row(protocol, method, str(i), {metric: v}, {}, label, predicted if isinstance(predicted, int) else predicted[i])
        for i, v in enumerate(values)
    ]


def test_right_and_wrong_are_apart():
    rows = made("a", [1.0, 2.0, 5.0, 7.0], predicted=[0, 0, 1, 1])
    found = {(s.split, s.metric): s.value.value for s in summaries(rows, split=True)}
    assert found == {("all", "m"): 3.75, ("right", "m"): 1.5, ("wrong", "m"): 6.0}
    assert {s.split for s in consistency(rows)} == {"right", "wrong"}
    nobody = [Row("p", "a", "x", {"m": 1.0})]
    assert [s.split for s in consistency(nobody)] == ["unknown"]


def test_differences_are_example_by_example():
    base = np.random.default_rng(0).normal(size=40) * 10
    rows = made("random", base.tolist()) + made("a", (base + 1).tolist()) + made("b", base[:30].tolist())
    a, b = differences(rows, "m")
    assert a.value.value == pytest.approx(1.0)
    assert a.value.high - a.value.low < 1e-6  # pairs: the examples' own spread is gone
    assert a.sure
    assert (b.examples, b.sure) == (30, False)
    with pytest.raises(UnknownName):
        differences(rows, "n")
    with pytest.raises(UnknownName):
        differences(rows, "m", against="c")


def test_undefined_values_are_counted_and_left_out():
    (s,) = summaries(made("a", [1.0, math.nan, 3.0]))
    assert (s.value.value, s.examples, s.undefined) == (2.0, 2, 1)
    (none,) = summaries([Row("p", "a", "x", error="no")])
    assert (none.errors, none.examples) == (1, 0)


def test_bootstrap_of_pairs_keeps_them_together():
    found = bootstrap([[1.0, 2.0], [2.0, 4.0], [5.0, 10.0]], lambda x: x[..., 0].sum(-1) / x[..., 1].sum(-1))
    assert found == (0.5, 0.5, 0.5)


def test_an_interval_is_the_percentiles_of_means_drawn_again():
    """Numbers of the documents rest on these very draws: 2000 of them from numpy's generator, groups as one."""
    values, groups = [0.0, 1.0, 3.0, 2.0, 7.0, 4.0], ["a", "a", "b", "c", "c", "c"]
    drawn = np.random.default_rng(3).integers(0, 6, (2000, 6))
    low, high = np.quantile(np.array(values)[drawn].mean(-1), [0.025, 0.975])
    assert bootstrap(values, lambda x: x.mean(-1), 3) == pytest.approx((17 / 6, low, high), abs=1e-12)
    members = {0: values[:2], 1: values[2:3], 2: values[3:]}
    means = [
        np.mean([v for g in some for v in members[g]]) for some in np.random.default_rng(3).integers(0, 3, (2000, 3))
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    assert bootstrap(values, lambda x: x.mean(-1), 3, groups) == pytest.approx((17 / 6, low, high), abs=1e-12)
    assert bootstrap([2.0, 4.0], lambda x: x.mean(-1), groups=["a", "a"]) == (3.0, 3.0, 3.0)


def test_a_missing_extra_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(Misuse, match=r"needs scipy, .*pip install 'regard\[eval\]'"):
        bootstrap([1.0, 2.0], lambda x: x.mean(-1))


def test_samples_of_one_group_are_drawn_together():
    """Two equal questions on each of five pictures are five samples, not ten: as wide as the pictures alone."""
    alone = [0.0, 1.0, 3.0, 2.0, 7.0]
    mean = lambda x: x.mean(-1)  # noqa: E731
    twice, pictures = [v for v in alone for _ in range(2)], [i for i in range(5) for _ in range(2)]
    assert bootstrap(twice, mean, groups=pictures) == bootstrap(alone, mean)
    loose = bootstrap(twice, mean)
    assert loose.high - loose.low < bootstrap(alone, mean).high - bootstrap(alone, mean).low


def test_groups_of_different_sizes_weigh_by_their_samples():
    found = bootstrap([1.0, 1.0, 1.0, 5.0], lambda x: x.mean(-1), groups=["a", "a", "a", "b"])
    assert (found.value, found.low, found.high) == (2.0, 1.0, 5.0)


def test_rows_of_one_group_make_one_sample_of_a_summary_and_of_a_difference():
    values = [0.0, 1.0, 3.0, 2.0]
    loose = [
        Row("p", m, f"{i}-{k}", {"m": v * s})
        for m, s in (("a", 1), ("b", 2))
        for k in (0, 1)
        for i, v in enumerate(values)
    ]
    tied = [replace(r, group=r.example.partition("-")[0]) for r in loose]
    alone = [r for r in loose if r.example.endswith("-0")]
    assert (
        [s.value for s in summaries(tied)] == [s.value for s in summaries(alone)] != [s.value for s in summaries(loose)]
    )
    of = lambda rows: differences(rows, "m", against="a")[0].value  # noqa: E731
    assert of(tied) == of(alone) != of(loose)


def test_curves_have_bands(vit, examples):
    rows = evaluate_rows(vit.model, examples[:3], ["gae"], [SHORT])
    band = curve(rows, "probability")
    assert len(band) == 2
    assert all(b.low <= b.value <= b.high for b in band)
    assert band[0].value == pytest.approx(sum(r.values["start_probability"] for r in rows) / 3)
