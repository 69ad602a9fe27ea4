"""The main job, offline: explain one picture and one sentence with the bundled models.

Writes a page and PNGs for each into `regard-demo/` and prints where they are. Run by `make demo`.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from regard import zoo
from regard.cli.commands import main

OUT = Path("regard-demo")
METHODS = "gae,corrected_attention,rollout,input_x_gradient,random"
SENTENCE = "The story starts slowly, but the acting is wonderful and I loved the ending."


def run(*arguments: str) -> None:
    """One command line of `regard explain`, shown before it is run."""
    print("\n$ regard " + " ".join(f'"{a}"' if " " in a else a for a in arguments), flush=True)
    try:
        main(list(arguments))
    except SystemExit as done:
        if done.code:
            raise


if __name__ == "__main__":
    picture = os.path.relpath(zoo.demo_scene())
    shown = ["--method", METHODS, "--quiet"]
    run("explain", picture, "--model", "zoo/vit-scenes", *shown, "--out", str(OUT / "picture"))
    run("explain", SENTENCE, "--model", "zoo/bert-sentiment", *shown, "--out", str(OUT / "sentence"))
    print("\nMade:")
    for made in sorted(OUT.rglob("*")):
        if made.suffix in (".html", ".png"):
            print(f"  {made}")
