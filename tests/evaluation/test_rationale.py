"""Protocol 4 against literal loops; long documents; ERASER's files."""

import gzip
import json
import math
import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from regard.errors import InputError, Misuse
from regard.evaluation import Rationale, evaluate_documents, rationale, read_eraser
from regard.evaluation.data.eraser import Document, word_spans
from regard.evaluation.protocols.perturbation import order_of
from regard.evaluation.protocols.rationale import (
    agreement,
    auprc,
    beyond,
    document_scores,
    iou_f1,
    part_of,
    reduced,
    runs,
)
from regard.evaluation.protocols.windows import windows_of, word_scores
from regard.explanation.raw_inputs import Text
from support.records import record, records
from support.tiny import noise

SHARED = Path(os.environ.get("REGARD_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
MOVIES = SHARED / "eraser_movies"


def made(text, evidence=(), label=1, name="d"):
    return Document(name, text, label, word_spans(text), tuple(evidence))


def long_text(lines=30):
    middle = [
        "the plot is unremarkable and the cast is fine .",
        "a dull , boring , unfunny mess .",
        "it was filmed in spring .",
    ]
    return "\n".join(middle[i % 3] for i in range(lines))


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_that_of_the_definitions(seed):
    scores = (noise(40, seed=seed) * 4).round() / 4  # with ties
    document = made(" ".join(["w"] * 40), [(3, 9), (20, 22)])
    truth = document.is_evidence
    order = order_of(scores, "positive", 1)
    for top, count in ((0.2, 8), ("evidence", 8)):
        values = agreement(scores, order, document, Rationale(top=top))
        hits = sum(truth[i] for i in order[:count].tolist())
        precision, recall = hits / count, hits / sum(truth)
        assert (values["precision"], values["recall"]) == pytest.approx((precision, recall))
        assert values["token_f1"] == pytest.approx(2 * hits / (count + sum(truth)))
    points = [(0.0, 1.0)]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        marked = [t for s, t in zip(scores.tolist(), truth) if s >= threshold]
        points.append((sum(marked) / sum(truth), sum(marked) / len(marked)))
    pairs = list(pairwise(points))
    assert values["auprc"] == pytest.approx(sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairs))
    assert values["ap"] == pytest.approx(sum((x1 - x0) * y1 for (x0, _), (x1, y1) in pairs))
    assert auprc(scores, torch.tensor(truth)) == values["auprc"]


def test_spans_by_hand():
    assert runs(torch.tensor([1, 1, 0, 1, 0, 0, 1]).bool()) == [(0, 2), (3, 4), (6, 7)]
    assert iou_f1([(0, 2), (5, 6)], [(0, 4)]) == pytest.approx(2 * 0.5 * 1 / 1.5)  # IoU 2/4: matched, (5, 6) is not
    assert iou_f1([(0, 1)], [(0, 4)]) == 0.0
    assert iou_f1([], [(0, 4)]) == 0.0


def test_a_word_has_the_largest_score_of_its_pieces():
    text = Text("unbelievably bad", ["[CLS]", "un", "##bel", "##ievably", "bad", "[SEP]"],
                [(0, 0), (0, 2), (2, 5), (5, 12), (13, 16), (0, 0)], [], [True, False, False, False, False, True])  # fmt: skip
    scores = torch.tensor([9.0, -1.0, 0.3, 0.2, -2.0, 9.0])
    assert word_scores(scores, text, word_spans(text.text)).tolist() == pytest.approx([0.3, -2.0])
    assert word_scores(scores, text, [(0, 12), (12, 13)]).tolist() == pytest.approx([0.3, 0.0])  # no token: nothing


def test_windows_hold_every_word_once_and_fit(bert):
    document = made(long_text(40))
    windows = windows_of(bert, document)
    assert [w.first for w in windows[1:]] == [w.last for w in windows[:-1]]
    assert (windows[0].first, windows[-1].last) == (0, len(document.words))
    assert len(windows) > 2
    for w in windows:
        reading = bert.read([w.text])  # raises where a window is too long
        assert reading.inputs["input_ids"].shape[1] <= 128
        assert document.text[document.words[w.first][0] :].startswith(w.text)
        assert w.first == 0 or "\n" in document.text[document.words[w.first - 1][1] : document.words[w.first][0]]
    one_line = made("good " * 300)
    assert [w.last - w.first for w in windows_of(bert, one_line)] == [126, 126, 48]
    with pytest.raises(InputError, match="alone makes more tokens"):
        windows_of(bert, document, limit=2)


def test_word_scores_come_from_each_words_own_window(bert):
    document = made(long_text(30))
    windows = windows_of(bert, document)
    scores = document_scores(bert, document, windows, 1, "gae", {})
    assert len(scores) == len(document.words)
    last = windows[-1]
    alone = bert.explain(last.text, target=1, method="gae")
    start = document.words[last.first][0]
    words = [(a - start, b - start) for a, b in document.words[last.first : last.last]]
    expected = word_scores(alone.scores["input_ids"][0], alone.inputs["input_ids"][0], words)
    torch.testing.assert_close(scores[last.first :], expected, atol=1e-5, rtol=1e-4)


def test_evidence_beyond_the_windows_is_reported_and_not_dropped(bert):
    text = long_text(30)
    n = len(text.split())
    document = made(text, [(0, 4), (n - 6, n)], label=0)
    whole = record(rationale(bert, document, Rationale(shares=(0.5,))))
    first = record(rationale(bert, document, Rationale(windows=1, shares=(0.5,))))
    assert whole.values["evidence_beyond"] == 0
    assert first.values["evidence_beyond"] == pytest.approx(0.6)
    assert first.values["evidence_words"] == 10
    assert "windows=first 1" in first.protocol.name
    late = record(rationale(bert, made(text, [(n - 6, n)], label=0), Rationale(windows=1, shares=(0.5,))))
    assert late.values["evidence_beyond"] == 1.0
    assert math.isnan(late.values["token_f1"])
    part = part_of(document, 2)
    assert part.evidence == ((0, 2),)
    assert beyond(document, 2) == pytest.approx(0.8)


def test_comprehensiveness_and_sufficiency_read_what_is_left(bert):
    text = "a wonderful film .\nthe plot is dull but the cast is a joy ."
    document = made(text, [(1, 2)], label=1)
    row = record(rationale(bert, document, Rationale(shares=(0.2, 0.5))))

    def p(t):
        with torch.no_grad():
            return float(bert.model(**bert.read([t]).inputs).logits.double().softmax(-1)[0, row.predicted])

    windows = windows_of(bert, document)
    scores = document_scores(bert, document, windows, row.predicted, "gae", {})
    assert len(set(scores.tolist())) == len(scores)
    by, words = scores.argsort(descending=True).tolist(), text.split()
    for name, keep in (("comprehensiveness", False), ("sufficiency", True)):
        drops = []
        for share in (0.2, 0.5):
            top = by[: int(share * len(words))]
            drops.append(p(text) - p(" ".join(w for i, w in enumerate(words) if (i in top) == keep)))
        assert row.curves[name] == pytest.approx(drops, abs=1e-5)
        assert row.values[name] == pytest.approx(sum(drops) / 2, abs=1e-5)
    left = reduced(document, torch.tensor(by), 0.01, False)
    assert "\n" in left.text  # lines stay lines, so that windows can end there


def test_a_bad_document_is_a_row_with_its_error(bert):
    documents = [
        made("a fine film .", [(1, 2)], name="a"),
        made("a filmgood .", name="b"),  # a word of three pieces fits in no window of one
        made("dull .", label=None, name="c"),
    ]
    rows = evaluate_documents(bert, documents, ["random"], [Rationale(explained="true", shares=(0.5,), limit=3)])
    good, bad, unknown = records(rows)
    assert not good.error
    assert "alone makes more tokens" in bad.error
    assert "no label" in unknown.error
    with pytest.raises(Misuse, match="between 0 and 1"):
        Rationale(shares=(1.0,))


def test_eraser_files_read_and_broken_ones_are_one_sentence(tmp_path):
    good = {"id": "a", "label": 1, "text": "a fine film .\ngo !", "rationales": [[1, 3], [4, 4]]}
    (tmp_path / "val.jsonl").write_text(json.dumps(good) + "\n\n")
    (tmp_path / "test.jsonl.gz").write_bytes(gzip.compress((json.dumps(good | {"label": "POS"}) + "\n").encode()))
    (document,) = read_eraser(tmp_path, "val")
    assert document.is_evidence == [False, True, True, False, False, False]
    assert [document.text[a:b] for a, b in document.words] == good["text"].split()
    assert read_eraser(tmp_path, "test", {"POS": 1})[0].label == 1
    for said, of in (("labels=", "test"), ("no split 'train'", "train")):
        with pytest.raises(InputError, match=said):
            read_eraser(tmp_path, of)
    with pytest.raises(InputError, match="no folder"):
        read_eraser(tmp_path / "none")
    bad = {"broken": "{", "short": json.dumps({"text": "a"}), "beyond": json.dumps(good | {"rationales": [[0, 99]]}),
           "empty": json.dumps(good | {"text": " ", "rationales": []}), "deep": "[" * 100_000,
           "endless": json.dumps(good | {"rationales": [[0, math.inf]]}),
           "list": json.dumps(good | {"label": [1]})}  # fmt: skip
    for name, line in bad.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(good) + "\n" + line + "\n")
        with pytest.raises(InputError, match=f"{name}.jsonl, line 2"):
            read_eraser(tmp_path, name, {"POS": 1, 1: 1})
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(InputError, match=r"cut\.jsonl\.gz cannot be read"):
        read_eraser(tmp_path, "cut")


@pytest.mark.skipif(not MOVIES.is_dir(), reason=f"no ERASER movies at {MOVIES} (REGARD_DATA names another place)")
def test_the_real_movies(bert):
    documents = read_eraser(MOVIES, "test")
    assert len(documents) == 199
    share = sum(sum(d.is_evidence) for d in documents) / sum(len(d.words) for d in documents)
    assert share == pytest.approx(0.303, abs=0.01)  # SOURCE.txt: 30.3 %
    shortest = sorted(documents, key=lambda d: len(d.words))[:2]
    rows = records(evaluate_documents(bert, shortest, ["gae"], [Rationale(shares=(0.1,))]))
    assert not any(r.error for r in rows)
    assert all(0 <= r.values["auprc"] <= 1 and r.values["windows"] > 1 for r in rows)


@pytest.mark.parametrize(
    "wrong", [{"windows": 0}, {"windows": -1}, {"limit": 0}, {"top": 5}, {"top": 0}, {"shares": ()}, {"shares": (1.0,)}]
)
def test_choices_that_would_read_nothing_are_refused(wrong):
    with pytest.raises(Misuse):
        Rationale(**wrong)
