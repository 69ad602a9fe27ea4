"""What the app answers, without a browser and without Gradio: models, examples, panes, and what is said of bad input."""

from __future__ import annotations

import re
import threading
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import regard
from regard import zoo
from regard.app import answering, drawn
from regard.app.answering import MODELS, Pane, Wish, answer, boxes_in, in_fields, read, sites_of
from regard.app.examples import examples_of
from regard.app.limits import Limits
from regard.app.shelf import FIRST, Needs, Shelf, needs_of
from regard.errors import InputError, ModelError, UnknownName
from regard.report.explanation.html import page

LIMITS = Limits()
HOSTILE = '</iframe><script>alert(1)</script>" onload="alert(2)" ${3} {{4}} & <b>bold</b>'


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return Shelf()


def wish_of(shelf: Shelf, name: str, number: int = 0, **more) -> Wish:
    e = examples_of(name, shelf.needs(name))[number]
    return Wish(name, e.picture, e.text, e.second, e.boxes, **more)


# -- the models ---------------------------------------------------------------------------------------------------------------


def test_given_models_stand_first_then_the_zoo_and_none_twice():
    assert Shelf().names[0] == FIRST
    names = Shelf(["mine", "zoo/llama-facts", "mine"]).names
    assert names[:2] == ["mine", "zoo/llama-facts"]
    assert sorted(names) == sorted(["mine", *zoo.names()])


def test_no_other_model_is_loaded_whoever_asks(shelf):
    with pytest.raises(UnknownName, match=r"unknown model '/etc'"):
        shelf.reader("/etc")


def test_a_model_is_loaded_once_by_many_threads(monkeypatch):
    loaded = []
    monkeypatch.setattr(regard, "load", lambda name: loaded.append(name) or object(), raising=False)
    shelf, found = Shelf(), []
    threads = [threading.Thread(target=lambda: found.append(shelf.reader(FIRST))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert loaded == [FIRST]
    assert len({id(f) for f in found}) == 1


def test_models_that_read_the_same_can_stand_side_by_side(shelf):
    assert shelf.alike("zoo/vit-scenes") == ["zoo/detr-scenes"]
    assert shelf.alike("zoo/bert-sentiment") == ["zoo/llama-facts"]
    assert shelf.alike("zoo/clip-scenes") == []


def test_a_model_of_sound_is_refused():
    class Sound:
        kind, model = "sound", torch.nn.Identity()

    with pytest.raises(ModelError, match="Identity reads sound, and this page takes pictures and texts"):
        needs_of(Sound())


# -- examples: each has a map -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.names())
def test_every_example_has_a_map(shelf, name):
    for number in range(min(3, len(examples_of(name, shelf.needs(name))))):
        (pane,) = answer(shelf, wish_of(shelf, name, number), LIMITS)
        assert pane.refused == ""
        assert all(s.abs().sum() > 0 for e in pane.found for s in list(e.scores.values())[:1])
        assert pane.classes


@pytest.mark.parametrize(
    ("needs", "has"),
    [
        (Needs(picture=True), ("picture",)),
        (Needs(text="Text"), ("text",)),
        (Needs(text="Text", second="Question"), ("text", "second")),
        (Needs(text="Text", second="Text to compare it with"), ("text", "second")),
        (Needs(picture=True, text="Prompt"), ("picture", "text")),
        (Needs(picture=True, text="Texts", lines=True), ("picture", "text")),
        (Needs(picture=True, text="Question", boxes=True), ("picture", "text", "boxes")),
    ],
)
def test_a_model_of_ones_own_has_examples_of_what_it_reads(needs, has):
    for e in examples_of("mine", needs):
        assert {f for f in ("picture", "text", "second", "boxes") if getattr(e, f)} == {*has}
        read(Wish("mine", e.picture, e.text, e.second, e.boxes), needs, LIMITS)


def test_class_method_and_site_are_those_that_were_asked_for(shelf):
    (pane,) = answer(
        shelf, wish_of(shelf, FIRST, target="Sneaker", method="integrated_gradients", site="block[1]"), LIMITS
    )
    (exp,) = pane.found
    assert int(exp.receipt.explained[0]) == 5
    assert (exp.method, str(exp.receipt.site)) == ("integrated_gradients", "block[1]")
    assert shelf.blocks_seen(FIRST) == 4
    assert sites_of("integrated_gradients", 2) == ["input", "embeddings", "block[0]", "block[1]", "attention:all"]
    assert sites_of("gae") == []


def test_a_site_is_not_asked_of_a_method_that_has_its_own_alone(shelf):
    (pane,) = answer(shelf, wish_of(shelf, FIRST, site="block[1]"), LIMITS)
    assert pane.refused == ""


def test_two_models_are_two_panes_and_each_is_refused_by_itself(shelf):
    left, right = answer(shelf, wish_of(shelf, FIRST, beside=MODELS, other_model="zoo/none"), LIMITS)
    assert left.found
    assert right.refused.startswith("unknown model 'zoo/none'")


# -- what is said of bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changed", "says"),
    [
        ("zoo/bert-sentiment", {"text": " \n"}, "the text is empty: type it, or choose an example"),
        (
            "zoo/bert-sentiment",
            {"text": "a" * 4001},
            "the text has 4,001 characters, and at most 4,000 are taken: shorten it",
        ),
        ("zoo/bert-sentiment", {"text": "fine " * 600}, "takes at most 128; shorten it"),
        ("zoo/bert-sentiment", {"target": "posit"}, "did you mean 'positive'"),
        ("zoo/bert-sentiment", {"method": "gea"}, "did you mean 'gae'"),
        ("zoo/bert-sentiment", {"method": "maskclip"}, "pictures"),
        ("zoo/bert-sentiment", {"method": "taylor", "site": "blok[1]"}, "did you mean 'block[L]'"),
        ("zoo/vit-scenes", {"picture": None}, "there is no picture yet: drop one, or choose an example"),
        ("zoo/clip-scenes", {"text": ""}, "the list of texts is empty"),
        ("zoo/lxmert-scenes", {"boxes": ""}, "there are no boxes yet: give one a line, or choose an example"),
        (
            "zoo/lxmert-scenes",
            {"boxes": "0 0 1"},
            "line 1 of the boxes has 3 numbers: each line is left, top, right, bottom",
        ),
        ("zoo/lxmert-scenes", {"boxes": "0 0 1 x"}, "the boxes are not numbers"),
        ("zoo/lxmert-scenes", {"boxes": "0 0 2 2"}, "beyond 0 to 1; give its boxes, one a line"),
        ("zoo/lxmert-scenes", {"boxes": "0 0 1 1\n" * 101}, "101 boxes are too many, at most 100 are read"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_sentence(shelf, name, changed, says):
    example = examples_of(name, shelf.needs(name))[0]
    given = {"picture": example.picture, "text": example.text, "second": example.second, "boxes": example.boxes}
    (pane,) = answer(shelf, Wish(name, **(given | changed)), LIMITS)
    assert says in pane.refused
    assert "\n" not in pane.refused
    assert not re.search(r"\w=\w|regions=|truncate", pane.refused)
    assert pane.found == []
    assert '<p class="refused" role="alert">' in drawn.pane(pane)


def test_what_nobody_foresaw_is_told_to_the_terminal_and_not_to_the_visitor(shelf, monkeypatch, capsys):
    monkeypatch.setattr(answering, "read", lambda *_: 1 / 0)
    (pane,) = answer(shelf, wish_of(shelf, FIRST), LIMITS)
    assert pane.refused.startswith("this went wrong in a way that nobody foresaw (ZeroDivisionError)")
    assert "1 / 0" in capsys.readouterr().err


def saved(folder, name: str, size=(40, 30), **how):
    path = folder / name
    Image.new("RGB", size, (200, 30, 30)).save(path, **how)
    return path


def test_an_upload_is_read_upright_and_keeps_its_name(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    image = LIMITS.read_upload(str(saved(tmp_path, "a <b>.jpg", exif=exif)), tmp_path)
    assert (image.size, image.filename) == ((30, 40), "a <b>.jpg")


@pytest.mark.parametrize(
    "said", ["/etc/passwd", "../secret.png", "secret.png", "\0", "a" * 5000, None, 7, {"path": "x"}, ""]
)
def test_only_what_was_uploaded_is_read_whatever_the_browser_says(tmp_path, said, monkeypatch):
    saved(tmp_path, "secret.png")
    (folder := tmp_path / "uploads").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is no longer here: drop it again"):
        LIMITS.read_upload(said, folder)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    saved(tmp_path, "secret.png")
    (folder := tmp_path / "uploads").mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="is no longer here"):
        LIMITS.read_upload(str(folder / "link.png"), folder)


def test_pictures_that_are_too_large_or_none_are_refused_by_name(tmp_path):
    large = saved(tmp_path, "large.png", (6000, 5000))
    with pytest.raises(
        InputError, match=r"^large.png has 30 million pixels \(6000 x 5000\), and at most 25 million are"
    ):
        LIMITS.read_upload(large, tmp_path)
    with pytest.raises(InputError, match=r"^large.png has 0\.\d+ MB, and at most 0.001 MB are taken$"):
        Limits(bytes=1000).read_upload(large, tmp_path)
    for name, data, says in [
        ("fake.png", b"<svg onload=alert(1)>", "is not a picture"),
        ("empty.png", b"", "is empty"),
        ("cut.png", saved(tmp_path, "x.png", (64, 64)).read_bytes()[:80], "damaged|cannot be read"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=says) as refused:
            LIMITS.read_upload(tmp_path / name, tmp_path)
        assert str(refused.value).startswith(name)
        assert str(tmp_path) not in str(refused.value)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(InputError, match=r"^bomb.png is too large to be opened safely"):
        LIMITS.read_upload(path, tmp_path)


def test_errors_speak_of_fields():
    assert in_fields("text 0 is empty") == "the text is empty"
    assert boxes_in("0, 0, .5, 1\n\n0 0 1 1\n") == [[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0]]


# -- what is drawn: nothing untrusted gets out of its frame -------------------------------------------------------------------


class Elements(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


def tags(page: str) -> list[str]:
    return [tag for tag, _ in Elements(page).found]


def test_a_hostile_text_adds_no_element_anywhere(shelf):
    (plain,) = answer(shelf, Wish("zoo/bert-sentiment", text="a fine film , and more words here"), LIMITS)
    (hostile,) = answer(shelf, Wish("zoo/bert-sentiment", text=HOSTILE), LIMITS)
    assert plain.found
    assert hostile.found
    pages = [drawn.pane(p, beside=True) for p in (plain, hostile)]
    assert tags(pages[0]) == tags(pages[1]) == ["section", "h2", "iframe", "p", "button"]
    frames = [Elements(p).of("iframe")[0] for p in pages]
    assert frames[1]["sandbox"] == "allow-scripts allow-downloads"
    inside = [Elements(f["srcdoc"]) for f in frames]
    assert len(inside[0].of("script")) == len(inside[1].of("script"))
    assert not inside[1].of("b") or {"aria-hidden": "true"} in inside[1].of("b")
    assert not any(name.startswith("on") for _, attrs in inside[1].found for name in attrs)


def test_hostile_names_and_refusals_are_escaped():
    refused = drawn.pane(Pane(HOSTILE, HOSTILE, refused=HOSTILE), beside=True)
    assert tags(refused) == ["section", "h2", "p"]
    image = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    from regard.app.examples import ExampleInput

    shown = drawn.choices([ExampleInput(HOSTILE, text=HOSTILE), ExampleInput(HOSTILE, image, HOSTILE)])
    assert tags(shown) == ["button", "span", "button", "img", "span"]


def test_a_page_in_a_frame_says_so_and_one_of_its_own_does_not(shelf):
    (pane,) = answer(shelf, wish_of(shelf, "zoo/bert-sentiment"), LIMITS)
    alone, testing, framed = (page(pane.found, "x", where) for where in ("page", "testing", "framed"))
    assert "regardHeight" not in alone
    assert "Testing whether this map is better than chance" in testing
    assert "regardHeight" in framed
    assert "exp.test()" in alone
    assert "exp.test()" not in testing + framed
    answering.test([pane], LIMITS)
    assert pane.found[0].receipt.causal[0].verdict in page(pane.found, "x", "testing").replace("\u00a0", " ")


def test_the_runners_up_have_maps_when_there_is_time_for_them(shelf):
    (pane,) = answer(shelf, wish_of(shelf, FIRST), LIMITS)
    assert len(pane.found) == 1
    answering.test([pane], LIMITS)
    likely = pane.found[0].prediction[0]
    assert [int(e.receipt.explained[0]) for e in pane.found] == [c.number for c in likely]
    assert len(Elements(Elements(drawn.pane(pane)).of("iframe")[0]["srcdoc"]).of("section")) == 1
    answering.test([pane], LIMITS)
    assert len(pane.found) == len(likely)


def test_a_class_that_was_asked_for_has_no_runners_up(shelf):
    (pane,) = answer(shelf, wish_of(shelf, FIRST, target="Sneaker"), LIMITS)
    answering.test([pane], LIMITS)
    assert len(pane.found) == 1


def test_tests_stop_where_time_is_up(shelf):
    (pane,) = answer(shelf, wish_of(shelf, "zoo/bert-sentiment"), LIMITS)
    answering.test([pane], Limits(seconds=0))
    assert pane.found[0].receipt.causal == []
    assert pane.found[0].untested
