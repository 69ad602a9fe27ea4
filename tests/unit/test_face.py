"""What `import regard` shows: the public names, whole and alone, and nothing heavy before one of them is used."""

import ast
import inspect
import pydoc
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import regard

HEAVY = ("torch", "numpy", "transformers", "PIL", "matplotlib", "typer")


def imported(code: str) -> str:
    """What a fresh interpreter prints of the heavy modules that `code` imports."""
    said = f"import sys\n{code}\nprint([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import regard",
        "import regard; dir(regard); regard.Site.block(-2); regard.RegardError; regard.errors",
        "import regard.zoo; regard.zoo.names(); regard.zoo.cards(); regard.zoo.demo_scene()",
        "sys.argv = ['regard', '--version']; from regard.__main__ import main; main()",
    ],
)
def test_nothing_heavy_is_imported(code):
    assert imported(code) == "[]"


def test_heavy_modules_would_be_seen():
    assert "torch" in imported("import regard; regard.explain")


def test_dir_shows_what_is_public():
    assert dir(regard) == sorted([*regard.__all__, "__version__"])
    for name in regard.__all__:
        found = getattr(regard, name)
        assert inspect.getdoc(found), name
        assert found.__module__.startswith("regard."), name


def test_type_checkers_see_what_is_public():
    tree = ast.parse(Path(regard.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"regard.{module}" for name, module in regard.HOMES.items()}


def test_other_names():
    assert regard.errors.RegardError is regard.RegardError
    assert not hasattr(regard, "nothing_of_the_kind")
    with pytest.raises(AttributeError, match="'regard' has no attribute 'explian'"):
        getattr(regard, "explian")  # noqa: B009


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: regard.explain("zoo/x", "A film."), r"load it, as in regard.load\('zoo/x'\).explain"),
        (lambda: regard.inspect("zoo/x", "A film."), r"load it, as in regard.load\('zoo/x'\).explain"),
        (lambda: regard.explain(SimpleNamespace(model=nn.Linear(2, 2)), "A film."), r"reader.explain\(...\)"),
        (
            lambda: regard.explain(nn.Linear(2, 2), torch.ones(1, 2), method="gae, rollout"),
            r"\['gae', 'rollout'\], not",
        ),
    ],
)
def test_what_is_natural_to_try_is_answered(ask, said):
    with pytest.raises(regard.RegardError, match=said):
        ask()


def test_help_reads_well():
    said = pydoc.plain(pydoc.render_doc(regard))
    for name in ("explain(", "load(", "class Target", "class Explanation"):
        assert name in said
    assert "HOMES" not in said


def test_one_version():
    import importlib.metadata

    root = Path(__file__).parents[2]
    written = [f for f in (root / "src/regard").rglob("*.py") if f'"{regard.__version__}"' in f.read_text("utf-8")]
    assert [f.name for f in written] == ["version.py"]
    assert importlib.metadata.version("regard") == regard.__version__
