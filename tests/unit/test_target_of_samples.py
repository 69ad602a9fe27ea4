"""A target that holds something for each sample is that of some samples alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import regard
from regard import Target

torch.manual_seed(0)
LOGITS = torch.randn(4, 5, 7)
DENSE = torch.randn(4, 3, 6, 6)
EACH = torch.tensor([3, 0, 2, 1])
OTHER = torch.tensor([4, 4, 1, 0])
MASKS = torch.randn(4, 6, 6) > 0
CASES: dict[str, tuple[Target, dict[str, Any]]] = {
    "logit at positions": (Target.logit(EACH, position=OTHER), {"logits": LOGITS}),
    "one class at positions": (Target.logit(2, position=OTHER), {"logits": LOGITS}),
    "probability": (Target.probability(EACH, position=1), {"logits": LOGITS}),
    "log-probability of what is predicted": (Target.log_probability(position=OTHER), {"logits": LOGITS}),
    "contrast": (Target.contrast(EACH, OTHER, position=OTHER), {"logits": LOGITS}),
    "next token": (Target.next_token(EACH, position=OTHER), {"logits": LOGITS}),
    "detection": (Target.detection(OTHER, EACH), {"logits": LOGITS}),
    "span": (Target.span(EACH, OTHER), {"start_logits": LOGITS[:, 0], "end_logits": LOGITS[:, 1]}),
    "region": (Target.region(MASKS, 1), {"logits": DENSE}),
    "one for all": (Target.logit(3, position=1), {"logits": LOGITS}),
}


@pytest.mark.parametrize("name", CASES)
def test_some_samples_have_the_values_that_they_have_among_all(name):
    target, fields = CASES[name]
    every = target.value(_output(fields), {}).y
    for own in (slice(1, 2), slice(2, 4)):
        alone = target.of_samples(own)
        assert alone.label == target.label
        assert torch.equal(alone.value(_output({k: v[own] for k, v in fields.items()}), {}).y, every[own])


def _output(fields: dict[str, torch.Tensor]) -> Any:
    return SimpleNamespace(**fields)


def test_a_class_that_is_fixed_keeps_its_position():
    target, fields = CASES["logit at positions"]
    value = target.value(_output(fields), {})
    own = slice(2, 3)
    fixed = target.at(value.explained).of_samples(own).at(value.explained[own])
    assert torch.equal(fixed.value(_output({"logits": LOGITS[own]}), {}).y, value.y[own])


def test_samples_with_positions_of_their_own_run_apart_and_side_by_side():
    model, inputs = _masked()
    places = torch.arange(len(inputs["input_ids"])) + 1
    target = Target.logit(3, position=places)
    found = regard.explain(model, inputs, target, "occlusion")
    runs = found.receipt.passes
    assert runs < 2 * inputs["input_ids"].shape[1] + 8
    for i in range(len(places)):
        alone = {k: v[i : i + 1] for k, v in inputs.items()}
        one = regard.explain(model, alone, Target.logit(3, position=int(places[i])), "occlusion")
        torch.testing.assert_close(found.scores["input_ids"][i], one.scores["input_ids"][0], rtol=1e-4, atol=1e-6)


def _masked() -> tuple[Any, dict[str, torch.Tensor]]:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = BertForMaskedLM(BertConfig(vocab_size=40, **sizes)).eval()
    return model, {"input_ids": torch.randint(5, 40, (3, 7))}
