"""Tokenizers of every make: which characters each token stands for, what tokens are called, what a word is.

Vocabularies are made here; a tokenizer that needs a package of its own (Moses, SentencePiece) is left out without it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn

import regard
from regard.errors import InputError, ModelError
from regard.explanation.raw_inputs import Text
from regard.models.alignment import Piece, joined
from regard.models.texts import read_texts, words
from support.tiny import strong

torch.set_num_threads(1)

TEXT = "The well-known cat's café, isn't it? \"Yes\" — x & y"
LETTERS = "abcdefghiklmnopstwxyzTIYé0123456789,.?'\"-&;@"
MERGES = "#version: 0.2\nt h 1\nth e</w> 1\nc a 1\nca t</w> 1\n"


class Reads(nn.Module):
    """A model whose forward takes what tokenizers make; it is not run."""

    def forward(self, input_ids, attention_mask=None):
        return input_ids


def read(tokenizer: Any, text: Any, **more: Any) -> tuple[Text, list[str]]:
    batch = read_texts(tokenizer, Reads(), [text], **more)
    return batch.texts[0], batch.notes


def pieces(text: Text) -> list[str]:
    """The characters that each token stands for; · where it stands for none."""
    return [text.text[a:b] if b > a else "·" for a, b in text.offsets]


def vocabulary(path: Path, *tokens: str) -> str:
    path.write_text(json.dumps({t: i for i, t in enumerate(dict.fromkeys(tokens))}), encoding="utf-8")
    return str(path)


def moses(folder: Path, *special: str) -> tuple[str, str]:
    """A vocabulary of letters, which end words or do not, and a few merges."""
    pytest.importorskip("sacremoses")
    (folder / "merges.txt").write_text(MERGES, encoding="utf-8")
    letters = [*LETTERS, *(c + "</w>" for c in LETTERS), "th", "the</w>", "ca", "cat</w>"]
    return vocabulary(folder / "vocab.json", *special, *letters), str(folder / "merges.txt")


def pieces_of(folder: Path, *special: str) -> tuple[str, str]:
    """A SentencePiece model of a few words, and a vocabulary that lacks some of its pieces."""
    trained = pytest.importorskip("sentencepiece")
    (folder / "corpus.txt").write_text("the well known cat is it yes café\n" * 20, encoding="utf-8")
    where = {"input": str(folder / "corpus.txt"), "model_prefix": str(folder / "sp")}
    trained.SentencePieceTrainer.train(**where, vocab_size=24, hard_vocab_limit=False, minloglevel=3)
    made = trained.SentencePieceProcessor(str(folder / "sp.model"))
    own = [made.id_to_piece(i) for i in range(3, made.get_piece_size() - 2)]
    return vocabulary(folder / "vocab.json", *special, *own), str(folder / "sp.model")


def wordpieces(folder: Path) -> str:
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[X_SEP]", "the", "well", "known", "cat", "s", "cafe", "is"]
    (folder / "vocab.txt").write_text("\n".join([*known, "##n", "t", "it", "?", "yes", "x", "y", "-", "'"]))
    return str(folder / "vocab.txt")


def bartpho_like(folder: Path) -> tuple[str, str]:
    (folder / "dict.txt").write_text("The 1\ncat@@ 1\ncaf@@ 1\né 1\n", encoding="utf-8")
    (folder / "codes").write_text("T h 1\nTh e</w> 1\nc a 1\nca t 1\n")
    return str(folder / "dict.txt"), str(folder / "codes")


class Letters(T.PreTrainedTokenizer):
    """A course's first tokenizer: one letter, one token."""

    def __init__(self, letters: str, **more: Any) -> None:
        self.letters = ["<pad>", "<unk>", *letters]
        super().__init__(pad_token="<pad>", unk_token="<unk>", **more)

    @property
    def vocab_size(self) -> int:
        return len(self.letters)

    def get_vocab(self) -> dict[str, int]:
        return {c: i for i, c in enumerate(self.letters)}

    def _tokenize(self, text: str, **more: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.letters.index(token) if token in self.letters else 1

    def _convert_id_to_token(self, index: int) -> str:
        return self.letters[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


class Numbers(Letters):
    """Its tokens are called by numbers, and its decoder says nothing: nobody can tell what they stand for."""

    def _tokenize(self, text: str, **more: Any) -> list[str]:
        return [str(len(word)) for word in text.split()]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "?" * len(tokens)


def japanese(folder: Path) -> Any:
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"猫が好きABc"]))
    kinds = {"word_tokenizer_type": "basic", "subword_tokenizer_type": "character"}
    return T.BertJapaneseTokenizer(str(folder / "vocab.txt"), **kinds)


MADE = {
    "byt5": lambda at: T.ByT5Tokenizer(),
    "perceiver": lambda at: T.PerceiverTokenizer(),
    "canine": lambda at: T.CanineTokenizer(),
    "letters": lambda at: Letters("abcdefghijklmnopqrstuvwxyzTYé ,.?'\"-&—"),
    "prophetnet": lambda at: T.ProphetNetTokenizer(wordpieces(at)),
    "phobert": lambda at: T.PhobertTokenizer(*bartpho_like(at)),
    "bertweet": lambda at: T.BertweetTokenizer(*bartpho_like(at)),
    "ctrl": lambda at: T.CTRLTokenizer(vocabulary(at / "v.json", "<unk>", "The", "ca@@"), bartpho_like(at)[1]),
    "japanese": japanese,
    "biogpt": lambda at: T.BioGptTokenizer(*moses(at, "<s>", "<pad>", "</s>", "<unk>")),
    "xlm": lambda at: T.XLMTokenizer(
        *moses(at, "<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10)))
    ),
    "fsmt": lambda at: fsmt(at),
    "marian": lambda at: marian(at),
    "m2m100": lambda at: m2m100(at),
}


def fsmt(folder: Path) -> Any:
    vocab, merges = moses(folder, "<s>", "<pad>", "</s>", "<unk>")
    return T.FSMTTokenizer(langs=["en", "de"], src_vocab_file=vocab, tgt_vocab_file=vocab, merges_file=merges)


def marian(folder: Path) -> Any:
    vocab, model = pieces_of(folder, "</s>", "<unk>", "<pad>", ">>fra<<")
    return T.MarianTokenizer(source_spm=model, target_spm=model, vocab=vocab)


def m2m100(folder: Path) -> Any:
    vocab, model = pieces_of(folder, "<s>", "<pad>", "</s>", "<unk>")
    return T.M2M100Tokenizer(vocab_file=vocab, spm_file=model, src_lang="en", tgt_lang="fr")


every = pytest.mark.parametrize("name", MADE)


# -- which characters a token stands for ------------------------------------------------------------------------------


@every
def test_every_character_is_that_of_its_tokens(name, tmp_path):
    text, notes = read(MADE[name](tmp_path), TEXT)
    assert not notes
    assert text.text == TEXT
    spans = [o for o, s in zip(text.offsets, text.special, strict=True) if not s and o[1] > o[0]]
    assert spans == sorted(spans)
    held = {i for a, b in spans for i in range(a, b)}
    assert all(TEXT[i].isspace() for i in range(len(TEXT)) if i not in held)
    cat, cafe = TEXT.index("cat"), TEXT.index("café")
    assert {a for a, _ in spans} >= {0, cat, cafe, TEXT.index("it?")}  # a token begins where a word does
    shown = [w for w in text.words if (w[0], w[1]) == (cafe, cafe + 4)]
    assert shown
    assert text.words == words(TEXT)


@every
def test_of_two_texts_and_of_one_that_is_cut(name, tmp_path):
    tokenizer = MADE[name](tmp_path)
    pair, notes = read(tokenizer, ("The cat", "is it?"))
    assert not notes
    shown = "".join(c for c, s in zip(pieces(pair), pair.special, strict=True) if not s and c != "·")
    assert "".join(shown.split()) == "Thecatisit?"
    whole, _ = read(tokenizer, TEXT)
    tokenizer.model_max_length = 12
    cut, notes = read(tokenizer, TEXT, truncate=True)
    assert len(cut.tokens) == 12
    assert "only its first 12 tokens" in notes[0]
    content = [o for o, s in zip(cut.offsets, cut.special, strict=True) if not s]
    assert content == [o for o, s in zip(whole.offsets, whole.special, strict=True) if not s][: len(content)]


def test_parts_of_a_character_stand_for_it_together():
    text, _ = read(T.ByT5Tokenizer(), "é€ 🍕")
    assert pieces(text) == ["é"] * 2 + ["€"] * 3 + [" "] + ["🍕"] * 4 + ["·"]
    assert text.tokens[:2] == ["<0xC3>", "<0xA9>"]


def test_what_moses_writes_in_code_is_the_character_that_it_stands_for(tmp_path):
    text, _ = read(MADE["biogpt"](tmp_path), "the cat's-eye & x")
    assert text.tokens[3:6] == ["&", "a", "p"]
    assert pieces(text)[1:4] == ["the", "cat", "'s"]
    assert [text.text[a:b] for a, b in text.words] == ["the", "cat's-eye", "&", "x"]


def test_unknown_words_stand_where_they_are_left_over(tmp_path):
    tokenizer = MADE["prophetnet"](tmp_path)
    text, notes = read(tokenizer, "The 🍕🍕 cat is ∑ it")
    assert not notes
    assert pieces(text) == ["The", "🍕🍕", "cat", "is", "∑", "it", "·"]
    assert not any(text.special[:-1])


def test_what_fits_in_two_ways_is_not_guessed(tmp_path):
    assert joined("bab a q", [Piece(None), Piece("a"), Piece(None)]) is None
    text, notes = read(MADE["prophetnet"](tmp_path), "🍕🍕 🍔 🌮")
    assert text.text == "[UNK] [UNK] [UNK]"
    assert [text.text[a:b] for a, b in text.words] == ["[UNK]"] * 3
    assert "each token is shown as a word of its own" in notes[0]


def test_tokens_that_nobody_can_place_are_words_of_their_own():
    tokenizer = Numbers("23456789")
    text, notes = read(tokenizer, "what is the question")
    assert text.text == "4 2 3 8"
    assert [text.text[a:b] for a, b in text.words] == text.tokens == ["4", "2", "3", "8"]
    assert notes[0].startswith("Numbers does not say which characters")
    config = T.BertConfig(
        vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    exp = regard.load(strong(T.BertForSequenceClassification(config)), processor=tokenizer).explain(
        "what is the question"
    )
    assert [w.text for w in exp.words[0]] == ["4", "2", "3", "8"]
    torch.testing.assert_close(torch.tensor([w.score for w in exp.words[0]]), exp.scores["input_ids"][0])
    assert notes[0] in exp.receipt.notes


def test_a_prompt_and_what_is_written_of_it_without_offsets():
    small = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = T.T5Config(vocab_size=400, decoder_start_token_id=0, eos_token_id=None, **small)
    reader = regard.load(strong(T.T5ForConditionalGeneration(config)), processor=T.ByT5Tokenizer())
    g = reader.explain_generation("a café", 3)
    assert g.prompt == "a café"
    assert [w.text for w in g.words[0][:2]] == ["a", "café"]
    assert len(g) == 3
    exp = reader.explain("a café", regard.Target.next_token())
    torch.testing.assert_close(exp.words[0][1].score, float(exp.scores["input_ids"][0, 2:7].sum()))


def test_a_chat_without_offsets():
    tokenizer = Letters("abcdefghijklmnopqrstuvwxyz :\n?")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    text, _ = read(tokenizer, [{"role": "user", "content": "is it hot ?"}])
    assert "".join(c for c, s in zip(pieces(text), text.special, strict=True) if not s) == "is it hot ?"


def test_what_is_no_tokenizer_of_transformers_is_refused():
    class Mine:
        is_fast = False
        convert_ids_to_tokens = list

        def __call__(self, text):
            return {"input_ids": [1]}

    with pytest.raises(ModelError, match=r"use regard.explain\(model, inputs\)"):
        read(Mine(), "a")


def test_a_tokenizer_with_more_tokens_than_the_model_is_one_sentence():
    config = T.BertConfig(
        vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    reader = regard.load(T.BertForSequenceClassification(config).eval(), processor=Letters("abcdefghij"))
    with pytest.raises(InputError, match=r"Letters made token 11 \('j'\), but BertForSequenceClassification knows 9"):
        reader.explain("a j b")


# -- what tokens are called -------------------------------------------------------------------------------------------


def test_tokens_of_bytes_are_called_what_they_spell():
    made = Tokenizer(models.BPE({c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = T.PreTrainedTokenizerFast(tokenizer_object=made, extra_special_tokens=["<｜Ġend｜>"])
    text, _ = read(tokenizer, "a é\n<｜Ġend｜>")
    assert text.tokens == ["a", " ", "<0xC3>", "<0xA9>", "\n", "<｜Ġend｜>"]


# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("👍🏽👍🏽 👋🏿", ["👍🏽👍🏽", "👋🏿"]),
        ("🇫🇷🇫🇮🇩🇪 🇫🇷🇫🇷", ["🇫🇷", "🇫🇮", "🇩🇪", "🇫🇷🇫🇷"]),
        ("👩🏽‍💻ok ❤️‍🔥", ["👩🏽‍💻", "ok", "❤️‍🔥"]),
        ("🏴󠁧󠁢󠁥󠁮󠁧󠁿! 1️⃣", ["🏴󠁧󠁢󠁥󠁮󠁧󠁿", "!", "1️⃣"]),
        ("น้ำดี โลก", ["น้ำ", "ดี", "โล", "ก"]),
        ("ສະບາຍດີ", ["ສະ", "ບາ", "ຍ", "ດີ"]),
        ("ស្តី", ["ស្តី"]),
        ("人々の", ["人", "々", "の"]),
        ("می‌خواهم بروم", ["می‌خواهم", "بروم"]),
        ("wait...!! a--b", ["wait", "...", "!!", "a", "--", "b"]),
    ],
)
def test_what_combines_stays_together(text, expected):
    assert [text[a:b] for a, b in words(text)] == expected
