"""Answer first: what is predicted, whether the map is better than chance, and what it points at, in this order."""

from __future__ import annotations

import dataclasses
import html
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import regard
from regard import Target
from regard.explanation.causal_test import CausalTest, Outcome
from regard.explanation.prediction import Prediction
from regard.report.answer import _words as strongest_words
from regard.report.answer import answers, because, folded, in_short, place_of, verdict_of
from regard.report.explanation.html import page
from regard.report.explanation.terminal import predicted, show
from regard.report.view import TextPiece, sections, view_of
from support import families
from support.drawn import NASTY, picture, sentence


def likely(*shares: float, classes: tuple[int, ...] = (), **more: Any) -> Prediction:
    numbers = torch.tensor([classes or tuple(range(len(shares)))])
    p = torch.tensor([shares])
    return Prediction(numbers, p.log(), p, **({"activation": "softmax", "total": 10} | more))


def result(change: float = 2.0, **fields: Any) -> CausalTest:
    drops = tuple(-0.2 + i / 49 for i in range(49))
    as_far = sum(d >= change for d in drops)
    outcome = Outcome(3.2 - change, change, 0.3, as_far, (1 + as_far) / 50, fields.pop("then", 0.12), drops)
    about = {"stream": "pixel_values", "unit": "patch", "units": 64, "share": 0.1, "k": 6, "random": 49, "value": 3.2}
    more = {"probability": 0.87, "number": "logit", "label": "Trouser", "passes": 54}
    return CausalTest(**(about | more | {"highest": outcome} | fields))


# -- the verdict ----------------------------------------------------------------------------------------------------------


def test_a_verdict_is_one_sentence_in_per_cent():
    assert result().verdict == (
        "Without the 6 highest of 64 patches, Trouser falls from 87 % to 12 %; none of 49 random choices does that (p = 0.02)."
    )
    assert result(0.1).verdict.endswith("(p = 0.7): this map is no better than chance here.")
    assert "34 of 49 random choices fall as far" in result(0.1).verdict


def test_where_the_probability_hardly_moves_the_verdict_has_the_targets_own_numbers():
    said = result(then=0.87).verdict
    assert "the logit of Trouser falls from 3.2 to 1.2 (still 87 %)" in said
    assert "the logit falls from 3.2 to 1.2 (87 % to 12 %)" in result(label="").verdict
    assert CausalTest("pixel_values", "patch", 5, 0.1, reason="too few tokens to test").verdict.startswith("Too few")


@pytest.mark.parametrize(("change", "mark", "kind"), [(2.0, "✓", "good"), (0.1, "✗", "bad"), (None, "?", "open")])
def test_the_verdict_stands_on_top_of_the_map_at_the_same_place_and_size_whatever_it_says(change, mark, kind):
    exp = picture()
    exp.receipt.causal = [] if change is None else [result(change)]
    shown = page([exp])
    assert shown.count(f'<p class="verdict {kind}"><b aria-hidden="true">{mark}</b>') == 1
    assert shown.index('class="verdict') < shown.index('class="stage')
    assert shown.index('class="headline"') < shown.index('class="verdict')
    assert ("tells whether this map is better than chance" in shown) == (change is None)


# -- the prediction -------------------------------------------------------------------------------------------------------


def test_the_prediction_is_the_headline_and_five_bars():
    exp = dataclasses.replace(picture(), labels=["Bag", "Shoe", "Coat"], likely=likely(0.7, 0.2, 0.1))
    assert exp.prediction is not None
    assert [c.label for c in exp.prediction[0]] == ["Bag", "Shoe", "Coat"]
    assert in_short([view_of(exp)]) == "Bag 70 %"
    shown = page([exp])
    assert '<p class="headline">Bag 70 %</p>' in shown
    assert shown.count('<i style="width:') == 3
    printed = Console(width=60, file=None, record=True)
    for part in predicted([view_of(exp)]):
        printed.print(part)
    assert "Shoe" in printed.export_text()


def test_a_class_whose_map_is_there_can_be_chosen_and_no_other():
    one = dataclasses.replace(picture(), labels=["Bag", "Shoe", "Coat"], likely=likely(0.7, 0.2, 0.1))
    explained = [
        dataclasses.replace(
            one, target=f"logit of class {c}", receipt=dataclasses.replace(one.receipt, explained=torch.tensor([c]))
        )
        for c in (0, 2)
    ]
    (section,) = sections(explained)
    found = answers(section.views)
    assert found is not None
    assert [bool(b["target"]) for b in found["bars"]] == [True, False, True]
    assert found["clicks"]
    assert found["all"]
    shown = page(explained)
    assert shown.count('class="pick answer"') == 2
    assert 'data-kind="target"' not in shown.split("<script")[0]
    assert "data-pick" not in page(explained[:1]).split("<script")[0]


def test_labels_are_escaped_and_several_true_classes_have_no_one_headline():
    exp = dataclasses.replace(
        picture(), labels=[NASTY, "b"], likely=likely(0.7, 0.6, several=True, activation="sigmoid")
    )
    assert "<script>alert" not in page([exp])
    assert in_short([view_of(exp)]) != f"{NASTY} 70 %"
    assert in_short([view_of(picture())]) == f"{picture().target}: {float(picture().receipt.target_value[0]):.3g}"


def test_the_likeliest_classes_of_a_run_are_those_of_the_models_own_output():
    reader = regard.load("zoo/vit-scenes")
    scenes = regard.zoo.scenes()
    exp = reader.explain([scenes.images[0].numpy(), scenes.images[1].numpy()])
    with torch.no_grad():
        logits = reader.model(**reader.read([scenes.images[0].numpy(), scenes.images[1].numpy()]).inputs).logits
    top, which = logits.softmax(-1).topk(5)
    assert exp.prediction is not None
    torch.testing.assert_close(exp.prediction.probabilities, top)
    assert torch.equal(exp.prediction.classes, which)
    assert exp.prediction.labels[1][0] == reader.labels[int(which[1, 0])]
    assert [c.number for c in exp[1].prediction[0]] == which[1].tolist()
    assert len(exp.prediction) == 2


@pytest.mark.parametrize("target", [None, 1, Target.probability(1), Target.contrast(1, 2), Target.log_probability(0)])
def test_several_true_classes_have_sigmoids_whatever_is_explained_of_them(target, monkeypatch):
    case = families.CASES["vit"]()
    monkeypatch.setattr(case.model.config, "problem_type", "multi_label_classification")
    exp = regard.explain(case.model, case.inputs, target)
    logits = case.model(**case.inputs).logits.detach()
    assert exp.prediction is not None
    assert (exp.prediction.activation, exp.prediction.several) == ("sigmoid", True)
    torch.testing.assert_close(exp.prediction.probabilities, logits.sigmoid().topk(min(5, logits.shape[1])).values)


def test_a_prediction_is_saved_and_a_custom_target_has_none(tmp_path):
    reader = regard.load("zoo/bert-sentiment")
    exp = reader.explain("a wonderful film")
    again = regard.Explanation.load(exp.save(tmp_path / "a.safetensors"))
    assert str(again.prediction) == str(exp.prediction)
    assert str(exp.prediction).startswith("positive ")
    own = regard.explain(reader.model, reader.read("a wonderful film").inputs, lambda out: out.logits[:, 0] ** 2)
    assert own.prediction is None
    assert answers([view_of(own)]) is None


def test_tokens_that_a_model_would_write_are_named():
    exp = regard.load("zoo/llama-facts").explain("anna has the lamp . bob has the coin . who has the coin ?")
    assert exp.prediction is not None
    assert exp.prediction[0][0].label == "'bob'"
    assert len(exp.prediction[0]) == 5


# -- what the map points at -----------------------------------------------------------------------------------------------


def test_words_are_named_until_half_of_what_speaks_has_been():
    view = view_of(sentence())
    passed, open_ = verdict_of(view.exp)._replace(passed=True), verdict_of(view.exp)
    assert because(view, passed).startswith("Mostly because of “")
    assert because(view, open_).startswith("The map points at “")
    assert because(view, passed).count("“") <= 3


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        (slice(0, 2), slice(0, 2), "the upper left"),
        (slice(6, 8), slice(6, 8), "the lower right"),
        (slice(3, 5), slice(3, 5), "the middle"),
        (slice(3, 5), slice(0, 2), "the left side"),
        (slice(0, 2), slice(3, 5), "the upper part"),
    ],
)
def test_a_place_in_a_picture_has_a_name(rows, columns, said):
    cells = np.zeros((8, 8))
    cells[rows, columns] = 1.0
    assert place_of(cells) == said
    assert place_of(-cells) == ""


def test_a_map_that_is_spread_out_is_said_to_be():
    cells = np.zeros((8, 8))
    cells[0, 0] = cells[0, 7] = cells[7, 0] = cells[7, 7] = 1.0
    assert place_of(cells) == "several parts"


def test_a_map_in_which_nothing_speaks_for_the_target_says_so():
    exp = picture(scores=-picture().scores["pixel_values"].abs())
    assert because(view_of(exp), verdict_of(exp)) == "In this map nothing speaks for it."


# -- the receipt ----------------------------------------------------------------------------------------------------------


def test_the_receipt_folds_behind_one_line():
    exp = picture()
    line = folded(exp, view_of(exp).target)
    assert line == f"same output as your model ✓ · explained: {view_of(exp).target} · gae · {exp.receipt.passes} passes"
    shown = page([exp])
    assert f"<summary>{html.escape(line)}</summary>".replace("&#x27;", "&#39;") in shown
    printed = Console(width=200, record=True, file=None)
    printed.print(show(view_of(exp), printed, details=False))
    text = printed.export_text()
    assert line in text
    assert "relative error" not in text


def test_the_line_says_how_many_notes_there_are():
    exp = picture()
    exp.receipt.notes = ["6 % of a.png is transparent, and was laid over white for the model"]
    assert folded(exp, "x").endswith(" passes · 1 note")


def test_white_space_is_not_named():
    assert strongest_words([TextPiece(" ", 9.0), TextPiece("good", 1.0), TextPiece("\n", 5.0)]) == "“good”"
