"""Attention transfer as a picture, a page and a table: what is said, where arrows lead, and nothing that a text could do."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
import torch

from regard.errors import Misuse
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Sound, Text
from regard.explanation.transfer import Flow, LateTransfer, LayerTransfer, Tokens
from regard.report.transfer.html import page
from regard.report.transfer.png import plot
from regard.report.transfer.view import RunningView, centre, view_of_transfer
from regard.report.view import PictureView
from support.browser import dom_of, needs_chromium
from support.drawn import NASTY, bare, picture, receipt, scene, sentence


def layer(streams, flows=(), index=0, name="layers.0.attention", row_sum=1e-9, row_size=0.5, queries=None):
    batch = len(next(iter(streams.values())))
    made = [Flow(Tokens(a, (i,)), Tokens(b, (j,)), amount) for (a, i), (b, j), amount in flows]
    return LayerTransfer(
        index=index,
        name=name,
        queries=tuple(streams) if queries is None else queries,
        streams=streams,
        flows=[made] * batch,
        missed=torch.zeros(batch),
        row_sum=torch.full((batch,), row_sum),
        row_size=torch.full((batch,), row_size),
    )


def with_layers(exp, *layers) -> Explanation:
    return dataclasses.replace(exp, _transfer=LateTransfer(count=99, known=list(layers)))


def on_picture(**fields):
    """Patch (1, 2) loses to patch (4, 1) and to the class token."""
    t = torch.zeros(1, 16)
    t[0, 1], t[0, 12] = -0.5, 0.3
    flows = [
        (("pixel_values", 1), ("pixel_values", 12), 0.3),
        (("pixel_values", 1), ("cls_token", 0), 0.2),
    ]
    strong = layer({"pixel_values": t, "cls_token": torch.tensor([[0.2]])}, flows, 1, "layers.1.attention")
    weak = layer({"pixel_values": t / 4, "cls_token": torch.tensor([[0.05]])}, [flows[0]], 0)
    return with_layers(picture(**fields), weak, strong)


def on_words(exp=None):
    """“unforgivably” is three tokens; “dull” loses to two of them, one of these to another, and “good” to “dull”."""
    exp = exp or sentence("It is good, unforgivably dull.")
    tokens = exp.inputs["input_ids"][0].tokens
    first, dull, good = tokens.index("unforg"), tokens.index("dull"), tokens.index("good")
    t = torch.zeros(1, len(tokens))
    t[0, first], t[0, dull], t[0, good], t[0, 0] = 0.6, -0.3, -0.3, 1e-3
    s = "input_ids"
    flows = [
        ((s, dull), (s, first), 0.2),
        ((s, dull), (s, first + 1), 0.3),
        ((s, first + 1), (s, dull), 0.1),
        ((s, first), (s, first + 1), 0.9),
        ((s, good), (s, dull), 0.05),
        ((s, good), (s, first), 0.001),
    ]
    return with_layers(exp, layer({s: t}, flows))


# -- what is said -----------------------------------------------------------------------------------------------------


def test_the_sentence_says_from_what_loses_to_what_gains_in_the_strongest_layer():
    view = view_of_transfer(on_picture().transfer())
    assert view.large == 1
    assert view.layers[1].sentence == (
        "In layer 1, the prediction Bag would rise if attention moved from patch (1, 2) to patch (4, 1)."
    )
    assert view.layers[1].ends == "Most to gain: patch (4, 1) 0.3, [CLS] 0.2; most to lose: patch (1, 2) 0.5."
    assert view_of_transfer(on_picture().transfer(), layer=0).large == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"explained": torch.tensor([1])}, "the target (logit of 'Bag' (Shirt); the model predicts Bag) would rise"),
        ({"explained": None}, "the target (logit of 'Bag') would rise"),
        ({"classes": "token"}, "the target (logit of 'Bag') would rise"),
    ],
)
def test_the_sentence_names_what_is_explained(fields, said):
    assert said in view_of_transfer(on_picture(receipt=receipt(**fields)).transfer()).layers[1].sentence


def test_a_layer_without_transfer_says_so():
    still = layer({"pixel_values": torch.zeros(1, 16)}, row_sum=0.0, row_size=0.0, index=2)
    exp = on_picture()
    view = view_of_transfer(with_layers(exp, *exp.transfer().layers, still).transfer())
    assert view.layers[2].sentence == "In layer 2, the prediction Bag does not depend on where attention goes."
    assert view.layers[2].arrows == []
    assert len(view.checks) == 1


def test_row_sums_are_the_check():
    assert view_of_transfer(on_picture().transfer()).checks == [
        "Check: the rows of ∂y/∂S sum to 0 in all 2 layers (largest sum 1e-09) ✓"
    ]
    t = torch.tensor([[0.3, -0.2]])
    sink = with_layers(sentence("ab", scores=torch.zeros(1, 3)), layer({"input": t}, row_sum=0.1))
    said = view_of_transfer(sink.transfer()).checks
    assert said[0] == "Check of ∂y/∂S:"
    assert "rows sum to as much as 0.1 (a row transfers up to 0.5)" in said[1]
    assert "gains -0.1 in all" in said[1]


def test_words_that_stand_several_times_are_told_apart():
    exp = sentence("dull and dull and dull")
    s, t = "input_ids", torch.tensor([[0.0, -0.2, 0.0, 0.0, 0.0, 0.2, 0.0]])
    view = view_of_transfer(with_layers(exp, layer({s: t}, [((s, 1), (s, 5), 0.2)])).transfer())
    assert "from the 1st “dull” to the 3rd “dull”." in view.layers[0].sentence


def test_the_table_is_plain_text():
    text = str(on_picture().transfer())
    assert text.splitlines()[0].startswith("In layer 1, the prediction Bag would rise")
    assert re.search(r"^1 +0\.5 +patch \(1, 2\) +patch \(4, 1\) +1e-09 +layers\.1\.attention$", text, re.MULTILINE)
    assert "\x1b" not in str(nasty().transfer())


# -- where arrows lead ------------------------------------------------------------------------------------------------


def test_flows_between_words_are_added_and_set_off():
    """0.2 + 0.3 one way and 0.1 back; inside a word nothing; what is weak is left out."""
    (only,) = view_of_transfer(on_words().transfer()).layers
    assert [(a.loser, a.gainer, round(a.amount, 6)) for a in only.arrows] == [
        ("“dull”", "“unforgivably”", 0.4),
        ("“good”", "“dull”", 0.05),
    ]
    (panel,) = only.panels
    assert isinstance(panel, RunningView)
    assert "".join(p.text for p in panel.pieces if not p.special).strip() == "It is good, unforgivably dull."
    assert [panel.pieces[int(a.begins[1])].text for a in only.arrows] == ["dull", "good"]


def test_special_tokens_stand_in_the_text_and_padding_does_not():
    raw = Text("good", ["[CLS]", "good", "[SEP]", "[PAD]"], [(0, 0), (0, 4), (0, 0), (0, 0)], [(0, 4)],
               [True, False, True, True])  # fmt: skip
    exp = sentence("good", scores=torch.zeros(1, 4), inputs={"input_ids": [raw]})
    t = torch.tensor([[0.1, -0.3, 0.2, 0.0]])
    view = view_of_transfer(with_layers(exp, layer({"input_ids": t})).transfer())
    assert [p.text for p in view.layers[0].panels[0].scored] == ["[CLS]", "good", "[SEP]"]


def test_arrows_lead_from_cell_to_cell():
    view = view_of_transfer(on_picture().transfer())
    panel = view.layers[1].panels[0]
    assert isinstance(panel, PictureView)
    arrow = view.layers[1].arrows[0]
    assert arrow.begins == (0, *centre(panel, 0, 1)) == (0, 25.0, 5.0)  # the model saw pixels 10 to 50 of 60
    assert arrow.ends == (0, *centre(panel, 3, 0)) == (0, 15.0, 35.0)


def test_merged_tokens_are_an_area_and_their_arrow_begins_in_its_middle():
    exp = on_picture()
    area = Tokens("pixel_values", (0, 1, 4, 5))
    one = dataclasses.replace(exp.transfer()[1], flows=[[Flow(area, Tokens("pixel_values", (12,)), 0.3)]])
    (arrow,) = view_of_transfer(with_layers(exp, one).transfer()).layers[0].arrows
    assert arrow.loser == "patches (1, 1)–(2, 2)"
    assert arrow.begins == (0, 20.0, 10.0)


@pytest.mark.long
def test_frames_are_pictures_of_their_own():
    t = torch.zeros(1, 8)
    t[0, 0], t[0, 7] = -0.5, 0.5
    flows = [(("video", 0), ("video", 7), 0.5)]
    exp = bare(scores={"video": torch.zeros(1, 8)}, grid={"video": (2, 2, 2)})
    (only,) = view_of_transfer(with_layers(exp, layer({"video": t}, flows)).transfer()).layers
    assert len(only.panels) == 2
    assert (only.arrows[0].begins, only.arrows[0].ends) == ((0, 0.5, 0.5), (1, 1.5, 1.5))
    assert only.ends == "Most to gain: patch (2, 2) of frame 2 0.5; most to lose: patch (1, 1) of frame 1 0.5."
    plot(with_layers(exp, layer({"video": t}, flows)).transfer())


@pytest.mark.long
@pytest.mark.parametrize("bands", [1, 2])
def test_moments_of_a_sound(bands):
    sound = Sound(torch.sin(torch.arange(800) / 5), 400, 2.0, bands=bands)
    t = torch.zeros(1, 8)
    t[0, 1], t[0, 6] = 0.5, -0.5
    exp = bare(scores={"input": torch.zeros(1, 8)}, grid={}, inputs={"input": [sound]})
    moved = with_layers(exp, layer({"input": t}, [(("input", 6), ("input", 1), 0.5)])).transfer()
    (only,) = view_of_transfer(moved).layers
    times = ("1.50–1.75 s", "0.25–0.50 s") if bands == 1 else ("1.50–2.00 s", "0.00–0.50 s")
    assert (only.arrows[0].loser, only.arrows[0].gainer) == times
    assert only.ends == f"Most to gain: {times[1]} 0.5; most to lose: {times[0]} 0.5."
    assert only.arrows[0].begins[1] > only.arrows[0].ends[1]
    page(moved)
    plot(moved)


def test_a_layer_that_looks_at_no_token():
    exp = on_picture()
    nothing = dataclasses.replace(exp.transfer()[0], streams={}, flows=[[]], row_size=torch.zeros(1))
    moved = with_layers(exp, nothing, exp.transfer()[1]).transfer()
    assert float(moved[0].amount) == float(moved[0].elsewhere) == 0
    assert view_of_transfer(moved).layers[0].panels == []
    page(moved)
    plot(moved, layer=0)


def test_all_layers_have_one_scale_that_the_class_token_does_not_set():
    exp = on_picture()
    high = dataclasses.replace(
        exp.transfer()[1], streams=exp.transfer()[1].streams | {"cls_token": torch.tensor([[9.0]])}
    )
    view = view_of_transfer(with_layers(exp, exp.transfer()[0], high).transfer())
    assert view.scale.limit <= 0.5
    assert view.scale.top == 9
    assert len({p.scale for one in view.layers for p in one.panels if isinstance(p, PictureView)}) == 1


def test_a_sample_that_is_not_there():
    with pytest.raises(Misuse, match="sample 3 does not exist"):
        view_of_transfer(on_picture().transfer(), 3)


# -- the picture ------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("make", [on_picture, on_words])
def test_the_picture_is_the_same_bytes_and_is_written_whole(make, tmp_path, monkeypatch):
    transfer = make().transfer()
    transfer.plot(tmp_path / "a.png")
    transfer.plot(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        transfer.plot(tmp_path / "c.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def words_in(figure) -> str:
    return " ".join(t.get_text() for t in figure.texts)


def test_the_picture_tells_the_story():
    figure = plot(on_picture().transfer())
    said = words_in(figure)
    assert "the prediction Bag would rise" in said
    assert "layer 0 · 0.125" in said
    assert "sum to 0 in all 2 layers" in said
    from matplotlib.patches import FancyArrowPatch

    assert sum(isinstance(a, FancyArrowPatch) for a in figure.findobj()) == 2


@pytest.mark.long
def test_long_texts_end_in_the_picture():
    exp = sentence("word " * 3000)
    count = exp.scores["input_ids"].shape[1]
    t = torch.zeros(1, count)
    t[0, 1], t[0, count - 2] = -1.0, 1.0
    flows = [(("input_ids", 1), ("input_ids", count - 2), 1.0)]
    figure = plot(with_layers(exp, layer({"input_ids": t}, flows)).transfer())
    assert figure.get_figheight() < 40


# -- the page ---------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self, source):
        super().__init__()
        self.found, self.text = [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def data_of(source):
    return json.loads(re.search(r'id="regard-data">(.*?)</script>', source, re.DOTALL)[1])


def nasty():
    exp = on_picture(
        labels=[NASTY, NASTY],
        target=f"logit of {NASTY}",
        inputs={"pixel_values": [dataclasses.replace(picture().inputs["pixel_values"][0], name=NASTY)]},
    )
    t = torch.tensor([[0.4, -0.4]])
    more = layer({NASTY: t}, [((NASTY, 1), (NASTY, 0), 0.4)], 2, NASTY, queries=(NASTY,))
    return with_layers(exp, *exp.transfer().layers, more)


def nasty_words():
    exp = sentence("a b c d")
    raw = dataclasses.replace(exp.inputs["input_ids"][0], text=NASTY, name=NASTY, words=[(0, 9), (9, 17), (17, 26), (26, 40)],
                              offsets=[(0, 0), (0, 9), (9, 17), (17, 26), (26, 40), (0, 0)])  # fmt: skip
    s, t = "input_ids", torch.tensor([[0.1, 0.2, -0.4, 0.3, 0.1, -0.3]])
    return with_layers(
        dataclasses.replace(exp, inputs={s: [dataclasses.replace(raw, tokens=[NASTY] * 6)]}),
        layer({s: t}, [((s, 2), (s, 3), 0.3), ((s, 5), (s, 1), 0.2)]),
    )


@pytest.mark.parametrize("make", [nasty, nasty_words])
def test_no_text_can_do_anything(make):
    source, clean = page(make().transfer()), page((on_picture if make is nasty else on_words)().transfer())
    found = Tags(source)
    assert {t for t, _ in found.found} <= {t for t, _ in Tags(clean).found} | {"h4"}
    assert sum(t == "script" for t, _ in found.found) == 2
    assert not [a for _, attrs in found.found for a in attrs if a.startswith("on")]
    assert "alert(1)" in "".join(found.text)
    assert "{{ 7*7 }}" in "".join(found.text)
    assert not re.search(r"<script>alert|<img src=x|<!--", source)
    data_of(source)
    plot(make().transfer())


def test_the_page_asks_for_nothing_outside():
    source = page(on_picture().transfer())
    policy = next(a["content"] for _, a in Tags(source).found if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|//cdn|@import|url\((?!#)", source)


def test_the_page_holds_every_layer_with_its_arrows():
    source = page(on_picture().transfer())
    data = data_of(source)
    (sample,) = data["samples"]
    assert sample["large"] == 1
    assert [len(one["arrows"]) for one in sample["layers"]] == [1, 2]
    first, second = sample["layers"][1]["arrows"]
    assert (first["from"], first["to"]) == (["s0p0", 25.0, 5.0], ["s0p0", 15.0, 35.0])
    assert (second["to"], second["strength"]) == (["s0t0", 0], round(0.2 / 0.3, 4))
    found = Tags(source).found
    ids = [a["id"] for _, a in found if "id" in a]
    assert len(ids) == len(set(ids))
    assert {"s0p0", "s0t0"} <= set(ids)
    assert [a["aria-pressed"] for t, a in found if t == "button"] == ["false", "true"]
    text = "".join(Tags(source).text)
    assert "would rise if attention moved from patch (1, 2) to patch (4, 1)." in text
    assert "sum to 0 in all 2 layers" in text


def test_arrows_of_words_end_at_the_words():
    source = page(on_words().transfer())
    (only,) = data_of(source)["samples"][0]["layers"]
    part = source[source.index('id="s0t0"') :]
    words = re.findall(r'<span class="w [^>]*>([^<]*)</span>', part[: part.index("</p>")])
    assert [(words[a["from"][1]], words[a["to"][1]]) for a in only["arrows"]] == [
        ("dull", "unforgivably"),
        ("good", "dull"),
    ]


def test_a_batch_is_a_page_of_samples_and_a_layer_can_be_chosen():
    exp = picture(torch.rand(2, 16))
    t = torch.stack([torch.linspace(-1, 1, 16)] * 2)
    several = with_layers(exp, layer({"pixel_values": t}), layer({"pixel_values": t * 2}, index=1))
    assert [s["large"] for s in data_of(page(several.transfer()))["samples"]] == [1, 1]
    assert [s["large"] for s in data_of(page(several.transfer(), 0))["samples"]] == [0, 0]


@pytest.mark.long
@needs_chromium
@pytest.mark.parametrize("make", [on_picture, on_words, nasty])
def test_a_browser_draws_the_arrows(make, tmp_path):
    made = make().transfer().to_html(tmp_path / "t.html")
    shown = dom_of(made, "--virtual-time-budget=3000")
    drawn = shown[shown.index('class="arrows"') :]
    expected = data_of(made.read_text("utf-8"))["samples"][0]
    assert drawn[: drawn.index("</svg>")].count("<g ") == len(expected["layers"][expected["large"]]["arrows"])
    shown = [a for t, a in Tags(shown).found if "data-layer" in a and "hidden" not in a]
    assert {a["data-layer"] for a in shown} == {str(expected["large"])}


def test_scene_is_seen() -> None:
    """The picture of these tests is larger than what the model saw of it: the rest is hatched."""
    assert tuple(scene().shape[:2]) == (40, 60)
    assert "-hatch" in page(on_picture().transfer())
