"""Protocol 7: the checks find what they are for, and leave the model as it was."""

import hashlib

import numpy as np
import pytest
import torch

import regard
from regard import zoo
from regard.errors import Misuse
from regard.evaluation import (
    Example,
    batch_invariance,
    cascade,
    class_sensitivity,
    examples_of,
    padding_invariance,
    repeatability,
)
from regard.evaluation.protocols.sanity import parameter_groups, restored, similarity
from regard.explanation.raw_inputs import Reading
from support.records import record, records
from support.tiny import noise


@pytest.fixture(scope="module")
def pairs(vit):
    scenes = zoo.scenes()
    two = scenes.select((~scenes.single).nonzero()[:3, 0])
    return examples_of(
        vit.read(list(two.images)), labels=two.labels[:, 0], others=two.labels[:, 1], masks=two.masks[:, 0]
    )


def fingerprint(model):
    tensors = [*model.state_dict().values()]
    return [hashlib.sha256(t.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest() for t in tensors if t.ndim]


def test_cascade_goes_from_last_to_first_and_brings_the_model_back(vit, pairs):
    before, grads = fingerprint(vit.model), [p.requires_grad for p in vit.model.parameters()]
    row = record(cascade(vit.model, pairs[0], pairs[0].label))
    groups = list(parameter_groups(vit.model))
    assert "classifier" in groups[-1]
    assert len(row.curves["similarity"]) == len(groups) + 1
    assert row.curves["similarity"][0] == 1.0
    assert row.curves["change"][0] == 0.0
    assert row.values["unchanged"] == 0.0
    assert abs(row.values["final"]) < 0.7
    assert fingerprint(vit.model) == before
    assert grads == [p.requires_grad for p in vit.model.parameters()]
    assert all(p.grad is None for p in vit.model.parameters())


def test_a_map_that_is_not_of_the_model_is_found_out(vit, pairs):
    row = record(cascade(vit.model, pairs[0], pairs[0].label, "random"))
    assert row.values["unchanged"] == 1.0
    assert row.values["final"] == pytest.approx(1.0)


def spoil(model):
    with restored(model):
        for p in model.parameters():
            torch.nn.init.constant_(p, torch.nan)
        raise RuntimeError("stop")


def test_the_model_comes_back_after_an_exception_too(vit, pairs):
    before = fingerprint(vit.model)
    with pytest.raises(RuntimeError, match="stop"):
        spoil(vit.model)
    assert fingerprint(vit.model) == before
    calls = []

    def stop(module, args):
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("stop")

    handle = vit.model.register_forward_pre_hook(stop)
    try:
        with pytest.raises(RuntimeError, match="stop"):
            cascade(vit.model, pairs[0], 0)
    finally:
        handle.remove()
    assert fingerprint(vit.model) == before


def test_every_parameter_is_in_one_group(vit):
    groups = parameter_groups(vit.model)
    ids = [id(p) for g in groups.values() for p in g]
    assert sorted(ids) == sorted(id(p) for p in vit.model.parameters())
    assert sum("layer" in name for name in groups) >= 4


def test_classes_that_are_both_there_have_maps_of_their_own(vit, pairs):
    for example in pairs[:2]:
        row = record(class_sensitivity(vit.model, example, example.label, example.other))
        assert row.values["unchanged"] == 0.0
        assert row.values["change"] > 0.01
        same = record(class_sensitivity(vit.model, example, example.label, example.other, "raw_attention"))
        assert same.values["unchanged"] == 1.0  # attention alone knows of no class


@pytest.mark.parametrize("method", ["gae", "random", "gradient"])
def test_repeated_and_in_a_batch(vit, pairs, method):
    assert record(repeatability(vit.model, pairs[0], 0, method)).values["difference"] == 0.0
    for row in records(batch_invariance(vit.model, pairs, [e.label for e in pairs], method)):
        assert row.values["relative"] < 1e-4


def test_a_map_that_depends_on_its_batch_mates_is_found_out(vit, pairs):
    """The trap: batch-wide min-max."""

    def scaled(context):
        relevance = context.recording.zeros()
        rows = context.recording.stream("pixel_values").rows
        pixels = (
            context.recording.leaves["pixel_values"].detach().unfold(2, 8, 8).unfold(3, 8, 8).mean((1, 4, 5)).flatten(1)
        )
        relevance[:, rows] = (pixels - pixels.min()) / (pixels.max() - pixels.min())
        return relevance

    regard.register("batch_wide", scaled)
    try:
        rows = records(batch_invariance(vit.model, pairs, [0, 0, 0], "batch_wide"))
        assert max(r.values["relative"] for r in rows) > 1e-3
    finally:
        from regard.attribution.table import METHODS

        del METHODS["batch_wide"]


def test_padding_changes_nothing():
    bert = regard.load("zoo/bert-sentiment")
    example = examples_of(bert.read(["a truly wonderful film"]), labels=[1])[0]
    for method in ("gae", "rollout", "input_x_gradient"):
        row = record(padding_invariance(bert.model, example, 1, method))
        assert row.values["relative"] < 1e-4
        assert row.values["padded_scores"] == 0.0
    no_mask = Example("x", Reading({"input_ids": example.reading.inputs["input_ids"]}))
    with pytest.raises(Misuse, match="attention_mask"):
        padding_invariance(bert.model, no_mask, 1)


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_that_of_the_mean_ranks(ties):
    a, b = noise(30, seed=1), noise(30, seed=2)
    if ties:
        a, b = (a * 2).round(), (b * 2).round()
    ranks = [[sum(w < v for w in x) + (sum(w == v for w in x) - 1) / 2 for v in x] for x in (a.tolist(), b.tolist())]
    assert similarity(a, b) == pytest.approx(float(np.corrcoef(ranks)[0, 1]))
    assert similarity(torch.zeros(4), torch.zeros(4)) == 1.0
    assert similarity(torch.zeros(4), noise(4)) == 0.0
