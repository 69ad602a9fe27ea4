"""Where a model is: a folder here, or a name on the hub. Looked up before anything heavy is imported."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from regard.errors import InputError

HUB_NAME = re.compile(r"\w[\w.\-]*(/\w[\w.\-]*)?")
WITH_SENTENCE_TRANSFORMER = "load it with SentenceTransformer(folder) and give that to regard.load"


def is_name(given: Any) -> bool:
    """Whether what was given is a name or a path."""
    return isinstance(given, str | os.PathLike)


def place(name: str | os.PathLike[str]) -> str:
    """A folder that holds a model; names on the hub are let through. Raises InputError for what is neither."""
    said = os.fspath(name)
    path = Path(said).expanduser()
    if said.strip() and (path / "0_Transformer" / "config.json").is_file():  # as sentence-transformers saved it once
        raise InputError(f"{said} keeps its model in a folder of its own: {WITH_SENTENCE_TRANSFORMER}")
    if said.strip() and path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{said} is not a model folder: it has no config.json; give one made by save_pretrained")
        return str(path)
    if path.is_file():
        raise InputError(f"{said} is a file; give the folder that holds the model's config.json")
    if not isinstance(name, str) or not HUB_NAME.fullmatch(said):
        raise InputError(f"no such model folder: {said!r}")
    return said
