"""Σ scores / y: 1 under cp_lrp in decoders whose norms only divide and which have no biases, wherever it is read."""

from __future__ import annotations

import pytest
import torch

import regard
from regard import Site, Target

pytest.importorskip("transformers")
from support.sweep import FAMILIES
from support.tiny import ids
from support.writers import save

DECODERS = ("llama", "qwen3")
SITES = {"input": None, "embeddings": Site.embeddings(), "first": Site.block(0), "last": Site.block(-1)}


def conserved(found: regard.Explanation) -> torch.Tensor:
    share = found.receipt.conservation
    assert share is not None
    total = sum(scores.double().sum(1) for scores in found.scores.values())
    assert torch.allclose(share.double(), total / found.receipt.target_value.double(), rtol=1e-5)
    return share


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", DECODERS)
def test_cp_lrp_conserves_in_decoders_without_biases(name: str, site: str) -> None:
    family = FAMILIES[name]
    model = family.build()
    for (
        module
    ) in model.modules():  # RMS norms add 1e-6 to the mean square: the divisor is a constant, and nothing is lost
        assert getattr(module, "bias", None) is None
    found = regard.explain(
        model, {"input_ids": ids(2, 6)}, [Target.next_token(9), Target.next_token(3)], ["cp_lrp"], site=SITES[site]
    )
    assert len(found) == 2
    for each in found:
        assert float((conserved(each) - 1).abs().max()) < 1e-5


@pytest.mark.parametrize("name", DECODERS)
def test_attnlrp_loses_some_of_it_at_each_softmax(name: str) -> None:
    model = FAMILIES[name].build()
    found = regard.explain(model, {"input_ids": ids(2, 6)}, Target.next_token(9), "attnlrp")
    assert float((conserved(found) - 1).abs().max()) > 1e-3


def test_cp_lrp_conserves_for_each_token_that_a_model_writes(tmp_path) -> None:
    reader = regard.load(save("llama", tmp_path))
    written = reader.explain_generation("who has the key ?", 4, min_new_tokens=4, method="cp_lrp")
    assert len(written.ids) == 4
    for each in written.explanations:
        assert float((conserved(each) - 1).abs().max()) < 1e-5


def test_nothing_is_claimed_where_only_some_of_the_target_is_seen() -> None:
    from support.every_method import case_of

    case = case_of("lxmert")
    exp = regard.explain(case.model, case.inputs, case.target, ["gae"])[0]
    streams = [*exp.scores]
    assert len(streams) == 2
    for stream in streams:
        found = regard.explain(case.model, case.inputs, case.target, "cp_lrp", site=Site.block(0, stream=stream))
        assert not found.receipt.complete
        assert found.receipt.conservation is None


def test_biases_take_their_share() -> None:
    family = FAMILIES["gpt2"]
    found = regard.explain(family.build(), dict(family.inputs), family.target, "cp_lrp")
    assert float((conserved(found) - 1).abs().max()) > 1e-3
