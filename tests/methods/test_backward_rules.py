"""Rules of the backward pass against literal twins (support/rules_twin.py), in double precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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
FURTHER = (
    "roberta", "albert", "electra", "distilbert", "eurobert", "gpt-neox", "gpt-j", "opt", "phi", "phi3", "glm4", "cohere2",
    "mt5", "gemma2", "qwen2", "olmo2", "granite", "exaone4", "minicpm3", "mbart", "pegasus", "marian", "encoder-decoder",
    "deit", "beit", "dinov2", "segformer", "aimv2", "pixtral-vision", "vivit", "videomae",
)  # fmt: skip
GUARDED = {"gemma2": 1e-7}
"""A soft cap's guard of 1e-10 is beside scores here, and beside scores over the cap in the twin."""
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
    "name", [pytest.param(n, marks=[] if n in SHORT else [pytest.mark.long]) for n in (*LACKED, *COMMON, *FURTHER)]
)
def test_families_equal_their_literal_twins(name: str, rules: str) -> None:
    family = FAMILIES[name]
    inputs: Mapping[str, Tensor] = rules_twin.doubled(family.inputs)
    with rules_twin.in_double():
        model = family.build().double()
        y, twins = rules_twin.gradients(model, inputs, family.target, rules_twin.RULES[rules])
        for kernel, experts in (("eager", "eager"), ("sdpa", "batched_mm")):
            if kernel == "sdpa" and not model._supports_sdpa:
                continue
            model.set_attn_implementation(kernel)
            if name in MIXTURES:
                model.set_experts_implementation(experts)
            found, ours, _ = ruled(model, dict(inputs), family.target, rules_of(rules))
            assert torch.allclose(found, y, rtol=1e-9, atol=1e-9)
            assert_same(ours, twins, GUARDED.get(name, 1e-9))


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
            under = PLAIN_UNDER.get((name, rules), set())
            assert under <= told <= PLAIN_ONES.get(name, set()) | under, rules
            assert told or rules == "plain" or name not in PLAIN_ONES


PLAIN_ONES = {
    "its weight is the input's": {"layer_norm"},
    "a length that divides another": {"norm", "div"},
    "as long as another": {"norm"},
}
"""Operations of no kind among what is written by hand."""
PLAIN_UNDER = {("gate: partly a gate", "cp_lrp"): {"mul"}}
"""Those that are of no kind under one rule set alone."""


# -- the γ rule -------------------------------------------------------------------------------------------------------


def favoured(f: Callable[[Tensor], Tensor], x: Tensor, g: Tensor, gamma: float) -> Tensor:
    """The γ rule at x of a linear map with a bias, f of one sample, input by input and output by output."""
    size, out = x.numel(), torch.zeros(x.numel(), dtype=x.dtype)
    base = f(torch.zeros_like(x)).flatten()
    columns = [f(torch.eye(size, dtype=x.dtype)[i].view_as(x)).flatten() - base for i in range(size)]
    z, own = f(x).flatten(), x.flatten()
    for j, (total, bias, at) in enumerate(zip(z.tolist(), base.tolist(), g.flatten().tolist(), strict=True)):
        parts = [float(own[i] * columns[i][j]) for i in range(size)] + [bias]
        sign = 1 if total > 0 else -1
        more = [p + gamma * sign * max(sign * p, 0.0) for p in parts]
        for i in range(size):
            out[i] += at * total * more[i] / sum(more) / float(own[i])
    return out.view_as(x)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


LINEARS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "F.linear": ((3, 4), lambda x: F.linear(x, drawn(5, 4), drawn(5))),
    "without a bias": ((3, 4), lambda x: F.linear(x, drawn(5, 4))),
    "matmul": ((3, 4), lambda x: x @ drawn(4, 5)),
    "from the left": ((3, 4), lambda x: drawn(5, 3) @ x),
    "addmm": ((3, 4), lambda x: torch.addmm(drawn(5), x[0], drawn(4, 5))[None]),
    "bmm": ((3, 4), lambda x: torch.bmm(x, drawn(1, 4, 5))),
    "baddbmm": ((3, 4), lambda x: torch.baddbmm(drawn(1, 3, 5), x, drawn(1, 4, 5), alpha=0.5)),
    "einsum": ((3, 4), lambda x: torch.einsum("bnd,ed->bne", x, drawn(5, 4))),
    "conv1d": ((3, 6), lambda x: F.conv1d(x, drawn(4, 3, 3), drawn(4), padding=1)),
    "grouped": ((4, 6), lambda x: F.conv1d(x, drawn(4, 2, 3), drawn(4), stride=2, dilation=2, groups=2)),
    "conv2d": ((2, 4, 4), lambda x: F.conv2d(x, drawn(3, 2, 3, 3), drawn(3), padding="same")),
    "patches": ((2, 4, 4), lambda x: F.conv2d(x, drawn(3, 2, 2, 2), drawn(3), stride=2)),
    "transposed": ((2, 3, 3), lambda x: F.conv_transpose2d(x, drawn(2, 3, 2, 2), drawn(3), stride=2)),
}  # fmt: skip


class Mapped(nn.Module):
    """A linear map, and a sum with weights."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out = self.function(x)
        return (out * drawn(*out.shape)).flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("name", LINEARS)
def test_gamma_equals_a_loop_over_inputs_and_outputs(name: str) -> None:
    shape, function = LINEARS[name]
    x = drawn(1, *shape)
    weights = drawn(*function(x).shape)
    for gamma in (0.0, 0.25, 3.0):
        rules = rule_set("attnlrp", gamma=gamma)
        _, (ours,), recording = ruled(Mapped(function).eval(), x, lambda out: out[:, 0], rules, maps=False)
        assert recording.plain == []
        assert_same([ours], [favoured(function, x, weights, gamma)], 1e-8)  # of 1e-10 beside the divisor


def test_gamma_names_a_linear_map_whose_bias_depends_on_the_input() -> None:
    x = drawn(1, 3, 4)
    model = Mapped(lambda x: torch.addmm(x[0], x[0], drawn(4, 4))[None]).eval()
    _, _, recording = ruled(model, x, lambda out: out[:, 0], rule_set("attnlrp", gamma=0.25), maps=False)
    assert [operation for operation, _ in recording.plain] == ["addmm"]
