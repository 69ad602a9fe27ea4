"""Guided maps on pages and in figures: the guide, the map without it, the map with it; and what tells two classes apart."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import regard
from regard import Guide, zoo
from regard.report.guided import guided_of
from regard.report.guided.view import outlined
from regard.report.view import view_of
from support.every_method import case_of

EVIL = "<img src=x onerror=alert(1)>&'\"</script>"
TEXT = "The acting is dull, but the music is wonderful."


@pytest.fixture(scope="module")
def scenes() -> Any:
    return regard.load("zoo/vit-scenes")


@pytest.fixture(scope="module")
def sentences() -> Any:
    return regard.load("zoo/bert-sentiment")


@pytest.mark.parametrize("options", [{}, {"method": "corrected_attention", "correction": "complete", "sign": "signed"}])
def test_the_unguided_map_is_kept_beside_the_guided_one(scenes: Any, options: dict[str, Any]) -> None:
    plain = scenes.explain(zoo.demo_scene(), **options)
    exp = scenes.explain(zoo.demo_scene(), guide="box:0,0,128,192", **options)
    for stream, scores in plain.scores.items():
        torch.testing.assert_close(exp.guidance.unguided[stream], scores)
    assert exp.guidance.kind == "box"
    assert exp.guidance.m["pixel_values"].reshape(8, 8).tolist() == [[1.0] * 4 + [0.0] * 4] * 8
    (region,) = exp.guidance.regions["pixel_values"]
    assert region.shape == (192, 256)
    assert bool(region[:, :128].all())
    assert not bool(region[:, 128:].any())
    assert exp.receipt.passes == plain.receipt.passes + 2 * (
        "correction" in options
    )  # alone it takes no plain gradient


def test_of_two_streams_by_the_rules_of_gae() -> None:
    case = case_of("lxmert")
    plain: Any = regard.explain(case.model, case.inputs, case.target)
    stream = next(iter(case.inputs))
    m = torch.zeros(plain.scores[stream].shape[1])
    m[1] = 1
    exp: Any = regard.explain(case.model, case.inputs, case.target, guide={stream: m})
    for name, scores in plain.scores.items():
        torch.testing.assert_close(exp.guidance.unguided[name], scores)
    assert set(exp.guidance.m) == {stream}


def test_guidance_is_saved_copied_and_cut(scenes: Any, tmp_path: Path) -> None:
    both = scenes.explain([zoo.demo_scene(), zoo.demo_scene()], guide=Guide.polygon([(0, 0), (128, 0), (0, 192)]))
    loaded = regard.Explanation.load(both.save(tmp_path / "map.safetensors"))
    for again in (loaded, copy.deepcopy(both), pickle.loads(pickle.dumps(both))):
        assert (again.guidance.label, again.guidance.kind) == ("polygon of 3 corners", "polygon")
        for name in ("m", "unguided"):
            for stream, t in getattr(both.guidance, name).items():
                assert torch.equal(getattr(again.guidance, name)[stream], t)
        regions = [g.guidance.regions["pixel_values"] for g in (again, both)]
        assert all(torch.equal(a, b) for a, b in zip(*regions, strict=True))
    one = both[1]
    assert one.guidance.m["pixel_values"].shape == (1, 64)
    assert one.guidance.unguided["pixel_values"].shape == (1, 64)
    assert len(one.guidance.regions["pixel_values"]) == 1
    assert scenes.explain(zoo.demo_scene()).guidance is None


def test_the_sentence_says_how_much_of_the_map_lies_there(scenes: Any, sentences: Any) -> None:
    exp = scenes.explain(zoo.demo_scene(), guide="box:0,0,128,192")
    view: Any = guided_of(view_of(exp))
    share = exp.guidance.unguided["pixel_values"].reshape(8, 8)
    share = float(share[:, :4].sum() / share.sum())
    assert view.sentence == (
        f"Guided by box 0, 0, 128, 192: {100 * share:.0f} % of the map lies there without the guide, 100 % with it."
    )
    assert view.pictures[0].region.shape == (192, 256)
    words: Any = guided_of(view_of(sentences.explain(TEXT, guide="words:wonderful")))
    assert "Guided by words 'wonderful': " in words.sentence
    named = [words.texts[0].guide[i].text for i in sorted(words.texts[0].lines)]
    assert named == ["wonderful"]
    assert all(p.score is None for p in words.texts[0].guide)
    contrast: Any = guided_of(view_of(sentences.explain(TEXT, guide="contrast")))
    assert not contrast.texts[0].lines
    assert max(p.score or 0 for p in contrast.texts[0].guide) == 1
    assert guided_of(view_of(sentences.explain(TEXT))) is None


def test_special_tokens_neither_set_the_maximum_nor_save_a_guide_that_is_zero(sentences: Any) -> None:
    plain = sentences.explain(TEXT, method="gae")
    count = plain.scores["input_ids"].shape[1]
    low = torch.full((count,), 0.01)
    first = low.clone()
    first[0] = 1
    maps = [sentences.explain(TEXT, guide={"input_ids": m}) for m in (torch.ones(count), low, first)]
    for exp in maps:
        assert exp.guidance.m["input_ids"].tolist() == [[1.0] * count]
        torch.testing.assert_close(exp.scores["input_ids"], plain.scores["input_ids"])
    only = torch.zeros(count)
    only[0] = 1
    for m in (torch.zeros(count), -torch.ones(count), only):
        with pytest.raises(regard.errors.Misuse, match="nowhere positive"):
            sentences.explain(TEXT, guide={"input_ids": m})


def test_padded_texts_are_guided_as_they_are_alone(sentences: Any) -> None:
    texts = [TEXT, "A wonderful film."]
    for guide in ("contrast", "words:wonderful"):
        both = sentences.explain(texts, target=1, guide=guide)
        for i, text in enumerate(texts):
            alone = sentences.explain(text, target=1, guide=guide)
            count = alone.scores["input_ids"].shape[1]
            for name in ("m", "unguided"):
                one, many = (getattr(e.guidance, name)["input_ids"] for e in (alone, both))
                torch.testing.assert_close(many[i, :count], one[0], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(
                both.scores["input_ids"][i, :count], alone.scores["input_ids"][0], rtol=1e-4, atol=1e-6
            )


def test_files_are_guides_by_any_kind_of_path(scenes: Any, tmp_path: Path) -> None:
    mask = np.zeros((192, 256), dtype=np.uint8)
    mask[:, :128] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    scenes.explain(zoo.demo_scene()).save(tmp_path / "map.safetensors")
    for path, kind in ((tmp_path / "mask.png", Guide.mask), (tmp_path / "map.safetensors", Guide.saved)):
        maps = [scenes.explain(zoo.demo_scene(), guide=g).scores["pixel_values"] for g in (str(path), path, kind(path))]
        assert torch.equal(maps[0], maps[1])
        assert torch.equal(maps[0], maps[2])
    drawn = scenes.explain(zoo.demo_scene(), guide=Guide.mask(Image.open(tmp_path / "mask.png")))
    boxed = scenes.explain(zoo.demo_scene(), guide="box:0,0,128,192")
    assert torch.equal(drawn.scores["pixel_values"], boxed.scores["pixel_values"])


def test_a_class_is_not_contrasted_with_itself(scenes: Any) -> None:
    with pytest.raises(regard.errors.Misuse, match="contrasts Sneaker with itself"):
        scenes.explain(zoo.demo_scene(), target="Sneaker", guide="contrast:Sneaker")
    with pytest.raises(regard.errors.Misuse, match="contrasts Sneaker with itself"):
        scenes.explain(zoo.demo_scene(), target=["Trouser", "Sneaker"], guide="contrast:Sneaker")


def test_the_refusal_says_which_text_lacks_the_words(sentences: Any) -> None:
    with pytest.raises(regard.errors.Misuse, match="the text does not hold the words 'giraffe'"):
        sentences.explain(TEXT, guide=Guide.words("wonderful", "giraffe"))
    with pytest.raises(regard.errors.Misuse, match="text 1 does not hold the words 'music'"):
        sentences.explain([TEXT, "A wonderful film."], guide="words:music")


def test_pages_show_the_guide_and_both_maps(scenes: Any, sentences: Any, tmp_path: Path) -> None:
    exp = scenes.explain(zoo.demo_scene(), guide="box:0,0,128,192", method=["gae", "rollout"])
    page = exp[0].to_html(tmp_path / "a.html").read_text("utf-8")
    for said in ("the guide", "the map without it", "the map with it"):
        assert said in page
    plain = exp[1].to_html(tmp_path / "b.html").read_text("utf-8")
    assert exp[1].guidance is None
    assert "the map without it" not in plain
    assert "the map without it" in exp[0]._repr_html_()
    text = sentences.explain(TEXT, guide="words:music is wonderful").to_html(tmp_path / "c.html").read_text("utf-8")
    assert text.count("<u>") == 3


def test_figures_show_three_pictures_or_texts(scenes: Any, sentences: Any) -> None:
    drawn = scenes.explain(zoo.demo_scene(), guide="box:0,0,128,192").plot()
    said = [t.get_text() for t in drawn.texts]
    assert {"the guide", "the map without it", "the map with it"} <= set(said)
    assert "the map" not in said
    text = sentences.explain(TEXT, guide="contrast").plot()
    assert sum(t.get_text() == "wonderful" for t in text.texts) == 3


def test_a_guide_of_tensors_is_drawn_without_a_picture(tmp_path: Path) -> None:
    case = case_of("vit")
    exp: Any = regard.explain(case.model, case.inputs, case.target, guide=(0, 4, 8, 12))
    exp.plot(tmp_path / "a.png")
    assert "the map without it" in exp.to_html(tmp_path / "a.html").read_text("utf-8")


def test_a_border_is_drawn_around_a_region_and_not_along_the_edge_of_the_picture() -> None:
    pixels = np.full((20, 20, 3), 100, dtype=np.uint8)
    region = np.zeros((20, 20), dtype=bool)
    region[:, :10] = True
    drawn = outlined(pixels, region)
    assert (drawn[:, 8:10] == 255).all()
    assert (drawn[:, 10:12] == 0).all()
    assert (drawn[:, :8] == 100).all()
    assert (drawn[:, 12:] == 35).all()


def test_untrusted_names_stay_text(scenes: Any, sentences: Any, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    single = zoo.scenes().single.nonzero()[:, 0].tolist()
    name = EVIL.replace("/", "")
    for file, i in (("a.png", single[0]), (f"{name}.png", single[100])):
        Image.fromarray(zoo.scenes().images[i].numpy()).save(folder / file)
    labels, scenes.labels = scenes.labels, [EVIL, *scenes.labels[1:]]
    try:
        told = scenes.explain(folder / "a.png", target=0, guide=Guide.picture(str(folder / f"{name}.png"))).told
        pages = [
            told.to_html(tmp_path / "told.html"),
        ]
        told.plot(tmp_path / "told.png")
    finally:
        scenes.labels = labels
    exp = sentences.explain(f"A film {EVIL} that is wonderful.", guide=Guide.words(EVIL))
    pages.append(exp.to_html(tmp_path / "words.html"))
    exp.plot(tmp_path / "words.png")
    for page in pages:
        text = page.read_text("utf-8")
        assert "<img src=x" not in text
        assert "onerror=alert(1)&gt;" in text


@pytest.mark.long
def test_the_told_page_and_figure_say_what_was_shown(scenes: Any, tmp_path: Path) -> None:
    images, single = zoo.scenes().images, zoo.scenes().single.nonzero()[:, 0].tolist()
    told = scenes.explain(images[single[0]], guide=Guide.picture(images[single[100]])).told
    page = told.to_html(tmp_path / "told.html").read_text("utf-8")
    for said in ("What tells T-shirt from Ankle boot", "of the orange lies on picture 0", "this picture alone", "92 %"):
        assert said in page
    assert page.count("data:image/png") == 9
    figure = told.plot(tmp_path / "told.png")
    assert any("of the orange lies on" in t.get_text() for t in figure.texts)
    assert (tmp_path / "told.png").stat().st_size > 10_000
    blended = scenes.explain(images[single[0]], guide=Guide.picture(images[single[100]], within=(0, 0, 32, 32))).told
    page = blended.to_html(tmp_path / "b.html").read_text("utf-8")
    assert "half seen through a region" in page
    assert "of the orange lies" not in page
    how = {"guide": Guide.picture(images[single[100]]), "method": "corrected_attention", "sign": "signed"}
    signed = scenes.explain(images[single[0]], **how)
    assert "shows no evidence against" not in signed.told.to_html(tmp_path / "s.html").read_text("utf-8")
