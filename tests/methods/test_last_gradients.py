"""Methods that ask for the last attentions' gradients alone: the gradient goes no further down, and gives what it gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.errors import ModelError
from regard.recording import record
from support import families
from support.dual_encoders import of_clip, of_vit
from support.every_method import QUICK, assert_close, case_of, explain, quick, size

ENDS = ["raw_attention", "rollout", "alpha_max", "attention_grad_cam", "attention_eclip", "grad_eclip"]


def same(model: nn.Module, given: Any, target: Any, method: str, **options: Any) -> None:
    """By itself and beside a method that takes the whole gradient."""
    alone = regard.explain(model, given, target, method, **options)
    beside = regard.explain(model, given, target, ["gae", method], **options)[1]
    assert alone.receipt.readout == beside.receipt.readout
    assert_close(alone.scores, beside.scores, 1e-6, scale=size(beside.scores))


@pytest.mark.parametrize("method", ENDS)
@pytest.mark.parametrize("name", quick(families.CASES, {*QUICK, "t5", "lxmert", "swin"}))
def test_same_as_beside_the_whole_gradient(name: str, method: str) -> None:
    case = case_of(name)
    try:
        alone = explain(case, method)
    except regard.errors.RegardError as error:
        with pytest.raises(type(error)):
            explain(case, ["gae", method])
        return
    beside = explain(case, ["gae", method])[1]
    assert alone.receipt.readout == beside.receipt.readout
    assert_close(alone.scores, beside.scores, 1e-6, scale=size(beside.scores))


@pytest.mark.parametrize("options", [{"layers": 2}, {"layers": 3, "loosening": "none"}, {"qk": "projected"}])
def test_eclip_in_several_layers(options: dict[str, Any]) -> None:
    case = of_clip()
    alone, beside = (regard.explain(case.model, case.inputs, case.y, m, **options) for m in (
        "attention_eclip", ["gae", "attention_eclip"]))  # fmt: skip
    assert_close(alone.scores, beside[1].scores, 1e-6, scale=size(beside[1].scores))


class Wall(torch.autograd.Function):
    """Lets no gradient pass."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, _g: Tensor) -> Tensor:
        raise RuntimeError("a gradient went below the last attention")


def walled(block: nn.Module) -> None:
    """What a block gives back is behind a wall."""
    block.register_forward_hook(
        lambda _m, _a, out: Wall.apply(out) if isinstance(out, Tensor) else (Wall.apply(out[0]), *out[1:])
    )


@pytest.mark.parametrize("method", ENDS)
def test_no_gradient_below_the_last_attention(method: str) -> None:
    case = of_vit()
    one = {k: v[:1] for k, v in case.inputs.items()}  # of several samples it is asked whether they read one another
    walled(case.model.vit.layers[-2])
    regard.explain(case.model, one, case.y, method)
    with pytest.raises(ModelError, match="went below"):
        regard.explain(case.model, one, case.y, "gae")


def test_layers_that_are_asked_for_are_reached_and_no_others() -> None:
    case = of_vit()
    one = {k: v[:1] for k, v in case.inputs.items()}
    walled(case.model.vit.layers[-3])
    regard.explain(case.model, one, case.y, "attention_eclip", layers=2)
    with pytest.raises(ModelError, match="went below"):
        regard.explain(case.model, one, case.y, "attention_eclip", layers=3)


def test_of_one_tower_alone_the_other_is_not_waited_for() -> None:
    case = of_clip()
    same(case.model, case.inputs, lambda out: out.image_embeds[:, 0], "attention_eclip")
    same(case.model, case.inputs, lambda out: out.text_embeds[:, 0], "raw_attention")


def test_a_target_of_an_earlier_layer() -> None:
    """The last attention is not the last for this target, which the whole gradient tells."""
    case = of_vit()
    given = case.inputs | {"output_hidden_states": True}
    same(case.model, given, lambda out: out.hidden_states[1][:, 0].sum(1), "attention_eclip")


def test_several_targets_share_the_run() -> None:
    case = of_clip()
    targets = [lambda out: out.logits_per_image.diagonal(), lambda out: out.logits_per_image[:, 0]]
    both = regard.explain(case.model, case.inputs, targets[:1] * 2, "attention_eclip")
    assert_close(both[0].scores, both[1].scores, 0.0)


def test_gradients_of_some_calls_alone() -> None:
    case = of_vit()
    recording = record(case.model, case.inputs)
    y = case.y(recording.output)
    every = recording.gradients(y, keep=True)
    some = recording.gradients(y, keep=True, inputs=False, calls=[1])
    assert [c.dO is None for c in some.calls] == [True, False, True]
    torch.testing.assert_close(some.calls[1].dO, every.calls[1].dO, rtol=0, atol=0)
    late = recording.gradients_later(y, last=True)
    assert [c.dO is None for c in late.calls] == [True, True, False]
    torch.testing.assert_close(late.bound([0])[0].dO, every.calls[0].dO, rtol=0, atol=0)
    torch.testing.assert_close(late.inputs["pixel_values"], every.inputs["pixel_values"], rtol=0, atol=0)
