"""`regard doctor`: what it prints and writes, how it goes on, and what it refuses."""

from __future__ import annotations

import csv
import functools
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regard.evaluation import budget
from support.commands import ran

runner = CliRunner()
BERT = ["zoo/bert-sentiment", "--methods", "gae", "--minutes", 5, "--examples", 2]


run = functools.partial(ran, "doctor")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(budget, "CHECKED", 2)


def test_a_visit() -> None:
    done = run(*BERT, "--out", "found")
    assert re.match(r"No method is shown to be better than chance on 2 examples of zoo/bert-sentiment: ", done.stdout)
    assert "bought 2 examples under 2 methods, and the checks of weights and noise on 2;" in done.stdout
    assert "No more than 2 examples were asked for; a verdict should rest on 50 or more." in done.stdout
    assert done.stdout.endswith("numbers: found/ranking.csv\nnumbers: found/ranking.json\nreport: found/report.html\n")
    assert done.stderr.startswith("checking: 0 examples done, ")
    assert "taking away: 0 examples done, " in done.stderr
    assert {p.name for p in Path("found").iterdir()} == {
        "plan.json", "spent.json", "checks", "ranks", "report.html", "ranking.csv", "ranking.json",
    }  # fmt: skip
    with open("found/ranking.csv", encoding="utf-8") as opened:
        assert {row["method"] for row in csv.DictReader(opened)} == {"gae", "random"}
    told = json.loads(Path("found/ranking.json").read_text("utf-8"))
    assert told["sentence"] in done.stdout
    page = Path("found/report.html").read_text("utf-8")
    assert told["sentence"] in page
    again = run(*BERT, "--out", "found", "-q")
    assert again.stdout == "found/report.html\n"
    assert again.stderr == ""
    assert "the runs in it are found/ranks and found/checks" in ran("results", "found", code=2).stderr
    refused = run(*BERT, "--seed", 1, "--out", "found", code=2)
    assert "found holds a run with other seed: 0, and now 1; ask as before to go on" in refused.stderr


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (["zoo/bert-sentiment", "--methods", "gea"], "did you mean 'gae'"),
        (["zoo/bert-sentiment", "--minutes", "0"], "--minutes is a time above 0, not 0"),
        (["zoo/bert-sentiment", "--minutes", "nan"], "--minutes is a time above 0, not nan"),
        (["zoo/bert-sentiment", "--examples", "1"], "--examples is a whole number of at least 2, not 1"),
        (["zoo/bert-sentiment", "--threads", "0"], "--threads is a whole number of at least 1, not 0"),
        (["zoo/bert-sentiment", "--data-option", "split"], "--data-option is NAME=VALUE"),
        (["zoo/bert-sentimental"], "did you mean 'zoo/bert-sentiment'"),
        (["zoo/bert-sentiment", "no/such/folder"], "there are no data at no/such/folder"),
        (["zoo/bert-sentiment", "one.csv"], "one.csv holds 1 example: the doctor needs two at the least"),
        (["zoo/bert-sentiment", "--minutes", "0.001"], "do not buy two examples of this model: give "),
    ],
)
def test_what_is_refused(asked: list[str], why: str) -> None:
    Path("one.csv").write_text("text\nA fine film, to be sure.\n")
    done = run(*asked, "--out", "found", code=2)
    assert why in " ".join(done.stderr.split())
    assert not Path("found").exists()


def test_texts_of_ones_own_need_no_labels() -> None:
    lines = [f"The first film was long and the acting in it was {how}." for how in ("dull", "fine")]
    Path("mine.csv").write_text("\n".join(["review,label", *(f"{line},whatever" for line in lines)]))
    how = ["--methods", "raw_attention", "--minutes", 5, "--data-option", "column=review"]
    done = run("zoo/bert-sentiment", "mine.csv", *how, "--out", "found")
    assert "on 2 examples of mine.csv" in done.stdout
    assert "The data hold no more than 2 examples; a verdict should rest on 50 or more." in done.stdout
