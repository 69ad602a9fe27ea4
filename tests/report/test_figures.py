"""Figures for papers: colours as on their bar, files by their endings, axes of one's own, scales, headlines, running text."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import regard
from regard import zoo
from regard.errors import Misuse, UnknownName
from regard.explanation.boxes import Box, Found
from regard.explanation.compared import ComparedClasses
from regard.explanation.prediction import Prediction
from regard.explanation.raw_inputs import Picture
from regard.report.colour import FOR, LIGHT, ColourScale
from regard.report.comparison.html import shown
from regard.report.drawing import MOST, drawing, ink, resized
from regard.report.explanation import objects_png, png
from regard.report.figure import flow
from regard.report.guided import guided_of
from regard.report.headline import caption, headline
from regard.report.look import Look
from regard.report.view import PictureView, TextPiece, view_of
from support.drawn import bare, oklab, picture, receipt, sentence
from support.drawn import causal_test as result

HALVES = torch.zeros(90, 120, 3, dtype=torch.uint8)
HALVES[:, 40:80], HALVES[:, 80:] = 128, 255
GIF = r"'map.gif' ends in .gif, which tells no format of a figure; end it in .png, .svg, .pdf, .jpg or .jpeg"


def constant(unit, scale):
    return PictureView("pixel_values", np.full((3, 4), unit), scale, Picture(HALVES, (0.0, 0.0, 120.0, 90.0)))


def words_of(figure):
    return [t.get_text() for t in figure.texts]


def maps_of(figure):
    """The drawn pictures and maps, without colour bars."""
    return [i.get_array() for axes in figure.axes for i in axes.images if 1 not in i.get_array().shape[:2]]


# colours


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("unit", [0.0, 0.1, 0.5, 1.0, -0.5])
def test_a_map_has_its_bars_colours_on_black_grey_and_white(unit, signed):
    scale = ColourScale(1.0, signed, 1.0)
    drawn, (high, wide) = drawing(constant(unit, scale)), (900, 1200)
    assert drawn.shape == (high, wide, 3)
    apart = np.linalg.norm(oklab(drawn) - oklab(scale.over(unit, LIGHT)), axis=-1)
    edges = np.minimum(abs(np.arange(wide) - 400), abs(np.arange(wide) - 800))  # in pixels, 300 an inch
    assert apart[:, edges > 30].max() < 0.005
    assert (apart[:, edges <= 30].max(1) > 0.1).all()  # and yet the contours are seen


def test_noise_is_no_contour_and_lines_are_light_on_dark_colours():
    noise = np.random.default_rng(0).normal(60, 2, (200, 200, 1)).repeat(3, -1).clip(0, 255).astype(np.uint8)
    assert (ink(noise, 4.0) > 0.97).mean() > 0.99
    dark = ColourScale(1.0, False, 1.0, colours=np.full((256, 3), 20, dtype=np.uint8))
    assert drawing(constant(1.0, dark)).max() > 100
    assert drawing(constant(1.0, dark)).min() == 20


def test_a_figure_shows_the_original_and_the_colours_of_its_bar():
    exp = picture(torch.ones(1, 16), box=(0.0, 0.0, 60.0, 40.0))
    original, drawn = maps_of(exp.plot())
    assert (original == exp.inputs["pixel_values"][0].pixels.numpy()).all()
    assert (np.median(np.asarray(drawn), axis=(0, 1)) == FOR).all()
    (alone,) = maps_of(exp.plot(original=False))
    assert max(alone.shape) > max(drawn.shape)


def test_colour_maps_by_name_and_themselves():
    import matplotlib

    exp = picture(torch.linspace(-1, 1, 16)[None], signed=True)
    by_name, itself = (exp.plot(cmap=c) for c in ("coolwarm", matplotlib.colormaps["coolwarm"]))
    assert all((a == b).all() for a, b in zip(maps_of(by_name), maps_of(itself), strict=True))
    bar = by_name.axes[-1].images[0].get_array()[:, 0]
    expected = 255 * matplotlib.colormaps["coolwarm"](np.linspace(0, 1, 256))[:, :3]
    assert np.abs(bar - expected).max() < 3  # zero is in the middle
    with pytest.raises(UnknownName, match=r"unknown colour map 'virdis'; did you mean 'viridis'"):
        exp.plot(cmap="virdis")
    with pytest.raises(Misuse, match="cmap is the name of a matplotlib colour map or such a map; not int"):
        exp.plot(cmap=3)


def test_overlay_is_a_method():
    exp = picture()
    assert exp.overlay().shape == (40, 60, 4)
    with pytest.raises(Misuse, match="no original picture"):
        bare().overlay()


# scales


def two():
    return picture(torch.stack([torch.linspace(0, 1, 16), torch.linspace(0, 4, 16)]))


def limit(figure):
    return figure.axes[-1].images[0].get_extent()[3]


def test_samples_have_scales_of_their_own_or_share_one():
    assert [limit(two().plot(sample=i)) for i in (0, 1)] == [1, 4]
    assert [limit(two().plot(sample=i, scale="shared")) for i in (0, 1)] == [4, 4]
    assert limit(two().plot(scale=2.0)) == 2
    with pytest.raises(UnknownName, match="unknown scale 'share'; did you mean 'shared'"):
        two().plot(scale="share")
    for bad in (0.0, -1, float("nan"), None):
        with pytest.raises(Misuse, match='scale is "own", "shared" or a number above 0'):
            Look.of(scale=bad)


def test_a_given_limit_says_what_lies_beyond_it():
    scale = Look.of(scale=0.5).on(view_of(picture())).panels[0].scale
    assert scale.clipped
    assert scale.note == "largest score 1, beyond the scale"


def test_sites_of_one_method_share_a_scale_and_methods_do_not():
    c = regard.load("zoo/vit-scenes").compare(zoo.demo_scene(), methods=["input_x_gradient", "taylor"])
    limits = {k: p[0].scale.limit for k, (p, _) in shown(c, 0).items()}
    own = {k: p[0].scale.limit for k, (p, _) in shown(c, 0, Look()).items()}
    for method in c.methods:
        row = [id(e) for e in c.explanations if e.method == method and own[id(e)]]
        assert len({limits[k] for k in row}) == 1
        assert max(own[k] for k in row) == limits[row[0]]
        assert len({own[k] for k in row}) > 1
    assert len({v for v in limits.values() if v}) == 2
    assert maps_of(c.plot())[0].shape[2] == 3


def test_objects_share_a_scale():
    found = [Found(i, 0, "Bag", 0.9, Box(12.0, 2.0, 30.0, 20.0)) for i in (0, 1)]
    each = [picture(s * torch.linspace(0, 1, 16)[None], found=f) for s, f in zip((1, 3), found, strict=True)]
    assert objects_png.plot(each).axes[-1].images[0].get_extent()[1] == 3
    assert "Bag 90 %" in words_of(objects_png.plot(each))
    assert any("a scale of its own" in w for w in words_of(objects_png.plot(each, scale="own")))


def test_a_map_without_and_with_its_guide_share_a_scale():
    exp = regard.load("zoo/vit-scenes").explain(zoo.demo_scene(), guide="contrast")
    seen = guided_of(view_of(exp), np.zeros((256, 3), dtype=np.uint8)).pictures[0]
    assert seen.without.scale == seen.guided.scale
    assert seen.guided.scale.limit == max(
        float(t.max()) for t in (exp.scores["pixel_values"], exp.guidance.unguided["pixel_values"])
    )
    assert not seen.guided.scale.over(1.0, LIGHT).any()  # in the colours that were asked for


def test_rows_of_a_generation_have_scales_of_their_own_or_share_one():
    written = regard.load("zoo/llama-facts").explain_generation(
        "anna has the lamp . who has the lamp ?", max_new_tokens=2
    )
    own, together = (written.plot(scale=s) for s in ("own", "shared"))
    fullest = [
        [f.axes[0].images[0].get_array()[i].min() for i in (0, 1)] for f in (own, together)
    ]  # blue, of the strongest
    assert fullest[0] == [0, 0]
    assert sorted(fullest[1])[0] == 0 < sorted(fullest[1])[1]
    assert (len(own.axes), len(together.axes)) == (1, 2)


# files


@pytest.mark.parametrize(
    ("name", "begins"),
    [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF"), ("a.jpg", b"\xff\xd8"), ("a.JPEG", b"\xff\xd8")],
)
def test_the_ending_decides_the_format_and_the_bytes_are_the_same(name, begins, tmp_path):
    for folder in ("first", "second"):
        sentence().plot(tmp_path / folder / name)
    data = (tmp_path / "first" / name).read_bytes()
    assert data.startswith(begins)
    assert data == (tmp_path / "second" / name).read_bytes()
    assert not re.search(rb"CreationDate|dc:date|Matplotlib v", data)


def test_text_of_an_svg_is_text(tmp_path):
    sentence().plot(tmp_path / "a.svg")
    assert re.search(r"<text[^>]*>unforgivably</text>", (tmp_path / "a.svg").read_text("utf-8"))


def test_other_endings_are_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(png, "_figure", None)
    with pytest.raises(Misuse, match=GIF):
        picture().plot(tmp_path / "map.gif")
    with pytest.raises(Misuse, match="'map' has no ending"):
        picture().plot(tmp_path / "map")
    assert not [*tmp_path.iterdir()]


# axes


def test_into_axes_of_ones_own(tmp_path):
    figure = Figure(figsize=(6, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    assert picture(torch.linspace(-1, 1, 16)[None], signed=True).plot(ax=left, cmap="PuOr") is figure
    sentence().plot(ax=middle)
    bare(scores={"input": torch.linspace(0, 1, 12)[None]}, grid={}).plot(tmp_path / "all.png", ax=right)
    assert (tmp_path / "all.png").exists()
    assert not figure.texts
    assert left.get_xlim() == (-0.5, 59.5)  # the picture's own pixels
    bar = figure.colorbar(left.images[0])
    assert (bar.vmin, bar.vmax) == (-1, 1)
    assert np.allclose(bar.cmap(1.0)[:3], [0x2D / 255, 0x00, 0x4B / 255], atol=0.02)  # the last colour of PuOr
    assert "".join(t.get_text() for t in middle.texts).replace(" ", "") == "Itisn'tgood,unforgivablydull."
    assert right.images[0].get_array().shape == (1, 12, 3)


def test_words_stay_in_their_axes_and_on_their_boxes():
    figure = Figure(figsize=(4, 2))
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    sentence("It isn't good, unforgivably dull. " * 8).plot(ax=axes)
    inside = axes.get_window_extent()
    extents = [t.get_window_extent() for t in axes.texts]
    assert min(e.y0 for e in extents) > inside.y0 - 1
    assert max(e.x1 for e in extents) < inside.x1 + 3
    boxes = [p.get_window_extent() for p in axes.patches]
    assert all(any(b.x0 - 1 <= t.x0 and t.x1 <= b.x1 + 2 for t in extents) for b in boxes)


# words


def class_of(**fields):
    return picture(target="logit of class 0", **fields)


def test_headlines():
    tested = class_of()
    tested.receipt.causal = [result()]
    fits = ComparedClasses(("a red bag", "a shirt"), (3.0, 1.0), (0.88, 0.12), "softmax")
    box = Found(0, 0, "Coat", 0.999, Box(0.0, 0.0, 9.0, 9.0))
    sure = picture(target="probability of class 0", receipt=receipt(target_value=torch.tensor([0.874])))
    rows = (torch.tensor([[0, 1]]), torch.tensor([[2.0, 1.3]]), torch.tensor([[0.67, 0.33]]))
    likely = Prediction(*rows, "softmax", 2)
    said = {
        "Bag": class_of(),
        "Bag 90 %": tested,
        "Bag 87 %": sure,
        "Bag 67 %": class_of(likely=likely),
        "Shirt 33 %": class_of(likely=likely, receipt=receipt(explained=torch.tensor([1]))),
        "Coat 99.9 %": picture(found=box),
        "a red bag 88 %": picture(target="logit of the predicted class", compared=fits, labels=list(fits.names)),
        "Bag rather than Shirt": picture(target="contrast class 0 - class 1"),
        "T-shirt rather than Boot": picture(target="'T-shirt' rather than 'Boot'", receipt=receipt(explained=None)),
        "custom": picture(target="custom", receipt=receipt(explained=None)),
        "“dora”": sentence(target="logit of 'dora' (token 18, number 1 written)"),
    }
    assert {headline(e): e for e in said.values()}.keys() == said.keys()
    assert words_of(tested.plot())[0] == "Bag 90 %"


def test_a_caption_is_one_line_without_internals():
    assert caption(class_of()) == "gae"
    tested = class_of(receipt=receipt(decomposes=True), options={"k": 3})
    tested.receipt.causal = [result()]
    assert (
        caption(tested) == "gae (k=3) · accounts for 96 % of what there is to explain · better than chance (p = 0.02)"
    )
    tested.receipt.causal = [result(0.1)]
    assert "not better than chance" in caption(tested)
    other = class_of(receipt=receipt(explained=torch.tensor([1]), difference=0.25))
    assert caption(other) == "gae · the model predicts Bag · output differs from your model's by up to 0.25"
    long = class_of(options={f"option_{i}": "W" * 9 for i in range(9)}).plot()
    assert words_of(long)[1].endswith(" …")
    assert long.texts[1].get_window_extent().x1 < 8.8 * long.dpi
    words = " ".join(words_of(class_of().plot()))
    assert not re.search(r"ε|Σ|site|baseline|faithful|relative error", words)


TEXTS = [
    "It isn't good, (not at all); unforgivably dull! " * 9,
    "It is n't good , ( not at all ) ; unforgivably dull ! " * 9,
    'He said "no", then: «yes» - and/or [maybe] ... ' * 9,
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("width", np.linspace(1.8, 4.0, 12))
def test_no_line_starts_with_closing_or_ends_with_opening_punctuation(text, width):
    pieces = [TextPiece(p, 1.0) for p in re.findall(r"\w+(?:'\w+)?|\s+|[^\w\s]", text)]
    runs, rows = flow(pieces, float(width))
    lines = ["".join(r.text for r in runs if r.row == i).strip() for i in range(rows)]
    assert not [line for line in lines if re.match(r"[,.;:!?)\]»/-]", line) or re.search(r"[(\[«]$", line)]
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert max(r.left + r.width for r in runs if not r.text.isspace()) <= width + 1e-6


def test_a_text_figure_is_as_high_as_its_text():
    short, long = (sentence(" ".join(["word, word"] * n)).plot() for n in (2, 200))
    assert short.get_figheight() < 2.3
    dots = [t.get_window_extent() for t in long.texts]
    assert min(d.y0 for d in dots) > 0  # no row is cut off
    bar = long.axes[0].get_window_extent()
    assert min(d.y0 for d in dots) - bar.y1 < 0.3 * long.dpi
    assert bar.y0 < 0.8 * long.dpi  # nothing empty below


# size


def test_a_large_photo_is_drawn_small():
    large = torch.from_numpy(np.array(Image.effect_noise((4000, 3000), 50).convert("RGB")))
    exp = picture(inputs={"pixel_values": [Picture(large, (0.0, 0.0, 4000.0, 3000.0))]})
    figure = exp.plot()
    assert all(max(a.shape) <= MOST for a in maps_of(figure))
    assert [axes.get_xlim() for axes in figure.axes[:2]] == [(-0.5, 3999.5)] * 2
    assert exp.overlay().shape == (3000, 4000, 4)
    assert exp.on_original()[0].shape == (3000, 4000)


def test_boxes_go_with_a_picture_that_is_resized():
    given = Picture(
        HALVES, (10.0, 0.0, 110.0, 90.0), regions=(Box(0.0, 0.0, 60.0, 45.0),), tiles=((0.0, 0.0, 60.0, 90.0),)
    )
    small = resized(given, 60)
    assert small.pixels.shape == (45, 60, 3)
    assert (small.box, small.tiles) == ((5.0, 0.0, 55.0, 45.0), ((0.0, 0.0, 30.0, 45.0),))
    assert small.regions == (Box(0.0, 0.0, 30.0, 22.5),)
    assert resized(given, 240) is given
