"""ImageNet-Segmentation, `gtsegs_ijcv.mat` (Guillaumin et al. 2014): pictures with the pixels of their object.

The file is HDF5 (MATLAB 7.3): `value/img` and `value/gt` hold references to the pictures, transposed, and to their masks. It
knows no class numbers, so maps of the predicted class are judged, as is usual on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from regard.errors import InputError
from regard.evaluation.data.dataset import DataSet, file_of, files_digest, reading_of
from regard.evaluation.examples import Example
from regard.extras import brought_by

IMAGES, MASKS = "value/img", "value/gt"


@dataclass(kw_only=True)
class ImageNetSegmentation(DataSet):
    """The file, one picture of it in memory at a time."""

    kind: ClassVar[str] = "gtsegs"
    file: str
    count: int = field(init=False)
    _opened: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        file_of(self.file, "the file gtsegs_ijcv.mat")
        try:
            self.count = len(self._data[IMAGES])
        except (OSError, KeyError) as e:
            raise InputError(f"{self.file} is not gtsegs_ijcv.mat (HDF5 with {IMAGES} and {MASKS}): {e}") from e

    def __getstate__(self) -> dict[str, Any]:
        """Without the opened file."""
        return self.__dict__ | {"_opened": None}

    @property
    def _data(self) -> Any:
        if self._opened is None:
            self._opened = brought_by("data", "h5py").File(Path(self.file).expanduser(), "r")
        return self._opened

    @property
    def source(self) -> str:
        """The file."""
        return str(self.file)

    def __len__(self) -> int:
        return self.count

    def name_of(self, number: int) -> str:
        """Its number."""
        return f"picture {number}"

    @property
    def labelled(self) -> bool:
        """The file knows no numbers of classes."""
        return False

    @property
    def masked(self) -> bool:
        """They are."""
        return True

    def read(self, reader: Any, number: int) -> Example:
        """One picture with its mask."""
        data = self._data
        image = np.array(data[data[IMAGES][number, 0]]).transpose(2, 1, 0)
        mask = np.array(data[data[data[MASKS][number, 0]][0, 0]]).transpose(1, 0)
        return Example(self.name_of(number), reading_of(reader, image), mask=torch.from_numpy(mask > 0))

    def digest(self) -> str:
        """Of the file."""
        return files_digest([Path(self.file).expanduser()])


__all__ = ["ImageNetSegmentation"]
