"""How the page looks, and its little scripts. Fonts are the system's own: nothing is asked of any other machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "Consolas", "Liberation Mono", "monospace")

HEADER = """<header id="head"><h1>Regard</h1>
<p>What does a model's prediction rest on, and how far can the answer be believed?</p></header>"""
FOOTER = """<p id="foot">The stronger the <b class="for">orange</b>, the more the prediction rests on that part; in a map with
two colours, <b class="against">blue</b> speaks against it. The verdict above a map comes from a test: what the map points at is
taken away from the input, and so are as many parts chosen at random.</p>"""


def read(name: str) -> str:
    """A style or a script of the page."""
    return (Path(__file__).parent / "static" / name).read_text(encoding="utf-8")


def theme(gr: Any) -> Any:
    """Gradio's plainest theme with the report's colours and the system's fonts."""
    made = gr.themes.Base(primary_hue="blue", neutral_hue="gray", font=FONT, font_mono=MONO, radius_size="md")
    return made.set(
        body_background_fill="#f5f6f8",
        body_background_fill_dark="#0e1014",
        body_text_color="#1b1d22",
        body_text_color_dark="#e6e8ec",
        block_label_text_color="#565b65",
        block_label_text_color_dark="#a3a9b5",
        block_title_text_color="#565b65",
        block_title_text_color_dark="#a3a9b5",
        block_info_text_color="#565b65",
        block_info_text_color_dark="#a3a9b5",
        input_border_width="1px",
        input_background_fill="#fff",
        input_background_fill_dark="#14161b",
        input_border_color="#d5d8de",
        input_border_color_dark="#363b45",
    )


__all__ = ["FOOTER", "HEADER", "read", "theme"]
