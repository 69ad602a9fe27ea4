"""COCO's instances as JSON: of each picture, every category that it shows is an example, with the pixels of all its instances.

Crowds do not count as pixels of a category, nor against it. Polygons and run lengths are drawn by pycocotools.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from regard.errors import InputError, Misuse, nearest
from regard.evaluation.data.dataset import (
    DataSet,
    check_names,
    checked_picture,
    file_of,
    files_digest,
    folder_of,
    inside,
    reading_of,
)
from regard.evaluation.examples import Example
from regard.extras import brought_by


@dataclass(frozen=True)
class ShownCategory:
    """A category that a picture shows: the picture's file and size, the segmentations of the objects and of the crowds."""

    file: str
    size: tuple[int, int]
    category: str
    objects: tuple[Any, ...]
    crowds: tuple[Any, ...]


@dataclass(kw_only=True)
class CocoInstances(DataSet):
    """instances_x.json, and the folder of its pictures.

    Attributes:
        pictures: the folder; None: the folder `images` beside the file, or the one that the file is in. categories: the names
            of those that are asked about; None: all.
    """

    kind: ClassVar[str] = "coco"
    file: str
    pictures: str | None = None
    categories: Sequence[str] | None = None
    shown: list[ShownCategory] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        file = file_of(self.file, "a file of COCO instances (.json)")
        beside = file.parent / "images"
        home = self.pictures if self.pictures is not None else beside if beside.is_dir() else file.parent
        self.home = folder_of(home, "the folder of the pictures with pictures=")
        try:
            made = json.loads(file.read_bytes())
            self.shown = _shown(made, self.categories, str(file))
        except Misuse:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise InputError(f"{file} is no file of COCO instances ({type(e).__name__}: {e})") from e
        if not self.shown:
            raise InputError(f"{file} tells of no objects" + (" of these categories" if self.categories else ""))
        check_names([self.name_of(i) for i in range(len(self))])

    @property
    def source(self) -> str:
        """The file."""
        return str(self.file)

    def __len__(self) -> int:
        return len(self.shown)

    def name_of(self, number: int) -> str:
        """The picture and the category."""
        return f"{self.shown[number].file}: {self.shown[number].category}"

    @property
    def masked(self) -> bool:
        """They are."""
        return True

    def choices(self) -> dict[str, Any]:
        """Which categories are asked about."""
        return super().choices() | {"categories": None if self.categories is None else list(self.categories)}

    def read(self, reader: Any, number: int) -> Example:
        """A picture, and where it shows the category."""
        one = self.shown[number]
        label = self.number_of(one.category, reader)
        picture = checked_picture(inside(self.home, one.file), one.file)
        mask, crowds = (_drawn(some, one.size) for some in (one.objects, one.crowds))
        reading = reading_of(reader, picture)
        return Example(
            self.name_of(number), reading, label, mask, crowds & ~mask if one.crowds else None, group=one.file
        )

    def digest(self) -> str:
        """Of the file and of all pictures."""
        files = {inside(self.home, one.file) for one in self.shown}
        return files_digest([Path(self.file).expanduser(), *files], self.home)


def _shown(made: Any, categories: Sequence[str] | None, where: str) -> list[ShownCategory]:
    """Each picture's categories, in the order of the pictures."""
    names = {c["id"]: str(c["name"]) for c in made["categories"]}
    for name in categories or ():
        if name not in names.values():
            raise nearest(name, names.values(), f"category of {where}")
    found: dict[tuple[Any, str], tuple[list[Any], list[Any]]] = {}
    for a in made["annotations"]:
        key = (a["image_id"], names[a["category_id"]])
        if categories is None or key[1] in categories:
            found.setdefault(key, ([], []))[bool(a.get("iscrowd"))].append(a["segmentation"])
    of: dict[Any, list[str]] = {}
    for image, category in found:
        of.setdefault(image, []).append(category)
    return [
        ShownCategory(str(i["file_name"]), (int(i["height"]), int(i["width"])), c, *map(tuple, found[i["id"], c]))
        for i in made["images"] for c in of.get(i["id"], ()) if found[i["id"], c][0]
    ]  # fmt: skip


def _drawn(segmentations: Sequence[Any], size: tuple[int, int]) -> Tensor:
    """The pixels of several segmentations (polygons, or run lengths)."""
    drawing = brought_by("data", "pycocotools.mask")
    mask = torch.zeros(size, dtype=torch.bool)
    for one in segmentations:
        if isinstance(one, list) or isinstance(one.get("counts"), list):
            made = drawing.frPyObjects(one, *size)
            parts = made if isinstance(made, list) else [made]
        else:
            parts = [{"size": one["size"], "counts": one["counts"]}]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of pycocotools' own arrays
            mask |= torch.from_numpy(drawing.decode(parts)).bool().any(-1)
    return mask


__all__ = ["CocoInstances"]
