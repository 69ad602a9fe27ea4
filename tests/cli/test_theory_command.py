"""`regard theory`: the page, what it says, what is refused, and how it ends."""

from __future__ import annotations

import copy
import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from regard.cli import commands as cli
from regard.cli.theory import laboratory
from regard.theory import laboratory as lab
from regard.theory import language, read, train, write
from regard.theory.training import Recipe

runner = CliRunner()
FILES = ["agreement.png", "config.json", "model.safetensors", "numbers.json", "position.png", "report.html"]


def run(*args: Any, code: int = 0) -> Any:
    result = runner.invoke(cli.app, ["theory", *map(str, args)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def files(folder: str) -> list[str]:
    return sorted(p.name for p in Path(folder).iterdir()) if Path(folder).exists() else []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier of the language of our own."""
    folder = tmp_path_factory.mktemp("classifier")
    corpus = language(0)
    small = corpus._replace(train=corpus.train[:1000])
    write(train(small, Recipe(epochs=6, heads=2, width=16, keys=8, values=8)), folder, {"corpus": corpus.name})
    return folder


@pytest.fixture(scope="module")
def experiment(made: Path) -> lab.Experiment:
    """What the command finds of it on a few texts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lab, "examine", functools.partial(lab.examine, texts=4, words=25))
        patched.setattr(lab, "SAMPLES", (125, 500, 2000))
        return laboratory(None, made, "The music was lovely, but <b>the</b> plot is dreadful", 0, None)


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_page_and_the_numbers(made: Path, experiment: lab.Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regard.cli.experiments.laboratory", lambda *_: experiment)
    shown = run("--classifier", made, "--out", "o")
    assert files("o") == FILES
    page = Path("o/report.html").read_text("utf-8")
    assert not re.search(r'(src|href|srcset)="(?!data:)', page)
    assert "<script" not in page
    assert "<b>" not in page
    assert page.count("<math") == page.count("</math>") > 5
    for name in ("α-avg", "α-max", "LIME", "G-avg", "G-l1", "G-l2", "G×I"):
        assert f"<dt>{name}" in page
    assert page.count("<strong>Agrees</strong>") == 3
    assert "Does not agree" not in page
    numbers = json.loads(Path("o/numbers.json").read_text("utf-8"))
    assert numbers["agreements"]["gradient"]["worst_difference"] < 1e-10
    assert numbers["agreements"]["enumerated"]["worst_difference"] < 1e-8
    assert [row["negative"] for row in numbers["signs"] if row["name"] == "α-avg"] == ["0 % [0, 0]"]
    assert "the gradient differs from autograd by at most" in shown.stdout
    assert shown.stdout.endswith("report: o/report.html\npictures: 2 in o\n")
    assert read(Path("o"))[1]["corpus"] == "our own language"


def test_regard_s_own_methods_stand_beside_the_closed_forms(experiment: lab.Experiment) -> None:
    assert list(experiment.watched) == ["α-avg", "α-max", "G-avg", "G-l1", "G-l2", "G×I"]
    assert max(experiment.watched.values()) < 1e-4
    word, others = experiment.found.moved
    assert sorted([word, *others]) == sorted(experiment.text.words)
    assert {len(v) for v in experiment.found.places.values()} == {len(others) + 1}


def test_a_closed_form_that_is_wrong_ends_with_1_and_says_so(
    experiment: lab.Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = copy.deepcopy(experiment)
    wrong.found.agreements["gradient"].formula[0] *= 1.001
    wrong.found.places = {}  # as of a text of one word
    monkeypatch.setattr("regard.cli.experiments.laboratory", lambda *_: wrong)
    failed = run("--out", "o", code=1)
    assert "do not agree with their reference: gradient" in failed.stderr
    page = Path("o/report.html").read_text("utf-8")
    assert page.count("<strong>Does not agree</strong>") == 1
    assert "Not all closed forms agree" in page
    assert "What position does" not in page
    assert files("o") == [f for f in FILES if f != "position.png"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--data", "none"), "none is not there; --data takes a folder"),
        (("--data", "file"), "file is a file; --data takes a folder"),
        (("--data", "."), "has no train.trees.txt.gz"),
        (("--classifier", "."), "has no config.json"),
        (("--text", "  "), "--text is empty"),
        (("--seed", "-1"), "--seed is a whole number"),
        (("--out", "file"), "is a file; --out needs a folder"),
    ],
)
def test_what_is_refused(args: tuple[str, ...], said: str) -> None:
    Path("file").write_text("x")
    assert said in run("--out", "o", *args, code=2).stderr
    assert sorted(p.name for p in Path().iterdir()) == ["file"]


def test_a_text_that_is_too_long_is_refused(made: Path) -> None:
    said = run("--classifier", made, "--text", "dull " * 64, code=2).stderr
    assert "--text has 64 words, and the classifier takes 63" in said


def test_a_classifier_of_other_data_is_refused(made: Path) -> None:
    for split in ("train", "dev", "test"):
        Path(f"{split}.trees.txt").write_text("(4 (3 good) (2 film))\n(1 (2 a) (0 bore))\n")
    said = run("--data", ".", "--classifier", made, "--out", "o", code=2).stderr
    assert "was trained on our own language, not on SST-2" in said


def test_an_interrupted_run_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **how: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("regard.theory.training.average", interrupted)
    assert "interrupted" in run("--out", "o", code=130).stderr
    assert not [*Path().iterdir()]


@pytest.mark.long
def test_as_it_comes() -> None:
    run("--out", "o")
    assert json.loads(Path("o/numbers.json").read_text("utf-8"))["accuracy"]["test"] > 0.93
