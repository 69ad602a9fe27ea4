"""VQA's questions and annotations as JSON, and the folder of their pictures: a question about a picture is an example.

The files are those of visualqa.org (version 2; version 1 and abstract scenes have the same form). The label is the most
frequent of the ten answers that people gave, which the file calls `multiple_choice_answer`.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from regard.errors import InputError, UnknownName
from regard.evaluation.data.dataset import (
    DataSet,
    check_names,
    checked_picture,
    file_of,
    files_digest,
    folder_of,
    reading_of,
)
from regard.evaluation.examples import Example

ENDINGS = (".jpg", ".jpeg", ".png")
COCO = "mscoco"
"""What the files call the source of pictures that are named COCO_..."""


class AskedPicture(NamedTuple):
    """A question, the number of the picture that it is about, and its answer; None: there is no annotation of it."""

    number: Any
    picture: Any
    question: Any
    answer: str | None


@dataclass(kw_only=True)
class VqaQuestions(DataSet):
    """v2_OpenEnded_mscoco_val2014_questions.json with its annotations, and pictures COCO_val2014_000000000042.jpg.

    Attributes:
        annotations: their file; None: the one beside the questions that is called alike, if there is one. pictures: their
            folder; None: the folder `images`, or the one that is called as the split, beside the file; else the file's own.
    """

    kind: ClassVar[str] = "vqa"
    file: str
    annotations: str | None = None
    pictures: str | None = None
    asked: list[AskedPicture] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        file = file_of(self.file, "a file of VQA's questions (.json)")
        self.answers = self._answers_beside(file)
        made = _json(file, "questions")
        answers = {} if self.answers is None else _answers(_json(self.answers, "annotations")["annotations"])
        self.source_of_pictures, self.split = str(made.get("data_type", COCO)), str(made.get("data_subtype", ""))
        try:
            self.asked = [
                AskedPicture(q["question_id"], q["image_id"], q["question"], answers.get(q["question_id"]))
                for q in made["questions"]
            ]
        except (KeyError, TypeError) as e:
            raise InputError(f"{file} is no file of VQA's questions ({type(e).__name__}: {e})") from e
        if not self.asked:
            raise InputError(f"{file} holds no questions")
        check_names([self.name_of(i) for i in range(len(self))])
        beside = [file.parent / "images" / self.split, file.parent / "images", file.parent / self.split, file.parent]
        home = self.pictures if self.pictures is not None else next(f for f in beside if f.is_dir())
        self.home = folder_of(home, "the folder of the pictures with pictures=")

    def _answers_beside(self, file: Path) -> Path | None:
        """The file of the annotations."""
        if self.annotations is not None:
            return file_of(self.annotations, "a file of VQA's annotations (.json) with annotations=")
        plain = file.name.replace("OpenEnded_", "").replace("MultipleChoice_", "")
        beside = file.with_name(plain.replace("questions", "annotations"))
        return beside if beside != file and beside.is_file() else None

    @property
    def source(self) -> str:
        """The file of the questions."""
        return str(self.file)

    def __len__(self) -> int:
        return len(self.asked)

    def name_of(self, number: int) -> str:
        """The question's number in the file."""
        return f"question {self.asked[number].number}"

    @property
    def labelled(self) -> bool:
        """Whether there are annotations."""
        return self.answers is not None

    def read(self, reader: Any, number: int) -> Example:
        """A picture with a question."""
        name, one = self.name_of(number), self.asked[number]
        if not isinstance(one.question, str) or not one.question.strip():
            raise InputError(f"{name} is empty")
        if one.answer is None and self.answers is not None:
            raise InputError(f"{self.answers.name} tells no answer to {name}")
        label = self.number_of(one.answer, reader)
        path = self._picture(one.picture)
        if path is None:
            raise InputError(f"{self.home} holds no {self._called(one.picture)}{ENDINGS[0]}, which {name} is about")
        reading = reading_of(reader, (checked_picture(path, path.name), one.question))
        return Example(name, reading, label, group=f"picture {one.picture}")

    def number_of(self, name: Any, reader: Any) -> int | None:
        """The model's number of an answer: an answer in digits is a word here, and no number of a class."""
        if self.labels is not None or not isinstance(name, str):
            return super().number_of(name, reader)
        known = [label.strip().casefold() for label in reader.labels]
        if name.strip().casefold() not in known:
            raise UnknownName(f"the model has no answer {name!r}")
        return known.index(name.strip().casefold())

    def _called(self, picture: Any) -> str:
        """How the file of a picture is called, without its ending. Raises InputError for what is no number."""
        if isinstance(picture, bool) or not isinstance(picture, int):
            raise InputError(f"image_id is {picture!r}, and no number")
        source = "COCO" if self.source_of_pictures == COCO else self.source_of_pictures
        return "_".join([source, *([self.split] if self.split else []), f"{picture:012}"])

    def _picture(self, picture: Any) -> Path | None:
        """The file of a picture: named as VQA's are, or by its number alone."""
        stems = (Path(self._called(picture)).name, f"{picture:012}", str(picture))
        return next((p for s in stems for e in ENDINGS if (p := self.home / f"{s}{e}").is_file()), None)

    def digest(self) -> str:
        """Of both files and of all pictures."""
        numbers = {q.picture for q in self.asked if isinstance(q.picture, int)}
        pictures = [p for p in map(self._picture, sorted(numbers)) if p is not None]
        files = [Path(self.file).expanduser(), *([self.answers] if self.answers else [])]
        return files_digest([*files, *pictures], self.home)


def _json(file: Path, key: str) -> dict[str, Any]:
    """A file's JSON, which has a list under a key. Raises InputError where it has not."""
    try:
        made = json.loads(file.read_bytes())
        if isinstance(made, dict) and isinstance(made.get(key), list):
            return made
        why = f"it holds no list {key!r}"
    except (ValueError, RecursionError) as e:
        why = f"{type(e).__name__}: {e}"
    raise InputError(f"{file} is no file of VQA's {key} ({why})")


def _answers(annotations: list[Any]) -> dict[Any, str]:
    """The most frequent answer to each question; of several, the one that was given first."""
    found = {}
    for a in annotations:
        try:
            told = a.get("multiple_choice_answer") or Counter(x["answer"] for x in a["answers"]).most_common(1)[0][0]
            found[a["question_id"]] = str(told)
        except (KeyError, TypeError, AttributeError, IndexError):  # the question's row will say that it has no answer
            continue
    return found


__all__ = ["VqaQuestions"]
