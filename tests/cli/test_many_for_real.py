"""`regard explain` of many pictures for real: a model of the zoo, a Ctrl-C, and what stays in memory."""

from __future__ import annotations

import gc
import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from regard.cli import commands as cli
from regard.cli import many
from regard.explanation.explanation import Explanation

runner = CliRunner()


def journal(out="regard-out"):
    return json.loads(Path(out, "index.json").read_text())


def scenes_of_zoo():
    from regard.zoo import scenes

    return scenes().images


def scenes(count):
    for i, pixels in enumerate(scenes_of_zoo()[:count]):
        Path("in").mkdir(exist_ok=True)
        Image.fromarray(pixels.numpy()).save(f"in/{i:03d}.png")


# what a shell runs in the background is started deaf to Ctrl-C
HEARING = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from regard.__main__ import main; main()"
)


def command(*args):
    return [sys.executable, "-c", HEARING, "explain", *args, "-m", "zoo/vit-scenes", "-q"]


def digests(folder):
    """Name and digest of every file: a difference is said by name, not as megabytes of HTML."""
    files = [f for f in Path(folder).rglob("*") if f.suffix in (".html", ".json", ".png")]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_ctrl_c_and_then_resume_for_real(tmp_path, monkeypatch):
    """A real SIGINT in the midst of 12 pictures; then the index is that of an undisturbed run, byte by byte."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # another number of threads may round a score, and a pixel, otherwise
    scenes(12)
    running = subprocess.Popen(command("in", "--out", "part"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not Path("part/003").exists() and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    done = re.search(r"interrupted: (\d+) of 12 inputs are done; the same command with --resume goes on", said)
    assert done
    assert 3 <= int(done[1]) < 12
    entries = journal("part")["inputs"]
    assert len(entries) == int(done[1])  # one more may be in its place already, and not put down
    kept = {page: page.stat().st_mtime_ns for e in entries for page in [Path("part", e["folder"], e["page"])]}
    subprocess.run(command("in", "--out", "part", "--resume"), check=True, capture_output=True)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    subprocess.run(command("in", "--out", "whole"), check=True, capture_output=True)
    whole, part = digests("whole"), digests("part")
    assert len([name for name in whole if name.endswith(".png")]) >= 12
    same = {"index.html", "index.json", *[name for name in whole if name.endswith(".png")]}
    assert {name: whole[name] for name in same} == {name: part[name] for name in same}


def test_nothing_of_an_input_stays_in_memory(tmp_path, monkeypatch):
    """As many explanations live after 12 inputs as after 4."""
    monkeypatch.chdir(tmp_path)
    scenes(12)
    monkeypatch.setattr(many, "TIDIED", 1)
    living = []
    add = many.Journal.add

    def counted(self, folder, entry):
        gc.collect()
        living.append(sum(type(o) is Explanation for o in gc.get_objects()))
        add(self, folder, entry)

    monkeypatch.setattr(many.Journal, "add", counted)
    done = runner.invoke(cli.app, command("in", "--no-page")[3:])
    assert done.exit_code == 0, done.output
    assert len(living) == 12
    assert max(living[4:]) <= living[3]
