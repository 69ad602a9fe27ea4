"""A model changed in a way that must not matter (precision, device, wrapper): its maps beside those of the plain one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from support import families
from support.families import Case

transformers = pytest.importorskip("transformers")

METHODS = ["gae", "rollout", "raw_attention", "attention_grad_cam", "corrected_attention", "input_x_gradient"]


def clip() -> Case:
    """A picture and a text tower; the cosine of each picture with its text."""
    text = {**families.SMALL, **families.TEXT, "bos_token_id": 0, "eos_token_id": 39, "pad_token_id": 1}
    vision = {**families.SMALL, **families.IMAGE}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    torch.manual_seed(4)  # `strong` leaves the class embedding, a vector, as it is drawn
    ids = families.ids(2, 6, high=38)
    ids[:, -1] = 39
    one = ("pixel_values",)
    return Case(
        families.strong(transformers.CLIPModel(config)),
        {"input_ids": ids, "pixel_values": families.noise(2, 3, 16, 16)},
        lambda out: out["logits_per_image"].diagonal(),
        [("class_embedding", 1), ("pixel_values", 16), ("input_ids", 6)],
        families.alone(one, 2),
        one,
        None,
    )


FAMILIES: dict[str, Callable[[], Case]] = {
    **{name: families.CASES[name] for name in ("vit", "bert", "llama", "t5")},
    "clip": clip,
}

each_family = pytest.mark.parametrize("name", FAMILIES)


def explain(case: Case, model: nn.Module | None = None, inputs: Any = None, **options: Any) -> list[regard.Explanation]:
    model, inputs = case.model if model is None else model, case.inputs if inputs is None else inputs
    return regard.explain(model, inputs, case.target, **{"method": METHODS, "measure": "full"} | options)


def assert_same(found: list[regard.Explanation], expected: list[regard.Explanation], within: float = 1e-5) -> None:
    """Map by map, each within a share of its largest score."""
    for f, e in zip(found, expected, strict=True):
        assert f.scores.keys() == e.scores.keys()
        largest = max(float(s.abs().max()) for s in e.scores.values())
        assert largest > 0
        for stream, scores in e.scores.items():
            gap = float((f.scores[stream].cpu() - scores.cpu()).abs().max())
            assert gap <= within * largest, f"{f.method}, {stream}: {gap / largest:.2g} of the largest score"


def cast(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def hooks(model: nn.Module) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


# -- checkpointing ----------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Stack(nn.Module):
    """Blocks, each run by `how`."""

    def __init__(self, how: Callable[[nn.Module, Tensor], Tensor] = lambda block, x: block(x)) -> None:
        super().__init__()
        self.how, self.cls_token = how, nn.Parameter(torch.randn(1, 1, 8))
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.stem(x)], 1)
        for layer in self.layers:
            x = self.how(layer, x)
        return self.head(x[:, 0])


X = families.noise(2, 5, 8)


def stacked(**more: Any) -> list[regard.Explanation]:
    return regard.explain(families.strong(Stack(**more)), X, 1, METHODS, measure="full")


# -- quantised --------------------------------------------------------------------------------------------------------


def linears(model: nn.Module, change: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """A copy whose linear layers are changed."""
    model = copy.deepcopy(model)
    for path, module in [*model.named_modules()]:
        if type(module) is nn.Linear and module.bias is not None:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, change(module))
    return model.eval()
