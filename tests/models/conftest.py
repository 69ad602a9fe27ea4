"""Folders, readers and files that the tests of models share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import regard
from regard import zoo
from support.folders import image_parts, picture, text_parts
from support.pairs import save
from support.regions import RELATION

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            config, processor, settings = image_parts(name)
            head = type(config).__name__.replace("Config", "ForImageClassification")
            getattr(transformers, head)(config).save_pretrained(folder)
            getattr(transformers, processor)(**settings).save_pretrained(folder)
            made[name] = folder
        return made[name]

    return make


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            config, tokenizer = text_parts(name)
            torch.manual_seed(0)
            transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[name] = folder
        return made[name]

    return make


@pytest.fixture
def cat(tmp_path) -> Path:
    picture().save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    """Readers of pictures and texts, by name: of the zoo, or tiny and random."""
    made = {}

    def load(name):
        if name not in made:
            there = name.startswith("zoo/")
            made[name] = regard.load(name if there else save(name, tmp_path_factory.mktemp(name)))
        return made[name]

    return load


@pytest.fixture(scope="session")
def asked(reader):
    """The zoo's answer to "what is left of the bag ?", and its known evidence."""
    q = zoo.questions()
    scene = q.scene[RELATION]
    given = (q.images[scene], q.texts[RELATION])
    return reader("zoo/lxmert-scenes").explain(given, regions=q.boxes[scene]), q


@pytest.fixture(scope="session")
def detected(reader):
    d = zoo.detections()
    return reader("zoo/detr-scenes").explain(d.images[0]), d


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a scene and its boxes."""
    monkeypatch.chdir(tmp_path)
    q = zoo.questions()
    scene = q.scene[RELATION]
    Image.fromarray(q.images[scene].numpy()).save("scene.png")
    Path("boxes.json").write_text(json.dumps(q.boxes[scene].tolist()))
    return q
