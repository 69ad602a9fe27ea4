"""Folders of pictures: with a folder for each class, or with a mask beside each picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from regard.errors import InputError, Misuse
from regard.evaluation.data.dataset import DataSet, checked_picture, files_digest, folder_of, pictures_in, reading_of
from regard.evaluation.examples import Example


@dataclass(kw_only=True)
class ImageFolder(DataSet):
    """FOLDER/CLASS/picture.jpg, as torchvision has it. Pictures that lie in FOLDER itself have no class.

    A class is called as the model calls it, or by its number; `labels` says which is which otherwise.
    """

    kind: ClassVar[str] = "images"
    folder: str
    files: list[Path] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.files = pictures_in(folder_of(self.folder, "a folder of pictures, one folder for each class"))
        if not self.files:
            raise InputError(f"{self.folder} holds no pictures")

    @property
    def source(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def home(self) -> Path:
        """Where the pictures are."""
        return Path(self.folder).expanduser()

    def __len__(self) -> int:
        return len(self.files)

    def name_of(self, number: int) -> str:
        """The picture's path in the folder."""
        return self.files[number].relative_to(self.home).as_posix()

    def read(self, reader: Any, number: int) -> Example:
        """One picture with its class."""
        name = self.name_of(number)
        label = self.number_of(self._class_of(number), reader)
        return Example(name, reading_of(reader, checked_picture(self.files[number], name)), label)

    def _class_of(self, number: int) -> str | None:
        folders = self.files[number].relative_to(self.home).parts[:-1]
        return folders[0] if folders else None

    @property
    def labelled(self) -> bool:
        """Whether there are folders of classes."""
        return any(self._class_of(i) is not None for i in range(len(self)))

    def digest(self) -> str:
        """Of all pictures."""
        return files_digest(self.files, self.home)


@dataclass(kw_only=True)
class MaskFolder(ImageFolder):
    """FOLDER/images/x.jpg and FOLDER/masks/x.png, also with folders of classes in `images` and the same ones in `masks`.

    Attributes:
        object: the value of the object's pixels; None: of a mask that holds one value beside 0, that one; "largest": of several
            the most frequent. ignore: the value of pixels that do not count; None: there are none.
    """

    kind: ClassVar[str] = "masks"
    object: int | str | None = None
    ignore: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.object, str) and self.object != "largest":
            raise Misuse(f"object= is a value of the masks' pixels, or 'largest'; not {self.object!r}")
        home = folder_of(self.folder, "a folder that holds the folders images and masks")
        for name in ("images", "masks"):
            folder_of(home / name, f"a folder {home} that holds the folders images and masks")
        self.files = pictures_in(self.home)
        self.masks = {p.relative_to(self._masks).with_suffix("").as_posix(): p for p in pictures_in(self._masks)}
        if not self.files:
            raise InputError(f"{self.home} holds no pictures")

    @property
    def home(self) -> Path:
        """Where the pictures are."""
        return Path(self.folder).expanduser() / "images"

    @property
    def _masks(self) -> Path:
        return Path(self.folder).expanduser() / "masks"

    @property
    def masked(self) -> bool:
        """They are."""
        return True

    def choices(self) -> dict[str, Any]:
        """Which pixels are the object."""
        return super().choices() | {"object": self.object, "ignore": self.ignore}

    def read(self, reader: Any, number: int) -> Example:
        """One picture with its mask."""
        made = super().read(reader, number)
        stem = self.files[number].relative_to(self.home).with_suffix("").as_posix()
        if stem not in self.masks:
            raise InputError(f"there is no mask of {self.name_of(number)} in {self._masks}")
        mask, ignore = mask_of(values_of(self.masks[stem]), self.object, self.ignore, self.masks[stem].name)
        return Example(made.name, made.reading, made.label, mask, ignore)

    def digest(self) -> str:
        """Of all pictures and masks."""
        return files_digest([*self.files, *self.masks.values()], Path(self.folder).expanduser())


def values_of(path: Path) -> np.ndarray[Any, Any]:
    """The values of a mask's pixels (height, width); a coloured one is taken as black where it is black. Raises InputError."""
    from PIL import Image

    checked_picture(path, path.name)
    try:
        with Image.open(path) as image:
            values = np.asarray(image if image.mode in ("1", "L", "P", "I", "I;16") else image.convert("L"))
    except Exception as e:
        raise InputError(f"the mask {path.name} is not a picture that Pillow can read") from e
    return values.astype(np.int64)


def mask_of(
    values: np.ndarray[Any, Any], wanted: int | str | None, ignore: int | None, name: str
) -> tuple[Tensor, Tensor | None]:
    """The pixels of the object, and those that do not count. Raises Misuse where it is not plain which the object's are."""
    skipped = None if ignore is None else values == ignore
    found, counts = np.unique(values[(values != 0) & (values != ignore)], return_counts=True)
    if wanted is None and len(found) > 1:
        known = ", ".join(map(str, found[:8]))
        raise Misuse(
            f"the mask {name} holds the values {known}; say with object= which is the object's, or object='largest'"
        )
    if not len(found):
        value: Any = None
    else:
        value = found[counts.argmax()] if wanted in (None, "largest") else wanted
    mask = torch.from_numpy(np.zeros(values.shape, bool) if value is None else values == value)
    return mask, None if skipped is None else torch.from_numpy(skipped)


__all__ = ["ImageFolder", "MaskFolder", "mask_of", "values_of"]
