"""Time and peak memory of explanations against the floor and against the classical way.

The floor is the plain forward pass and the gradient of the target at the input, in the model's own fused kernels. The classical
way is what reference code does: eager attention whose maps are kept, a backward pass to all parameters, full n×n products, one
picture at a time.

    python benchmarks/overhead.py            # ViT-B/16, batch 4
    python benchmarks/overhead.py --write    # the same, into docs/benchmarks.md
    python benchmarks/overhead.py --tiny     # a quick check that it runs
"""

from __future__ import annotations

import argparse

import measure
import torch
from torch import Tensor

import regard

ATTENTION = ["raw_attention", "rollout", "attention_grad_cam", "gae", "corrected_attention", "alpha_avg", "alpha_max"]
FLOOR, CLASSICAL = "floor", "classical: `gae` with kept maps"


def ways(tiny: bool) -> measure.Ways:
    """A random ViT-B/16, a batch of four pictures, and what is compared on them."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config = ViTConfig(num_labels=1000, **(small if tiny else {}))
    model, x = ViTForImageClassification(config).eval(), torch.randn(4, 3, 224, 224)
    inputs = {"pixel_values": x}

    def floor() -> object:
        leaf = x.clone().requires_grad_()
        logits = model(pixel_values=leaf).logits
        return torch.autograd.grad(logits.max(-1).values.sum(), leaf)

    def with_parameters() -> object:
        leaf = x.clone().requires_grad_()
        model.zero_grad()
        model(pixel_values=leaf).logits.max(-1).values.sum().backward()
        model.zero_grad()
        return leaf.grad

    def classical() -> object:
        model.set_attn_implementation("eager")
        try:
            return torch.cat([gae_by_kept_maps(model, x[i : i + 1]) for i in range(len(x))])
        finally:
            model.set_attn_implementation("sdpa")

    return {
        FLOOR: floor,
        "floor + parameter gradients": with_parameters,
        '`gae`, `measure="lazy"`': lambda: regard.explain(model, inputs, method="gae"),
        'all seven attention methods, `measure="lazy"`': lambda: regard.explain(model, inputs, method=ATTENTION),
        '`gae`, `measure="full"`': lambda: regard.explain(model, inputs, method="gae", measure="full"),
        CLASSICAL: classical,
    }


def gae_by_kept_maps(model: torch.nn.Module, x: Tensor) -> Tensor:
    """R ← R + E_h (G⊙A)₊ R over all layers, in full; row CLS."""
    out = model(pixel_values=x, output_attentions=True)
    for A in out.attentions:
        A.retain_grad()
    model.zero_grad()
    out.logits.max(-1).values.sum().backward()
    R = torch.eye(out.attentions[0].shape[-1])[None]
    for A in out.attentions:
        R = R + (A.grad * A.detach()).clamp(min=0).mean(1) @ R
    model.zero_grad()
    return R[:, 0, 1:]


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(2)
    compared = ways(args.tiny)
    ours = compared['`gae`, `measure="lazy"`']().scores["pixel_values"]  # type: ignore[attr-defined]
    theirs = compared[CLASSICAL]()
    assert isinstance(theirs, Tensor)
    assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())
    times = measure.timed(compared, args.rounds)
    memory = measure.peaks(ways, args.tiny, names=[*compared])
    text = (
        f"`python benchmarks/overhead.py`: {'ViT (tiny)' if args.tiny else 'ViT-B/16'}, batch 4, 197 tokens, "
        f"{measure.machine()}, median of {args.rounds} rounds, each way in turn in one process.\n\n"
        + measure.table(times, memory, FLOOR)
    )
    print(text)
    if args.write:
        measure.write("overhead", text)


if __name__ == "__main__":
    main()
