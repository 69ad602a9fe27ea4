"""From a raw text, or two, to tensors, tokens and words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regard
from regard.errors import InputError
from regard.explanation.raw_inputs import Text, words_of
from regard.models.texts import words
from regard.reader import load
from support.folders import byte_level, text_parts, wordpiece

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "gpt2"])
def test_text_folders_load_read_and_run(name, text_folder):
    reader = load(text_folder(name))
    assert (reader.kind, reader.stream) == ("text", "input_ids")
    assert reader.labels == ["negative", "positive"]
    raw = ["the lovely movie", "don't, the"]
    reading = reader.read(raw)
    ids = reading.inputs["input_ids"]
    with torch.no_grad():
        batch = reader.model(**reading.inputs).logits
        alone = torch.cat([reader.model(**reader.read(text).inputs).logits for text in raw])
    assert torch.allclose(batch, alone, atol=1e-6)
    special = reading.special["input_ids"]
    assert special.shape == ids.shape
    assert special.dtype == torch.bool
    assert special[reading.inputs["attention_mask"] == 0].all()
    for i, text in enumerate(reading.raw["input_ids"]):
        assert isinstance(text, Text)
        assert len(text.tokens) == len(text.offsets) == len(text.special) == ids.shape[1]
        assert text.special == special[i].tolist()
        assert text.text == raw[i]
        assert all(span == (0, 0) for span, s in zip(text.offsets, text.special) if s)
        summed = words_of(text, [0.0 if s else 1.0 for s in text.special])
        real = sum(not s and not text.text[a:b].isspace() for (a, b), s in zip(text.offsets, text.special))
        assert sum(word.score for word in summed) == real
        assert all(word.score > 0 for word in summed)


def test_words_are_joined_from_pieces_through_offsets(text_folder):
    text = load(text_folder("bert")).read("The lovely movie, don't").raw["input_ids"][0]
    assert text.tokens == ["[CLS]", "the", "love", "##ly", "movie", ",", "don", "'", "t", "[SEP]"]
    scores = [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    summed = [(w.text, w.score) for w in words_of(text, scores)]
    assert summed == [("The", 1), ("lovely", 5), ("movie", 4), (",", 5), ("don't", 21)]


def test_byte_level_offsets_begin_after_the_space(text_folder):
    text = load(text_folder("gpt2")).read("the lovely movie é").raw["input_ids"][0]
    assert " lovely" in text.tokens
    assert text.offsets[text.tokens.index(" lovely")] == (4, 10)
    assert text.offsets[-1] == text.offsets[-2] == (17, 18)  # two bytes of one letter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop!", ["Don't", "stop", "!"]),
        ("don’t", ["don’t"]),
        ("movie, great.", ["movie", ",", "great", "."]),
        ("wait... what?!", ["wait", "...", "what", "?", "!"]),
        ("a well-made $3.50, 1,000-page (tome)", ["a", "well-made", "$", "3.50", ",", "1,000-page", "(", "tome", ")"]),
        ("'quoted' dogs'", ["'", "quoted", "'", "dogs", "'"]),
        ("e.g. x.y", ["e", ".", "g", ".", "x", ".", "y"]),
        ("  tabs\tand\nlines  ", ["tabs", "and", "lines"]),
        ("naïve nai\u0308ve हिन्दी", ["naïve", "nai\u0308ve", "हिन्दी"]),
        ("我爱你 ok", ["我", "爱", "你", "ok"]),
        ("👩\u200d🚀 ❤\ufe0f", ["👩\u200d🚀", "❤\ufe0f"]),
        ("", []),
    ],
)
def test_words_as_a_reader_sees_them(text, expected):
    assert [text[a:b] for a, b in words(text)] == expected


def test_every_character_that_is_no_space_lies_in_exactly_one_word():
    generator = np.random.default_rng(0)
    pool = list("ab1 .,'’-é\u0308日\u200d🚀$\n\t_ह\u093f")
    for _ in range(300):
        text = "".join(generator.choice(pool, 12))
        covered = [i for a, b in words(text) for i in range(a, b)]
        assert len(covered) == len(set(covered))
        missed = {text[i] for i in range(len(text)) if i not in set(covered)}
        assert all(c.isspace() for c in missed)


def of_pairs(folder: Path) -> tuple[Any, Any]:
    from tokenizers import processors

    tokenizer = wordpiece()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return load(folder, processor=tokenizer), tokenizer


def test_a_pair_of_texts_is_read_as_the_tokenizer_reads_it(text_folder):
    reader, tokenizer = of_pairs(text_folder("bert"))
    first, second = "The lovely movie", "  don't mind, a movie"
    reading = reader.read([(first, second), "great movie"])
    alone = tokenizer(first, second, return_tensors="pt")
    length = alone["input_ids"].shape[1]
    assert int(alone["token_type_ids"].sum()) > 0
    for key, value in alone.items():
        assert reading.inputs[key][0, :length].tolist() == value[0].tolist()
    text = reading.raw["input_ids"][0]
    assert text.text == f"{first}\n{second}"
    at = {t: text.text[a:b] for t, (a, b) in zip(text.tokens, text.offsets, strict=True) if b}
    assert at == {"the": "The", "love": "love", "##ly": "ly", "don": "don", "'": "'", "t": "t", "mind": "mind",
                  ",": ",", "a": "a", "movie": "movie"}  # fmt: skip
    summed = [(w.text, w.score) for w in words_of(text, [float(not s) for s in text.special])]
    assert summed == [
        ("The", 1),
        ("lovely", 2),
        ("movie", 1),
        ("don't", 3),
        ("mind", 1),
        (",", 1),
        ("a", 1),
        ("movie", 1),
    ]
    exp = reader.explain((first, second), method="gae")
    direct = regard.explain(reader.model, dict(alone), method="gae")
    torch.testing.assert_close(exp.scores["input_ids"], direct.scores["input_ids"])


@pytest.mark.parametrize("pair", [("great", " "), ("great", 3), ("a", "the", "movie")])
def test_odd_pairs_of_texts_are_refused(pair, text_folder):
    reader, _ = of_pairs(text_folder("bert"))
    with pytest.raises(InputError, match=r"text 0 is (empty|of type int|of type tuple)"):
        reader.read(pair)


def test_a_pair_that_is_too_long_is_refused_or_cut(text_folder):
    reader, _ = of_pairs(text_folder("bert"))
    long = ("the movie " * 6, "a great mind " * 5)
    with pytest.raises(InputError, match="text 0 has 30 tokens"):
        reader.read(long)
    with pytest.warns(UserWarning, match="only its first 20 tokens"):
        text = reader.read(long, truncate=True).raw["input_ids"][0]
    assert {text.text[a:b] for a, b in text.offsets if b} == {"the", "movie", "a", "great", "mind"}


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_empty_text_is_refused(text, text_folder):
    reader = load(text_folder("bert"))
    with pytest.raises(InputError, match="text 1 is empty"):
        reader.read(["great", text])


def test_other_bad_raw_input_is_named(text_folder, image_folder):
    reader = load(text_folder("bert"))
    with pytest.raises(InputError, match="text 0 is of type int; give a str"):
        reader.read(3)
    with pytest.raises(InputError, match="an empty list was given"):
        reader.read([])
    with pytest.raises(InputError, match="text 0 makes no tokens"):
        reader.read("\u200b\u200b")
    with pytest.raises(InputError, match="no such picture: cat in the hat"):
        load(image_folder("vit")).read("cat in the hat")


@pytest.mark.parametrize(("name", "limit"), [("bert", 20), ("distilbert", 20), ("roberta", 20), ("gpt2", 30)])
def test_too_long_a_text_is_stated_and_never_cut_silently(name, limit, text_folder):
    reader = load(text_folder(name))
    fits = next(n for n in range(limit, 0, -1) if len(reader.processor("a " * n)["input_ids"]) <= limit)
    reading = reader.read("a " * fits)
    reader.model(**reading.inputs)
    said = rf"text 0 has \d+ tokens, but \w+ takes at most {limit}; split it, or pass truncate=True"
    with pytest.raises(InputError, match=said):
        reader.read("a " * (limit + 1))
    before = reader.processor.backend_tokenizer.to_str()
    with pytest.warns(UserWarning, match=f"takes at most {limit}: only its first {limit} tokens were read"):
        cut = reader.read("a " * 40, truncate=True)
    assert cut.inputs["input_ids"].shape == (1, limit)
    (text,) = cut.raw["input_ids"]
    assert ("a " * 40).startswith(text.text)
    assert len(text.text) == max(b for _, b in text.offsets) <= 2 * limit
    reader.model(**cut.inputs)
    assert reader.processor.backend_tokenizer.to_str() == before


def test_the_tokenizers_own_limit_counts(text_folder):
    reader = load(text_folder("bert"), processor=wordpiece(model_max_length=6))
    with pytest.raises(InputError, match="has 7 tokens, but BertForSequenceClassification takes at most 6"):
        reader.read("the the the the the")


def test_padding_on_the_left_is_kept_and_marked(text_folder):
    folder = text_folder("bert")
    reader = load(folder, processor=wordpiece(padding_side="left"))
    raw = ["the lovely movie", "great"]
    reading = reader.read(raw)
    text = reading.raw["input_ids"][1]
    assert text.tokens == ["[PAD]", "[PAD]", "[PAD]", "[CLS]", "great", "[SEP]"]
    assert text.offsets == [(0, 0)] * 4 + [(0, 5), (0, 0)]
    assert text.special == [True, True, True, True, False, True]


def test_padding_on_the_left_keeps_a_decoders_positions(text_folder):
    reader = load(text_folder("gpt2"), processor=byte_level(trim=False, padding_side="left"))
    raw = ["the lovely movie", "the"]
    reading = reader.read(raw)
    assert reading.inputs["position_ids"][1].tolist()[-2:] == [0, 1]
    assert "position_ids" not in reader.read(raw[0]).inputs
    with torch.no_grad():
        batch = reader.model(**reading.inputs).logits
        alone = torch.cat([reader.model(**reader.read(t).inputs).logits for t in raw])
    assert (alone[0] - alone[1]).abs().max() > 1e-4
    assert torch.allclose(batch, alone, atol=1e-6)


def test_a_tokenizer_without_padding_token_is_left_so(text_folder):
    folder = text_folder("gpt2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    before = tokenizer.backend_tokenizer.to_str()
    reader = load(model, processor=tokenizer)
    reader.read("the movie")
    with pytest.raises(InputError, match=r"takes one text at a time.*set model.config.pad_token_id"):
        reader.read(["the movie", "a"])
    assert model.config.pad_token_id is None
    assert tokenizer.pad_token is None
    assert tokenizer.backend_tokenizer.to_str() == before
    model.config.pad_token_id = tokenizer.eos_token_id
    ids = reader.read(["the lovely movie", "a"]).inputs["input_ids"]
    assert ids[1, -1] == tokenizer.eos_token_id


def test_keywords_that_the_model_does_not_take_are_left_out(text_folder):
    model = load(text_folder("distilbert")).model
    tokenizer = wordpiece(model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    assert "token_type_ids" in tokenizer("a")
    assert set(load(model, processor=tokenizer).read("a").inputs) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("head", "task"),
    [
        ("BertForMaskedLM", "masked-lm"),
        ("BertForTokenClassification", "token-classification"),
        ("BertForQuestionAnswering", "question-answering"),
        ("GPT2LMHeadModel", "causal-lm"),
    ],
)
def test_other_heads_load_by_their_architecture(head, task, tmp_path):
    config, tokenizer = text_parts("gpt2" if head.startswith("GPT2") else "bert")
    if head.endswith(("LM", "LMHeadModel", "Answering")):
        config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    getattr(transformers, head)(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reader = load(tmp_path)
    assert type(reader.model).__name__ == head
    assert reader.labels == (["negative", "positive"] if "Token" in head else [])
    reader.model(**reader.read(["the movie", "a"]).inputs)
    assert type(load(tmp_path, task=task).model).__name__ == head


def test_what_was_cut_off_is_no_part_of_the_text():
    """Words, pages and pictures are made of what was read, however long the rest is."""
    reader = regard.load("zoo/bert-sentiment")
    text = "a b " * 20_000
    cut = reader.explain(text, truncate=True)
    limit = cut.scores["input_ids"].shape[1]
    assert cut.inputs["input_ids"][0].text == text[: 2 * (limit - 2)].rstrip()
    assert len(cut.words[0]) == limit - 2
    assert any("only its first" in note for note in cut.receipt.notes)


def test_of_two_texts_what_was_cut_off_holds_no_words():
    reader = regard.load("zoo/bert-sentiment")
    with pytest.warns(UserWarning, match="only its first"):
        made = reader.read(("a b " * 2000, "fine"), truncate=True)
    (text,) = made.raw["input_ids"]
    starts = {a for a, b in text.offsets if b > a}
    assert len(text.words) == len(starts)
    assert {a for a, _ in text.words} == starts
