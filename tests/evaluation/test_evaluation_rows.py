"""The in-memory runner and the summaries: deterministic, batch = single, errors as rows, right and wrong apart, pairs."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

import regard
from regard import evaluation, zoo
from regard.errors import Misuse, UnknownName
from regard.evaluation import (
    PROTOCOLS,
    AttributionError,
    Example,
    Perturbation,
    Row,
    Sanity,
    Segmentation,
    accuracies,
    attribution_error,
    consistency,
    curve,
    differences,
    evaluate_rows,
    examples_of,
    statistics,
    summaries,
)
from regard.evaluation.protocols import perturbation
from regard.evaluation.rank_agreement import kendall
from regard.evaluation.statistics import AT_ONCE, bootstrap, bootstraps, mean, median, ratio_of_sums
from regard.explanation.raw_inputs import Reading
from regard.target import Target
from support.dual_encoders import of_clip
from support.eclip_twin import written_out
from support.records import Made, records
from support.tiny import noise

SHORT = Perturbation("token", "drop", steps=(0.5,), auc=(0, 0.5))


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
    together, alone = records(many), records(single)
    assert [r.title for r in together[::4]] == ["random", "corrected_attention, sign=signed"]
    assert len(together) == 2 * 2 * 2
    counted = {name for pairs in Segmentation.sums.values() for pair in pairs for name in pair}
    for a, b in zip(together, alone):
        assert (a.protocol, a.title, a.example, a.error) == (b.protocol, b.title, b.example, "")
        for name in set(a.values) - counted:
            # maps are equal to 1e-6; a pixel at a threshold may fall on its other side, one in 4096
            assert a.values[name] == pytest.approx(b.values[name], abs=1e-3), name


def test_how_units_are_taken_away_is_found_once_for_all_methods(vit, examples, monkeypatch):
    """And for all orders; another fill is another removal. The rows are those of methods that share nothing."""
    made, recorded = [], perturbation.record
    monkeypatch.setattr(perturbation, "record", lambda *a: made.append(a) or recorded(*a))
    asked = [Perturbation("token", fill, order) for fill in ("drop", "black") for order in ("positive", "negative")]
    together = evaluate_rows(vit.model, examples[:3], ["gradient", "random"], asked)
    assert len(made) == 3 * 2
    alone = [r for m in ("gradient", "random") for p in asked for r in evaluate_rows(vit.model, examples[:3], [m], [p])]
    assert records(together) == records(alone)


def test_texts_of_different_lengths_need_no_padding():
    bert = regard.load("zoo/bert-sentiment")
    texts = [s.text for s in zoo.sentences()[:4]]
    together = examples_of(bert.read(texts), labels=[0, 1, 0, 1])
    assert [len(e.reading.inputs["input_ids"][0]) for e in together] == [
        len(bert.read([t]).inputs["input_ids"][0]) for t in texts
    ]
    assert [e.raw("input_ids").tokens for e in together] == [bert.read([t]).raw["input_ids"][0].tokens for t in texts]
    rows = records(evaluate_rows(bert.model, together, ["gae"], [Perturbation("word", "drop"), Sanity("padding")]))
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
    by = {r.example: r for r in records(rows)}
    assert [r.example for r in records(rows)] == [e.name for e in mixed]
    assert "NonFinite" in by["nan"].error
    assert by["unread"].error == "InputError: no such file"
    assert by["wide"].error
    assert "no label" in by["nobody"].error
    for row in records(good):
        assert by[row.example].values["aopc"] == pytest.approx(row.values["aopc"], abs=1e-4)
    found = summaries(rows)
    assert {s.errors for s in found} == {4}
    assert {s.examples for s in found} == {3}


def test_a_baseline_and_a_site_are_options_too(vit, examples):
    blur, site = regard.Baseline.blur(8.0), regard.Site.block(1)
    methods = ["revised_ig", ("revised_ig", {"baseline": blur}), ("revised_ig", {"site": site})]
    rows = evaluate_rows(vit.model, examples[:1], methods, [Segmentation()])
    plain, blurred, there = records(rows)
    assert (blurred.title, there.title) == ("revised_ig, baseline=blur, sigma 8", "revised_ig, site=block[1]")
    assert [(r.row.method, r.row.site, r.row.baseline) for r in (plain, blurred, there)] == [
        ("revised_ig", "block[-2]", "zero, or as given"),
        ("revised_ig", "block[-2]", "blur, sigma 8"),
        ("revised_ig", "block[1]", "zero, or as given"),
    ]
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


def made(title, values, label=0, predicted=0, metric="m", protocol="p"):
    return [
        Row(Made(protocol), str(i), metric, v, title=title, label=label,
            predicted=predicted if isinstance(predicted, int) else predicted[i])
        for i, v in enumerate(values)
    ]  # fmt: skip


def test_right_and_wrong_are_apart():
    rows = made("a", [1.0, 2.0, 5.0, 7.0], predicted=[0, 0, 1, 1])
    found = {(s.split, s.metric): s.value.value for s in summaries(rows, split=True)}
    assert found == {("all", "m"): 3.75, ("right", "m"): 1.5, ("wrong", "m"): 6.0}
    assert {s.split for s in consistency(rows)} == {"right", "wrong"}
    nobody = [Row(Made(), "x", "m", 1.0, title="a")]
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
    (none,) = summaries([Row(Made(), "x", title="a", error="no")])
    assert (none.errors, none.examples) == (1, 0)


def test_bootstrap_of_pairs_keeps_them_together():
    found = bootstrap([[1.0, 2.0], [2.0, 4.0], [5.0, 10.0]], ratio_of_sums)
    assert found == (0.5, 0.5, 0.5)


def test_an_interval_is_the_percentiles_of_means_drawn_again():
    """Numbers of the documents rest on these very draws: 2000 of them from numpy's generator, groups as one."""
    values, groups = [0.0, 1.0, 3.0, 2.0, 7.0, 4.0], ["a", "a", "b", "c", "c", "c"]
    drawn = np.random.default_rng(3).integers(0, 6, (2000, 6))
    low, high = np.quantile(np.array(values)[drawn].mean(-1), [0.025, 0.975])
    assert bootstrap(values, mean, 3) == pytest.approx((17 / 6, low, high), abs=1e-12)
    members = {0: values[:2], 1: values[2:3], 2: values[3:]}
    means = [
        np.mean([v for g in some for v in members[g]]) for some in np.random.default_rng(3).integers(0, 3, (2000, 3))
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    assert bootstrap(values, mean, 3, groups) == pytest.approx((17 / 6, low, high), abs=1e-12)
    assert bootstrap([2.0, 4.0], mean, groups=["a", "a"]) == (3.0, 3.0, 3.0)


def test_a_missing_extra_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(Misuse, match=r"needs scipy, .*pip install 'regard\[eval\]'"):
        kendall(np.arange(2.0), np.arange(2.0))


@pytest.mark.parametrize("statistic", [mean, median, ratio_of_sums])
@pytest.mark.parametrize("count", [2, 7, 300])
def test_an_interval_is_that_of_scipy(statistic, count):
    """Resamples are kept as counts here; scipy draws the samples themselves, from the same generator."""
    x = np.random.default_rng(count).normal(2, 1, (count, 4) if statistic is ratio_of_sums else count).round(1)
    found = scipy.stats.bootstrap(
        (np.arange(count),), lambda drawn, axis=-1: statistic(np.moveaxis(x[drawn], -1 if x.ndim == 1 else -2, 0)),
        vectorized=True, n_resamples=2000, confidence_level=0.95, method="percentile", rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    assert bootstrap(x, statistic, 5) == pytest.approx((float(statistic(x)), found.low, found.high), rel=1e-12)


def test_more_samples_than_are_drawn_at_once_are_no_others(monkeypatch):
    """Resamples come in batches that memory is given to; a batch goes on where the one before stopped."""
    x = np.random.default_rng(0).normal(size=(50, 3))
    of = [i // 3 for i in range(50)]
    whole = bootstraps(x, mean, 4), bootstraps(x, median, 4, of)
    assert len(x) * 2000 < AT_ONCE
    monkeypatch.setattr("regard.evaluation.statistics.AT_ONCE", 120)
    for kept in (statistics.KEPT, 0):
        monkeypatch.setattr("regard.evaluation.statistics.KEPT", kept)
        assert np.allclose((bootstraps(x, mean, 4), bootstraps(x, median, 4, of)), whole, rtol=1e-12)


def test_samples_of_one_group_are_drawn_together():
    """Two equal questions on each of five pictures are five samples, not ten: as wide as the pictures alone."""
    alone = [0.0, 1.0, 3.0, 2.0, 7.0]
    twice, pictures = [v for v in alone for _ in range(2)], [i for i in range(5) for _ in range(2)]
    assert bootstrap(twice, mean, groups=pictures) == bootstrap(alone, mean)
    loose = bootstrap(twice, mean)
    assert loose.high - loose.low < bootstrap(alone, mean).high - bootstrap(alone, mean).low


def test_groups_of_different_sizes_weigh_by_their_samples():
    found = bootstrap([1.0, 1.0, 1.0, 5.0], mean, groups=["a", "a", "a", "b"])
    assert (found.value, found.low, found.high) == (2.0, 1.0, 5.0)


def test_rows_of_one_group_make_one_sample_of_a_summary_and_of_a_difference():
    values = [0.0, 1.0, 3.0, 2.0]
    loose = [
        Row(Made(), f"{i}-{k}", "m", v * s, title=m)
        for m, s in (("a", 1), ("b", 2))
        for k in (0, 1)
        for i, v in enumerate(values)
    ]
    tied = [replace(r, group=r.example.partition("-")[0]) for r in loose]
    alone = [r for r in loose if r.example.endswith("-0")]
    for of in (
        lambda rows: [s.value for s in summaries(rows)],
        lambda rows: [differences(rows, "m", against="a")[0].value],
    ):
        assert np.allclose(of(tied), of(alone), rtol=1e-12)
        assert not np.allclose(of(tied), of(loose), rtol=1e-3)


def test_curves_have_bands(vit, examples):
    rows = evaluate_rows(vit.model, examples[:3], ["gae"], [SHORT])
    band = curve(rows, "probability")
    assert len(band) == 2
    assert all(b.low <= b.value <= b.high for b in band)
    assert band[0].value == pytest.approx(sum(r.value for r in rows if r.metric == "start_probability") / 3)


def test_a_row_is_flat_and_its_protocol_can_be_made_again(vit, examples):
    """A table's columns: the same for every protocol, of one type each, and nothing of the row is lost."""
    methods = ["gae", ("revised_ig", {"site": regard.Site.block(1), "steps": 2}), ("gae", {"start_layer": 1})]
    protocols = [SHORT, Segmentation(sweep=(0.5, 0.7)), Sanity("repeat"), Sanity("batch"), AttributionError()]
    blind = replace(examples[1], name="blind", label=None)
    rows = evaluate_rows(vit.model, [examples[0], blind], methods, protocols)
    assert {r.protocol for r in rows} == set(protocols)
    assert any(r.error for r in rows)
    types = {"value": {float}, "seconds": {float}, "x": {float, type(None)}}
    types |= {name: {int, type(None)} for name in ("label", "predicted", "explained")}
    for row in rows:
        record = row.record()
        assert list(record) == list(rows[0].record())
        assert all(type(v) in types.get(k, {str}) for k, v in record.items()), record
        choices = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(record["choices"]).items()}
        assert PROTOCOLS[record["kind"]](**choices) == row.protocol
        assert record["protocol"] == row.protocol.name
    site = {r.record()["options"]: r.site for r in rows}
    assert site == {"{}": "attention", '{"steps": 2}': "block[1]", '{"start_layer": 1}': "attention"}


def test_what_a_map_accounts_for_is_what_its_receipt_says(vit, examples):
    """Of each sample of a batch; its summary is the median, and an undefined one is counted."""
    rows = evaluate_rows(vit.model, examples[:3], ["taylor", "raw_attention"], [AttributionError("true")])
    labels = torch.tensor([e.label for e in examples[:3]])
    pixels = torch.cat([e.reading.inputs["pixel_values"] for e in examples[:3]])
    receipt = regard.explain(vit.model, {"pixel_values": pixels}, labels, "taylor").receipt
    taylor, blind = ([r for r in records(rows) if r.title == t] for t in ("taylor", "raw_attention"))
    for i, one in enumerate(taylor):
        for name in ("attribution_sum", "attribution_target", "attribution_error", "relative_error"):
            assert one.values[name] == pytest.approx(float(getattr(receipt, name)[i]), rel=1e-4, abs=1e-6)
    assert all(math.isnan(r.values["relative_error"]) for r in blind)
    found = {(s.title, s.metric): s for s in summaries(rows)}
    middle = sorted(r.values["relative_error"] for r in taylor)[1]
    assert found["taylor", "relative_error"].value.value == middle
    assert (found["raw_attention", "relative_error"].examples, found["raw_attention", "relative_error"].undefined) == (
        0,
        3,
    )
    asked = attribution_error(
        vit.model,
        {"pixel_values": pixels},
        labels,
        methods=["taylor", "gae"],
        sites=[regard.Site.input(), regard.Site.block(1)],
    )
    assert {(r.title, r.site) for r in asked} == {("taylor", "input"), ("taylor", "block[1]"), ("gae", "attention")}
    at_input = [r for r in asked if (r.title, r.site, r.metric) == ("taylor", "input", "relative_error")]
    assert [r.value for r in at_input] == pytest.approx(receipt.relative_error.tolist(), rel=1e-4)


def test_names_of_before_are_still_read():
    assert (evaluation.Asked, evaluation.standings) == (evaluation.RegionQuestions, evaluation.ranking)
    with pytest.raises(AttributeError, match="standing"):
        evaluation.standing  # noqa: B018


def test_the_accuracy_of_the_explained_model_stands_beside_that_of_the_user_s() -> None:
    case = of_clip()
    ids, mask = (case.inputs[k] for k in ("input_ids", "attention_mask"))
    target = Target.logit(0, output="logits_per_image")
    found, first, second = [], [], []
    for picture in noise(6, 3, 32, 32, seed=4).double():
        given = {"input_ids": ids, "attention_mask": mask, "pixel_values": picture[None]}
        found.append(regard.explain(case.model, given, target, "attention_eclip", heads="single"))
        with torch.no_grad():
            first.append(int(case.model(**given).logits_per_image.argmax()))
            with written_out(case.model, case.module, case.single(1)):
                second.append(int(case.model(**given).logits_per_image.argmax()))
    labels = [0, 1, 0, 1, 1, 0]
    both = accuracies(found, labels)
    assert both.own.value == sum(a == b for a, b in zip(first, labels)) / 6
    assert both.explained.value == sum(a == b for a, b in zip(second, labels)) / 6
    assert both.same.value == sum(a == b for a, b in zip(first, second)) / 6
    with pytest.raises(Misuse, match="5 labels for 6"):
        accuracies(found, labels[:5])
    plain = regard.explain(case.model, given, target, "attention_eclip")
    assert accuracies([plain], [first[-1]]).same.value == 1
