"""The same maps judged by Quantus and by us: pixel flipping and the pointing game must agree to rounding.

Quantus (Hedstroem et al. 2023) is no dependency of ours; it gets an environment of its own:

    python -m venv /tmp/quantus
    /tmp/quantus/bin/pip install -c constraints.txt quantus torch transformers pillow safetensors jaxtyping
    PYTHONPATH=src /tmp/quantus/bin/python benchmarks/quantus.py [--scenes 16]

Both are given the same maps of `zoo/vit-scenes`: gae and random, upsampled to the picture's pixels. Where pixels of a map are
exactly equal (the border of a bilinear map), Quantus leaves their order to numpy's sort and we draw it; so a slope of 1e-6
across the picture, far below any score, makes every pixel's value its own.

Pixel flipping: black pixels, most relevant first, 16 steps to the end; Quantus gives the probability of the class after each
(it counts channels, and its steps must divide the pixels: every third of its 48 steps is one of ours). Pointing game: a hit or
a miss each picture (Quantus takes a hit where any of several largest pixels is on the object; with the slope there is one).
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.pop(0)  # this folder, where Quantus would be looked for in this very script

import numpy as np
import quantus
import torch
from torch import Tensor, nn

import regard
from regard import zoo
from regard.evaluation import Example, Perturbation, examples_of
from regard.evaluation.protocols.perturbation import counted, order_of, probabilities_of, remover, tie_seed
from regard.evaluation.protocols.segmentation import pointing

STEPS = 16
SETTING = Perturbation(
    "pixel", "black", explained="true", steps=tuple(i / STEPS for i in range(1, STEPS + 1)), auc=(0.0, 1.0)
)


class Logits(nn.Module):
    """A Hugging Face classifier as Quantus takes it: a tensor in, logits out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits."""
        return self.model(pixel_values=pixel_values).logits


def without_ties(maps: Tensor) -> Tensor:
    """Maps of largest size 1, float64, with a slope that tells equal pixels apart."""
    scaled = maps.double() / maps.abs().amax((1, 2), keepdim=True)
    return scaled + 1e-6 * torch.linspace(1, 0, scaled[0].numel(), dtype=torch.float64).view_as(scaled[0])


def ours(model: nn.Module, example: Example, scores: Tensor, c: int) -> list[float]:
    """Our probability of class c after each step."""
    removal = remover(model, example, SETTING, "pixel_values")
    order = order_of(scores.flatten(), "positive", tie_seed(0, example.name))
    counts = [counted(s, len(order)) for s in SETTING.steps]
    return probabilities_of(model, removal, order, counts)[:, c].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=16)
    count = parser.parse_args().scenes
    scenes = zoo.scenes().select(torch.arange(count))
    reader = regard.load("zoo/vit-scenes")
    examples = examples_of(reader.read(list(scenes.images)), labels=scenes.labels[:, 0], masks=scenes.masks[:, 0])
    x = torch.cat([e.reading.inputs["pixel_values"] for e in examples]).numpy()
    y, masks = scenes.labels[:, 0].numpy(), scenes.masks[:, :1].numpy()
    black = float((0 - examples[0].reading.mean[0]) / examples[0].reading.std[0])
    options = {"normalise": False, "abs": False, "disable_warnings": True}
    flipping = quantus.PixelFlipping(features_in_step=64 * 64 // STEPS, perturb_baseline=black, **options)
    game = quantus.PointingGame(**options)
    print(f"quantus {quantus.__version__}, {SETTING.name}, {count} scenes")
    for method in ("gae", "random"):
        exp = regard.explain(reader.model, {"pixel_values": torch.from_numpy(x)}, scenes.labels[:, 0], method)
        maps = without_ties(exp.image_map((64, 64)))
        a = maps[:, None].numpy()
        model = Logits(reader.model).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = np.array(flipping(model=model, x_batch=x, y_batch=y, a_batch=a, softmax=True, channel_first=True))
            theirs = theirs[:, 2::3]
            hits = np.array(
                game(model=model, x_batch=x, y_batch=y, a_batch=a, s_batch=masks, channel_first=True), float
            )
        mine = np.array([ours(reader.model, e, m, int(c)) for e, m, c in zip(examples, maps, y, strict=True)])
        mine_hits = np.array([pointing(m.flatten(), e.mask.flatten()) for e, m in zip(examples, maps, strict=True)])
        apart, wrong = np.abs(theirs - mine).max(), int((hits != mine_hits).sum())
        print(f"{method}: pixel flipping, mean {theirs.mean():.6f} and {mine.mean():.6f}, {apart:.1e} apart at most "
              f"({theirs.size} numbers); pointing {hits.mean():.4f} and {mine_hits.mean():.4f}, {wrong} differ")  # fmt: skip
        if apart > 1e-5 or wrong:
            raise SystemExit("Quantus and we do not agree")


if __name__ == "__main__":
    main()
