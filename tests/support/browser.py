"""Debian's Chromium (`apt-get install chromium`): pages and the app are tried in it, driven by Playwright or by a script."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; apt-get install chromium brings it")


def sync_api() -> Any:
    """Playwright; tests that ask for it are skipped where it is not installed."""
    return pytest.importorskip("playwright.sync_api", reason="pip install playwright tries pages in a browser")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser that Playwright drives."""
    with sync_api().sync_playwright() as p:
        one = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-lcd-text"])
        yield one
        one.close()


def dom_of(page: Path, *options: str) -> str:
    """A page as it stands once its scripts have run."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *QUIET, "--dump-dom", f"--user-data-dir={page.parent / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def probed(page: Path, source: str, probe: str) -> Any:
    """What a script at the end of a page's source says of it: the JSON that it leaves as the text of the body."""
    page.write_text(source.replace("</body>", probe), encoding="utf-8")
    said = re.search(r"<body>(.*)</body>", dom_of(page), re.DOTALL)
    assert said is not None
    return json.loads(html.unescape(said[1]))
