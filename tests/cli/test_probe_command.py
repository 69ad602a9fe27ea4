"""`regard probe` and `regard inspect --heads`: pages of several inputs, and how they end otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from regard import zoo
from regard.cli import commands as cli
from support.regions import RELATION

runner = CliRunner()
TEXTS = ["A dull and lifeless film.", "I <b>loved</b> it."]
MODEL = ["-m", "zoo/bert-sentiment"]


def run(*arguments: object, code: int = 0):
    done = runner.invoke(cli.app, [str(a) for a in arguments])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_shortcut_is_asked_of_all_inputs_together():
    shown = run("probe", "shortcut", *TEXTS, *MODEL).stdout
    assert "share of weights" in shown
    assert shown.endswith("report: regard-out/probe.html\n")
    page = Path("regard-out/probe.html").read_text("utf-8")
    assert "I &lt;b&gt;loved&lt;/b&gt; it." in page
    assert "<b>loved" not in page


def test_heads_have_options_and_inspect_shows_them():
    assert (
        run("probe", "heads", TEXTS[0], *MODEL, "--option", "threshold=0.5", "-q", "--out", "h.html").stdout
        == "h.html\n"
    )
    assert Path("h.html").read_text("utf-8").count('class="matrix"') > 2
    assert "CKA of outputs" in run("inspect", TEXTS[0], *MODEL, "--heads").stdout


def test_states_and_removal():
    shown = run("probe", "correspondence", TEXTS[0], *MODEL, "--target", "negative", "--option", "draws=1").stdout
    assert "share of its own token" in shown


@pytest.fixture
def scene():
    """What is left of the bag? A picture, its boxes, and what is known of them."""
    q = zoo.questions()
    at = q.scene[RELATION]
    Image.fromarray(q.images[at].numpy()).save("scene.png")
    Path("boxes.json").write_text(json.dumps(q.boxes[at].tolist()))
    Path("pairs.json").write_text(json.dumps([["the bag", [2]], [6, 2], ["left of", [7]]]))
    Path("prior.json").write_text(json.dumps({"input_ids to visual_feats": [[0, 0, 1, 0, 0, 0, 0, 0]] * 9}))
    Path("other.json").write_text(json.dumps([["the boot", [2]]]))
    return ["scene.png", "-m", "zoo/lxmert-scenes", "--text", q.texts[RELATION], "--regions", "boxes.json"]


def test_known_regions_in_words(scene):
    shown = run("probe", "grounding", *scene, "--pairs", "pairs.json", "--out", "g.html").stdout
    assert "input_ids to visual_feats, 3 phrases" in shown
    assert "trouser stays" in shown
    page = Path("g.html").read_text("utf-8")
    assert page.count('class="matrix"') == 3
    assert page.count("<rect") == 16
    assert "data:image/png" in page
    assert "left of" in page


def test_another_attention(scene):
    assert "trouser becomes bag" in run("probe", "rerun", *scene, "--attention", "uniform").stdout
    shown = run("probe", "rerun", *scene, "--attention", "prior.json", "--option", "calls=11", "--target", "bag").stdout
    assert "with a prior on input_ids to visual_feats in 1 attention calls" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["grounding"], "the probe 'grounding' needs --pairs: the regions that phrases"),
        (["rerun"], "the probe 'rerun' needs --attention"),
        (["grounding", "--pairs", "none.json"], "no such file: none.json"),
        (["grounding", "--pairs", "other.json"], "the text does not hold the words 'the boot'"),
        (["grounding", "--pairs", "scene.png"], "scene.png is not UTF-8 text"),
        (["rerun", "--attention", "pairs.json"], 'attention is "uniform", a prior'),
        (["heads", "--pairs", "pairs.json"], "the probe 'heads' takes no 'pairs'; grounding does"),
    ],
)
def test_what_is_known_must_fit(scene, arguments, said):
    before = sorted(Path().rglob("*"))
    assert said in run("probe", *arguments[:1], *scene, *arguments[1:], code=2).output
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shortcuts", *TEXTS], "unknown probe 'shortcuts'; did you mean 'shortcut'?"),
        (["shortcut", TEXTS[0]], "give two or more at a time"),
        (["heads", TEXTS[0], "--target", "negative"], "the probe 'heads' is of no target; leave --target out"),
        (["heads", TEXTS[0], "--option", "draws=2"], "the probe 'heads' takes no 'draws'; correspondence does"),
        (["heads", TEXTS[0], "--out", "page.txt"], "--out is a file that ends in .html"),
    ],
)
def test_what_is_refused_leaves_nothing(arguments, said):
    assert said in run("probe", *arguments, *MODEL, code=2).output
    assert [*Path().rglob("*")] == []
