"""The zoo's own data, by the name of the model that they belong to."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from regard import zoo
from regard.errors import nearest
from regard.evaluation.data.dataset import DataSet, files_digest, reading_of
from regard.evaluation.data.eraser import Document, word_spans
from regard.evaluation.examples import Example
from regard.evaluation.protocols.rationale import runs

SCENES, SENTENCES = "zoo/vit-scenes", "zoo/bert-sentiment"
FILES = {SCENES: ("scenes.safetensors", "scenes.json"), SENTENCES: ("sentences.json",)}


@functools.cache
def _scenes() -> zoo.Scenes:
    return zoo.scenes()


@functools.cache
def _sentences() -> list[zoo.Sentence]:
    return zoo.sentences()


@dataclass(kw_only=True)
class Bundled(DataSet):
    """What `regard.zoo` holds: scenes with the mask of their first item, or sentences with the words that decide them.

    In a scene of two items the first is asked for, and the second is the class that is present too.
    """

    kind: ClassVar[str] = "zoo"
    name: str

    def __post_init__(self) -> None:
        if self.name not in FILES:
            raise nearest(self.name, FILES, "bundled data set")

    @property
    def source(self) -> str:
        """Its name."""
        return self.name

    def __len__(self) -> int:
        return len(_scenes()) if self.name == SCENES else len(_sentences())

    def name_of(self, number: int) -> str:
        """Its number."""
        return f"{'scene' if self.name == SCENES else 'sentence'} {number}"

    @property
    def masked(self) -> bool:
        """Scenes are."""
        return self.name == SCENES

    @property
    def rationales(self) -> bool:
        """Sentences have them."""
        return self.name == SENTENCES

    def read(self, reader: Any, number: int) -> Example:
        """One scene or sentence."""
        name = self.name_of(number)
        if self.name == SENTENCES:
            sentence = _sentences()[number]
            return Example(name, reading_of(reader, sentence.text), self.number_of(sentence.label, reader))
        scenes = _scenes()
        label, other = scenes.labels[number].tolist()
        called = self.number_of(scenes.names[label], reader)
        second = None if other < 0 else self.number_of(scenes.names[other], reader)
        reading = reading_of(reader, scenes.images[number])
        return Example(name, reading, called, scenes.masks[number, 0], other=second)

    def document(self, reader: Any, number: int) -> Document | None:
        """A sentence with the words that decide its label."""
        if self.name == SCENES:
            return None
        sentence = _sentences()[number]
        words = word_spans(sentence.text)
        told = {w.casefold() for w in sentence.words}
        marked = [sentence.text[a:b].strip(".,!").casefold() in told for a, b in words]
        label = self.number_of(sentence.label, reader)
        return Document(self.name_of(number), sentence.text, label, words, tuple(runs(torch.tensor(marked))))

    def digest(self) -> str:
        """Of its files."""
        home = zoo.folder(self.name)
        return files_digest([home / f for f in FILES[self.name]], home)


__all__ = ["Bundled"]
