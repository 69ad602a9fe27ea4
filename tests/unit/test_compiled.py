"""Models that are checkpointed, compiled, traced or exported, and models with adapters or quantised weights.

Each is explained as the plain model is, or refused by one sentence that says what to do.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import regard
from regard.errors import ModelError
from support import families
from support.alike import FAMILIES, METHODS, Stack, X, assert_same, clip, each_family, explain, hooks, linears, stacked

transformers = pytest.importorskip("transformers")

# -- checkpointing ----------------------------------------------------------------------------------------------------


@each_family
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_gradient_checkpointing(name: str) -> None:
    """Transformers skips it in eval mode."""
    case = FAMILIES[name]()
    expected = explain(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case.model.gradient_checkpointing_enable()
        assert_same(explain(case), expected, 0.0)


def test_checkpoints_of_a_model_s_own() -> None:
    """Recomputed blocks keep their graph; reentrant ones hide it, and torch refuses gradients at what is inside."""
    again = stacked(how=lambda block, x: checkpoint(block, x, use_reentrant=False))
    assert_same(again, stacked(), 0.0)
    reentrant = families.strong(Stack(how=lambda block, x: checkpoint(block, x, use_reentrant=True)))
    with pytest.raises(ModelError, match=r"attention calls 0, 1 ran inside .* use_reentrant=True.*use_reentrant=False"):
        regard.explain(reentrant, X, 1)
    assert not any(hooks(reentrant))


# -- compiled, traced, exported ---------------------------------------------------------------------------------------


def counting() -> tuple[Callable[..., Any], list[int]]:
    """A backend for torch.compile that counts the runs of what it compiled."""
    runs: list[int] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            runs.append(1)
            return graph.forward(*args)

        return run

    return backend, runs


def whole(model: nn.Module, backend: Any) -> nn.Module:
    return torch.compile(model, backend=backend)


def in_place(model: nn.Module, backend: Any) -> nn.Module:
    model.compile(backend=backend)
    return model


def largest(model: nn.Module) -> str:
    """The child with the most parameters."""
    return max(model.named_children(), key=lambda c: sum(p.numel() for p in c[1].parameters()))[0]


def a_part(model: nn.Module, backend: Any) -> nn.Module:
    name = largest(model)
    part = model.get_submodule(name)
    setattr(model, name, torch.compile(part, backend=backend))
    return model


def a_part_in_place(model: nn.Module, backend: Any) -> nn.Module:
    model.get_submodule(largest(model)).compile(backend=backend)
    return model


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What dynamo compiled is forgotten before and after."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((n, whole) for n in ("vit", "bert")),
        *((n, h) for n in ("vit", "bert") for h in (in_place, a_part, a_part_in_place)),
        *(pytest.param(n, whole, marks=pytest.mark.long) for n in FAMILIES if n not in ("vit", "bert")),
    ],
)
def test_compiled_models_run_uncompiled_and_are_compared_as_compiled(name: str, how: Callable[..., nn.Module]) -> None:
    case = FAMILIES[name]()
    expected = explain(case, measure="lazy")
    backend, runs = counting()
    found = explain(case, how(case.model, backend), measure="lazy")
    assert runs == []
    assert_same(found, expected, 1e-6)
    assert found[0].receipt.faithful <= 1e-6
    assert runs


@pytest.mark.usefixtures("forgotten")
def test_runs_in_two_threads_leave_compiled_models_compiled() -> None:
    """Whether compiled code runs is one setting for all threads; runs that overlap set it back when the last one ends."""
    backend, runs = counting()
    compiled = torch.compile(families.strong(Stack()), backend=backend)
    begun, both, ended = (threading.Event() for _ in range(3))

    def first(block: nn.Module, x: Tensor) -> Tensor:
        begun.set()
        assert both.wait(30)
        return block(x)

    def second(block: nn.Module, x: Tensor) -> Tensor:
        both.set()
        assert ended.wait(30)
        return block(x)

    thread = threading.Thread(target=lambda: regard.record(families.strong(Stack(how=second)), X, 1))
    other = threading.Thread(target=lambda: (regard.record(families.strong(Stack(how=first)), X, 1), ended.set()))
    other.start()
    assert begun.wait(30)
    thread.start()
    thread.join()
    other.join()
    compiled(X)
    assert runs


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("part", [False, True])
def test_compiled_by_aot_eager(part: bool) -> None:
    """Compiled layers of a list keep their place in `blocks`."""
    model = families.strong(Stack())
    if part:
        model.layers[1] = torch.compile(model.layers[1], backend="aot_eager")
    else:
        model = torch.compile(model, backend="aot_eager")
    found = regard.explain(model, X, 1, METHODS, measure="full")
    assert_same(found, stacked(), 1e-6)
    assert [b.calls for b in regard.inspect(model, X).blocks] == [[0], [1]]


@pytest.mark.long
@pytest.mark.usefixtures("forgotten")
@pytest.mark.filterwarnings("ignore")
def test_compiled_by_inductor() -> None:
    case = FAMILIES["vit"]()
    expected = explain(case)
    found = explain(case, torch.compile(case.model))
    assert_same(found, expected, 1e-5)
    assert 0 <= found[0].receipt.faithful <= 1e-5


def exported(strict: bool = False) -> Any:
    return torch.export.export(families.strong(Stack()), (X,), strict=strict)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traced_and_exported_models_are_refused_by_name() -> None:
    model = families.strong(Stack())
    with pytest.raises(ModelError, match=r"the model is a traced or scripted module.*pass the original module"):
        regard.explain(torch.jit.trace(model, X), X, 1)
    model.layers[1] = torch.jit.trace(model.layers[1], X)
    with pytest.raises(ModelError, match=r"the module layers\.1 is a traced or scripted module"):
        regard.explain(model, X, 1)
    with pytest.raises(
        ModelError, match=r"must be an nn.Module, not ExportedProgram; pass the module that it was exported"
    ):
        regard.explain(exported(), X, 1)
    with pytest.raises(
        ModelError, match=r"the model is an exported program.*pass the module that it was exported from"
    ):
        regard.explain(exported().module(), X, 1)
    with pytest.raises(ModelError, match=r"must be an nn.Module, not function"):
        regard.explain(clip, X, 1)


def test_a_model_traced_by_fx_is_read_as_it_calls_the_same_functions() -> None:
    class Straight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + F.scaled_dot_product_attention(self.q(x), self.k(x), x))[:, 0]

    model = families.strong(Straight())
    graph = torch.fx.symbolic_trace(model).eval()
    assert_same([regard.explain(graph, X, 1)], [regard.explain(model, X, 1)], 0.0)


# -- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "at"), [("bert", ["query", "value"]), ("llama", ["q_proj", "v_proj", "down_proj"])])
def test_adapters(name: str, at: list[str]) -> None:
    """LoRA beside the weights, and merged into them; and switched off, where the map is the bare model's."""
    peft = pytest.importorskip("peft")
    case = FAMILIES[name]()
    bare = explain(case)
    config = peft.LoraConfig(r=2, target_modules=at, init_lora_weights=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(copy.deepcopy(case.model), config).eval()
    merged = copy.deepcopy(adapted).merge_and_unload().eval()
    found = explain(case, adapted)
    assert_same(found, explain(case, merged), 1e-4)
    assert found[0].receipt.faithful == 0.0
    with pytest.raises(AssertionError):
        assert_same(found, bare, 1e-2)
    with adapted.disable_adapter():
        assert_same(explain(case, adapted), bare)


# -- quantised --------------------------------------------------------------------------------------------------------


@torch.library.custom_op("regard_tests::int8_linear", mutates_args=())
def int8_linear(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """A kernel that no function mode sees into, as those of quantised models are."""
    return x @ (weight.to(x.dtype) * scale).mT


int8_linear.register_autograd(
    lambda ctx, grad: (grad @ (ctx.weight.to(grad.dtype) * ctx.scale), None, None),
    setup_context=lambda ctx, inputs, output: ctx.__dict__.update(weight=inputs[1], scale=inputs[2]),
)


class Int8Linear(nn.Linear):
    """Weights in 8 bits, with one scale a row."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__(dense.in_features, dense.out_features)
        self.bias = dense.bias
        scale = dense.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((dense.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.regard_tests.int8_linear(x, self.weight, self.scale) + self.bias


def rounded(dense: nn.Linear) -> nn.Module:
    """The weights that the 8 bits stand for, in a plain layer."""
    int8, out = Int8Linear(dense), copy.deepcopy(dense)
    out.weight = nn.Parameter(int8.weight.float() * int8.scale)
    return out


@pytest.mark.parametrize("name", ["vit", "bert", "clip"])
def test_quantised_weights_in_a_kernel_of_their_own(name: str) -> None:
    """A linear layer keeps its rows, whatever kernel it runs: the map is that of the weights the 8 bits stand for."""
    case = FAMILIES[name]()
    found = explain(case, linears(case.model, Int8Linear))
    assert_same(found, explain(case, linears(case.model, rounded)), 1e-4)
    assert found[0].receipt.faithful == 0.0


@pytest.mark.filterwarnings("ignore")
def test_dynamic_quantisation_of_torch_is_refused() -> None:
    """Its kernels pass no gradient."""
    case = FAMILIES["bert"]()
    quantised = torch.ao.quantization.quantize_dynamic(case.model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(
        ModelError, match=r"the module bert\.\S*query is quantised .* pass no gradient; explain the model as"
    ):
        explain(case, quantised)


@pytest.mark.filterwarnings("ignore")
def test_torchao() -> None:
    """Weights only: explained. Activations too: they are rounded without a gradient, and this is told."""
    ao = pytest.importorskip("torchao.quantization")
    case = FAMILIES["bert"]()
    weights, both = copy.deepcopy(case.model), copy.deepcopy(case.model)
    ao.quantize_(weights, ao.Int8WeightOnlyConfig())

    def dense(quantised: nn.Linear) -> nn.Module:
        out = nn.Linear(quantised.in_features, quantised.out_features)
        out.bias, out.weight = quantised.bias, nn.Parameter(quantised.weight.dequantize())
        return out

    assert_same(explain(case, weights), explain(case, linears(weights, dense)), 1e-4)
    ao.quantize_(both, ao.Int8DynamicActivationInt8WeightConfig())
    with pytest.raises(ModelError, match="round their inputs"):
        explain(case, both)


@pytest.mark.filterwarnings("ignore")
def test_bitsandbytes() -> None:
    """Weights and activations in 8 bits, 1 % each; the map is near that of the model as it was."""
    bnb = pytest.importorskip("bitsandbytes")

    def int8(dense: nn.Linear) -> nn.Module:
        out = bnb.nn.Linear8bitLt(dense.in_features, dense.out_features, has_fp16_weights=False)
        out.load_state_dict(dense.state_dict())
        return out.to("cpu")

    case = FAMILIES["bert"]()
    assert_same(explain(case, linears(case.model, int8)), explain(case), 0.1)
