"""A picture and the classes that it is compared with: on the command line, in the terminal, on pages."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from regard import Target
from regard.errors import UnknownName
from regard.explanation.compared import ComparedClasses
from regard.explanation.percents import percent
from regard.report.explanation import html
from regard.report.explanation.compared import MOST, bars_of, compared_of
from regard.report.explanation.html import page
from regard.report.view import sections, view_of
from support.browser import needs_chromium, probed
from support.pairs import save
from support.regions import picture, run

torch.set_num_threads(1)

TEXTS = ["a cat", "two red cats on the mat", "what"]
NASTY = ['"><img src=x>', "</script><script>1", "{{ 7*7 }} a cat"]  # each few tokens


@pytest.fixture
def every(reader):
    return reader("clip").explain(picture(), "all", ["gae", "gradient"], texts=TEXTS)


# ---------------------------------------------------------------- pages


def test_each_class_is_beside_the_picture(every):
    (section,) = sections(every)
    assert len(section.views) == 6
    made = compared_of(section.views)
    assert [b["name"] for b in made["bars"]] == [TEXTS[c] for c in every[0].compared.order]
    assert sum(b["share"] for b in made["bars"]) == pytest.approx(100)
    assert [m["method"] for m in made["methods"]] == ["gae", "gradient"]
    for m in made["methods"]:
        assert [f["target"] for f in m["maps"]] == [f"logit of class {c} ({TEXTS[c]})" for c in range(3)]
        assert ["".join(p["text"] for p in f["texts"][0]) for f in m["maps"]] == TEXTS
        assert max(float(p["alpha"]) for f in m["maps"] for t in f["texts"] for p in t if p["score"]) == 1  # one scale
    source = page(every)
    assert source.count("the picture itself") == 2
    assert "How well each fits: the probability of each among these 3 (softmax over their logits)." in source
    assert source.count("Look closer") == 6
    assert "How well each fits" in every[0]._repr_html_()


def test_of_sigmoids_the_page_says_that_they_need_not_add_up(reader):
    exp = reader("siglip").explain(picture(), texts=TEXTS)
    assert "need not add up to 100 %" in page([exp])
    assert "the logit of the one text given" in page([reader("clip").explain(picture(), texts=["a cat"])])


def test_a_class_of_several_texts_shows_them_all(reader):
    exp = reader("clip").explain(picture(), "cat", labels=["cat", "mat"], templates=["a picture of {}", "the {}"])
    texts = [p.text.text for p in view_of(exp).panels if hasattr(p, "text")]
    assert texts == ["a picture of cat", "the cat"]
    source = page([exp])
    assert "each class is the mean of 2 texts" in source
    assert "<b>cat</b>" in source
    assert "<b>a cat</b>" not in page([reader("clip").explain(picture(), 0, texts=TEXTS)])  # its words say it


def test_texts_that_nothing_rests_on_are_left_out(reader, every):
    one, other = (view_of(e) for e in every[:2])
    assert [p.text.text for p in one.panels if hasattr(p, "text")] == [TEXTS[0]]
    blind = dataclasses.replace(every[1], scores={k: 0 * v for k, v in every[1].scores.items()})
    assert [p.text.text for p in view_of(blind).panels if hasattr(p, "text")] == [TEXTS[1]]
    assert other.exp.samples == 1
    less = reader("clip").explain(picture(), "what", "gradient", texts=TEXTS, against="a cat")
    assert len(view_of(less).panels) == 3
    assert "rather than" in page([less])


def test_of_the_cosine_with_one_text_it_is_that_text(reader):
    """Its number counts texts, not classes."""
    names = {"labels": ["cat", "mat"], "templates": ["a picture of {}", "the {}"]}
    exp = reader("clip").explain(picture(), Target.similarity(3), **names)
    assert [p.text.text for p in view_of(exp).panels if hasattr(p, "text")] == ["the mat"]
    blind = dataclasses.replace(exp, scores={k: 0 * v for k, v in exp.scores.items()})
    assert [p.text.text for p in view_of(blind).panels if hasattr(p, "text")] == ["the mat"]
    assert "<b>similarity with text 3</b>" in page([exp])


def test_pictures_with_other_texts_are_sections_of_their_own(reader, every):
    other = reader("clip").explain(picture(), texts=["a cat", "a mat"])
    assert len(sections([*every, other])) == 2


def test_a_hostile_text_is_only_text(reader):
    every = reader("clip").explain(picture(), "all", labels=NASTY, templates=["{}", "a {}"])
    source = page(every)
    assert "<img src=x" not in source
    assert "<script>1" not in source
    assert source.count("<script") == 2
    assert "{{ 7*7 }}" in source
    assert all(found.startswith("data:") for found in re.findall(r'(?:src|href)="([^"]+)"', source))
    assert "<img src=x" not in every[0]._repr_html_()


def test_bars_are_few_and_never_certain():
    names = tuple(f"class {i}" for i in range(30))
    fits = ComparedClasses(names, tuple(float(-i) for i in range(30)), tuple([0.9995] + [1e-5] * 29), "softmax")
    made = bars_of(fits)
    assert [b["said"] for b in made["bars"][:2]] == ["> 99.9 %", "< 0.1 %"]
    assert len(made["bars"]) == MOST
    assert made["more"] == "10 more fit less well: at most < 0.1 % each"
    shares = (1.0, 0.9996, 0.9994, 0.994, 0.5, 0.0096, 0.009, 0.0006, 0.0004, 0.0)
    said = ["> 99.9 %", "> 99.9 %", "99.9 %", "99 %", "50 %", "1 %", "0.9 %", "0.1 %", "< 0.1 %", "< 0.1 %"]
    assert [percent(p) for p in shares] == said
    assert compared_of([]) is None


def test_the_picture_may_be_unknown(every):
    """Of a map that was made of tensors no picture is shown beside it."""
    bare = [dataclasses.replace(e, inputs={"input_ids": e.inputs["input_ids"]}) for e in every]
    assert "the picture itself" not in html.page(bare)


PROBE = """<script>
const all = (s) => [...document.querySelectorAll(s)], seen = {}, button = all("[data-pick]")[1];
const chosen = () => all('#s0 input[data-kind="target"]:checked')[0].value;
const shown = () => [chosen(), all("#s0 .receipts>div:not([hidden]) h3 span")[0].textContent];
seen.before = [shown(), all("[data-pick]").every((e) => !e.hidden)];
button.click();
seen.after = shown();
document.body.textContent = JSON.stringify(seen);
</script></body>"""


@pytest.mark.long
@needs_chromium
def test_a_closer_look_in_a_browser(every, tmp_path):
    file = html.write_page(every, tmp_path / "a.html")
    seen = probed(file, file.read_text(encoding="utf-8"), PROBE)
    first, second = (f"logit of class {c} ({TEXTS[c]})" for c in range(2))
    assert seen["before"] == [[first] * 2, True]
    assert seen["after"] == [second] * 2


# ---------------------------------------------------------------- the command line


@pytest.fixture
def clip(files, tmp_path):
    return ("explain", "scene.png", "--no-test", "-m", str(save("clip", tmp_path / "clip")))


def test_several_texts_are_explained_each(clip):
    said = run(*clip, "--text", "a cat", "--text", "two red cats").stdout
    assert "How well each fits" in said
    assert "logit of class 0 (a cat)" in said
    assert "logit of class 1 (two red cats)" in said
    assert sorted(p.suffix for p in Path("regard-out").iterdir()) == [".html", ".png", ".png"]
    alone = run(*clip, "--text", "a cat").stdout
    assert "similarity" in alone
    assert "How well" not in alone
    less = run(*clip, "--text", "a cat", "--text", "what", "--target", "what", "--against", "a cat").stdout
    assert "'what' rather than 'a cat'" in less


def test_a_file_of_labels_with_templates(clip):
    Path("labels.txt").write_text("\ufeffcat\n\n  mat \r\nred\n", encoding="utf-8")
    said = run(*clip, "--labels", "labels.txt", "--template", "a picture of the {}", "--template", "{}").stdout
    assert said.startswith("3 labels in 2 templates + scene.png\n")
    assert "each class is the mean of 2 texts" in " ".join(said.split())
    assert "logit of class 1 (mat)" in said
    one = run(*clip, "--labels", "labels.txt", "--target", "red").stdout
    assert one.startswith("3 labels + scene.png\n")
    assert "--target names another" in one


def test_of_many_labels_the_likeliest_is_explained(clip):
    words = ["cat", "mat", "red", "two", "on", "the", "is", "what", "a"]
    Path("labels.txt").write_text("\n".join(words))
    said = run(*clip, "--labels", "labels.txt").stdout
    assert said.count("gae · logit") == 1
    assert "One of them is explained here" in said
    assert run(*clip, "--labels", "labels.txt", "--target", "all").stdout.count("gae · logit") == 9


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--labels", "none.txt"], "no such file: none.txt"),
        (["--labels", "empty.txt"], "empty.txt is empty"),
        (["--labels", "binary.txt"], "binary.txt is not UTF-8 text"),
        (["--labels", "zero.txt"], "zero.txt is not text: it holds zero bytes"),
        (["--labels", "large.txt"], "large.txt is too large (more than 1048576 bytes); give one label a line"),
        (["--labels", "many.txt"], "many.txt holds 1001 labels, and at most 1000 are compared in one run"),
        (["--labels", "twice.txt"], "twice.txt names 'cat' twice, in lines 1 and 3"),
        (["--labels", "."], ". is a folder; give a file"),
        (["--labels", "ok.txt", "--template", "a photo"], "template 0 ('a photo') has no places for the label"),
        (["--labels", "ok.txt", "--text", "a cat"], "--text gives whole texts, and --labels the names of classes"),
        (["--template", "a {}"], "--template is what labels are put into; give a file of them with --labels"),
        (["--labels", "ok.txt", "--image", "scene.png"], "takes no --image"),
        (["--labels", "ok.txt", "--target", "dog"], "unknown label 'dog'"),
        (["--text", "a cat", "--text", "a cat"], "texts 0 and 1 are the same ('a cat'); give each once"),
    ],
)
def test_bad_labels_are_one_sentence(clip, args, says):
    Path("empty.txt").write_text(" \n\n")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00abc")
    Path("zero.txt").write_bytes(b"a\0b")
    Path("large.txt").write_text("x" * 2_000_000)
    Path("many.txt").write_text("\n".join(map(str, range(1001))))
    Path("twice.txt").write_text("cat\nmat\ncat\n")
    Path("ok.txt").write_text("cat\nmat\n")
    assert says in run(*clip, *args, code=2).stderr
    assert not Path("regard-out").exists()


@pytest.mark.parametrize(
    ("given", "model", "says"),
    [
        ("scene.png", "zoo/vit-scenes", "ViTForImageClassification reads images only"),
        ("a fine film", "zoo/bert-sentiment", "reads texts only"),
        ("scene.png", "vilt", "ViltForQuestionAnswering reads one text beside a picture"),
    ],
)
def test_labels_for_a_model_that_does_not_compare(files, tmp_path, given, model, says):
    Path("ok.txt").write_text("cat\nmat\n")
    name = str(save("vilt-vqa", tmp_path / "vilt")) if model == "vilt" else model
    said = run("explain", given, "-m", name, "--labels", "ok.txt", code=2).stderr
    assert f"--labels goes with models that compare a picture with texts; {says}" in said or says in said


def test_an_unknown_class_is_answered_with_near_ones(reader):
    with pytest.raises(UnknownName, match="did you mean 'a cat'"):
        reader("clip").explain(picture(), ["what", "a cet"], texts=TEXTS)
