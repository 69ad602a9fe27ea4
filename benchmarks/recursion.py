"""The relevance recursion: full n×n products against one row, and the whole way from kept maps against rebuilt rows.

"Recursion alone" is what is left when every layer's matrix E is at hand: R ← R + E R in full, or r ← r + r E for the row that
is read. "From the maps" makes E as well: the classical way from kept A and G, ours by rebuilding both from q, k, v and dO. The
classical way must keep 2 L H n² numbers for it, ours keeps none.

    python benchmarks/recursion.py [--write]
"""

from __future__ import annotations

import argparse
import statistics

import measure
import torch
from torch import Tensor

from regard.attribution.attention.edge_rules import EDGES
from regard.recording.calls import AttentionCall, Layout

HEADS, WIDTH = 16, 64


def alone(layers: int, n: int) -> measure.Ways:
    """With all E given."""
    E = torch.rand(layers, n, n) / n

    def full() -> Tensor:
        R = torch.eye(n)
        for l in range(layers):
            R = R + E[l] @ R
        return R[0]

    def row() -> Tensor:
        r = torch.eye(n)[:1]
        for l in reversed(range(layers)):
            r = r + r @ E[l]
        return r[0]

    assert torch.allclose(full(), row(), rtol=1e-4, atol=1e-6)
    return {"full products": full, "one row": row}


def from_maps(layers: int, n: int) -> measure.Ways:
    """With A and G kept, or rebuilt."""
    torch.manual_seed(0)
    ids = (torch.arange(n) + 1 + (1 << 32))[None]
    layout = Layout((1, HEADS), (0, 1), 1, HEADS)
    calls = [_call(i, layout, ids, n) for i in range(layers)]
    kept = [c.rows(torch.arange(n)) for c in calls]
    maps = [(k.A[0], k.G[0]) for k in kept if k.G is not None]

    def full() -> Tensor:
        R = torch.eye(n)
        for A, G in maps:
            R = R + (G * A).clamp(min=0).mean(0) @ R
        return R[0]

    def row() -> Tensor:
        r = torch.eye(n)[:1]
        for call in reversed(calls):
            r = r + call.pull(r, EDGES["positive"])
        return r[0]

    assert torch.allclose(full(), row(), rtol=1e-3, atol=1e-5)
    return {"full products, kept maps": full, "one row, rebuilt": row}


def _call(i: int, layout: Layout, ids: Tensor, n: int) -> AttentionCall:
    q, k, v, dO = torch.randn(4, 1, HEADS, n, WIDTH)
    return AttentionCall(
        index=i, event=i, module="", kernel="sdpa", layout=layout, queries=ids, keys=ids, seen=0, output=v, v=v, q=q, k=k,
        scale=WIDTH**-0.5, dO=dO / n / 10,
    )  # fmt: skip


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--tokens", type=int, nargs="+", default=[577, 1025])
    args = parser.parse_args()
    torch.set_num_threads(2)
    lines = ["| tokens | what | full products | one row | ratio |", "|---|---|---|---|---|"]
    for n in args.tokens:
        for what, make in (("recursion alone", alone), ("from the maps", from_maps)):
            times = measure.timed(make(args.layers, n), args.rounds)
            full, row = (1e3 * statistics.median(seconds) for seconds in times.values())
            lines.append(f"| {n} | {what} | {full:.0f} ms | {row:.1f} ms | {measure.ratio(times, *times):.1f} x |")
    text = (
        f"`python benchmarks/recursion.py`: {args.layers} layers, {HEADS} heads, {measure.machine()}, median of "
        f"{args.rounds} rounds.\n\n" + "\n".join(lines)
    )
    print(text)
    if args.write:
        measure.write("recursion", text)


if __name__ == "__main__":
    main()
