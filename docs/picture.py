"""Makes docs/picture.png, the picture of the README: one scene, and what each of its two items' logits rests on.

python docs/picture.py
"""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import regard
from regard import zoo
from regard.explanation.files import write_atomically
from regard.report.explanation.png import composite


def main() -> None:
    """Draw the original beside the gae maps of both items."""
    items = zoo.cards()["zoo/vit-scenes"]["demo"]["shows"]
    maps = regard.load("zoo/vit-scenes").explain(zoo.demo_scene(), target=list(items), method="gae")
    original = maps[0].inputs["pixel_values"][0].pixels.numpy()
    panels = [
        (original, "the picture"),
        *((composite(m), f"what “{c}” rests on") for m, c in zip(maps, items, strict=True)),
    ]
    figure = Figure(figsize=(11, 3.3), dpi=110, layout="constrained")
    for i, (pixels, title) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        axes.imshow(pixels)
        axes.set_title(title, fontsize=12)
        axes.set_axis_off()
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    write_atomically(Path(__file__).with_name("picture.png"), png.getvalue())


if __name__ == "__main__":
    main()
