"""From a folder and a raw picture or sentence to tensors and labels: tiny random models, no network."""

from __future__ import annotations

import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import regard
from regard.errors import InputError, ModelError, RegardError, TargetError, UnknownName
from regard.explanation.raw_inputs import Picture
from regard.reader import Reader, load
from support.folders import NAMES, image_processor, picture, wordpiece

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

# ---------------------------------------------------------------- image models


@pytest.mark.parametrize("name", ["vit", "deit", "beit", "dinov2", "swin"])
def test_image_folders_load_read_and_run(name, image_folder, cat):
    reader = load(image_folder(name))
    assert reader.kind == "image"
    assert reader.stream == reader.model.main_input_name == "pixel_values"
    assert reader.labels == list(NAMES.values())
    assert not reader.model.training
    reading = reader.read([cat, picture(50, 70)])
    assert reading.inputs["pixel_values"].shape == (2, 3, 32, 32)
    assert reader.model(**reading.inputs).logits.shape == (2, 3)
    assert reading.labels == reader.labels
    settings = reader.processor
    np.testing.assert_allclose(reading.mean, settings.image_mean, atol=1e-5)
    np.testing.assert_allclose(reading.std, settings.image_std, atol=1e-5)
    first, second = reading.raw["pixel_values"]
    assert (first.name, second.name) == ("cat.png", "picture 1")
    assert torch.equal(first.pixels, torch.from_numpy(np.array(picture())))
    alone = reader.read(cat).inputs["pixel_values"]
    assert torch.equal(alone[0], reading.inputs["pixel_values"][0])
    theirs = settings(images=[picture()], return_tensors="pt")["pixel_values"]
    assert torch.equal(alone, theirs)


def test_one_picture_in_every_form_reads_alike(image_folder, cat):
    reader = load(image_folder("vit"))
    array = np.array(picture())
    forms = [cat, str(cat), picture(), array, torch.from_numpy(array)]
    read = [reader.read(form).inputs["pixel_values"] for form in forms]
    assert all(torch.equal(read[0], r) for r in read)


def test_users_module_is_left_as_it_is(image_folder, cat):
    made = load(image_folder("vit"))
    model = made.model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    reader = load(model, processor=made.processor)
    reader.read(cat)
    assert reader.model is model
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    by_folder = load(model, processor=image_folder("vit"))
    assert type(by_folder.processor) is type(made.processor)


def test_plain_module_with_a_callable_takes_its_own_keyword_and_dtype(cat):
    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x):
            return x * self.scale

    def transform(image):
        return torch.from_numpy(np.array(image.resize((16, 8)))).permute(2, 0, 1) / 255.0

    reading = load(Tiny(), processor=transform).read([cat])
    assert list(reading.inputs) == ["x"]
    assert reading.inputs["x"].shape == (1, 3, 8, 16)
    assert reading.inputs["x"].dtype == torch.float64
    assert reading.raw["x"][0].box == (0, 0, 40, 30)
    assert (reading.mean, reading.std, reading.labels) == ((0, 0, 0), (1, 1, 1), None)


# ---------------------------------------------------------------- loading


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p / "none", "no such model folder"),
        (lambda p: str(p / "none"), "no such model folder"),
        (lambda p: "./none", "no such model folder"),
        (lambda p: "a/b/c", "no such model folder"),
        (lambda p: "", "no such model folder"),
        (lambda p: p, "is not a model folder: it has no config.json"),
        (lambda p: p / "file", "is a file; give the folder"),
        (lambda p: p / "bad json", "cannot be loaded: .*not a valid JSON"),
        (lambda p: p / "no type", "cannot be loaded: .*model_type"),
        (lambda p: p / "new type", "cannot be loaded: .*zork"),
        (lambda p: p / "own code", "own code.*pass trust_remote_code=True if you trust it"),
        (lambda p: "nobody/nothing", "the Hugging Face hub cannot be reached; give a local folder"),
    ],
)
def test_models_that_cannot_be_found_are_named_in_one_line(make, said, tmp_path):
    (tmp_path / "file").write_text("x")
    code = '{"auto_map": {"AutoConfig": "code.Config"}, "model_type": "own"}'
    for name, text in (
        ("bad json", "{"),
        ("no type", "{}"),
        ("new type", '{"model_type": "zork"}'),
        ("own code", code),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        load(make(tmp_path), local_files_only=True)
    assert "\n" not in str(caught.value)


def test_zoo_names_are_resolved_or_corrected(image_folder, monkeypatch):
    zoo = SimpleNamespace(names=lambda: ["zoo/vit-scenes"], folder=lambda name: image_folder("vit"))
    monkeypatch.setitem(sys.modules, "regard.zoo", zoo)
    monkeypatch.setattr(regard, "zoo", zoo, raising=False)
    assert load("zoo/vit-scenes").kind == "image"
    with pytest.raises(UnknownName, match="unknown zoo model 'zoo/vit-scene'; did you mean 'zoo/vit-scenes'"):
        load("zoo/vit-scene")


def test_pickled_weights_are_refused_with_the_way_out(image_folder, tmp_path):
    source = load(image_folder("vit"))
    source.model.config.save_pretrained(tmp_path)
    source.processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"holds no weights \(model.safetensors\)"):
        load(tmp_path)
    torch.save(source.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights.*convert it once.*use_safetensors=False"):
        load(tmp_path)
    assert load(tmp_path, use_safetensors=False).kind == "image"
    (tmp_path / "model.safetensors").write_bytes(b"junk" * 10)
    with pytest.raises(ModelError, match=r"the weights of .* cannot be loaded"):
        load(tmp_path)


def test_weights_that_would_be_random_are_named(image_folder, tmp_path):
    source = load(image_folder("vit"))
    source.model.vit.save_pretrained(tmp_path)
    source.processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"holds ViTModel, whose task is not one that Regard loads \(image-class"):
        load(tmp_path)
    with pytest.raises(
        ModelError, match=r"lacks weights of ViTForImage.*: classifier.bias, classifier.weight; .*random"
    ):
        load(tmp_path, task="image-classification")
    assert load(tmp_path, task="image-classification", allow_missing=True).kind == "image"
    config = source.model.config.__class__.from_pretrained(image_folder("vit"))
    config.id2label = dict.fromkeys(range(5), "x")
    config.save_pretrained(tmp_path)
    source.model.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text((tmp_path / "config.json").read_text())
    with pytest.raises(ModelError, match=r"of another shape.*classifier.weight"):
        load(tmp_path / "other", task="image-classification")


def test_a_missing_processor_is_named(image_folder, text_folder, tmp_path):
    load(image_folder("vit")).model.save_pretrained(tmp_path / "image")
    with pytest.raises(InputError, match=r"the image processor of .* cannot be loaded"):
        load(tmp_path / "image")
    assert load(tmp_path / "image", processor=image_folder("vit")).kind == "image"
    load(text_folder("bert")).model.save_pretrained(tmp_path / "text")
    with pytest.raises(InputError, match="has no tokenizer files; pass processor="):
        load(tmp_path / "text")
    with pytest.raises(InputError, match="was given without a processor"):
        load(nn.Linear(2, 2))
    with pytest.raises(InputError, match="cannot read a picture for the model"):
        load(image_folder("vit"), processor=wordpiece())
    with pytest.raises(InputError, match="cannot read a text for the model"):
        load(text_folder("bert"), processor=image_processor("vit"))


def test_a_processor_that_holds_several_is_taken_apart(image_folder, text_folder):
    class Both(SimpleNamespace):
        pass

    both = Both(image_processor=image_processor("vit"), tokenizer=wordpiece())
    assert load(load(image_folder("vit")).model, processor=both).processor is both.image_processor
    assert load(load(text_folder("bert")).model, processor=both).processor is both.tokenizer


def test_unknown_task_is_corrected(image_folder):
    with pytest.raises(UnknownName, match="did you mean 'image-classification'"):
        load(image_folder("vit"), task="image-clasification")


def test_missing_transformers_is_said(monkeypatch, image_folder):
    folder = image_folder("vit")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r'pip install "regard\[hf\]"'):
        load(folder)


def test_loading_is_quiet_and_leaves_the_logs_as_they_were(image_folder, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(image_folder("vit"))
    with pytest.raises(RegardError):
        load("nobody/nothing", local_files_only=True)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_importing_models_is_light():
    code = "import regard.models, sys; print([m for m in ('transformers', 'PIL', 'tokenizers') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# ---------------------------------------------------------------- labels and explain


def reader_with(labels: list[str]) -> Reader:
    return Reader(nn.Linear(1, 1), None, "image", labels)


def test_labels_by_name_synonym_and_number(image_folder):
    reader = load(image_folder("vit"))
    assert reader.label("cat, house cat") == 0
    assert reader.label("House Cat") == 0
    assert reader.label("dog") == reader.label(" DOG ") == reader.label("1") == 1
    assert reader.label("7") == 2  # a class that is called 7, not class 7
    with pytest.raises(UnknownName, match="unknown label 'dgo'; did you mean 'Dog'"):
        reader.label("dgo")
    with pytest.raises(TargetError, match="there is no class 12; the model has 3"):
        reader.label("12")


def test_ambiguous_labels_are_told_and_exact_ones_win():
    reader = reader_with(["crane", "maillot, tank suit", "maillot", "crane", "CAT", "cat"])
    with pytest.raises(TargetError, match="label 'crane' stands for several classes: 0, 3; give one"):
        reader.label("crane")
    assert reader.label("maillot") == 2
    assert (reader.label("CAT"), reader.label("cat")) == (4, 5)
    with pytest.raises(TargetError, match="several classes: 4, 5"):
        reader.label("Cat")


def test_a_model_that_names_no_classes_takes_numbers():
    assert reader_with([]).label("3") == 3
    with pytest.raises(UnknownName, match="names no classes, give a number"):
        reader_with([]).label("cat")


def test_explain_passes_on_what_the_reader_knows(text_folder, monkeypatch):
    calls = []

    def explain(model, reading, target, **options):
        calls.append((model, reading, {"target": target, **options}))
        return [SimpleNamespace(receipt=SimpleNamespace(notes=[])) for _ in range(2)]

    monkeypatch.setattr("regard.reader.explain_reading", explain)
    reader = load(text_folder("bert"))
    marker = object()
    found = reader.explain("a " * 40, target=["POSITIVE", 0, marker], method=["gae", "rollout"], truncate=True, seed=3)
    model, reading, options = calls[0]
    assert model is reader.model
    assert list(reading.raw) == ["input_ids"]
    assert options["target"] == [1, 0, marker]
    assert (options["method"], options["seed"]) == (["gae", "rollout"], 3)
    assert all("only its first 20 tokens were read" in e.receipt.notes[0] for e in found)
    reader.explain("great")
    assert (calls[1][2]["target"], calls[1][2]["method"]) == (None, "cp_lrp")
    per_sample = torch.tensor([1])
    reader.explain("great", per_sample)
    assert calls[2][2]["target"] is per_sample
    with pytest.raises(UnknownName):
        reader.explain("great", target="joyful")


def test_inspect_and_record_read_raw_inputs(image_folder, monkeypatch, cat):
    monkeypatch.setattr("regard.reader.inspect", lambda model, inputs: ("seen", list(inputs)))
    monkeypatch.setattr("regard.reader.record", lambda model, inputs, target: (target, list(inputs)))
    reader = load(image_folder("vit"))
    assert reader.inspect(cat) == ("seen", ["pixel_values"])
    assert reader.record(cat, target="dog") == (1, ["pixel_values"])
    assert repr(reader) == "Reader(ViTForImageClassification, kind='image', 3 labels)"


def test_pictures_survive_in_the_reading(image_folder, cat):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raw = load(image_folder("vit")).read(cat).raw["pixel_values"][0]
    assert isinstance(raw, Picture)
    assert raw.box == (0, 0, 40, 30)
    assert raw.pixels.dtype == torch.uint8
