"""Tar files of samples, as WebDataset has them: 000042.jpg, 000042.cls and 000042.txt side by side are one sample.

Nothing is unpacked onto a disk. Each tar is gone through once for the places of its files, and a sample is then read from its
place. Names are names alone: none is a path that is opened. What is no picture, text, class or JSON is passed over, and
pickles with it. A member that cannot be trusted (a link, a device, a path that leads out, a size that no picture has) is an
example with its error, and so is the rest of a tar that ends early.
"""

from __future__ import annotations

import glob
import json
import re
import tarfile
import weakref
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar

from regard.errors import InputError, Misuse, RegardError
from regard.evaluation.data.dataset import DataSet, checked_picture, files_digest, reading_of
from regard.evaluation.examples import Example
from regard.models.pictures import SUFFIXES

LARGEST = {"picture": 1 << 28, "text": 1 << 22, "class": 1 << 12, "json": 1 << 22}
"""What is read of a sample, and the most bytes that each may have."""
ENDINGS = {"txt": "text", "cls": "class", "json": "json"} | {s.removeprefix("."): "picture" for s in SUFFIXES}
META = re.compile(r"__[^/]*__($|/)")
"""Members that tell of a tar and are no sample."""
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst")


@dataclass
class Places:
    """Where the parts of each sample lie: numbers in arrays, for there may be millions.

    Attributes:
        shard: which tar. names, ends: the names one after the other, and where each ends. at, size: part -> its place and
            length, -1 where a sample has none. trouble: sample -> why it cannot be read.
    """

    shard: array[int] = field(default_factory=lambda: array("l"))
    names: bytearray = field(default_factory=bytearray)
    ends: array[int] = field(default_factory=lambda: array("q"))
    at: dict[str, array[int]] = field(default_factory=lambda: {part: array("q") for part in LARGEST})
    size: dict[str, array[int]] = field(default_factory=lambda: {part: array("q") for part in LARGEST})
    trouble: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.shard)

    def name(self, number: int) -> str:
        """The name of a sample in its tar."""
        return self.names[self.ends[number - 1] if number else 0 : self.ends[number]].decode("utf-8", "replace")

    def begin(self, shard: int, name: str) -> None:
        """A sample begins."""
        self.shard.append(shard)
        self.names += name.encode("utf-8", "replace")
        self.ends.append(len(self.names))
        for part in LARGEST:
            self.at[part].append(-1)
            self.size[part].append(-1)

    def add(self, part: str, member: tarfile.TarInfo) -> None:
        """A part of the sample that was begun last."""
        if self.at[part][-1] >= 0:
            more = "two pictures; say with picture= which ending is read" if part == "picture" else f"its {part} twice"
            self.doubt(f"{self.name(len(self) - 1)} has {more}")
        self.at[part][-1], self.size[part][-1] = member.offset_data, member.size

    def doubt(self, why: str) -> None:
        """The sample that was begun last cannot be read."""
        self.trouble.setdefault(len(self) - 1, why)


@dataclass(kw_only=True)
class WebDataset(DataSet):
    """A tar, a folder of tars, `FOLDER/shard-{000..010}.tar`, or a pattern with * and ?; in the order of their names.

    Attributes:
        label: of a sample without .cls, the key of its .json that names the class. picture: the ending of the picture, where
            a sample has several ("input.jpg"); None: any plain one.
    """

    kind: ClassVar[str] = "webdataset"
    tars: str
    label: str = "label"
    picture: str | None = None
    places: Places = field(init=False, repr=False)
    _opened: tuple[int, IO[bytes]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.files = _tars(self.tars)
        self.places = Places()
        for number, file in enumerate(self.files):
            _look_through(file, number, self.places, self._parts)
        if not len(self):
            raise InputError(f"{self.tars} holds no samples")

    def __getstate__(self) -> dict[str, Any]:
        """Without the opened tar."""
        return self.__dict__ | {"_opened": None}

    @property
    def _parts(self) -> dict[str, str]:
        """Ending -> what is read of it."""
        if self.picture is None:
            return ENDINGS
        others = {ending: part for ending, part in ENDINGS.items() if part != "picture"}
        return others | {self.picture.lower().removeprefix("."): "picture"}

    @property
    def source(self) -> str:
        """As the user said it."""
        return str(self.tars)

    def __len__(self) -> int:
        return len(self.places)

    def name_of(self, number: int) -> str:
        """The tar, and the sample's name in it."""
        return f"{self.files[self.places.shard[number]].name}: {self.places.name(number)}"

    @property
    def labelled(self) -> bool:
        """Whether any sample has a class; where there is JSON alone, whether the first tells one."""
        if any(at >= 0 for at in self.places.at["class"]):
            return True
        first = next((i for i, at in enumerate(self.places.at["json"]) if at >= 0), None)
        try:
            return first is not None and self._told(first).get(self.label) is not None
        except InputError:
            return False

    def choices(self) -> dict[str, Any]:
        """The key of the class, and which picture is read."""
        return super().choices() | {"label": self.label, "picture": self.picture}

    def read(self, reader: Any, number: int) -> Example:
        """One sample."""
        if number in self.places.trouble:
            raise InputError(self.places.trouble[number])
        raw = self._raw(reader.kind, number)
        return Example(self.name_of(number), reading_of(reader, raw), self.number_of(self._class(number), reader))

    def _raw(self, kind: str, number: int) -> Any:
        """What a reader of a kind reads of a sample."""
        name = self.name_of(number)
        if kind in ("text", "embedding"):
            return self._text("text", number)
        packed = self._part("picture", number)
        if packed is None:
            raise InputError(f"{name} has no picture (.{self.picture or 'jpg, .png'})")
        picture = checked_picture(packed, name)
        return picture if kind == "image" else (picture, self._text("text", number))

    def _class(self, number: int) -> Any:
        """What a sample says of its class: a number or a name; None: nothing."""
        if self.places.at["class"][number] < 0:
            return self._told(number).get(self.label)
        told = self._text("class", number)
        return int(told) if told.isdecimal() and self.labels is None else told

    def _told(self, number: int) -> dict[str, Any]:
        """The JSON of a sample."""
        packed = self._part("json", number)
        try:
            made = {} if packed is None else json.loads(packed)
        except (ValueError, RecursionError) as e:
            raise InputError(f"the .json of {self.name_of(number)} is not JSON ({e})") from e
        if not isinstance(made, dict):
            raise InputError(f"the .json of {self.name_of(number)} is no JSON object")
        return made

    def _text(self, part: str, number: int) -> str:
        """A part of a sample as text."""
        packed = self._part(part, number)
        if packed is None:
            raise InputError(f"{self.name_of(number)} has no text (.txt)")
        try:
            return packed.decode("utf-8-sig").strip()
        except UnicodeDecodeError as e:
            raise InputError(f"the {part} of {self.name_of(number)} is not UTF-8 text") from e

    def _part(self, part: str, number: int) -> bytes | None:
        """The bytes of a part of a sample; None: it has none."""
        at, size, shard = self.places.at[part][number], self.places.size[part][number], self.places.shard[number]
        if at < 0:
            return None
        file = self._tar(shard)
        file.seek(at)
        found = file.read(size)
        if len(found) != size:
            raise InputError(f"{self.files[shard].name} ends within {self.places.name(number)}")
        return found

    def _tar(self, shard: int) -> IO[bytes]:
        """A tar; one is open at a time."""
        if self._opened is None or self._opened[0] != shard:
            if self._opened is not None:
                self._opened[1].close()
            self._opened = (shard, self.files[shard].open("rb"))
            weakref.finalize(self, self._opened[1].close)
        return self._opened[1]

    def digest(self) -> str:
        """Of all tars."""
        return files_digest(self.files)


def _tars(words: str) -> list[Path]:
    """The tars that words stand for. Raises InputError where one is missing, or packed."""
    place = Path(words).expanduser()
    if place.is_dir():
        found = sorted(place.glob("*.tar"))
    elif glob.has_magic(words) and not place.exists():
        found = [Path(p) for p in sorted(glob.glob(str(place)))]
    else:
        found = [Path(p) for p in _ranges(str(place))]
    if not found:
        raise InputError(f"there are no tars at {words}")
    for file in found:
        if not file.is_file():
            raise InputError(f"there is no tar {file}")
        if file.suffix.lower() in PACKED:
            raise InputError(f"{file} is packed, and cannot be read from its middle; unpack it to a .tar first")
    names = [f.name for f in found]
    if len(set(names)) < len(names):
        raise Misuse(f"two tars are called {next(n for n in names if names.count(n) > 1)}; give each its own name")
    return found


def _ranges(words: str) -> Iterator[str]:
    """Words without their ranges: shard-{08..10}.tar is three tars. Raises Misuse for one that runs backwards."""
    found = RANGE.search(words)
    if found is None:
        yield words
        return
    first, last = found.groups()
    if int(last) < int(first):
        raise Misuse(f"{found[0]} runs backwards; write {{{last}..{first}}}")
    for number in range(int(first), int(last) + 1):
        yield from _ranges(f"{words[: found.start()]}{number:0{len(first)}}{words[found.end() :]}")


def _look_through(file: Path, shard: int, places: Places, parts: Mapping[str, str]) -> None:
    """Put down where the samples of a tar lie. `parts`: ending -> what is read of it."""
    seen: set[str] = set()
    began = None
    try:
        with tarfile.open(file, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                name, named, ending = _split(member.name)
                part = parts.get(ending)
                why = _distrusted(member, part)
                if member.isdir() or META.match(member.name) or not (named or why):
                    continue
                if name != began:
                    began = name
                    places.begin(shard, name)
                    if name in seen:
                        raise Misuse(f"{file} holds the sample {name} in two places; its parts must lie side by side")
                    seen.add(name)
                if why:
                    places.doubt(f"{file.name}: {member.name[:80]} {why}")
                elif part is not None:
                    places.add(part, member)
            with file.open("rb") as plain:  # tarfile takes whatever is no header for the end
                plain.seek(tar.offset)
                if plain.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                    raise tarfile.ReadError("there is no mark of its end where it ends")
    except RegardError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as e:
        places.begin(shard, f"after {places.name(len(places) - 1)}" if began is not None else "(nothing)")
        what = "ends early or is damaged" if began is not None else "is no tar that can be read"
        places.doubt(f"{file.name} {what}: {(str(e).splitlines() or [type(e).__name__])[0]}")


def _split(name: str) -> tuple[str, bool, str]:
    """The sample that a member belongs to, whether it has name and ending, and the ending: all from the first dot on.

    >>> _split("train/0042.cls"), _split("a.b/0042.seg.PNG")[::2]
    (('train/0042', True, 'cls'), ('a.b/0042', 'seg.png'))
    """
    folder, slash, last = name.rpartition("/")
    stem, dot, ending = last.partition(".")
    return f"{folder}{slash}{stem}", bool(dot and stem), ending.lower()


def _distrusted(member: tarfile.TarInfo, part: str | None) -> str:
    """Why a member is not read; "": it may be."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\0" in member.name:
        return "leads out of the tar"
    if not member.isfile():
        return "is a link or a device, and no file"
    if member.issparse():
        return "is a sparse file, which is not read"
    if part is not None and member.size > LARGEST[part]:
        return f"has {member.size:,} bytes, and at most {LARGEST[part]:,} are read"
    return ""


__all__ = ["WebDataset"]
