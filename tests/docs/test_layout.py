"""How the tests themselves are laid out."""

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]
FILES = [p for p in TESTS.rglob("*.py") if p.name != "__init__.py"]
LONGEST = 600


def imported(path: Path) -> set[str]:
    """The modules that a file imports, by name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return found


def test_no_test_imports_a_test() -> None:
    tests = {p.stem for p in FILES if p.stem.startswith("test_")}
    assert [(p.name, m) for p in FILES for m in imported(p) if m.split(".")[-1] in tests] == []


def test_no_file_is_long() -> None:
    assert [p.name for p in FILES if len(p.read_text(encoding="utf-8").splitlines()) > LONGEST] == []


def test_the_page_of_helpers_names_each() -> None:
    page = (TESTS / "support" / "README.md").read_text(encoding="utf-8")
    helpers = {p.name if p.is_file() else f"{p.name}/" for p in (TESTS / "support").iterdir() if p.name[:2] != "__"}
    assert {h for h in helpers if f"`{h}`" not in page} == {"README.md"}
