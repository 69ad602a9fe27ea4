"""The command line: what it takes, what it prints, what it writes, and how it ends."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import regard
from regard.cli import commands as cli
from regard.cli import files as cli_files
from regard.cli import new_files as cli_new_files
from regard.cli import running, terminal
from regard.errors import Failure, InputError, TargetError, nearest
from support.drawn import NASTY, picture, sentence

runner = CliRunner()


@dataclass(frozen=True)
class Row:
    name: str
    paper: str = "a paper, 2021"
    passes: str = "1 forward, 1 gradient"
    site: str = "attention"
    baseline: str = "zero"
    decomposes: bool = False
    signed: bool = False
    sites: tuple[str, ...] = ()
    explicit: bool = False
    only_of: str = ""
    summary: str = "a map"


class Table:
    rows = (Row("gae"), Row("rollout", sites=("block",), explicit=True), Row("random", signed=True))


def chosen(method):
    """The methods that are asked for, as a reader finds them."""
    return ["gae" if m == "auto" else m for m in ([method] if isinstance(method, str) else method)]


def of_method(name, exp):
    """That of a method, with a map of its own."""
    return replace(exp, method=name, scores={s: v * (1 + len(name)) for s, v in exp.scores.items()})


class Reader:
    """Stands for a model: notes what it was asked, answers with hand-made explanations."""

    def __init__(self, kind):
        self.kind, self.labels, self.asked = kind, ["Bag", "Shirt"], []

    def explain(self, raw, target=None, method="gae", measure="lazy", truncate=False, memory_budget=None, **where):
        self.asked.append((raw, target, method, measure))
        self.where = where
        self.budget = memory_budget
        targets = target if isinstance(target, list) else [target or "Bag"]
        for t in targets:
            if t not in self.labels and t != NASTY:
                raise nearest(t, self.labels, "label")
        if isinstance(raw, Path):
            try:
                Image.open(raw).load()
            except OSError:
                raise InputError(f"{raw} is not a picture that can be read") from None
        make = picture if self.kind == "image" else sentence
        return [of_method(m, make(target=f"logit of '{t}'", labels=[t])) for m in chosen(method) for t in targets]

    def inspect(self, raw, heads=False):
        return f"streams of {raw}"


@pytest.fixture
def reader(monkeypatch, tmp_path, request):
    made = Reader(getattr(request, "param", "text"))
    monkeypatch.setattr(regard, "load", lambda name: made, raising=False)
    monkeypatch.setattr(regard, "methods", Table, raising=False)
    monkeypatch.chdir(tmp_path)
    return made


images = pytest.mark.parametrize("reader", ["image"], indirect=True)


def run(*args, code=0, input=None):
    result = runner.invoke(cli.app, [str(a) for a in args], input=input)
    assert result.exit_code == code, result.output
    if code:
        assert len(result.stderr.strip().splitlines()) == 1
        assert "Traceback" not in result.stderr
    return result


def explain(*args, **options):
    return run("explain", *args, "--model", "m", **options)


def everything(folder="."):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_a_memory_budget_is_handed_on(reader):
    explain("It isn't good, no.", "--memory-budget", "64MB")
    assert reader.budget == 64 << 20


def test_whether_to_test_maps_against_chance_is_handed_on(reader, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "regard.explanation.causal_test.shown_tested", lambda found, test: asked.append((len(found), test))
    )
    for option in ([], ["--test"], ["--no-test"]):
        explain("a b", *option)
    assert asked == [(1, None), (1, True), (1, False)]


def test_sites_and_baselines_are_handed_on_in_words(reader):
    explain("a b", "--method", "rollout", "--site", "block:-2", "--baseline", "blur:3")
    assert reader.where == {"site": "block:-2", "baseline": "blur:3"}
    explain("a b")
    assert reader.where == {}
    explain("a b", "--method", "all", "--site", "block[1]")
    explain("a b", "--method", "all", "--baseline", "mean")
    assert [asked[2] for asked in reader.asked[2:]] == ["rollout", "rollout"]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--site", "blok[1]", "did you mean 'block[L]'"),
        ("--site", "block", "needs the number of its block, as in block[1]"),
        ("--site", "block[x]", "needs the number"),
        ("--site", "input:1", "takes no number"),
        ("--site", "attention", "attention:all"),
        ("--baseline", "blakc", "did you mean 'black'"),
        ("--baseline", "", "unknown baseline"),
        ("--baseline", "blur:wide", "positive number of pixels"),
        ("--baseline", "blur:0", "positive number of pixels"),
        ("--baseline", "noise:-1", "whole number"),
        ("--baseline", "zero:3", "zero takes no number"),
        ("--baseline", "black:local", "only zero has a local form"),
    ],
)
def test_words_that_are_not_understood(reader, option, value, said):
    for command in ("explain", "compare"):
        option_ = "--sites" if (command, option) == ("compare", "--site") else option
        assert said in run(command, "a b", "-m", "m", option_, value, code=2).stderr
    assert not reader.asked
    assert not everything()


def test_text_is_explained_and_files_are_named(reader):
    shown = explain("It isn't good, no.", "--details")
    assert everything() == ["regard-out/It-isn-t-good-no-gae-logit-of-Bag.png", "regard-out/report.html"]
    assert reader.asked == [("It isn't good, no.", None, "auto", "full")]
    assert "regard-out/report.html" in shown.stdout
    assert "accounts for 2.3 of 2.4" in " ".join(shown.stdout.split())
    assert "strongest words" in shown.stdout
    assert "\x1b" not in shown.output
    assert "It isn&#39;t good, no." in Path("regard-out/report.html").read_text("utf-8")


def test_methods_and_targets(reader):
    explain("a b", "--method", "rollout, gae,gae", "--target", "Bag", "--target", "Shirt", "--measure", "lazy", "-q")
    assert reader.asked[0][1:] == (["Bag", "Shirt"], ["rollout", "gae"], "lazy")
    assert len(everything("regard-out")) == 5
    explain("a b", "--method", "all", "--target", "Bag")
    assert reader.asked[1][1:3] == ("Bag", ["gae", "rollout", "random"])


def test_quiet_prints_the_report_alone(reader):
    assert explain("a b", "--quiet", "--out", "x/y").stdout == "x/y/report.html\n"


def test_text_files_and_stdin(reader):
    Path("note.txt").write_bytes("\ufeffgrüezi\n".encode())
    explain("note.txt", "-q")
    explain("-", "-q", input="from a pipe\n")
    assert [a[0] for a in reader.asked] == ["grüezi", "from a pipe"]
    assert "note-gae-logit-of-Bag.png" in everything("regard-out")
    assert "stdin-gae-logit-of-Bag.png" in everything("regard-out")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("missing.txt", "no such file: missing.txt"),
        ("either/or", "no such file: either/or"),
        ("./a b c", "no such file"),
        ("photo.PNG", "no such file"),
        ("binary.txt", "not UTF-8 text"),
        ("zero.txt", "zero bytes"),
        ("empty.txt", "is empty"),
    ],
)
def test_bad_text_files(reader, value, what):
    Path("binary.txt").write_bytes(b"\xff\xfe\x00abc")
    Path("zero.txt").write_bytes(b"a\0b")
    Path("empty.txt").write_bytes(b" \n")
    assert what in explain(value, code=2).stderr
    assert not Path("regard-out").exists()
    assert not reader.asked


@pytest.mark.parametrize("value", ["a film/play of note", "Good.", "x" * 5000, "e.g. this", "two\nlines/of text"])
def test_texts_that_are_no_paths(reader, value):
    explain(value, "-q")
    assert reader.asked[0][0] == value
    assert all(len(os.fsencode(Path(n).name)) < 200 for n in everything())


@images
def test_pictures(reader):
    Image.new("RGB", (60, 40)).save("a.png")
    shown = explain("a.png")
    assert [n for n in everything() if n != "a.png"] == ["regard-out/a-gae-logit-of-Bag.png", "regard-out/report.html"]
    assert "digits are tenths" in shown.stdout
    assert "picture: regard-out/a-gae-logit-of-Bag.png" in shown.stdout
    data = io.BytesIO()
    Image.new("RGB", (60, 40)).save(data, "png")
    explain("-", "-q", input=data.getvalue())
    assert isinstance(reader.asked[-1][0], Image.Image)


@images
def test_bad_pictures(reader):
    Path("a.png").write_text("no picture")
    assert "not a picture" in explain("a.png", code=2).stderr
    assert "no such file: b.png" in explain("b.png", code=2).stderr
    assert "no such file" in explain("some words", code=2).stderr
    assert "not a picture" in explain("-", code=2, input=b"GIF89a").stderr
    assert "empty" in explain("-", code=2, input=b"").stderr
    assert everything() == ["a.png"]


def test_unknown_names_are_answered_with_near_ones(reader):
    assert "did you mean 'rollout'" in explain("a b", "--method", "rolout", code=2).stderr
    assert "no method is named" in explain("a b", "--method", ",", code=2).stderr
    assert "did you mean 'Shirt'" in explain("a b", "--target", "Shirk", code=2).stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (TargetError("no\nsuch target \x1b[31m"), 2, "error: no such target �[31m"),
        (Failure("the logits hold NaN"), 1, "error: the logits hold NaN"),
        (RuntimeError("inside\ntorch"), 1, "error: RuntimeError: inside torch (unexpected; --debug shows where)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_end_is_one_line(reader, monkeypatch, error, code, said):
    monkeypatch.setattr(reader, "explain", raises(error))
    assert explain("a b", code=code).stderr.strip() == said
    assert not everything()
    debugged = runner.invoke(cli.app, ["explain", "a b", "-m", "m", "--debug"])
    assert debugged.exit_code == code
    assert "Traceback" in debugged.stderr


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_nothing_is_left_where_drawing_fails(reader, monkeypatch, error):
    import regard.report.explanation.png as png

    monkeypatch.setattr(png, "plot", raises(error))
    explain("a b", "--out", "deep/down", code=130 if isinstance(error, KeyboardInterrupt) else 1)
    assert list(Path().iterdir()) == []


def raises(error):
    def raiser(*args, **kwargs):
        raise error

    return raiser


def test_out_that_cannot_be(reader, monkeypatch):
    Path("taken").write_text("mine")
    assert "is a file" in explain("a b", "--out", "taken", code=2).stderr
    assert "is a file" in explain("a b", "--out", "taken/deeper", code=2).stderr
    assert Path("taken").read_text() == "mine"
    monkeypatch.setattr(cli_new_files.tempfile, "mkdtemp", raises(PermissionError(13, "Permission denied")))
    assert "cannot be written: Permission denied" in explain("a b", code=2).stderr
    reader.asked.clear()
    assert not reader.asked


def test_names_never_leave_the_folder(reader, monkeypatch):
    evil = ["../../etc/x", "/abs", "..", NASTY, "con\0trol", "字" * 90]
    names = [(m, n) for m in ("../gae", "..") for n in ("../n", "a\\b")]
    found = [of_method(m, sentence(target=t, name=n)) for t in evil for m, n in names]
    files = cli_files.write_all(found, Path("out").absolute(), cli_files.render_explanations)
    assert len(files) == len(found) + 1 == len(set(files))
    for file in files:
        assert file.parent == Path("out").absolute()
        assert file.is_file()
        assert len(os.fsencode(file.name)) < 200
        assert not re.search(r"[\s/\\<>:\"|?*\x00-\x1f]", file.name)
        assert not file.name.startswith((".", "-"))
    assert sorted(p.name for p in Path().iterdir()) == ["out"]


def test_names_that_differ_in_case_alone_are_numbered():
    assert cli_files.unused("A", ["a.png", "A-2.PNG"]) == "A-3.png"
    assert cli_files.slug("..") == "x"
    assert cli_files.slug("a/../b") == "a-..-b"
    assert cli_files.slug("T-shirt/top") == "T-shirt-top"


def test_inspect(reader):
    assert run("inspect", "hello you", "-m", "m").stdout == "streams of hello you\n"
    assert "no such file" in run("inspect", "a.txt", "-m", "m", code=2).stderr


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 200])
def test_methods_at_any_width(monkeypatch, columns):
    """Every method with what it is; lines are no wider than the terminal, and no word is cut."""
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = run("methods").stdout
    table, words = regard.methods(), shown.split()
    for row in table:
        said = f"{row.name} {row.summary} site {row.site} · baseline {row.baseline} · {row.passes}"
        assert " ".join(said.split()) in " ".join(words)
        assert row.summary
    assert max(map(len, shown.splitlines())) <= max(columns, max(map(len, words)) + 2)
    assert [line.split()[0] for line in shown.splitlines() if line[0] != " "] == [row.name for row in table]


def test_zoo(reader, monkeypatch):
    import regard.zoo

    card = {"task": "text classification", "what": "tells [good] from bad", "accuracy": {"test": 0.8125, "n": 100}}
    monkeypatch.setattr(regard.zoo, "cards", lambda: {"zoo/bert-sentiment": card})
    shown = run("zoo").stdout
    assert "zoo/bert-sentiment" in shown
    assert "test 81.2 %" in shown
    assert "[good]" in shown


@pytest.mark.parametrize("quiet", [False, True])
def test_what_moves_on_a_terminal(reader, monkeypatch, quiet):
    from rich.console import Console

    shown = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=shown, force_terminal=True, width=90))
    monkeypatch.setattr(terminal.sys, "stderr", type("T", (io.StringIO,), {"isatty": lambda _: True})())
    with terminal.kept_still(quiet), terminal.busy("loading [zoo]/x"):
        assert terminal.moves() is not quiet
    with terminal.kept_still(quiet), terminal.steps() as told:
        assert (told is None) is quiet
    assert ("loading [zoo]/x" in shown.getvalue()) is not quiet
    assert terminal.moves()


def test_the_model_is_said_to_be_loaded_from_the_first_import_on(monkeypatch):
    said = []

    @contextlib.contextmanager
    def busy(what):
        said.append(what)
        yield

    def imported(name):
        said.append(f"{name} is imported")
        return lambda model: model

    monkeypatch.setattr(running, "busy", busy)
    monkeypatch.setattr(running, "regard", type("Lazy", (), {"__getattr__": lambda _, name: imported(name)})())
    assert running.load("zoo/x") == "zoo/x"
    assert said == ["loading zoo/x", "load is imported"]


def test_colours_on_a_terminal(reader, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" in explain("a b").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*[34]8;", explain("a b").stdout)


def test_version_help_and_usage():
    assert re.match(r"regard \d+\.\d+", run("--version").stdout)
    assert "explain" in run("--help").stdout
    assert "explain [OPTIONS] [INPUT]...\n" in run("explain", "--help").stdout
    assert runner.invoke(cli.app, ["explain", "x"]).exit_code == 2
    assert runner.invoke(cli.app, ["explian"]).exit_code == 2


def test_module_starts_light():
    code = "import sys; sys.argv = ['regard', '--version']; import runpy\n"
    code += "try: runpy.run_module('regard', run_name='__main__')\nexcept SystemExit as e: assert not e.code\n"
    code += "assert not {'transformers', 'matplotlib', 'PIL', 'jinja2'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("regard ")


# for real, on the bundled models


@pytest.mark.parametrize("model", ["zoo/bert-sentiment", "zoo/vit-scenes"])
def test_for_real(model, tmp_path, monkeypatch):
    from regard.zoo import demo_scene

    monkeypatch.chdir(tmp_path)
    value = "A quiet film of rare beauty." if "bert" in model else demo_scene()
    known = ["gae", "rollout", "input_x_gradient", "random"]
    shown = run("explain", value, "--model", model, "--method", ",".join(known))
    assert len(everything("regard-out")) == len(known) + 1
    assert all(name in shown.stdout for name in known)
    assert "same output as your model ✓" in " ".join(shown.stdout.split())
    assert "self" in run("inspect", value, "--model", model).stdout
    label = regard.load(model).labels[1]
    run("explain", value, "--model", model, "--target", label, "--target", "0", "-q", "--out", "two")
    assert len(everything("two")) == 3
    assert "unknown label" in run("explain", value, "-m", model, "--target", "giraffe", "-q", code=2).stderr


def test_sites_and_baselines_for_real(tmp_path, monkeypatch):
    from regard.zoo import demo_scene

    monkeypatch.chdir(tmp_path)
    where = ["--method", "revised_ig", "--site", "block[2]", "--baseline", "black"]
    shown = " ".join(run("explain", demo_scene(), "-m", "zoo/vit-scenes", "--details", *where).stdout.split())
    assert "site block[2]" in shown
    assert "baseline black" in shown
    text = ["explain", "A quiet film of rare beauty.", "-m", "zoo/bert-sentiment", "--method", "taylor"]
    assert "mask token 4" in run(*text, "--baseline", "mask", "--details").stdout
    assert "is for pictures" in run(*text, "--baseline", "black", code=2).stderr
    assert "block 9 is out of range" in run(*text, "--site", "block[9]", code=2).stderr
    assert "cannot be given to method 'gae'" in run(*text[:-1], "gae", "--site", "input", code=2).stderr
    assert "is for texts" in run("explain", demo_scene(), "-m", "zoo/vit-scenes", *where[:-1], "pad", code=2).stderr


@pytest.mark.long
def test_all_methods_for_real(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("explain", "A quiet film of rare beauty.", "-m", "zoo/bert-sentiment", "--method", "all", "-q")
    page = Path("regard-out/report.html").read_text("utf-8")
    shown = re.findall(r'data-kind="method" value="([^"]+)"', page)
    assert "raw_attention = alpha_avg" in shown  # one map, shown once
    assert sorted(name for one in shown for name in one.split(" = ")) == sorted(
        m.name for m in regard.methods() if not m.only_of
    )
    assert len(everything("regard-out")) == len(shown) + 1


@pytest.mark.parametrize("model", ["zoo/bert-sentiment", pytest.param("zoo/vit-scenes", marks=pytest.mark.long)])
def test_compare_for_real(model, tmp_path, monkeypatch):
    from regard.zoo import demo_scene

    monkeypatch.chdir(tmp_path)
    value = "A quiet film of rare beauty." if "bert" in model else demo_scene()
    how = ["--methods", "revised_ig,odam,gae", "--sites", "input,block[-2],attention:all"]
    shown = run("compare", value, "-m", model, *how, "--out", "here")
    assert everything("here") == ["comparison.html", "comparison.png"]
    assert "here/comparison.html" in shown.stdout
    rows = [line.split()[:2] for line in shown.stdout.splitlines()[1:]]
    inner = "block[1]" if "bert" in model else "block[2]"
    wanted = [["revised_ig", "input"], ["revised_ig", inner], ["revised_ig", "attention,"], ["odam", inner]]
    assert [r for r in rows if r and r[0] in ("revised_ig", "odam", "gae")] == [*wanted, ["gae", "attention"]]
    name = "A quiet film" if "bert" in model else "demo_scene.png"
    assert name in Path("here/comparison.html").read_text("utf-8")
    assert run("compare", value, "-m", model, "--methods", "taylor", "-q").stdout == "regard-out/comparison.html\n"


def test_compare_misuse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = ["compare", "A fine film.", "-m", "zoo/bert-sentiment"]
    for more, said in [
        (["--methods", "odma"], "did you mean 'odam'"),
        (["--methods", ","], "no method is named"),
        (["--sites", ","], "no site is named"),
        (["--sites", "block[7]"], "block 7 is out of range"),
        (["--target", "giraffe"], "unknown label"),
        (["--baseline", "white"], "is for pictures"),
    ]:
        assert said in run(*text, *more, code=2).stderr
    assert "no such file" in run("compare", "a.txt", *text[2:], code=2).stderr
    assert not everything()


def test_real_misuse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "zoo/bert-sentiment"
    assert "did you mean 'zoo/bert-sentiment'" in run("explain", "x", "-m", "zoo/bert-sentimant", code=2).stderr
    assert run("explain", "   ", "-m", text, code=2).stderr.startswith("error: ")
    assert run("explain", "word " * 5000, "-m", text, code=2).stderr.startswith("error: ")
    run("explain", "word " * 200, "-m", text, "--truncate", "-q")
    assert "note" in Path("regard-out/report.html").read_text("utf-8")
    shutil.rmtree("regard-out")
    assert run("explain", "hello", "-m", "./no/such/folder", code=2).stderr.startswith("error: ")
    assert not everything()
