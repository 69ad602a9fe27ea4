"""Comparisons: which maps there are, and a page that says what their receipts say, and nothing more."""

from __future__ import annotations

import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import nn

import regard
from regard import Baseline, Site, Target
from regard.errors import Misuse, TargetError
from regard.evaluation.compare import Comparison, chosen_blocks, formula, usual
from regard.report.colour import number
from regard.report.comparison.html import HEAD, page, panels_of, plain_table, small, table
from support.drawn import NASTY, bare, picture, sentence

torch.set_num_threads(1)


class Page(HTMLParser):
    """The figures of a page with their captions, the rows of its tables, and what tags there are."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags, self.figures, self.rows, self.text, self.open = set(), {}, [], "", []
        self.ids, self.links = set(), set()
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        assert not [k for k in values if k.startswith("on")]
        assert values.get("src", "data:").startswith("data:")
        assert values.get("href", "#").startswith("#")
        if "id" in values:
            self.ids.add(values["id"])
        if tag == "a":
            self.links.add(values["href"])
        if tag == "figure":
            self.figures[values["id"]] = {"about": values["aria-label"], "caption": ""}
            self.open.append(values["id"])
        if tag == "tr":
            self.rows.append((values.get("id"), []))
        if tag in ("td", "th") and not self.open:
            self.rows[-1][1].append("")

    def handle_endtag(self, tag):
        if tag == "figure":
            self.open.pop()

    def handle_data(self, data):
        self.text += data
        if self.open and self.lasttag == "a":
            self.figures[self.open[-1]]["caption"] += data.rstrip("\n")
        elif self.rows and self.rows[-1][1] and not self.open:
            self.rows[-1][1][-1] += data


def percent_of(text: str) -> float:
    return float(text.removesuffix(" %")) / 100


@pytest.fixture(scope="module")
def vit() -> Comparison:
    reader = regard.load("zoo/vit-scenes")
    sites = ["input", "block:-2", "attention[-1]"]
    return reader.compare(
        regard.zoo.demo_scene(), methods=["revised_ig", "odam", "gae", "rollout"], sites=sites, steps=4
    )


def test_methods_are_where_they_can_be(vit):
    assert vit.sites == ("input", "block[2]", "attention[3]")
    inner = [("revised_ig", "block[2]"), ("odam", "block[2]")]
    assert list(vit.grid) == [("revised_ig", "input"), *inner, ("revised_ig", "attention[3]")]
    assert list(vit.own) == ["gae", "rollout"]
    assert [e.method for e in vit.explanations] == ["revised_ig"] * 3 + ["odam", "gae", "rollout"]


def test_maps_are_those_of_explain(vit):
    reader = regard.load("zoo/vit-scenes")
    alone = reader.explain(regard.zoo.demo_scene(), method="revised_ig", site="block[2]", steps=4)
    torch.testing.assert_close(vit.grid["revised_ig", "block[2]"].scores["pixel_values"], alone.scores["pixel_values"])


def test_page_says_what_the_receipts_say(vit):
    read = Page(page(vit))
    assert not read.tags & {"iframe", "object", "link"}
    rows = [(id, cells) for id, cells in read.rows if id]
    assert len(rows) == len(read.figures) == len(vit.explanations)
    for exp, (id, cells) in zip(vit.explanations, rows, strict=True):
        r = exp.receipt
        site, baseline, total, T, error, ratio, passes = [c.strip() for c in cells[-7:]]
        figure = read.figures[id.removesuffix("-row")]
        assert (site, baseline, int(passes.split()[0])) == (r.site, r.baseline, r.passes)
        assert figure["about"] == f"{exp.method} at {r.site}"
        assert float(total) == pytest.approx(float(r.attribution_sum), rel=5e-3)
        if exp.method == "rollout":
            assert (T, error, ratio, figure["caption"]) == ("undefined", "undefined", "undefined", "ε/|T| undefined")
            continue
        assert float(T) == pytest.approx(float(r.attribution_target), rel=5e-3)
        assert float(error) == pytest.approx(float(r.attribution_error), rel=5e-3)
        assert percent_of(ratio) == pytest.approx(float(r.relative_error), rel=5e-3)
        assert figure["caption"] == f"ε/|T| {ratio}"


def test_links_of_the_page_lead_somewhere(vit):
    read = Page(page(vit))
    assert {link.removeprefix("#") for link in read.links} <= read.ids
    assert len(read.links) == 2 * len(vit.explanations)


def test_one_table_on_the_page_in_text_and_in_python(vit):
    rows = table(vit)
    assert [len(row) for row in rows] == [len(HEAD)] * len(vit.explanations)
    assert len(str(vit).splitlines()) == 1 + len(rows)
    assert str(vit) == plain_table(vit)
    for row, e in zip(rows, vit.explanations, strict=True):
        assert row[:4] == [e.method, *formula(e)]
        assert row[6] == number(float(e.receipt.attribution_sum))
    assert rows[0][3] == "4 Gauss-Legendre nodes"
    assert rows[-1][3] == "not of this integral"


def made(*explanations, sites=("block[0]",)) -> Comparison:
    grid = {(e.method, s): e for e in explanations for s in sites}
    return Comparison(tuple(e.method for e in explanations), sites, grid, {})


def test_nothing_untrusted_gets_through(monkeypatch):
    texts = sentence(NASTY, name=NASTY, target=NASTY, labels=[NASTY, "b"])
    texts.receipt.notes.append(NASTY)
    plain = page(made(sentence()))
    read, clean = Page(page(made(texts))), Page(plain)
    assert read.tags <= clean.tags | {"h4"}
    assert page(made(texts)).count("<script") == plain.count("<script") == 1  # the page's own
    assert "alert(1)" in read.text
    assert "{{ 7*7 }}" in read.text
    source = page(made(picture(name=NASTY, target=NASTY, labels=[NASTY, "b"])), title=None)
    pictured = Page(source)
    assert source.count("<script") == 1
    assert "img src=x" in pictured.text
    for source in (page(made(texts)), plain):
        assert "default-src 'none'" in source
    made(texts).plot()


def test_texts_are_whole_in_every_cell():
    text = Page(page(made(sentence())))
    assert "It isn't good, unforgivably dull." in text.text
    assert "[CLS] -1" in text.text  # what special tokens have is told beside words


def test_rounding_is_not_drawn_as_a_map():
    noise = picture(torch.linspace(-1, 1, 16)[None] * 1e-8)
    (panel,), _ = panels_of(noise, 0)
    assert panel.scale.limit == 0
    assert "rounding" in page(made(noise))
    assert panels_of(picture(), 0)[0][0].scale.limit > 0


def test_small_pictures_become_larger_and_large_ones_smaller():
    (panel,), _ = panels_of(picture(), 0)
    assert small(panel).shape == (213, 320, 3)  # 60 x 40
    big = dataclasses.replace(
        panel.picture, pixels=torch.zeros(800, 1000, 3, dtype=torch.uint8), box=(0.0, 0.0, 1000.0, 800.0)
    )
    assert small(dataclasses.replace(panel, picture=big)).shape == (256, 320, 3)


def test_maps_lie_where_the_model_looked():
    scores = torch.zeros(1, 16)
    scores[0, 5] = 1.0
    (panel,), _ = panels_of(picture(scores, box=(10.0, 0.0, 50.0, 40.0)), 0)
    drawn = small(panel).astype(int)
    colour = drawn[..., 0] - drawn[..., 2]
    y, x = np.unravel_index(colour.argmax(), colour.shape)
    assert abs(x / 5 - 25) < 2  # the middle of cell (1, 1) of 4 x 4 over that box
    assert abs(y / 5 - 15) < 2


def test_streams_of_which_nothing_is_known():
    for name in ("ig", "gradient"):
        c = made(bare(method=name) if name == "gradient" else bare(method="revised_ig"))
        assert page(c)
        assert c.plot() is not None


def test_files_are_written_whole(vit, tmp_path):
    assert vit.to_html(tmp_path / "a.html").read_text("utf-8") == page(vit)
    vit.plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    first, second = (io.BytesIO(), io.BytesIO())
    vit.plot().savefig(first, format="png", metadata={"Software": None})
    vit.plot().savefig(second, format="png", metadata={"Software": None})
    assert first.getvalue() == second.getvalue()
    assert {p.name for p in tmp_path.iterdir()} == {"a.html", "a.png"}


# models without a reader


class Small(nn.Module):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), layers)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def test_defaults_and_batches():
    c = regard.compare(Small().eval(), X)
    assert c.sites == ("input", "embeddings", "block[0]", "block[1]")
    assert set(c.own) == {"gradient", "gae"}
    assert {m for m, _ in c.grid} == set(usual()) - set(c.own)
    assert c.batch == 2
    assert table(c, 0) != table(c, 1)
    assert len(Page(page(c)).figures) == 2 * len(c.explanations)
    for bad in (table, lambda c, i: c.plot(sample=i)):
        with pytest.raises(Misuse, match="sample 2 does not exist"):
            bad(c, 2)


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head((x + self.attention(x, x, x)[0]).mean(1))


def test_models_without_blocks():
    c = regard.compare(Bare().eval(), X)
    assert c.sites == ("input",)
    assert {m for m, _ in c.grid} == {"input_x_gradient", "taylor", "integrated_gradients", "revised_ig"}
    assert set(c.own) == {"gradient", "gae"}


def test_at_one_baseline_T_is_one_number():
    c = regard.compare(
        Small().eval().double(), X.double(), methods=["revised_ig"], sites="all", baseline=Baseline.mean()
    )
    T = torch.stack([e.receipt.attribution_target for e in c.explanations])
    torch.testing.assert_close(T, T[:1].expand_as(T), rtol=1e-5, atol=1e-6)
    assert all(e.receipt.baseline == "mean" for e in c.explanations)


def test_baselines_go_where_they_can():
    sites = [Site.block(-1), Site.attention(joint=True), Site.block(1)]
    c = regard.compare(Small().eval(), X, methods=["taylor", "odam"], sites=sites, baseline=Baseline.mean())
    assert c.sites == ("block[1]", "attention, all calls")
    assert {k: e.receipt.baseline for k, e in c.grid.items()} == {
        ("taylor", "block[1]"): "mean",
        ("odam", "block[1]"): "zero, local",
        ("taylor", "attention, all calls"): "A = 0",
    }


def test_difference_maps_are_of_what_the_target_allows():
    maps = ["difference_map"]
    one, two = (regard.compare(Small().eval(), X, t, maps, [Site.block(0)]) for t in (0, Target.contrast(0, 1)))
    assert formula(one.explanations[0]).a == "map(x) − map(x0)"
    assert formula(two.explanations[0]).a == "map(y₁) − map(y₂)"


def test_steps_are_told():
    told = []
    regard.compare(Small().eval(), X, methods=["taylor", "gae"], sites="all", told=lambda *step: told.append(step))
    names = ["input", "embeddings", "block[0]", "block[1]", "own sites"]
    assert told == [(name, i, len(names)) for i, name in enumerate(names)]


def test_options_go_to_the_methods_that_take_them():
    c = regard.compare(Small().eval(), X, methods=["revised_ig", "gae"], sites=[Site.input()], steps=3)
    assert formula(c.explanations[0]).quadrature == "3 Gauss-Legendre nodes"
    with pytest.raises(Misuse, match="unknown option 'stesp'"):
        regard.compare(Small().eval(), X, methods=["revised_ig", "gae"], sites=[Site.input()], stesp=3)


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"methods": []}, Misuse, "list of methods is empty"),
        ({"methods": "all"}, Misuse, "methods are a list of names, as those of regard.methods(); not 'all'"),
        ({"method": "gae"}, Misuse, "there is no argument method=: it is called methods="),
        ({"sites": []}, Misuse, "list of sites is empty"),
        ({"sites": "some"}, Misuse, "'all' or None"),
        ({"sites": [Site.block(5)]}, Misuse, "block 5 is out of range"),
        ({"target": [0, 1]}, Misuse, "one target at a time"),
        ({"target": 9}, TargetError, "out of range"),
        ({"methods": ["odma"]}, Misuse, "did you mean 'odam'"),
    ],
)
def test_misuse(how, error, said):
    model = Small().eval()
    with pytest.raises(error, match=re.escape(said)):
        regard.compare(model, X, **how)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("count", range(1, 40))
def test_chosen_blocks(count):
    found = chosen_blocks(count)
    assert found == sorted(set(found))
    assert len(found) == min(count, 6)
    assert {0, count - 1, max(0, count - 2)} <= set(found)


def test_every_quadrature_of_the_table_is_named():
    paths = {m.name for m in regard.methods() if m.sites or m.name in ("gradient", "smoothgrad")}
    assert paths == {m.name for m in regard.methods() if m.formula is not None}


# words


def test_black_and_white_know_the_reader_s_normalisation():
    reader = regard.load("zoo/vit-scenes")
    from PIL import Image

    for word, level in (("black", 0), ("white", 255)):
        painted = Image.new("RGB", (256, 192), (level,) * 3)
        there = reader.model(**reader.read(painted).inputs).logits[0, 3]
        e = reader.explain(regard.zoo.demo_scene(), target=3, method="taylor", baseline=word)
        torch.testing.assert_close(e.receipt.baseline_value[0], there.detach(), rtol=1e-4, atol=1e-4)


def test_mask_and_pad_are_the_tokenizer_s():
    reader = regard.load("zoo/bert-sentiment")
    ids = reader.read("A fine film.").inputs["input_ids"][0]
    for word, id in (("mask", reader.processor.mask_token_id), ("pad", reader.processor.pad_token_id)):
        e = reader.explain("A fine film.", target=0, method="taylor", baseline=word)
        other = torch.tensor([[ids[0], *[id] * (len(ids) - 2), ids[-1]]])
        there = reader.model(input_ids=other, attention_mask=torch.ones_like(other)).logits[0, 0]
        torch.testing.assert_close(e.receipt.baseline_value[0], there.detach(), rtol=1e-4, atol=1e-4)
    streams = reader.explain("A fine film.", target=0, method="taylor", baseline={"input_ids": "mask"})
    assert streams.receipt.baseline == f"input_ids: mask token {reader.processor.mask_token_id}"


def test_words_and_objects_say_the_same():
    reader = regard.load("zoo/vit-scenes")
    pairs = [
        ("block:1", Site.block(1), "blur:3", Baseline.blur(3)),
        ("embeddings", Site.embeddings(), "noise:2", Baseline.noise(2)),
        ("input", Site.input(), "mean", Baseline.mean()),
        ("block[-2]", Site.block(-2), "zero:local", Baseline.zero().local()),
    ]
    for site, Site_, words, object in pairs:
        a, b = (
            reader.explain(regard.zoo.demo_scene(), method="taylor", site=s, baseline=x)
            for s, x in ((site, words), (Site_, object))
        )
        assert (a.receipt.site, a.receipt.baseline) == (b.receipt.site, b.receipt.baseline)
        assert torch.equal(a.scores["pixel_values"], b.scores["pixel_values"])
