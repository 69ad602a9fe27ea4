"""How far do attention maps agree with post-hoc maps, on the zoo's classifiers of sentences and of scenes?

Kendall's τ-b of two maps of one input, over its words or patches; means over inputs with 95 % bootstrap intervals. The logit of
the predicted class is explained. The bundled sentences with 8 words or more; bundled scenes of one item, evenly spaced.

    python benchmarks/attention_vs_posthoc.py            # print the tables (about two minutes on one core)
    python benchmarks/attention_vs_posthoc.py --write    # and put them into docs/theory.md
    python benchmarks/attention_vs_posthoc.py --out DIR  # and write a page of each
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import measure

import regard
from regard import zoo
from regard.evaluation.posthoc_agreement import KINDS, PosthocAgreement, counted, spelled, whole

PAGE = measure.ROOT / "docs" / "theory.md"
SCENES = 24
SAMPLES = 256
"""Of LIME, an input."""
COLUMNS = {
    "kendall": "τ-b",
    "kendall_of_sizes": "τ-b of sizes",
    "overlap": "top-k overlap",
    "sign_disagreement": "sign disagreement",
}
PAIRS = (("attention", "posthoc"), ("posthoc", "posthoc"), ("attention", "attention"), ("floor", "posthoc"))


def main() -> None:
    """Print the tables, and write them into the page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    scenes = zoo.scenes()
    singles = scenes.images[scenes.single]
    data: dict[str, list[Any]] = {
        "zoo/bert-sentiment": [s.text for s in zoo.sentences()],
        "zoo/vit-scenes": [i.numpy() for i in singles[:: len(singles) // SCENES][:SCENES]],
    }
    parts = []
    for name, inputs in data.items():
        found = regard.load(name).attention_vs_posthoc(inputs, samples=SAMPLES)
        parts.append(f"`{name}`, {about(found)}\n\n{by_method(found)}\n\n{by_kind(found)}")
        print(parts[-1], "\n", flush=True)
        if asked.out is not None:
            asked.out.mkdir(parents=True, exist_ok=True)
            found.to_html(asked.out / f"{Path(name).name}.html")
    if asked.write:
        measure.write("attention against post-hoc", "\n\n".join(parts), PAGE)


def about(found: PosthocAgreement) -> str:
    """What the tables are of."""
    sizes, unit = sorted(i.units for i in found.inputs), found.inputs[0].unit
    many = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
    units = {"patch": "patches"}.get(unit, f"{unit}s")
    few = " (fewer than 8 units)" if found.missing else ""
    return f"{counted(len(found.inputs), len(found.missing))}{few}, {many} {units} each. Kendall's τ-b:"


def by_method(found: PosthocAgreement) -> str:
    """Every attention map, and random, with every post-hoc map."""
    columns, rows = found.of_kind("posthoc"), [*found.of_kind("attention"), *found.of_kind("floor")]
    return table(
        ["", *(f"`{c}`" for c in columns)], [[f"`{r}`", *(whole(found.interval(r, c)) for c in columns)] for r in rows]
    )


def by_kind(found: PosthocAgreement) -> str:
    """The kinds of maps with one another, by several metrics."""
    rows = [[f"{KINDS[a]} with {KINDS[b]}", *(whole(found.between(a, b, m)) for m in COLUMNS)] for a, b in PAIRS]
    return table(
        ["", *(c + (f" (chance {spelled(found.chance)})" if m == "overlap" else "") for m, c in COLUMNS.items())], rows
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a mean of nothing is left empty."""
    lines = [head, ["---"] * len(head), *([c if c != "– [–, –]" else "" for c in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
