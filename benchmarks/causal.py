"""What the causal test costs, in plain forward passes, and whether it is calibrated.

python benchmarks/causal.py              # ViT-B/16, one picture: the cost
python benchmarks/causal.py --maps       # maps of the zoo: random ones must pass by chance alone, others should pass
python benchmarks/causal.py --write      # both, into docs/benchmarks.md
python benchmarks/causal.py --tiny       # a quick check that it runs
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import measure
import torch

import regard
from regard import zoo

FORWARD = "one plain forward pass"
METHODS = ("gae", "corrected_attention", "raw_attention", "rollout", "grad_cam", "random")
LEVEL = 0.05


def ways(tiny: bool) -> measure.Ways:
    """A random ViT-B/16 and one picture; the test of one map, with and without sufficiency, and of three maps."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    model = ViTForImageClassification(ViTConfig(num_labels=1000, **(small if tiny else {}))).eval()
    inputs = {"pixel_values": torch.randn(1, 3, 224, 224)}

    def plain() -> object:
        with torch.no_grad():
            return model(**inputs)

    def tested(methods: Sequence[str], sufficiency: bool = False) -> object:
        found = regard.explain(model, inputs, method=methods)
        assert isinstance(found, list)
        return [exp.test(sufficiency=sufficiency) for exp in found]

    return {
        FORWARD: plain,
        "one map, explained and tested": lambda: tested(["gae"]),
        "one map, with sufficiency": lambda: tested(["gae"], True),
        "three maps, explained and tested": lambda: tested(["gae", "rollout", "raw_attention"]),
    }


def cost(tiny: bool, rounds: int) -> str:
    """Time of each way over that of a plain forward pass, as a table."""
    times = measure.timed(ways(tiny), 1 if tiny else rounds)
    lines = ["| what | plain forward passes' time |", "|---|---|"]
    lines += [f"| {name} | {measure.ratio(times, name, FORWARD):.1f} |" for name in times if name != FORWARD]
    what = "a small ViT" if tiny else "ViT-B/16, one picture, 196 patches"
    return (
        f"`python benchmarks/causal.py`: {what}, {measure.machine()}, median of {rounds} rounds in turn.\n\n"
        + "\n".join(lines)
    )


def passed(reader: regard.reader.Reader, some: Sequence[int], share: float) -> dict[str, list[float]]:
    """p of the maps of scenes of one item, method by method."""
    scenes = zoo.scenes()
    found: dict[str, list[float]] = {name: [] for name in METHODS}
    for i in some:
        target = int(scenes.labels[i, 0])
        for exp in reader.explain(scenes.images[i].numpy(), target=target, method=list(METHODS)):
            found[exp.method].append(float(exp.test(share).p_value))
    return found


def uniform(p: Sequence[float]) -> float:
    """p of the Kolmogorov-Smirnov test that some p are uniform."""
    from scipy.stats import kstest

    return float(kstest(p, "uniform").pvalue)


def maps(tiny: bool) -> str:
    """How many maps of each method are better than chance, and whether those of `random` are as many as chance has it."""
    single = zoo.scenes().single.nonzero()[:, 0].tolist()
    some = single[: 3 if tiny else None]
    p = passed(regard.load("zoo/vit-scenes"), some, 0.05)
    lines = ["| method | better than chance | Kolmogorov–Smirnov p of a uniform distribution |", "|---|---|---|"]
    for name, values in p.items():
        share = sum(v <= LEVEL for v in values) / len(values)
        lines.append(f"| {name} | {share:.0%} | {uniform(values):.2g} |")
    what = f"zoo/vit-scenes, {len(some)} scenes of one item, share 0.05, 49 random choices"
    head = f"`python benchmarks/causal.py --maps`: {what}."
    return head + "\n\n" + "\n".join(lines)


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("tiny", "maps", "write"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(2)
    found = {}
    if asked.write or asked.tiny or not asked.maps:
        found["causal"] = cost(asked.tiny, asked.rounds)
    if asked.write or asked.tiny or asked.maps:
        found["causal-maps"] = maps(asked.tiny)
    for name, text in found.items():
        print(text + "\n")
        if asked.write:
            measure.write(name, text)


if __name__ == "__main__":
    main()
