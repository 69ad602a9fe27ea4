"""The zoo: five small trained models with known answers, bundled, for tests, examples and first steps.

``zoo/vit-scenes`` names the item of clothing in a cluttered scene; every bundled scene has the exact mask of its item.
``zoo/bert-sentiment`` tells positive from negative sentences; our sentences have their deciding words marked.
``zoo/llama-facts`` answers questions about little stories; of every prompt the token that the answer rests on is known.
``zoo/lxmert-scenes`` answers questions about scenes of several items; the regions that an answer must rest on are known.
``zoo/detr-scenes`` finds the items in such scenes; every item has its exact mask.

The folders are ordinary Hugging Face folders: ``AutoModel...from_pretrained(folder(name))`` loads them offline.
Importing this package needs torch, numpy and safetensors only; the training scripts need ``regard[hf]``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from regard.errors import nearest
from regard.zoo import fact_data as facts_maker
from regard.zoo.detection_data import Detections, read_detections
from regard.zoo.fact_data import Fact
from regard.zoo.question_data import Questions, read_questions
from regard.zoo.sentence_data import Sentence, read_sentences

__all__ = [
    "Detections",
    "Fact",
    "Questions",
    "Scenes",
    "Sentence",
    "cards",
    "demo_scene",
    "detections",
    "facts",
    "folder",
    "names",
    "questions",
    "scenes",
    "sentences",
]

PREFIX = "zoo/"
FOLDERS = ("bert-sentiment", "detr-scenes", "llama-facts", "lxmert-scenes", "vit-scenes")


@dataclass(frozen=True)
class Scenes:
    """Bundled scenes with exact masks, single-item scenes first.

    ``images``: uint8 (n, 64, 64, 3), RGB. ``masks``: bool (n, 2, 64, 64), the pixels of the first and of the second
    item; the second is empty in a single-item scene. ``labels``: int64 (n, 2), the items' classes as the model numbers
    them; the second is -1 in a single-item scene. ``names``: the classes' names in that order.
    """

    images: Tensor
    masks: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.images)

    @property
    def single(self) -> Tensor:
        """bool (n,): the scenes of one item alone."""
        return self.labels[:, 1] < 0

    def select(self, rows: Tensor) -> Scenes:
        """Return the scenes at ``rows``, indices or a bool mask (n,)."""
        return Scenes(self.images[rows], self.masks[rows], self.labels[rows], self.names)


def names() -> list[str]:
    """Return the names of the bundled models."""
    return [PREFIX + name for name in FOLDERS]


def folder(name: str) -> Path:
    """Return the folder of the model ``name``, ready for ``from_pretrained``.

    Raises regard.errors.UnknownName for any other name.
    """
    if name not in names():
        raise nearest(name, names(), "zoo model")
    return Path(__file__).parent / name.removeprefix(PREFIX)


def cards() -> dict[str, dict[str, Any]]:
    """Return each model's card: task, parameters, measured accuracy, data, licence, known answers, how to retrain."""
    return {name: json.loads((folder(name) / "card.json").read_text(encoding="utf-8")) for name in names()}


def scenes() -> Scenes:
    """Return the bundled scenes of ``zoo/vit-scenes``: unseen items, each class equally often, and each pair twice."""
    home = folder("zoo/vit-scenes")
    data = load_file(home / "scenes.safetensors")
    classes = json.loads((home / "scenes.json").read_text(encoding="utf-8"))["names"]
    masks = torch.from_numpy(np.unpackbits(data["mask_bits"].numpy(), axis=-1)).bool()
    return Scenes(data["images"], masks, data["labels"], tuple(classes))


def demo_scene() -> Path:
    """Return the path of a picture (256 x 192, PNG) with two items, both unseen in training."""
    return folder("zoo/vit-scenes") / "demo_scene.png"


def sentences() -> list[Sentence]:
    """Return the bundled sentences of ``zoo/bert-sentiment``, all our own, with the words that decide each of them."""
    return read_sentences(folder("zoo/bert-sentiment") / "sentences.json")


def facts(count: int = 400, seed: int = 1) -> list[Fact]:
    """Return ``count`` prompts for ``zoo/llama-facts``, the kinds in turn, with the token that each answer rests on.

    They are drawn from ``seed`` when asked for; the default ones are the bundled set that the card speaks of. All ask for
    pairs of words that no training story joins.
    """
    return facts_maker.facts(count, seed)


def questions() -> Questions:
    """Return the bundled questions of ``zoo/lxmert-scenes``, with the regions that each answer must rest on."""
    return read_questions(folder("zoo/lxmert-scenes"))


def detections() -> Detections:
    """Return the bundled scenes of ``zoo/detr-scenes``: unseen items, their classes, boxes and exact masks."""
    return read_detections(folder("zoo/detr-scenes"))
