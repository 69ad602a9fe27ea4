"""Pictures with texts, regions or found objects on pages and on the command line."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import regard
from regard.errors import Misuse
from regard.explanation.boxes import Box, Found
from regard.report.explanation import objects_png as objects
from regard.report.explanation.html import page, write_page
from regard.report.explanation.token_links import MOST, token_links
from regard.report.view import view_of
from support.browser import needs_chromium, probed
from support.pairs import FOLDERS, save
from support.regions import QUESTION, RELATION, picture, run

torch.set_num_threads(1)

NASTY = '</script><script>alert(1)</script>"><img src=x onerror=alert(2)>'

# ---------------------------------------------------------------- one picture and several texts


def test_texts_on_the_command_line(files, tmp_path):
    asks = ("--text", "a cat", "--text", "two red cats")
    said = run(
        "explain", "scene.png", "-m", str(save("clip", tmp_path / "clip")), *asks, "--target", "two red cats"
    ).stdout
    assert "logit of class 1 (two red cats)" in said
    other = run("explain", "scene.png", "-m", str(save("vilt-vqa", tmp_path / "vilt")), *asks, code=2).stderr
    assert "reads one text beside a picture" in other
    assert "reads one --text" in run("explain", "a cat", "-m", "zoo/bert-sentiment", *asks, code=2).stderr


# ---------------------------------------------------------------- pages


def data_of(source: str) -> dict:
    return json.loads(html.unescape(re.search(r'id="regard-data">(.*?)</script>', source, re.S)[1]))


def test_the_page_holds_what_between_gives(asked):
    exp = asked[0]
    (section,) = data_of(page([exp]))["sections"]
    (view,) = section["views"]
    for query, key in (("input_ids", "visual_feats"), ("visual_feats", "input_ids")):
        held = torch.tensor(view["links"][query][key])
        torch.testing.assert_close(held, exp.between(query, key)[0], rtol=1e-5, atol=0)
    assert section["stages"][0]["regions"] == [[*b] for b in exp.inputs["visual_feats"][0].regions]


def test_a_stream_that_never_looks_is_left_out(reader):
    exp = reader("blip-match").explain((picture(), QUESTION))
    assert list(token_links(view_of(exp))) == ["input_ids"]
    assert not token_links(view_of(reader("clip").explain((picture(), QUESTION))))


def test_how_well_a_text_fits_is_no_class(reader):
    exp = reader("clip").explain((picture(), QUESTION))
    said = page([exp])
    assert "similarity (text 0)" in said
    assert "no text given fits better" in said
    exp.receipt.predicted = torch.tensor([3])
    assert "text 3 fits better" in page([exp])
    assert not token_links(view_of(reader("blip-match").explain((picture(), QUESTION), method="gradient")))
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
    assert all(found.startswith(("data:", "#")) for found in re.findall(r'(?:src|href)="([^"]+)"', source))


@pytest.mark.parametrize(
    ("probability", "said"), [(0.9958, "99.6 %"), (1.0, "> 99.9 %"), (0.994, "99 %"), (0.5, "50 %")]
)
def test_no_object_is_said_to_be_certain(probability, said):
    assert Found(0, 1, "Bag", probability, Box(0, 0, 1, 1)).percent == said


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


def test_a_question_on_the_command_line(files):
    asks = ("--text", files.texts[RELATION], "--regions", "boxes.json", "--model", "zoo/lxmert-scenes")
    said = run("explain", "scene.png", *asks).stdout
    assert said.startswith("“what is left of the bag ?” + scene.png\n")
    assert "(trouser)" in said
    assert "region 8" in said
    assert sorted(p.suffix for p in Path("regard-out").iterdir()) == [".html", ".png"]
    assert "visual_feats: 8 tokens" in run("inspect", "scene.png", *asks).stdout


def test_objects_on_the_command_line(files):
    said = run("explain", "scene.png", "--model", "zoo/detr-scenes").stdout
    assert re.search(r"found: Bag, (> )?9\d(\.\d)? %, in \(\d+, \d+\)-\(\d+, \d+\)", said)
    names = sorted(p.name for p in Path("regard-out").iterdir())
    assert {"report.html", "scene-gae-objects.png"} < set(names)
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
        (["-m", "zoo/detr-scenes", "--target", "Coat"], "no 'Coat' is found in scene.png: the model takes nothing"),
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
    assert run("explain", "scene.png", *asks).stdout.startswith("“what is on the mat” + scene.png + answer\n")


def test_a_caption_on_the_command_line(files, tmp_path):
    folder = str(save("blip-caption", tmp_path / "caption"))
    said = run("explain", "scene.png", "-m", folder, "--generate", "2").stdout
    assert len(re.findall(r"the picture \(\d+\.\d% of the map\)", said)) == 2
    assert Path("regard-out/scene-attnlrp-written.png").exists()


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
    note = "this method does not reach the picture: all scores there are 0"
    assert note in left.receipt.notes
    assert note not in kept.receipt.notes
    assert not bool(left.scores["visual_feats"].any())


# ---------------------------------------------------------------- in a browser


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
seen.object = all('#s1 .answers [aria-pressed="true"]')[0].dataset.pick;
document.body.textContent = JSON.stringify(seen);
</script></body>"""


@pytest.mark.long
@needs_chromium
def test_clicks_in_a_browser(asked, detected, tmp_path):
    exp, found = asked[0], detected[0]
    file = write_page([exp, *found], tmp_path / "a.html")
    seen = probed(file, file.read_text(encoding="utf-8"), PROBE)
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
    assert seen["object"].startswith("Bag, ")


def test_every_folder_is_used():
    source = "".join(p.read_text(encoding="utf-8") for p in Path(__file__).parent.glob("test_pair*.py"))
    assert all(f'"{name}"' in source for name in FOLDERS)
