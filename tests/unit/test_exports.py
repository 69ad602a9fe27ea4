"""What scores are added up over, and how an explanation leaves: as values, JSON, a table, a pickle, a single sample."""

from __future__ import annotations

import copy
import cProfile
import io
import json
import math
import pickle
import re
import sys
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("transformers")

import regard
from regard import Explanation, Generation
from regard.errors import InputError, Misuse, UnknownName
from regard.explanation.places import Raster
from regard.explanation.raw_inputs import Picture, Text, words_of
from regard.explanation.receipt import Receipt
from regard.explanation.spans import Group, grouped, split
from regard.report.explanation.html import page
from regard.report.generation import html as writing
from regard.report.generation.view import view
from regard.report.view import word_pieces
from support.drawn import picture
from support.writers import save

torch.set_num_threads(1)

TEXT = "A dull start. But 2.5 hours later\nI cried!\n\nSee it."
KINDS = ("word", "sentence", "paragraph", "line")


@pytest.fixture(scope="module")
def reader():
    return regard.load("zoo/bert-sentiment")


@pytest.fixture(scope="module")
def both(reader) -> Explanation:
    return reader.explain([TEXT, "a film ."], method="gae")


def text_of(spelt: str, cut: list[str], **more) -> Text:
    """A text in pieces, as a tokenizer without spaces of its own would cut it; "" is a special token."""
    offsets, at = [], 0
    for piece in cut:
        found = spelt.index(piece, at) if piece else 0
        offsets.append((found, found + len(piece)))
        at = max(at, found + len(piece))
    return Text(spelt, cut, offsets, [], [not p for p in cut], **more)


# ---------------------------------------------------------------- parts of a text


@pytest.mark.parametrize(
    ("kind", "text", "parts"),
    [
        ("sentence", "One. Two? Three", ["One. ", "Two? ", "Three"]),
        ("sentence", 'He said "No!" Then he left.', ['He said "No!" ', "Then he left."]),
        ("sentence", "3.5 of v1.2 is fine… yes", ["3.5 of v1.2 is fine… ", "yes"]),
        ("sentence", "他来了。她走了！好", ["他来了。", "她走了！", "好"]),
        ("sentence", "a title\n\nA text", ["a title\n\n", "A text"]),
        ("sentence", "wrapped\nline", ["wrapped\nline"]),
        ("sentence", "  \n\n One.  \n\n", ["  \n\n ", "One.  \n\n"]),
        ("paragraph", "a\nb\n \n\nc", ["a\nb\n \n\n", "c"]),
        ("line", "a\n\nb", ["a\n", "\n", "b"]),
        ("line", "a\r\nb\n", ["a\r\n", "b\n"]),
    ],
)
def test_texts_are_split_without_a_gap(kind, text, parts):
    assert [text[a:b] for a, b in split(text, kind)] == parts


@pytest.mark.parametrize("kind", KINDS)
def test_groups_and_what_is_elsewhere_are_the_whole_stream(both, kind):
    """In any text: what is left out of groups is said to be elsewhere."""
    for sample, groups in enumerate(both.grouped(kind)):
        scores = both.scores["input_ids"][sample]
        assert sum(g.score for g in groups) + groups.elsewhere == pytest.approx(float(scores.sum()), abs=1e-6)
        special = torch.tensor(both.inputs["input_ids"][sample].special)
        assert groups.elsewhere == pytest.approx(float(scores[special].sum()), abs=1e-6)
        assert [g.text for g in groups] == [both.inputs["input_ids"][sample].text[g.start : g.end] for g in groups]
    if kind == "word":
        assert [g[1:] for g in both.grouped("word")[1]] == [tuple(w) for w in both.words[1]]


def test_a_token_counts_where_it_begins():
    text = text_of("abc def", ["", "ab", "c d", "ef", ""])
    scores = [9.0, 1.0, 2.0, 4.0, 8.0]
    assert [g.score for g in grouped(text, scores, [(0, 3), (4, 7)])] == [3.0, 4.0]
    cut = grouped(text, scores, {"b": (1, 2), "rest": [(0, 1), (4, 7)]})
    assert cut == [Group("b", "b", 1, 2, 0.0), Group("rest", "a … def", 0, 7, 5.0)]
    assert cut.elsewhere == 19.0
    nested = grouped(text, scores, {"all": (0, 7), "first": (0, 3)})  # each counts what it holds
    assert ([g.score for g in nested], nested.elsewhere) == ([7.0, 3.0], 17.0)


def test_line_ends_of_byte_level_tokens_are_in_no_word_but_in_a_line():
    text = text_of("if x:\n  y", ["if", " x", ":", "\n", "  ", "y"])
    lines = grouped(text, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], "line")
    assert ([g.score for g in lines], lines.elsewhere) == ([15.0, 48.0], 0.0)


def test_messages_are_those_of_a_chat():
    text = text_of("<u>hi there</u><a>ok", ["<u>", "hi", " there", "</u>", "<a>", "ok"])
    with pytest.raises(InputError, match="is no chat, so it has no messages"):
        grouped(text, [1.0] * 6, "message")
    chat = Text(**{**vars(text), "messages": [("user", 3, 11), ("assistant", 18, 20)]})
    groups = grouped(chat, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], "message")
    assert groups == [Group("user", "hi there", 3, 11, 6.0), Group("assistant", "ok", 18, 20, 32.0)]
    assert groups.elsewhere == 25.0


def test_messages_of_a_chat_that_a_reader_renders(tmp_path):
    reader = regard.load(save("llama", tmp_path))
    chat = [
        {"role": "system", "content": "a cat sits"},
        {"role": "user", "content": [{"type": "text", "text": "who has"}, {"type": "text", "text": "the key ?"}]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "what is in the picture ?"},
    ]
    roles = [
        ("system", "a cat sits"),
        ("user", "who hasthe key ?"),
        ("assistant", "a cat"),
        ("user", "what is in the picture ?"),
    ]
    g = reader.explain_generation(chat, 2, min_new_tokens=2)
    for found, scores in zip(g.grouped("message"), g.scores, strict=True):
        assert [(m.name, m.text) for m in found] == roles
        assert sum(m.score for m in found) + found.elsewhere == pytest.approx(float(scores.sum()), abs=1e-5)
    path = tmp_path / "saved"
    g.save(path)
    assert Generation.load(path).grouped("message") == g.grouped("message")


@pytest.mark.parametrize(
    ("by", "error", "said"),
    [
        ("sentense", UnknownName, "unknown part of a text 'sentense'; did you mean 'sentence'"),
        ([(0, 900)], Misuse, r"span number 0 \(0, 900\) is not in text 0, which has 51 characters"),
        ([(3, 3)], Misuse, "or it is empty"),
        ({"x": (-1, 2)}, Misuse, r"span x \(-1, 2\) is not in"),
        ({"x": (1, 2, 3)}, Misuse, "span x must be"),
        ({"x": "title"}, Misuse, "span x must be"),
        ([1, 2], Misuse, "span number 0 must be"),
        (7, Misuse, "not int"),
    ],
)
def test_spans_that_are_none(reader, by, error, said):
    exp = reader.explain(TEXT)
    with pytest.raises(error, match=said) as raised:
        exp.grouped(by)
    assert "\n" not in str(raised.value)


def test_spans_of_several_samples_and_streams(both):
    made = both.grouped([[(0, 1)], {"film": (2, 6)}])
    assert [groups[0].text for groups in made] == ["A", "film"]
    with pytest.raises(Misuse, match="spans are needed for each of the 2 texts, in a list; 1 were given"):
        both.grouped([(0, 1)])
    with pytest.raises(Misuse, match="no text is known of stream 'pixel_values'; texts: input_ids"):
        both.grouped("word", stream="pixel_values")
    plain = Explanation("gae", "x", {"input": torch.ones(1, 3)}, both[0].receipt)
    with pytest.raises(Misuse, match=r"no text is known: explain a raw text with regard\.load"):
        plain.grouped("word")


def test_words_are_found_in_one_pass():
    """As by looking through all words for each token: words may stand in any order."""
    text = text_of("ab cd ef", ["a", "b", "cd", "", " e", "f"])
    for words in ([(0, 2), (3, 5), (6, 8)], [(6, 8), (0, 2)], []):
        whole = Text(**{**vars(text), "words": words})
        slow = [
            next((w for w, (a, b) in enumerate(words) if o[1] > o[0] and a <= o[0] < b), None) for o in whole.offsets
        ]
        assert whole.word_of == slow
        scores = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
        assert [w.score for w in words_of(whole, scores)] == [
            sum(s for s, w in zip(scores, slow, strict=True) if w == n) for n in range(len(words))
        ]
        held = {i: p.tokens for p in word_pieces(whole, scores) if p.score is not None for i in p.tokens}
        assert sorted(held) == [i for i, w in enumerate(slow) if w is not None]


# ---------------------------------------------------------------- values, JSON, tables


def strict(text: str):
    def refuse(name: str):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_holds_what_the_explanation_does(both, tmp_path):
    made = strict(both.to_json())
    assert made == both.to_dict()
    assert made["scores"]["input_ids"] == both.scores["input_ids"].tolist()
    assert made["inputs"]["input_ids"][0]["words"][0] == both.words[0][0]._asdict()
    assert made["inputs"]["input_ids"][0]["tokens"] == both.tokens[0]
    assert made["receipt"]["output_difference"] == both.receipt.output_difference
    assert made["receipt"]["target_value"] == both.receipt.target_value.tolist()
    assert made["prediction"] == [[c._asdict() for c in row] for row in both.prediction]
    assert [row[0]["label"] for row in made["prediction"]] == ["negative", "positive"]
    path = both.to_json(tmp_path / "deep" / "a.json")
    assert strict(path.read_text(encoding="utf-8")) == made
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_what_is_undefined_is_null(reader):
    made = reader.explain("a film", method="rollout")
    made.receipt.measure().attribution_target = torch.zeros(1)
    assert math.isnan(float(made.receipt.relative_error))
    assert strict(made.to_json())["receipt"]["relative_error"] == [None]


def test_a_picture_leaves_without_its_pixels():
    exp = regard.load("zoo/vit-scenes").explain(torch.zeros(40, 56, 3, dtype=torch.uint8))
    made = strict(exp.to_json())
    assert made["grid"]["pixel_values"] == list(exp.grid["pixel_values"])
    assert made["inputs"]["pixel_values"][0]["size"] == [40, 56]
    assert "pixels" not in made["inputs"]["pixel_values"][0]
    rows = [r for r in _rows(exp) if r["stream"] == "pixel_values"]
    assert [(r["row"], r["column"]) for r in rows[:: exp.grid["pixel_values"][1] + 1]][:2] == [(0, 0), (1, 1)]


def _rows(exp):
    return exp.to_rows()


def test_a_table_has_a_row_for_every_token(both):
    rows = _rows(both)
    assert len(rows) == sum(s.numel() for s in both.scores.values())
    text = both.inputs["input_ids"][1]
    mine = [r for r in rows if r["sample"] == 1]
    assert [r["token"] for r in mine] == text.tokens
    assert [(r["start"], r["end"]) for r in mine] == text.offsets
    assert [r["score"] for r in mine] == both.scores["input_ids"][1].tolist()
    pandas = pytest.importorskip("pandas")
    frame = both.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == len(rows)


def test_the_old_name_of_the_output_difference_is_read(both):
    """`faithful`: the attribute, what `to_dict` gives, and receipts that were saved when it had no other name."""
    made = both.receipt.as_dict()
    assert both.receipt.faithful == made["faithful"] == made["output_difference"] == 0
    old = {name: value for name, value in made.items() if name != "output_difference"} | {"faithful": 0.5}
    back = Receipt.from_dict(old)
    assert (back.output_difference, back.faithful, back.same_output) == (0.5, 0.5, False)
    assert both.receipt.same_output


def polars_that_notes():
    """Stands for polars, which is not among the packages of these tests."""
    return SimpleNamespace(DataFrame=lambda rows, infer_schema_length: ("polars", rows, infer_schema_length))


def test_a_table_by_what_is_installed(both, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", polars_that_notes())
    assert both.to_dataframe("polars") == ("polars", both.to_rows(), None)
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert both.to_dataframe()[0] == "polars"
    with pytest.raises(Misuse, match=r"to_dataframe needs pandas, which is not installed: pip install pandas"):
        both.to_dataframe(backend="pandas")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(Misuse, match=r"to_dataframe needs pandas or polars, and neither is installed"):
        both.to_dataframe()
    with pytest.raises(UnknownName, match="unknown backend 'panda'; did you mean 'pandas'"):
        both.to_dataframe("panda")


def test_numpy_arrays_are_copies(both):
    made = both.numpy()
    assert {s: (a.dtype.name, a.tolist()) for s, a in made.items()} == {
        s: ("float32", t.tolist()) for s, t in both.scores.items()
    }
    made["input_ids"][:] = 7
    assert not (both.scores["input_ids"] == 7).any()


# ---------------------------------------------------------------- the page of a long prompt


def written(words: int, new: int, receipt) -> Generation:
    """Some tokens written after a prompt of so many words, with scores that nobody computed."""
    spelt = " ".join(f"w{i}" for i in range(words + new))
    spans = [(m.start(), m.end()) for m in re.finditer("[^ ]+", spelt)]
    text = Text(spelt, spelt.split(" "), spans, spans, [False] * len(spans))
    scores = torch.rand(new, words + new, generator=torch.Generator().manual_seed(words)).tril(words - 1)
    made = [
        Explanation("gae", f"target {i}", {"input_ids": row[None]}, receipt, inputs={"input_ids": [text]})
        for i, row in enumerate(scores)
    ]
    return Generation(made, [5] * new, "input_ids", words, "gae", "logit")


def calls(function) -> int:
    """How many Python calls something makes: its work, whatever else the machine does."""
    profile = cProfile.Profile()
    profile.enable()
    function()
    profile.disable()
    return sum(entry.callcount for entry in profile.getstats())


def test_the_work_of_a_page_grows_with_the_prompt_and_little_with_what_is_written(both):
    receipt = both[0].receipt
    receipt.measure()
    writing.page([written(8, 1, receipt)])  # templates are read once
    short, long = (calls(lambda n=n: writing.page([written(n, 10, receipt)])) for n in (250, 1000))
    assert long < 4.5 * short
    assert calls(lambda: writing.page([written(1000, 20, receipt)])) < 1.3 * long


def test_a_page_holds_each_unit_once_and_the_numbers_of_all_rows(both):
    receipt = both[0].receipt
    g = written(30, 4, receipt)
    made = writing.page([g])
    assert made.count('data-t="') == 2 * 30 + 4  # by words, by tokens, and what was written
    data = json.loads(re.search(r'id="regard-data">(.*?)</script>', made, re.S)[1])["generations"][0]
    for row, scores in zip(data["rows"], g.scores, strict=True):
        back = torch.tensor(row["q"]) * row["top"] / 1000
        torch.testing.assert_close(back, scores, atol=6e-4 * float(scores.max()), rtol=0)
    rows = view(g).rows
    for i, row in enumerate(rows):  # sums by hand
        best = sorted(((float(s), n) for n, s in enumerate(g.scores[i][: 30 + i])), reverse=True)[:3]
        assert [word for word, _ in row.most["words"]] == [f"w{n}" for _, n in best]
        shares = dict(row.shares)
        assert shares["prompt"] == pytest.approx(float(g.scores[i][:30].sum() / g.scores[i].sum()), abs=1e-5)


# ---------------------------------------------------------------- samples and pickles


def test_a_sample_is_an_explanation_of_its_own(reader, both):
    assert len(both) == 2
    assert [e.batch for e in both] == [1, 1]
    alone = reader.explain("a film .", method="gae")
    for one in (both[1], both[-1]):
        length = alone.scores["input_ids"].shape[1]
        torch.testing.assert_close(one.scores["input_ids"][:, :length], alone.scores["input_ids"], rtol=1e-4, atol=1e-6)
        assert one.inputs["input_ids"][0].text == "a film ."
        torch.testing.assert_close(one.receipt.attribution_target, both.receipt.attribution_target[1:])
        torch.testing.assert_close(one.receipt.target_value, both.receipt.target_value[1:])
        rows = one.between("input_ids", "input_ids", rows=[0])
        assert torch.equal(rows, both.between("input_ids", "input_ids", rows=[0])[1:])
    assert page([both[0]]) == page([both[0]])
    with pytest.raises(IndexError, match="there is no sample 2; the explanation holds 2"):
        both[2]
    with pytest.raises(Misuse, match="one sample at a time"):
        both["0"]
    assert [e.inputs["input_ids"][0].text for e in both[::-1]] == ["a film .", TEXT]
    assert [e.batch for e in both[-1:9]] == [1]
    assert both[2:] == []


@pytest.mark.parametrize(
    "how",
    [
        {"method": "lime", "samples": 30},
        {"method": "attention_mask", "steps": 3},
        {"method": "raw_attention", "heads": {1: 3}},
        {"method": "gae", "guide": "contrast"},
        {"method": "attnlrp"},
    ],
    ids=lambda how: how["method"],
)
def test_all_that_is_said_of_a_sample_is_its_own(reader, how):
    """Whatever a method puts on the receipt beside the usual."""
    exp = reader.explain([TEXT, "a film ."], **how)
    exp.test(random=19)
    for i, one in enumerate(exp):
        kept = json.loads(one.to_json())
        whole = json.loads(exp.to_json())
        assert kept["scores"] == {s: [rows[i]] for s, rows in whole["scores"].items()}
        for name in ("target_value", "relative_error", "explained", "conservation"):
            assert kept["receipt"][name] == (whole["receipt"][name] and [whole["receipt"][name][i]]), name
        own = [t["highest"] for t in whole["receipt"]["causal"] if t["sample"] == i]
        assert [t["highest"] for t in kept["receipt"]["causal"]] == own
        for part in ("surrogate", "mask", "explained_model"):
            for name, value in (kept["receipt"][part] or {}).items():
                of_all = whole["receipt"][part][name]
                assert value == ([of_all[i]] if isinstance(of_all, list) else value), (part, name)
        assert page([one])
        assert pickle.loads(pickle.dumps(one)) == one


def test_a_sample_is_measured_with_all_the_others(reader):
    exp = reader.explain([TEXT, "a film ."], method="gae")
    one = exp[0]
    assert exp.receipt._measured is None
    assert float(one.receipt.output_difference) == float(exp.receipt.output_difference)
    assert one.receipt.passes == exp.receipt.passes


def test_a_pickle_keeps_all_but_the_model(reader):
    exp = reader.explain([TEXT, "a film ."], method="gae")
    known = exp.between("input_ids", "input_ids", rows=[1])
    back = pickle.loads(pickle.dumps(exp))
    assert torch.equal(back.scores["input_ids"], exp.scores["input_ids"])
    assert back.to_dict() == exp.to_dict()
    assert back.receipt.output_difference is not None
    assert torch.equal(back.between("input_ids", "input_ids", rows=[1]), known)
    with pytest.raises(Misuse, match="before this explanation was saved or pickled, without its model; call between"):
        back.between("input_ids", "input_ids", rows=[2])
    assert page([back]) == page([exp])
    assert pickle.loads(pickle.dumps(back[1])).tokens == exp[1].tokens


def by_joblib(exp):
    joblib = pytest.importorskip("joblib")
    file = io.BytesIO()
    joblib.dump(exp, file)
    file.seek(0)
    return joblib.load(file)


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e)), by_joblib])
def test_a_twin_is_equal(reader, twin):
    exp = reader.explain([TEXT, "a film ."], method="gae")
    made = twin(exp)
    assert made == exp
    assert made.receipt == exp.receipt
    assert exp != exp[0]
    made.scores = {s: t + 1 for s, t in made.scores.items()}
    assert made != exp
    assert exp != "an explanation"


def test_pictures_that_share_a_row_are_cut_with_their_sample(both):
    """As models read them that put all pictures one after the other: two samples, a picture each, of 2 × 1 and 1 × 3."""
    pictures = [Picture(torch.full((8, 8, 3), n, dtype=torch.uint8), (0.0, 0.0, 8.0, 8.0), f"p{n}") for n in (1, 2)]
    scores = torch.tensor([[1.0, 2, 0, 0, 0], [0, 0, 5, 4, 3]])
    exp = Explanation(
        "gae",
        "x",
        {"pixel_values": scores},
        both.receipt,
        grid={"pixel_values": [(2, 1), (1, 3)]},
        rasters={"pixel_values": Raster(order=(1, 0, 4, 3, 2))},
        inputs={"pixel_values": pictures},
    )
    first, second = exp
    assert (first.grid, second.grid) == ({"pixel_values": (2, 1)}, {"pixel_values": (1, 3)})
    assert [e.inputs["pixel_values"][0].name for e in exp] == ["p1", "p2"]
    assert [e.image_map().tolist() for e in exp] == [[[[2.0], [1.0]]], [[[3.0, 4.0, 5.0]]]]
    for i, one in enumerate(exp):
        assert torch.equal(one.on_original()[0], exp.on_original()[i])
    exp.scores["pixel_values"][0] = 0  # a sample whose map is empty still has its own picture
    assert exp[0].inputs["pixel_values"][0].name == "p1"


def test_a_picture_that_is_compared_with_texts_is_one_sample():
    scene = torch.zeros(40, 56, 3, dtype=torch.uint8)
    exp = regard.load("zoo/clip-scenes").explain((scene, ["a bag", "a shirt"]))
    assert (len(exp), exp.batch) == (1, 2)
    (one,) = exp
    assert one == exp
    with pytest.raises(IndexError):
        exp[1]


# ---------------------------------------------------------------- what is printed


def test_what_is_printed_is_short(reader, both):
    for made in (both, both.receipt):
        assert len(repr(made).splitlines()) == 1
        assert "tensor" not in repr(made)
    assert repr(both) == "Explanation('gae', 'logit of the predicted class', 2 samples: input_ids 19)"
    lines = str(both).splitlines()
    assert max(map(len, [*lines, *str(both.receipt).splitlines()])) <= 80
    assert "dull" in str(both)
    first = next(i for i, line in enumerate(lines) if line.startswith("strongest tokens (8 of 19)"))
    shown = [abs(float(line.split()[-1])) for line in lines[first + 1 : first + 9]]
    best = both.scores["input_ids"][0].abs().sort(descending=True).values[:8]
    torch.testing.assert_close(torch.tensor(shown), best, rtol=5e-3, atol=0)
    many = reader.explain(["a film ."] * 6)
    assert str(many).count("strongest tokens") == 4
    assert "and 2 more samples: exp[4] to exp[5]" in str(many)


def test_printing_runs_nothing(reader):
    exp = reader.explain("a film .")
    print(exp, repr(exp), repr(exp.receipt))
    assert exp.receipt._measured is None
    assert "not measured yet" in repr(exp.receipt)
    assert "relative error" in str(exp.receipt)
    assert "not measured" not in repr(exp.receipt)


def test_what_is_printed_has_no_control_characters(both):
    text = text_of("a\x1b[31m\u202eb", ["a\x1b[31m\u202eb"], name="n\x07")
    exp = Explanation(
        "gae", "t\x1b[0m\n\n", {"input_ids": torch.ones(1, 1)}, both[0].receipt, inputs={"input_ids": [text]}
    )
    for said in (str(exp), repr(exp)):
        assert all(c.isprintable() for c in said.replace("\n", ""))


def test_several_are_a_list_that_prints_as_a_table(reader):
    found = reader.explain("a film .", ["positive", "negative"], method=["gae", "rollout"])
    assert isinstance(found, list)
    assert [e.method for e in found] == ["gae", "gae", "rollout", "rollout"]
    assert type(found[1:]) is type(found)
    back = pickle.loads(pickle.dumps(found))
    assert (type(back), back) == (type(found), found)
    lines = repr(found).splitlines()
    assert lines[0] == "4 explanations"
    assert len(lines) == 6
    assert max(map(len, lines)) <= 80
    rows = found.to_rows()
    assert {(r["method"], r["target"]) for r in rows} == {(e.method, e.target) for e in found}
    assert len(rows) == sum(len(e.to_rows()) for e in found)
    pytest.importorskip("pandas")
    assert list(found.to_dataframe().columns[:3]) == ["method", "target", "sample"]


def test_what_notebooks_show(reader):
    pytest.importorskip("matplotlib")
    found = reader.explain("a <b>film</b> .", method=["gae", "rollout"])
    compared = reader.compare("a film .", methods=["gae", "taylor"], sites=["block[1]"])
    for shown in (found, found[0].receipt, compared, regard.methods()):
        made = shown._repr_html_()
        assert "<table" in made
        assert "<b>film" not in made
        assert "<script" not in made
    assert found._repr_html_().count('class="regard-fragment"') == 2
    assert 'src="data:image/png;base64,' in compared._repr_html_()


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy])
def test_a_copy_still_knows_the_model(reader, twin):
    made = twin(reader.explain("a film .", method="gae"))
    assert made.between("input_ids", "input_ids", rows=[1]).shape[1] == 1


def test_a_generation_leaves_in_the_same_forms():
    prompt = "anna has the lamp . bob has the coin .\nwho has the coin ?"
    g = regard.load("zoo/llama-facts").explain_generation(prompt, 2)
    lines = g.grouped("line")
    assert [len(groups) for groups in lines] == [2] * len(g)
    for i, groups in enumerate(lines):
        assert sum(x.score for x in groups) + groups.elsewhere == pytest.approx(float(g.scores[i].sum()), abs=1e-5)
    (fact, _), *_ = g.grouped({"bob": (20, 38), "anna": (0, 19)})
    assert fact.text == "bob has the coin ."
    made = strict(g.to_json())
    assert made["scores"]["input_ids"] == g.scores.tolist()
    assert (made["tokens"], made["ids"], made["text"]) == (g.tokens, g.ids, g.text)
    assert len(made["receipts"]) == len(g)
    assert made["whole"] is None
    back = pickle.loads(pickle.dumps(g))
    assert isinstance(back, Generation)
    assert back.to_dict() == g.to_dict()
    rows = g.to_rows()
    assert len(rows) == g.scores.numel()
    assert {r["written_token"] for r in rows} == set(g.tokens[g.start :])


@pytest.mark.parametrize("against", [None, "the lamp"])
def test_an_answer_as_a_whole_leaves_in_the_same_forms(against):
    """The whole answer's map beside its tokens', with the texts that no token has: the answer that it is told from."""
    g = regard.load("zoo/llama-facts").explain_writing("who has the coin ?", "bob .", against)
    made = strict(g.to_json())["whole"]
    assert made == strict(json.dumps(g.to_dict()["whole"]))
    assert made["target"] == g.whole.target
    assert made["scores"] == {s: t.tolist() for s, t in g.whole.scores.items()}
    assert made["receipt"]["target_value"] == g.whole.receipt.target_value.tolist()
    assert list(made["inputs"]) == ([] if against is None else ["against"])
    assert not against or made["inputs"]["against"][0]["text"].endswith(against)


def test_names_in_a_csv_are_no_formulas():
    from regard.cli.data_out import csv_lines

    heads, first, *_ = csv_lines([("=1+1.png", picture())])
    assert heads.startswith("input,method,target,sample,stream,number,token")
    assert first.startswith("'=1+1.png,gae,")
