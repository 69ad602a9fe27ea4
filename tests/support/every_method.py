"""Every method and variant on every family, run once and shared."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from support import families

torch.set_num_threads(1)

NAMES = [m.name for m in regard.methods() if not m.only_of]

FEW = {"steps": 3, "samples": 2}
"""Points of a path and draws of noise: what holds here does not rest on their number."""

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in NAMES],
    *[("corrected_attention", {"sign": s}) for s in ("negative", "absolute", "signed")],
    *[("gradient", {"reduce": r}) for r in ("l1", "l2")],
]

PATHS = ("integrated_gradients", "revised_ig", "bti_token", "bti_head", "transition_attention")
"""A point of the path close to zero before a normalisation enlarges rounding; in double precision all is closer, see below."""

FREE = [n for n in families.CASES if not n.startswith("fours")]
"""Families whose batch size is free (the hand-written ones are 4 × 4 × 4 × 4)."""

QUICK = {
    "vit",
    "bert",
    "llama",
    "torch_encoder_sequence_first",
    "fours_bmm",
}
"""What `make test` runs of the long lists; `make test-all` runs all."""

PADDED = ["bert", "roberta", "distilbert", "gpt2", "gpt2_left", "llama", "t5", "t5_encoder", "lxmert", "vilt"]


def quick(names: Iterable[str], kept: Container[str] = QUICK) -> list[Any]:
    """All names, those that are not kept (QUICK) marked long."""
    return [n if n in kept else pytest.param(n, marks=pytest.mark.long) for n in names]


@functools.cache
def case_of(name: str) -> families.Case:
    return families.CASES[name]()


def explain(case: families.Case, method: Any = "gae", inputs: Any = None, target: Any = None, **options: Any) -> Any:
    torch.manual_seed(0)
    given = case.inputs if inputs is None else inputs
    return regard.explain(case.model, given, case.target if target is None else target, method, **options)


def every(case: families.Case, inputs: Any = None) -> dict[str, dict[str, Tensor]]:
    """All methods and variants: label -> scores by stream."""
    out = dict(zip(NAMES, (e.scores for e in explain(case, NAMES, inputs, **FEW)), strict=True))
    for method, options in VARIANTS[len(NAMES) :]:
        out[f"{method} {next(iter(options.values()))}"] = explain(case, method, inputs, **options).scores
    return out


@functools.cache
def every_of(name: str) -> dict[str, dict[str, Tensor]]:
    return every(case_of(name))


def size(scores: dict[str, Tensor]) -> float:
    return max(float(s.abs().max()) for s in scores.values())


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, scale: float = 0.0) -> None:
    assert set(found) == set(expected)
    scale = max(scale, size(expected))
    for name, e in expected.items():
        assert float((found[name] - e).abs().max()) <= tolerance * scale, name


# -- how the user calls it --------------------------------------------------------------------------------------------

CORE = ["vit", "bert", "gpt2", "llama", "t5", "lxmert", "swin", "torch_encoder", "fours_bmm"]
