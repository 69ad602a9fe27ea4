"""Protocol 3 against literal loops, and the traps of public code."""

import dataclasses
import math

import pytest
import torch

from regard import zoo
from regard.errors import Misuse
from regard.evaluation import Example, Segmentation, evaluate_rows, examples_of, sample_of, segmentation
from regard.evaluation.protocols.segmentation import (
    ACCUMULATED,
    ap_over_channels,
    average_precision,
    f1,
    f1_over_rows,
    jaccard,
    metrics,
    otsu,
    pointing,
)
from regard.evaluation.statistics import ratios_of_sums
from regard.evaluation.summaries import summaries
from regard.explanation.raw_inputs import Picture
from support.records import record
from support.tiny import noise


def case(seed, size=(14, 18), ties=False):
    scores = noise(*size, seed=seed)
    scores = (scores * 3).round() / 3 if ties else scores
    mask = torch.zeros(size, dtype=torch.bool)
    mask[3:9, 4 : 12 + seed] = True
    return scores + mask * 0.8, mask


def twin_ap(scores, truth):
    """By the definition: the precision at each distinct score, from the largest down, times the recall that it adds."""
    total, before, area = sum(truth), 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        hits = [t for s, t in zip(scores, truth) if s >= threshold]
        area += (sum(hits) / total - before) * sum(hits) / len(hits)
        before = sum(hits) / total
    return area


def twin_iou(found, truth):
    both, either = sum(f and t for f, t in zip(found, truth)), sum(f or t for f, t in zip(found, truth))
    return both / either if either else 0.0


def twin_f1(found, truth):
    size = sum(found) + sum(truth)
    return 2 * sum(f and t for f, t in zip(found, truth)) / size if size else 0.0


def above(scores, threshold):
    return [s > threshold for s in scores]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_every_metric_agrees_with_its_definition(seed, ties):
    scores, mask = case(seed, ties=ties)
    a, y = scores.flatten().tolist(), mask.flatten().tolist()
    found = above(a, sum(a) / len(a))
    values, swept = metrics(scores.flatten(), mask.flatten(), (0.25, 0.5))
    ground = twin_iou([not f for f in found], [not t for t in y])
    expected = {
        "ap": twin_ap(a, y),
        "f1": twin_f1(found, y),
        "iou": twin_iou(found, y),
        "mean_iou": (twin_iou(found, y) + ground) / 2,
        "pixel_accuracy": sum(f == t for f, t in zip(found, y)) / len(y),
        "iou_otsu": twin_iou(above(a, otsu(scores.flatten())), y),
    }
    assert {k: values[k] for k in expected} == pytest.approx(expected, abs=1e-9)
    low, high = float(scores.min()), float(scores.max())
    assert swept == pytest.approx([twin_iou(above(a, low + t * (high - low)), y) for t in (0.25, 0.5)], abs=1e-9)
    assert (values["iou_best"], values["iou_sweep_mean"]) == (max(swept), pytest.approx(sum(swept) / 2))


def test_nothing_found_where_nothing_is():
    nothing = torch.zeros(6, dtype=torch.bool)
    assert f1(nothing, nothing) == 0.0
    assert jaccard([nothing, ~nothing], [nothing, nothing]) == [0.0, 0.0]
    assert math.isnan(average_precision(torch.arange(6.0), nothing))


def test_otsu_cuts_where_the_two_sides_differ_the_most():
    """Bins stand for their middles; the cut is a border of bins, not the middle of one, which would split the bin."""
    flat = case(1)[0].flatten().double()
    low, high = float(flat.min()), float(flat.max())
    width = (high - low) / 256
    bins = ((flat - low) / width).long().clamp(max=255)
    middles = low + (bins + 0.5) * width
    spread = []
    for cut in range(1, 256):
        below = bins < cut
        share, gap = float(below.double().mean()), middles[below].mean() - middles[~below].mean()
        spread.append(share * (1 - share) * float(gap) ** 2)
    best = 1 + max(range(255), key=lambda i: spread[i])
    assert otsu(flat) == pytest.approx(low + best * width, abs=1e-9)
    two = torch.tensor([0.0] * 30 + [1.0] * 5)
    assert 0 < otsu(two) < 1
    assert otsu(torch.full((9,), 0.3)) == pytest.approx(0.3)


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
    found, _ = metrics(torch.full((count,), value), truth)
    assert (found["f1"], found["iou"], found["iou_otsu"], found["iou_best"]) == (0, 0, 0, 0)


def test_f1_is_of_the_picture_and_not_the_mean_of_its_rows():
    """The trap: 0.41 where the image's F1 is 0.85."""
    mask = torch.zeros(224, 224, dtype=torch.bool)
    mask[60:160, 60:160] = True
    scores = mask.float()
    scores[mask & (torch.arange(224) > 130)[None]] = 0  # the map misses a part of the object
    found = scores > scores.mean()
    assert f1(found.flatten(), mask.flatten()) == pytest.approx(
        twin_f1(found.flatten().tolist(), mask.flatten().tolist())
    )
    assert f1(found.flatten(), mask.flatten()) > 0.8
    assert f1_over_rows(scores, mask) < 0.45
    assert f1_over_rows(scores, mask) == pytest.approx(
        sum(twin_f1(f, m) for f, m in zip(found.tolist(), mask.tolist())) / 224
    )


def test_ap_is_of_the_object_and_not_pooled_over_two_channels():
    """The trap: two channels of one map, pooled."""
    scores, mask = case(2)
    a, y = scores.flatten(), mask.flatten()
    scaled = (a - a.min()) / (a.max() - a.min())
    pooled = twin_ap(torch.cat([1 - scaled, scaled]).tolist(), torch.cat([~y, y]).tolist())
    assert ap_over_channels(a, y) == pytest.approx(pooled, abs=1e-6)
    assert abs(pooled - average_precision(a, y)) > 0.05
    assert Segmentation().name != Segmentation(variant="ap-over-channels").name


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
    a = record(segmentation(exp, Example("wide", reading, mask=around), Segmentation()))
    b = record(segmentation(whole, Example("inner", reading, mask=mask), Segmentation()))
    assert dict(a.values) == pytest.approx(dict(b.values), abs=1e-6)
    with pytest.raises(Misuse, match="whole picture"):
        segmentation(exp, Example("wide", reading, mask=mask), Segmentation())


def test_pixels_to_be_ignored_do_not_count(vit):
    scenes = zoo.scenes()
    exp = sample_of(vit.explain([scenes.images[0]]), 0)
    reading, mask = vit.read([scenes.images[0]]), scenes.masks[0, 0]
    ignore = torch.zeros_like(mask)
    ignore[:, 40:] = True
    row = record(segmentation(exp, Example("x", reading, mask=mask, ignore=ignore), Segmentation()))
    scores = exp.image_map((64, 64))[0][:, :40].flatten()
    assert row.values["ap"] == pytest.approx(average_precision(scores, mask[:, :40].flatten()), abs=1e-6)
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
    assert by_name["mean_iou"] == pytest.approx(sum(r.value for r in rows if r.metric == "mean_iou") / 6)
    assert by_name["mean_iou"] != pytest.approx(by_name[ACCUMULATED], abs=1e-4)
    assert ratios_of_sums([[1.0, 0.0]], [[2.0, 0.0]]).value == 0.25


def test_settings_that_differ_have_names_that_differ() -> None:
    given = [{}, {"stream": "x"}, {"sweep": (0.1, 0.5, 0.9)}, {"sweep": (0.1, 0.2, 0.9)}, {"explained": "predicted"}]
    assert len({Segmentation(**fields).name for fields in given}) == len(given)
