"""The documents are true: every snippet runs, every link leads somewhere, what is generated is up to date.

Python blocks of a page run in one namespace, in order, in a temporary folder; `regard ...` lines of bash and console
blocks run through the command line. `<!-- no-run -->` before a block skips it (for what needs a network); `<!-- exit 2 -->`
says the exit code that its commands end with.
"""

from __future__ import annotations

import dataclasses
import io
import re
import runpy
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import regard
from regard.attribution.table import METHODS

ROOT = Path(__file__).parents[2]
PAGES = [p for p in [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"] if p.exists()]
FENCE = re.compile(r"^```(\w*) *$\n(.*?)^``` *$", re.M | re.S)
MARK = re.compile(r"<!-- (no-run|exit \d+) -->\s*$")
REWRITE = "run `python docs/generate.py`"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int
    mark: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, with the mark before each."""
    found = []
    for m in FENCE.finditer(text):
        mark = MARK.search(text[: m.start()])
        found.append(Block(m[1], m[2], text.count("\n", 0, m.start()) + 1, mark[1] if mark else ""))
    return found


def commands(code: str) -> list[tuple[bytes, list[str]]]:
    """What the `regard` lines of a block read from stdin, and their arguments."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        first, given = (words[: words.index("|")], words[words.index("|") + 1 :]) if "|" in words else ([], words)
        if given[:1] == ["regard"]:
            found.append((said(first), given[1:]))
    return found


def said(words: list[str]) -> bytes:
    """What `echo ...` or `cat FILE` before a pipe writes."""
    if words[:1] == ["cat"]:
        return Path(words[1]).read_bytes()
    assert words[:1] in ([], ["echo"]), f"only echo and cat are understood before a pipe, not {words[0]}"
    return " ".join(words[1:]).encode() + b"\n"


def run_command(given: bytes, arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from regard.cli.commands import main

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code or 0) == code, f"regard {shlex.join(arguments)} ended with {ended.value.code}"


@pytest.fixture
def apart(tmp_path, monkeypatch):
    """A folder of its own, one thread, fixed random numbers; methods that a page registers are forgotten again."""
    monkeypatch.chdir(tmp_path)
    threads, rng, known = torch.get_num_threads(), torch.get_rng_state(), dict(METHODS)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(rng)
    METHODS.clear()
    METHODS.update(known)


RECIPES = ROOT / "docs" / "how-to.md"
"""Its sections stand alone, after the lines before the first of them; each is a test of its own."""


def recipes() -> dict[str, str]:
    """What each section of the recipes runs: the lines that all share, and its own; by its title."""
    text = RECIPES.read_text(encoding="utf-8")
    code = [m.span() for m in FENCE.finditer(text)]
    heads = [m for m in re.finditer(r"^## (.*)$", text, re.M) if not any(a <= m.start() < b for a, b in code)]
    ends = [*(h.start() for h in heads[1:]), len(text)]
    shared = text[: heads[0].start()]
    # blank lines in the place of other sections, so that an error says the line of the page
    return {
        h[1]: shared + "\n" * text.count("\n", len(shared), h.start()) + text[h.start() : end]
        for h, end in zip(heads, ends, strict=True)
    }


SNIPPETS = {p.name: p.read_text(encoding="utf-8") for p in PAGES if p != RECIPES} | recipes()


@pytest.mark.parametrize("name", SNIPPETS)
@pytest.mark.usefixtures("apart")
def test_snippets_run(name, monkeypatch):
    names = {"__name__": "__main__"}
    for block in blocks(SNIPPETS[name]):
        if block.mark == "no-run":
            continue
        if block.language == "python":
            exec(compile("\n" * block.line + block.code, name, "exec"), names)
        elif block.language in ("bash", "console"):
            code = int(block.mark.removeprefix("exit ")) if block.mark else 0
            for given, arguments in commands(block.code):
                run_command(given, arguments, code, monkeypatch)


def slugs(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    titles = re.findall(r"^#+ +(.*?) *$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@each_page
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}, which is not there"
        if anchor:
            assert anchor in slugs(target.read_text(encoding="utf-8")), f"{page.name} links to {link}: no such heading"


def test_generated_tables_are_current():
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    for path, page in made["pages"]().items():
        assert path.read_text(encoding="utf-8") == page, f"a table in {path.name} is out of date: {REWRITE}"


def test_reference_names_everything_public():
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    wanted = set(regard.__all__)
    for cls, prefix in ((regard.Target, "Target."), (regard.Baseline, "Baseline."), (regard.Site, "Site.")):
        wanted |= {prefix + n for n, v in vars(cls).items() if isinstance(v, classmethod)} - {"Target.make"}
    for cls in (regard.Explanation, regard.Receipt):
        wanted |= {f.name for f in dataclasses.fields(cls)} | {n for n, v in vars(cls).items() if callable(v)}
        wanted |= {n for n, v in vars(cls).items() if isinstance(v, property)}
    missing = sorted(n for n in wanted if not n.rpartition(".")[2].startswith("_") and n not in text)
    assert not missing, f"docs/reference.md does not name {', '.join(missing)}"


def test_blocks_and_commands_are_read():
    page = 'a\n\n```python\nx = 1\n```\n\n<!-- no-run -->\n```console\n$ echo "a b" | regard explain - -m x\nout\n```\n'
    first, second = blocks(page)
    assert (first.language, first.code, first.line, first.mark) == ("python", "x = 1\n", 3, "")
    assert second.mark == "no-run"
    assert commands(second.code) == [(b"a b\n", ["explain", "-", "-m", "x"])]
