"""Targets: what y is, for every kind of output, and the errors where an output has no such value."""

from types import SimpleNamespace

import pytest
import torch

from regard import Target
from regard.errors import Misuse, TargetError

LOGITS = torch.tensor([[1.0, 3.0, 2.0], [0.5, -1.0, 4.0]])
OUT = SimpleNamespace(logits=LOGITS)


def y(target, out=OUT, inputs=None):
    return target.value(out, inputs or {}).y


def test_logit_of_the_predicted_class_a_class_and_one_class_a_sample():
    found = Target.logit().value(OUT, {})
    assert found.y.tolist() == [3.0, 4.0]
    assert found.explained.tolist() == found.predicted.tolist() == [1, 2]
    assert y(Target.logit(0)).tolist() == [1.0, 0.5]
    per_sample = Target.make(torch.tensor([2, 0])).value(OUT, {})
    assert per_sample.y.tolist() == [2.0, 0.5]
    assert per_sample.predicted.tolist() == [1, 2]
    assert y(Target.make(None)).tolist() == [3.0, 4.0]


def test_probability_log_probability_and_contrast():
    torch.testing.assert_close(y(Target.probability(1)), LOGITS.softmax(-1)[:, 1])
    torch.testing.assert_close(y(Target.log_probability(1)), LOGITS.log_softmax(-1)[:, 1])
    assert y(Target.contrast(1, 0)).tolist() == [2.0, -1.5]
    assert y(Target.contrast(0, 1)).tolist() == [-2.0, 1.5]


def test_classes_stay_fixed_where_another_one_is_predicted():
    found = Target.probability().value(OUT, {})
    other = SimpleNamespace(logits=LOGITS.flip(-1))
    torch.testing.assert_close(
        y(Target.probability().at(found.explained), other),
        other.logits.softmax(-1).gather(1, torch.tensor([[1], [2]]))[:, 0],
    )


def test_next_token_is_read_at_the_last_token_that_is_not_padding():
    logits = torch.randn(2, 4, 7)
    out = SimpleNamespace(logits=logits)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    assert torch.equal(y(Target.next_token(3), out, {"attention_mask": mask}), logits[[0, 1], [3, 1], 3])
    left = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    assert torch.equal(y(Target.next_token(3), out, {"attention_mask": left}), logits[:, 3, 3])
    assert torch.equal(y(Target.next_token(3, position=1), out), logits[:, 1, 3])
    assert torch.equal(y(Target.next_token(), out), logits[:, 3].max(-1).values)
    assert torch.equal(y(Target.logit(2, position=0), out), logits[:, 0, 2])


def test_detection_span_region_and_similarity():
    logits = torch.randn(2, 5, 4)
    out = SimpleNamespace(logits=logits)
    assert torch.equal(y(Target.detection(2, 1), out), logits[:, 2, 1])
    assert torch.equal(y(Target.detection(2), out), logits[:, 2, :-1].max(-1).values)
    qa = SimpleNamespace(start_logits=torch.randn(2, 6), end_logits=torch.randn(2, 6))
    assert torch.equal(y(Target.span(1, 3), qa), qa.start_logits[:, 1] + qa.end_logits[:, 3])
    dense = SimpleNamespace(logits=torch.randn(2, 3, 4, 4))
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1, 2] = mask[3, 3] = True
    torch.testing.assert_close(y(Target.region(mask, 1), dense), dense.logits[:, 1][:, mask].mean(-1))
    pair = SimpleNamespace(image_embeds=torch.randn(2, 8), text_embeds=torch.randn(2, 8))
    cosines = torch.cosine_similarity(pair.image_embeds[:, None], pair.text_embeds[None], dim=-1)
    torch.testing.assert_close(y(Target.similarity(), pair), cosines.diagonal())
    torch.testing.assert_close(y(Target.similarity(1), pair), cosines[:, 1])
    three = SimpleNamespace(image_embeds=pair.image_embeds, text_embeds=torch.randn(3, 8))
    best = torch.cosine_similarity(three.image_embeds[:, None], three.text_embeds[None], dim=-1).max(-1).values
    torch.testing.assert_close(y(Target.similarity(), three), best)


def test_other_fields_tensors_and_tuples():
    assert y(Target.logit(0, output="answer_scores"), {"answer_scores": LOGITS}).tolist() == [1.0, 0.5]
    assert y(Target.logit(0), LOGITS).tolist() == [1.0, 0.5]
    assert y(Target.logit(0, output=1), (torch.zeros(1), LOGITS)).tolist() == [1.0, 0.5]
    assert y(Target.logit(), SimpleNamespace(logits=torch.tensor([[2.0], [3.0]]))).tolist() == [2.0, 3.0]  # regression
    assert y(Target.of(lambda o: o.logits.sum(-1))).tolist() == [6.0, 3.5]


@pytest.mark.parametrize(
    ("target", "out", "says"),
    [
        (Target.logit(), {"last_hidden_state": torch.zeros(2, 4)}, r"no `logits`.*last_hidden_state \(2, 4\).*output="),
        (Target.logit(), (torch.zeros(2), LOGITS), r"tuple of: 0 \(2,\), 1 \(2, 3\)"),
        (Target.logit(7), OUT, "class 7 is out of range: there are 3"),
        (Target.logit(-1), OUT, "class -1 is out of range"),
        (Target.logit(), SimpleNamespace(logits=torch.zeros(2, 5, 3)), "say which token"),
        (
            Target.next_token(1, position=9),
            SimpleNamespace(logits=torch.zeros(2, 5, 3)),
            "token 9 is out of range: there are 5",
        ),
        (Target.detection(9), SimpleNamespace(logits=torch.zeros(2, 5, 3)), "object query 9 is out of range"),
        (
            Target.similarity(5),
            SimpleNamespace(image_embeds=torch.ones(2, 3), text_embeds=torch.ones(2, 3)),
            "text 5 is out",
        ),
        (Target.span(0, 1), OUT, "no `start_logits`"),
        (Target.region(torch.ones(4, 4)), OUT, "needs logits"),
        (Target.logit(torch.tensor([1])), OUT, "one class a sample"),
        (Target.of(lambda o: o.logits.sum()), OUT, "one number a sample"),
        (Target.of(lambda o: 3.0), OUT, "it gave float"),
    ],
)
def test_errors_say_what_there_is(target, out, says):
    with pytest.raises(TargetError, match=says):
        target.value(out, {})


@pytest.mark.parametrize("what", ["cat", 1.5, True, [1]])
def test_things_that_are_no_target(what):
    with pytest.raises(Misuse):
        Target.make(what)
