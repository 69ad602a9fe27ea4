"""The folder of the Hugging Face Space: its header, what it installs, and that app.py runs from it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "space" / "README.md").read_text(encoding="utf-8")


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=~ ]", r)[0] for r in requirements}


def test_the_header_says_what_a_space_must_know():
    head = re.match(r"---\n(.*?)\n---\n", README, re.S)
    assert head
    said = dict(line.split(": ", 1) for line in head[1].splitlines())
    assert (said["sdk"], said["app_file"]) == ("gradio", "app.py")
    assert (ROOT / said["app_file"]).is_file()
    assert len(said["short_description"]) <= 60  # or the hub refuses it
    (gradio,) = [r for r in PROJECT["optional-dependencies"]["app"] if r.startswith("gradio")]
    assert said["sdk_version"].startswith(re.search(r">=([\d.]+)", gradio)[1])


def test_it_installs_what_the_app_needs():
    lines = (ROOT / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    installed = names([line for line in lines if line and line[0] not in "#-"])
    extras = PROJECT["optional-dependencies"]
    assert installed == names([*PROJECT["dependencies"], *extras["hf"], *extras["viz"]])


@pytest.mark.long
@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_it_runs_from_its_own_folder_and_leaves_no_uploads(tmp_path):
    pytest.importorskip("gradio", reason="pip install 'regard[app]' brings what the app is made with")
    for name in ("Makefile", "app.py", "LICENSE", "space", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    subprocess.run(["make", "space"], cwd=tmp_path, check=True, capture_output=True)
    space = tmp_path / "build" / "space"
    assert (space / "README.md").read_text(encoding="utf-8") == README
    assert not [*space.rglob("__pycache__")]
    (places := tmp_path / "temporary").mkdir()
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"TMPDIR": str(places), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "app.py"], cwd=space, env=own, stdout=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout is not None
            assert re.match(r"The app is at http://127\.0\.0\.1:\d+/", run.stdout.readline())
            assert len([*places.glob("regard-app-*")]) == 1
        finally:
            run.send_signal(signal.SIGTERM)
    assert [*places.glob("regard-app-*")] == []
