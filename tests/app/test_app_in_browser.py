"""The app in a real browser: drop a picture, type a text, choose; on a phone, in the dark; nothing is asked of another machine.

Chromium is Debian's (`apt-get install chromium`), driven by Playwright. Gradio comes with `pip install "regard[app]"`.
"""

from __future__ import annotations

import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regard.app.blocks import Playground, Visitor
from regard.app.examples import examples_of
from regard.app.limits import Limits
from regard.app.serving import serving
from regard.app.shelf import Needs, Shelf
from regard.errors import Failure, Misuse
from support.browser import needs_chromium, sync_api

ROOT = Path(__file__).parents[2]
WAIT = 120_000
"""Milliseconds that an answer may take: on a machine that is busy with other tests, it may be long."""
LIMITS = Limits(bytes=2_000_000, pixels=1_000_000, characters=300)

pytestmark = [
    needs_chromium,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*unclosed.*:ResourceWarning"),
]
playwright = sync_api()
pytest.importorskip("gradio", reason="pip install 'regard[app]' brings what the app is made with")


@pytest.fixture(scope="module")
def app() -> Iterator[str]:
    with serving(limits=LIMITS) as address:
        yield address


@pytest.fixture
def opened(browser, app) -> Iterator[Any]:
    """Opens the app in a window of its own; no script may fail, and nothing may be asked of another machine."""
    windows, wrong = [], []

    def make(**how: Any) -> Any:
        window = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | how)
        windows.append(window)
        page = window.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on("request", lambda r: None if r.url.startswith((app, "data:", "blob:")) else wrong.append(r.url))
        page.set_default_timeout(WAIT)
        page.goto(app)
        page.wait_for_function("document.querySelector('#left iframe')?.style.height")  # which the map's own page tells
        return page

    yield make
    for window in windows:
        window.close()
    assert wrong == []


def frame(page: Any, side: str = "left") -> Any:
    return page.frame_locator(f"#{side} iframe")


def shows(page: Any, selector: str, text: str | re.Pattern[str], side: str = "left") -> None:
    """Wait until an element of a map's page holds a text."""
    playwright.expect(frame(page, side).locator(selector).first).to_have_text(text, timeout=WAIT)


def judged(page: Any, side: str = "left") -> str:
    """The verdict of what is shown, when there is one."""
    playwright.expect(page.locator(f"#{side} .save")).to_be_enabled(timeout=WAIT)
    return str(frame(page, side).locator(".verdict").first.inner_text())


def refused(page: Any, says: str | re.Pattern[str]) -> None:
    playwright.expect(page.locator("#left .refused")).to_have_text(says, timeout=WAIT)


def pick(page: Any, field: str, value: str) -> None:
    page.locator(f"#{field} input").click()
    page.get_by_role("option", name=value, exact=True).click()


def test_an_example_with_its_map_and_its_verdict_is_the_first_thing_seen(opened):
    page = opened()
    assert frame(page).locator(".headline").inner_text() == "Trouser 51 %"
    assert "Trouser falls from" in judged(page)
    assert frame(page).locator(".answers tr").count() == 5
    assert frame(page).locator("canvas").first.is_visible()
    assert page.locator("[data-example='0']").get_attribute("aria-pressed") == "true"
    frame(page).get_by_role("button", name="Explain Sneaker").click()
    assert "Sneaker falls from" in frame(page).locator(".verdict:visible").inner_text()


def test_a_dropped_picture_is_explained(opened, tmp_path):
    page = opened()
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    page.evaluate(
        """(bytes) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "<b>mine.png", {type: "image/png"}));
        document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        [*(tmp_path / "mine.png").read_bytes()],
    )
    playwright.expect(frame(page).locator(".stage img")).to_have_attribute("alt", re.compile("mine.png"), timeout=WAIT)
    assert page.locator("[aria-pressed=true]").count() == 0
    assert "falls from" in judged(page) or "rises" in judged(page)


def test_class_and_method_and_site_are_chosen(opened):
    page = opened()
    pick(page, "target", "Sneaker")
    shows(page, ".receipts h3 span", "logit of class 5 (Sneaker)")
    assert "Sneaker falls from" in judged(page)
    pick(page, "method", "integrated_gradients")
    shows(page, ".receipts h3", re.compile("^integrated_gradients"))
    pick(page, "site", "block[1]")
    playwright.expect(frame(page).locator("dl.receipt")).to_contain_text("block[1]", timeout=WAIT)


def test_the_map_follows_what_is_typed(opened):
    page = opened()
    pick(page, "model", "zoo/bert-sentiment")
    shows(page, ".headline", re.compile("^positive"))
    typed = 'A dull, tired plot </iframe><script>alert("x")</script> ${1} {{2}}'
    page.locator("#text textarea").press_sequentially("")
    page.locator("#text textarea").fill("")
    refused(page, "The text is empty: type it, or choose an example.")
    page.locator("#text textarea").press_sequentially(typed)
    shows(page, ".headline", re.compile("^negative"))
    shows(page, ".running", typed)
    judged(page)
    shows(page, ".running", typed)
    page.locator("#text textarea").fill("word " * 61)
    refused(page, "The text has 305 characters, and at most 300 are taken: shorten it.")


@pytest.mark.long
def test_two_methods_and_two_models_stand_side_by_side(opened):
    page = opened()
    page.get_by_text("two methods").click()
    shows(page, ".receipts h3", re.compile("^rollout"), "right")
    assert page.locator(".pane h2").all_inner_texts() == ["zoo/vit-scenes · gae", "zoo/vit-scenes · rollout"]
    pick(page, "model", "zoo/detr-scenes")
    shows(page, ".receipts h3 span", re.compile("^Bag"))
    page.get_by_text("two models").click()
    playwright.expect(page.locator("#right h2")).to_have_text("zoo/vit-scenes · gae", timeout=WAIT)
    judged(page, "right")
    left, right = (page.locator(f"#{side} iframe").bounding_box() for side in ("left", "right"))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    page.get_by_text("one map").click()
    playwright.expect(page.locator(".pane")).to_have_count(1)


def test_hostile_pictures_are_refused_in_a_sentence(opened, tmp_path):
    page = opened()
    (tmp_path / "fake.png").write_bytes(b"no picture at all")
    (tmp_path / "heavy.png").write_bytes(b"x" * 3_000_000)
    Image.new("RGB", (2000, 600)).save(tmp_path / "wide.png")
    page.set_input_files("#drop input", tmp_path / "wide.png")
    refused(page, "wide.png has 1.2 million pixels (2000 x 600), and at most 1 million are taken: make it smaller.")
    page.set_input_files("#drop input", tmp_path / "fake.png")
    refused(page, "fake.png is not a picture that Pillow can read.")
    page.set_input_files("#drop input", tmp_path / "heavy.png")
    playwright.expect(page.locator("#drop .said")).to_have_text("heavy.png has 3.00 MB, and at most 2 MB are taken.")
    page.locator("[data-example='1']").click()
    shows(page, ".headline", re.compile("^T-shirt"))


def test_a_saved_page_is_a_whole_page(opened, browser, tmp_path):
    page = opened()
    judged(page)
    with page.expect_download() as found:
        page.locator("#left .save").dispatch_event("click")
    assert found.value.suggested_filename == "two-items-zoo-vit-scenes-gae.html"
    found.value.save_as(tmp_path / "saved.html")
    alone = browser.new_page()
    alone.goto((tmp_path / "saved.html").as_uri())
    assert alone.locator("h1").inner_text() == "two items: zoo/vit-scenes · gae"
    assert alone.locator("h1").is_visible()
    assert alone.locator("footer").is_visible()
    assert "Trouser falls from" in alone.locator(".verdict:visible").inner_text()
    alone.close()


@pytest.mark.parametrize("width", [pytest.param(320, marks=pytest.mark.long), 390])
def test_on_a_phone_the_map_is_on_the_first_screen_and_nothing_is_cut_off(opened, width):
    page = opened(viewport={"width": width, "height": 844}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    top = page.locator("#left iframe").bounding_box()["y"]
    assert top + frame(page).locator(".stage").evaluate("e => e.getBoundingClientRect().top") < 600
    for button in page.locator(".examples button:visible, .save:visible").all():
        assert button.bounding_box()["height"] >= 44
    page.get_by_text("two methods").dispatch_event("click")
    shows(page, ".receipts h3", re.compile("^rollout"), "right")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_in_the_dark_the_app_and_the_map_are_dark(opened):
    page = opened(color_scheme="dark")
    papers = [
        page.evaluate("getComputedStyle(document.body).backgroundColor"),
        page.locator(".pane").evaluate("e => getComputedStyle(e).backgroundColor"),
        frame(page).locator("html").evaluate("e => getComputedStyle(e).backgroundColor"),
    ]
    assert papers == ["rgb(14, 16, 20)", "rgb(20, 22, 27)", "rgb(20, 22, 27)"]


def test_a_picture_that_the_server_forgot_is_not_taken_for_another(tmp_path):
    playground = Playground(Shelf(), LIMITS, tmp_path)
    playground.built()
    ask = playground._handler(playground._method, object)
    fields = ["zoo/vit-scenes", "", "", "", "", "rollout", "", "one map", "rollout", ""]
    left = playground.at["left"]
    forgotten, known = Visitor(), Visitor(examples_of("zoo/vit-scenes", Needs(picture=True))[0].picture, "a")
    assert "There is no picture yet" in ask(None, forgotten, "a", *fields)[left]
    assert "<iframe" in ask(None, known, "a", *fields)[left]
    assert left not in ask(None, known, "a", *fields)  # the same again


# -- serving ------------------------------------------------------------------------------------------------------------------


def test_the_app_listens_on_this_machine_alone_and_asks_browsers_to_ask_nobody_else(app):
    host, port = app.removeprefix("http://").strip("/").split(":")
    assert host == "127.0.0.1"
    with socket.socket() as other, pytest.raises(OSError, match="refused"):
        other.connect(("127.0.0.2", int(port)))
    with urllib.request.urlopen(app) as answer:
        policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "pyproject.toml", "../../../../etc/passwd", "src/regard/zoo/vit-scenes/card.json"]
)
def test_no_file_of_this_machine_is_handed_out(app, path):
    given = Path(path) if path.startswith(("/", "..")) else ROOT / path
    with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(f"{app}gradio_api/file={given}"):
        pass
    assert refused.value.code in (403, 404)
    refused.value.close()


def test_a_taken_port_and_a_strange_host_are_refused(app):
    port = int(app.rpartition(":")[2].strip("/"))
    with (
        pytest.raises(Failure, match=f"port {port} of 127.0.0.1 cannot be used .*: choose another with --port"),
        serving(port=port),
    ):
        pass
    with (
        pytest.raises(Misuse, match=r"'no\.such\.invalid' is no address of this machine"),
        serving(host="no.such.invalid"),
    ):
        pass


def test_uploads_lie_in_a_folder_of_the_app_alone(app):
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert folder.name.startswith("regard-app-")
    assert folder.stat().st_mode & 0o077 == 0
