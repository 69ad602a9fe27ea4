"""Whole small models in the styles of other people agree with their literal twins, method by method, and `verify` passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import regard
from support import styles, styles_of_sets
from support import styles_twin as twins
from support.tiny import ids, noise, strong

TOLERANCE = 1e-5
METHODS = ["raw_attention", "rollout", "attention_grad_cam", "gae", "gradient", "input_x_gradient"]
SIGNS = ("positive", "negative", "absolute", "signed")
PADDED = torch.tensor([[3, 4, 5, 6, 7], [8, 2, 9, 0, 0]])


class Style(NamedTuple):
    """A model, its twin, its inputs, and what is explained of its output; what `verify` cannot test of it."""

    make: Callable[[], nn.Module]
    twin: Callable[..., twins.Made]
    inputs: Callable[[], dict[str, Tensor]]
    target: Callable[[Tensor], Tensor] = lambda out: out[:, 1]
    untested: str = ""


def floats(*shape: int) -> Tensor:
    return noise(*shape).double()


STYLES = {
    "a Flax port": Style(styles.FlaxEncoder, twins.flax, lambda: {"ids": PADDED}),
    "x-transformers": Style(styles.XTransformer, twins.x_transformer, lambda: {"x": floats(2, 4, 5)},
                            untested="mixed after the softmax"),
    "a course's GPT": Style(styles.CourseGPT, twins.course, lambda: {"idx": ids(2, 5, high=12)}),
    "annotated": Style(styles.EncoderDecoder, twins.annotated, lambda: {"src": PADDED, "tgt": ids(2, 4, high=12)}),
    "Llama's reference": Style(styles.LlamaReference, twins.llama, lambda: {"tokens": ids(3, 5, high=12)}),
    "Perceiver IO": Style(styles_of_sets.PerceiverIO, twins.perceiver, lambda: {"data": floats(3, 6, 5)}),
    "Set Transformer": Style(styles_of_sets.SetTransformer, twins.set_transformer, lambda: {"X": floats(2, 6, 5)}),
    "Graphormer": Style(styles_of_sets.Graphormer, twins.graphormer, lambda: {
        "x": floats(2, 5, 5), "distance": torch.tensor([4, 1, 3, 5, 0, 1, 2] * 8)[:50].view(2, 5, 5)}),
    "TimeSformer": Style(styles_of_sets.TimeSformer, twins.timesformer, lambda: {"x": floats(2, 3, 2, 4, 4)}),
    "MAE": Style(styles_of_sets.MAE, twins.mae, lambda: {"imgs": floats(2, 3, 6, 6)}, lambda out: out[:, 4, 2]),
}  # fmt: skip


class Both(NamedTuple):
    model: nn.Module
    inputs: dict[str, Tensor]
    scores: dict[str, dict[str, Tensor]]


@cache
def both(name: str) -> Both:
    """The model, its inputs, and its twin's maps; the twin is the same function."""
    style = STYLES[name]
    torch.manual_seed(0)
    model, given = strong(style.make(), 0.6).double(), style.inputs()
    weights = {n: t.double() for n, t in model.state_dict().items()}
    _, out, maps = style.twin(weights, *given.values())
    torch.testing.assert_close(out, model(**given), atol=1e-10, rtol=1e-10)
    return Both(model, given, maps(style.target(out)))


def largest(scores: dict[str, Tensor]) -> float:
    return max(float(t.abs().max()) for t in scores.values())


def agree(name: str, method: str, found: dict[str, Tensor], **how: Any) -> None:
    """On the scale of the whole map; a signed one cancels, and is held on the scale of the absolute one."""
    expected = both(name).scores[method]
    scale = largest(both(name).scores["corrected_attention absolute"] if "signed" in method else expected)
    assert scale > 1e-4 or method == "attention_grad_cam"  # nothing positive, or no keys of an input
    zero = torch.zeros(())
    for stream in {*found, *expected}:
        off = float((found.get(stream, zero).double() - expected.get(stream, zero)).abs().max())
        assert off <= TOLERANCE * scale, f"{method} of {stream} is off by {off:.2g} of {scale:.2g}"


@pytest.mark.parametrize("name", STYLES)
def test_maps_are_those_of_the_literal_twin(name: str) -> None:
    model, given, _ = both(name)
    options: dict[str, Any] = {"form": "walk"} if len(given) > 1 else {}
    found = regard.explain(model, given, STYLES[name].target, METHODS, **options)
    assert found[0].receipt.faithful <= TOLERANCE
    for exp in found:
        agree(name, exp.method, exp.scores)
    for sign in SIGNS:
        exp = regard.explain(model, given, STYLES[name].target, "corrected_attention", sign=sign)
        agree(name, f"corrected_attention {sign}", exp.scores)


@pytest.mark.parametrize("name", STYLES)
def test_nothing_is_contradicted(name: str) -> None:
    model, given, _ = both(name)
    proof = regard.verify(model, given)
    assert proof.contradictions == []
    assert proof.claims > 0
    why = STYLES[name].untested
    assert [u for u in proof.untested if not why or why not in u] == []
    assert bool(proof.untested) == bool(why)
