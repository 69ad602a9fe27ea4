"""What cannot be explained is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.attribution.table import METHODS
from regard.errors import ModelError, NonFinite, TargetError, UnknownName
from support import families
from support.every_method import assert_close, case_of, explain

torch.set_num_threads(1)


def test_train_mode_is_refused() -> None:
    case = families.vit()
    case.model.vit.train()
    with pytest.raises(ModelError, match=r"train mode.*eval\(\)"):
        explain(case)
    assert case.model.vit.training
    assert isinstance(explain(case, training=True), regard.Explanation)


def test_a_model_without_attention_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with pytest.raises(ModelError, match="no attention"):
        regard.explain(model, torch.randn(2, 4))


def test_flash_attention_out_of_sight_names_the_remedy() -> None:
    class Flash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = SimpleNamespace(_attn_implementation="flash_attention_2")
            self.linear = nn.Linear(4, 2)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.linear(input_ids)

    with pytest.raises(ModelError, match=r"set_attn_implementation\(\"sdpa\"\)"):
        regard.explain(Flash().eval(), {"input_ids": torch.randn(2, 4)})


def test_a_traced_module_is_refused() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x)[:, 0]

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Plain().eval(), torch.randn(2, 3, 4))
    with pytest.raises(ModelError, match="traced"):
        regard.explain(traced, torch.randn(2, 3, 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers(bad: float) -> None:
    case = families.bert()
    with torch.no_grad():
        case.model.classifier.bias.fill_(bad)
    with pytest.raises(NonFinite, match="not a finite number"):
        explain(case)


def test_inference_mode_is_refused() -> None:
    case = case_of("bert")
    with torch.inference_mode(), pytest.raises(ModelError, match="inference_mode"):
        explain(case)


def test_inputs_made_in_inference_mode_are_taken() -> None:
    case = case_of("vit")
    with torch.inference_mode():
        made = {k: v.clone() for k, v in case.inputs.items()}
    assert_close(explain(case, inputs=made).scores, explain(case).scores, 0.0)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"method": "gea"}, UnknownName, "gae"),
        ({"method": "gae", "sgn": 1}, UnknownName, "option"),
        ({"method": "corrected_attention", "sign": "positiv"}, UnknownName, "positive"),
        ({"method": "gradient", "reduce": "max"}, UnknownName, "reduce"),
        ({"readout": "clss"}, UnknownName, "cls"),
        ({"readout": 99}, regard.RegardError, "out of range"),
        ({"readout": torch.ones(3)}, regard.RegardError, "weights"),
        ({"measure": "later"}, UnknownName, "lazy"),
        ({"target": 99}, TargetError, "out of range"),
        ({"target": torch.tensor([0, 1, 2])}, TargetError, "one class per sample"),
        ({"target": lambda out: out["logits"]}, TargetError, "one number per sample"),
        ({"target": "cat"}, regard.RegardError, "label"),
        ({"target": regard.Target.logit(0, output="scores")}, TargetError, "logits"),
        ({"method": []}, regard.RegardError, "empty"),
    ],
)
def test_wrong_words_are_answered_clearly(options: dict[str, Any], error: type, says: str) -> None:
    with pytest.raises(error, match=says) as raised:
        explain(case_of("bert"), **options)
    assert isinstance(raised.value, regard.RegardError)
    assert "\n" not in str(raised.value)


def test_a_target_that_does_not_depend_on_attention() -> None:
    case = case_of("bert")
    with pytest.raises(ModelError):
        explain(case, target=lambda out: out["logits"].detach()[:, 0])
    with pytest.raises(ModelError):
        explain(case, target=lambda out: out["logits"][:, 0] * 0)


def test_a_model_under_its_own_no_grad_is_refused() -> None:
    class Closed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        @torch.no_grad()
        def forward(self, input_ids: Tensor) -> Tensor:
            return self.inner(input_ids=input_ids).logits

    with pytest.raises(ModelError, match="no_grad"):
        regard.explain(Closed(case_of("bert").model).eval(), {"input_ids": families.ids(2, 5)}, 0)


def test_register_refuses_a_taken_name_and_an_unknown_field() -> None:
    with pytest.raises(regard.RegardError, match="exists already"):
        regard.register("gae", lambda context: context.r)
    with pytest.raises(UnknownName):
        regard.register("brand_new", lambda context: context.r, papre="x")
    assert "brand_new" not in METHODS


def test_a_registered_method_is_used(method: Callable[..., str]) -> None:
    name = method(lambda context, power=1.0: context.tokens()[None] * power + context.recording.zeros())
    exp = explain(case_of("bert"), name, power=3.0)
    assert torch.equal(exp.scores["input_ids"], torch.where(case_of("bert").hidden["input_ids"], 0.0, 3.0))
