"""Makes docs/report.png, the report that the README shows: two methods and two classes of the demo scene, in a browser.

python docs/report_picture.py    # needs chromium
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

from regard import zoo
from regard.cli.commands import main

OUT = Path(__file__).with_name("report.png")
SIZE, MARGIN = (1080, 1600), 24


def shot(page: Path, picture: Path) -> None:
    """A picture of a page, as a browser without a window shows it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("chromium is not installed")
    window = f"--window-size={SIZE[0]},{SIZE[1]}"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", window, f"--screenshot={picture}"]
    subprocess.run([browser, *options, page.as_uri()], check=True, capture_output=True)


def trimmed(picture: Image.Image) -> Image.Image:
    """Without the empty rows below the page."""
    blank = Image.new(picture.mode, picture.size, picture.getpixel((0, picture.height - 1)))
    box = ImageChops.difference(picture, blank).getbbox()
    return picture.crop((0, 0, picture.width, min(picture.height, (box[3] if box else 0) + MARGIN)))


def with_a_palette(picture: Image.Image) -> Image.Image:
    """A third of the bytes: 255 colours that cover the picture's, and white, dithered. What is nearly white becomes white."""
    covering = picture.quantize(255, method=Image.Quantize.MAXCOVERAGE, kmeans=4).getpalette() or []
    colours = [covering[i : i + 3] for i in range(0, len(covering), 3) if min(covering[i : i + 3]) < 248]
    palette = Image.new("P", (1, 1))
    palette.putpalette([255, 255, 255, *(channel for colour in colours for channel in colour)])
    return picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def explained(folder: Path) -> Path:
    """The report of the demo scene."""
    try:
        main(["explain", str(zoo.demo_scene()), "--model", "zoo/vit-scenes", "--method", "gae,rollout",
              "--target", "Trouser", "--target", "Sneaker", "--out", str(folder), "--quiet"])  # fmt: skip
    except SystemExit as done:
        if done.code:
            raise
    return folder / "report.html"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "page.png"
        shot(explained(Path(folder)), raw)
        with_a_palette(trimmed(Image.open(raw).convert("RGB"))).save(OUT, optimize=True)
