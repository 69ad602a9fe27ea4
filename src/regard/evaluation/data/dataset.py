"""Where examples come from: a data set that is read one example at a time, when it is asked for.

What cannot be read is an example with its error, never a dead run. A data set knows its examples by number before any is read,
so that a run can be cut into shards, and it is pickled to other processes without its content.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from regard.errors import InputError, Misuse, TargetError, UnknownName
from regard.evaluation.data.eraser import Document
from regard.evaluation.examples import Example
from regard.evaluation.protocols.protocol import said
from regard.explanation.raw_inputs import Reading
from regard.models.labels import class_of

WHOLE = 1 << 30
"""Bytes of a data set that are read in full to tell it from another; of the files of a larger one their ends are."""
ENDS = 1 << 16
MEGAPIXELS = 25
"""The largest picture that is read: metrics of a map take some hundred bytes a pixel."""
Labels = Mapping[str, int]


@dataclass(kw_only=True)
class DataSet(ABC):
    """Examples by number, each read when it is asked for.

    Attributes:
        kind: what sort of data it is. labels: name of a class in the data -> its number in the model; None: the names are the
            model's own.
    """

    kind: ClassVar[str]
    labels: Labels | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def source(self) -> str:
        """Where it is, as the user said it."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of examples."""

    @abstractmethod
    def name_of(self, number: int) -> str:
        """The name of an example; no two have the same."""

    @abstractmethod
    def read(self, reader: Any, number: int) -> Example:
        """One example. Raises for what cannot be read."""

    @abstractmethod
    def digest(self) -> str:
        """What tells its content from any other."""

    @property
    def labelled(self) -> bool:
        """Whether classes of the examples are known."""
        return True

    @property
    def masked(self) -> bool:
        """Whether pixels of the answer are known."""
        return False

    @property
    def rationales(self) -> bool:
        """Whether the words that an answer rests on are known: `document` gives them."""
        return False

    @property
    def sourced(self) -> bool:
        """Whether the tokens that an answer rests on are known."""
        return False

    def document(self, reader: Any, number: int) -> Document | None:
        """The text with its rationale, where the data set has such. Raises for what cannot be read."""
        return None

    def model_of(self, reader: Any) -> nn.Module:
        """What is asked: the reader's model, as one that tells classes apart."""
        model: nn.Module = reader.model
        return model

    def choices(self) -> dict[str, Any]:
        """What else was chosen of it, for the plan."""
        return {} if self.labels is None else {"labels": dict(self.labels)}

    def example(self, reader: Any, number: int) -> Example:
        """One example; of what cannot be read, one that says why."""
        name = self.name_of(number)
        try:
            found = self.read(reader, number)
            check_label(found.label, reader)
            return found
        except Exception as e:
            return Example(name, Reading({}), error=said(e))

    def number_of(self, name: Any, reader: Any) -> int | None:
        """The model's number of a class as the data call it; None where they say nothing."""
        if name is None or (isinstance(name, float) and np.isnan(name)):
            return None
        if self.labels is not None:
            if str(name) not in self.labels:
                raise UnknownName(f"labels= gives no number for the class {name!r} of the data")
            return self.labels[str(name)]
        if hasattr(name, "__index__") and not isinstance(name, bool):
            return int(name)
        return class_of(str(name), reader.labels, reader.model)


def check_names(names: Sequence[str]) -> None:
    """Raise Misuse where two examples have one name."""
    if len(set(names)) < len(names):
        again = next(n for n, count in Counter(names).items() if count > 1)
        raise Misuse(f"two examples are called {again!r}; give each a name of its own, or rows cannot be told apart")


def check_label(label: int | None, reader: Any) -> None:
    """Raise TargetError for a class that the model has not."""
    count = len(getattr(reader, "labels", None) or ())
    if label is not None and (label < 0 or (count and label >= count)):
        known = f"; the model has {count}, numbered from 0" if count else ""
        raise TargetError(f"there is no class {label}{known}")


@dataclass(kw_only=True)
class Given(DataSet):
    """Examples that are there already, in memory."""

    kind: ClassVar[str] = "examples"
    SOURCE: ClassVar[str] = "given examples"
    examples: Sequence[Example]

    def __post_init__(self) -> None:
        check_names([e.name for e in self.examples])

    @property
    def source(self) -> str:
        """They have no place."""
        return self.SOURCE

    def __len__(self) -> int:
        return len(self.examples)

    def name_of(self, number: int) -> str:
        """As the example says."""
        return self.examples[number].name

    def read(self, reader: Any, number: int) -> Example:
        """As it was given."""
        return self.examples[number]

    @property
    def labelled(self) -> bool:
        """Whether any has a label."""
        return any(e.label is not None for e in self.examples)

    @property
    def masked(self) -> bool:
        """Whether any has a mask."""
        return any(e.mask is not None for e in self.examples)

    @property
    def sourced(self) -> bool:
        """Whether any has tokens that its answer is known to rest on."""
        return any(e.known is not None for e in self.examples)

    def digest(self) -> str:
        """Of tensors, labels and masks."""
        found = hashlib.sha256()
        for e in self.examples:
            known: tuple[Any, ...] = (e.name, e.label, e.other, e.error, e.group)
            tensors = {**e.reading.inputs, **e.reading.special, "mask": e.mask, "ignore": e.ignore}
            if e.known is not None:
                known += (e.known.stream,)
                tensors |= {"known source": e.known.source, "known competing": e.known.competing}
            found.update(repr((known, {k: _of_tensor(v) for k, v in sorted(tensors.items())})).encode())
        return found.hexdigest()[:16]


def _of_tensor(value: Tensor | None) -> str:
    if value is None:
        return ""
    flat = value.detach().cpu().contiguous()
    return (
        f"{flat.dtype}{tuple(flat.shape)}" + hashlib.sha256(flat.flatten().view(torch.uint8).numpy().data).hexdigest()
    )


def files_digest(files: Iterable[Path], home: Path | None = None) -> str:
    """Of the names, lengths and contents of files, in any order."""
    every = sorted({Path(f) for f in files})
    sizes = {f: f.stat().st_size for f in every if f.is_file()}
    whole = sum(sizes.values()) <= WHOLE
    found = hashlib.sha256()
    for file in every:
        name = os.path.relpath(file, home) if home else file.name
        found.update(f"{name}\0{sizes.get(file, -1)}\0".encode())
        if file in sizes:
            found.update(_content(file, sizes[file], whole))
    return found.hexdigest()[:16]


def _content(file: Path, size: int, whole: bool) -> bytes:
    with file.open("rb") as opened:
        if whole or size <= 2 * ENDS:
            return hashlib.file_digest(opened, "sha256").digest()
        ends = opened.read(ENDS)
        opened.seek(size - ENDS)
        return hashlib.sha256(ends + opened.read()).digest()


def reading_of(reader: Any, raw: Any) -> Reading:
    """What a reader makes of one raw input. Raises InputError for a text that says nothing."""
    if isinstance(raw, str) and reader.kind in ("text", "embedding") and not raw.strip():
        raise InputError("the text is empty")
    reading: Reading = reader.read_noted(raw, False, None)[0]
    return reading


def checked_picture(source: Path | bytes, name: str) -> Any:
    """A picture's path, or its bytes opened, for a reader. Raises InputError for one of more pixels than can be judged, before
    it is decoded.
    """
    from PIL import Image

    opened: Any = source if isinstance(source, Path) else io.BytesIO(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is measured below
            image = Image.open(opened)
    except Image.DecompressionBombError as e:
        raise InputError(
            f"{name} has far more than the {MEGAPIXELS} megapixels that are judged; make it smaller first"
        ) from e
    except Exception as e:
        if isinstance(source, Path):  # what reads it says what is wrong with it
            return source
        raise InputError(f"{name} is not a picture that Pillow can read") from e
    width, height = image.size
    if isinstance(source, Path):
        image.close()
    if width * height > MEGAPIXELS * 1_000_000:
        raise InputError(
            f"{name} has {width * height / 1e6:.0f} megapixels, and at most {MEGAPIXELS} are judged; make it smaller first"
        )
    if isinstance(source, Path):
        return source
    image.filename = name  # what later errors call it
    return image


def inside(home: Path, name: str) -> Path:
    """A file that data name, in their folder. Raises InputError for one that lies outside of it."""
    path = Path(os.path.abspath(home / name))
    if not path.is_relative_to(os.path.abspath(home)):
        raise InputError(f"{name!r} leads out of the folder {home}")
    return path


def pictures_in(folder: Path) -> list[Path]:
    """All files that are named like pictures, hidden ones left out, by name."""
    from regard.models.pictures import SUFFIXES

    found: list[Path] = []
    for home, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f[0] != ".")
        found += [Path(home) / f for f in sorted(files) if f[0] != "." and Path(f).suffix.lower() in SUFFIXES]
    return found


def folder_of(path: str | os.PathLike[str], what: str) -> Path:
    """A folder that is there. Raises InputError where it is not."""
    home = Path(path).expanduser()
    if not home.is_dir():
        raise InputError(f"there is no folder {home}; give {what}")
    return home


def file_of(path: str | os.PathLike[str], what: str) -> Path:
    """A file that is there. Raises InputError where it is not."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"there is no file {file}; give {what}")
    return file


__all__ = [
    "DataSet",
    "Given",
    "Labels",
    "check_label",
    "check_names",
    "checked_picture",
    "file_of",
    "files_digest",
    "folder_of",
    "inside",
    "pictures_in",
    "reading_of",
]
