"""Does the map lie on the item? Pointing accuracy and mean IoU on the 200 bundled scenes, for every method.

Protocol `regard.evaluation.Segmentation()`: the logit of the item's own class is explained, the token map is
brought to 64 x 64 bilinearly. Pointing: the map's largest pixel lies on the item. IoU: pixels above the map's mean, against
the item's exact mask; the mean over examples. In a two-item scene each item is asked for in turn, and must be told from the
other one. Intervals are 95 % bootstrap over scenes: the two questions on a scene are drawn together.

    python benchmarks/scenes.py             # print the table
    python benchmarks/scenes.py --write     # and put it into docs/known-answers.md
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import measure
import torch

import regard
from regard import Baseline, zoo
from regard.evaluation import Row, Segmentation, evaluate_rows, examples_of
from regard.evaluation.statistics import mean_with_interval

PAGE = measure.ROOT / "docs" / "known-answers.md"
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("random", "random", {}),
    ("raw_attention", "raw_attention", {}),
    ("alpha_max", "alpha_max", {}),
    ("rollout", "rollout", {}),
    ("attention_grad_cam", "attention_grad_cam", {}),
    ("gae = corrected_attention, positive", "gae", {}),
    ("corrected_attention, negative", "corrected_attention", {"sign": "negative"}),
    ("corrected_attention, absolute", "corrected_attention", {"sign": "absolute"}),
    ("corrected_attention, signed", "corrected_attention", {"sign": "signed"}),
    *(
        (f"corrected_attention, {sign}, complete", "corrected_attention", {"sign": sign, "correction": "complete"})
        for sign in ("positive", "negative", "absolute")
    ),
    ("gae, guided by contrast", "gae", {"guide": "contrast"}),
    ("gradient, mean", "gradient", {"reduce": "mean"}),
    ("gradient, l1", "gradient", {"reduce": "l1"}),
    ("gradient, l2", "gradient", {"reduce": "l2"}),
    ("smoothgrad", "smoothgrad", {}),
    ("input_x_gradient", "input_x_gradient", {}),
    ("integrated_gradients, zero", "integrated_gradients", {}),
    ("integrated_gradients, blurred", "integrated_gradients", {"baseline": Baseline.blur(8.0)}),
    ("revised_ig", "revised_ig", {}),
    ("grad_cam", "grad_cam", {}),
    ("layer_cam", "layer_cam", {}),
    ("odam", "odam", {}),
    ("bti_token", "bti_token", {}),
    ("bti_head", "bti_head", {}),
    ("transition_attention", "transition_attention", {}),
    ("attnlrp", "attnlrp", {}),
    ("attnlrp, gamma 0.25", "attnlrp", {"gamma": 0.25}),
    ("cp_lrp", "cp_lrp", {}),
    ("gim", "gim", {}),
]


def cell(rows: list[Row], metric: str) -> str:
    """Mean and 95 % bootstrap interval of a metric, in per cent."""
    own = [r for r in rows if r.x is None and r.metric == metric]
    value, low, high = (100 * v for v in mean_with_interval([r.value for r in own], groups=[r.drawn_with for r in own]))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    """Print the table, and write it into docs/known-answers.md if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    scenes, reader = zoo.scenes(), regard.load("zoo/vit-scenes")
    inputs = reader.read(list(scenes.images)).inputs
    with torch.no_grad():
        predicted = reader.model(**inputs).logits.argmax(-1)
    single = scenes.single
    right = (predicted == scenes.labels[:, 0])[single].float().mean()
    rows = ["| method | pointing, one item | IoU, one item | pointing, two items | IoU, two items |",
            "|---|---|---|---|---|"]  # fmt: skip
    for name, method, options in VARIANTS:
        cells = []
        for chosen, items in ((single, (0,)), (~single, (0, 1))):
            judged = []
            for item in items:
                picked = scenes.select(chosen)
                examples = examples_of(
                    reader.read(list(picked.images)),
                    labels=picked.labels[:, item],
                    masks=picked.masks[:, item],
                    groups=[str(i) for i in range(len(picked))],
                )
                judged += evaluate_rows(reader.model, examples, [(method, options)], [Segmentation()])
            cells += [cell(judged, "pointing"), cell(judged, "iou")]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    table = "\n".join(rows)
    note = (f"{int(single.sum())} scenes of one item ({100 * right:.0f} % of them classified right) and {int((~single).sum())} "
            "of two; per cent, with 95 % bootstrap intervals; the explained class is the true one.")  # fmt: skip
    print(f"{table}\n\n{note}")
    if write:
        measure.write("scenes", f"{table}\n\n{note}", PAGE)


if __name__ == "__main__":
    main()
