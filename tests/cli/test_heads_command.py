"""`regard heads`: a page of each head's own map, and how it ends otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from regard.cli import commands as cli
from regard.zoo import demo_scene

runner = CliRunner()
TEXT = ["heads", "The acting is dull, but the music is wonderful.", "-m", "zoo/bert-sentiment"]


def run(*arguments: object, code: int = 0):
    done = runner.invoke(cli.app, [str(a) for a in arguments])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_page_and_a_table():
    shown = run(*TEXT)
    assert [p.name for p in Path("regard-out").iterdir()] == ["heads.html"]
    assert shown.stdout.startswith("layer  heads  strongest head")
    assert shown.stdout.endswith("report: regard-out/heads.html\n")
    written = Path("regard-out/heads.html").read_text("utf-8")
    assert written.count("<td") == 12  # 3 layers of 4 heads
    assert "Where each head looks" in written


def test_of_a_picture_for_another_class():
    shown = run(
        "heads", demo_scene(), "-m", "zoo/vit-scenes", "--method", "gae", "--target", "Sneaker", "-q", "--out", "a.html"
    )
    assert shown.stdout == "a.html\n"
    assert "Sneaker" in Path("a.html").read_text("utf-8")


def test_a_head_by_option():
    run("explain", *TEXT[1:], "--method", "raw_attention", "--option", "heads=1:3", "--no-test", "-q")
    assert "heads=1:3" in Path("regard-out/report.html").read_text("utf-8")
    done = run("explain", *TEXT[1:], "--option", "heads=9", code=2)
    assert "head 9 is out of range: layer 0 has 4 heads" in done.stderr


def test_a_folder_is_given_a_file():
    Path("old.pages").mkdir()
    assert run(*TEXT, "-q", "--out", "old.pages").stdout == "old.pages/heads.html\n"
    assert run(*TEXT, "-q", "--out", "new/one").stdout == "new/one/heads.html\n"
    assert Path("new/one/heads.html").is_file()


def test_wrong_calls_end_in_a_sentence():
    assert "raw_attention" in run(*TEXT, "--method", "rollout", code=2).stderr
    assert ".html" in run(*TEXT, "--out", "heads.png", code=2).stderr
    assert not list(Path().iterdir())
