"""`regard transfer`: a page or a picture of one input, and how it ends otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from regard.cli import commands as cli
from regard.zoo import demo_scene, detections, questions

runner = CliRunner()
TEXT = ["transfer", "The acting is dull, but the music is wonderful.", "-m", "zoo/bert-sentiment"]


def run(*arguments: object, code: int = 0):
    done = runner.invoke(cli.app, [str(a) for a in arguments])
    assert done.exit_code == code, done.output
    return done


def everything(folder: str = ".") -> list[str]:
    return sorted(p.name for p in Path(folder).rglob("*") if p.is_file())


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_page_is_the_default_and_the_terminal_tells_the_story():
    shown = run(*TEXT)
    assert everything("regard-out") == ["transfer.html"]
    assert shown.stdout.startswith("In layer 0, the prediction positive would rise if attention moved from “dull”")
    assert "bert.encoder.layer.2.attention.self" in shown.stdout
    assert shown.stdout.endswith("report: regard-out/transfer.html\n")
    assert "The acting is dull" in Path("regard-out/transfer.html").read_text("utf-8")


def test_a_picture_of_another_layer_and_target():
    shown = run(
        "transfer", demo_scene(), "-m", "zoo/vit-scenes", "--target", "Sneaker", "--layer", "3", "--out", "a/b.PNG"
    )
    assert everything("a") == ["b.PNG"]
    with Image.open("a/b.PNG") as drawn:
        assert drawn.format == "PNG"
    assert "Sneaker" in shown.stdout
    assert shown.stdout.endswith("picture: a/b.PNG\n")
    assert run(*TEXT, "-q", "--out", "c.html").stdout == "c.html\n"


def test_a_picture_with_regions_and_a_question():
    asked = questions()
    scene = asked.scene[14]
    Image.fromarray(asked.images[scene].numpy()).save("scene.png")
    Path("boxes.json").write_text(json.dumps(asked.boxes[scene].tolist()), "utf-8")
    how = ["--text", asked.texts[14], "--regions", "boxes.json", "-m", "zoo/lxmert-scenes", "--layer", "11"]
    shown = run("transfer", "scene.png", *how, "--out", "t.html")
    assert "x_layers.2.visual_attention" in shown.stdout
    page = Path("t.html").read_text("utf-8")
    assert "text → picture" in page
    assert "picture → text" in page
    assert '"large":11' in page


def test_of_found_objects_the_likeliest_is_taken():
    Image.fromarray(detections().images[0].numpy()).save("scene.png")
    shown = run("transfer", "scene.png", "-m", "zoo/detr-scenes", "--out", "t.png")
    assert "objects were found; this is of the likeliest" in shown.stdout
    assert everything() == ["scene.png", "t.png"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--out", "t.gif"], "ends in .html, .png, .svg, .pdf, .jpg or .jpeg, or a folder; t.gif does not"),
        (["--layer", "9"], "layer 9 is out of range: the run has 3 attentions, numbered from 0"),
        (["--target", "giraffe"], "unknown label"),
        (["--target", " "], "--target is empty"),
    ],
)
def test_misuse(more, said):
    assert said in run(*TEXT, *more, code=2).stderr
    assert not everything()


def test_a_folder_is_given_a_file():
    assert run(*TEXT, "-q", "--out", "folder").stdout == "folder/transfer.html\n"


def test_files_that_cannot_be():
    Path("file").write_text("x", "utf-8")
    assert "is a file" in run(*TEXT, "--out", "file/t.html", code=2).stderr
    assert "no such file" in run("transfer", "a.txt", *TEXT[2:], code=2).stderr
    assert everything() == ["file"]


def test_nothing_is_left_where_drawing_fails(monkeypatch):
    monkeypatch.setattr("regard.report.transfer.html.page", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in run(*TEXT, "--out", "t.html", code=1).stderr
    assert not everything()
