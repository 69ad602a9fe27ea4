"""Beyond Intuition, token-wise: nodes side by side without a prefix graph, against one pass with parameter gradients a node.

The literal way is the released one: eager attention that keeps every map, one forward and one backward pass (through all of
the model, into the parameters) for each of K nodes, then the full product of n×n matrices. Ours is `regard.explain`: one
recorded run with its gradient, K nodes side by side, one row through the layers. Both give the same map: the largest
difference, as a share of the largest score, is in the table.

    python benchmarks/bti.py [--write]
"""

from __future__ import annotations

import argparse
from typing import Any

import measure
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

import regard

K = 20


def vit_small() -> nn.Module:
    """ViT-S/16 at 224, random."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_labels": 1000}
    model = ViTForImageClassification(ViTConfig(**sizes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(3)  # attention that is not uniform
    return model


class Kept:
    """Hooks of the literal way: by name, each block's input, values and output projection."""

    def __init__(self, model: Any) -> None:
        self.layers = model.vit.layers
        self.z: list[Tensor] = []
        self.v: list[Tensor] = []
        self.handles = [b.register_forward_pre_hook(lambda m, a: self.z.append(a[0].detach())) for b in self.layers]
        self.handles += [
            b.attention.v_proj.register_forward_hook(lambda m, a, o: self.v.append(o.detach())) for b in self.layers
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()


def literal(model: Any, x: Tensor, target: int) -> Tensor:
    """T of the CLS row over the patches, node by node."""
    total: Any = 0
    for alpha in torch.linspace(0, 1, K).tolist():
        model.zero_grad()
        kept = Kept(model)
        out = model(pixel_values=alpha * x, output_attentions=True)
        kept.remove()
        A = out.attentions
        A[-1].retain_grad()
        out.logits[:, target].sum().backward()
        total = total + A[-1].grad / K
    P = torch.eye(A[-1].shape[-1]).expand(len(x), -1, -1)
    with torch.no_grad():
        for l, block in enumerate(kept.layers):  # the last node is x itself
            zW = kept.v[l] @ block.attention.o_proj.weight.T
            P = P + A[l].mean(1) * (zW.norm(dim=-1) / kept.z[l].norm(dim=-1))[:, None] @ P
        return (P * total.clamp(min=0).mean(1))[:, 0, 1:]


def ways(batch: int) -> measure.Ways:
    """The literal way and ours, of the same map."""
    model, x = vit_small(), torch.randn(batch, 3, 224, 224)
    twin = vit_small()
    twin.set_attn_implementation("eager")
    return {
        "literal": lambda: literal(twin, x, 7),
        "regard": lambda: regard.explain(model, {"pixel_values": x}, 7, "bti_token", grid="linspace", steps=K).scores[
            "pixel_values"
        ],
        "floor": lambda: floor(model, x),
    }


def floor(model: nn.Module, x: Tensor) -> None:
    """K plain forward passes as one batch, no gradient: less no way can cost that really runs K nodes."""
    with torch.no_grad():
        model(pixel_values=x.repeat(K, 1, 1, 1))


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines = [
        "| batch | one pass a node | `bti_token` | K plain forwards | ratio | largest difference |",
        "|---|---|---|---|---|---|",
    ]
    for batch in args.batch:
        both = ways(batch)
        a, b = (both[name]() for name in ("literal", "regard"))
        gap = float((a - b).abs().max() / a.abs().max())  # type: ignore[operator, union-attr]
        times = measure.timed(both, args.rounds)
        shares = " | ".join(f"{measure.ratio(times, way, 'floor'):.2f}" for way in times)
        lines.append(f"| {batch} | {shares} | {measure.ratio(times, 'literal', 'regard'):.1f} x | {gap:.0e} |")
    text = (
        f"`python benchmarks/bti.py`: ViT-S/16 at 224, random, K = {K}, {measure.machine()}, median of {args.rounds} "
        "rounds, both in turn in one process.\n\n" + "\n".join(lines)
    )
    print(text)
    if args.write:
        measure.write("bti", text)


if __name__ == "__main__":
    main()
