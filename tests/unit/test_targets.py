"""Targets: what y is, for every kind of output, and the errors where an output has no such value."""

from types import SimpleNamespace

import pytest
import torch

from regard import Target
from regard.errors import Misuse, TargetError
from regard.target import made_again

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
        (Target.logit(torch.tensor([1])), OUT, "one class per sample"),
        (Target.of(lambda o: o.logits.sum()), OUT, "one number per sample"),
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


# -- positions --------------------------------------------------------------------------------------------------------

BATCH = torch.arange(2)
ROWS = torch.randn(2, 5, 7)
ROWED = SimpleNamespace(logits=ROWS)
RIGHT = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
LEFT = RIGHT.flip(1)


@pytest.mark.parametrize(("mask", "rows"), [(RIGHT, [3, 1]), (LEFT, [3, 3])])
def test_negative_positions_leave_padding_out_on_either_side(mask, rows):
    inputs = {"attention_mask": mask}
    assert torch.equal(y(Target.next_token(3, position=-2), ROWED, inputs), ROWS[BATCH, rows, 3])
    with pytest.raises(TargetError, match="token -4 is out of range: there are 3 that are not padding"):
        y(Target.next_token(3, position=-4), ROWED, inputs)


def test_positions_from_zero_count_padding_and_may_not_fall_on_it():
    assert torch.equal(y(Target.next_token(3, position=2), ROWED, {"attention_mask": LEFT}), ROWS[:, 2, 3])
    with pytest.raises(TargetError, match="token 1 of sample 1 is padding"):
        y(Target.next_token(3, position=1), ROWED, {"attention_mask": LEFT})


def test_positions_of_a_decoder_are_not_read_from_the_mask_of_its_source():
    source = {"input_ids": torch.ones(2, 5).long(), "attention_mask": RIGHT}
    decoder = {"decoder_input_ids": torch.ones(2, 5).long()}
    assert torch.equal(y(Target.next_token(3), ROWED, source | decoder), ROWS[:, 4, 3])
    masked = source | decoder | {"decoder_attention_mask": LEFT.roll(-1, 0).flip(1)}
    assert torch.equal(y(Target.next_token(3), ROWED, masked), ROWS[BATCH, [2, 4], 3])
    labels = torch.tensor([[5, 5, -100, -100, -100], [5, 5, 5, 5, 5]])
    seq2seq = SimpleNamespace(logits=ROWS, encoder_last_hidden_state=torch.zeros(2, 5, 1))
    assert torch.equal(y(Target.next_token(3), seq2seq, source | {"labels": labels}), ROWS[BATCH, [1, 4], 3])


def test_a_picture_before_the_text_makes_the_sequence_longer_than_the_mask():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert torch.equal(y(Target.next_token(3), ROWED, {"attention_mask": mask}), ROWS[BATCH, [4, 2], 3])
    assert torch.equal(y(Target.next_token(3, position=1), ROWED, {"attention_mask": mask}), ROWS[:, 1, 3])


def test_positions_count_all_tokens_where_logits_to_keep_kept_some():
    inputs = {"input_ids": torch.ones(2, 9).long(), "attention_mask": torch.ones(2, 9)}
    few = inputs | {"logits_to_keep": 5}
    assert torch.equal(y(Target.next_token(3, position=6), ROWED, few), ROWS[:, 2, 3])
    assert torch.equal(y(Target.next_token(3, position=-2), ROWED, few), ROWS[:, 3, 3])
    with pytest.raises(TargetError, match="token 3 were not kept"):
        y(Target.next_token(3, position=3), ROWED, few)
    chosen = inputs | {"logits_to_keep": torch.tensor([0, 2, 4, 6, 8])}
    assert torch.equal(y(Target.next_token(3, position=6), ROWED, chosen), ROWS[:, 3, 3])
    assert torch.equal(y(Target.next_token(3), ROWED, chosen), ROWS[:, 4, 3])


def test_contrast_without_a_second_class_is_with_the_best_other_one():
    found = Target.contrast(1).value(OUT, {})
    assert found.rival.tolist() == [2, 2]
    assert found.y.tolist() == [1.0, -5.0]
    other = SimpleNamespace(logits=LOGITS.flip(-1))
    v = Target.contrast().value(OUT, {})
    fixed = Target.contrast().at(v.explained, v.rival)
    assert v.explained.tolist() == [1, 2]
    torch.testing.assert_close(y(fixed, other), other.logits[BATCH, v.explained] - other.logits[BATCH, v.rival])


def test_classes_by_their_rank():
    for rank, expected in enumerate(([1, 2], [2, 0], [0, 1])):
        found = Target.ranked(rank).value(OUT, {})
        assert found.explained.tolist() == expected
        assert found.predicted.tolist() == [1, 2]
        assert torch.equal(found.y, LOGITS.gather(1, torch.tensor(expected)[:, None])[:, 0])
    assert Target.ranked(1).label == "logit of the runner-up"
    assert Target.ranked(2).label == "logit of the 3rd likeliest class"
    assert Target.ranked(20).label == "logit of the 21st likeliest class"
    ties = SimpleNamespace(logits=torch.tensor([[2.0, 5.0, 2.0, 5.0]]))
    assert [int(Target.ranked(r).value(ties, {}).explained) for r in range(4)] == [1, 3, 0, 2]


def test_a_rank_stays_with_its_class_and_goes_into_a_file():
    found = Target.ranked(1).value(OUT, {})
    other = SimpleNamespace(logits=LOGITS.flip(-1))
    assert Target.ranked(1).at(found.explained).value(other, {}).explained.tolist() == [2, 0]
    kind, given = Target.ranked(1).made
    assert made_again(kind, given).value(OUT, {}).explained.tolist() == [2, 0]
    assert Target.ranked(1).of_samples(slice(1, 2)).value(
        SimpleNamespace(logits=LOGITS[1:]), {}
    ).explained.tolist() == [0]


@pytest.mark.parametrize("rank", [-1, True, 1.5, "1", None])
def test_a_rank_is_a_whole_number(rank):
    with pytest.raises(Misuse, match="a rank is a whole number from 0 on"):
        Target.ranked(rank)


def test_there_are_no_more_ranks_than_classes():
    with pytest.raises(TargetError, match="no class has rank 3: the model tells 3 classes apart"):
        y(Target.ranked(3))
