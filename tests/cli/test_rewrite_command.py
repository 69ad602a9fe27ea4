"""`regard rewrite`: what it writes, what it says, and how it ends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import regard
from regard import zoo
from regard.cli import commands as cli
from support.folders import image_parts, picture
from support.tiny import strong

transformers = pytest.importorskip("transformers")

runner = CliRunner()
DEMO = str(zoo.demo_scene())
FILES = ["difference.png", "maps.png", "report.html", "rewritten.png"]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*args: Any, code: int = 0, model: str = "zoo/vit-scenes", input: bytes | None = None) -> Any:
    result = runner.invoke(cli.app, ["rewrite", *map(str, args), "-m", model], input=input)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def files(folder: str = "regard-out") -> list[str]:
    return sorted(p.name for p in Path(folder).iterdir()) if Path(folder).exists() else []


def classes(path: str) -> list[str]:
    """The model's two first classes of a file."""
    reader = regard.load("zoo/vit-scenes")
    with torch.no_grad():
        order = reader.model(**reader.read(path).inputs).logits[0].topk(2).indices
    return [reader.labels[i] for i in order]


def test_the_written_file_has_the_new_class_and_the_page_says_so() -> None:
    shown = run(DEMO, "--to", "Dress", "--keep", "Trouser", "--budget", "4/255")
    assert files() == FILES
    assert classes("regard-out/rewritten.png") == ["Dress", "Trouser"]
    assert "rewritten from 'Trouser' to 'Dress', with 'Trouser' kept" in shown.stdout
    assert "report: regard-out/report.html" in shown.stdout
    page = Path("regard-out/report.html").read_text("utf-8")
    assert "No channel of a pixel differs by more than 4 of 255 levels" in page
    assert page.count("data:image/png") == 7
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page
    before = np.asarray(Image.open(DEMO).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR), dtype=int)
    after = np.asarray(Image.open("regard-out/rewritten.png"), dtype=int)
    assert np.abs(after - before).max() <= 4 + 1  # Pillow's resize may differ by a level from the processor's


@pytest.mark.long
def test_what_is_not_found_ends_with_1_and_leaves_no_rewritten_picture() -> None:
    run(DEMO, "--to", "Dress", "-q")
    failed = run(DEMO, "--to", "Bag", "--budget", "1/255", code=1)
    assert len(failed.stderr.strip().splitlines()) == 1
    assert "was not rewritten" in failed.stderr
    assert files() == ["difference.png", "maps.png", "nearest.png", "report.html"]
    assert classes("regard-out/nearest.png")[0] != "Bag"
    assert "Not rewritten" in Path("regard-out/report.html").read_text("utf-8")
    run(DEMO, "--to", "Dress", "-q")
    assert files() == FILES


def test_a_mask_and_stdin() -> None:
    mask = np.zeros((192, 256), dtype=np.uint8)
    mask[40:150, 60:200] = 255
    Image.fromarray(mask).save("mask.png")
    assert run("-", "--to", "Dress", "--within", "mask.png", "--budget", "16/255", "-q", input=Path(DEMO).read_bytes())
    drawn = np.asarray(Image.open("regard-out/difference.png"))
    inside = mask[np.arange(64) * 3 + 1][:, np.arange(64) * 4 + 2] != 0
    assert (drawn[~inside] == 128).all()
    assert (drawn[inside] != 128).any()


@pytest.mark.parametrize(
    ("args", "model", "said"),
    [
        ((DEMO,), "zoo/vit-scenes", "--to is missing"),
        ((DEMO, "--to", " "), "zoo/vit-scenes", "--to is empty"),
        ((DEMO, "--to", "Bag", "--to", "Coat"), "zoo/vit-scenes", "give --to once"),
        ((DEMO, "--to", "Bags"), "zoo/vit-scenes", "did you mean 'Bag'"),
        ((DEMO, "--to", "Bag", "--keep", "Bag"), "zoo/vit-scenes", "the same class"),
        ((DEMO, "--to", "Bag", "--budget", "none"), "zoo/vit-scenes", "such as 2/255"),
        ((DEMO, "--to", "Bag", "--budget", "2"), "zoo/vit-scenes", "2/255"),
        ((DEMO, "--to", "Bag", "--budget", "0.5/255"), "zoo/vit-scenes", "less than one level"),
        ((DEMO, "--to", "Bag", "--norm", "l1"), "zoo/vit-scenes", "'l1' is not one of"),
        ((DEMO, "--to", "Bag", "--within", "none.png"), "zoo/vit-scenes", "no such file: none.png"),
        (
            (DEMO, "--to", "Bag", "--within", DEMO.replace("demo_scene.png", "card.json")),
            "zoo/vit-scenes",
            "not a picture",
        ),
        (("none.png", "--to", "Bag"), "zoo/vit-scenes", "no such file: none.png"),
        ((DEMO, "--to", "Bag"), "zoo/vit-scene", "did you mean 'zoo/vit-scenes'"),
        (("a fine film", "--to", "negative"), "zoo/bert-sentiment", "reads texts"),
        ((DEMO, "--to", "0"), "zoo/detr-scenes", "one prediction a picture"),
    ],
)
def test_what_is_refused(args: tuple[str, ...], model: str, said: str) -> None:
    result = run(*args, model=model, code=2)
    assert said in result.stderr
    assert files() == []
    assert not [p for p in Path().iterdir() if p.name.startswith(".")]


def test_an_interrupted_run_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from regard.editing import rewrite as module

    def interrupted(*args: Any, **how: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "search", interrupted)
    assert "interrupted" in run(DEMO, "--to", "Bag", code=130).stderr
    assert files() == []


@pytest.mark.long
def test_a_report_on_a_folder() -> None:
    config, processor, how = image_parts("vit")
    strong(transformers.ViTForImageClassification(config)).save_pretrained("model")
    getattr(transformers, processor)(**how).save_pretrained("model")
    Path("scenes").mkdir()
    for i in range(3):
        picture(40 + i, 30 + 2 * i).save(f"scenes/{i}.png")
    Path("scenes/notes.txt").write_text("no picture")
    shown = run("scenes", "--report", "--budget", "16/255", "--out", "o", model="./model")
    assert files("o") == ["budgets.csv", "budgets.png", "report.html"]
    assert "16/255:" in shown.stdout
    assert len(Path("o/budgets.csv").read_text("utf-8").splitlines()) == 1 + 3 * 2
    assert "How little rewrites 3 pictures" in Path("o/report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("none", "--report"), "none is not there"),
        ((DEMO, "--report"), "is a file; --report takes a folder"),
        (("empty", "--report"), "holds no pictures"),
        (("empty", "--report", "--keep", "Bag"), "--keep is of one picture"),
        (("empty", "--report", "--norm", "l2"), "--norm l2 is of one picture"),
        (("empty", "--report", "--minimal"), "--minimal is of one picture"),
        (("bad", "--report"), "not a picture"),
        (("good", "--report", "--to", "Bags"), "did you mean 'Bag'"),
        (("good", "--report", "--budget", "0.5/255"), "less than one level"),
        (("empty",), "--to is missing"),
        (("empty", "--to", "Bag"), "is a folder; give a file"),
    ],
)
def test_reports_that_are_refused(args: tuple[str, ...], said: str) -> None:
    for name in ("empty", "bad", "good"):
        Path(name).mkdir()
    Path("bad/a.png").write_text("no picture")
    Image.new("RGB", (64, 64)).save("good/a.png")
    assert said in run(*args, code=2).stderr
    assert files() == []
