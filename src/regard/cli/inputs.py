"""What an INPUT of the command line stands for: a picture file, a text file, a chat, stdin, or the words themselves."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from regard.errors import InputError, Misuse
from regard.explanation.counts import quantity
from regard.prompts import Prompts

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"})
SOUNDS = frozenset({".wav", ".mp3", ".flac", ".ogg"})
ROWS = frozenset({".csv", ".tsv", ".jsonl", ".ndjson"})
SUFFIXES = PICTURES | SOUNDS | ROWS | {".txt", ".md", ".rst", ".json", ".html", ".npy", ".pt", ".safetensors"}
LARGEST = 1 << 26  # bytes of a text
MESSAGES = '[{"role": "user", "content": ...}, ...]'


def check(values: Sequence[str], image: Path | None, texts: Sequence[str] | None, regions: Path | None) -> None:
    """Refuse files that are not there or hold no boxes, whatever the model reads. Raises InputError."""
    for value in (*values, *(texts or ())):
        if value != "-":
            _check_file(value)
    if image is not None:
        existing(str(image))
    if regions is not None:
        _boxes(regions)


def check_utf8(values: Iterable[Any]) -> None:
    """Refuse words of the command line that are no UTF-8, as Python hands them over: with half characters in them."""
    for value in values:
        for said in value if isinstance(value, list) else [value]:
            if isinstance(said, str) and not is_there(said):
                try:
                    said.encode()
                except UnicodeEncodeError as e:
                    raise InputError(
                        f"{said!r} is not UTF-8 text (character {e.start}); set the terminal to UTF-8, or put the words in a "
                        "UTF-8 file and give that"
                    ) from None


def _check_file(value: str) -> None:
    """Refuse an argument that was meant as a file, and is none, or one of rows where one text is asked for."""
    if is_there(value):
        existing(value)
        if is_table(value):
            raise InputError(
                f"{value} is a table, and would be read as one text: `regard explain` reads its rows one by one; here, give a "
                "text"
            )
        return
    check_address(value)
    if looks_like_path(value):
        text = "\n" not in value and Path(value).suffix.lower() not in PICTURES | SOUNDS
        hint = "; to explain these words as a text, pipe them in and give - in their place" if text else ""
        raise InputError(f"no such file: {value}{hint}")


def read_input(value: str, kind: str) -> tuple[Any, str]:
    """The raw input that an argument stands for, and a name for it. Raises InputError where there is none."""
    if kind == "sound":
        if value == "-":
            raise InputError("sound is not read from stdin; give the path of a WAV file")
        return existing(value), Path(value).name
    if kind == "image":
        return (_stdin_picture(), "stdin") if value == "-" else (existing(value), Path(value).name)
    if value == "-":
        return _chat_in(_decoded(sys.stdin.buffer.read(), "stdin"), "stdin"), "stdin"
    _check_file(value)
    if is_there(value):
        path = Path(value)
        return _chat_in(_decoded(_bytes(path), str(path)), str(path)), path.name
    return value, headline(value)


def read_words(value: str) -> str:
    """An answer: the words themselves, those of a file that is there, or of stdin."""
    if value == "-":
        return _decoded(sys.stdin.buffer.read(), "stdin")
    return _decoded(_bytes(existing(value)), value) if is_there(value) and os.path.isfile(value) else value


def _chat_in(text: str, name: str) -> Any:
    """The chat that a text holds as JSON, [{"role": ..., "content": ...}, ...] or {"messages": [...]}; else the text."""
    from regard.models.chats import is_chat

    if text.lstrip()[:1] not in ("[", "{") or '"role"' not in text:
        return text
    made = _json(text, name, MESSAGES)
    if isinstance(made, list) and made and all(is_chat(chat) for chat in made):
        raise InputError(f"{name} holds {len(made)} chats; give each in a file of its own")
    return made if is_chat(made) else text


def chat_of(made: Any) -> Any:
    """A value as a chat, where it is one: a list of messages, or what holds them as "messages"; else None."""
    messages = made.get("messages") if isinstance(made, dict) else made
    if not isinstance(messages, list) or not messages:
        return None
    return made if all(isinstance(m, dict) and "role" in m for m in messages) else None


@dataclass(frozen=True)
class Pair:
    """What goes with each INPUT, so that together they are what the model reads.

    image: a picture beside a text. text, name: a text beside a picture or a text, or several, and what to call them.
    regions: boxes in the picture. second: what to call a text that goes with another one. apart: the two are streams of
    their own. asks: it is a question, which the model reads first. classes: the names of classes in templates, in the text's
    place.
    """

    kind: str
    image: Path | None = None
    text: str | list[str] | None = None
    name: str | None = None
    regions: list[list[float]] | None = None
    second: str | None = None
    apart: bool = False
    asks: bool = False
    classes: Prompts | None = None

    @property
    def count(self) -> int:
        """How many classes the picture is compared with; 0 where it is not."""
        return len(self.classes.labels) if self.classes else len(self.text) if isinstance(self.text, list) else 0

    @classmethod
    def checked(
        cls,
        reader: Any,
        image: Path | None,
        texts: Sequence[str] | None,
        regions: Path | None,
        classes: Prompts | None = None,
    ) -> Pair:
        """Read what was said beside INPUT. Raises Misuse where it does not fit the model, InputError for bad files."""
        if classes is not None:
            return cls._of_classes(reader, image, regions, classes)
        text = texts[0] if texts else None
        model, kind = type(getattr(reader, "model", reader)).__name__, reader.kind
        both = kind in ("image-text", "regions-text")
        if image is not None and (not both or kind == "regions-text"):
            raise Misuse(f"--image goes with models of pictures and texts; {model} reads {what_reads(kind)}")
        if text is not None and kind in ("image", "sound"):
            raise Misuse(f"--text goes with models that read texts; {model} reads {what_reads(kind)}")
        if image is not None and text is not None:
            raise Misuse(
                "--image goes with an INPUT that is a text, --text with one that is a picture; give one of them"
            )
        asks = bool(getattr(reader, "answers", False))
        if regions is not None and kind != "regions-text":
            raise Misuse(f"--regions goes with models that read regions of a picture; {model} reads {what_reads(kind)}")
        if kind == "regions-text":
            _needed(text, regions, model)
        elif kind == "image-text" and image is None and text is None and reader.wants.picture and reader.wants.text:
            raise Misuse(f"{model} reads a picture and a text: give the picture as INPUT and the text with --text")
        elif asks and text is None:
            raise Misuse(f"{model} finds the answer to a question in INPUT: ask it with --text")
        if image is not None:
            existing(str(image))
        words, name = (None, None) if text is None else _beside(texts or [], reader.kind, model)
        boxes = None if regions is None else _boxes(regions)
        of = _pictures_or_texts(reader, text)
        second = name if of == "text" else None
        return cls(of, image, words, None if second else name, boxes, second, kind == "embedding", asks)

    @classmethod
    def _of_classes(cls, reader: Any, image: Path | None, regions: Path | None, classes: Prompts) -> Pair:
        """Names of classes, for a picture that is INPUT."""
        from regard.models.default_targets import compares

        model = getattr(reader, "model", reader)
        if reader.kind != "image-text" or not compares(model):
            reads = (
                "reads one text beside a picture" if reader.kind == "image-text" else f"reads {what_reads(reader.kind)}"
            )
            raise Misuse(f"--labels goes with models that compare a picture with texts; {type(model).__name__} {reads}")
        for option, given in (("--image", image), ("--regions", regions)):
            if given is not None:
                raise Misuse(f"--labels goes with an INPUT that is a picture, and takes no {option}; leave it out")
        many, each = len(classes.labels), len(classes.templates)
        name = quantity(many, "label") + (f" in {each} templates" if each > 1 else "")
        return cls("image", name=name, classes=classes)

    def read(self, value: str) -> tuple[Any, str, dict[str, Any]]:
        """An INPUT as the reader takes it, its name, and options for the reader."""
        return self.joined(*read_input(value, self.kind))

    def joined(self, raw: Any, stem: str) -> tuple[Any, str, dict[str, Any]]:
        """The same of what an INPUT stands for."""
        if self.image is not None:
            raw = (self.image, raw)
        elif self.classes is not None:
            raw = (raw, self.classes)
        elif self.text is not None:
            raw = (self.text, raw) if self.asks else (raw, self.text)
        stem = f"{stem} + {self.second}" if self.second and not self.apart else stem
        return raw, stem, {} if self.regions is None else {"regions": self.regions}


def _beside(texts: Sequence[str], kind: str, model: str) -> tuple[str | list[str], str]:
    """What was given with --text, and what to call it. Raises Misuse where several do not go with the model."""
    if len(texts) == 1:
        return read_input(texts[0], "text")
    if kind != "image-text":
        raise Misuse(f"{model} reads one --text beside INPUT, and {len(texts)} were given")
    every = [read_input(text, "text") for text in texts]
    return [words for words, _ in every], f"{len(texts)} texts"


def what_reads(kind: str) -> str:
    """What a model of a kind reads, in words."""
    return {
        "image": "images only",
        "text": "texts only",
        "embedding": "texts only",
        "sound": "sound only",
        "image-text": "images with texts",
    }.get(kind, "regions and texts")


def _needed(text: str | None, regions: Path | None, model: str) -> None:
    if text is None:
        raise Misuse(f"{model} answers a question about a picture: ask it with --text")
    if regions is None:
        raise Misuse(f"{model} sees regions of a picture: give their boxes with --regions FILE")


def _pictures_or_texts(reader: Any, text: str | None) -> str:
    """What INPUT is: a picture where its text is said beside it, or where the model takes none; else a text."""
    if reader.kind == "image-text":
        return "image" if text is not None or not reader.wants.text else "text"
    return {"regions-text": "image", "embedding": "text"}.get(reader.kind, str(reader.kind))


def _boxes(path: Path) -> list[list[float]]:
    """Boxes in a JSON file; the reader checks their shape."""
    made = read_json(path, "[[left, top, right, bottom], ...]")
    if not isinstance(made, list) or not all(isinstance(b, list) and len(b) == 4 for b in made):
        raise InputError(f"{path} holds no boxes; give [[left, top, right, bottom], ...]")
    return made


def read_json(path: Path, form: str) -> Any:
    """What a JSON file holds; `form`: what it is to hold. Raises InputError where it is not there, or is no JSON."""
    existing(str(path))
    return _json(_decoded(_bytes(path), str(path)), str(path), form)


def _json(text: str, name: str, form: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:  # also numbers of thousands of digits, and lists in lists in lists
        said = f"{e.msg}, line {e.lineno}" if isinstance(e, json.JSONDecodeError) else str(e)
        raise InputError(f"{name} is not JSON ({said}); give {form}") from e


def looks_like_path(value: str) -> bool:
    """Whether an argument that is no file was meant as one: a file's suffix, or a slash and no white space."""
    if "\n" in value:
        return False
    if Path(value).suffix.lower() in SUFFIXES:
        return True
    return value.startswith(("/", "./", "../", "~/")) or (
        ("/" in value or "\\" in value) and not re.search(r"\s", value)
    )


def is_table(value: str) -> bool:
    """Whether an argument was meant as a file of rows."""
    return Path(value).suffix.lower() in ROWS and looks_like_path(value)


def is_there(value: str) -> bool:
    """Whether there is a file or a folder of that name."""
    try:
        return bool(value) and os.path.lexists(value)
    except (OSError, ValueError):  # too long, or with a zero byte: a text
        return False


def existing(value: str) -> Path:
    """The path of a file that is there. Raises InputError where it is not, or is a folder or a device."""
    check_address(value)
    path = Path(value)
    if not is_there(value) or not path.exists():
        raise InputError(f"no such file: {value}")
    if path.is_dir():
        raise InputError(f"{value} is a folder; give a file")
    if not path.is_file() and not path.is_fifo():
        raise InputError(f"{value} is a device; give a file, or - for stdin")
    return path


def check_address(value: str) -> None:
    """Refuse an address on the web, of which a path has lost a slash."""
    if re.match(r"(?i)(https?|ftp|s3|gs):/", value) and not re.search(r"\s", value):
        raise InputError(f"{value} is an address on the web, and nothing is fetched; download it, and give the file")


def text_of_file(value: str, most: int, form: str) -> str:
    """The text of a file of at most so many bytes; `form`: what it is to hold. Raises InputError for another."""
    path = existing(value)
    return _decoded(_bytes(path, most, form), value)


def _bytes(path: Path, most: int = LARGEST, form: str = "a part of it") -> bytes:
    """What a file holds, or what somebody writes into a pipe; of a pipe that nobody writes into nothing, at once."""
    try:
        with _pipe(path) if path.is_fifo() else path.open("rb") as opened:
            data = opened.read(most + 1)
        if len(data) > most:
            raise InputError(f"{path} is too large (more than {most} bytes); give {form}")
        return data
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror or e}") from e


def _pipe(path: Path) -> IO[bytes]:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(handle, True)
    return os.fdopen(handle, "rb")


def _decoded(data: bytes, name: str) -> str:
    """A text file's text; a byte order mark and the last line's end are no part of it."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise InputError(f"{name} is not UTF-8 text (byte {e.start}); the model reads text: save it as UTF-8") from e
    if "\0" in text:
        raise InputError(f"{name} is not text: it holds zero bytes; the model reads text")
    if not text.strip():
        raise InputError(f"{name} is empty; give it some text")
    return text.rstrip("\r\n")


def _stdin_picture() -> Any:
    from PIL import Image, UnidentifiedImageError

    data = sys.stdin.buffer.read()
    if not data:
        raise InputError("stdin is empty; the model reads a picture")
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise InputError(f"stdin is not a picture that can be read: {e}") from e
    return image


def headline(text: str) -> str:
    """The first words of a text, to call it by."""
    line = " ".join(text.split())
    return line if len(line) <= 48 else line[:47].rsplit(" ", 1)[0] + " …"
