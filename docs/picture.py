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


def main() -> None:
    """Draw the original beside the gae maps of both items."""
    items = zoo.cards()["zoo/vit-scenes"]["demo"]["shows"]
    maps = regard.load("zoo/vit-scenes").explain(zoo.demo_scene(), target=list(items), method="gae")
    limit = max(float(m.scores["pixel_values"].max()) for m in maps)
    figure = Figure(figsize=(11, 3.1), dpi=110, layout="constrained")
    first, *others = figure.subplots(1, 1 + len(maps))
    first.imshow(maps[0].inputs["pixel_values"][0].pixels.numpy(), interpolation="none")
    first.set(xticks=[], yticks=[])
    first.set_title("the picture", fontsize=12)
    for axes, m, name in zip(others, maps, items, strict=True):
        m.plot(ax=axes, scale=limit)
        axes.set_title(f"what “{name}” rests on", fontsize=12)
    for side in first.spines.values():
        side.set_visible(False)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    write_atomically(Path(__file__).with_name("picture.png"), png.getvalue())


if __name__ == "__main__":
    main()
