"""What readers of a report see streams, tokens and objects called, and what a receipt says of the tokens that are read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import regard
from regard import zoo
from regard.explanation.boxes import Box, Found
from regard.explanation.names import object_name, patch_name, stream_name, token_name
from regard.explanation.raw_inputs import Text
from regard.explanation.receipt import ReadTokens, Receipt
from regard.report.explanation.html import page
from regard.report.receipt import read_out
from regard.report.view import input_name, sections, target_of
from support.drawn import bare, picture, receipt, sentence


def test_streams_are_called_by_what_they_are():
    assert [stream_name(picture(), s) for s in ("pixel_values", "cls_token")] == ["picture", "[CLS]"]
    assert stream_name(sentence(), "input_ids") == "text"
    assert stream_name(bare(), "boxes") == "boxes"


def test_two_streams_are_never_called_the_same():
    towers = {"text.cls_token": torch.zeros(1, 1), "vision.cls_token": torch.zeros(1, 1)}
    exp = bare(scores=towers, grid={})
    assert [stream_name(exp, s) for s in towers] == ["[CLS] (text.cls_token)", "[CLS] (vision.cls_token)"]


def test_tokens_are_called_by_their_text_or_their_place():
    text = sentence("good film")
    assert [token_name(text, "input_ids", i) for i in range(4)] == ["[CLS]", "“good”", "“film”", "[SEP]"]
    assert token_name(picture(), "pixel_values", 6) == "patch (2, 3)"
    assert token_name(picture(), "cls_token", 0) == "[CLS]"
    assert token_name(bare(), "input", 4) == "input 5"
    assert patch_name(0, 1, frame=2, picture=3) == "patch (1, 2) of frame 3 of picture 4"


def test_an_input_that_is_called_by_its_own_words_stands_in_quotes():
    words = "A quiet  film of rare beauty."
    for name, shown in (
        ("A quiet film of rare beauty.", "“A quiet film of rare beauty.”"),
        ("A quiet film …", "“A quiet film …”"),
        ("review.txt", "review.txt"),
        ("rows.csv 3: A quiet film …", "rows.csv 3: A quiet film …"),
    ):
        exp = sentence("good film")
        exp.inputs["input_ids"] = [replace(exp.inputs["input_ids"][0], text=words, name=name)]
        assert input_name(exp, 0) == shown
    assert input_name(picture(), 0) == picture().inputs["pixel_values"][0].name
    assert input_name(bare(), 1) == "sample 1"


def found(number, probability=0.99):
    return Found(number, 0, "Bag", probability, Box(0, 0, 9, 9))


def test_objects_are_called_by_class_and_probability():
    assert object_name(found(4)) == "Bag, 99 %"
    exp = picture(found=found(4), target="query 4: logit of 'Bag'")
    assert target_of(exp, 0) == "Bag, 99 %"
    assert "query 4" not in page([exp])


def test_objects_that_are_called_the_same_are_told_apart():
    exps = [picture(found=found(i), target=f"query {i}: logit of 'Bag'") for i in range(3)]
    (section,) = sections(exps)
    assert [v.target for v in section.views] == ["Bag, 99 %", "Bag, 99 % (2)", "Bag, 99 % (3)"]


def test_no_object_is_a_prediction_with_a_name():
    seen = receipt(predicted=torch.tensor([2]))
    assert "the model predicts no object instead" in page([picture(found=found(4), receipt=seen)])


@pytest.mark.parametrize(
    ("reads", "asked", "says"),
    [
        ([ReadTokens("cls_token", [1], [0])], False, "[CLS], as the gradient shows"),
        ([ReadTokens("cls_token", [1], [0])], True, "[CLS], as you asked"),
        ([ReadTokens("pixel_values", [1], [6])], False, "patch (2, 3), as the gradient shows"),
        (
            [ReadTokens("cls_token", [1], [0]), ReadTokens("pixel_values", [16], [0])],
            False,
            "[CLS] and 16 tokens of the picture, as the gradient shows, each by how much it counts",
        ),
        ([], False, "cls_token"),
    ],
)
def test_what_is_read_is_said_by_name(reads, asked, says):
    assert read_out(picture(receipt=receipt(reads=reads, asked=asked)), 0) == says


def test_each_sample_reads_its_own_tokens():
    exp = regard.load("zoo/llama-facts").explain("anna gives the key to bob . who has the key ?", method="gae")
    (read,) = exp.receipt.reads
    text = exp.inputs["input_ids"][0]
    assert isinstance(text, Text)
    assert (read.stream, read.counts, read.first) == ("input_ids", [1], [len(text.tokens) - 1])
    assert exp.receipt.classes == "token"
    both = regard.load("zoo/bert-sentiment").explain(["a good film", "bad"], method="gae")
    assert both.receipt.reads == [ReadTokens("input_ids", [1, 1], [0, 0])]
    assert both[1].receipt.reads == [ReadTokens("input_ids", [1], [0])]
    assert not both.receipt.asked


def test_a_receipt_keeps_what_is_read():
    exp = regard.load("zoo/vit-scenes").explain(zoo.demo_scene(), readout="cls")
    back = Receipt.from_dict(exp.receipt.as_dict())
    assert back.reads == exp.receipt.reads == [ReadTokens("cls_token", [1], [0])]
    assert back.asked


def test_receipts_that_were_saved_before_are_read():
    """They had neither `reads` nor `classes`: the target's label alone told texts from classes."""
    made = receipt().as_dict()
    old = {k: v for k, v in made.items() if k not in ("reads", "asked", "classes", "output_difference")}
    assert (Receipt.from_dict(dict(old)).classes, Receipt.from_dict(dict(old)).reads) == ("class", [])
    assert Receipt.from_dict(old | {"target": "similarity with text 3"}).classes == "text"
