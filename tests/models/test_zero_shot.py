"""One picture and the classes that it is compared with: whole texts, names in templates, all classes from one forward pass."""

from __future__ import annotations

import re

import pytest
import torch

import regard
from regard import Target
from regard.errors import InputError, Misuse, TargetError
from regard.explanation.explanation import Explanation
from regard.models.zero_shot import Ensemble
from regard.prompts import Prompts
from support.pairs import save
from support.regions import picture

torch.set_num_threads(1)

TEXTS = ["a cat", "two red cats on the mat", "what"]
CLASSES = ["cat", "red cats", "mat"]
TEMPLATES = ["a picture of the {}", "{} is on the mat", "what is {}?"]
ACTIVATIONS = {"clip": "softmax", "siglip": "sigmoid"}


def logits_of(reader, texts: list[str]) -> torch.Tensor:
    """Each text's logit, from a run of its own."""
    with torch.no_grad():
        return torch.stack([reader.model(**reader.read((picture(), t)).inputs).logits_per_image[0, 0] for t in texts])


def in_clips_way(reader, classes: list[str], templates: list[str]) -> torch.Tensor:
    """Class scores as in CLIP's notebook: unit text embeddings averaged, brought to length 1, times the picture's."""
    scores = []
    with torch.no_grad():
        for name in classes:
            runs = [reader.model(**reader.read((picture(), t.format(name))).inputs) for t in templates]
            rows = [r.text_embeds[0] / r.text_embeds[0].norm() for r in runs]
            mean = torch.stack(rows).mean(0)
            image = runs[0].image_embeds[0] / runs[0].image_embeds[0].norm()
            score = image @ (mean / mean.norm()) * reader.model.logit_scale.exp()
            scores.append(score + getattr(reader.model, "logit_bias", torch.zeros(1)))
    return torch.stack(scores).flatten()


# ---------------------------------------------------------------- how it is said


def test_texts_beside_a_picture_are_the_tuple(reader):
    r = reader("clip")
    for said in (TEXTS, tuple(TEXTS)):
        one, other = r.explain(picture(), "what", texts=said), r.explain((picture(), TEXTS), "what")
        assert (one.target, one.labels) == (other.target, TEXTS)
        assert all(torch.equal(one.scores[s], other.scores[s]) for s in other.scores)


def test_a_label_in_a_template_is_its_text(reader):
    r = reader("clip")
    made = r.explain(picture(), "red cats", labels=CLASSES, templates="a picture of the {}")
    whole = r.explain(picture(), 1, texts=[f"a picture of the {c}" for c in CLASSES])
    assert made.labels == CLASSES
    assert torch.equal(made.scores["pixel_values"], whole.scores["pixel_values"])
    assert [t.text for t in made.inputs["input_ids"]] == [t.text for t in whole.inputs["input_ids"]]
    assert r.explain(picture(), 0, labels=CLASSES).inputs["input_ids"][0].text == "cat"


def test_every_verb_takes_classes_as_a_raw_input(reader):
    r = reader("clip")
    raw = (picture(), Prompts(CLASSES, TEMPLATES))
    assert r.read(raw).inputs["input_ids"].shape[0] == 9
    assert "input_ids" in str(r.inspect(raw, "mat"))
    assert r.compare(raw, "mat", ["gae"], ["input"]).own


# ---------------------------------------------------------------- an ensemble


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_score_of_several_templates_is_clips_own(reader, name):
    r = reader(name)
    expected = in_clips_way(r, CLASSES, TEMPLATES)
    every = r.explain(picture(), "all", labels=CLASSES, templates=TEMPLATES, measure="full")
    for c, exp in enumerate(every):
        torch.testing.assert_close(exp.receipt.target_value[0], expected[c], rtol=1e-4, atol=1e-5)
        assert exp.receipt.same_output
        rows = exp.scores["input_ids"].abs().sum(1) > 0
        assert rows.tolist() == [i in exp.compared.texts_of(c) for i in range(9)]
    assert every[0].compared.order[0] == int(expected.argmax()) == int(every[0].receipt.predicted)
    less = r.explain(picture(), "cat", labels=CLASSES, templates=TEMPLATES, against="mat")
    torch.testing.assert_close(less.receipt.target_value[0], expected[0] - expected[2], rtol=1e-4, atol=1e-5)
    assert less.target == "'cat' rather than 'mat'"
    sure = r.explain(picture(), Target.probability(1), labels=CLASSES, templates=TEMPLATES)
    of = expected.softmax(0) if name == "clip" else expected.sigmoid()
    torch.testing.assert_close(sure.receipt.target_value[0], of[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_in_any_precision(name, dtype, tmp_path):
    """The model is left as it was."""
    r = regard.load(str(save(name, tmp_path)), dtype=dtype)
    before = {k: v.clone() for k, v in r.model.state_dict().items()}
    exp = r.explain(picture(), 0, labels=CLASSES, templates=TEMPLATES)
    close = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        exp.receipt.target_value[0].double(),
        in_clips_way(r, CLASSES, TEMPLATES)[0].double(),
        rtol=close,
        atol=max(close, 1e-6),
    )
    pairs = r.explain((picture(), "red cats"), method="interaction", pictures=60)
    assert pairs.of_pairs
    assert all(torch.equal(before[k], v) for k, v in r.model.state_dict().items())
    assert not r.model.training


def test_one_template_is_the_models_own_score(reader):
    r = reader("siglip")
    found = Ensemble.of(r.model, 1)(r.model(**r.read((picture(), TEXTS)).inputs))
    torch.testing.assert_close(found[0], logits_of(r, TEXTS), rtol=1e-4, atol=1e-5)


def test_an_ensemble_of_scores_that_are_no_cosines_is_refused(reader):
    r = reader("clip")

    def squared(_model, _inputs, out):
        out.logits_per_image = out.logits_per_image.square()

    handle = r.model.register_forward_hook(squared)
    try:
        with pytest.raises(TargetError, match=r"not the scaled cosines .* give one template"):
            r.explain(picture(), labels=CLASSES, templates=TEMPLATES)
    finally:
        handle.remove()


# ---------------------------------------------------------------- probabilities, several targets


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_probability_is_among_the_texts(reader, name):
    """CLIP shares out one among the texts, SigLIP asks of each by itself."""
    r = reader(name)
    logits = logits_of(r, TEXTS)
    of = logits.softmax(0) if name == "clip" else logits.sigmoid()
    sure = r.explain(picture(), Target.probability(1), texts=TEXTS)
    torch.testing.assert_close(sure.receipt.target_value[0], of[1], rtol=1e-4, atol=1e-5)
    log = r.explain(picture(), Target.log_probability(), texts=TEXTS)
    torch.testing.assert_close(log.receipt.target_value[0], of.max().log(), rtol=1e-4, atol=1e-5)
    assert sure.target == ("probability of class 1" if name == "clip" else "probability (sigmoid) of class 1")
    others = r.explain(picture(), Target.probability(1), texts=TEXTS, method="gradient").scores["input_ids"].any(1)
    assert others.tolist() == ([True] * 3 if name == "clip" else [False, True, False])
    assert sure.compared.activation == ACTIVATIONS[name]
    torch.testing.assert_close(torch.tensor(sure.compared.probabilities), of, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(sure.compared.scores), logits, rtol=1e-4, atol=1e-5)


def test_a_named_target_keeps_its_name_and_one_of_ones_own_is_left(reader):
    r = reader("clip")
    assert r.explain(picture(), Target.probability(1).named("mine"), texts=TEXTS).target == "mine"
    own = Target.of(lambda out: out.logits_per_text[2], "own")
    torch.testing.assert_close(r.explain(picture(), own, texts=TEXTS).receipt.target_value, logits_of(r, TEXTS)[2:])


def test_all_classes_share_one_forward_pass(reader):
    r, runs = reader("clip"), []
    handle = r.model.register_forward_hook(lambda *_: runs.append(1))
    every = r.explain(picture(), "all", texts=TEXTS)
    handle.remove()
    assert len(runs) == 1
    assert [int(e.receipt.explained) for e in every] == [0, 1, 2]
    for exp, alone in zip(every, [r.explain(picture(), c, texts=TEXTS) for c in range(3)], strict=True):
        torch.testing.assert_close(exp.scores["pixel_values"], alone.scores["pixel_values"])
        assert exp.compared == alone.compared
    two = r.explain(picture(), ["what", 0], "gae", texts=TEXTS)
    assert [int(e.receipt.explained) for e in two] == [2, 0]
    assert len(r.explain(picture(), "all", ["gae", "gradient"], texts=TEXTS)) == 6
    called = r.explain(picture(), "all", texts=["all", "what"])  # a text of that name is meant by it
    assert int(called.receipt.explained) == 0


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("method", ["attention_eclip", "legrad", "corrected_attention"])
def test_a_map_among_texts_is_that_of_the_text_alone(reader, name, method):
    """SigLIP's picture is read by a learned query, which stands once whatever the number of texts."""
    r = reader(name)
    among, alone = r.explain(picture(), 0, method, texts=TEXTS), r.explain(picture(), 0, method, texts=TEXTS[:1])
    n = alone.scores["input_ids"].shape[1]
    torch.testing.assert_close(among.scores["pixel_values"], alone.scores["pixel_values"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(among.scores["input_ids"][:1, :n], alone.scores["input_ids"], rtol=1e-4, atol=1e-6)


def test_how_well_all_fit_is_saved(reader, tmp_path):
    exp = reader("siglip").explain(picture(), 0, labels=CLASSES, templates=TEMPLATES)
    assert Explanation.load(exp.save(tmp_path / "a.safetensors")).compared == exp.compared
    assert exp.to_dict()["compared"]["names"] == CLASSES
    assert reader("clip").explain((picture(), "a cat")).compared is None
    assert reader("clip").explain(picture(), texts=["a cat"]).compared.probabilities is None
    assert reader("siglip").explain(picture(), texts=["a cat"]).compared.probabilities is not None


def test_a_function_may_give_the_scores():
    model, x = torch.nn.Linear(4, 6).eval(), torch.randn(2, 4)
    pairs = Target.logit(1, output=lambda out: out.unflatten(-1, (3, 2)).sum(-1))
    exp = regard.explain(model, x, pairs, "gradient")
    torch.testing.assert_close(exp.receipt.target_value, model(x).detach()[:, 2:4].sum(1))
    with pytest.raises(TargetError, match=r"must give scores \(batch, class\); it gave 3"):
        regard.explain(model, x, Target.logit(1, output=lambda out: 3), "gradient")


# ---------------------------------------------------------------- misuse

IN = {"labels": CLASSES}


@pytest.mark.parametrize(
    ("name", "given", "kind", "says"),
    [
        ("clip", {"texts": ["what", "what"]}, InputError, "texts 0 and 1 are the same ('what'); give each once"),
        ("clip", {"texts": []}, InputError, "the list of texts is empty"),
        ("clip", {"texts": ["a cat", ""]}, InputError, "text 1 is empty"),
        ("clip", {"texts": "a cat"}, InputError, "texts are given in a list; not str"),
        ("clip", {"texts": TEXTS, "labels": CLASSES}, Misuse, "take no labels="),
        ("clip", {"texts": TEXTS, "templates": TEMPLATES}, Misuse, "take no templates="),
        ("clip", {"templates": TEMPLATES}, Misuse, "templates= are what labels are put into"),
        ("clip", IN | {"templates": "a picture"}, InputError, "template 0 ('a picture') has no places for the label"),
        ("clip", IN | {"templates": ["{}", "{} {}"]}, InputError, "template 1 ('{} {}') has 2 places for the label"),
        ("clip", IN | {"templates": []}, InputError, "the list of templates is empty"),
        ("clip", IN | {"templates": ["{}", "{}"]}, InputError, "templates 0 and 1 are the same"),
        ("clip", {"labels": ["cat", "cat"]}, InputError, "labels 0 and 1 are the same"),
        ("clip", {"labels": ["cat", 3]}, InputError, "label 1 is not a text but int"),
        ("clip", {"texts": TEXTS, "target": "a cot"}, Misuse, "did you mean 'a cat'"),
        ("clip", {"texts": TEXTS, "target": []}, Misuse, "the list of targets is empty"),
        ("clip", {"texts": TEXTS, "target": 3}, TargetError, "class 3 is out of range: there are 3"),
        ("clip", {"texts": ["a cat"], "target": Target.probability(0)}, TargetError, "one was given; give at least two"),
        ("clip", {"texts": ["a cat"], "target": Target.contrast(0, 0)}, TargetError, "no other to contrast it with"),
        ("vilt-vqa", {"texts": TEXTS}, Misuse, "texts= are for models that compare a picture with texts, such as CLIP"),
        ("zoo/vit-scenes", IN, Misuse, "labels= are for models that compare"),
        ("zoo/bert-sentiment", IN | {"templates": "{}"}, Misuse, "labels= and templates= are for models that compare"),
    ],
)  # fmt: skip
def test_classes_that_cannot_be_compared_are_one_sentence(reader, name, given, kind, says):
    with pytest.raises(kind, match=re.escape(says)):
        reader(name).explain(picture(), **given)


def test_texts_given_twice_are_refused(reader):
    with pytest.raises(Misuse, match=re.escape("given twice, beside the picture and with texts=")):
        reader("clip").explain((picture(), TEXTS), texts=TEXTS)
