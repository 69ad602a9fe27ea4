"""The worked diffs of docs/developing apply to this tree, and their own tests pass there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {p.stem: p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs" / "developing").glob("add-*.md"))}
CHOSEN = {"add-an-operation-rule": "rounding", "add-a-family": "roc-bert"}
"""Of a file of tests that is there already, the rows that are new."""


def diff_of(page: str) -> str:
    """The one diff on a page."""
    (found,) = re.findall(r"^```diff\n(.*?)^```$", PAGES[page], re.M | re.S)
    return str(found)


@pytest.mark.parametrize("page", PAGES)
def test_it_touches_no_more_than_it_says(page: str) -> None:
    changed = re.findall(r"^diff --git a/(\S+)", diff_of(page), re.M)
    source = [f for f in changed if f.startswith("src/")]
    assert len(source) <= 2, "one file and one row"
    assert any(f.startswith("tests/") for f in changed)


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES)
def test_it_applies_and_passes(page: str, tmp_path: Path) -> None:
    for part in ("src", "tests", "docs", "training", "benchmarks"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("pyproject.toml", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / file, tmp_path / file)
    diff = diff_of(page)
    applied = subprocess.run(["git", "apply", "-"], input=diff, cwd=tmp_path, capture_output=True, text=True)
    assert applied.returncode == 0, applied.stderr
    changed = re.findall(r"^diff --git a/(\S+)", diff, re.M)
    tests = [f for f in changed if Path(f).name.startswith("test_")] or ["tests/families/test_sweep.py"]
    only = ["-k", CHOSEN[page]] if page in CHOSEN else []
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests, *only]
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert re.search(r"\b[1-9]\d* passed", ran.stdout), ran.stdout[-500:]
