"""A Hugging Face data set that `save_to_disk` wrote: Arrow files, which are mapped and not read.

They are read with pyarrow alone, so that no code of the data set can run.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar

from regard.errors import InputError, Misuse, nearest
from regard.evaluation.data.dataset import DataSet, checked_picture, files_digest, folder_of, inside, reading_of
from regard.evaluation.data.tables import COLUMNS
from regard.evaluation.examples import Example
from regard.extras import brought_by


@dataclass(kw_only=True)
class SavedDataset(DataSet):
    """The folder of a Dataset, or of a DatasetDict and its `split`.

    Attributes:
        column: of the text or the picture; None: the first of the usual ones that there is. label: the column of the class.
    """

    kind: ClassVar[str] = "hf"
    folder: str
    split: str | None = None
    column: str | None = None
    label: str = "label"
    features: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        home = folder_of(self.folder, "a folder that datasets.save_to_disk wrote")
        try:
            if (home / "dataset_dict.json").is_file():
                splits = list(json.loads((home / "dataset_dict.json").read_bytes())["splits"])
                if self.split is None:
                    raise Misuse(f"{home} holds the splits {', '.join(splits)}; name one with split=")
                if self.split not in splits:
                    raise nearest(self.split, splits, f"split of {home}")
                home = inside(home, self.split)
            self.home = home
            self.features = dict(json.loads((home / "dataset_info.json").read_bytes())["features"])
            named = [f["filename"] for f in json.loads((home / "state.json").read_bytes())["_data_files"]]
            self.files = [inside(home, str(name)) for name in named]
        except Misuse:
            raise
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as e:
            raise InputError(
                f"{home} is not a folder that datasets.save_to_disk wrote ({type(e).__name__}: {e})"
            ) from e
        if self.column is None:
            self.column = next((c for c in COLUMNS if c in self.features), None)
        if self.column not in self.features:
            if self.column is None:
                raise InputError(
                    f"{home} has the columns {', '.join(self.features)}; name the one to read with column="
                )
            raise nearest(self.column, self.features, f"column of {home}")

    def __getstate__(self) -> dict[str, Any]:
        """Without the mapped files."""
        return {k: v for k, v in self.__dict__.items() if k != "_tables"}

    @cached_property
    def _tables(self) -> tuple[list[Any], list[int]]:
        """The record batches of all files, mapped, and how many rows there are up to the end of each."""
        arrow = brought_by("store", "pyarrow")
        try:
            batches = [
                b for f in self.files for b in arrow.ipc.open_stream(arrow.memory_map(str(f))).read_all().to_batches()
            ]
        except (OSError, arrow.ArrowException) as e:
            raise InputError(f"{self.home} cannot be read: {e}") from e
        return batches, list(accumulate(b.num_rows for b in batches))

    @property
    def source(self) -> str:
        """The folder."""
        return str(self.folder)

    def __len__(self) -> int:
        ends = self._tables[1]
        return ends[-1] if ends else 0

    def name_of(self, number: int) -> str:
        """The row."""
        return f"row {number}"

    @property
    def labelled(self) -> bool:
        """Whether there is a column of classes."""
        return self.label in self.features

    def choices(self) -> dict[str, Any]:
        """Split and columns."""
        return super().choices() | {"split": self.split, "column": self.column, "label": self.label}

    def read(self, reader: Any, number: int) -> Example:
        """One row."""
        batches, ends = self._tables
        which = bisect_right(ends, number)
        at = number - (ends[which - 1] if which else 0)
        value, label = (
            batches[which].column(name)[at].as_py() if name in self.features else None
            for name in (self.column, self.label)
        )
        if value is None or value == "":
            raise InputError(f"row {number} has nothing in the column {self.column!r}")
        if isinstance(value, dict):  # an Image: its bytes, or where it is
            given = value.get("bytes") or (inside(self.home, value["path"]) if value.get("path") else None)
            if given is None:
                raise InputError(f"row {number} has an empty picture in the column {self.column!r}")
            value = checked_picture(given, f"the picture of row {number}")
        names = self.features.get(self.label, {}).get("names")
        if names is not None and label is not None:
            if not 0 <= label < len(names):
                raise InputError(f"row {number} has the class {label}, and the data name {len(names)}")
            label = names[label]
        return Example(self.name_of(number), reading_of(reader, value), self.number_of(label, reader))

    def digest(self) -> str:
        """Of its files."""
        return files_digest([self.home / "dataset_info.json", *self.files], self.home)


__all__ = ["SavedDataset"]
