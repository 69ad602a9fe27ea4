"""Targets know the head that they are read from: multi-label, one output, regression, probabilities; and check what they are
given."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import regard
from regard import Target
from regard.errors import Misuse, ModelError, TargetError
from support.heads import Encoder, Keyed
from support.tiny import ids, noise, strong

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def bert(**config):
    made = transformers.BertConfig(**SMALL, vocab_size=60, **config)
    return strong(transformers.BertForSequenceClassification(made)), {"input_ids": ids(2, 6)}


def vit(**config):
    made = transformers.ViTConfig(**SMALL, image_size=16, patch_size=8, **config)
    return strong(transformers.ViTForImageClassification(made)), {"pixel_values": noise(2, 3, 16, 16)}


def same_map(model, inputs, target, function, method="gae"):
    """The explanation of a target, checked against that of the function which it should be."""
    found = regard.explain(model, inputs, target, method)
    expected = regard.explain(model, inputs, Target.of(function), method)
    torch.testing.assert_close(found.receipt.target_value, expected.receipt.target_value)
    for name, scores in expected.scores.items():
        torch.testing.assert_close(found.scores[name], scores, rtol=1e-4, atol=1e-6)
    return found


# -- multi-label ------------------------------------------------------------------------------------------------------

MULTI = {"num_labels": 4, "problem_type": "multi_label_classification"}


@pytest.mark.parametrize("make", [bert, vit])
@pytest.mark.parametrize("method", ["gae", "integrated_gradients"])
def test_labels_that_do_not_exclude_one_another_have_a_sigmoid_each(make, method):
    model, inputs = make(**MULTI)
    log = same_map(model, inputs, Target.log_probability(2), lambda out: F.logsigmoid(out.logits)[:, 2], method)
    assert log.target == "log-probability (sigmoid) of class 2"
    chance = same_map(model, inputs, Target.probability(1), lambda out: out.logits.sigmoid()[:, 1], method)
    assert chance.target == "probability (sigmoid) of class 1"
    assert chance.receipt.predicted is None  # several may be true: none is the predicted one
    assert not any("head" in note for note in chance.receipt.notes)


def test_of_several_labels_the_likeliest_is_explained():
    model, inputs = bert(**MULTI)
    found = same_map(model, inputs, None, lambda out: out.logits.max(-1).values)
    assert found.target == "logit of the likeliest class"
    assert torch.equal(found.receipt.explained, model(**inputs).logits.argmax(-1))


@pytest.mark.parametrize("model", [Encoder(4), Keyed(4)], ids=["course", "jax"])
def test_the_user_says_that_labels_do_not_exclude_one_another(model):
    strong(model)
    x = noise(2, 5, 16)

    def logits(out):
        return out if torch.is_tensor(out) else out["logits"]

    said = Target.log_probability(3, activation="sigmoid")
    assert same_map(model, x, said, lambda out: F.logsigmoid(logits(out))[:, 3]).target.endswith("(sigmoid) of class 3")
    same_map(model, x, Target.log_probability(3), lambda out: logits(out).log_softmax(-1)[:, 3])
    with pytest.raises(Misuse, match="unknown activation 'sigmiod'; did you mean 'sigmoid'"):
        Target.probability(3, activation="sigmiod")


def test_what_answers_are_trained_with_is_known_where_the_config_is_silent():
    from regard.head import head_of

    class ViltForQuestionAnswering(nn.Module):
        pass

    head = head_of(ViltForQuestionAnswering(), noise(2, 5))
    assert (head.kind, head.likeliest) == ("sigmoid", "the predicted class")


# -- one output -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [bert, vit])
def test_one_output_is_a_score_and_what_nobody_says_is_on_the_receipt(make):
    model, inputs = make(num_labels=1)
    found = same_map(model, inputs, None, lambda out: out.logits[:, 0])
    assert found.target == "score"
    assert found.receipt.explained is None
    assert found.receipt.predicted is None
    assert "nothing says whether it is a regression's or the logit of a yes-or-no answer" in found.receipt.notes[0]
    assert regard.explain(model, inputs, 0).target == "score"
    log = same_map(model, inputs, Target.log_probability(0), lambda out: F.logsigmoid(out.logits[:, 0]))
    assert log.target == "log-probability (sigmoid)"
    assert "taken to be its sigmoid" in log.receipt.notes[0]
    with pytest.raises(TargetError, match="no other class"):
        regard.explain(model, inputs, Target.contrast(0))
    with pytest.raises(TargetError, match="class 1 is out of range"):
        regard.explain(model, inputs, 1)


@pytest.mark.parametrize("squeezed", [False, True])
def test_one_output_of_a_model_written_by_hand(squeezed):
    model = strong(Encoder(1, lambda y: y[:, 0] if squeezed else y))
    x = noise(3, 5, 16)
    found = same_map(model, x, None, lambda out: out.reshape(3))
    assert (found.target, len(found.receipt.notes)) == ("score", 1)
    same_map(model, x, Target.probability(), lambda out: out.reshape(3).sigmoid(), "integrated_gradients")


def test_a_regression_says_that_it_is_one():
    model, inputs = bert(num_labels=1, problem_type="regression")
    found = regard.explain(model, inputs)
    assert (found.target, found.receipt.notes) == ("score", [])
    with pytest.raises(TargetError, match="a regression's outputs have no probability"):
        regard.explain(model, inputs, Target.log_probability(0))


def test_a_regression_of_several_numbers_predicts_no_class():
    model, inputs = vit(num_labels=3, problem_type="regression")
    with pytest.raises(TargetError, match="say which output, from 0 to 2"):
        regard.explain(model, inputs)
    found = same_map(model, inputs, 2, lambda out: out.logits[:, 2])
    assert (found.target, found.receipt.predicted) == ("score number 2", None)


# -- probabilities already --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "word"),
    [
        (lambda y: y.softmax(-1), "probability"),
        (lambda y: F.softmax(y, dim=1).float(), "probability"),
        (lambda y: torch.sigmoid(y), "probability"),
        (lambda y: F.log_softmax(y, dim=-1), "log-probability"),
    ],
    ids=["softmax", "softmax, moved", "sigmoid", "log-softmax"],
)
def test_probabilities_are_not_made_twice(last, word):
    model, x = strong(Encoder(3, last)), noise(2, 5, 16)
    assert regard.explain(model, x, 1).target == f"{word} of class 1"
    chance = (lambda out: out.exp()[:, 1]) if word.startswith("log") else (lambda out: out[:, 1])
    same_map(model, x, Target.probability(1), chance, "integrated_gradients")
    same_map(model, x, Target.log_probability(1), lambda out: chance(out).log())


def test_a_softmax_over_another_axis_makes_no_probabilities_of_classes():
    model, x = strong(Encoder(3, lambda y: y.softmax(0))), noise(2, 5, 16)
    assert regard.explain(model, x, 1, "input_x_gradient").target == "logit of class 1"


# -- what is constant -------------------------------------------------------------------------------------------------


def test_a_constant_target_is_told_so():
    model, inputs = bert(num_labels=1)
    with pytest.raises(ModelError, match=r"the target is constant here: it is 1, .*softmax over one class"):
        regard.explain(model, inputs, lambda out: out.logits.softmax(-1)[:, 0])
    loud = strong(Encoder(2, lambda y: y * 1e4))
    with pytest.raises(ModelError, match=r"constant here: it is 1, .*explain the logit"):
        regard.explain(loud, noise(1, 5, 16), Target.probability())


def test_a_target_that_goes_round_attention_is_not_called_constant():
    class Round(Encoder):
        def forward(self, x):
            return {"logits": super().forward(x), "mean": x.mean(1)}

    with pytest.raises(ModelError, match="does not depend on any attention call"):
        regard.explain(strong(Round(2)), noise(1, 5, 16), Target.logit(0, output="mean"))


# -- what constructors are given --------------------------------------------------------------------------------------

LOGITS = torch.tensor([[1.0, 3.0, 2.0], [0.5, -1.0, 4.0]])


@pytest.mark.parametrize(
    "one",
    [1, np.int64(1), np.uint8(1), np.array(1), torch.tensor(1), torch.tensor(1, dtype=torch.int8), LOGITS[0].argmax()],
)
def test_whole_numbers_of_every_kind_are_classes(one):
    for target in (Target.logit(one), Target.make(one), Target.next_token(one, position=None)):
        out = LOGITS[:, None] if target.label.startswith("next") else LOGITS
        assert target.value(out, {}).y.tolist() == [3.0, -1.0]
        assert re_class(target.label) == "1"
    assert Target.detection(np.int32(0), one).value(LOGITS[:, None], {}).y.tolist() == [3.0, -1.0]


def re_class(label):
    return label.split()[-1]


@pytest.mark.parametrize("several", [torch.tensor([2, 0]), np.array([2, 0]), torch.tensor([2, 0], dtype=torch.int32)])
def test_one_a_sample(several):
    assert Target.make(several).value(LOGITS, {}).y.tolist() == [2.0, 0.5]
    assert Target.contrast(several, 1).value(LOGITS, {}).y.tolist() == [-1.0, 1.5]
    rows = torch.arange(12.0).view(2, 3, 2)
    assert Target.logit(0, position=several).value(rows, {}).y.tolist() == [4.0, 6.0]
    spans = SimpleNamespace(start_logits=LOGITS, end_logits=LOGITS)
    assert Target.span(several, 2).value(spans, {}).y.tolist() == [4.0, 4.5]


BAD = [1.5, True, "x", 2**70, -(2**70), [1], object(), b"1", np.array([1.5]), torch.tensor(1.0), torch.zeros(2, 2).long(),
       torch.tensor([True]), torch.zeros(2, dtype=torch.int64, device="meta"), np.bool_(True), 1j]  # fmt: skip

TAKES = {
    "logit": Target.logit,
    "probability": Target.probability,
    "log_probability": Target.log_probability,
    "contrast": Target.contrast,
    "rival": lambda v: Target.contrast(1, v),
    "next_token": Target.next_token,
    "detection": lambda v: Target.detection(1, v),
    "query": Target.detection,
    "position": lambda v: Target.logit(1, position=v),
    "span": lambda v: Target.span(0, v),
    "text": Target.similarity,
    "region": lambda v: Target.region(torch.ones(2, 2), v),
    "make": Target.make,
}


@pytest.mark.parametrize("name", TAKES)
def test_everything_else_is_refused_in_one_sentence(name):
    for bad in BAD:
        with pytest.raises(Misuse) as refused:
            TAKES[name](bad)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Target.span(None, 1), "a token is a whole number"),
        (lambda: Target.detection(None), "an object query is a whole number"),
        (lambda: Target.region(None), "a region is a mask"),
        (lambda: Target.region(torch.zeros(2, 2)), "empty"),
        (lambda: Target.of(3), "takes a function"),
        (lambda: Target.logit(0, output=99).value((LOGITS,), {}), r"no tensor number 99; it is a tuple of: 0 \(2, 3\)"),
        (lambda: Target.logit(0, output=0).value({"a": LOGITS}, {}), r"no tensor number 0; its fields are: a \(2, 3\)"),
        (lambda: Target.logit(0, position=torch.tensor([0])).value(LOGITS[:, None], {}), "one position per sample"),
        (lambda: Target.logit(0, position=3).value(LOGITS[:, None], {}), "token 3 is out of range"),
    ],
)
def test_wrong_places_are_told(make, says):
    with pytest.raises(TargetError, match=says):
        make()


def test_a_region_is_also_taken_from_numpy():
    dense = torch.arange(24.0).view(1, 2, 3, 4)
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 2] = True
    assert Target.region(mask, 1).value(dense, {}).y.tolist() == [18.0]


# -- objects ----------------------------------------------------------------------------------------------------------


def test_a_detector_without_a_class_for_nothing_may_predict_its_last_class():
    logits = torch.tensor([[[0.0, 1.0, 5.0]]])
    three, two = nn.Module(), nn.Module()
    three.config, two.config = (SimpleNamespace(num_labels=n) for n in (3, 2))
    assert Target.detection(0).on(three, logits).value(logits, {}).explained.tolist() == [2]
    assert Target.detection(0).on(two, logits).value(logits, {}).explained.tolist() == [1]
