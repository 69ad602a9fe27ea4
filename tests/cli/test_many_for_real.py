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

import numpy as np
import pytest
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
    """A real SIGINT in the midst of 8 pictures; then the index is that of an undisturbed run, byte by byte."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # another number of threads may round a score, and a pixel, otherwise
    scenes(8)
    running = subprocess.Popen(command("in", "--out", "part"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not Path("part/002").exists() and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    done = re.search(r"interrupted: (\d+) of 8 inputs are done; the same command with --resume goes on", said)
    assert done
    assert 2 <= int(done[1]) < 8
    entries = journal("part")["inputs"]
    assert len(entries) == int(done[1])  # one more may be in its place already, and not put down
    kept = {page: page.stat().st_mtime_ns for e in entries for page in [Path("part", e["folder"], e["page"])]}
    subprocess.run(command("in", "--out", "part", "--resume"), check=True, capture_output=True)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    subprocess.run(command("in", "--out", "whole"), check=True, capture_output=True)
    whole, part = digests("whole"), digests("part")
    assert len([name for name in whole if name.endswith(".png")]) >= 8
    same = {"index.html", "index.json", *[name for name in whole if name.endswith(".png")]}
    assert {name: whole[name] for name in same} == {name: part[name] for name in same}


def test_nothing_of_an_input_stays_in_memory(tmp_path, monkeypatch):
    """As many explanations live after 8 inputs as after 4."""
    monkeypatch.chdir(tmp_path)
    scenes(8)
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
    assert len(living) == 8
    assert max(living[4:]) <= living[3]


def resident(process: subprocess.Popen[str]) -> float:
    """Megabytes that a process has in memory; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096 / 1e6
    except (OSError, IndexError):
        return 0.0


def watched(*args, stop: int | None = None) -> tuple[int, str, list[tuple[int, float]]]:
    """Run over a folder: the exit code, what was said, and megabytes by inputs done. stop: Ctrl-C after so many."""
    seen: list[tuple[int, float]] = []
    out = Path(args[-1])
    with Path(f"{out}.said").open("w+", encoding="utf-8") as said:
        running = subprocess.Popen(
            [*command("in", "--no-test")[:-1], *args], stdout=subprocess.DEVNULL, stderr=said, text=True
        )
        while running.poll() is None:
            time.sleep(0.5)
            seen.append((len([*out.glob("[0-9]*")]), resident(running)))
            if stop is not None and seen[-1][0] >= stop:
                running.send_signal(signal.SIGINT)
                stop = None
        said.seek(0)
        return running.returncode, said.read(), seen


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_five_hundred_pictures(tmp_path, monkeypatch):
    """Memory is flat, progress is shown, and Ctrl-C with --resume ends with the index of an undisturbed run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Path("in").mkdir()
    noise = np.random.default_rng(0)
    pictures = scenes_of_zoo().numpy().astype(int)
    for i in range(500):
        one = pictures[i % len(pictures)] + noise.integers(-6, 7, pictures[0].shape)
        Image.fromarray(one.clip(0, 255).astype("uint8")).save(f"in/{i:03d}.png")
    code, said, seen = watched("--out", "whole")
    assert code == 0, said
    assert re.search(r"\d+ of 500 inputs; .* a second, .* left; now in/\d+\.png", said), said[-500:]
    early = max(mb for done, mb in seen if 50 <= done < 200)
    late = max(mb for done, mb in seen if done >= 350)
    assert late < early + 50  # a third of a megabyte for each input between
    code, said, _ = watched("--out", "part", stop=200)
    assert code == 130
    assert "the same command with --resume goes on" in said
    code, said, _ = watched("--resume", "--out", "part")
    assert code == 0, said
    whole, part = digests("whole"), digests("part")
    assert {name: whole[name] for name in ("index.html", "index.json")} == {
        n: part[n] for n in ("index.html", "index.json")
    }
    assert whole.keys() == part.keys()
