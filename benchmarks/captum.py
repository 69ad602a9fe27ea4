"""Beside Captum, in one run: the same maps of a random ViT-S/16, in turn, medians of ratios that a busy machine leaves alone.

    python benchmarks/captum.py            # ViT-S/16, one picture, 5 rounds
    python benchmarks/captum.py --tiny     # a quick check that it runs

`integrated_gradients` at equal nodes (16 and 50, Gauss-Legendre in both), to 1 % error beside Captum's default of 50 nodes, and
`input_x_gradient`. Regard's times hold the receipt: y, y0 and the attribution error at the nodes. Captum tells these, for two
more forward passes, where its convergence delta is asked for: a row of its own.
"""

from __future__ import annotations

import argparse
import sys

sys.path.pop(0)  # this folder, where Captum would be looked for in this very script

import torch
from captum.attr import InputXGradient, IntegratedGradients

import regard

sys.path.insert(0, __file__.rpartition("/")[0] or ".")
import measure

CLASS = 5


def ways(tiny: bool) -> measure.Ways:
    """A random ViT-S/16, a picture, and each map by either library."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    size = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_labels": 1000}
    small = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_labels": 9,
    }
    model = ViTForImageClassification(ViTConfig(**(small if tiny else size))).eval()
    x = torch.randn(1, 3, 224, 224)
    ig, ixg = (of(lambda v: model(pixel_values=v).logits) for of in (IntegratedGradients, InputXGradient))

    def ours(method: str, **options: float) -> object:
        return regard.explain(model, {"pixel_values": x}, CLASS, method, **options)

    return {
        "Captum, input x gradient": lambda: ixg.attribute(x.clone().requires_grad_(), target=CLASS),
        "input_x_gradient": lambda: ours("input_x_gradient"),
        "Captum, IG of 16 nodes": lambda: ig.attribute(x, n_steps=16, target=CLASS),
        "Captum, IG of 16 nodes, with delta": lambda: ig.attribute(
            x, n_steps=16, target=CLASS, return_convergence_delta=True
        ),
        "integrated_gradients, 16 nodes": lambda: ours("integrated_gradients", steps=16),
        "Captum, IG of 50 nodes (its default)": lambda: ig.attribute(x, n_steps=50, target=CLASS),
        "integrated_gradients, 50 nodes": lambda: ours("integrated_gradients", steps=50),
        "integrated_gradients, to 1 %": lambda: ours("integrated_gradients", tolerance=0.01),
    }


BESIDE = [
    ("input_x_gradient", "Captum, input x gradient"),
    ("integrated_gradients, 16 nodes", "Captum, IG of 16 nodes"),
    ("integrated_gradients, 16 nodes", "Captum, IG of 16 nodes, with delta"),
    ("integrated_gradients, 50 nodes", "Captum, IG of 50 nodes (its default)"),
    ("integrated_gradients, to 1 %", "Captum, IG of 50 nodes (its default)"),
]


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(2)
    times = measure.timed(ways(args.tiny), args.rounds)
    lines = [f"| {own} | {theirs} | {measure.ratio(times, own, theirs):.2f} x |" for own, theirs in BESIDE]
    size = "ViT (tiny)" if args.tiny else "ViT-S/16"
    head = f"`python benchmarks/captum.py`: {size}, one picture, {measure.machine()}, median of {args.rounds} rounds in turn."
    text = "\n".join([head, "", "| map | beside | time |", "|---|---|---|", *lines])
    print(text)
    if args.write:
        measure.write("captum", text)


if __name__ == "__main__":
    main()
