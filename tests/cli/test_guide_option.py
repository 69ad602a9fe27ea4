"""`regard explain --guide`, `--option`: what they give, and how they end otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import regard
from regard.cli import commands as cli
from regard.zoo import demo_scene, scenes

runner = CliRunner()
PICTURE = ["explain", demo_scene(), "-m", "zoo/vit-scenes"]
TEXT = ["explain", "The acting is dull, but the music is wonderful.", "-m", "zoo/bert-sentiment"]


def run(*arguments: object, code: int = 0):
    done = runner.invoke(cli.app, [str(a) for a in arguments])
    assert done.exit_code == code, done.output
    return done


def page(name: str = "report.html") -> str:
    return (Path("regard-out") / name).read_text("utf-8")


def everything() -> list[str]:
    return sorted(p.name for p in Path().rglob("*") if p.is_file())


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def two():
    single = scenes().single.nonzero()[:, 0].tolist()
    for name, i in (("shirt.png", single[0]), ("boot.png", single[100])):
        Image.fromarray(scenes().images[i].numpy()).save(name)


@pytest.mark.parametrize(
    ("guide", "said"),
    [
        ("contrast", "guided by contrast"),
        ("contrast:bag", "guided by contrast with bag"),
        ("contrast:3", "guided by contrast with 3"),
        ("box:0,0,128,192", "guided by box 0, 0, 128, 192"),
        ("mask.png", "guided by mask mask.png"),
        ("outline.json", "guided by polygon of 4 corners"),
        ("map.safetensors", "guided by map map.safetensors"),
    ],
)
def test_guides_of_a_picture(guide, said):
    mask = np.zeros((192, 256), dtype=np.uint8)
    mask[:, :128] = 255
    Image.fromarray(mask).save("mask.png")
    Path("outline.json").write_text(json.dumps([[0, 0], [128, 0], [128, 192], [0, 192]]), "utf-8")
    regard.load("zoo/vit-scenes").explain(demo_scene(), target=0).save("map.safetensors")
    run(*PICTURE, "--guide", guide, "--no-test")
    assert said in page()


def test_a_box_a_mask_and_a_polygon_of_one_region_are_one_guide():
    reader = regard.load("zoo/vit-scenes")
    mask = np.zeros((192, 256), dtype=np.uint8)
    mask[:, :128] = 255
    Image.fromarray(mask).save("mask.png")
    Path("outline.json").write_text(json.dumps([[[0, 0], [128, 0], [128, 192], [0, 192]]]), "utf-8")
    maps = [
        reader.explain(demo_scene(), guide=g).scores["pixel_values"]
        for g in ("box:0,0,128,192", "mask.png", "outline.json")
    ]
    assert all(float((m - maps[0]).abs().max()) == 0 for m in maps)
    assert float(maps[0].reshape(8, 8)[:, 4:].abs().max()) == 0 < float(maps[0].abs().max())


def test_words_of_a_text():
    run(*TEXT, "--guide", "words:music is wonderful", "--option", "sign=absolute", "--method", "corrected_attention")
    assert "guided by words" in page()
    assert "sign=absolute" in page()


def test_options_are_read_as_numbers_lists_and_words():
    run(*TEXT, "--method", "corrected_attention", "--option", "layers=1,2", "--option", "correction=complete")
    assert "layers=[1, 2], correction=complete" in page()
    assert "no layer" not in page()
    run(*TEXT, "--method", "rollout", "--option", "start_layer=1")
    assert "start_layer=1" in page()


def test_a_second_picture(two):
    shown = run("explain", "shirt.png", "-m", "zoo/vit-scenes", "--guide", "picture:boot.png", "--against", "sandal")
    assert "What tells T-shirt from Sandal" in page()
    names = everything()
    assert len([n for n in names if n.endswith(".png")]) == 4
    assert "report.html" in names
    assert "regard-out/report.html" in shown.stdout


def test_a_comparison_can_be_guided():
    run(
        "compare",
        demo_scene(),
        "-m",
        "zoo/vit-scenes",
        "--methods",
        "gae,gradient",
        "--sites",
        "input",
        "--guide",
        "contrast",
    )
    assert "guided by contrast" in page("comparison.html")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((*PICTURE, "--guide", "contrast:giraffe"), "unknown label"),
        ((*PICTURE, "--guide", "words:red"), "words guide a text"),
        ((*PICTURE, "--guide", "small.png"), "the guide's mask is 4 x 4"),
        ((*PICTURE, "--guide", "black.png"), "nowhere positive"),
        ((*PICTURE, "--guide", "note.safetensors"), "cannot be read as a saved explanation"),
        ((*PICTURE, "--guide", "contrast", "--method", "gradient"), "unknown option 'guide'"),
        ((*PICTURE, "--option", "sing=signed", "--method", "corrected_attention"), "did you mean 'sign'"),
        ((*PICTURE, "--option", "sign=sined", "--method", "corrected_attention"), "did you mean 'signed'"),
        ((*PICTURE, "--target", "bag", "--guide", "contrast:bag"), "with itself"),
        ((*TEXT, "--guide", "box:0,0,1,1"), "a picture on one plain grid"),
        ((*TEXT, "--guide", "words:giraffe"), "does not hold the words"),
        ((*TEXT, "--guide", "picture:small.png"), "reads texts"),
    ],
)
def test_misuse(more, said):
    Image.new("RGB", (4, 4), "white").save("small.png")
    Image.new("RGB", (256, 192)).save("black.png")
    Path("note.safetensors").write_text("no such thing", "utf-8")
    before = everything()
    assert said in " ".join(run(*more, code=2).stderr.split())
    assert everything() == before
