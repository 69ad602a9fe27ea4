"""Pictures, pages and the terminal: the right pixels, the right words, nothing that an untrusted text could do."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from rich.console import Console

from regard.errors import Misuse, RegardError
from regard.explanation.raw_inputs import Picture, Text
from regard.report import need
from regard.report.colour import (
    AGAINST,
    DARK,
    FOR,
    LIGHT,
    OPACITY,
    ColourScale,
    luminance,
    number,
    scale_of,
    text_colour,
)
from regard.report.explanation.html import fragment, page, write_page
from regard.report.explanation.png import overlay, plot
from regard.report.explanation.terminal import digits, show, shrink
from regard.report.figure import flow
from regard.report.headline import caption, headline
from regard.report.page import safe_json
from regard.report.receipt import accounts, lines
from regard.report.view import TextPiece, plain, same_maps, sections, token_pieces, view_of, word_pieces
from support.browser import needs_chromium, probed
from support.drawn import NASTY, bare, oklab, picture, receipt, scene, sentence

# colour


@pytest.mark.parametrize("paper", [LIGHT, (128, 128, 128), DARK])
@pytest.mark.parametrize("sign", [1, -1])
def test_ramps_are_perceptually_uniform(paper, sign):
    scale = scale_of([-1, 1], True)
    steps = np.linalg.norm(np.diff(oklab(scale.over(sign * np.linspace(0, 1, 11), paper)), axis=0), axis=1)
    assert steps.max() / steps.min() < 1.5


def test_hues_are_as_light_as_each_other_and_differ_for_the_colour_blind():
    assert abs(oklab(FOR)[0] - oklab(AGAINST)[0]) < 0.03
    assert np.subtract(FOR, AGAINST)[2] < -200  # blue channel: seen by red- and green-blind eyes


def test_scale_is_symmetrical_and_clear_at_zero():
    scale = scale_of([0.5, -2.0, 0.0], True)
    assert scale.limit == 2
    assert scale.signed
    assert [t for _, t in scale.ticks()] == ["-2", "-1", "0", "1", "2"]
    assert scale.rgba([-2, 0, 2]).tolist() == [[*AGAINST, 255], [*FOR, 0], [*FOR, 255]]
    assert np.allclose(scale.unit([-1, 1]), [-0.5, 0.5])


def test_negative_scores_get_the_signed_scale_even_where_not_announced():
    assert scale_of([0.1, -0.1], False).signed
    assert not scale_of([0.1, 0.0], False).signed


@pytest.mark.parametrize("scores", [[0.0, 0.0], [], [float("nan")], [0.0]])
def test_zero_maps_divide_by_nothing(scores):
    scale = scale_of(scores, False)
    assert scale.limit == 0
    assert scale.note
    assert (scale.unit(scores) == 0).all()
    assert scale_of([0.0], True).note == "all scores are 0"


def test_constant_and_tiny_and_infinite_scores():
    assert scale_of([0.25, 0.25], False).note == "all scores are 0.25"
    assert np.isfinite(scale_of([1e-310], False).unit([1e-310])).all()
    scale = scale_of([1.0, float("inf"), float("nan")], False)
    assert scale.limit == 1
    assert scale.unit([float("inf"), float("nan")]).tolist() == [1, 0]


def test_an_outlier_is_clipped_and_said():
    scores = np.ones(400)
    scores[7] = 100
    scale = scale_of(scores, False)
    assert scale.limit == 25
    assert scale.clipped
    assert "100" in scale.note
    assert scale.ticks()[-1][1] == "≥ 25"
    assert scale.unit(scores).max() == 1
    one_hot = np.zeros(400)
    one_hot[3] = 1
    assert scale_of(one_hot, False).limit == 0.25


def test_ink_on_any_colour_is_readable():
    scale = scale_of([-1, 1], True)
    for paper in (LIGHT, DARK, (128, 128, 128)):
        for score in np.linspace(-1, 1, 201):
            under = scale.over(score, paper)
            a, b = sorted((luminance(under), 1.0 if text_colour(under) == "#fff" else 0.0))
            assert (b + 0.05) / (a + 0.05) >= 4.5


def test_number():
    assert [number(v) for v in (None, float("nan"), 0.0, 0.123456, -3.0)] == [
        "undefined",
        "undefined",
        "0",
        "0.123",
        "-3",
    ]


# views


def test_words_and_gaps_make_up_the_whole_text():
    text = sentence(" It isn't good,\nno. ").inputs["input_ids"][0]
    pieces = word_pieces(text, torch.ones(20).tolist())
    assert "".join(p.text for p in pieces) == text.text
    assert [p.text for p in pieces if p.score is not None] == ["It", "isn't", "good", "no"]
    assert [p.text for p in token_pieces(text, [1.0] * 20)][:3] == ["[CLS]", "It", "isn"]


def test_short_parameter_streams_are_listed_and_long_ones_drawn():
    view = view_of(picture())
    assert [p.stream for p in view.panels] == ["pixel_values"]
    assert [p.stream for p in view.listed] == ["cls_token"]
    view = view_of(bare())
    assert [p.stream for p in view.panels] == ["boxes", "input"]
    assert not view.listed
    alone = view_of(bare(scores={"input": torch.ones(1, 2)}, grid={}))
    assert [p.stream for p in alone.panels] == ["input"]


def test_a_sample_that_is_not_there():
    with pytest.raises(Misuse, match="sample 1 does not exist"):
        plot(picture(), sample=1)


def test_sections_join_methods_and_targets_of_one_input():
    both = [picture(), picture(method="rollout"), picture(target="logit of 'Shirt'"), sentence(), picture(name="b.png")]
    assert [(s.name, len(s.views)) for s in sections(both)] == [("scene.png", 3), ("review.txt", 1), ("b.png", 1)]
    assert [len(s.views) for s in sections([picture(), picture()])] == [1, 1]
    assert [s.name for s in sections([picture(torch.rand(2, 16))])] == ["scene.png", "scene.png"]


def test_streams_of_different_batches():
    exp = bare(scores={"pictures": torch.rand(1, 4), "texts": torch.rand(3, 10)}, grid={"pictures": (2, 2)})
    assert [len(view_of(exp, i).panels) for i in range(3)] == [2, 1, 1]
    assert page([exp]).count("<section") == 3


# receipt


def by_name(exp):
    return {line.name: line for line in lines(exp)}


def test_receipt_says_what_the_map_accounts_for():
    said = by_name(picture())
    assert "accounts for 2.3 of 2.4" in said["attribution error"].meaning
    assert "does not claim" in said["attribution error"].meaning
    assert said["target"].meaning == "this is what the model predicts"
    assert said["output"] == ("output", "same output as your model ✓", "")


def test_receipt_says_whether_the_output_is_the_models_own():
    rounded, other, unknown = (picture(receipt=receipt(difference=d)) for d in (3e-6, 0.25, None))
    assert by_name(rounded)["output"][1:] == ("same output as your model ✓", "up to rounding: 3e-06 at most")
    assert by_name(other)["output"].value == "differs from your model's by up to 0.25"
    assert "do not trust" in by_name(other)["output"].meaning
    assert by_name(unknown)["output"].value == "not compared"


def test_receipt_says_undefined_not_nan():
    none, still = picture(receipt=receipt(change=None)), picture(receipt=receipt(change=0.0))
    assert by_name(none)["attribution error"].value == "undefined"
    assert accounts(none.receipt) == "undefined"
    assert by_name(still)["relative error"].value == "undefined"
    for exp in (none, still):
        shown = page([exp]) + headline(exp) + caption(exp) + fragment(exp)
        assert "undefined" in shown
        assert not re.search(r"\bnan\b|NaN|None", shown)


def test_receipt_says_what_the_model_predicts_instead():
    exp = picture(receipt=receipt(explained=torch.tensor([1])), target="logit")
    assert by_name(exp)["target"].meaning == "the model predicts Bag instead"
    assert by_name(exp)["target"].value.startswith("logit (Shirt)")


# png


def test_one_hot_cell_lights_the_right_pixels():
    scores = torch.zeros(1, 16)
    scores[0, 1 * 4 + 2] = 1.0  # row 1, column 2 of 4 x 4 over a box of 40 x 40 at x = 10: x 30..40, y 10..20
    drawn = overlay(picture(scores))
    assert drawn.shape == (40, 60, 4)
    assert drawn.dtype == np.uint8
    lit = np.argwhere(drawn[..., 3] == drawn[..., 3].max())
    assert lit.min(0).tolist() == [14, 34]
    assert lit.max(0).tolist() == [
        15,
        35,
    ]
    ys, xs = np.nonzero(drawn[..., 3] > 0.5 * 255 * OPACITY)
    assert xs.min() >= 30
    assert xs.max() < 40
    assert ys.min() >= 10
    assert ys.max() < 20
    assert (drawn[:, :10, 3] == 0).all()
    assert (drawn[:, 50:, 3] == 0).all()


def test_overlay_needs_an_original():
    with pytest.raises(Misuse, match="no original picture"):
        overlay(bare())


CASES = {
    "picture": picture(),
    "signed": picture(torch.linspace(-1, 1, 16)[None], signed=True),
    "zero": picture(torch.zeros(1, 16)),
    "whole": picture(box=(0.0, 0.0, 60.0, 40.0)),
    "padded": picture(box=(-5.0, -10.0, 70.0, 50.0)),
    "text": sentence(),
    "zero text": sentence(scores=torch.zeros(1, 12)),
    "tokens": sentence(
        inputs={"input_ids": [Text("ab", ["[CLS]", "a", "b"], [(0, 0), (0, 1), (1, 2)], [], [True], "t")]}
    ),
    "long": sentence("word " * 2000 + "x" * 400),
    "bare": bare(),
    "dollars": picture(target=r"logit of '$x^2$ \frac 漢字'", name="$a$.png"),
    "nasty": sentence(NASTY, name=NASTY, target=NASTY, method=NASTY),
}


@pytest.mark.parametrize("name", CASES)
def test_everything_is_drawn_everywhere(name, tmp_path):
    exp = CASES[name]
    path = tmp_path / "a.png"
    figure = plot(exp, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert figure.get_figwidth() == 9
    assert page([exp]).startswith("<!DOCTYPE html>")
    assert fragment(exp).strip().startswith("<div")
    for console in (Console(width=30), Console(force_terminal=True, color_system="truecolor", width=80)):
        with console.capture() as shown:
            console.print(show(view_of(exp), console))
        assert "output" in shown.get()


@pytest.mark.parametrize(
    "write",
    [
        lambda exp, path: exp.save(path),
        lambda exp, path: exp.to_json(path),
        lambda exp, path: exp.plot(path),
        lambda exp, path: exp.to_html(path),
    ],
    ids=["save", "to_json", "plot", "to_html"],
)
def test_a_file_whose_writing_fails_half_way_is_the_old_one(write, tmp_path):
    """A full disk, here a limit on the length of files: what was there stands, and nothing lies beside it."""
    resource = pytest.importorskip("resource")
    exp, path = picture(), tmp_path / "made.png"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
    try:
        with pytest.raises((OSError, RegardError)):
            write(exp, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["made.png"]
    assert path.read_bytes() == b"old"
    write(exp, path)
    assert len(path.read_bytes()) > 400


def test_pictures_are_reproducible_and_leave_nothing_beside_them(tmp_path):
    plot(picture(), tmp_path / "a.png")
    plot(picture(), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]
    assert write_page([picture()], tmp_path / "r.html").read_bytes() == page([picture()]).encode()


def test_figures_leave_pyplot_alone():
    code = "import sys; sys.path[:0] = ['tests']; from support.drawn import picture; picture().plot()"
    code += "; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_flow_breaks_lines_and_keeps_every_character():
    runs, rows = flow([TextPiece("one two "), TextPiece("three", 1.0), TextPiece("\nnew " + "y" * 500)], 2.0)
    assert rows > 3
    assert max(r.left + r.width for r in runs) <= 2.0 + 1e-6
    assert "".join(r.text for r in runs).replace(" ", "") == "onetwothreenew" + "y" * 500


# html


class Tags(HTMLParser):
    """Collects the elements of a page, their attributes and its text."""

    def __init__(self, source):
        super().__init__()
        self.found, self.text = [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def nasty():
    inputs = {NASTY: [dataclasses.replace(sentence(NASTY).inputs["input_ids"][0], name=NASTY, tokens=[NASTY] * 60)]}
    scores = {NASTY: torch.linspace(-1, 1, 60)[None], NASTY + "2": torch.ones(1, 1), "p" + NASTY: torch.rand(1, 4)}
    marked = receipt(target=NASTY, site=NASTY, baseline=NASTY, readout=NASTY, notes=[NASTY], versions={NASTY: NASTY})
    inputs["p" + NASTY] = [Picture(scene(), (10.0, 0.0, 50.0, 40.0), NASTY)]
    fields = {"scores": scores, "inputs": inputs, "grid": {"p" + NASTY: (2, 2)}, "receipt": marked}
    fields |= {"target": NASTY, "method": NASTY, "labels": [NASTY], "options": {NASTY: NASTY}}
    one = dataclasses.replace(sentence(), **fields)
    return [one, dataclasses.replace(one, method="b" + NASTY), dataclasses.replace(one, target="c" + NASTY)]


def test_untrusted_text_stays_text():
    clean, dirty = Tags(page([picture(), sentence()])), Tags(page(nasty(), title=NASTY))
    assert sum(t == "script" for t, _ in dirty.found) == sum(t == "script" for t, _ in clean.found) == 2
    for tags in (dirty, Tags(fragment(nasty()[0]))):
        assert not [a for _, attrs in tags.found for a in attrs if a.startswith("on")]
        assert all(attrs["src"].startswith("data:image/") for t, attrs in tags.found if t == "img")
    assert "{{ 7*7 }}" in "".join(dirty.text)
    assert "alert(1)" in "".join(dirty.text)
    assert not re.search(r"<script>alert|<img src=x|<!--", page(nasty(), title=NASTY) + fragment(nasty()[0]))


def test_json_in_the_page_can_be_read_and_cannot_break_out():
    value = {"a": NASTY, "b": [1.5, None]}
    text = str(safe_json(value))
    assert json.loads(text) == value
    assert not re.search(r"[<>&']|[^\x20-\x7e]", text)
    with pytest.raises(ValueError, match="JSON compliant"):
        safe_json(float("nan"))


def test_page_asks_for_nothing_outside():
    source = page([picture(), picture(method="rollout"), sentence()])
    policy = next(a["content"] for t, a in Tags(source).found if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
    assert not re.search(r"https?://|//cdn|@import|url\((?!#)", source)


def test_page_is_accessible():
    found = Tags(page([picture(), picture(method="rollout"), picture(target="other"), sentence()])).found
    assert ("html", {"lang": "en"}) in found
    images = [a.get("alt") for t, a in found if t == "img"]
    assert None not in images  # a thumbnail in the list of inputs adds nothing to the name beside it
    assert images.count("") == 1
    assert all(a.get("aria-label") and a["tabindex"] == "0" for _, a in found if a.get("class", "").startswith("stage"))
    ids = [a["id"] for _, a in found if "id" in a]
    assert len(ids) == len(set(ids))
    assert [t for t, _ in found if t in ("h1", "h2")] == ["h1", "h2", "h2", "h2"]
    radios = [a for t, a in found if t == "input" and a["type"] == "radio"]
    assert {a["name"] for a in radios} == {"s0-method", "s0-target", "s1-by"}


def test_words_carry_values_and_readable_text():
    words = [a for t, a in Tags(page([sentence()])).found if t == "span" and a.get("class", "").startswith("w ")]
    assert words
    assert all(a["title"] and a["data-score"] for a in words)
    assert {re.search(r"--text:(#\w+)", a["style"])[1] for a in words} <= {"#000", "#fff"}


def test_page_needs_something_to_show(tmp_path):
    with pytest.raises(Misuse, match="no explanation"):
        write_page([], tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


def test_large_pictures_are_embedded_small():
    big = picture(
        inputs={
            "pixel_values": [Picture(torch.zeros(2000, 3000, 3, dtype=torch.uint8), (0.0, 0.0, 3000.0, 2000.0), "b")]
        }
    )
    made = page([big])
    assert "data:image/jpeg" in made
    assert len(made) < 400_000


def test_large_pictures_are_drawn_small(monkeypatch):
    """Of a photo of twelve megapixels, arrays of its own size would take gigabytes, and ten seconds."""
    drawn, real = [], ColourScale.over

    def over(self, scores, *paper, **how):
        drawn.append(np.shape(scores))
        return real(self, scores, *paper, **how)

    monkeypatch.setattr(ColourScale, "over", over)
    photo = Picture(torch.zeros(1500, 2000, 3, dtype=torch.uint8), (0.0, 0.0, 2000.0, 1500.0), "b")
    one = picture(inputs={"pixel_values": [photo]})
    for shown in ([one], [one, one]):
        drawn.clear()
        page(shown)
        assert max(max(shape) for shape in drawn if shape) <= 1200


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(Misuse, match=r"needs jinja2.*pip install 'regard\[viz\]'"):
        need("viz")


PROBE = """<script>
const all = (s) => [...document.querySelectorAll(s)], shown = (s) => all(s).filter((e) => e.offsetParent);
const stage = all(".stage")[0], canvas = all("canvas")[0], {width, height} = canvas;
const alpha = [...canvas.getContext("2d").getImageData(0, 0, width, height).data].filter((_, i) => i % 4 == 3);
const seen = {alpha, size: [width, height]};
const key = (k) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key: k, bubbles: true}));
stage.focus(); key("ArrowDown"); key("ArrowRight"); key("ArrowRight");
seen.cell = all("#s0 output")[0].textContent;
all('input[data-kind="method"]')[1].click();
seen.heading = shown("#s0 h3").map((h) => h.textContent);
all("#s1 .w")[0].focus(); key("ArrowRight");
seen.word = all("#s1 output")[0].textContent;
all('#s1 input[data-kind="by"]')[1].click();
seen.special = shown("#s1 .special").length;
document.body.textContent = JSON.stringify(seen);
</script></body>"""


@pytest.mark.long
@needs_chromium
def test_page_in_a_browser(tmp_path):
    scores = torch.zeros(1, 16)
    scores[0, 6] = 1.0
    source = page([picture(scores), picture(scores / 2, method="rollout"), sentence()])
    seen = probed(tmp_path / "a.html", source, PROBE)
    width, height = seen["size"]
    drawn = shrink(np.array(seen["alpha"], dtype=float).reshape(height, width, 1), 60)[..., 0]
    assert np.abs(drawn - overlay(picture(scores))[..., 3] / OPACITY).max() < 13  # the same map, drawn finer
    assert seen["cell"] == "picture, patch (2, 3): 1"
    assert seen["heading"] == ["rolloutlogit of 'Bag'"]
    assert seen["word"].startswith("isn't: ")
    assert seen["special"] == 2


# terminal


def test_digits_are_tenths_with_signs():
    view = view_of(picture(torch.tensor([[0.0, -1.0, 0.55, 1.0]]), grid=(2, 2)))
    assert digits(view.panels[0], 80).plain == " .-9\n 5 9"


def test_terminal_gets_no_control_characters_and_no_markup():
    console = Console(width=70)
    with console.capture() as shown:
        console.print(show(view_of(nasty()[0]), console))
    assert "\x1b" not in shown.get()
    assert "[bold]" in shown.get()
    assert plain("a\x1b[31m\u202eb\nc", keep="\n") == "a�[31m�b\nc"


def test_shrink_averages():
    assert shrink(np.arange(16.0).reshape(4, 4, 1), 2)[..., 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_methods_that_give_one_map_are_shown_once():
    def by(method, scale=1.0, **more):
        return sentence(method=method, scores=torch.linspace(-1, 1, 12)[None] * scale, **more)

    found = [by("gae"), by("rollout", 2.0), by("corrected", 1 + 1e-7), by("alpha", 2.0)]
    assert same_maps(found) == {"gae": ["corrected"], "rollout": ["alpha"]}
    (section,) = sections(found)
    assert [v.method for v in section.views] == ["gae = corrected", "rollout = alpha"]
    # of one target alone: two methods still
    both = [by("gae"), by("gae", 3.0, target="b"), by("corrected"), by("corrected", 2.0, target="b")]
    assert same_maps(both) == {"gae": [], "corrected": []}
    assert same_maps([by("gae", 0.0), by("corrected", 0.0)]) == {"gae": [], "corrected": []}  # empty maps say nothing
    assert same_maps([by("gae"), by("corrected", signed=False)]) == {"gae": [], "corrected": []}
    assert same_maps([by("gae"), by("corrected", 1.001)]) == {"gae": [], "corrected": []}
