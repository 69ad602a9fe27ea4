"""Time and peak memory of `gae` on a long input against the floor: a random Llama, 8 layers, width 512.

The floor is the plain forward pass and the gradient of the last token's best logit at the word embeddings. Each way runs in a
process of its own, in turn, so that one allocator's leftovers do not hide the next one's peak; the ratios are of medians.

    python benchmarks/long_inputs.py --tokens 2048 8192
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import time

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

import regard


def once(way: str, tokens: int) -> tuple[float, float]:
    """Seconds, and bytes of peak growth, of one run."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(2)
    sizes = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1408}
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=1000, max_position_embeddings=tokens)).eval()
    ids = torch.randint(0, 1000, (1, tokens))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if way == "floor":
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        torch.autograd.grad(model(inputs_embeds=embedded, logits_to_keep=1).logits[:, -1].max(), embedded)
    else:
        inputs = {"input_ids": ids, "logits_to_keep": 1}
        regard.explain(model, inputs, lambda out: out.logits[:, -1].max(-1).values, method=way)
    seconds = time.perf_counter() - start
    return seconds, 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"Llama, 8 layers, width 512, torch {torch.__version__}, median of {args.rounds} rounds")
    print(f"{'tokens':>8s} {'way':10s} {'time':>8s} {'peak memory':>12s}")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for tokens in args.tokens:
            runs = [{way: pool.apply(once, (way, tokens)) for way in ("floor", "gae")} for _ in range(args.rounds)]
            median = {w: [statistics.median(r[w][i] for r in runs) for i in (0, 1)] for w in ("floor", "gae")}
            for way, (seconds, peak) in median.items():
                ratios = seconds / median["floor"][0], peak / median["floor"][1]
                print(f"{tokens:8d} {way:10s} {ratios[0]:7.2f}x {ratios[1]:11.2f}x")


if __name__ == "__main__":
    main()
