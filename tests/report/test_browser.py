"""Pages in a real browser: click, tap, slider, keyboard, dark, phone, no script; and what they look like.

Chromium is Debian's (`apt-get install chromium`), driven by Playwright. `python tests/report/test_browser.py` makes the golden
screenshots anew: look at them before they are committed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import regard
from regard import zoo
from regard.report.explanation.html import write_page
from support.browser import chromium, needs_chromium, sync_api

GOLDEN = Path(__file__).parent / "golden"
APART = 6.0
"""How far apart two screenshots may be: the mean of absolute differences, of 255, at a third of their size."""
TEXT = "It was a wonderful film, and I loved every minute of it, although the ending felt a little rushed."
VIEWS: dict[str, tuple[str, dict[str, Any]]] = {
    "scene-light": ("scene", {}),
    "scene-dark": ("scene", {"color_scheme": "dark"}),
    "scene-phone": ("scene", {"viewport": {"width": 390, "height": 1100}}),
    "text-light": ("text", {}),
    "several-light": ("several", {}),
}

pytestmark = needs_chromium
playwright = sync_api()


def written(folder: Path) -> dict[str, str]:
    """The pages that are tried, by name."""
    scenes, words = regard.load("zoo/vit-scenes"), regard.load("zoo/bert-sentiment")
    found = {
        "scene": scenes.explain(zoo.demo_scene(), [1, 5]),
        "text": words.explain(TEXT, method=["integrated_gradients", "gae"]),
        "several": [scenes.explain(zoo.scenes().images[i].numpy()) for i in (3, 7)],
    }
    for exp in (e for name in ("scene", "text") for e in found[name]):
        exp.test()
    found["objects"] = regard.load("zoo/detr-scenes").explain(zoo.detections().images[3].numpy())
    words.compare(TEXT, methods=["taylor", "revised_ig", "gradient"]).to_html(folder / "compared.html")
    compared = {"compared": (folder / "compared.html").as_uri()}
    return {name: write_page(e, folder / f"{name}.html").as_uri() for name, e in found.items()} | compared


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    return written(tmp_path_factory.mktemp("pages"))


@pytest.fixture
def opened(browser, pages) -> Iterator[Any]:
    """Opens a page in a window of its own; nothing that runs in it may fail."""
    windows, wrong = [], []

    def make(name: str, **how: Any) -> Any:
        window = browser.new_context(**{"viewport": {"width": 1200, "height": 1000}, "reduced_motion": "reduce"} | how)
        windows.append(window)
        page = window.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrong.append(r.url))
        page.goto(pages[name])
        return page

    yield make
    for window in windows:
        window.close()
    assert wrong == []


def test_a_click_on_a_class_shows_its_map_and_its_verdict(opened):
    page = opened("scene")
    before = page.locator("canvas").first.evaluate("c => c.toDataURL()")
    assert "Trouser falls from" in page.locator(".verdict:visible").inner_text()
    page.get_by_role("button", name="Explain Sneaker").click()
    assert "Sneaker falls from" in page.locator(".verdict:visible").inner_text()
    assert page.get_by_role("button", name="Explain Sneaker").get_attribute("aria-pressed") == "true"
    assert page.locator("canvas").first.evaluate("c => c.toDataURL()") != before


def test_a_click_on_a_detected_object_shows_its_map(opened):
    page = opened("objects")
    assert page.inner_text(".headline") == "2 × Dress, Sandal"
    buttons = page.locator(".answers button")
    assert buttons.all_inner_texts() == ["Dress", "Dress", "Sandal"]
    seen = []
    for i in range(3):
        buttons.nth(i).click()
        assert buttons.nth(i).get_attribute("aria-pressed") == "true"
        seen.append(page.locator(".because:visible").inner_text())
    assert seen == ["The map points at the upper right of the picture.", seen[1], seen[2]]
    assert len(set(seen)) == 3


def test_the_table_of_a_comparison_is_sorted_and_put_back(opened):
    page = opened("compared")
    rows = page.locator("table.numbers tbody tr")
    as_it_was = rows.all_inner_texts()
    head = page.locator("th[data-sort='3']")

    def errors():
        found = [row.locator("td.n").nth(3).get_attribute("data-v") for row in rows.all()]
        return [float(v) for v in found if v is not None], found

    head.locator("button").click()
    known, every = errors()
    assert head.get_attribute("aria-sort") == "ascending"
    assert known == sorted(known)
    assert len(set(known)) > 5
    assert every[-1] is None  # undefined is last, in either order
    assert page.locator("table.numbers tbody th.each:visible").count() == len(as_it_was)
    head.locator("button").click()
    known, every = errors()
    assert known == sorted(known, reverse=True)
    assert every[-1] is None
    head.locator("button").click()
    assert rows.all_inner_texts() == as_it_was
    assert re.fullmatch(
        r"\d+ maps; ε/\|T\| from .+ % \(revised_ig at .+\) to .+; \d+ of \d+ account for T to within 1 %\.",
        page.inner_text("table.numbers tfoot"),
    )


def test_a_tap_reads_the_cell_under_the_finger(opened):
    page = opened("scene", has_touch=True, viewport={"width": 390, "height": 844})
    stage = page.locator(".stage").first
    box = stage.bounding_box()
    stage.tap(position={"x": box["width"] * 0.45, "y": box["height"] * 0.3})
    assert re.match(r"picture, patch \(\d, \d\): ", page.locator("output").first.inner_text())
    first = page.locator("output").first.inner_text()
    stage.tap(position={"x": box["width"] * 0.45, "y": box["height"] * 0.8})
    assert page.locator("output").first.inner_text() != first


def test_the_slider_and_the_colour_switch_change_what_is_seen(opened):
    page = opened("scene")
    canvas, img = page.locator("canvas").first, page.locator(".stage img").first
    seen = lambda: img.evaluate("e => getComputedStyle(e).filter")  # noqa: E731
    assert seen() == "grayscale(1)"
    page.get_by_label("Map opacity").fill("30")
    assert canvas.evaluate("e => e.style.opacity") == "0.3"
    page.get_by_label("Picture in colour").check()
    assert seen() == "none"
    page.get_by_label("Picture in colour").uncheck()
    page.get_by_label("Map opacity").fill("0")
    assert seen() == "none"


def test_the_keyboard_reads_cells_and_words(opened):
    page = opened("scene")
    page.locator(".stage").first.focus()
    said = []
    for key in ("ArrowDown", "ArrowRight", "End"):
        page.keyboard.press(key)
        said.append(page.locator("output").first.inner_text())
    assert [s.partition(":")[0] for s in said] == [
        "picture, patch (2, 1)",
        "picture, patch (2, 2)",
        "picture, patch (2, 8)",
    ]
    words = opened("text")
    words.locator("[data-by=words] .w:visible").first.focus()
    words.keyboard.press("ArrowRight")
    assert words.locator("output").first.inner_text().startswith("was: ")


def test_each_word_is_in_the_accessibility_tree_with_its_score(opened):
    page = opened("text")
    word = page.get_by_role("img", name=re.compile(r"^wonderful: [\d.]+$")).first
    assert word.is_visible()
    assert page.get_by_role("heading", level=1).count() == 1


def test_the_image_is_saved_as_it_is_shown(opened, tmp_path):
    page = opened("scene")
    with page.expect_download() as found:
        page.get_by_role("button", name="Save image").click()
    assert found.value.suggested_filename == "demo-scene-png-gae-logit-of-class-1-Trouser.png"
    found.value.save_as(tmp_path / "saved.png")
    pixels = np.asarray(Image.open(tmp_path / "saved.png").convert("RGB")).astype(int)
    assert pixels.shape[1] / pixels.shape[0] == pytest.approx(256 / 192, rel=0.01)
    assert (np.ptp(pixels, axis=2) > 60).any()  # the map has a colour


@pytest.mark.parametrize("name", ["scene", "text", "several"])
@pytest.mark.parametrize("width", [320, 390])
def test_nothing_is_cut_off_on_a_phone_and_buttons_are_large_enough(opened, name, width):
    page = opened(name, viewport={"width": width, "height": 844}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for button in page.locator("button:visible, fieldset label:visible, summary:visible").all():
        assert button.bounding_box()["height"] >= 44


def test_without_a_script_maps_verdicts_and_receipts_are_there(opened):
    page = opened("scene", java_script_enabled=False)
    stills = page.locator("img.still:visible")
    assert stills.count() == 2
    assert all(s.bounding_box()["width"] > 50 for s in stills.all())
    assert page.locator(".verdict:visible").count() == 2
    assert page.locator("details").count() == 2


def test_several_inputs_have_a_list_with_thumbnails_that_leads_to_each(opened):
    page = opened("several")
    links = page.locator(".contents a")
    assert links.count() == 2
    assert links.nth(1).locator("img").evaluate("e => e.naturalWidth") > 0
    links.nth(1).click()
    assert page.evaluate("location.hash") == "#s1"


@pytest.mark.parametrize("view", VIEWS)
def test_pages_look_as_they_were_approved(opened, view, tmp_path):
    name, how = VIEWS[view]
    shot = tmp_path / "shot.png"
    opened(name, **how).screenshot(path=shot)
    assert apart(shot, GOLDEN / f"{view}.png") < APART


def small(file: Path) -> Image.Image:
    """A screenshot at a third of its size, without its colours' last bits."""
    with Image.open(file) as whole:
        return whole.convert("RGB").reduce(3).quantize(64)


def apart(shot: Path, golden: Path) -> float:
    """The mean of absolute differences, of 255; all of it where the sizes differ."""
    with Image.open(golden) as wanted:
        a, b = (np.asarray(i.convert("RGB")).astype(float) for i in (small(shot), wanted))
    return 255.0 if a.shape != b.shape else float(np.abs(a - b).mean())


def test_another_page_is_told_from_the_golden_one():
    assert apart_of("scene-light", "text-light") > APART
    assert apart_of("scene-light", "scene-dark") > 5 * APART


def apart_of(a: str, b: str) -> float:
    with Image.open(GOLDEN / f"{a}.png") as one, Image.open(GOLDEN / f"{b}.png") as other:
        x, y = (np.asarray(i.convert("RGB")).astype(float) for i in (one, other))
    return float(np.abs(x - y).mean())


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder, chromium() as driven:
        uris = written(Path(folder))
        GOLDEN.mkdir(exist_ok=True)
        for view, (name, how) in VIEWS.items():
            page = driven.new_context(**{"viewport": {"width": 1200, "height": 1000}} | how).new_page()
            page.goto(uris[name])
            page.screenshot(path=Path(folder) / "shot.png")
            small(Path(folder) / "shot.png").save(GOLDEN / f"{view}.png", optimize=True)
