"""Time and peak memory of rules of the backward pass against the floor: complete correction, AttnLRP, CP-LRP, gim.

The floor is the plain forward pass and the gradient of the target at the input, in the model's own fused kernels. Ways run in
turn, round by round; peak memory is measured in a process of its own for each. On a long input, a random Llama, memory alone.

    python benchmarks/backward.py            # ViT-B/16, batch 4, and a Llama of 2048 tokens
    python benchmarks/backward.py --long 8192 --write
    python benchmarks/backward.py --tiny     # a quick check that it runs
"""

from __future__ import annotations

import argparse

import long_inputs
import measure
import torch

import regard

FLOOR = "floor"
METHODS = {
    "`gae`": {"method": "gae"},
    '`corrected_attention`, `correction="incomplete"`': {"method": "corrected_attention"},
    '`corrected_attention`, `correction="complete"`': {"method": "corrected_attention", "correction": "complete"},
    "`attnlrp`": {"method": "attnlrp"},
    "`cp_lrp`": {"method": "cp_lrp"},
    "`gim`": {"method": "gim"},
}


def pictures(tiny: bool) -> measure.Ways:
    """A random ViT-B/16 and a batch of four pictures."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    model = ViTForImageClassification(ViTConfig(num_labels=1000, **(small if tiny else {}))).eval()
    x = torch.randn(4, 3, 224, 224)

    def floor() -> object:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(model(pixel_values=leaf).logits.max(-1).values.sum(), leaf)

    inputs = {"pixel_values": x}
    return {FLOOR: floor} | {
        name: lambda how=how: regard.explain(model, inputs, **how)  # type: ignore[misc]
        for name, how in METHODS.items()
    }


def words(tokens: int) -> measure.Ways:
    """A random Llama, 8 layers, width 512, and a long text."""
    model, inputs, floor = long_inputs.llama(tokens)
    return {FLOOR: floor} | {
        name: lambda how=how: regard.explain(model, inputs, long_inputs.best, **how)  # type: ignore[misc]
        for name, how in METHODS.items()
    }


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--tokens", type=int, default=2048, help="of the Llama; 0: no Llama")
    parser.add_argument("--long", type=int, default=0, help="of the Llama whose memory alone is measured; 0: none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    args = parser.parse_args()
    torch.set_num_threads(2)
    tokens = min(args.tokens, 64) if args.tiny else args.tokens
    asked = f"--tokens {tokens}" + (f" --long {args.long}" if args.long else "")
    pictures_are = "ViT (tiny)" if args.tiny else "ViT-B/16"
    parts = [
        f"`python benchmarks/backward.py {asked}`: {measure.machine()}, median of {args.rounds} rounds, each way in turn in "
        "one process.",
        f"{pictures_are}, batch 4, 197 tokens:\n\n" + _table(pictures, args.tiny, args.rounds),
    ]
    if tokens:
        parts.append(
            f"Llama, 8 layers, width 512, {tokens} tokens:\n\n" + _table(words, tokens, max(1, args.rounds // 2))
        )
    if args.long:
        longer = min(args.long, 128) if args.tiny else args.long
        parts.append(f"The same Llama, {longer} tokens, memory alone:\n\n" + _memory(longer))
    text = "\n\n".join(parts)
    print(text)
    if args.write:
        measure.write("backward", text)


def _table(make: object, size: object, rounds: int) -> str:
    compared = make(size)  # type: ignore[operator]
    return measure.table(measure.timed(compared, rounds), measure.peaks(make, size, names=[*compared]), FLOOR)  # type: ignore[arg-type]


def _memory(tokens: int) -> str:
    """Rows of ratios to the floor, whose own bytes are told."""
    names = [FLOOR, *METHODS]
    found = measure.peaks(words, tokens, names=names)
    lines = ["| way | resident memory | allocated memory |", "|---|---|---|"]
    for name in names:
        ratios = [a / b for a, b in zip(found[name], found[FLOOR], strict=True)]
        lines.append(f"| {name} | " + " | ".join(f"{r:.2f} x" for r in ratios) + " |")
    resident, allocated = (n / 1e6 for n in found[FLOOR])
    return "\n".join(lines) + f"\n\nThe floor takes {resident:,.0f} MB (resident) and {allocated:,.0f} MB (allocated)."


if __name__ == "__main__":
    main()
