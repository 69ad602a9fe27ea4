"""What `regard.verify` costs beside the plain forward pass and gradient at the input, in the model's own fused kernels.

python benchmarks/verify.py            # ViT-B/16, one picture
python benchmarks/verify.py --write    # the same, into docs/benchmarks.md
python benchmarks/verify.py --tiny     # a quick check that it runs
"""

from __future__ import annotations

import argparse

import measure
import torch

import regard

FLOOR, MOST = "floor", 14.0
"""The most floors that a proof may cost at 197 tokens."""


def ways(tiny: bool) -> measure.Ways:
    """A random ViT-B/16, and a picture."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    model = ViTForImageClassification(ViTConfig(num_labels=1000, **(small if tiny else {}))).eval()
    x = torch.randn(1, 3, 224, 224)

    def floor() -> object:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(model(pixel_values=leaf).logits.max(-1).values.sum(), leaf)

    return {FLOOR: floor, "`regard.verify`": lambda: regard.verify(model, {"pixel_values": x})}


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(2)
    compared = ways(args.tiny)
    proof = compared["`regard.verify`"]()
    assert isinstance(proof, regard.Verification)
    assert proof.ok
    times = measure.timed(compared, args.rounds)
    memory = measure.peaks(ways, args.tiny, names=[*compared])
    what = f"{'ViT (tiny)' if args.tiny else 'ViT-B/16'}, one picture, 197 tokens, {proof.claims} claims, {proof.passes} passes"
    text = (
        f"`python benchmarks/verify.py`: {what}, {measure.machine()}, median of {args.rounds} rounds, each way in turn in one "
        "process.\n\n" + measure.table(times, memory, FLOOR)
    )
    print(text)
    if not args.tiny and measure.ratio(times, "`regard.verify`", FLOOR) > MOST:
        raise SystemExit(f"a proof costs more than {MOST:g} floors")
    if args.write:
        measure.write("verify", text)


if __name__ == "__main__":
    main()
