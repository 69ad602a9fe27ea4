"""The classifier reads texts, learns, and is kept on disk; the corpora are what they say."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from regard.errors import InputError, Misuse
from regard.theory import (
    AttentionClassifier,
    Recipe,
    accuracy,
    analytic_limit,
    language,
    read,
    read_treebank,
    seven,
    train,
    units,
    write,
)
from regard.theory.classifier import sinusoids, words_of
from regard.theory.data import OPENING, STRENGTH, phrases, read_trees

SST = Path(__file__).resolve().parents[3] / "shared" / "data" / "sst"
SMALL = Recipe(epochs=1, heads=2, width=8, keys=4, values=4)


def test_words_of_a_text():
    model = AttentionClassifier(["it", "is", "n't", "good", ".", "'s", "well-made"])
    for said, words in (
        ("It isn't GOOD.", ["it", "is", "n't", "good", "."]),
        ("It’s well-made", ["it", "'s", "well-made"]),
        (["It", "is"], ["it", "is"]),
    ):
        assert words_of(said) == words
        ids = model.read(said)["input_ids"][0].tolist()
        assert [model.words[i] for i in ids] == ["[CLS]", *words]
    both = model.read("it is", "good")
    assert both["input_ids"].tolist() == [[2, 3, 4], [2, 6, 0]]
    assert both["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert model.read("strange")["input_ids"].tolist() == [[2, 1]]
    assert model.read("good " * 100)["input_ids"].shape == (1, model.length)


def test_misuse():
    for how, said in (({"heads": 0}, "heads is a whole number"), ({"width": 7}, "width is even")):
        with pytest.raises(Misuse, match=said):
            AttentionClassifier(["a"], **how)
    with pytest.raises(InputError, match="no words"):
        AttentionClassifier(["a"]).read("a", "")


def test_positions_are_sines_and_cosines():
    W_p = sinusoids(7, 6)
    for t in range(7):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            assert W_p[t, 2 * i] == pytest.approx(np.sin(angle), abs=1e-6)
            assert W_p[t, 2 * i + 1] == pytest.approx(np.cos(angle), abs=1e-6)


def test_the_language_is_what_it_says(corpus):
    assert corpus == language(0, train=2000, dev=100, test=300)
    assert corpus != language(1, train=2000, dev=100, test=300)
    for text in corpus.test:
        clauses = " ".join(text.words).replace(" while ", " and ").replace(" but ", " and ").replace(" , ", " and ")
        sums = [sum(STRENGTH.get(w, 0) for w in clause.split()) for clause in clauses.split(" and ")]
        assert text.label == float(OPENING * sums[0] + sum(sums[1:]) > 0)
        assert text.signs == tuple(STRENGTH.get(w, 0) for w in text.words)
    assert 0.4 < np.mean([t.label for t in corpus.test]) < 0.6


def test_training_is_seeded_and_leaves_the_random_state_alone(corpus):
    small = corpus._replace(train=corpus.train[:200])
    before = torch.get_rng_state()
    told = []
    a, b, c = (train(small, SMALL, seed, lambda *said: told.append(said)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.embedding.weight, c.embedding.weight)
    assert told[0] == ("training", 1, 4)
    assert told[-1] == ("training", 4, 4)


def test_the_trained_one_ranks_by_attention_without_sign_and_by_lime_with_it(corpus, trained):
    """The message of the paper, on words whose sign is known by construction."""
    assert accuracy(trained, corpus.test) > 0.9
    model = trained.double()
    signs, scores = [], []
    for text in corpus.test[:60]:
        ids = model.read(text.words)["input_ids"][0]
        found = seven(model, ids, text.words, samples=300)
        found["limit"] = analytic_limit(model, ids, of := units(model, ids))[of.of[1:]]
        signs += text.signs
        scores.append(torch.stack([*found.values()]))
    names, all_scores, own = [*found], torch.cat(scores, 1), np.array(signs)
    row = {name: all_scores[i].numpy() for i, name in enumerate(names)}
    spoken, silent = own != 0, own == 0
    for name in ("α-avg", "α-max", "G-l1", "G-l2"):
        assert (row[name] >= 0).all(), name
    assert np.median(row["α-avg"][spoken]) > 3 * np.median(row["α-avg"][silent])
    for name, least in (("limit", 0.97), ("LIME", 0.97), ("G×I", 0.85)):
        assert (row[name] * own > 0)[spoken].mean() > least, name
    trained.float()


def test_the_opening_counts_more(trained):
    """What position does: the same word, later in the sentence, says less of the same sign."""
    rest = words_of("the plot was long, the cast is early and the music feels french")
    limits = []
    for at in (3, 8):
        words = [*rest[:at], "dreadful", *rest[at + 1 :]]
        model = trained.double()
        ids = model.read(words)["input_ids"][0]
        of = units(model, ids)
        limits.append(float(analytic_limit(model, ids, of)[of.words.index("dreadful")]))
    trained.float()
    assert limits[0] < 1.4 * limits[1] < 0


def test_a_round_trip(tmp_path, trained):
    names = write(trained, tmp_path, {"corpus": "x"})
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    again, card = read(tmp_path)
    assert card == {"corpus": "x"}
    assert again.words == trained.words
    inputs = trained.read("the script was witty")
    assert torch.equal(again(**inputs), trained(**inputs))
    double = trained.double()
    write(double, tmp_path)
    assert read(tmp_path)[0].embedding.weight.dtype == torch.float64
    trained.float()


def test_what_is_damaged_is_refused(tmp_path):
    model = AttentionClassifier(["a", "b"], heads=1, width=4, keys=2, values=2)
    with pytest.raises(InputError, match=r"has no config.json"):
        read(tmp_path)
    write(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(InputError, match="not of one classifier"):
        read(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    for change, said in (
        ({"format": "other"}, "is not of a classifier"),
        ({"width": 6}, "is damaged"),
        ({"heads": 0}, "is damaged"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=said):
            read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "words"}))
    with pytest.raises(InputError, match="is damaged: 'words'"):
        read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path)


def test_trees():
    found = [*phrases(r"(3 (2 The) (4 (3 (2 very) (4 Good)) (2 and\/or)))")]
    assert [(p.words, p.label, p.whole) for p in found] == [
        (("the",), 0.5, False),
        (("very",), 0.5, False),
        (("good",), 1.0, False),
        (("very", "good"), 1.0, False),
        (("and/or",), 0.5, False),
        (("very", "good", "and/or"), 1.0, False),
        (("the", "very", "good", "and/or"), 1.0, True),
    ]
    assert found[-1].signs == (0.0, 0.0, 2.0, 0.0)


def test_files_of_trees(tmp_path):
    with pytest.raises(InputError, match=r"no train.trees.txt.gz"):
        read_treebank(tmp_path)
    tree = "(4 (3 good) (2 film))\n(1 (2 a) (0 bore))\n(2 (2 a) (2 film))\n"
    for split in ("train", "test"):
        (tmp_path / f"{split}.trees.txt").write_text(tree)
    (tmp_path / "dev.trees.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="cannot be read"):
        read_treebank(tmp_path)
    (tmp_path / "dev.trees.txt.gz").write_bytes(gzip.compress(tree.encode()))
    corpus = read_treebank(tmp_path)
    assert [len(part) for part in (corpus.train, corpus.dev, corpus.test)] == [7, 2, 2]
    assert accuracy(train(corpus, SMALL), corpus.test) in (0.0, 0.5, 1.0)
    (tmp_path / "test.trees.txt").write_text("(2 (2 a) (2 film))\n")
    with pytest.raises(InputError, match="no test sentence that is positive or negative"):
        read_treebank(tmp_path)
    (tmp_path / "test.trees.txt").write_text("no tree\n")
    with pytest.raises(InputError, match="holds no trees"):
        read_treebank(tmp_path)


@pytest.mark.skipif(not SST.is_dir(), reason="the treebank is not beside the repository (../shared/data/sst)")
def test_the_treebank_has_its_known_counts():
    corpus = read_treebank(SST)
    assert (len(corpus.dev), len(corpus.test)) == (872, 1821)
    sentences = [t.words for t in read_trees(SST, "train") if t.whole and t.label != 0.5]
    assert (len(sentences), len(set(sentences))) == (6920, 6911)
