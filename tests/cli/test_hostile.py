"""Hostile input, drawn by a seed: no traceback, exit codes 0, 1 and 2, a clear sentence, nothing half-written, all as found."""

from __future__ import annotations

import io
import os
import random
import stat
import sys
import time
import traceback
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer

pytest.importorskip("transformers")

import regard
from regard.cli import commands as cli
from regard.errors import InputError
from regard.explanation.rewriting import Rewriting
from regard.theory.classifier import AttentionClassifier
from regard.theory.store import write
from support import hostile, writers
from support.as_found import same, state
from support.folders import image_parts, picture, text_parts, transformers

torch.set_num_threads(1)

QUICK, ALL, SECONDS = 300, 3000, 20 * 60
LABELS = {0: hostile.SCRIPT, 1: "../../x", 2: "Dog\x1b[31m"}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> hostile.Given:
    """Models and files that are well."""
    home = tmp_path_factory.mktemp("given")
    config, processor, settings = image_parts("vit")
    config.id2label, config.label2id = LABELS, {v: k for k, v in LABELS.items()}
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(home / "vit")
    getattr(transformers, processor)(**settings).save_pretrained(home / "vit")
    config, tokenizer = text_parts("bert")
    transformers.BertForSequenceClassification(config).save_pretrained(home / "bert")
    tokenizer.save_pretrained(home / "bert")
    writers.save("gpt2", home / "gpt2")
    picture().save(home / "cat.png")
    reader = regard.load(home / "vit")
    saved = reader.explain(home / "cat.png").save(home / "map.regard").read_bytes()
    rewriting = reader.rewrite(home / "cat.png", to=1, steps=1).save(home / "rewriting.regard").read_bytes()
    written = regard.load(home / "gpt2").explain_generation("a cat", 2).save(home / "written.regard").read_bytes()
    both = regard.load(home / "bert").explain(["the movie", "a movie"], method="lime", samples=3)
    text = both.save(home / "text.regard").read_bytes()
    write(AttentionClassifier(["fine", "film"]), home, {})
    cli_run(
        ["explain", "the movie", "a movie", "--model", str(home / "bert"), "--no-page", "--out", str(home / "many")]
    )
    return hostile.Given(
        {name: home / name for name in ("vit", "bert", "gpt2")},
        {
            "saved": saved,
            "text": text,
            "written": written,
            "rewriting": rewriting,
            "journal": (home / "many/index.json").read_bytes(),
            "theory/config.json": (home / "config.json").read_bytes(),
            "theory/model.safetensors": (home / "model.safetensors").read_bytes(),
        },
    )


def cli_run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    code = ended.value.code
    return code if isinstance(code, int) else int(code is not None)


def tree(folder: Path) -> dict[str, Any]:
    """All that is below a folder: kind, and a file's content."""
    found: dict[str, Any] = {}
    for home, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(home) / name
            kind = stat.S_IFMT(path.lstat().st_mode)
            found[str(path.relative_to(folder))] = (kind, path.read_bytes() if kind == stat.S_IFREG else None)
    return found


class Stdin:
    """What a command reads from stdin."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)

    def isatty(self) -> bool:
        return False


def faults(
    call: hostile.Call, code: int, out: str, err: str, before: dict[str, Any], after: dict[str, Any]
) -> list[str]:
    """What is wrong about how a call ended."""
    found: list[str] = []
    said = err.strip().splitlines()
    if code not in (0, 1, 2):
        found.append(f"exit code {code}")
    if "Traceback" in out + err or "(unexpected" in err:
        found.append("a traceback")
    if any(unicodedata.category(c) in ("Cc", "Cs") or c in "\u202a\u202b\u202d\u202e" for c in err.replace("\n", "")):
        found.append("control characters on stderr")
    if (code == 0) is bool(said):
        found.append(f"code {code} with {len(said)} lines on stderr")
    usage = bool(said) and said[0].startswith("Usage:")
    each = [line for line in said if not line.startswith("failed: ")]  # of several inputs each has its line
    if len(each) > (4 if usage else 1) or any(len(line) > 1200 for line in said):
        found.append(f"{len(said)} lines, {len(err)} characters on stderr")
    if "\x1b" in out:
        found.append("control characters on stdout")
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    if left := [name for name in changed if ".regard-" in name]:
        found.append(f"left behind: {left}")
    lost = [name for name in changed if name not in after and not name.startswith("a/b/out")]
    many = call.kind in ("table", "path", "resumed") or "index.json" in "".join(changed)
    if lost and code != 0:
        found.append(f"lost: {lost}")
    if code == 2 and changed and not many:
        found.append(f"refused, yet changed: {sorted(changed)}")
    pages = [after[name][1] or b"" for name in changed if name in after and name.endswith(".html")]
    if any(
        b"<script>alert" in page or b"<img src=x" in page for page in pages if page.lower().startswith(b"<!doctype")
    ):
        found.append("HTML of the input in a page")
    if "PWNED" in "".join(after):
        found.append("code was run")
    return found


def attack(numbers: range, given: hostile.Given, tmp_path: Path, capfd: Any, monkeypatch: Any, end: float) -> list[str]:
    """All that goes wrong in the calls of some numbers, until a time is over."""
    readers = {name: regard.load(folder) for name, folder in given.folders.items()}
    by_folder = {str(folder): readers[name] for name, folder in given.folders.items()}
    load = regard.load
    monkeypatch.setattr(regard, "load", lambda name: by_folder[name] if name in by_folder else load(name))
    monkeypatch.setattr(cli, "app", typer.main.get_command(cli.app))  # made once, not for every call
    monkeypatch.setattr("regard.cli.many.gc", SimpleNamespace(collect=lambda: None))  # of a heap as large as pytest's
    tensors = {"x": torch.zeros(1)}
    found: list[str] = []
    for number in numbers:
        if time.monotonic() > end:
            break
        root = tmp_path / str(number)
        (root / "a/b").mkdir(parents=True)
        monkeypatch.chdir(root / "a/b")
        call = hostile.call(number, given)
        before, started = tree(root), time.monotonic()
        was = state(readers[call.model].model, tensors) if call.model else {}
        monkeypatch.setattr(sys, "stdin", Stdin(call.stdin))
        capfd.readouterr()
        code = cli_run(call.arguments)
        out, err = capfd.readouterr()
        wrong = faults(call, code, out, err, before, tree(root))
        if time.monotonic() - started > 30:
            wrong.append(f"{time.monotonic() - started:.0f} seconds")
        if call.model:
            now = state(readers[call.model].model, tensors)
            differs = [k for k, v in was.items() if not same(v, now[k])]
            wrong += [f"not as it was: {differs}"] if differs else []
        if wrong:
            found.append(f"{number} ({call.kind}): {'; '.join(wrong)}\n  {call.arguments}\n  {err[-600:]}")
    return found


def test_hostile_calls(given, tmp_path, capfd, monkeypatch):
    found = attack(range(QUICK), given, tmp_path, capfd, monkeypatch, time.monotonic() + SECONDS)
    assert not found, "\n".join([f"{len(found)} faults", *found[:40]])


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 300)
def test_many_hostile_calls(given, tmp_path, capfd, monkeypatch):
    """All 3,000, or as many as there is time for."""
    found = attack(range(QUICK, ALL), given, tmp_path, capfd, monkeypatch, time.monotonic() + SECONDS)
    assert not found, "\n".join([f"{len(found)} faults", *found[:40]])


LOADS: dict[str, Any] = {
    "saved": regard.Explanation,
    "text": regard.Explanation,
    "written": regard.Generation,
    "rewriting": Rewriting,
}


def used(found: Any) -> None:
    """What is done with what was loaded."""
    repr(found), str(found)
    if not isinstance(found, Rewriting):
        found.to_json()
        found.to_rows()
        assert found.words is None or found.words
    found.to_html("page.html")
    found.save("again.regard")


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", LOADS)
def test_saved_files_that_are_spoilt(kind, count, given, tmp_path, monkeypatch):
    """Each is refused in a sentence; or what it holds can be shown, written and saved."""
    monkeypatch.chdir(tmp_path)
    found: list[str] = []
    loaded = 0
    for number in range(count):
        draw = random.Random(f"{kind} {number}")
        Path("spoilt.regard").write_bytes(hostile.spoilt_file(draw, given.files[kind]))
        try:
            made = LOADS[kind].load("spoilt.regard")
            loaded += 1
            used(made)
        except InputError as e:
            if "\n" in str(e) or "spoilt.regard" not in str(e):
                found.append(f"{number}: {e}")
        except Exception as e:
            where = traceback.extract_tb(e.__traceback__)[-1]
            found.append(f"{number}: {type(e).__name__}: {e} ({where.filename}:{where.lineno})")
    assert not found, "\n".join([f"{len(found)} faults, {loaded} loaded", *found[:40]])


def test_the_same_number_is_the_same_call(given, tmp_path, monkeypatch):
    made = []
    for again in ("one", "two"):
        (tmp_path / again).mkdir()
        monkeypatch.chdir(tmp_path / again)
        made.append((hostile.call(7, given), tree(tmp_path / again)))
    assert made[0] == made[1]
