"""Data sets in words: "zoo/vit-scenes", "images:FOLDER", or a path whose kind shows."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from regard.errors import InputError, UnknownName, nearest
from regard.evaluation.data.dataset import DataSet
from regard.models.pictures import SUFFIXES
from regard.zoo import PREFIX

KINDS = {
    "zoo": ("bundled", "Bundled", "name"),
    "images": ("folders", "ImageFolder", "folder"),
    "masks": ("folders", "MaskFolder", "folder"),
    "gtsegs": ("gtsegs", "ImageNetSegmentation", "file"),
    "coco": ("coco", "CocoInstances", "file"),
    "eraser": ("reviews", "EraserDocuments", "path"),
    "table": ("tables", "Table", "file"),
    "hf": ("saved", "SavedDataset", "folder"),
    "vqa": ("vqa", "VqaQuestions", "file"),
    "webdataset": ("webdataset", "WebDataset", "tars"),
    "atoms": ("atoms", "NumberedAtoms", "folder"),
}
"""Kind -> module, class, and what of it its words name."""
ASKED = {
    "zoo/clip-scenes": ("known_scenes", "CaptionedScenes", "name"),
    "zoo/detr-scenes": ("known_scenes", "DetectedScenes", "name"),
    "zoo/vlm-scenes": ("known_scenes", "SpokenScenes", "name"),
    "zoo/llama-facts": ("known_prompts", "FactPrompts", "name"),
    "zoo/lxmert-scenes": ("known_prompts", "SceneQuestions", "name"),
}
"""The zoo's sets that are asked in a way of their own."""


def data_set(words: str, **options: Any) -> DataSet:
    """A data set by its words: KIND:PATH, or a path alone. `options`: as its class takes them.

    Raises InputError for what is not there or of no known kind, UnknownName for an option that the kind does not take.
    """
    kind, colon, place = words.partition(":")
    if words == "zoo" or words.startswith(PREFIX):
        kind, place = "zoo", words
    elif not colon or kind not in KINDS:
        kind, place = _kind_of(words), words
    module, name, field = ASKED.get(words, KINDS[kind])
    made: Any = getattr(importlib.import_module(f"regard.evaluation.data.{module}"), name)
    known = [f.name for f in dataclasses.fields(made) if f.init and f.name != field]
    for option in options:
        if option not in known:
            raise nearest(option, known, f"option of data of the kind {kind!r}")
    found: DataSet = made(**{field: place}, **options)
    return found


def _kind_of(path: str) -> str:
    """What a path holds, as far as it shows."""
    place = Path(path).expanduser()
    if place.is_dir():
        return next((kind for kind, shows in FOLDERS.items() if shows(place)), "images")
    if place.suffix.lower() == ".tar":  # one, or a pattern for several
        return "webdataset"
    if place.is_file():
        if place.name.lower().endswith("questions.json"):
            return "vqa"
        endings = {".mat": "gtsegs", ".json": "coco", ".csv": "table", ".tsv": "table", ".jsonl": "table"}
        if place.suffix.lower() in endings:
            return endings[place.suffix.lower()]
        if place.suffix.lower() in SUFFIXES:
            raise InputError(f"{path} is one picture; give the folder that it is in")
        if place.suffix.lower() == ".txt":
            raise InputError(
                f"{path} is a text file; put its texts into a .csv or .jsonl file, a row each, and give that"
            )
        raise InputError(f"of what kind {path} is does not show; say so: {', '.join(f'{k}:' for k in KINDS)}")
    if ":" in path and path.partition(":")[0].isalpha():
        raise UnknownName(str(nearest(path.partition(":")[0], KINDS, "kind of data")))
    raise InputError(f"there are no data at {path}: no such file or folder")


FOLDERS: dict[str, Callable[[Path], bool]] = {
    "hf": lambda p: (p / "dataset_info.json").is_file() or (p / "dataset_dict.json").is_file(),
    "masks": lambda p: (p / "images").is_dir() and (p / "masks").is_dir(),
    "eraser": lambda p: any(p.glob("*.jsonl")) or any(p.glob("*.jsonl.gz")),
    "webdataset": lambda p: any(p.glob("*.tar")),
}
"""Kind -> how a folder of it shows."""

__all__ = ["KINDS", "data_set"]
