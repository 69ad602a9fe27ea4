"""What an extra of the package brings: imported where it is first needed, and asked for in one sentence where it is missing."""

from __future__ import annotations

import importlib
from typing import Any

from regard.errors import Misuse

MODULES = {
    "viz": ("matplotlib", "PIL", "jinja2"),
    "cli": ("typer", "rich"),
    "eval": ("sklearn", "scipy", "skimage"),
    "store": ("pyarrow", "duckdb", "fsspec"),
    "data": ("h5py", "pycocotools"),
    "ray": ("ray",),
    "app": ("gradio",),
}


def need(extra: str = "viz") -> None:
    """Raise one clear error, with the line that mends it, when a package of the extra is not installed."""
    for name in MODULES[extra]:
        brought_by(extra, name)


def brought_by(extra: str, name: str) -> Any:
    """A module of an extra, imported late. Raises Misuse, with the line that mends it, where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as e:
        package = name.partition(".")[0]
        raise Misuse(f"this needs {package}, which cannot be imported ({e}): pip install 'regard[{extra}]'") from e


__all__ = ["brought_by", "need"]
