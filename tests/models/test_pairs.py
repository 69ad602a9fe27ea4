"""A picture and a text, regions of a picture, found objects: read, explained, on the command line, on a page to click."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import regard
from regard import Explanation, Target, zoo
from regard.cli import commands as cli
from regard.errors import InputError, Misuse, ModelError, TargetError, UnknownName
from regard.explanation.boxes import Box, Found, painted, probabilities
from regard.models.detectors import found_in
from regard.report.explanation import objects_png as objects
from regard.report.explanation.html import page, write_page
from regard.report.explanation.token_links import MOST, looks
from regard.report.view import view_of
from support.pairs import FOLDERS, save

torch.set_num_threads(1)
NASTY = '</script><script>alert(1)</script>"><img src=x onerror=alert(2)>'
QUESTION = "what is on the cats?"
RELATION = 14  # of the zoo's questions: what is left of the bag?


def picture(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8))


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    made = {}

    def load(name):
        if name not in made:
            there = name.startswith("zoo/")
            made[name] = regard.load(name if there else save(name, tmp_path_factory.mktemp(name)))
        return made[name]

    return load


@pytest.fixture(scope="module")
def asked(reader):
    """The zoo's answer to "what is left of the bag ?", and its known evidence."""
    q = zoo.questions()
    scene = q.scene[RELATION]
    given = (q.images[scene], q.texts[RELATION])
    return reader("zoo/lxmert-scenes").explain(given, regions=q.boxes[scene]), q


@pytest.fixture(scope="module")
def detected(reader):
    d = zoo.detections()
    return reader("zoo/detr-scenes").explain(d.images[0]), d


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
        ("vilt-vqa", (picture(), "cats " * 30), "makes 62 tokens, and ViltForQuestionAnswering takes 20"),
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
    with pytest.raises(InputError, match="the answer makes 62 tokens, and BlipForQuestionAnswering takes 20"):
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
        ("clip", (picture(), ["a cat", 3]), None, "text 1 is no text but int"),
        ("clip", (picture(), ["a cat", "cats " * 30]), None, "makes 62 tokens, and CLIPModel takes 20"),
        ("clip", ([picture(), picture()], LABELS), None, "one picture is compared with several texts"),
        ("clip", (None, LABELS), None, "no picture was given"),
        ("clip", (picture(), LABELS), 3, "3"),
        ("clip", (picture(), LABELS), "a cot", "did you mean 'a cat'"),
        ("clip", (picture(), ["what", "what"]), "what", "stands for several classes"),
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
    with pytest.raises(InputError, match="makes 62 tokens, and SiglipModel takes 20"):
        r.read((picture(), "cats " * 30))


def test_texts_on_the_command_line(files, tmp_path):
    asks = ("--text", "a cat", "--text", "two red cats")
    said = run(
        "explain", "scene.png", "-m", str(save("clip", tmp_path / "clip")), *asks, "--target", "two red cats"
    ).stdout
    assert "logit of class 1 (two red cats)" in said
    other = run("explain", "scene.png", "-m", str(save("vilt-vqa", tmp_path / "vilt")), *asks, code=2).stderr
    assert "reads one text beside a picture" in other
    assert "reads one --text" in run("explain", "a cat", "-m", "zoo/bert-sentiment", *asks, code=2).stderr


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
        ([0, 0, 1, 1], "no boxes"),
        ([], "no boxes"),
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
        ({"target": "Coat"}, InputError, "no 'Coat' is found in picture 0: no query has it"),
        ({"target": "Cot"}, UnknownName, "did you mean 'Coat'?"),
        ({"target": 8}, TargetError, "there is no class 8; the model has 8"),
        ({"threshold": 7}, InputError, "must be a probability"),
        ({"target": Target.detection(2), "threshold": 0.2}, Misuse, "a threshold is for objects"),
    ):
        with pytest.raises(error, match=re.escape(says)):
            r.explain(d.images[0], **what)
    with pytest.raises(InputError, match="give them one by one"):
        r.explain([d.images[0], d.images[1]])
    with pytest.raises(Misuse, match="a threshold is for objects"):
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


# ---------------------------------------------------------------- pages


def data_of(source: str) -> dict:
    return json.loads(html.unescape(re.search(r'id="regard-data">(.*?)</script>', source, re.S)[1]))


def test_the_page_holds_what_between_gives(asked):
    exp = asked[0]
    (section,) = data_of(page([exp]))["sections"]
    (view,) = section["views"]
    for query, key in (("input_ids", "visual_feats"), ("visual_feats", "input_ids")):
        held = torch.tensor(view["looks"][query][key])
        torch.testing.assert_close(held, exp.between(query, key)[0], rtol=1e-5, atol=0)
    assert section["stages"][0]["regions"] == [[*b] for b in exp.inputs["visual_feats"][0].regions]


def test_a_stream_that_never_looks_is_left_out(reader):
    exp = reader("blip-match").explain((picture(), QUESTION))
    assert list(looks(view_of(exp))) == ["input_ids"]
    assert not looks(view_of(reader("clip").explain((picture(), QUESTION))))


def test_how_well_a_text_fits_is_no_class(reader):
    exp = reader("clip").explain((picture(), QUESTION))
    said = page([exp])
    assert "similarity (text 0)" in said
    assert "no text given fits better" in said
    exp.receipt.predicted = torch.tensor([3])
    assert "text 3 fits better" in page([exp])
    assert not looks(view_of(reader("blip-match").explain((picture(), QUESTION), method="gradient")))
    assert MOST >= 576  # a picture of 24 x 24 places


def test_nothing_in_a_page_is_more_than_text(asked, detected):
    exp = asked[0]
    named = {s: [dataclasses.replace(r, name=NASTY) for r in raw] for s, raw in exp.inputs.items()}
    found = dataclasses.replace(detected[0][0].found, label=NASTY)
    nasty = dataclasses.replace(detected[0][0], found=found, target=NASTY, labels=[NASTY] * 8)
    source = page([dataclasses.replace(exp, inputs=named), nasty])
    assert "<img src=x" not in source
    assert "<script>alert" not in source
    assert source.count("<script") == 2
    assert all(found.startswith("data:") for found in re.findall(r'(?:src|href)="([^"]+)"', source))


@pytest.mark.parametrize(("probability", "said"), [(0.9958, "> 99%"), (1.0, "> 99%"), (0.994, "99%"), (0.5, "50%")])
def test_no_object_is_said_to_be_certain(probability, said):
    assert Found(0, 1, "Bag", probability, Box(0, 0, 1, 1)).sure == said


def test_all_objects_are_drawn(detected, asked, tmp_path):
    found = detected[0]
    objects.plot(found, tmp_path / "o.png")
    with Image.open(tmp_path / "o.png") as drawn:
        assert drawn.width == 1080
    found[0].plot(tmp_path / "a.png")
    assert len(data_of(page(found))["sections"][0]["objects"]) == len(found)
    with pytest.raises(Misuse, match="is no object"):
        objects.plot([asked[0]])


# ---------------------------------------------------------------- the command line


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    q = zoo.questions()
    scene = q.scene[RELATION]
    Image.fromarray(q.images[scene].numpy()).save("scene.png")
    Path("boxes.json").write_text(json.dumps(q.boxes[scene].tolist()))
    return q


def run(*args: str, code: int = 0):
    result = CliRunner().invoke(cli.app, [*args])
    assert result.exit_code == code, result.output
    if code:
        assert len(result.stderr.strip().splitlines()) == 1
    return result


def test_a_question_on_the_command_line(files):
    asks = ("--text", files.texts[RELATION], "--regions", "boxes.json", "--model", "zoo/lxmert-scenes")
    said = run("explain", "scene.png", *asks).stdout
    assert said.startswith("what is left of the bag ? + scene.png\n")
    assert "(trouser)" in said
    assert "region 8" in said
    assert sorted(p.suffix for p in Path("regard-out").iterdir()) == [".html", ".png"]
    assert "visual_feats: 8 tokens" in run("inspect", "scene.png", *asks).stdout


def test_objects_on_the_command_line(files):
    said = run("explain", "scene.png", "--model", "zoo/detr-scenes").stdout
    assert re.search(r"found: Bag 9\d\.\d% in \(\d+, \d+\)-\(\d+, \d+\)", said)
    names = sorted(p.name for p in Path("regard-out").iterdir())
    assert names[:2] == ["report.html", "scene-gae-objects.png"]
    assert len(names) == 4  # and a picture of each


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["-m", "zoo/lxmert-scenes"], "ask it with --text"),
        (["-m", "zoo/lxmert-scenes", "--text", "what"], "with --regions FILE"),
        (["-m", "zoo/lxmert-scenes", "--text", "what", "--regions", "no.json"], "no such file: no.json"),
        (["-m", "zoo/lxmert-scenes", "--text", "what", "--regions", "bad.json"], "bad.json is not JSON"),
        (["-m", "zoo/lxmert-scenes", "--text", "what", "--regions", "odd.json"], "odd.json holds no boxes"),
        (["-m", "zoo/lxmert-scenes", "--text", "what", "--regions", "deep.json"], "deep.json is not JSON"),
        (["-m", "zoo/lxmert-scenes", "--text", "what", "--regions", "long.json"], "long.json is not JSON"),
        (["-m", "zoo/lxmert-scenes", "--text", "what", "--image", "scene.png"], "--image goes with"),
        (["-m", "zoo/vit-scenes", "--text", "what"], "reads images only"),
        (["-m", "zoo/detr-scenes", "--regions", "boxes.json"], "--regions goes with"),
        (["-m", "zoo/detr-scenes", "--threshold", "1"], "no object is found in scene.png above 1"),
        (["-m", "zoo/detr-scenes", "--target", "Coat"], "no 'Coat' is found in scene.png: no query has it"),
        (["-m", "zoo/detr-scenes", "--target", "Cot"], "did you mean 'Coat'?"),
        (["-m", "zoo/detr-scenes", "--threshold", "0.5", "--generate", "2"], "leave one out"),
    ],
)
def test_misuse_on_the_command_line(files, args, says):
    Path("bad.json").write_text("[[0, 0")
    Path("odd.json").write_text('{"a": 1}')
    Path("deep.json").write_text("[" * 100_000)
    Path("long.json").write_text(f"[[{'1' * 9999}, 0, 1, 1]]")
    assert says in run("explain", "scene.png", *args, code=2).stderr
    assert not Path("regard-out").exists()


def test_an_answer_in_words_keeps_its_own_name(files, tmp_path):
    folder = str(save("blip-vqa", tmp_path / "blip"))
    asks = ("-m", folder, "--text", "what is on the mat", "--target", "two cats")
    assert run("explain", "scene.png", *asks).stdout.startswith("what is on the mat + scene.png + answer\n")


def test_a_caption_on_the_command_line(files, tmp_path):
    folder = str(save("blip-caption", tmp_path / "caption"))
    said = run("explain", "scene.png", "-m", folder, "--generate", "2").stdout
    assert len(re.findall(r"the picture \(\d+\.\d% of the map\)", said)) == 2
    assert Path("regard-out/scene-gae-written.png").exists()


def test_a_pair_on_the_command_line(files, reader, tmp_path):
    folder = str(save("vilt-vqa", tmp_path / "vilt"))
    run("explain", "scene.png", "-m", folder, "--text", "what is on the mat", "-q")
    for given in ("scene.png", "what is it"):
        assert "the text with --text" in run("explain", given, "-m", folder, code=2).stderr
    both = ("--text", "what", "--image", "scene.png")
    assert "give one of them" in run("explain", "scene.png", "-m", folder, *both, code=2).stderr


def test_two_texts_on_the_command_line(files):
    said = run("explain", "A fine film.", "--text", "It is dull.", "--model", "zoo/bert-sentiment").stdout
    assert said.startswith("A fine film. + It is dull.\n")
    page = Path("regard-out/report.html").read_text(encoding="utf-8")
    assert all(word in page for word in ("film", "dull"))
    assert "second text" in run("explain", "--help").stdout


def test_a_map_that_leaves_an_input_out_says_so(files):
    scene = files.scene[RELATION]
    given = (files.images[scene], files.texts[RELATION])
    of = regard.load("zoo/lxmert-scenes")
    kept, left = of.explain(given, method=["gae", "raw_attention"], regions=files.boxes[scene])
    note = "what this method follows does not reach visual_feats, which score 0"
    assert note in left.receipt.notes
    assert note not in kept.receipt.notes
    assert not bool(left.scores["visual_feats"].any())


# ---------------------------------------------------------------- in a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """<script>
const all = (s) => [...document.querySelectorAll(s)], seen = {}, words = all("#s0 .running:not(.tokens) .w");
const say = () => all("#s0 output")[0].textContent, alpha = () => words.map((w) => w.style.getPropertyValue("--a"));
const at = (stage, x, y) => {
  const b = stage.getBoundingClientRect();
  return {clientX: b.left + x / 80 * b.width, clientY: b.top + y / 80 * b.height, bubbles: true};
};
const stage = document.querySelector("#s0 .stage"), other = document.querySelector("#s1 .stage");
const answer = alpha();
words[5].click(); seen.word = [say(), location.hash];
words[5].click(); seen.back = [String(alpha()) === String(answer), location.hash];
stage.dispatchEvent(new MouseEvent("click", at(stage, 15, 20)));
seen.place = [say(), location.hash, all("#s0 .w[data-now]").slice(0, 7).map((w) => w.dataset.now)];
all("#s0 .release")[0].click(); seen.released = String(alpha()) === String(answer);
other.dispatchEvent(new MouseEvent("click", at(other, 20, 55)));
seen.object = all('#s1 input[data-kind="target"]:checked')[0].value;
document.body.textContent = JSON.stringify(seen);
</script></body>"""


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="no browser")
def test_clicks_in_a_browser(asked, detected, tmp_path):
    exp, found = asked[0], detected[0]
    file = write_page([exp, *found], tmp_path / "a.html")
    file.write_text(file.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    command = [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'profile'}", f"file://{file}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    seen = json.loads(html.unescape(re.search(r"<body>(.*)</body>", shown, re.DOTALL)[1]))
    bag = exp.between("input_ids", "visual_feats", 6)[0, 0]
    assert seen["word"][0].startswith(f"“bag” looks at: region {int(bag.argmax()) + 1} (")
    assert seen["word"][1] == "#s0-word-6"
    assert seen["back"] == [True, ""]
    row = exp.between("visual_feats", "input_ids", 7)[0, 0]
    best = exp.words[0][int(row[1:-1].argmax())].text
    assert seen["place"][0].startswith(f"region 8 looks at: “{best}” (")
    assert seen["place"][1] == "#s0-place-8"
    np.testing.assert_allclose([float(v) for v in seen["place"][2]], row[1:-1], rtol=6e-3)
    assert seen["released"]
    assert seen["object"] == next(e.target for e in found if e.found.label == "Bag")


def test_every_folder_is_used():
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{name}"' in source for name in FOLDERS)
