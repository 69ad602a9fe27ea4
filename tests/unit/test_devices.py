"""Precision, devices and wrappers: half precision, frozen, compiled, quantised, adapted, offloaded and sharded models.

Each is explained as the plain model is, or refused by one sentence that says what to do. Generated over a few families.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import regard
from regard.errors import ModelError, NonFinite
from support import families
from support.families import Case

transformers = pytest.importorskip("transformers")
METHODS = ["gae", "rollout", "raw_attention", "attention_grad_cam", "corrected_attention", "input_x_gradient"]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")


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


# -- precision --------------------------------------------------------------------------------------------------------


def assert_close_to_rounded(half: list[regard.Explanation], exact: list[regard.Explanation], bits: int) -> None:
    """A half-precision map against the float32 map of the very same (rounded) weights and inputs.

    What is left is the rounding of activations: each of the some 30 rounded operations on the way (two layers, forward and
    back) is off by at most u = 2^-bits in proportion. If these errors were independent they would add up to sqrt(30) u, about
    5 u; an error that is amplified by attention's exponential and by products of G and A counts several times more. So: the
    direction within 1 - cos <= (16 u)² / 2, and no token off by more than 32 u of the largest score.
    """
    u = 2.0**-bits
    for h, e in zip(half, exact, strict=True):
        a, b = (torch.cat([x.scores[s].flatten().cpu() for s in e.scores]) for x in (h, e))
        assert a.dtype == b.dtype == torch.float32
        cosine = float(F.cosine_similarity(a, b, 0))
        assert 1 - cosine <= (16 * u) ** 2 / 2, f"{h.method}: cosine {cosine}"
        assert float((a - b).abs().max()) <= 32 * u * float(b.abs().max()), h.method
        assert h.receipt.faithful == 0.0


@each_family
def test_bfloat16(name: str) -> None:
    """bfloat16 keeps 8 significant bits."""
    case = FAMILIES[name]()
    case.model.bfloat16()
    inputs = cast(case.inputs, torch.bfloat16)
    half = explain(case, inputs=inputs)
    case.model.float()
    assert_close_to_rounded(half, explain(case, inputs=cast(inputs, torch.float32)), 8)


@each_family
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_float16(name: str, device: str) -> None:
    """float16 keeps 11 significant bits."""
    case = FAMILIES[name]()
    case.model.half().to(device)
    inputs = {k: v.to(device) for k, v in cast(case.inputs, torch.float16).items()}
    half = explain(case, inputs=inputs)
    case.model.float()
    assert_close_to_rounded(half, explain(case, inputs=cast(inputs, torch.float32)), 11)


@each_family
def test_float64(name: str) -> None:
    case = FAMILIES[name]()
    expected = explain(case)
    case.model.double()
    assert_same(explain(case, inputs=cast(case.inputs, torch.float64)), expected, 1e-3)


@CUDA
@each_family
def test_cpu_is_cuda(name: str) -> None:
    case = FAMILIES[name]()
    expected = explain(case)
    case.model.cuda()
    found = explain(case, inputs={k: v.cuda() for k, v in case.inputs.items()})
    assert all(s.is_cuda for e in found for s in e.scores.values())
    assert_same(found, expected, 1e-4)


@each_family
def test_autocast_around_the_call(name: str) -> None:
    """The run, and every check of it, also one that is run later, is in the caller's precision."""
    case = FAMILIES[name]()
    with torch.autocast("cpu", torch.bfloat16):
        inside = explain(case, measure="lazy")
    assert inside[0].receipt.faithful == 0.0
    plain = explain(case, measure="lazy")
    with torch.autocast("cpu", torch.bfloat16):
        assert plain[0].receipt.faithful <= 1e-6
    a, b = (torch.cat([s.flatten() for s in e[0].scores.values()]) for e in (inside, plain))
    assert float(F.cosine_similarity(a, b, 0)) > 0.99
    assert not torch.equal(a, b)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_that_are_none(bad: float, dtype: torch.dtype) -> None:
    case = FAMILIES["bert"]()
    with torch.no_grad():
        case.model.bert.encoder.layer[1].output.dense.weight[0, 0] = bad
    with pytest.raises(NonFinite, match="not a finite number"):
        explain(case, case.model.to(dtype))


def test_an_overflow_of_half_precision_is_told() -> None:
    case = FAMILIES["bert"]()
    with torch.no_grad():
        case.model.classifier.weight.mul_(1e6)
    with pytest.raises(NonFinite, match="not a finite number"):
        explain(case, case.model.half())


# -- what gradients need ----------------------------------------------------------------------------------------------


@each_family
def test_frozen_parameters(name: str) -> None:
    """Nothing asks for a gradient: ids, pixels and embeddings are explained all the same, and stay as they are."""
    case = FAMILIES[name]()
    expected = explain(case)
    case.model.requires_grad_(False)
    assert_same(explain(case), expected)
    assert not any(p.requires_grad for p in case.model.parameters())
    assert not any(t.requires_grad for t in case.inputs.values())


@each_family
def test_no_grad_around_the_call(name: str) -> None:
    case = FAMILIES[name]()
    expected = explain(case)
    with torch.no_grad():
        assert_same(explain(case), expected, 0.0)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_embeddings_in_place_of_ids(name: str, frozen: bool) -> None:
    case = FAMILIES[name]()
    expected = explain(case)
    case.model.requires_grad_(not frozen)
    inputs = dict(case.inputs)
    inputs["inputs_embeds"] = case.model.get_input_embeddings()(inputs.pop("input_ids")).detach()
    for f, e in zip(explain(case, inputs=inputs), expected, strict=True):
        scores = dict(e.scores)
        e.scores = {"inputs_embeds" if k == "input_ids" else k: v for k, v in scores.items()}
        assert_same([f], [e])


def inside_inference_mode(model: nn.Module) -> nn.Module:
    """The same model, as it is when made or loaded inside torch.inference_mode()."""
    with torch.inference_mode():
        return copy.deepcopy(model)


@each_family
def test_inference_mode(name: str) -> None:
    """Around the call, and for parameters that were made in it: refused. For inputs that were made in it: taken."""
    case = FAMILIES[name]()
    with torch.inference_mode():
        inputs = {k: v.clone() for k, v in case.inputs.items()}
        for call in (regard.explain, regard.record, regard.inspect):
            with pytest.raises(ModelError, match=r"inside torch\.inference_mode\(\); call this outside"):
                call(case.model, case.inputs, case.target)
    assert_same(explain(case, inputs=inputs), explain(case), 0.0)
    made = inside_inference_mode(case.model)
    with pytest.raises(ModelError, match=r"was made inside torch\.inference_mode\(\).* make or load the model"):
        explain(case, made)


def test_a_buffer_made_in_inference_mode() -> None:
    case = FAMILIES["bert"]()
    with torch.inference_mode():
        case.model.bert.embeddings.position_ids = case.model.bert.embeddings.position_ids.clone()
    with pytest.raises(ModelError, match=r"the model's bert\.embeddings\.position_ids was made inside"):
        explain(case)


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
    [*((n, whole) for n in FAMILIES), *((n, h) for n in ("vit", "bert") for h in (in_place, a_part, a_part_in_place))],
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


def linears(model: nn.Module, change: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """A copy whose linear layers are changed."""
    model = copy.deepcopy(model)
    for path, module in [*model.named_modules()]:
        if type(module) is nn.Linear and module.bias is not None:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, change(module))
    return model.eval()


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


# -- wrapped, offloaded, sharded --------------------------------------------------------------------------------------


@each_family
def test_data_parallel(name: str) -> None:
    case = FAMILIES[name]()
    expected = explain(case)
    assert_same(explain(case, nn.DataParallel(case.model)), expected, 0.0)
    with pytest.raises(ModelError, match="train mode"):
        explain(case, nn.DataParallel(case.model.train()))


@contextmanager
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
@pytest.mark.filterwarnings("ignore")
def test_distributed_wrappers() -> None:
    """DistributedDataParallel is unwrapped; fully_shard puts its parameters in place while a module runs."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    case = FAMILIES["vit"]()
    expected = explain(case)
    with one_process():
        assert_same(explain(case, nn.parallel.DistributedDataParallel(case.model)), expected, 0.0)
        mesh, sharded = init_device_mesh("cpu", (1,)), copy.deepcopy(case.model)
        fully_shard(sharded, mesh=mesh)
        assert_same(explain(case, sharded.eval()), expected, 0.0)
    flat = FullyShardedDataParallel.__new__(FullyShardedDataParallel)  # to make one takes an accelerator
    nn.Module.__init__(flat)
    flat._fsdp_wrapped_module = Stack()
    with pytest.raises(ModelError, match=r"sharded by FullyShardedDataParallel.*or use fully_shard"):
        regard.explain(flat, X, 1)


def offloaded(model: nn.Module, how: str, folder: Any) -> nn.Module:
    accelerate = pytest.importorskip("accelerate")
    if how == "cpu":
        return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    if how == "disk":
        return accelerate.disk_offload(model, folder, execution_device=torch.device("cpu"))
    children = [n for n, m in model.named_children() if [*m.parameters()]]
    places = {n: "disk" if i % 2 else "cpu" for i, n in enumerate(children)}
    places |= {n: "cpu" for n, _ in model.named_parameters(recurse=False)}
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=folder, force_hooks=True)


@pytest.mark.filterwarnings("ignore")
def test_every_method_under_another_default_dtype() -> None:
    case, names = FAMILIES["vit"](), [m.name for m in regard.methods() if m.name != "random"]
    few = {"steps": 2, "samples": 2}
    expected = regard.explain(case.model, case.inputs, case.target, names, **few)
    torch.set_default_dtype(torch.float64)
    try:
        found = regard.explain(case.model, case.inputs, case.target, names, **few)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(found, expected, strict=True):
        size = max(float(v.abs().max()) for v in b.scores.values())
        for name, scores in b.scores.items():
            assert a.scores[name].dtype == torch.float32, a.method
            assert float((a.scores[name] - scores).abs().max()) <= 1e-4 * size + 1e-7, a.method


@pytest.mark.parametrize(
    ("name", "how"), [*((n, "cpu") for n in FAMILIES), *((n, h) for n in ("vit", "t5") for h in ("disk", "dispatched"))]
)
def test_offloaded_weights(name: str, how: str, tmp_path: Any) -> None:
    """Hooks put the weights in place while a module runs, as new tensors. Names and streams stay, and so do the hooks."""
    case = FAMILIES[name]()
    expected = explain(case)
    model = offloaded(case.model, how, tmp_path)
    with torch.no_grad():
        model(**case.inputs)  # a run of its own unties weights
    before = {n: (m.forward, getattr(m, "_hf_hook", None)) for n, m in model.named_modules()}
    places = {n: p.device for n, p in model.named_parameters()}
    assert torch.device("meta") in places.values() or how == "dispatched"
    assert_same(explain(case, model), expected, 1e-6)
    assert before == {n: (m.forward, getattr(m, "_hf_hook", None)) for n, m in model.named_modules()}
    assert places == {n: p.device for n, p in model.named_parameters()}
    assert not any(hooks(model))


@pytest.mark.filterwarnings("ignore")
def test_a_reader_of_an_offloaded_model() -> None:
    accelerate = pytest.importorskip("accelerate")
    reader = regard.load("zoo/bert-sentiment")
    expected = reader.explain("A fine film.", target="positive").scores["input_ids"]
    offloaded_model = accelerate.cpu_offload(copy.deepcopy(reader.model), execution_device=torch.device("cpu"))
    again = regard.load(offloaded_model, processor=reader.processor)
    torch.testing.assert_close(again.explain("A fine film.", target="positive").scores["input_ids"], expected)


def test_a_model_without_values() -> None:
    case = FAMILIES["bert"]()
    with pytest.raises(ModelError, match="on the meta device, so it has no values; load the weights first"):
        explain(case, case.model.to("meta"))


@each_family
def test_defaults_of_the_user_s(name: str) -> None:
    """Another default device or dtype is the model's to use, and not ours; `meta` stands for a device that is not here."""
    case = FAMILIES[name]()
    expected = explain(case)
    with torch.device("meta"):
        inputs_made_elsewhere_would_fail = torch.zeros(1)
        assert inputs_made_elsewhere_would_fail.is_meta
        if name == "vit":  # the others make their masks and positions on the default device, as their user asks
            assert_same(explain(case), expected, 0.0)
    torch.set_default_dtype(torch.float64)
    try:
        if name in ("vit", "bert"):
            assert_same(explain(case), expected, 1e-5)
    finally:
        torch.set_default_dtype(torch.float32)
