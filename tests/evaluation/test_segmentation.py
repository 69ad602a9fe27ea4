"""Protocol 3 against scikit-learn and literal loops, and the traps of public code."""

import dataclasses

import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, precision_recall_curve

import regard
from regard import zoo
from regard.errors import Misuse
from regard.evaluation import Example, Segmentation, evaluate_rows, examples_of, sample_of, segmentation
from regard.evaluation.protocols.segmentation import (
    ap_over_channels,
    average_precision,
    f1,
    f1_over_rows,
    iou_sweep,
    metrics,
    otsu,
    pointing,
    recall_and_precision,
)
from regard.evaluation.statistics import ratios_of_sums
from regard.evaluation.summaries import ACCUMULATED, summaries
from regard.explanation.raw_inputs import Picture
from support.tiny import noise


def case(seed, size=(14, 18), ties=False):
    scores = noise(*size, seed=seed)
    scores = (scores * 3).round() / 3 if ties else scores
    mask = torch.zeros(size, dtype=torch.bool)
    mask[3:9, 4 : 12 + seed] = True
    return scores + mask * 0.8, mask


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_every_metric_agrees_with_scikit_learn(seed, ties):
    scores, mask = case(seed, ties=ties)
    a, y = scores.flatten(), mask.flatten()
    found = a > a.mean()
    values = metrics(a, y)
    assert values["ap"] == pytest.approx(average_precision_score(y, a), abs=1e-9)
    assert values["f1"] == pytest.approx(f1_score(y, found), abs=1e-9)
    assert values["iou"] == pytest.approx(jaccard_score(y, found), abs=1e-9)
    both = [jaccard_score(y, found), jaccard_score(~y, ~found)]
    assert values["mean_iou"] == pytest.approx(sum(both) / 2, abs=1e-9)
    assert values["pixel_accuracy"] == pytest.approx(float((found == y).double().mean()), abs=1e-9)
    precision, recall, _ = precision_recall_curve(y, a)
    r, p = recall_and_precision(a, y)
    torch.testing.assert_close(r, torch.tensor(recall[-2::-1].copy()), atol=1e-9, rtol=0)
    torch.testing.assert_close(p, torch.tensor(precision[-2::-1].copy()), atol=1e-9, rtol=0)


def test_sweep_and_otsu_agree_with_loops():
    scores, mask = case(1)
    low, high = float(scores.min()), float(scores.max())
    swept = iou_sweep(scores.flatten(), mask.flatten(), (0.25, 0.5))
    for t, found in zip((0.25, 0.5), swept.tolist()):
        inside = [(float(s) > low + t * (high - low), bool(m)) for s, m in zip(scores.flatten(), mask.flatten())]
        both, either = sum(a and b for a, b in inside), sum(a or b for a, b in inside)
        assert found == pytest.approx(both / either, abs=1e-9)
    flat = scores.flatten().double()
    cuts = torch.linspace(low, high, 257, dtype=torch.float64)[1:-1]
    spread = [
        float(
            (flat <= c).double().mean()
            * (flat > c).double().mean()
            * (flat[flat <= c].mean() - flat[flat > c].mean()) ** 2
        )
        for c in cuts
    ]
    at = otsu(scores.flatten())
    best = max(spread)
    exact = [s for c, s in zip(cuts.tolist(), spread) if abs(c - at) < 1e-6]
    assert exact[0] == pytest.approx(best, rel=5e-3)  # bins stand for their middle
    two = torch.tensor([0.0] * 30 + [1.0] * 5)
    assert 0 < otsu(two) < 1


def test_pointing_of_several_largest_and_of_a_flat_map():
    mask = torch.tensor([True, False, False, False])
    assert pointing(torch.tensor([3.0, 1.0, 2.0, 0.0]), mask) == 1.0
    assert pointing(torch.tensor([3.0, 3.0, 2.0, 0.0]), mask) == 0.5
    assert pointing(torch.zeros(4), mask) == 0.25  # no better than chance


@pytest.mark.parametrize(
    ("value", "count"), [(0.1, 1000), (0.3, 50176), (1 / 3, 1961), (0.7, 1000), (0.0, 64), (-0.7, 1000)]
)
def test_a_flat_map_finds_nothing_however_its_mean_is_rounded(value, count):
    truth = torch.arange(count) < count // 4
    found = metrics(torch.full((count,), value), truth)
    assert (found["f1"], found["iou"], found["iou_otsu"], found["iou_best"]) == (0, 0, 0, 0)


def test_f1_is_of_the_picture_and_not_the_mean_of_its_rows():
    """The trap: 0.41 where the image's F1 is 0.85."""
    mask = torch.zeros(224, 224, dtype=torch.bool)
    mask[60:160, 60:160] = True
    scores = mask.float()
    scores[mask & (torch.arange(224) > 130)[None]] = 0  # the map misses a part of the object
    found = scores > scores.mean()
    assert f1(found.flatten(), mask.flatten()) == pytest.approx(f1_score(mask.flatten(), found.flatten()))
    assert f1(found.flatten(), mask.flatten()) > 0.8
    assert f1_over_rows(scores, mask) < 0.45
    assert f1_over_rows(scores, mask) == pytest.approx(
        sum(f1_score(m, s, zero_division=0) for m, s in zip(mask.numpy(), found.numpy())) / 224
    )


def test_ap_is_of_the_object_and_not_pooled_over_two_channels():
    """The trap: two channels of one map, pooled."""
    scores, mask = case(2)
    a, y = scores.flatten(), mask.flatten()
    scaled = (a - a.min()) / (a.max() - a.min())
    pooled = average_precision_score(torch.cat([~y, y]), torch.cat([1 - scaled, scaled]))
    assert ap_over_channels(a, y) == pytest.approx(pooled, abs=1e-6)
    assert abs(pooled - average_precision(a, y)) > 0.05
    assert Segmentation().name != Segmentation(variant="ap-over-channels").name


@pytest.fixture(scope="module")
def vit():
    return regard.load("zoo/vit-scenes")


def test_a_cropped_picture_is_compared_where_the_model_looked(vit):
    """The trap: the map of a centre crop, stretched over the whole picture."""
    scenes = zoo.scenes()
    exp = sample_of(vit.explain([scenes.images[0]], target=int(scenes.labels[0, 0])), 0)
    inner, mask = scenes.images[0], scenes.masks[0, 0]
    wide = torch.zeros(64, 128, 3, dtype=torch.uint8)
    wide[:, 32:96] = inner
    around = torch.zeros(64, 128, dtype=torch.bool)
    around[:, 32:96] = mask
    exp.inputs = {"pixel_values": [Picture(wide, (32.0, 0.0, 96.0, 64.0))]}
    whole = dataclasses.replace(exp, inputs={"pixel_values": [Picture(inner, (0.0, 0.0, 64.0, 64.0))]})
    reading = vit.read([inner])
    a = segmentation(exp, Example("wide", reading, mask=around), Segmentation())
    b = segmentation(whole, Example("inner", reading, mask=mask), Segmentation())
    assert dict(a.values) == pytest.approx(dict(b.values), abs=1e-6)
    with pytest.raises(Misuse, match="whole picture"):
        segmentation(exp, Example("wide", reading, mask=mask), Segmentation())


def test_pixels_to_be_ignored_do_not_count(vit):
    scenes = zoo.scenes()
    exp = sample_of(vit.explain([scenes.images[0]]), 0)
    reading, mask = vit.read([scenes.images[0]]), scenes.masks[0, 0]
    ignore = torch.zeros_like(mask)
    ignore[:, 40:] = True
    row = segmentation(exp, Example("x", reading, mask=mask, ignore=ignore), Segmentation())
    scores = exp.image_map((64, 64))[0][:, :40].flatten()
    assert row.values["ap"] == pytest.approx(average_precision_score(mask[:, :40].flatten(), scores), abs=1e-6)
    with pytest.raises(Misuse, match="no pixel that counts"):
        segmentation(exp, Example("x", reading, mask=mask, ignore=~torch.zeros_like(mask)), Segmentation())


def test_an_empty_mask_is_refused(vit):
    scenes = zoo.scenes()
    exp = sample_of(vit.explain([scenes.images[0]]), 0)
    with pytest.raises(Misuse, match="empty"):
        segmentation(exp, Example("x", vit.read([scenes.images[0]]), mask=scenes.masks[0, 1]), Segmentation())


def test_iou_over_the_data_set_and_over_pictures(vit):
    scenes = zoo.scenes()
    few = scenes.select(torch.arange(6))
    examples = examples_of(vit.read(list(few.images)), labels=few.labels[:, 0], masks=few.masks[:, 0])
    rows = evaluate_rows(vit.model, examples, ["raw_attention"], [Segmentation()])
    exp = vit.explain(list(few.images), target=few.labels[:, 0], method="raw_attention")
    maps = exp.image_map((64, 64))
    found = maps > maps.mean((1, 2), keepdim=True)
    object_, ground = (
        float((f & m).sum() / (f | m).sum()) for f, m in ((found, few.masks[:, 0]), (~found, ~few.masks[:, 0]))
    )
    by_name = {s.metric: s.value.value for s in summaries(rows)}
    assert by_name[ACCUMULATED] == pytest.approx((object_ + ground) / 2, abs=1e-6)
    assert by_name["mean_iou"] == pytest.approx(sum(r.values["mean_iou"] for r in rows) / 6)
    assert by_name["mean_iou"] != pytest.approx(by_name[ACCUMULATED], abs=1e-4)
    assert ratios_of_sums([[1.0, 0.0]], [[2.0, 0.0]]).value == 0.25
