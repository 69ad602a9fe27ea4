"""`method="auto"`: what does best at each task in our own tables, and what is taken where that cannot be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import regard
from regard import zoo
from regard.api.default_method import by_default
from regard.attribution.table import METHODS
from regard.errors import ModelError, TargetError, UnknownName
from regard.preferred import KNOWN, PREFERRED
from regard.report.answer import folded
from regard.report.receipt import lines

pytest.importorskip("transformers")
DOCS = Path(__file__).parents[2] / "docs"
TEXT = "a wonderful film, but dull"


@pytest.fixture(scope="module")
def sentences():
    return regard.load("zoo/bert-sentiment")


@pytest.fixture(scope="module")
def scenes():
    return regard.load("zoo/vit-scenes")


def explained(reader, **how):
    return reader.explain(TEXT if reader.kind == "text" else picture(), **how)


def picture():
    from PIL import Image

    return Image.fromarray(zoo.scenes().images[0].numpy())


def test_every_task_has_methods_that_there_are_and_a_table_that_there_is():
    assert METHODS.keys() >= KNOWN
    for preferred in PREFERRED.values():
        for page in re.findall(r"docs/([\w-]+\.md)", preferred.why):
            assert any(re.match(rf"\| {preferred.names[0]} ", line) for line in (DOCS / page).read_text().splitlines())


def test_texts_and_pictures_have_a_default_of_their_own(sentences, scenes):
    for reader, name, task in ((sentences, "cp_lrp", "text"), (scenes, "gae", "picture")):
        exp = explained(reader)
        assert (exp.method, exp.receipt.default_for, exp.receipt.notes) == (name, task, [])
        named = explained(reader, method=name)
        assert all(torch.equal(exp.scores[s], named.scores[s]) for s in exp.scores)
        assert named.receipt.default_for == ""
        assert next(line for line in lines(exp) if line.name == "method").meaning.startswith("the default for ")
        assert f"{name}, the default for {PREFERRED[task].task} · " in folded(exp, "y")
        assert "default" not in folded(named, "y")


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({"baseline": "mask"}, "integrated_gradients"),
        ({"site": "attention[1]"}, "integrated_gradients"),
        ({"site": "block[0]"}, "cp_lrp"),
        ({"guide": "contrast"}, "gae"),
        ({"readout": "mean"}, "gae"),
        ({"start_layer": 1}, "gae"),
        ({"seed": 3, "measure": "full"}, "cp_lrp"),
    ],
)
def test_what_is_asked_for_decides_among_them(sentences, how, name):
    exp = explained(sentences, **how)
    assert exp.method == name
    said = [n for n in exp.receipt.notes if "does not take what was asked for" in n]
    assert said == (
        []
        if name == "cp_lrp"
        else [f"{name} was taken: cp_lrp, the default for texts, does not take what was asked for"]
    )


def test_words_that_are_written():
    facts = regard.load("zoo/llama-facts")
    written = facts.explain_generation(zoo.facts(1)[0].prompt, 2)
    assert written.method == "cp_lrp"
    assert {e.receipt.default_for for e in written} == {"prompt"}


def test_among_several_it_is_one_of_them(sentences):
    found = explained(sentences, method=["gae", "auto", "cp_lrp"])
    assert [e.method for e in found] == ["gae", "cp_lrp"]
    assert [e.receipt.default_for for e in found] == ["", "text"]


def test_errors_of_a_call_are_raised_as_they_are(sentences):
    with pytest.raises(TargetError):
        explained(sentences, target=9)
    with pytest.raises(UnknownName, match="bogus"):
        explained(sentences, bogus=1)


def test_where_the_best_cannot_explain_a_model_gae_does(sentences):
    """A stand-in for a model that `cp_lrp` refuses; the note says why it is not the default."""
    tried = []

    def run(name):
        tried.append(name)
        if name == "cp_lrp":
            raise ModelError("it is no use")
        return explained(sentences, method=name)

    exp = by_default("text", "auto", {}, run)
    assert tried == ["cp_lrp", "gae"]
    assert exp.receipt.notes[-1] == (
        "gae was taken: cp_lrp, the default for texts, cannot explain this model (it is no use)"
    )
    assert "default" not in folded(exp, "y")


def test_attention_that_runs_out_of_sight_is_said(sentences, monkeypatch):
    """Rules of the backward pass would run, and take the kernel's plain gradient; the user is told what to call instead."""
    monkeypatch.setattr(sentences.model.config, "_attn_implementation_internal", "flash_attention_2")
    assert sentences.default_method == "gae"


def test_where_none_can_the_first_error_is_raised():
    def run(name):
        raise ModelError(f"not by {name}")

    with pytest.raises(ModelError, match="not by cp_lrp"):
        by_default("text", "auto", {}, run)


def test_it_is_saved_with_the_receipt(sentences, tmp_path):
    exp = explained(sentences)
    exp.save(tmp_path / "map.safetensors")
    assert regard.Explanation.load(tmp_path / "map.safetensors").receipt.default_for == "text"
