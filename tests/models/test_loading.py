"""What `regard.load` is given in practice: pipelines, encoders of sentences, adapters, folders that lead elsewhere."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import regard
from regard import Target
from regard.errors import InputError, Misuse, ModelError
from regard.models.checkpoint import Checkpoint
from regard.zoo import folder as zoo_folder
from support.embedders import PAIR, bert, head, modes, same, vector
from support.folders import SMALL, image_parts, picture, wordpiece
from support.tiny import strong
from support.writers import VISION
from support.writers import tokenizer as byte_level

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}

# ---------------------------------------------------------------- pipelines and other things that hold a model


@pytest.mark.parametrize(
    ("task", "name", "raw", "target"),
    [
        ("text-classification", "BertForSequenceClassification", "the lovely movie", None),
        ("zero-shot-classification", "BertForSequenceClassification", PAIR, "entailment"),
        ("token-classification", "BertForTokenClassification", "the lovely movie", Target.logit(1, position=2)),
        ("fill-mask", "BertForMaskedLM", "the [MASK] movie", Target.logit(3, position=2)),
    ],
)
def test_a_pipeline_of_texts(task, name, raw, target):
    labels = {"id2label": NLI, "label2id": {v: k for k, v in NLI.items()}} if task.startswith("zero") else {}
    model, tokenizer = head(name, **labels)
    held = transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu")
    reader = regard.load(held)
    assert reader.model is held.model
    assert reader.processor is held.tokenizer
    same(reader.explain(raw, target), regard.load(model, processor=tokenizer).explain(raw, target))


def test_a_pipeline_of_pictures():
    config, processor, settings = image_parts("vit")
    model = transformers.ViTForImageClassification(config).eval()
    made = getattr(transformers, processor)(**settings)
    held = transformers.pipeline("image-classification", model=model, image_processor=made, device="cpu")
    reader = regard.load(held)
    assert (reader.kind, reader.labels) == ("image", ["cat, house cat", "Dog", "7"])
    same(reader.explain(picture()), regard.load(model, processor=made).explain(picture()))


def test_a_zero_shot_pipeline_of_pictures_has_its_parts_joined():
    """It holds a tokenizer and an image processor, and nothing that joins them."""
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "max_position_embeddings": 20}
    text = {**SMALL, **ids, "vocab_size": 400}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
    square = {"height": 16, "width": 16}
    pictures = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=square)
    held = transformers.pipeline(
        "zero-shot-image-classification", model=strong(model), tokenizer=byte_level(), image_processor=pictures
    )
    reader = regard.load(held)
    assert reader.kind == "image-text"
    assert set(reader.explain((picture(), "a cat")).scores) >= {"pixel_values", "input_ids"}


def of_pickle(model: nn.Module, tokenizer) -> object:
    """As an older CrossEncoder is, and FlagEmbedding's models, GLiNER's, ...: no module itself."""
    return SimpleNamespace(model=model, tokenizer=tokenizer, device="cpu", predict=lambda pairs: pairs)


class Trainer:
    """As Transformers' Trainer is: its tokenizer has another name."""

    def __init__(self, model: nn.Module, tokenizer) -> None:
        self.model, self.processing_class, self.args = model, tokenizer, None


class Scorer(nn.Sequential):
    """As a CrossEncoder is today: a chain around a model, that reads raw texts by `predict`."""

    def __init__(self, model: nn.Module, tokenizer) -> None:
        super().__init__(nn.ModuleDict({"model": model}))
        self.tokenizer = tokenizer

    @property
    def model(self) -> nn.Module:
        return self[0]["model"]

    def predict(self, pairs):
        return pairs


@pytest.mark.parametrize("hold", [of_pickle, Trainer, Scorer])
def test_what_holds_a_model_and_its_tokenizer(hold):
    model, tokenizer = head("BertForSequenceClassification", num_labels=1)
    held = hold(model, tokenizer)
    before = modes(held) if isinstance(held, nn.Module) else []
    same(regard.load(held).explain(PAIR), regard.load(model, processor=tokenizer).explain(PAIR))
    assert before == (modes(held) if isinstance(held, nn.Module) else [])
    other = wordpiece(padding_side="left")
    assert regard.load(held, processor=other).processor is other


def test_a_module_that_carries_its_tokenizer_is_its_own_model():
    """A Llama has a `.model` too, its body without the head."""
    model, tokenizer = head("BertForSequenceClassification")
    model.tokenizer, model.model = tokenizer, model.bert
    assert regard.load(model).model is model


def test_what_computes_with_more_than_one_model_is_refused():
    model, tokenizer = head("BertForSequenceClassification")
    more = SimpleNamespace(model=model.bert, classifier=model.classifier, tokenizer=tokenizer)
    with pytest.raises(InputError, match=r"computes with more than its model \(classifier\)"):
        regard.load(more)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.head, self.tokenizer = model.bert, nn.Linear(16, 2), tokenizer

        def predict(self, texts):
            return texts

    with pytest.raises(InputError, match=r"this Own computes with more than its model \(Own\)"):
        regard.load(Own())


@pytest.mark.parametrize("given", [3, None, object(), ["zoo/bert-sentiment"], Trainer])
def test_anything_else_is_refused_in_one_sentence(given):
    with pytest.raises(InputError, match=r"regard.load cannot take an? \w+; give a name, a folder, a module") as raised:
        regard.load(given)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="was given without a processor"):
        regard.load(SimpleNamespace(model=nn.Linear(2, 2)))


# ---------------------------------------------------------------- adapters


def adapted(folder: Path, base: Path, name: str, kind: str, **more) -> nn.Module:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        getattr(transformers, name).from_pretrained(base, **more),
        peft.LoraConfig(task_type=kind, r=2, target_modules=["query", "value"], init_lora_weights=False),
    )
    for n, p in model.named_parameters():
        if "modules_to_save" in n:
            nn.init.normal_(p)
    model.eval().save_pretrained(folder)
    return model


def test_an_adapter_is_put_on_its_base(tmp_path):
    model, tokenizer = bert()
    base, folder = tmp_path / "base", tmp_path / "adapter"
    for part in (model, tokenizer):
        part.save_pretrained(base)
    made = adapted(folder, base, "BertForSequenceClassification", "SEQ_CLS", num_labels=4)
    reader = regard.load(folder)
    assert (type(reader.model).__name__, len(reader.labels)) == ("BertForSequenceClassification", 4)
    inputs = reader.read("the lovely movie").inputs
    torch.testing.assert_close(reader.model(**inputs).logits, made(**inputs).logits)
    assert not torch.equal(reader.explain("the lovely movie").scores["input_ids"], torch.zeros(1, 7))
    shutil.copy(base / "config.json", folder / "config.json")  # a model's folder with an adapter in it
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    shutil.copy(base / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"has no adapter_model.safetensors; pickled weights can run any code"):
        regard.load(folder, processor=tokenizer)


def test_an_adapter_for_vectors(tmp_path):
    model, tokenizer = bert()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "base")
    made = adapted(tmp_path / "adapter", tmp_path / "base", "BertModel", "FEATURE_EXTRACTION")
    exp = regard.load(tmp_path / "adapter").explain(PAIR)
    a, b = (vector(made, tokenizer, t, "mean") for t in PAIR)
    torch.testing.assert_close(exp.receipt.target_value[0], torch.cosine_similarity(a, b, 0))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "LORA"}, "names no base; load the base with Transformers"),
        (
            {"peft_type": "LORA", "base_model_name_or_path": "org/base"},
            "an adapter of 'org/base', which is not a local folder",
        ),
        ({"peft_type": "LORA", "base_model_name_or_path": "../../x"}, "which is not a local folder with a model"),
        (
            {"peft_type": "PREFIX_TUNING", "base_model_name_or_path": "zoo/bert-sentiment"},
            r"\(PREFIX_TUNING\) that adds tokens",
        ),
        ({"peft_type": "LORA", "base_model_name_or_path": "zoo/bert-sentiment"}, "no adapter_model.safetensors"),
        (None, "cannot be read as JSON"),
    ],
)
def test_adapters_that_cannot_be_put_on(config, said, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was opened"))
    (tmp_path / "adapter_config.json").write_text("{" if config is None else json.dumps(config))
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    with pytest.raises(Misuse, match=said) as raised:
        regard.load(tmp_path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists()


def test_without_peft_an_adapter_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    said = {"peft_type": "LORA", "base_model_name_or_path": "zoo/bert-sentiment"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match="adapters are loaded with peft, which is missing: pip install peft"):
        regard.load(tmp_path)


# ---------------------------------------------------------------- what leads to other files


class Touch:
    """A pickle that, opened without care, leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("files", "settings", "said"),
    [
        ({"model.safetensors.index.json": {"weight_map": {"a": "pytorch_model.bin"}}}, {}, "names 'pytorch_model.bin'"),
        ({"model.safetensors.index.json": {"weight_map": {"a": "../x.safetensors"}}}, {}, "names '../x.safetensors'"),
        (
            {"model.safetensors.index.json": {"weight_map": {"a": "/tmp/x.safetensors"}}},
            {},
            "not safetensors in its own",
        ),
        (
            {"model.safetensors.index.json": {"weight_map": {"a": "..\\x.safetensors"}}},
            {},
            "not safetensors in its own",
        ),
        ({"model.safetensors.index.json": {"weight_map": ["a"]}}, {}, "does not say which weight is in which file"),
        ({"model.safetensors.index.json": "{"}, {}, "cannot be read as JSON"),
        (
            {"model.safetensors.index.fp16.json": {"weight_map": {"a": "pytorch_model.bin"}}},
            {"variant": "fp16"},
            "names",
        ),
        ({"config.json": {"transformers_weights": "adapter_model.bin"}}, {}, "config.json names 'adapter_model.bin'"),
        ({"deep/model.safetensors.index.json": {"weight_map": {"a": "x.bin"}}}, {"subfolder": "deep"}, "names 'x.bin'"),
    ],
)
def test_no_file_of_a_folder_leads_to_a_pickle(files, settings, said, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was opened"))
    source = Path(zoo_folder("zoo/bert-sentiment"))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "deep").mkdir(exist_ok=True)
        for folder in (tmp_path, tmp_path / "deep"):
            shutil.copy(source / name, folder / name)
    for name in ("pytorch_model.bin", "adapter_model.bin", "x.bin"):
        (tmp_path / name).write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    for name, value in files.items():
        old = json.loads((tmp_path / name).read_text()) if (tmp_path / name).is_file() else {}
        text = value if isinstance(value, str) else json.dumps(old | value)
        (tmp_path / name).write_text(text)
    with pytest.raises(Misuse, match=said) as raised:
        regard.load(tmp_path, **settings)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists()


def test_shards_of_safetensors_load(tmp_path):
    model, tokenizer = head("BertForSequenceClassification", num_hidden_layers=2)
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    same(regard.load(tmp_path).explain("the movie"), regard.load(model, processor=tokenizer).explain("the movie"))
    assert Checkpoint(str(tmp_path), {}).find("nothing.json") is None


def test_a_library_that_is_missing_is_the_whole_error(tmp_path, monkeypatch):
    """Transformers says it in four lines, of which the first is empty."""
    long = (
        "\nQwen2VLVideoProcessor requires the Torchvision library but it was not found in your environment. Check out the "
        "instructions on the\ninstallation page: https://pytorch.org/get-started/locally/ and follow the ones\n"
    )

    def missing(*args, **kwargs):
        raise ImportError(long)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", missing)
    with pytest.raises(ModelError) as raised:
        regard.load("zoo/bert-sentiment")
    name = str(zoo_folder("zoo/bert-sentiment"))
    assert str(raised.value) == (
        f"the tokenizer of {name!r} cannot be loaded: it needs Torchvision, which is not installed (pip install torchvision)"
    )
