"""The zoo: seven small trained models with known answers, bundled, for tests, examples and first steps.

``zoo/vit-scenes`` names the item of clothing in a cluttered scene; every bundled scene has the exact mask of its item.
``zoo/bert-sentiment`` tells positive from negative sentences; our sentences have their deciding words marked.
``zoo/llama-facts`` answers questions about little stories; of every prompt the token that the answer rests on is known.
``zoo/lxmert-scenes`` answers questions about scenes of several items; the regions that an answer must rest on are known.
``zoo/detr-scenes`` finds the items in such scenes; every item has its exact mask.
``zoo/clip-scenes`` compares such scenes with captions; the items that each caption is about have their exact masks.
``zoo/vlm-scenes`` describes such scenes in words and answers questions; the item each word speaks of has its exact mask.

The folders are ordinary Hugging Face folders: ``AutoModel...from_pretrained(folder(name))`` loads them offline. Names, folders
and cards are read without torch, data with torch, numpy and safetensors alone. How the models were trained is no part of the
package: see the repository's folder ``training``.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.errors import InputError, UnknownName, nearest

if TYPE_CHECKING:
    from regard.zoo.answer_data import Answers as Answers
    from regard.zoo.caption_data import Captions as Captions
    from regard.zoo.detection_data import Detections as Detections
    from regard.zoo.fact_data import Fact as Fact
    from regard.zoo.question_data import Questions as Questions
    from regard.zoo.scene_data import Scenes as Scenes
    from regard.zoo.sentence_data import Sentence as Sentence

KINDS = {
    "Answers": "answer_data",
    "Captions": "caption_data",
    "Detections": "detection_data",
    "Fact": "fact_data",
    "Questions": "question_data",
    "Scenes": "scene_data",
    "Sentence": "sentence_data",
}
"""The kinds of bundled data, each with the module that it is imported from when it is first used."""

__all__ = [
    *KINDS,
    "answers",
    "captions",
    "cards",
    "demo_scene",
    "detections",
    "facts",
    "folder",
    "in_zoo",
    "names",
    "questions",
    "scenes",
    "sentences",
]

PREFIX = "zoo/"
FOLDERS = ("bert-sentiment", "clip-scenes", "detr-scenes", "llama-facts", "lxmert-scenes", "vit-scenes", "vlm-scenes")


def __getattr__(name: str) -> Any:
    """A kind of data, imported when it is first asked for (PEP 562)."""
    if name not in KINDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{KINDS[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


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


def in_zoo(name: Any) -> Any:
    """The folder of a zoo model as text, where a name is one's; anything else as it is.

    Raises UnknownName for a zoo name that there is not, or without its zoo/, InputError for a model that is not installed.
    """
    said = os.fspath(name) if isinstance(name, str | os.PathLike) else ""
    if PREFIX + said in names() and not Path(said).exists():
        raise UnknownName(f"there is no model folder {said!r}; the bundled model is called {PREFIX + said!r}")
    if said != "zoo" and not said.startswith(PREFIX):
        return name
    found = folder(said)
    if not (found / "config.json").is_file():
        raise InputError(f"{said} is not installed: {found} holds no model; install Regard anew")
    return str(found)


def cards() -> dict[str, dict[str, Any]]:
    """Return each model's card: task, parameters, measured accuracy, data, licence, known answers, how to retrain."""
    return {name: json.loads((folder(name) / "card.json").read_text(encoding="utf-8")) for name in names()}


def scenes() -> Scenes:
    """Return the bundled scenes of ``zoo/vit-scenes``: unseen items, each class equally often, and each pair twice."""
    from regard.zoo.scene_data import read_scenes

    return read_scenes(folder("zoo/vit-scenes"))


def demo_scene() -> Path:
    """Return the path of a picture (256 x 192, PNG) with two items, both unseen in training."""
    return folder("zoo/vit-scenes") / "demo_scene.png"


def sentences() -> list[Sentence]:
    """Return the bundled sentences of ``zoo/bert-sentiment``, all our own, with the words that decide each of them."""
    from regard.zoo.sentence_data import read_sentences

    return read_sentences(folder("zoo/bert-sentiment") / "sentences.json")


def facts(count: int = 400, seed: int = 1) -> list[Fact]:
    """Return ``count`` prompts for ``zoo/llama-facts``, the kinds in turn, with the token that each answer rests on.

    They are drawn from ``seed`` when asked for; the default ones are the bundled set that the card speaks of. All ask for
    pairs of words that no training story joins.
    """
    from regard.zoo.fact_data import facts as drawn

    return drawn(count, seed)


def questions() -> Questions:
    """Return the bundled questions of ``zoo/lxmert-scenes``, with the regions that each answer must rest on."""
    from regard.zoo.question_data import read_questions

    return read_questions(folder("zoo/lxmert-scenes"))


def detections() -> Detections:
    """Return the bundled scenes of ``zoo/detr-scenes``: unseen items, their classes, boxes and exact masks."""
    from regard.zoo.detection_data import read_detections

    return read_detections(folder("zoo/detr-scenes"))


def captions() -> Captions:
    """Return the bundled captions of ``zoo/clip-scenes``, with the exact masks of the items that each is about.

    Each has a twin, which differs in one thing and is false of the same scene.
    """
    from regard.zoo.caption_data import read_captions

    return read_captions(folder("zoo/clip-scenes"))


def answers() -> Answers:
    """Return the bundled answers of ``zoo/vlm-scenes``: requests, the right answer of each, and the item that each word of it,
    or of what the model writes instead, speaks of. Each caption has twins with one false word.
    """
    from regard.zoo.answer_data import read_answers

    return read_answers(folder("zoo/vlm-scenes"))
