"""Time and peak memory of `gae` on a long input against the floor: a random Llama, 8 layers, width 512.

The floor is the plain forward pass and the gradient of the last token's best logit at the word embeddings. Ways run in turn,
round by round; peak memory is measured in a process of its own for each.

    python benchmarks/long_inputs.py --tokens 2048 8192 --write
    python benchmarks/long_inputs.py --tokens 32768 --once         # about 20 minutes on two cores
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import measure
import torch

import regard


def llama(tokens: int) -> tuple[Any, dict[str, Any], Callable[[], object]]:
    """A random Llama, a long text for it, and the floor on them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1408}
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=1000, max_position_embeddings=tokens)).eval()
    ids = torch.randint(0, 1000, (1, tokens))
    inputs = {"input_ids": ids, "logits_to_keep": 1}

    def floor() -> object:
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        return torch.autograd.grad(model(inputs_embeds=embedded, logits_to_keep=1).logits[:, -1].max(), embedded)

    return model, inputs, floor


def best(output: Any) -> torch.Tensor:
    """The largest logit at the last token."""
    return output.logits[:, -1].max(-1).values  # type: ignore[no-any-return]


def ways(tokens: int, budget: str | None = None) -> measure.Ways:
    """The model, a long input, and what is compared."""
    model, inputs, floor = llama(tokens)
    return {
        "floor": floor,
        "`gae`": lambda: regard.explain(model, inputs, best, method="gae", memory_budget=budget),
    }


def once(tokens: int, budget: str | None) -> str:
    """One explanation of a very long input: minutes, and the whole process's peak."""
    start = time.perf_counter()
    ways(tokens, budget)["`gae`"]()
    minutes = (time.perf_counter() - start) / 60
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    return f"`gae` on {tokens} tokens: {minutes:.1f} minutes, {peak:.1f} GB at the peak (the whole process)"


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", help='memory budget of rebuilt rows, as in "64MB"')
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--once", action="store_true", help="`gae` alone, one time")
    args = parser.parse_args()
    torch.set_num_threads(2)
    head = f"`python benchmarks/long_inputs.py`: Llama, 8 layers, width 512, {measure.machine()}"
    if args.once:
        text, name = f"{head}: " + "; ".join(once(n, args.budget) for n in args.tokens) + ".", "very-long"
    else:
        parts = [f"{head}, median of {args.rounds} rounds."]
        for tokens in args.tokens:
            times = measure.timed(ways(tokens, args.budget), args.rounds)
            memory = measure.peaks(ways, tokens, args.budget, names=[*times])
            parts.append(f"{tokens} tokens:\n\n" + measure.table(times, memory, "floor"))
        text, name = "\n\n".join(parts), "long-inputs"
    print(text)
    if args.write:
        measure.write(name, text)


if __name__ == "__main__":
    main()
