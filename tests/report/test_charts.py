"""Figures and pages of protocols: what they show are the summaries' numbers, escaped, also where data are missing."""

import base64
import dataclasses
import html
import io
import math
import re
import sys

import numpy as np
import pytest
from PIL import Image

from regard.errors import Misuse, UnknownName
from regard.evaluation import (
    Perturbation,
    Rationale,
    Row,
    Sanity,
    Segmentation,
    deletion,
    differences,
    insertion,
    ranking,
    sufficiency,
    summaries,
)
from regard.evaluation.measured import measured
from regard.report.evaluation import charts
from regard.report.evaluation.html import page, write_page
from support.records import Made

SETTING = Perturbation("token", "drop")
NASTY = '<script>alert("x")</script> & $\\alpha$'


def made(methods, count=12, setting=SETTING, wrong=4, noise=0.05):
    """Rows of made-up curves, those of later methods lower; the last examples are classified wrong."""
    rng, rows, x = np.random.default_rng(0), [], np.array([0.0, *setting.steps])
    for k, method in enumerate(methods):
        for i in range(count):
            y = np.clip(0.9 * np.exp(-x * (0.5 + k)) + rng.normal(0, noise, len(x)), 0, 1)
            values = {"auc_probability": float(np.trapezoid(y, x)), "aopc": float((y[0] - y[1:]).mean())}
            predicted = int(i >= count - wrong)
            known = {"title": method, "label": 0, "predicted": predicted, "explained": predicted}
            rows += setting.rows(str(i), values, {"probability": zip(x.tolist(), y.tolist())}, **known)
    return rows


def text_of(source):
    """What a page says, tags taken away."""
    return html.unescape(
        re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", re.sub(r"<style.*?</style>", "", source, flags=re.S)))
    )


# -- which way is better, and who is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "metric", "side"),
    [
        (SETTING, "auc_probability", -1),
        (SETTING, "aopc", 1),
        (SETTING, "start_probability", 0),
        (Perturbation(order="negative"), "auc_accuracy", 1),
        (sufficiency(), "aopc", -1),
        (Segmentation(), "iou", 1),
        (Rationale(), "sufficiency", -1),
        (Rationale(), "windows", 0),
        (Sanity("cascade"), "mean", 0),
        (Sanity("classes"), "unchanged", -1),
    ],
)
def test_which_way_is_better(protocol, metric, side):
    assert protocol.direction(metric) == side


def numbers(titles, metric="iou", protocol=None):
    """Title -> its examples' numbers, as rows."""
    asked = Segmentation() if protocol is None else protocol
    return [Row(asked, str(i), metric, float(v), title=t) for t, values in titles.items() for i, v in enumerate(values)]


def test_a_ranking_is_of_paired_differences_from_the_best():
    rng = np.random.default_rng(1)
    base, tiny = rng.normal(size=40) * 10, rng.normal(size=40)
    rows = numbers({"low": base - 1, "best": base, "near": base - 0.01 + tiny - tiny.mean()})
    assert ranking(rows, "iou") == {"low": "", "best": "best", "near": "near"}  # 1 of a spread of 10: pairs tell
    assert ranking(rows, "unknown") == {}
    one = [r for r in rows if r.example == "0"]
    assert ranking(one, "iou")["low"] == "near"  # a single example makes nothing sure
    with pytest.raises(Misuse, match="under one protocol"):
        ranking([*rows, Row(Segmentation("predicted"), "0", "iou", 1.0, title="best")], "iou")


def test_who_has_no_number_stands_nowhere():
    rows = numbers({"a": (0.5, math.nan, 0.7)})
    rows += [Row(Segmentation(), str(i), title="b", error="no") for i in range(3)]
    assert ranking(rows, "iou") == {"a": "best", "b": ""}


# -- figures -----------------------------------------------------------------------------------------------------------


def labels(axes):
    return [t.get_text() for t in axes.get_legend().get_texts()]


def test_curves_are_the_means_and_legends_are_in_the_order_of_areas():
    rows = made(["c", "a", "b"])
    (axes,) = charts.curves(rows, "probability").axes
    (own,) = [m.curve("probability").y for m in measured(rows) if m.title == "a"]
    lines = {line.get_label().split()[0]: line for line in axes.get_lines()}
    assert lines["a"].get_ydata() == pytest.approx(np.mean(own, 0))
    assert lines["a"].get_xdata() == pytest.approx([0, *SETTING.steps])
    area = {s.title: s.value for s in summaries(rows) if s.metric == "auc_probability"}
    assert labels(axes) == [f"{m}  {area[m]}" for m in sorted(area, key=lambda m: -area[m].value)]


def test_bands_are_the_bootstrap_intervals():
    rows = made(["a"])
    (axes,) = charts.curves(rows, "probability").axes
    (band,) = charts.lines(rows, "probability")
    drawn = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert drawn.min() == pytest.approx(min(p.low for p in band.band))
    assert drawn.max() == pytest.approx(max(p.high for p in band.band))


def test_many_methods_stay_apart():
    methods = ["random", "raw_attention", *(f"method {i}" for i in range(20))]
    figure = charts.curves(made(methods, count=3), "probability")
    seen = []
    for axes in figure.axes:
        others = [line for line in axes.get_lines() if not line.get_label().startswith(("random ", "raw_attention "))]
        assert 0 < len(others) <= charts.PANEL
        assert len(axes.get_lines()) == len(others) + 2  # the floors stand in each
        assert len({(line.get_color(), line.get_marker()) for line in others}) == len(others)
        assert len({line.get_color() for line in others}) == len(others)
        seen += [line.get_label().split("  ")[0] for line in others]
    assert sorted(seen) == sorted(methods[2:])


def test_no_label_lies_on_another():
    methods = ["random", "raw_attention", *(f"a method of a long name, number {i}" for i in range(9))]
    for figure in (charts.curves(made(methods, count=3), "probability"), charts.forest(made(methods), "aopc")):
        figure.canvas.draw()
        for axes in figure.axes:
            (x0, x1), (y0, y1) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
            ticks = [t for t in axes.get_xticklabels() if x0 <= t.get_position()[0] <= x1]
            ticks += [t for t in axes.get_yticklabels() if y0 <= t.get_position()[1] <= y1]
            texts = [*ticks, axes.xaxis.label, *(axes.get_legend().get_texts() if axes.get_legend() else [])]
            boxes = [t.get_window_extent() for t in texts]
            assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
            assert all(b.x0 >= 0 and b.x1 <= figure.bbox.x1 and b.y0 >= 0 for b in boxes)


def test_right_and_wrong_stand_side_by_side():
    right, wrong = charts.curves(made(["a", "b"]), "probability", split=True).axes
    assert (right.get_title(), wrong.get_title()) == ("model right, 8 examples", "model wrong, 4 examples")
    only = [r for r in made(["a"]) if r.right]
    empty = charts.curves(only, "probability", split=True).axes[1]
    assert [t.get_text() for t in empty.texts] == ["no example"]


def test_forest_shows_the_differences_filled_where_sure():
    rows = made(["random", "far", "same"])
    same = [dataclasses.replace(r, title="same") for r in made(["x"], noise=0.2)]
    rows = [r for r in rows if r.title != "same"] + same
    (axes,) = charts.forest(rows, "auc_probability").axes
    found = {d.title: d for d in differences(rows, "auc_probability")}
    order = [t.get_text() for t in axes.get_yticklabels()]
    assert order == ["far", "same"]  # lower is better, so the lowest stands on top
    marks = [line for line in axes.get_lines() if line.get_marker() == "o"]
    by = {order[round(float(m.get_ydata()[0]))]: m for m in marks}
    for method, mark in by.items():
        assert mark.get_xdata()[0] == found[method].value.value
        assert (mark.get_markerfacecolor() == mark.get_color()) == found[method].sure
    assert (found["far"].sure, found["same"].sure) == (True, False)
    spans = sorted(tuple(line.get_xdata()) for line in axes.get_lines() if line.get_marker() == "None")[:2]
    assert (found["far"].value.low, found["far"].value.high) in spans
    assert "left is better" in axes.get_xlabel()


def test_axes_are_what_the_protocol_says():
    asked = (SETTING, insertion(), Segmentation(), Rationale(), Sanity("cascade"))
    said = [protocol.axis for protocol in asked]
    assert said[0] == said[1] == "share taken away"
    assert "threshold" in said[2]
    assert (said[3], "parameters" in said[4]) == ("share of the words", True)
    (axes,) = charts.curves(made(["a"], setting=insertion(count=4)), "probability").axes
    assert axes.get_xlabel() == "share taken away"
    (line,) = axes.get_lines()
    assert line.get_xdata().tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_figures_leave_no_pyplot_and_are_the_same_twice(tmp_path):
    before = sys.modules.get("matplotlib.pyplot")
    rows = made(["random", "a"])
    charts.curves(rows, "probability", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == charts.png(charts.curves(rows, "probability"))
    charts.forest(rows, "aopc", tmp_path / "b.png", split=True)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.png", "b.png"]  # no temporary file is left
    if before is None:
        assert "matplotlib.pyplot" not in sys.modules
    else:
        assert not before.get_fignums()


def test_a_picture_of_few_colours_keeps_those_of_the_lines():
    """Also of a line that lies under another one, and shows in the legend alone."""
    rows = made([f"m{i}" for i in range(6)])
    rows += [dataclasses.replace(r, title="over") for r in rows if r.title == "m0"]
    figure = charts.curves(rows, "probability")
    colours = np.array(Image.open(io.BytesIO(charts.png(figure))).convert("RGB")).reshape(-1, 3).astype(int)
    for line in figure.axes[0].get_lines():
        wanted = [int(line.get_color()[i : i + 2], 16) for i in (1, 3, 5)]
        assert (colours == wanted).all(1).any()


def test_a_long_title_is_broken():
    figure = charts.curves(made(["a"]), "probability", title="a title of many words " * 6)
    figure.canvas.draw()
    assert figure._suptitle.get_window_extent().x1 <= figure.bbox.x1


def test_names_are_no_mathematics_and_misuse_is_told():
    rows = made(["random", NASTY])
    charts.png(charts.curves(rows, "probability", title=NASTY))
    charts.png(charts.forest(rows, "aopc", title=NASTY))
    with pytest.raises(UnknownName, match="probability"):
        charts.curves(rows, "probabilty")
    with pytest.raises(UnknownName, match="aopc"):
        charts.forest(rows, "aopd")
    with pytest.raises(UnknownName, match="random"):
        charts.forest(rows, "aopc", against="randon")
    with pytest.raises(Misuse, match="are of 2"):
        charts.curves([*rows, *made(["a"], setting=deletion())], "probability")
    with pytest.raises(Misuse, match="are of 0"):
        charts.curves([], "probability")


# -- pages -------------------------------------------------------------------------------------------------------------


def test_numbers_on_the_page_are_the_summaries():
    rows = made(["random", "a"])
    said = text_of(page(rows))
    for s in summaries(rows, split=True):
        assert str(s.value) in said.replace("≈", ""), (s.title, s.metric, s.split)
    assert SETTING.name in said
    assert "12 examples · 2 methods · the model has 8 right, 4 wrong · no errors" in said
    (best,) = (s for s in summaries(rows) if (s.title, s.metric) == ("a", "auc_probability"))
    assert f"<strong>{best.value.value:.3g}</strong>" in page(rows)


def test_errors_and_undefined_numbers_are_counted():
    rows = made(["random", "a"])
    rows = [r for r in rows if r.title != "a" or r.example not in ("0", "1")]
    rows += [Row(SETTING, "0", name, v, title="a") for name, v in (("auc_probability", math.nan), ("aopc", 0.5))]
    rows.append(Row(SETTING, "1", title="a", error="NonFinite: a map"))
    source = page(rows)
    line = re.search(r'<tr><th scope="row">a</th>.*?</tr>', source)[0]
    assert "1 undefined" in line
    assert re.findall(r'<td class="n">(\d+)</td>', line) == ["11", "1"]
    assert "1 row with an error" in source
    assert "NonFinite: a map" in source


def test_an_error_of_all_methods_stands_once_and_nothing_is_compared_with_no_number():
    rows = made(["random", "a", "b"])
    rows += [Row(SETTING, "20", title=t, error="InputError: gone") for t in ("random", "a", "b")]
    rows += [Row(SETTING, "21", title=t, error="NonFinite: a map") for t in ("a", "b")]
    said = text_of(page(rows))
    assert re.findall(r"(all methods|a, b)\s*(InputError: gone|NonFinite: a map)\s*(\d)", said) == [
        ("all methods", "InputError: gone", "3"), ("a, b", "NonFinite: a map", "2"),
    ]  # fmt: skip
    blind = [dataclasses.replace(r, value=math.nan) if r.title == "random" and r.x is None else r for r in rows]
    assert "paired differences from random" in said
    assert "paired differences from random" not in text_of(page(blind))


def test_the_page_is_escaped_and_asks_for_nothing():
    rows = [dataclasses.replace(r, protocol=Made(NASTY)) for r in made(["random", NASTY]) if r.example != "3"]
    source = page([*rows, *(Row(Made(NASTY), "3", title=t, error=NASTY) for t in ("random", NASTY))], NASTY)
    assert "<script" not in source
    assert "default-src 'none'" in source
    assert not re.search(r"(src|href|srcset)=\"(?!data:|#)", source)
    alt = re.search(r'<img [^>]*alt="([^"]*)"', source)[1]
    assert NASTY in html.unescape(alt)


def test_figures_of_the_page_are_pictures_for_light_and_dark():
    source = page(made(["random", "a"]))
    found = re.findall(r'data:image/png;base64,([^"]+)"', source)
    corners = [Image.open(io.BytesIO(base64.b64decode(f))).convert("RGB").getpixel((0, 0)) for f in found]
    assert corners == [(0x14, 0x16, 0x1B), (255, 255, 255)] * 2  # curves and differences; dark stands first
    assert all(a for a in re.findall(r'<img [^>]*alt="([^"]*)"', source))


@pytest.mark.parametrize("rows", [
    [Row(SETTING, str(i), title=m, error="Misuse: no") for m in ("random", "a") for i in range(2)],
    made(["random", "a"], count=1, wrong=0),
    made(["a"]),
    [Row(Made(), "0", "m", math.nan, title=t) for t in ("a", "random")],
    [*Made().rows("0", {"m": 1.0}, {"c": [(0, math.nan), (1, 1.0)]}, title="a"), Row(Made(), "1", "m", 1.0, title="random")],
], ids=["all errors", "one example", "one method", "NaN", "no pairs"])  # fmt: skip
def test_missing_data_make_a_page(rows):
    said = text_of(page(rows))
    assert "nan" not in said
    if any(r.error for r in rows):
        assert "No example gave a number" in said


def test_a_page_has_a_section_a_protocol_and_is_written_at_once(tmp_path):
    rows = [*made(["random", "a"], 3), *made(["random", "a"], 3, Perturbation("token", "drop", "negative"))]
    made_page = write_page(rows, tmp_path / "new" / "p.html", "Scenes")
    source = made_page.read_text(encoding="utf-8")
    assert [p.name for p in made_page.parent.iterdir()] == ["p.html"]
    assert re.findall(r'<section id="(\w+)"', source) == ["p0", "p1"]
    assert re.findall(r'<li><a href="#(\w+)"', source) == ["p0", "p1"]
    with pytest.raises(Misuse, match="no rows"):
        page([])
