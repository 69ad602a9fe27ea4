"""Several targets of one run: one gradient after the other, or batched (`is_grads_batched`)?

    python benchmarks/several_targets.py

Llamas of several sizes, random, on one CPU thread; k tokens at the end of a text of n are the targets. Best of some runs.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from regard.recording import record

SIZES = (  # layers, width, tokens, targets, vocabulary, runs
    (2, 32, 20, 10, 400, 5),
    (4, 128, 40, 20, 1000, 4),
    (8, 512, 64, 20, 32000, 3),
    (8, 512, 256, 20, 32000, 2),
    (8, 512, 1024, 8, 32000, 2),
)


def best(work: Callable[[], object], runs: int) -> float:
    """The shortest time of some runs, in seconds."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def measure(layers: int, width: int, n: int, k: int, vocabulary: int, runs: int) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": max(4, width // 64), "num_key_value_heads": max(4, width // 64)}
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
    }
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval()
    rec = record(model, {"input_ids": torch.randint(0, vocabulary, (1, n)), "logits_to_keep": k + 1})
    ys = [rec.output.logits[:, -i - 2, 5] for i in range(k)]
    at = [c.output for c in rec.calls] + list(rec.leaves.values())
    y, more = torch.cat(ys), {"retain_graph": True, "allow_unused": True, "is_grads_batched": True}

    def batched() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the fused attention's backward has no batching rule
            torch.autograd.grad(y, at, torch.eye(k), **more)

    alone = best(lambda: [rec.gradients(v, keep=True) for v in ys], runs)
    together = best(batched, runs)
    return f"{layers:6} {width:6} {n:6} {k:7} {alone:10.4f} {together:10.4f} {together / alone:8.2f}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("layers  width tokens targets one by one    batched    ratio")
    for size in SIZES:
        print(measure(*size), flush=True)
