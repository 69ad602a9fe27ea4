"""`regard attention-vs-posthoc`: its page and its numbers, what INPUT may be, and how it ends otherwise."""

from __future__ import annotations

import csv
import functools
import re
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from regard import zoo
from regard.cli.inputs import Pair
from regard.cli.posthoc import expanded, read_all
from regard.errors import InputError, Misuse
from support.commands import ran

runner = CliRunner()
MODEL = ["-m", "zoo/bert-sentiment"]
CHEAP = ["--attention", "raw_attention,rollout", "--posthoc", "gradient", "--posthoc", "input_x_gradient"]


run = functools.partial(ran, "attention-vs-posthoc")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_lines_of_a_file_and_what_is_left_out() -> None:
    lines = [
        "=I <b>loved</b> every minute of it, and so did she.",
        "",
        "Dull.",
        "A dull and lifeless film without any charm at all.",
    ]
    Path("reviews.txt").write_text("\n".join(lines), encoding="utf-8")
    shown = run("reviews.txt", "--lines", *MODEL, *CHEAP, "--out", "o").stdout
    assert "attention with post-hoc: τ-b " in shown
    assert "2 inputs compared, 1 left out" in shown
    assert shown.endswith("numbers: o/agreement.csv\nreport: o/report.html\n")
    page = Path("o/report.html").read_text("utf-8")
    assert not re.search(r'(src|href|srcset)="(?!data:)', page)
    assert "<script" not in page
    assert "<b>loved" not in page
    assert "=I &lt;b&gt;loved&lt;/b&gt;" in page
    assert "too few tokens to test (2; at least 8 are needed)" in page
    rows = list(csv.DictReader(Path("o/agreement.csv").read_text("utf-8").splitlines()))
    assert len(rows) == 2 * 5 * 4
    assert rows[0]["input"].startswith("'=I <b>loved")  # no formula of a spreadsheet
    assert {r["first"] for r in rows} == {"raw_attention", "rollout", "gradient", "input_x_gradient", "random"}
    assert {r["sign_disagreement"] for r in rows if r["second"] == "gradient"} == {""}


@pytest.mark.long
def test_a_folder_stands_for_its_pictures() -> None:
    Path("scenes").mkdir()
    for i, pixels in enumerate(zoo.scenes().images[:2].numpy()):
        Image.fromarray(pixels).save(f"scenes/{i}.png")
    Path("scenes/broken.png").write_bytes(b"no picture")
    Path("scenes/notes.txt").write_text("no picture")
    shown = run("scenes", "-m", "zoo/vit-scenes", *CHEAP, "-q").stdout
    assert shown == "regard-out/report.html\n"
    page = Path("regard-out/report.html").read_text("utf-8")
    assert "2 inputs compared, 1 left out" in page
    assert "broken.png" in page
    assert "0.png" in page
    assert page.count('src="data:image/jpeg;base64,') == 2 * 6  # each input and its five maps


def test_what_inputs_stand_for() -> None:
    Path("some").mkdir()
    for name in ("b.png", "a.jpg", "c.txt"):
        Path("some", name).write_text("x")
    assert expanded(["some", "words of a text", "-"], False) == ["some/a.jpg", "some/b.png", "words of a text", "-"]
    Path("two.txt").write_text(" one line\n\nanother/line  \n")
    assert read_all(Pair("text"), ["two.txt"], True) == (["one line", "another/line"], ["one line", "another/line"], {})
    with pytest.raises(InputError, match="no such file"):
        expanded(["words of a text"], True)
    Path("r.csv").write_text("text\nA fine film.\n")
    with pytest.raises(InputError, match=r"r\.csv is a table, and would be read as one text"):
        read_all(Pair("text"), ["r.csv"], False)
    with pytest.raises(Misuse, match="--lines is for models that read texts"):
        read_all(Pair("image"), ["two.txt"], True)
    Path("chat.json").write_text('[{"role": "user", "content": "x"}]')
    with pytest.raises(InputError, match="is a chat"):
        read_all(Pair("text"), ["chat.json"], True)


@pytest.mark.parametrize("lines", [True, False])
def test_a_table_is_refused_with_what_to_do(lines: bool) -> None:
    Path("x.csv").write_text("review\ngood\n")
    with pytest.raises(InputError, match=r"x\.csv is a table.*as a text file, one a line, and give that with --lines"):
        expanded(["x.csv"], lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--top", "0.9"], "--top is the share of the units"),
        (["--seed", "-1"], "--seed is a whole number"),
        (["--attention", "rolout"], "did you mean 'rollout'"),
        (["--attention", "gradient"], "'gradient' reads no attention map"),
        (["--posthoc", "lime", "--option", "sample=3"], "did you mean 'samples'"),
        (["--target", "dog"], "unknown label 'dog'"),
        (["--lines"], "no such file"),
        (["--out", "file"], "is a file; --out needs a folder"),
    ],
)
def test_what_is_refused_leaves_nothing(arguments: list[str], said: str) -> None:
    Path("file").write_text("x")
    text = "A dull and lifeless film without any charm at all."
    cheap = CHEAP if "--target" in arguments else []
    assert said in run(text, *MODEL, *cheap, *arguments, code=2).output
    assert [p.name for p in Path().rglob("*")] == ["file"]


def test_too_few_words_everywhere() -> None:
    said = run("Dull.", *MODEL, *CHEAP, code=2).output
    assert "nothing to compare: no input has 8 words, patches or tokens (1 were given)" in said
    assert [*Path().rglob("*")] == []
