"""The rooms of the house, and which may import which: docs/developing/architecture.md says so, and the code keeps to it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "regard"
TABLE = (ROOT / "docs" / "developing" / "architecture.md").read_text(encoding="utf-8").replace("\\_", "_")
ROWS = [[c.strip() for c in r.split("|")[1:-1]] for r in re.findall(r"^\| [a-z]+ \| .* \|$", TABLE, re.M)]
ROOMS = {module: room for room, modules, _, _ in ROWS for module in modules.split(", ")}
ALLOWED = {room: {room, *filter(None, may.split(", "))} for room, _, _, may in ROWS}
DOOR = "explanation/display"


def name_of(path: Path) -> str:
    name = path.relative_to(SOURCE).with_suffix("").as_posix()
    return name.removesuffix("/__init__") if "/" in name else name


MODULES = {name_of(p): p for p in SOURCE.rglob("*.py")}


def imported(name: str) -> Iterator[str]:
    """Modules of ours that one imports: at its top, inside functions, or for types alone."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        wanted = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "regard":
            assert not node.level, f"{name} imports relative to itself"
            wanted = [f"{node.module}.{a.name}" for a in node.names]
        for found in ("/".join(w.split(".")[1:]) or "__init__" for w in wanted if w.split(".")[0] == "regard"):
            owner = found if found in MODULES else found.rpartition("/")[0] or "__init__"
            assert owner in MODULES, f"{name} imports {found}, which is no module"
            yield owner


ARROWS = {name: {*imported(name)} - {name} for name in MODULES}


def room_of(name: str) -> str:
    """The room with the longest path that fits."""
    parts = name.split("/")
    paths = ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next(ROOMS[p] for p in paths if p in ROOMS)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_its_row_allows(room: str) -> None:
    mine = [name for name in MODULES if room_of(name) == room]
    assert mine, f"no module is in room {room!r}"
    climbing = [f"{a} -> {b}" for a in mine for b in ARROWS[a] if room_of(b) not in ALLOWED[room]]
    assert climbing == []


@pytest.mark.parametrize("room", ALLOWED)
def test_no_row_allows_what_no_module_does(room: str) -> None:
    used = {room_of(b) for a in MODULES if room_of(a) == room for b in ARROWS[a]} | {room}
    assert ALLOWED[room] - used == set()


def test_no_module_imports_itself_by_way_of_others() -> None:
    left = {a: {b for b in found if a != DOOR or room_of(b) != "report"} for a, found in ARROWS.items()}
    while free := {a for a, found in left.items() if not found & left.keys()}:
        left = {a: found for a, found in left.items() if a not in free}
    assert left == {}, f"import circles among {', '.join(sorted(left))}"


def test_every_module_has_a_room() -> None:
    assert {*ROOMS} <= {m for name in MODULES for m in (name, *_folders(name))}
    assert all(room_of(name) for name in MODULES)


def _folders(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def test_no_two_classes_share_a_name() -> None:
    trees = [ast.parse(p.read_text(encoding="utf-8")) for p in MODULES.values()]
    names = [node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    assert sorted({name for name in names if names.count(name) > 1}) == []
