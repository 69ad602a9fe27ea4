"""`regard probe` and `regard inspect --heads`: pages of several inputs, and how they end otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from regard.cli import commands as cli

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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shortcuts", *TEXTS], "unknown probe 'shortcuts'; did you mean 'shortcut'?"),
        (["shortcut", TEXTS[0]], "give two or more at a time"),
        (["heads", TEXTS[0], "--target", "negative"], "the probe 'heads' is of no target; leave --target out"),
        (["heads", TEXTS[0], "--option", "draws=2"], "unknown option of the probe 'heads' 'draws'"),
        (["heads", TEXTS[0], "--out", "page.txt"], "--out is a file that ends in .html"),
    ],
)
def test_what_is_refused_leaves_nothing(arguments, said):
    assert said in run("probe", *arguments, *MODEL, code=2).output
    assert [*Path().rglob("*")] == []
