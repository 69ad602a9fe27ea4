"""`regard explain` of many inputs, and what it writes beside pages: folders, globs, rows, chats; failures; going on; data."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import webbrowser
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import regard
from regard import zoo
from regard.cli import commands as cli
from regard.cli import many
from regard.cli import progress as progressing
from regard.cli.journal import stamped
from regard.cli.many import OwnFolders
from regard.cli.progress import Counted, duration
from regard.errors import InputError, ModelError
from regard.report.explanation import png
from regard.report.index.entries import IndexEntry
from regard.report.index.html import page
from support.drawn import NASTY, picture, sentence

runner = CliRunner()


def chosen(method):
    """The methods that are asked for, as a reader finds them."""
    return ["gae" if m == "auto" else m for m in ([method] if isinstance(method, str) else method)]


class Reader:
    """Stands for a model: notes what it was asked; answers with hand-made explanations, or as `fails` says."""

    def __init__(self, kind):
        self.kind, self.labels, self.asked, self.fails = kind, ["Bag", "Shirt"], [], {}

    def explain(self, raw, target=None, method="gae", **how):
        self.asked.append((raw, target))
        at = len(self.asked)
        if at in self.fails:
            raise self.fails[at]
        if isinstance(raw, Path):
            try:
                Image.open(raw).load()
            except OSError:
                raise InputError(f"{raw} is not a picture that can be read") from None
        make = picture if self.kind == "image" else sentence
        return [make(method=m, target=f"logit of '{target or 'Bag'}'") for m in chosen(method)]


@pytest.fixture
def reader(monkeypatch, tmp_path, request):
    made = Reader(getattr(request, "param", "text"))
    monkeypatch.setattr(regard, "load", lambda name: made, raising=False)
    monkeypatch.chdir(tmp_path)
    return made


images = pytest.mark.parametrize("reader", ["image"], indirect=True)


def run(*args, code=0, input=None):
    result = runner.invoke(cli.app, ["explain", *map(str, args), "--model", "m"], input=input)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def pictures(*names):
    for i, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (i, i, i)).save(name)


def journal(out="regard-out"):
    return json.loads(Path(out, "index.json").read_text())


def names(out="regard-out"):
    return [e["name"] for e in journal(out)["inputs"]]


def everything(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


# ---------------------------------------------------------------- what the inputs are


@images
def test_a_folder_is_its_pictures_by_name(reader):
    pictures("in/b.png", "in/a.JPG", "in/deep/c.png", "in/.hidden/d.png", "in/.e.png", "in/regard-out/f.png", "g.png")
    Path("in/notes.txt").write_text("words")
    run("in", "--out", "in/regard-out")
    assert names("in/regard-out") == ["in/a.JPG", "in/b.png", "in/deep/c.png"]
    assert [str(raw) for raw, _ in reader.asked] == names("in/regard-out")
    assert sorted(p.name for p in Path("in/regard-out").iterdir()) == [
        "a", "b", "deep-c", "f.png", "index.html", "index.json"
    ]  # fmt: skip
    drawn = {"report.html", "thumbnail.png", "c-gae-logit-of-Bag.png"}
    assert set(everything("in/regard-out/deep-c")) == drawn


def test_a_folder_is_its_texts_for_a_model_of_texts(reader):
    pictures("in/a.png")
    Path("in/b.txt").write_text("some words")
    Path("in/c.md").write_text("more words")
    run("in", "-q")
    assert [raw for raw, _ in reader.asked] == ["some words", "more words"]
    Path("in/b.txt").unlink()
    Path("in/c.md").unlink()
    said = run("in", "--out", "other", code=2).stderr
    assert "in is a folder in which nothing can be read (.md, .rst, .txt)" in said
    assert not Path("other").exists()


@images
def test_a_glob_is_what_it_matches(reader):
    pictures("a1.png", "a2.png", "deep/a3.png", "b.png")
    run("a?.png", "-q")
    assert names() == ["a1.png", "a2.png"]
    run("**/*[13].png", "-q")
    assert names() == ["a1.png", "deep/a3.png"]
    assert "no file matches c*.png" in run("c*.png", code=2).stderr
    pictures("odd[1].png")
    run("odd[1].png", "-q", "--out", "one")  # a file that is there is no glob
    assert Path("one/report.html").exists()


@pytest.mark.parametrize("text", ["who has the coin?", "[CLS] is a token", "*", "Good?", "5 * 3 / 2"])
def test_texts_that_are_no_globs(reader, text):
    run(text, "-q")
    assert reader.asked[0][0] == text


def test_rows_of_a_csv_file(reader):
    Path("r.csv").write_text('id,text,label\n1,"a fine, long\nfilm",Bag\n2,dull,Shirt\n3,,Bag\n4,no label,\n5\n')
    shown = run("r.csv", "--column", "text", "--label", "label", code=1)
    assert reader.asked == [("a fine, long\nfilm", "Bag"), ("dull", "Shirt")]
    assert names() == [f"r.csv {i}" for i in range(1, 6)]
    assert [e.get("error") for e in journal()["inputs"]] == [
        None, None, "r.csv 3 is empty; give it some text", "r.csv 4 has no label in column 'label'",
        "r.csv 5 has nothing in column 'text'",
    ]  # fmt: skip
    assert "3 of 5 inputs could not be explained" in shown.stderr
    assert sorted(p.name for p in Path("regard-out").iterdir() if p.is_dir()) == ["r-1", "r-2"]
    for given, said in [
        ([], "r.csv has the columns id, text, label; name the one that holds the inputs with --column"),
        (["--column", "txt"], "unknown column of r.csv 'txt'; did you mean 'text'"),
        (["--column", "text", "--label", "labels"], "unknown column of r.csv 'labels'; did you mean 'label'"),
        (["--column", "text", "--label", "label", "--target", "Bag"], "leave one out"),
        (["--column", "text", "--label", "label", "--generate", "3"], "leave one out"),
    ]:
        assert said in run("r.csv", *given, code=2).stderr


@pytest.mark.parametrize(("name", "between"), [("r.csv", ";"), ("r.csv", "\t"), ("r.tsv", "\t")])
def test_rows_that_semicolons_or_tabs_part(reader, name, between):
    Path(name).write_text(between.join(["id", "text"]) + "\n" + between.join(["1", "a fine, long film"]) + "\n")
    shown = run(name, "--column", "text", code=0)
    assert [text for text, *_ in reader.asked] == ["a fine, long film"]
    assert "1 input explained" in shown.stdout


def test_rows_of_json_lines(reader):
    chat = [{"role": "user", "content": "hello"}]
    lines = [{"t": "good"}, "", {"t": 7}, "no json", {"other": 1}, {"t": chat}, {"t": [1]}]
    Path("r.jsonl").write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    run("r.jsonl", "--column", "t", code=1)
    assert [raw for raw, _ in reader.asked] == ["good", "7", chat]
    errors = {e["name"]: e.get("error") for e in journal()["inputs"]}
    assert errors["r.jsonl 4"] == "line 4 of r.jsonl is not JSON (Expecting value)"
    assert errors["r.jsonl 5"] == "r.jsonl 5 has nothing in column 't'"
    assert errors["r.jsonl 7"] == "r.jsonl 7 has nothing in column 't'"
    reader.asked.clear()
    Path("r.jsonl").write_text(json.dumps("bare words") + "\n" + json.dumps({"messages": chat}))
    run("r.jsonl", "--out", "bare")
    assert [raw for raw, _ in reader.asked] == ["bare words", {"messages": chat}]
    for content, said in [(b"", "holds no rows"), (b"\xff", "is not UTF-8 text"), (b'{"a": 1}', "name the one")]:
        Path("r.jsonl").write_bytes(content)
        assert said in run("r.jsonl", code=2).stderr


def test_a_glob_of_tables_is_their_rows(reader):
    Path("a.jsonl").write_text('{"t": "one"}\n{"t": "two"}\n')
    Path("b.csv").write_text("t\nthree\n")
    Path("c.txt").write_text("four")
    run("[abc].*", "--column", "t", "-q")
    assert [raw for raw, _ in reader.asked] == ["one", "two", "three", "four"]


@images
def test_rows_name_pictures_beside_their_file(reader):
    pictures("set/a.png", "set/deep/b.png")
    Path("set/r.csv").write_text("file,label\na.png,Bag\ndeep/b.png,Shirt\nnone.png,Bag\n")
    run("set/r.csv", "--column", "file", "--label", "label", code=1)
    assert [(str(raw), target) for raw, target in reader.asked] == [("set/a.png", "Bag"), ("set/deep/b.png", "Shirt")]
    assert journal()["inputs"][2]["error"] == "set/r.csv 3: no such file: set/none.png"


def test_chats(reader):
    chat = [{"role": "user", "content": "hello"}]
    Path("c.json").write_text(json.dumps(chat))
    run("--chat", "c.json", "-q")
    assert reader.asked[0][0] == chat
    assert Path("regard-out/report.html").exists()
    run("--chat", "c.json", "and words", "-q", "--out", "two")
    assert names("two") == ["and words", "c.json"]
    Path("c.json").write_text('{"a": 1}')
    assert "c.json holds no chat; give [{" in run("--chat", "c.json", code=2).stderr
    reader.kind = "image"
    Path("c.json").write_text(json.dumps(chat))
    assert "--chat goes with models that read texts" in run("--chat", "c.json", code=2).stderr


# ---------------------------------------------------------------- names, failures


def test_each_input_has_a_folder_of_its_own(reader):
    run("Same words", "same words", "Same words", "index.json?", "up ../../x", NASTY, "字" * 60, "-q")
    folders = sorted(p.name for p in Path("regard-out").iterdir() if p.is_dir())
    assert len(folders) == 7
    assert {"Same-words", "same-words-2", "Same-words-3"} < set(folders)
    assert len({f.casefold() for f in folders} | {"index.html", "index.json"}) == 9
    for name in folders:
        assert not re.search(r"[\s/\\<>:\"|?*\x00-\x1f]", name)
        assert not name.startswith((".", "-"))
    assert sorted(p.name for p in Path().iterdir()) == ["regard-out"]
    assert [OwnFolders().of(".."), OwnFolders().of("index.html")] == ["x", "index.html-2"]


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for k, v in attributes if k in ("href", "src")]


def test_an_index_is_safe_and_needs_nothing(reader):
    entries = [
        IndexEntry(NASTY, "s", "a b", "report.html", "thumbnail.png", NASTY, NASTY, NASTY, (NASTY,)),
        IndexEntry(NASTY, "s", error=NASTY),
    ]
    made = page(entries, 3, NASTY)
    found = Links(made)
    assert not {"script", "iframe", "object"} & set(found.tags)
    assert found.links == ["a%20b/thumbnail.png", "a%20b/report.html", "a%20b/report.html"]
    assert "\x1b" not in made
    assert "2 of 3 inputs are done" in made
    assert "1 of 3 could not be explained" in made
    run("one " + NASTY.replace("\x1b", ""), "two", "-q")
    links = Links(Path("regard-out/index.html").read_text("utf-8")).links
    assert {Path("regard-out", *link.split("/")).is_file() for link in links} == {True}


@images
def test_failures_are_listed_and_not_fatal(reader):
    pictures("a.png", "c.png", "d.png")
    Path("b.png").write_text("no picture")
    reader.fails = {4: RuntimeError("inside\ntorch \x1b[31m")}
    done = run("*.png", code=1)
    assert [e.get("error", "") for e in journal()["inputs"]] == [
        "", "b.png is not a picture that can be read", "", "RuntimeError: inside torch �[31m (unexpected)"
    ]  # fmt: skip
    assert done.stderr.splitlines()[-1].startswith(
        "error: 2 of 4 inputs could not be explained, among them: b.png is not"
    )
    shown = Path("regard-out/index.html").read_text("utf-8")
    assert "2 of 4 could not be explained" in shown
    assert "b.png is not a picture that can be read" in shown
    quiet = run("*.png", "-q", "--out", "quiet", code=1)
    assert quiet.stdout == "quiet/index.html\n"
    assert len(quiet.stderr.splitlines()) == 1


def test_what_is_wrong_with_the_model_ends_the_run(reader):
    reader.fails = {1: ModelError("no attention was seen")}
    assert run("a b", "c d", code=2).stderr == "error: no attention was seen\n"
    assert not list(Path().iterdir())
    reader.fails = {4: ModelError("odd")}
    assert run("a b", "c d", "e f", code=1)


@pytest.mark.parametrize("where", [(many.tempfile, "mkdtemp"), (png, "plot"), (many.ManyInputs, "_publish")])
def test_a_folder_that_cannot_be_written_ends_the_run(reader, monkeypatch, where):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*where, full)
    said = run("a b", "c d", code=2).stderr
    assert "regard-out cannot be written: No space left on device" in said
    assert len(reader.asked) == 1
    assert not [p for p in Path().rglob("*") if p.is_file() or p.name[0] == "."]


# ---------------------------------------------------------------- interrupted, and going on


def interrupted_at(reader, at):
    reader.fails = {at: KeyboardInterrupt()}


@images
def test_resumed_is_as_undisturbed(reader):
    pictures(*(f"in/{i:02d}.png" for i in range(6)))
    Path("in/03.png").write_text("no picture")
    run("in", "--out", "whole", code=1)
    reader.asked.clear()
    interrupted_at(reader, 3)
    ended = run("in", "--out", "part", code=130)
    assert (
        ended.stderr.splitlines()[-1] == "interrupted: 2 of 6 inputs are done; the same command with --resume goes on"
    )
    assert not journal("part")["complete"]
    shown = Path("part/index.html").read_text("utf-8")
    assert "2 of 6 inputs are done" in shown
    assert shown.count("<li>") == 2
    assert [p.name for p in Path("part").iterdir() if p.name[0] == "."] == []
    Path("part/.regard-killed/new").mkdir(parents=True)  # what a run leaves that is killed while it draws
    interrupted_at(reader, 5)  # once more, after what failed
    run("in", "--out", "part", "--resume", code=130)
    run("in", "--out", "part", "--resume", code=1)
    asked = [Path(raw).name for raw, _ in reader.asked]
    assert asked == ["00.png", "01.png", "02.png", "02.png", "03.png", "03.png", "04.png", "05.png"]
    whole, part = everything("whole"), everything("part")
    for name in ("index.html", "index.json"):
        assert whole[name] == part[name]
    assert {*whole} == {*part}
    reader.asked.clear()
    run("in", "--out", "part", "--resume", code=1)
    assert [Path(raw).name for raw, _ in reader.asked] == ["03.png"]  # what failed is tried again
    assert everything("part")["index.html"] == whole["index.html"]


def test_what_differs_is_named(reader):
    run("a b", "c d", "--out", "o")
    before = everything("o")
    for given, said in [
        (["--method", "rollout"], "--method was 'auto' and is 'rollout'"),
        (["--target", "Bag"], """--target was not given and is '["Bag"]'"""),
        (["--json", "x.json"], "--json was not given and is True"),
    ]:
        assert said in run("a b", "c d", "--out", "o", *given, "--resume", code=2).stderr
    assert everything("o") == before
    assert not Path("x.json").exists()
    made = journal("o")
    made["options"]["the model's content"] = "other"
    Path("o/index.json").write_text(json.dumps(made))
    assert "the model's content was 'other' and is ''" in run("a b", "c d", "--out", "o", "--resume", code=2).stderr
    outside = {"key": "a", "name": "a", "stamp": "", "folder": "a", "page": "../../x.html"}
    for damaged in (
        json.dumps({"format": "regard-index-1", "options": {}, "inputs": [outside]}),
        "[1]",
        "{",
        '{"format": "other"}',
        '{"format": "regard-index-1", "inputs": [3], "options": {}}',
    ):
        Path("o/index.json").write_text(damaged)
        assert "is not the index of an earlier run" in run("a b", "c d", "--out", "o", "--resume", code=2).stderr


def test_a_file_that_an_option_names_may_not_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text("words beside it")
    first = stamped("labels.txt")
    Path("labels.txt").write_text("other words")
    assert first != stamped("labels.txt")
    assert stamped("picture:labels.txt").startswith("picture:labels.txt (")
    assert stamped(["x", None, 3, "blur:3"]) == ["x", None, 3, "blur:3"]


@images
def test_inputs_that_changed_are_explained_again(reader):
    pictures("in/a.png", "in/b.png", "in/c.png")
    run("in")
    reader.asked.clear()
    Image.new("RGB", (9, 9), "red").save("in/b.png")
    Path("in/c.png").unlink()
    pictures("in/d.png")
    run("in", "--resume")
    assert [Path(raw).name for raw, _ in reader.asked] == ["b.png", "d.png"]
    assert names() == ["in/a.png", "in/b.png", "in/d.png"]


def test_a_new_run_begins_anew(reader):
    run("a b", "c d")
    run("a b", "c d", "e f")
    assert [raw for raw, _ in reader.asked] == ["a b", "c d", "a b", "c d", "e f"]
    run("a b", "c d", "--out", "fresh", "--resume")  # nothing to go on with
    assert len(names("fresh")) == 2


# ---------------------------------------------------------------- progress


def test_progress_on_a_pipe_is_a_line_now_and_then(reader, monkeypatch):
    monkeypatch.setattr(progressing, "EVERY", 0.0)
    lines = run("a b", "c d", "e f").stderr.splitlines()
    assert lines[0] == "0 of 3 inputs; now a b"
    assert re.fullmatch(r"1 of 3 inputs; ([\d.e+]+ a second|\d+ s each), \d+ s left; now c d", lines[1])
    assert run("a b", "c d", "-q").stderr == ""


def test_how_long_it_takes():
    counted = Counted(10)
    counted.started -= 30
    assert str(counted) == "0 of 10 inputs"
    counted.step(worked=False)
    assert counted.pace == ""
    for failed in (False, True):
        counted.step(failed)
    assert str(counted) == "3 of 10 inputs, 1 failed; 15 s each, 1 min 45 s left"
    assert [duration(s) for s in (3.2, 200, 7500)] == ["3 s", "3 min 20 s", "2 h 5 min"]


def test_a_bar_on_a_terminal(reader, monkeypatch):
    from rich.console import Console

    shown = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=shown, force_terminal=True, width=90))
    monkeypatch.setattr(sys, "stderr", type("T", (io.StringIO,), {"isatty": lambda _: True})())
    counted = Counted(3)
    with progressing.progress(counted, quiet=False) as told:
        for name in ("[bold]a", "b"):
            told.told(name)
            counted.step()
        told.failed("c: it is \x1b[31m none")
    said = shown.getvalue()
    assert "failed: c: it is �[31m none" in said
    assert "[bold]a" in said or "b" in said


# ---------------------------------------------------------------- data out


def parsed(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_json_and_csv_of_one_input(reader):
    shown = run("It isn't good.", "--method", "gae,rollout", "--json", "d/x.json", "--csv", "y.csv")
    made = json.loads(Path("d/x.json").read_text())
    wanted = [sentence(method=m, target="logit of 'Bag'") for m in ("gae", "rollout")]
    for found, exp in zip(made, wanted, strict=True):
        assert found["input"] == "It isn't good."
        assert found["scores"] == exp.to_dict()["scores"]
    rows = parsed(Path("y.csv").read_text())
    assert list(rows[0])[:4] == ["input", "method", "target", "sample"]
    assert [float(r["score"]) for r in rows] == [r["score"] for e in wanted for r in e.to_rows()]
    assert "numbers: d/x.json" in shown.stdout
    run("a b", "--json", "z.jsonl", "--method", "gae,rollout", "-q")
    assert [json.loads(line)["method"] for line in Path("z.jsonl").read_text().splitlines()] == ["gae", "rollout"]


def test_stdout_gets_the_data_alone(reader):
    one = run("a b", "--json", "-", "--csv", "rows.csv")
    assert [e["method"] for e in json.loads(one.stdout)] == ["gae"]
    assert Path("rows.csv").exists()
    assert one.stderr == ""
    several = run("a b", "c d", "--csv", "-", "--no-page", "--out", "o")
    assert {r["input"] for r in parsed(several.stdout)} == {"a b", "c d"}
    assert several.stdout.startswith("input,method,target")
    assert several.stdout.count("input,method,target") == 1


def test_data_of_many_are_joined_in_order(reader):
    interrupted_at(reader, 2)
    given = ["a b", "c d", "e f", "--json", "all.json", "--csv", "all.csv", "-q"]
    run(*given, code=130)
    assert not Path("all.json").exists()
    run(*given, "--resume")
    assert [e["input"] for e in json.loads(Path("all.json").read_text())] == ["a b", "c d", "e f"]
    rows = parsed(Path("all.csv").read_text())
    assert list(dict.fromkeys(r["input"] for r in rows)) == ["a b", "c d", "e f"]
    assert len(rows) == 3 * len(sentence().to_rows())


def test_no_page(reader):
    shown = run("a b", "--no-page")
    assert "strongest words" in shown.stdout
    assert not list(Path().iterdir())
    run("a b", "c d", "--no-page")
    assert {p.split("/")[-1] for p in everything("regard-out")} == {"index.json"}
    assert run("a b", "--no-page", "-q").stdout == ""


def test_open(reader, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    run("a b", "--open")
    run("a b", "c d", "--open", "--out", "o")
    assert opened == [Path(p).absolute().as_uri() for p in ("regard-out/report.html", "o/index.html")]


def test_of_several_classes_the_likeliest_is_drawn():
    from regard.report.index.html import described, thumbnail

    scene = zoo.scenes().images[0]
    found = regard.load("zoo/clip-scenes").explain((scene, ["a boot", "a shirt", "a bag"]), "all")
    likeliest = found[0].compared.order[0]
    assert thumbnail(found) == thumbnail([found[likeliest]])
    assert thumbnail(found) != thumbnail([found[found[0].compared.order[-1]]])
    made = described(found)
    assert made["prediction"] == found[0].compared.names[likeliest]
    assert len(made["targets"]) == 3
    assert made["words"] == ""
    assert made["share"] == found[0].prediction[0][0].percent


def test_what_a_model_writes_of_many(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.jsonl").write_text('{"p": "anna has the lamp .\\nwho has the lamp ?"}\n{"p": "bob has the coin ."}\n')
    given = ["explain", "r.jsonl", "--column", "p", "-m", "zoo/llama-facts", "--generate", "1", "--csv", "-"]
    done = runner.invoke(cli.app, given)
    assert done.exit_code == 0, done.output
    rows = parsed(done.stdout)
    assert {"written", "written_token", "score"} < set(rows[0])
    entries = journal()["inputs"]
    assert [e["words"] for e in entries] == ["anna has the lamp . who has the lamp ?", "bob has the coin ."]
    assert all(e["prediction"] for e in entries)
    assert Path("regard-out/r-1/report.html").exists()
