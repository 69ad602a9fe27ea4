"""Time and peak memory of explanations against the floor, side by side in one process.

The floor is the plain forward pass and the gradient of the target at the input, in the model's own fused kernels. Each way
runs in turn, round by round; the ratio is of medians. Memory is the peak growth of the resident set, measured in a process
of its own for each way, since one allocator's leftovers would hide the next one's peak.

    python benchmarks/overhead.py            # ViT-B/16, batch 4
    python benchmarks/overhead.py --tiny     # a quick check that it runs
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

import regard

ATTENTION = ["raw_attention", "rollout", "attention_grad_cam", "gae", "corrected_attention", "alpha_avg", "alpha_max"]


def setup(tiny: bool) -> tuple[torch.nn.Module, torch.Tensor]:
    """A random ViT-B/16 and a batch of four pictures."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config = ViTConfig(num_labels=1000, **(small if tiny else {}))
    return ViTForImageClassification(config).eval(), torch.randn(4, 3, 224, 224)


def ways(model: torch.nn.Module, x: torch.Tensor) -> dict[str, Callable[[], object]]:
    """What is compared."""

    def floor() -> object:
        leaf = x.clone().requires_grad_()
        logits = model(pixel_values=leaf).logits
        return torch.autograd.grad(logits.max(-1).values.sum(), leaf)

    def classical() -> object:
        leaf = x.clone().requires_grad_()
        model.zero_grad()
        model(pixel_values=leaf).logits.max(-1).values.sum().backward()
        model.zero_grad()
        return leaf.grad

    inputs = {"pixel_values": x}
    return {
        "floor": floor,
        "floor + parameter gradients": classical,
        "gae, lazy": lambda: regard.explain(model, inputs, method="gae"),
        "all attention methods, lazy": lambda: regard.explain(model, inputs, method=ATTENTION),
        "gae, full": lambda: regard.explain(model, inputs, method="gae", measure="full"),
    }


def rss() -> int:
    """Resident bytes of this process."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_of(name: str, tiny: bool) -> int:
    """Peak growth of the resident set while one way runs, twice (the first run warms the allocator up)."""
    torch.set_num_threads(2)
    model, x = setup(tiny)
    run = ways(model, x)[name]
    before, top, done = rss(), 0, threading.Event()

    def watch() -> None:
        nonlocal top
        while not done.is_set():
            top = max(top, rss())
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    run()
    gc.collect()
    run()
    done.set()
    thread.join()
    return top - before


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(2)
    model, x = setup(args.tiny)
    runs = ways(model, x)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(args.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = {name: pool.apply(peak_of, (name, args.tiny)) for name in runs}
    floor = statistics.median(times["floor"])
    print(f"{'ViT (tiny)' if args.tiny else 'ViT-B/16'}, batch 4, torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads, median of {args.rounds} rounds")  # fmt: skip
    print(f"{'way':32s} {'time':>8s} {'peak memory':>12s}")
    for name in runs:
        print(f"{name:32s} {statistics.median(times[name]) / floor:7.2f}x {peaks[name] / peaks['floor']:11.2f}x")


if __name__ == "__main__":
    main()
