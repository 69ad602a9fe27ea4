"""Explanations made by hand, for what draws them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from regard.explanation.causal_test import CausalTest, Outcome
from regard.explanation.explanation import Explanation
from regard.explanation.raw_inputs import Picture, Text
from regard.explanation.receipt import Measured, Receipt

NASTY = '</script><script>alert(1)</script>"><img src=x onerror=alert(2)><!-- \u2028 {{ 7*7 }} [bold] \x1b[31m'


def receipt(batch=1, change=2.4, difference=0.0, **fields):
    values = {
        "method": "gae",
        "target": "logit of 'Bag'",
        "target_value": torch.full((batch,), 3.2),
        "baseline": "zero",
        "site": "attention, all calls",
        "readout": "cls_token",
        "attribution_sum": torch.full((batch,), 2.3),
        "decomposes": False,
        "complete": True,
        "predicted": torch.zeros(batch, dtype=torch.long),
        "explained": torch.zeros(batch, dtype=torch.long),
        "passes": 4,
        "seconds": 0.12,
        "versions": {"regard": "0.1.0"},
        "seed": 0,
    }
    there = None if change is None else torch.full((batch,), float(change))
    measured = Measured(difference, None if there is None else 3.2 - there, there, 2)
    return Receipt(**(values | fields), _measured=measured)


def causal_test(change: float = 2.0, label: str = "Bag", **fields: Any) -> CausalTest:
    """A causal test of the map of `picture`."""
    drops = tuple(-0.2 + i / 49 for i in range(49))
    as_far = sum(d >= change for d in drops)
    outcome = Outcome(3.2 - change, change, 0.3, as_far, (1 + as_far) / 50, 0.1, drops)
    about = {"stream": "pixel_values", "unit": "patch", "units": 16, "share": 0.1, "k": 2, "random": 49, "value": 3.2}
    more = {"probability": 0.9, "number": "logit", "label": label, "removal": "left out of attention", "passes": 54}
    return CausalTest(**(about | more | {"highest": outcome} | fields))


def oklab(rgb):
    """sRGB (..., 3) of 0..255 as OKLab."""
    c = np.asarray(rgb, dtype=float) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_lms = np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]])
    to_lab = np.array([[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]])
    return np.cbrt(linear @ to_lms.T) @ to_lab.T


def scene(width=60, height=40):
    y, x = np.mgrid[:height, :width]
    return torch.from_numpy(np.stack([x * 4, y * 6, 255 - x * 4], -1).clip(0, 255).astype(np.uint8))


def picture(scores=None, grid=(4, 4), box=(10.0, 0.0, 50.0, 40.0), name="scene.png", **fields):
    scores = torch.linspace(0, 1, grid[0] * grid[1])[None] if scores is None else scores
    values = {
        "method": "gae",
        "target": "logit of 'Bag'",
        "scores": {"pixel_values": scores, "cls_token": torch.full((len(scores), 1), 0.12)},
        "receipt": receipt(len(scores)),
        "grid": {"pixel_values": grid},
        "inputs": {"pixel_values": [Picture(scene(), box, name) for _ in scores]},
        "labels": ["Bag", "Shirt"],
    }
    return Explanation(**(values | fields))


def sentence(text="It isn't good, unforgivably dull.", scores=None, name="review.txt", **fields):
    spans = [m.span() for m in re.finditer(r"\w{1,6}|[^\w\s]", text)]
    tokens = ["[CLS]", *(text[a:b] for a, b in spans), "[SEP]"]
    words = [m.span() for m in re.finditer(r"\w+(?:'\w+)?", text)]
    special = [True, *[False] * len(spans), True]
    raw = Text(text, tokens, [(0, 0), *spans, (0, 0)], words, special, name)
    row = torch.linspace(-1, 1, len(tokens))[None] if scores is None else scores
    values = {
        "method": "gae",
        "target": "logit of 'positive'",
        "scores": {"input_ids": row},
        "receipt": receipt(),
        "inputs": {"input_ids": [raw]},
        "labels": ["positive", "negative"],
        "signed": True,
    }
    return Explanation(**(values | fields))


def bare(**fields):
    scores = {"input": torch.linspace(-1, 1, 12)[None], "boxes": torch.rand(1, 6)}
    values = {"method": "ig", "target": "y", "scores": scores, "receipt": receipt(), "grid": {"boxes": (2, 3)}}
    return Explanation(**(values | fields))
