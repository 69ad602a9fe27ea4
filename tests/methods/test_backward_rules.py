"""Rules of the backward pass against literal twins (support/rules_twin.py), in double precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from regard.attribution.backward import rule_set
from regard.recording import record
from regard.recording.backward import RuleSet

pytest.importorskip("transformers")
from support import rules_twin
from support.rules_models import WIDTH, WRITTEN, Layer
from support.sweep import FAMILIES
from support.tiny import noise

PLAIN = RuleSet("plain", attention="plain", norm=False, activation=False, product=False)
SETS = ("plain", "attnlrp", "cp_lrp", "gim")
LACKED = ("mixtral", "deepseek-v3", "t5", "bart", "vit", "siglip", "swin", "whisper", "llava")
COMMON = ("llama", "qwen3", "gemma3", "bert", "gpt2")
MIXTURES = ("mixtral", "deepseek-v3")
SHORT = {"llama", "deepseek-v3", "t5", "vit", "bert"}


def rules_of(name: str) -> RuleSet:
    return PLAIN if name == "plain" else rule_set(name)


def ruled(
    model: nn.Module, inputs: Any, target: Callable[[Any], Tensor], rules: RuleSet, **how: Any
) -> tuple[Tensor, list[Tensor], Any]:
    """y and its gradients at the places where inputs enter, pictures and the like first, as the library has them."""
    recording = record(model, inputs, rules=rules, strict=False, **how)
    y = target(recording.output)
    found = recording.gradients(y).inputs
    names = sorted(found, key=lambda name: name in recording.embedded)
    return y.detach(), [found[name] for name in names], recording


def assert_same(ours: list[Tensor], twins: list[Tensor], tolerance: float = 1e-9) -> None:
    assert len(ours) == len(twins)
    size = max(float(t.abs().max()) for t in twins)
    assert size > 0
    for a, b in zip(ours, twins, strict=True):
        assert a.dtype == torch.float64
        assert float((a - b).abs().max()) <= tolerance * size


@pytest.mark.parametrize("rules", SETS)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in SHORT else [pytest.mark.long]) for n in (*LACKED, *COMMON)]
)
def test_families_equal_their_literal_twins(name: str, rules: str) -> None:
    family = FAMILIES[name]
    inputs: Mapping[str, Tensor] = rules_twin.doubled(family.inputs)
    with rules_twin.in_double():
        model = family.build().double()
        y, twins = rules_twin.gradients(model, inputs, family.target, rules_twin.RULES[rules])
        for kernel, experts in (("eager", "eager"), ("sdpa", "batched_mm")):
            model.set_attn_implementation(kernel)
            if name in MIXTURES:
                model.set_experts_implementation(experts)
            found, ours, _ = ruled(model, dict(inputs), family.target, rules_of(rules))
            assert torch.allclose(found, y, rtol=1e-9, atol=1e-9)
            assert_same(ours, twins)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_by_hand_equals_what_it_is(name: str) -> None:
    written, literal = WRITTEN[name]
    torch.manual_seed(0)
    x = noise(2, 3, WIDTH).double()
    with rules_twin.in_double():
        model = Layer(written).double().eval()
        model(x)
        for rules in SETS:
            twin = Layer(literal, rules_twin.RULES[rules]).double().eval()
            twin(x)
            twin.load_state_dict(model.state_dict())
            leaf = x.clone().requires_grad_()
            y = twin(leaf)[:, 0]
            found, ours, recording = ruled(model, x, lambda out: out[:, 0], rules_of(rules), maps=False)
            assert torch.allclose(found, y, rtol=1e-9, atol=1e-9)
            assert_same(ours, [*torch.autograd.grad(y.sum(), leaf)])
            assert torch.equal(recording.output, model(x))
            told = {operation for operation, _ in recording.plain}
            assert told == PLAIN_ONES.get(name, set()), rules


PLAIN_ONES = {"a length that divides another": {"norm", "div"}, "as long as another": {"norm"}}
"""Operations of no kind among what is written by hand."""
