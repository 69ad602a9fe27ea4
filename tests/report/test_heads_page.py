"""Each head's own map as a page and a table: what is said, what is drawn, and nothing that a text could do."""

from __future__ import annotations

import dataclasses
import re

import torch

from regard.explanation.explanation import Explanation
from regard.explanation.head_maps import HeadLayer, LateHeads
from regard.report.heads.html import page, plain_table
from support.drawn import NASTY, bare, picture, sentence


def with_heads(exp: Explanation, *layers: dict[str, torch.Tensor], method: str = "gae") -> Explanation:
    made = [HeadLayer(i, f"layers.{i}.{NASTY}", maps) for i, maps in enumerate(layers)]
    return dataclasses.replace(exp, method=method, _heads=LateHeads(known=made))


def of_scene() -> Explanation:
    """Head 1 of layer 0 holds most, at patch (4, 1)."""
    exp = picture()
    maps = {s: torch.zeros(len(v), 2, v.shape[1]) for s, v in exp.scores.items()}
    name = next(iter(exp.grid))
    maps[name][0, 1, 12] = 0.5
    return with_heads(exp, maps, {s: m * 0 for s, m in maps.items()})


def test_the_page_of_a_picture() -> None:
    html = page(of_scene().heads())
    assert "Head 1 of layer 0 holds most, 0.5." in html
    assert html.count('class="empty"') == 3  # the others hold nothing
    assert 'title="layer 0, head 1: row 4, column 1 0.5"' in html
    assert html.count("background-image:url(") == 1
    assert "<script" not in html
    assert not re.search(r'(?:src|href)="(?!data:)', html)


def test_a_text_cannot_break_out() -> None:
    exp = sentence()
    stream = next(s for s in exp.scores if s in exp.inputs)
    text = dataclasses.replace(exp.inputs[stream][0], name=NASTY)
    exp = dataclasses.replace(exp, inputs={**exp.inputs, stream: [text]}, target=NASTY)
    maps = {s: torch.rand(len(v), 3, v.shape[1]) for s, v in exp.scores.items()}
    html = page(with_heads(exp, maps, method="raw_attention").heads())
    assert NASTY not in html
    assert html.count("<td") == 3
    assert "Where each head looks" in html


def test_special_tokens_are_left_out() -> None:
    """What lies on them is no part of what a head holds."""
    exp = sentence()
    stream = next(s for s in exp.scores if s in exp.inputs)
    special = exp.inputs[stream][0].special
    maps = {s: torch.zeros(len(v), 1, v.shape[1]) for s, v in exp.scores.items()}
    maps[stream][0, 0, list(special).index(True)] = 9
    maps[stream][0, 0, list(special).index(False)] = 0.25
    heads = with_heads(exp, maps).heads()
    assert "Head 0 of layer 0 holds most, 0.25." in page(heads)
    assert plain_table(heads).splitlines()[1].split()[:4] == ["0", "1", "0", "0.25"]


def test_nothing_is_held() -> None:
    exp = of_scene()
    maps = {s: torch.zeros(len(v), 1, v.shape[1]) for s, v in exp.scores.items()}
    assert "No head" in page(with_heads(exp, maps).heads())


def test_other_streams_are_drawn_too() -> None:
    """Tokens of which only the scores are known, and a grid without a picture."""
    exp = bare()
    maps = {s: torch.rand(len(v), 2, v.shape[1]) for s, v in exp.scores.items()}
    assert page(with_heads(exp, maps).heads()).count("<img") == 2 * 2
