"""`regard evaluate` and `regard results`: what they print and write, and how they end."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from regard.cli import evaluating
from regard.evaluation import evaluate
from regard.evaluation.engines import work
from regard.evaluation.plan import Shard
from regard.evaluation.store.results import Results
from support.commands import ran
from support.killed import gone
from support.runs import small

runner = CliRunner()
ASKED = ["--methods", "random,corrected_attention(sign=signed)", "--examples", 4, "--batch", 2]
PROTOCOLS = ["--protocols", "perturbation(steps=[0.5],auc=[0,0.5]),segmentation(sweep=[0.4,0.5])"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_and_its_results() -> None:
    done = ran("evaluate", "zoo/vit-scenes", *ASKED, *PROTOCOLS, "--out", "demo")
    said = done.stderr.splitlines()
    assert said[0] == "4 examples in 2 shards"
    assert re.fullmatch(r"shard 1 is done: 1 of 2 shards, 2 of 4 examples; .+ a second, \d+ s left", said[1])
    assert re.fullmatch(r"shard 2 is done: 2 of 2 shards, 4 of 4 examples; .+ a second", said[2])
    assert done.stdout.endswith("rows: demo\n")
    assert "corrected_attention, sign=signed" in done.stdout
    again = ran("evaluate", "zoo/vit-scenes", *ASKED, *PROTOCOLS, "--out", "demo")
    assert again.stderr.splitlines() == ["2 of 2 shards, 4 of 4 examples were done before"]
    refused = ran("evaluate", "zoo/vit-scenes", *ASKED, *PROTOCOLS, "--out", "demo", "--seed", 3, code=2)
    assert "the seed was 0 and is 3" in refused.stderr
    shown = ran("results", "demo", "--csv", "numbers.csv")
    assert done.stdout.partition("rows:")[0] in shown.stdout
    assert shown.stdout.endswith("numbers: numbers.csv\nreport: demo/report/report.html\npictures: 3 in demo/report\n")
    assert {p.name for p in Path("demo/report").iterdir()} == {
        "report.html", "perturbation-probability.png", "perturbation-accuracy.png", "segmentation-iou_sweep.png",
    }  # fmt: skip
    with Path("numbers.csv").open() as file:
        written = {(r["protocol"], r["method"], r["metric"]): r for r in csv.DictReader(file)}
    for s in Results("demo").summaries:
        row = written[s.protocol.name, s.title, s.metric]
        assert (float(row["value"]), float(row["low"]), float(row["high"])) == tuple(s.value)
        assert (row["examples"], row["undefined"], row["errors"]) == (str(s.examples), str(s.undefined), str(s.errors))
    page = Path("demo/report/report.html").read_text("utf-8")
    assert "zoo/vit-scenes on zoo/vit-scenes" in page
    assert not re.search(r'(src|href|srcset)="(?!data:|#)', page)
    for s in Results("demo").summaries:
        if s.metric == "iou":
            assert str(s.value).split()[0] in page
    assert ran("results", "demo", "--no-page", "-q").stdout == ""
    assert "unknown method of demo 'gae'" in ran("results", "demo", "--against", "gae", code=2).stderr


def test_errors_speak_of_options() -> None:
    Path("r.csv").write_text("review,label\na fine film,positive\n")
    said = ran("evaluate", "zoo/bert-sentiment", "r.csv", "--out", "x", code=2).stderr
    assert said.endswith(
        "has the columns review, label; name the one of the texts or paths with --data-option column=NAME\n"
    )
    Path("x").mkdir()
    ran("evaluate", "zoo/vit-scenes", *ASKED, "--protocols", "segmentation", "--out", "x", "-q")
    again = ran("evaluate", "zoo/vit-scenes", *ASKED, "--protocols", "segmentation", "--out", "x", "--seed", 1, code=2)
    assert again.stderr.endswith("or give another folder with --out\n")


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = work.Worker.parquet

    def interrupted(self: work.Worker, shard: Shard) -> bytes:
        if shard.number == 1:
            raise KeyboardInterrupt
        return parquet(self, shard)

    monkeypatch.setattr(work.Worker, "parquet", interrupted)
    done = ran("evaluate", "zoo/vit-scenes", *ASKED, "--protocols", "segmentation", "--out", "x", code=130)
    assert done.stderr.splitlines()[-1] == "interrupted: 2 of 4 examples are done; the same command goes on from there"
    assert "2 of 4 examples are done; the same regard evaluate goes on" in ran("results", "x", "--no-page").stdout
    monkeypatch.setattr(work.Worker, "parquet", parquet)
    ran("evaluate", "zoo/vit-scenes", *ASKED, "--protocols", "segmentation", "--out", "x")


def test_where_nothing_could_be_judged_it_fails_and_says_why() -> None:
    Path("texts.csv").write_text("image,label\nno.png,0\nnone.png,0\n")
    done = ran("evaluate", "zoo/vit-scenes", "texts.csv", "--protocols", "perturbation", "--methods", "random", code=1)
    assert "no example could be judged; most failed with InputError: no such picture" in done.stderr
    assert "1 example failed: InputError: no such picture" in done.stdout
    shown = ran("results", "regard-run").stdout  # a page of errors alone is a page
    assert "report: regard-run/report/report.html" in shown


def test_the_pace_in_words() -> None:
    def said(**given: Any) -> str:
        return evaluating.line_of(
            evaluate.Progress(**{"shards": 1, "of_shards": 9, "examples": 2, "of_examples": 17, **given})
        )

    assert said() == "1 of 9 shards, 2 of 17 examples were done before"
    assert said(shards=0, examples=0) == "17 examples in 9 shards"
    slow = said(shard=Shard(3, 6, 8), rate=0.01, left=1500.0)
    assert slow == "shard 4 is done: 1 of 9 shards, 2 of 17 examples; 1 min 40 s each, 25 min 0 s left"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_a_real_ctrl_c(workers: int) -> None:
    """SIGINT to the whole group, as a terminal sends it: one sentence, no traceback of a worker, and none left."""
    asked = ["evaluate", "zoo/vit-scenes", "--batch", "2", "--examples", "40", "--methods", "random", "--protocols",
             "segmentation", "--out", "x", "--workers", str(workers)]  # fmt: skip
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from regard.__main__ import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", code, *asked], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    ends = time.monotonic() + 120
    while len([*Path("x/rows").glob("shard-*")]) < 1 and time.monotonic() < ends:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert re.fullmatch(
        r"interrupted: \d+ of 40 examples are done; the same command goes on from there", said.splitlines()[-1]
    )
    assert "Traceback" not in said
    assert gone(running.pid)


def test_the_run_in_memory_of_the_same_words_is_the_same() -> None:
    """The command's words are those of the call."""
    ran("evaluate", "zoo/vit-scenes", *ASKED, *PROTOCOLS, "--out", "a", "-q")
    small(
        "b", methods=["random", ("corrected_attention", {"sign": "signed"})], examples=4,
        protocols=["perturbation(steps=[0.5],auc=[0,0.5])", "segmentation(sweep=[0.4,0.5])"],
    )  # fmt: skip
    assert Results("a").csv() == Results("b").csv()
    assert Results("a").plan == Results("b").plan


def test_a_leaderboard_of_two_runs() -> None:
    small("one", examples=2)
    small("two", examples=2, methods=["raw_attention"])
    assert ran("results", "one", "two", "--leaderboard", "board.md").stdout == "report: board.md\n"
    text = Path("board.md").read_text("utf-8")
    assert "Made by `regard results one two --leaderboard board.md`." in text
    assert {"raw_attention", "random"} <= {line.split(" | ")[0].strip("| ") for line in text.splitlines()}
    assert ran("results", "one", "two", "--leaderboard", "board.html", "-q").stdout == "board.html\n"
    assert "<!DOCTYPE html>" in Path("board.html").read_text("utf-8")
    refused = {
        ("one", "two"): "2 runs are shown together by --leaderboard FILE alone",
        ("one", "--leaderboard", "board.txt"): "--leaderboard is a file that ends in .md or .html",
        ("one", "--leaderboard", "board.md", "--csv", "x.csv"): "--leaderboard is written alone",
        ("one", "nowhere", "--leaderboard", "board.md"): "nowhere holds no run",
        ("one", "one", "--leaderboard", "board.md"): "one is given twice",
    }
    for words, said in refused.items():
        assert said in ran("results", *words, code=2).stderr, words
