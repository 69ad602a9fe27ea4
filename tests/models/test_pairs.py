"""A picture and a text, regions of a picture, found objects: read, explained, on the command line, on a page to click."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

import regard
from regard import Explanation, Target, zoo
from regard.errors import InputError, Misuse, ModelError, TargetError, UnknownName
from regard.explanation.boxes import Box, Found, painted, probabilities
from regard.models.detectors import found_in
from support.regions import QUESTION, RELATION, picture

torch.set_num_threads(1)

# ---------------------------------------------------------------- pairs


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("vilt-vqa", "logit of the predicted class"),
        ("vilt-match", "match of picture and text"),
        ("blip-match", "match of picture and text"),
        ("clip", "similarity"),
    ],
)
def test_a_picture_and_a_text_are_two_streams(reader, name, target):
    r = reader(name)
    assert r.kind == "image-text"
    exp = r.explain((picture(), QUESTION))
    assert exp.target == target
    assert [w.text for w in exp.words[0]] == ["what", "is", "on", "the", "cats", "?"]
    rows, columns = exp.grid["pixel_values"]
    assert exp.scores["pixel_values"].shape == (1, rows * columns)
    assert exp.scores["pixel_values"].any()
    assert exp.scores["input_ids"].any()
    assert exp.on_original()[0].shape == (30, 40)
    assert exp.receipt.faithful < 1e-5


def test_answers_by_name_and_match_by_its_own_score(reader):
    vilt, blip = reader("vilt-vqa"), reader("blip-match")
    assert vilt.explain((picture(), QUESTION), "red").receipt.explained.tolist() == [2]
    with pytest.raises(UnknownName, match="did you mean 'two'"):
        vilt.explain((picture(), QUESTION), "tow")
    inputs = blip.read((picture(), QUESTION)).inputs
    score = blip.model(**inputs).itm_score[:, 1]
    torch.testing.assert_close(blip.explain((picture(), QUESTION)).receipt.target_value, score.detach())


def test_an_answer_in_words_is_explained_by_its_loss(reader):
    r = reader("blip-vqa")
    own, said = r.explain((picture(), QUESTION)), r.explain((picture(), QUESTION), "two cats")
    assert said.target == "minus the loss of the answer 'two cats'"
    assert said.inputs["decoder_input_ids"][0].tokens == ["[DEC]", "two", "cat", "##s", "[SEP]"]
    ids = torch.tensor([[5, 16, 9, 10, 3]])
    inputs = r.read((picture(), QUESTION)).inputs
    loss = r.model(**inputs, labels=ids, decoder_input_ids=ids).loss
    torch.testing.assert_close(said.receipt.target_value, -loss.detach().reshape(1))
    assert (
        "decoder_input_ids: 5 tokens" in str(r.inspect((picture(), QUESTION))) or own.scores["decoder_input_ids"].any()
    )
    with pytest.raises(InputError, match="answer is empty"):
        r.explain((picture(), QUESTION), " ")
    r.model.train()
    with pytest.raises(ModelError, match="train mode"):
        r.explain((picture(), QUESTION))
    r.model.eval()
    with pytest.raises(ModelError, match="explains the answer"):
        r.explain_generation((picture(), QUESTION))


@pytest.mark.parametrize("name", ["blip-caption", "trocr"])
def test_captions_need_a_picture_alone(reader, name, tmp_path):
    r = reader(name)
    picture().save(tmp_path / "a.png")
    written = r.explain_generation(str(tmp_path / "a.png"), 3)
    assert len(written) <= 3
    assert written.start == 1
    assert all(e.scores["pixel_values"].any() for e in written)
    with torch.no_grad():
        ids = r.model.generate(**r.read(picture()).inputs, max_new_tokens=3, do_sample=False, num_beams=1)
    assert ids[0, -len(written) :].tolist() == written.ids
    written.to_html(tmp_path / "w.html")


def test_a_caption_goes_on_from_a_text(reader):
    r = reader("blip-caption")
    written = r.explain_generation((picture(), "a picture of"), 2)
    assert written.prompt == "a picture of"
    assert written.tokens[:4] == ["[DEC]", "a", "picture", "of"]
    exp = written[0]
    with torch.no_grad():
        ids = torch.tensor([[5, 13, 14, 15, *written.ids]])
        logits = r.model(input_ids=ids, pixel_values=r.read(picture()).inputs["pixel_values"]).logits
    torch.testing.assert_close(exp.receipt.target_value, logits[0, 3, written.ids[:1]])


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("vilt-vqa", picture(), "no text was given beside the picture; ViltForQuestionAnswering reads"),
        ("vilt-vqa", QUESTION, "no picture was given; ViltForQuestionAnswering reads"),
        ("vilt-vqa", (None, QUESTION), "no picture was given"),
        ("vilt-vqa", (picture(), " "), "prompt is empty"),
        ("vilt-vqa", (picture(), "cats " * 30), "has 62 tokens, but ViltForQuestionAnswering takes at most 20"),
        ("vilt-vqa", ("nope.png", QUESTION), "no such picture"),
        ("blip-caption", picture(), "no text to score yet: explain_generation"),
        ("trocr", (picture(), " "), "must be a text with at least one word"),
        ("lxmert", (picture(), QUESTION), "sees regions of a picture"),
        ("lxmert", picture(), "no question was given"),
        ("lxmert", QUESTION, "no picture was given"),
    ],
)
def test_bad_pairs_are_one_sentence(reader, name, raw, says):
    with pytest.raises(Misuse, match=re.escape(says)):
        reader(name).explain(raw)


@pytest.mark.parametrize("target", [3, ["red", "two"], Target.logit(1)])
def test_a_model_that_answers_in_words_takes_one_answer(reader, target):
    with pytest.raises(TargetError, match="answers in words: give one answer"):
        reader("blip-vqa").explain((picture(), QUESTION), target)


def test_an_answer_that_is_too_long_is_one_sentence(reader):
    with pytest.raises(InputError, match="the answer has 62 tokens, but BlipForQuestionAnswering takes at most 20"):
        reader("blip-vqa").explain((picture(), QUESTION), "red " * 60)


def test_a_module_of_your_own_reads_pairs(reader):
    theirs = reader("vilt-vqa")
    mine = regard.load(theirs.model, processor=theirs.processor)
    assert mine.kind == "image-text"
    torch.manual_seed(0)
    a = mine.explain((picture(), QUESTION))
    torch.manual_seed(0)
    assert torch.equal(a.scores["input_ids"], theirs.explain((picture(), QUESTION)).scores["input_ids"])


# ---------------------------------------------------------------- one picture and several texts

LABELS = ["a cat", "two red cats on the mat", "what"]


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_picture_is_compared_with_texts(reader, name):
    """The texts are the classes: by number or in words, each as it is alone, and one against another."""
    r = reader(name)
    exp = r.explain((picture(), LABELS), "two red cats on the mat", measure="full")
    assert exp.labels == LABELS
    assert exp.receipt.explained.tolist() == [1]
    assert [[w.text for w in row] for row in exp.words] == [text.split() for text in LABELS]
    assert exp.scores["pixel_values"].shape == (1, 16)
    alone = r.explain((picture(), LABELS[1:2]), 0, measure="full")
    n = alone.scores["input_ids"].shape[1]
    torch.testing.assert_close(exp.scores["pixel_values"], alone.scores["pixel_values"], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(exp.scores["input_ids"][1, :n], alone.scores["input_ids"][0], rtol=1e-4, atol=1e-7)
    assert not exp.scores["input_ids"][[0, 2]].any()
    torch.testing.assert_close(exp.receipt.target_value, alone.receipt.target_value)
    inputs = [r.read((picture(), text)).inputs for text in LABELS]
    with torch.no_grad():
        logits = torch.stack([r.model(**i).logits_per_image[0, 0] for i in inputs])
    torch.testing.assert_close(exp.receipt.target_value, logits[1:2])
    assert r.explain((picture(), LABELS)).receipt.explained.tolist() == [int(logits.argmax())]
    less = r.explain((picture(), LABELS), 0, "input_x_gradient", against="what")
    torch.testing.assert_close(less.receipt.target_value, (logits[0] - logits[2])[None])
    assert less.scores["input_ids"].any(1).tolist() == [True, False, True]
    assert less.target == "'a cat' rather than 'what'"
    each = r.explain((picture(), LABELS), ["what", 0])
    assert [int(e.receipt.explained) for e in each] == [2, 0]


def test_texts_that_a_picture_is_compared_with_are_drawn(reader, tmp_path):
    exp = reader("clip").explain((picture(), LABELS), 1)
    assert exp.on_original()[0].shape == (30, 40)
    assert "two red cats on the mat" in exp.to_html(tmp_path / "page.html").read_text()
    exp.plot(tmp_path / "map.png")
    assert Explanation.load(exp.save(tmp_path / "map.safetensors")).labels == LABELS
    seen = str(reader("clip").inspect((picture(), LABELS), "what"))
    assert "input_ids" in seen


@pytest.mark.parametrize(
    ("name", "raw", "target", "says"),
    [
        ("clip", (picture(), []), None, "the list of texts is empty"),
        ("clip", (picture(), ["a cat", " "]), None, "text 1 is empty"),
        ("clip", (picture(), ["a cat", 3]), None, "text 1 is not a text but int"),
        ("clip", (picture(), ["a cat", "cats " * 30]), None, "has 62 tokens, but CLIPModel takes at most 20"),
        ("clip", ([picture(), picture()], LABELS), None, "one picture is compared with several texts"),
        ("clip", (None, LABELS), None, "no picture was given"),
        ("clip", (picture(), LABELS), 3, "3"),
        ("clip", (picture(), LABELS), "a cot", "did you mean 'a cat'"),
        ("clip", (picture(), ["what", "what"]), "what", "texts 0 and 1 are the same"),
        ("vilt-vqa", (picture(), LABELS), None, "ViltForQuestionAnswering reads one text beside a picture"),
        ("blip-match", (picture(), LABELS), None, "reads one text beside a picture"),
    ],
)
def test_texts_that_no_picture_is_compared_with_are_one_sentence(reader, name, raw, target, says):
    with pytest.raises(Misuse, match=re.escape(says)):
        reader(name).explain(raw, target)


def test_a_text_is_padded_where_the_model_reads_its_last_place(reader):
    """SigLIP is trained on texts padded to all its places, and reads the last one."""
    r = reader("siglip")
    one = r.read((picture(), "a cat"))
    assert one.inputs["input_ids"].shape == (1, 20)
    assert one.special["input_ids"][0].tolist() == [True, False, False, *[True] * 17]
    with pytest.raises(InputError, match="has 62 tokens, but SiglipModel takes at most 20"):
        r.read((picture(), "cats " * 30))


# ---------------------------------------------------------------- regions


def test_the_zoo_answers_from_a_picture_and_its_boxes(asked, reader):
    exp, q = asked
    scene = q.scene[RELATION]
    assert exp.labels[exp.receipt.explained] == q.answers[RELATION]
    tokenizer = reader("zoo/lxmert-scenes").processor
    words = tokenizer([q.texts[RELATION]], return_tensors="pt", return_token_type_ids=False)
    regions = {"visual_feats": q.features[scene][None], "visual_pos": q.boxes[scene][None]}
    target = Target.logit(output="question_answering_score")
    plain = regard.explain(reader("zoo/lxmert-scenes").model, {**words, **regions}, target)
    for stream, scores in plain.scores.items():
        torch.testing.assert_close(exp.scores[stream], scores)
    assert q.source[RELATION][int(exp.scores["visual_feats"][0].argmax())]


def test_regions_lie_on_the_picture(asked, tmp_path):
    exp = asked[0]
    (on_picture,) = exp.on_original()
    best = int(exp.scores["visual_feats"][0].argmax())
    left, top, right, bottom = (int(v) for v in exp.inputs["visual_feats"][0].regions[best])
    assert on_picture.shape == (80, 80)
    assert (on_picture[top:bottom, left:right] == exp.scores["visual_feats"][0, best]).all()
    loaded = Explanation.load(exp.save(tmp_path / "e.safetensors"))
    assert loaded.inputs["visual_feats"][0].regions == exp.inputs["visual_feats"][0].regions
    assert torch.equal(loaded.on_original()[0], on_picture)


def test_the_smallest_region_is_on_top():
    boxes = [Box(1, 1, 3, 3), Box(0, 0, 4, 4), Box(3.6, 0, 4, 1)]
    drawn = painted(torch.tensor([1.0, 2.0, 3.0]), boxes, 5, 5)
    expected = torch.zeros(5, 5)
    expected[:4, :4] = 2
    expected[1:3, 1:3] = 1  # the third holds no pixel's centre
    assert torch.equal(drawn, expected)


def test_vectors_of_your_own(reader):
    r = reader("lxmert")
    boxes, vectors = [[0, 0, 1, 1], [0.1, 0.1, 0.2, 0.5]], torch.ones(2, 8)
    exp = r.explain((picture(), QUESTION), regions=(boxes, vectors))
    assert exp.scores["visual_feats"].shape == (1, 2)
    with pytest.raises(ModelError, match=r"give regions=\(boxes, vectors\)"):
        r.explain((picture(), QUESTION), regions=boxes)
    with pytest.raises(InputError, match=r"2 boxes need vectors \(2, features\), not \(1, 8\)"):
        r.explain((picture(), QUESTION), regions=(boxes, vectors[:1]))
    with pytest.raises(InputError, match="takes vectors of 8 features for its regions, not of 9"):
        r.explain((picture(), QUESTION), regions=(boxes, torch.ones(2, 9)))


@pytest.mark.parametrize(
    ("regions", "says"),
    [
        ([[0, 0, 80, 80]], "beyond 0 to 1"),
        ([[0.5, 0, 0.5, 1]], "region 1 of 1 is empty"),
        ([0, 0, 1, 1], "not boxes"),
        ([], "not boxes"),
        ("boxes", "must be numbers"),
        ([[0, 0, float("nan"), 1]], "beyond 0 to 1"),
    ],
)
def test_bad_regions_are_one_sentence(reader, regions, says):
    with pytest.raises(InputError, match=says):
        reader("zoo/lxmert-scenes").explain((picture(), QUESTION), regions=regions)


def test_regions_are_for_models_that_read_them(reader):
    with pytest.raises(Misuse, match="not regions of a picture"):
        reader("vilt-vqa").explain((picture(), QUESTION), regions=[[0, 0, 1, 1]])


# ---------------------------------------------------------------- found objects


def test_every_found_object_is_a_target_of_one_forward_pass(detected, reader):
    found, d = detected
    r = reader("zoo/detr-scenes")
    assert {e.found.label for e in found} == {d.names[i] for i in d.labels[0].tolist() if i >= 0}
    assert [e.found.probability for e in found] == sorted((e.found.probability for e in found), reverse=True)
    inputs = r.read(d.images[0]).inputs
    forwards = []
    hook = r.model.register_forward_hook(lambda *_: forwards.append(1))
    r.explain(d.images[0])
    hook.remove()
    assert len(forwards) == 1
    for e in found:
        alone = regard.explain(r.model, inputs, Target.detection(e.found.query, e.found.index))
        torch.testing.assert_close(alone.scores["pixel_values"], e.scores["pixel_values"])
        assert e.receipt.explained.tolist() == [e.found.index]


def test_boxes_are_in_the_pixels_of_the_picture(reader, detected):
    d = detected[1]
    large = Image.fromarray(d.images[0].numpy()).resize((320, 160), Image.Resampling.NEAREST)
    for small, e in zip(detected[0], reader("zoo/detr-scenes").explain(large), strict=True):
        scaled = [v * f for v, f in zip(small.found.box, (4, 2, 4, 2), strict=True)]
        assert np.abs(np.array(scaled) - np.array(e.found.box)).max() < 8
        assert e.on_original()[0].shape == (160, 320)


@pytest.mark.parametrize("name", ["detr", "conditional-detr", "yolos"])
def test_detectors_of_other_kinds(reader, name):
    r = reader(name)
    assert r.detects
    found = r.explain(picture(), threshold=0.0, method=["gae", "rollout"])
    assert [e.method for e in found] == ["gae"] * 3 + ["rollout"] * 3
    assert {e.found.query for e in found} == {0, 1, 2}
    with torch.no_grad():
        logits = r.model(**r.read(picture()).inputs).logits[0]
    for e in found:
        at = logits[e.found.query]
        expected = at.softmax(-1)[e.found.index] if len(at) == 4 else at.sigmoid()[e.found.index]
        assert e.found.probability == pytest.approx(float(expected), abs=1e-5)


def test_probabilities_know_the_class_of_nothing():
    logits = torch.tensor([[0.0, 1.0, 3.0]])
    torch.testing.assert_close(probabilities(logits, 2), logits.softmax(-1)[:, :2])
    torch.testing.assert_close(probabilities(logits, 3), logits.sigmoid())


def test_objects_by_class_and_threshold(detected, reader):
    r, d = reader("zoo/detr-scenes"), detected[1]
    (bag,) = r.explain(d.images[0], "bag")
    assert bag.found.label == "Bag"
    assert len(r.explain(d.images[0], ["Bag", 5])) == 2
    assert r.explain(d.images[:1][0], Target.detection(2)).found is None
    for what, error, says in (
        ({"threshold": 1.0}, InputError, "no object is found in picture 0 above 1 (the likeliest has"),
        ({"target": "Coat"}, InputError, "no 'Coat' is found in picture 0: the model takes nothing in it for one"),
        ({"target": "Cot"}, UnknownName, "did you mean 'Coat'?"),
        ({"target": 8}, TargetError, "there is no class 8; the model has 8"),
        ({"threshold": 7}, InputError, "must be a probability"),
        ({"target": Target.detection(2), "threshold": 0.2}, Misuse, "threshold= is for objects"),
    ):
        with pytest.raises(error, match=re.escape(says)):
            r.explain(d.images[0], **what)
    with pytest.raises(InputError, match="give them one by one"):
        r.explain([d.images[0], d.images[1]])
    with pytest.raises(Misuse, match="threshold= is for objects"):
        regard.load("zoo/vit-scenes").explain(zoo.demo_scene(), threshold=0.2)


def test_the_likeliest_object_is_compared(detected, reader):
    exp, d = detected[0][0], detected[1]
    made = reader("zoo/detr-scenes").compare(d.images[0], methods=["gae", "rollout"])
    assert [(e.method, e.found) for e in made.explanations] == [("gae", exp.found), ("rollout", exp.found)]
    torch.testing.assert_close(made.explanations[0].scores["pixel_values"], exp.scores["pixel_values"])


def test_a_found_object_is_saved(detected, tmp_path):
    exp = detected[0][0]
    assert Explanation.load(exp.save(tmp_path / "e.safetensors")).found == exp.found
    assert isinstance(exp.found, Found)


def test_nothing_found_names_the_picture():
    output = {"logits": torch.tensor([[[0.0, 0.0, 5.0]]]), "pred_boxes": torch.tensor([[[0.5, 0.5, 1.0, 1.0]]])}
    from regard.explanation.raw_inputs import Picture

    shown = Picture(torch.zeros(4, 8, 3, dtype=torch.uint8), (0.0, 0.0, 8.0, 4.0), "a.png")
    with pytest.raises(InputError, match=r"in a\.png above 0\.5 \(the likeliest has 0\.0066"):
        found_in(output, shown, ["x", "y"], 0.5)
    assert found_in(output, shown, ["x", "y"], 0.0)[0].box == Box(0.0, 0.0, 8.0, 4.0)
