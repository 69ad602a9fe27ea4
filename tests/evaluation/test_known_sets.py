"""Every set of the zoo by its name, asked so that its answer is known: to the pixel, or to the token."""

import pickle

import pytest
import torch

import regard
from regard import zoo
from regard.errors import InputError, Misuse, UnknownName
from regard.evaluation import Example, KnownTokens, evaluate_rows
from regard.evaluation.data.reactions import Reaction
from regard.evaluation.data.sources import data_set
from regard.evaluation.examples import KnownSource
from regard.evaluation.protocols.known_tokens import found_among
from support.runs import small


@pytest.fixture
def read():
    """A reader and a data set by one name, as another process has them."""

    def made(name, **options):
        return regard.load(name), pickle.loads(pickle.dumps(data_set(name, **options)))

    return made


def answer_of(reader, data, example):
    """The model's class, as the set asks for it."""
    with torch.no_grad():
        return int(data.model_of(reader)(**example.reading.inputs).argmax(-1))


def test_captions_of_one_item(read):
    reader, data = read("zoo/clip-scenes")
    known = zoo.captions()
    rows = [i for i, kind in enumerate(known.kinds) if kind == "item"]
    assert (len(data), data.texts) == (len(rows), list(known.prompts))
    example = data.example(reader, 7)
    assert data.texts[example.label] == known.texts[rows[7]]
    assert torch.equal(example.mask, known.regions()[rows[7]])
    both = reader.read((known.images[known.scene[rows[7]]].numpy(), [*known.prompts])).inputs
    with torch.no_grad():
        expected = reader.model(**both).logits_per_image
        found = data.model_of(reader)(**example.reading.inputs)
    torch.testing.assert_close(found, expected)
    coloured = data_set("zoo/clip-scenes", captions="colour")
    assert (len(coloured), len(coloured.texts)) == (200, 48)
    with pytest.raises(UnknownName, match="did you mean 'colour'"):
        data_set("zoo/clip-scenes", captions="color")


def test_items_by_the_query_that_found_them(read):
    reader, data = read("zoo/detr-scenes")
    known = zoo.detections()
    found = [data.example(reader, i) for i in range(16)]
    assert len(data) == int((known.labels >= 0).sum())
    good = [e for e in found if not e.error]
    assert {e.error for e in found} - {""} == {
        "InputError: no query of the model found this item (class right, boxes overlap by half or more)"
    }
    assert len(good) >= 10
    assert all(answer_of(reader, data, e) == e.label for e in good)
    first = next(i for i, e in enumerate(found) if not e.error)
    assert torch.equal(found[first].mask, known.masks[tuple(data._items[first])])


def test_words_of_captions(read):
    reader, data = read("zoo/vlm-scenes")
    known = zoo.answers()
    found = [data.example(reader, i) for i in range(12)]
    words = [known.words(row)[at] for row, at in data._words[:12]]
    assert [reader.tokenizer.convert_ids_to_tokens(e.label) for e in found] == [w.text for w in words]
    assert all(torch.equal(e.mask, w.region) for e, w in zip(found, words, strict=True))
    assert sum(answer_of(reader, data, e) == e.label for e in found) >= 9
    assert len(data_set("zoo/vlm-scenes", asked=["what", "where"])) > 100
    with pytest.raises(UnknownName, match="did you mean 'where'"):
        data_set("zoo/vlm-scenes", asked="were")


def test_facts_and_the_token_that_they_rest_on(read):
    reader, data = read("zoo/llama-facts")
    facts = zoo.facts()
    assert (len(data), data.sourced, data.masked) == (len(facts), True, False)
    for number in (0, 3, 201):
        example = data.example(reader, number)
        words = ["<bos>", *facts[number].prompt.split()]
        assert [w for w, k in zip(words, example.known.source.tolist(), strict=True) if k] == [facts[number].answer]
        assert answer_of(reader, data, example) == example.label


def test_questions_and_the_regions_that_they_rest_on(read):
    reader, data = read("zoo/lxmert-scenes")
    asked = zoo.questions()
    rows = [i for i, answer in enumerate(asked.answers) if answer]
    assert len(data) == len(rows)
    found = [data.example(reader, i) for i in range(20)]
    assert all(torch.equal(e.known.source, asked.source[row]) for e, row in zip(found, rows, strict=False))
    assert [reader.labels[e.label] for e in found] == [asked.answers[row] for row in rows[:20]]
    assert sum(answer_of(reader, data, e) == e.label for e in found) >= 18


@pytest.mark.parametrize(
    ("name", "protocol", "metric"),
    [
        ("zoo/clip-scenes", "segmentation(sweep=[0.5])", "pointing"),
        pytest.param("zoo/detr-scenes", "segmentation(sweep=[0.5])", "pointing", marks=pytest.mark.long),
        pytest.param("zoo/vlm-scenes", "segmentation(sweep=[0.5])", "pointing", marks=pytest.mark.long),
        ("zoo/llama-facts", "known-tokens", "top"),
        ("zoo/lxmert-scenes", "known-tokens", "top"),
    ],
)
def test_a_run_by_name_finds_more_than_chance(tmp_path, name, protocol, metric):
    found = small(tmp_path / "run", model=name, methods=["random", "gae"], protocols=[protocol], examples=8, batch=8)
    value = {s.title: s.value.value for s in found.summaries if s.metric == metric}
    assert value["gae"] > value["random"] + 0.3
    assert found.complete


def test_a_flat_map_gets_what_chance_gives_and_the_rest_is_counted():
    source = torch.tensor([True, False, True, False, False])
    competing = torch.tensor([True, True, True, True, False])
    known = KnownSource("input_ids", source, competing)
    flat = found_among(torch.ones(5), known)
    assert flat == {"top": 0.5, "ap": 0.5, "chance": 0.5, "competing": 4.0}
    assert found_among(torch.tensor([2.0, 1, 0, 0, 9]), known)["top"] == 1.0  # the largest of all does not compete
    assert found_among(torch.tensor([2.0, 2, 0, 0, 9]), known)["top"] == 0.5
    with pytest.raises(Misuse, match="has 4 scores, and 5 tokens are known of"):
        found_among(torch.ones(4), known)
    with pytest.raises(Misuse, match="none of the tokens that compete"):
        found_among(torch.ones(5), KnownSource("input_ids", ~competing, competing))
    with pytest.raises(UnknownName, match="did you mean 'absolute'"):
        KnownTokens(sign="absolute_")
    assert KnownTokens(sign="absolute").name == "known-tokens/top-1/absolute/true"


def test_known_tokens_through_the_runner():
    bert = regard.load("zoo/bert-sentiment")
    reading = bert.read("a fine film")
    at = torch.arange(reading.inputs["input_ids"].shape[1])
    known = KnownSource("input_ids", at == 2, at > 0)
    examples = [Example("known", reading, 1, known=known), Example("not", reading, 1)]
    rows = evaluate_rows(bert.model, examples, ["gae"], [KnownTokens(), KnownTokens(sign="absolute")])
    scores = bert.explain("a fine film", target=1, method="gae").scores["input_ids"][0]
    expected = float(int(scores[1:].argmax()) + 1 == 2)
    assert [r.value for r in rows if r.metric == "top"] == [expected, expected]
    assert {r.error for r in rows if r.error} == {"Misuse: of example not no token is known that its answer rests on"}


ACETYL = "[CH3:1][C:2](=[O:3])Cl.[OH:4][CH3:5]>>[CH3:1][C:2](=[O:3])[O:4][CH3:5]"


class Tokens:
    """What is asked of a tokenizer."""

    cls_token, sep_token, mask_token_id = "[CLS]", "[SEP]", 3
    known = ("[UNK]", "[CLS]", "[SEP]", "[MASK]", "C", "(", "=", "O", ")", "Cl", ".", ">>")

    def convert_tokens_to_ids(self, texts):
        return [self.known.index(t) for t in texts]


def test_numbered_atoms(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    (tmp_path / "reactions.txt").write_text(f"{ACETYL}\n\n")
    data = data_set(f"atoms:{tmp_path}")
    assert [data.name_of(i) for i in range(len(data))] == [f"reaction 0, atom {n}" for n in range(1, 6)]
    config = BertConfig(vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    reader = type("Reader", (), {"model": BertForMaskedLM(config).eval(), "processor": Tokens(), "labels": ()})()
    example = data.example(reader, 3)  # the oxygen of the alcohol
    tokens = ["", *(t.text for t in Reaction.parse(ACETYL).tokens), ""]
    place = int(example.reading.inputs["place"])
    assert (tokens[place], Tokens.known[example.label]) == ("O", "O")
    assert int(example.reading.inputs["input_ids"][0, place]) == Tokens.mask_token_id
    assert example.known.source.nonzero()[:, 0].tolist() == [9]
    assert sum(example.known.competing.tolist()) == 6
    for among, count in (("element", 2), ("all", len(tokens) - 1)):
        assert int(data_set(f"atoms:{tmp_path}", among=among).example(reader, 3).known.competing.sum()) == count
    rows = evaluate_rows(data.model_of(reader), [data.example(reader, i) for i in range(5)], ["gae"], [KnownTokens()])
    assert len([r for r in rows if r.metric == "top"]) == 5
    before = data.digest()
    (tmp_path / "reactions.txt").write_text("C>>C\n")
    assert before != data.digest()
    with pytest.raises(InputError, match="holds no reaction whose atoms are numbered"):
        data_set(f"atoms:{tmp_path}")
    with pytest.raises(InputError, match=r"holds no reactions\.txt"):
        data_set(f"atoms:{tmp_path.parent}")
