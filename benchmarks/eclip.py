"""What one picture compared with many texts costs: all classes explained, as times of a plain forward of the picture and them.
And what one picture costs: `attention_eclip` and `legrad` of a ViT-B/16 and of a CLIP of one text, beside the floor (the
plain forward pass and the gradient at the picture).

    python benchmarks/eclip.py [--texts 20] [--size base|small] [--rounds 7] [--only bare] [--write]

A CLIP of random weights; ways run side by side, and each ratio is the median over rounds (see measure.py). Gradients of all
classes are taken at the last attention of either tower, where the maps need them: "in turn", one class after the other, and
"batched" (`is_grads_batched`), whose vmap must loop over what has no batching rule; `gradients` alone, and with all of
`regard.explain`.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import measure
import torch
from measure import Ways, machine, ratio, timed
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTForImageClassification

import regard
from regard.recording import record
from regard.target import Target

SIZES: dict[str, tuple[dict[str, int], dict[str, int], int]] = {
    "small": (
        {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256},
        {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256},
        64,
    ),
    "base": (
        {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048},
        {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
        224,
    ),
}
"""The text's tower, the picture's tower, pixels a side: as CLIP ViT-B/16 has them, and a small one."""
LENGTH, VOCABULARY, PATCH = 12, 1000, 16
FLOOR = "plain forward"


def model_of(size: str) -> CLIPModel:
    """A CLIP of random weights."""
    torch.manual_seed(0)
    text, picture, pixels = SIZES[size]
    ids = {"bos_token_id": 1, "eos_token_id": VOCABULARY - 1, "pad_token_id": 0}
    words: dict[str, Any] = {**text, "vocab_size": VOCABULARY, "max_position_embeddings": 77, **ids}
    seen: dict[str, Any] = {**picture, "image_size": pixels, "patch_size": PATCH}
    return CLIPModel(
        CLIPConfig(text_config=words, vision_config=seen, projection_dim=min(512, text["hidden_size"]))
    ).eval()


def inputs_of(size: str, texts: int) -> dict[str, torch.Tensor]:
    """One picture, and so many texts."""
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(2, VOCABULARY - 1, (texts, LENGTH), generator=g)
    ids[:, 0], ids[:, -1] = 1, VOCABULARY - 1
    side = SIZES[size][2]
    return {"input_ids": ids, "pixel_values": torch.randn(1, 3, side, side, generator=g)}


def plain(model: CLIPModel, inputs: dict[str, torch.Tensor]) -> Callable[[], object]:
    """The floor: the model's own run, without a graph."""

    def run() -> object:
        with torch.no_grad():
            return model(**inputs)

    return run


def ways(size: str, texts: int, *, bare: bool) -> Ways:
    """What is timed: the floor, gradients of all classes, and all their maps."""
    model, inputs = model_of(size), inputs_of(size, texts)
    classes = [Target.logit(c, output="logits_per_image") for c in range(texts)]
    found = dict[str, Callable[[], object]]({FLOOR: plain(model, inputs)})
    found["forward with a graph"] = lambda: model(**inputs)
    found |= gradients(model, inputs, texts)
    if not bare:
        found["attention_eclip of one class"] = lambda: regard.explain(model, inputs, classes[0], "attention_eclip")
        found["attention_eclip of all, one call"] = lambda: regard.explain(model, inputs, classes, "attention_eclip")
        found["attention_eclip of all, a call each"] = lambda: [
            regard.explain(model, inputs, c, "attention_eclip") for c in classes
        ]
    return found


def gradients(model: CLIPModel, inputs: dict[str, torch.Tensor], texts: int) -> dict[str, Callable[[], object]]:
    """Gradients of all classes at what the last attention of either tower gives, in one recorded run."""
    recording = record(model, inputs, target=Target.logit(0, output="logits_per_image"))
    y = recording.output.logits_per_image[0]
    towers = {c.module.partition(".")[0]: c for c in recording.calls}
    at = [call.output for call in towers.values()]
    more = {"retain_graph": True, "allow_unused": True}

    def in_turn() -> object:
        return [torch.autograd.grad(y[c], at, **more) for c in range(texts)]

    def batched() -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what has no batching rule runs class by class
            return torch.autograd.grad(y, at, torch.eye(texts), is_grads_batched=True, **more)

    return {"gradients of all, in turn": in_turn, "gradients of all, batched": batched}


def of_one(model: Any, inputs: dict[str, torch.Tensor], target: Target) -> Ways:
    """What one map costs of a model of pictures."""
    for p in model.parameters():
        p.requires_grad_(False)

    def floor() -> object:
        pixels = inputs["pixel_values"].clone().requires_grad_()
        given = inputs | {"pixel_values": pixels}
        y = target.value(model(**given), given).y.sum()
        return torch.autograd.grad(y, pixels)

    methods = ("raw_attention", "attention_eclip", "legrad")
    maps = {m: (lambda m=m: regard.explain(model, inputs, target, m)) for m in methods}
    return {FLOOR: plain(model, inputs), "forward and gradient": floor, **maps}


def one_picture(rounds: int) -> str:
    """Ways x models, as times of the plain forward and of the forward with its gradient."""
    g = torch.Generator().manual_seed(2)
    vit = ViTForImageClassification(ViTConfig(num_labels=1000)).eval()
    cases: dict[str, Ways] = {
        f"ViT-B/16, {n} {'picture' if n == 1 else 'pictures'}": of_one(
            vit, {"pixel_values": torch.randn(n, 3, 224, 224, generator=g)}, Target.logit(3)
        )
        for n in (1, 4)
    }
    clip = Target.logit(0, output="logits_per_image")
    cases["CLIP ViT-B/16, 1 picture, 1 text"] = of_one(model_of("base"), inputs_of("base", 1), clip)
    lines = ["| model | way | plain forward | forward and gradient |", "|---|---|---|---|"]
    for name, made in cases.items():
        times = timed(made, rounds)
        lines += [
            f"| {name} | `{way}` | {ratio(times, way, FLOOR):.2f} x | {ratio(times, way, 'forward and gradient'):.2f} x |"
            for way in times
            if way not in (FLOOR, "forward and gradient")
        ]
    return "\n".join(lines)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["bare"], help="the gradients alone, without regard.explain")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    given = parser.parse_args()
    times = timed(ways(given.size, given.texts, bare=given.only == "bare"), given.rounds)
    rows = "\n".join(f"| {name} | {ratio(times, name, FLOOR):.2f} x |" for name in times)
    how = (
        f"`python benchmarks/eclip.py`: {machine()}, median of {given.rounds} rounds, each way in turn in one process."
    )
    many = f"{how}\n\n| {given.texts} texts, {given.size} | time |\n|---|---|\n{rows}"
    print(many)
    if given.only == "bare":
        return
    one = one_picture(given.rounds)
    print(one)
    if given.write:
        measure.write("eclip", f"{many}\n\n{one}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
